"""Pictures as a published net takes them: resized, cropped, scaled and normalized."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.data import read_image
from jaxnet.services.extras import extra

WHO = "processor"
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers
LARGEST = 2**27  # pixels of a resized picture
Size = tuple[int, int]  # (height, width)


class Pictures(NamedTuple):
    """What turns pictures into the input of a net, see `jaxnet.pretrained.processor`.

    Call it with a picture or a list of them. A file is one of those of `jn.data.read_image`; an
    array (height, width, 3) holds integers of 8 bits, or floats in [0, 1], as `read_image` returns.
    Every picture becomes red, green and blue; transparent pixels become white.

    Fields:
      size: Size (height, width) to which a picture is stretched, or the length of its shorter side;
        None keeps its size.
      resample: Filter of Pillow that resizes.
      crop: Size (height, width) that is cut out at the center, with zeros around a smaller picture;
        None is all of it.
      scale: Factor of the values 0 to 255; None is 1.
      mean, std: Numbers of each channel, which are subtracted, and by which the difference is
        divided; None leaves both out.

    Example:
      >>> pictures = Pictures(size=(2, 2), scale=1 / 255)
      >>> pictures(np.full((4, 6, 3), 51, np.uint8))[0, 0]
      array([[0.2, 0.2, 0.2],
             [0.2, 0.2, 0.2]], dtype=float32)
    """

    size: Size | int | None = None
    resample: str = "bilinear"
    crop: Size | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __call__(self, pictures: Any) -> np.ndarray:
        """Return the input of a net, (pictures, height, width, 3) float32.

        Raises:
          OSError: If a file is missing or cannot be read.
          ValueError: If a file is not a picture, or an array has another form.
          ValueError: If the pictures differ in size after that.
        """
        several = isinstance(pictures, list | tuple) or getattr(pictures, "ndim", 0) == 4
        inputs = [self._input(one) for one in (pictures if several else [pictures])]
        if not inputs:
            raise ValueError(f"{WHO}: needs at least one picture, got none")
        shapes = list(dict.fromkeys(x.shape for x in inputs))
        if len(shapes) > 1:
            raise ValueError(
                f"{WHO}: the pictures have different sizes at the end, (height, width, channels) "
                f"{', '.join(map(str, shapes[:4]))}. Pass them one at a time"
            )
        return np.stack(inputs)

    def _input(self, picture: Any) -> np.ndarray:
        """Return one picture as the net takes it, (height, width, 3)."""
        pixels = _pixels(picture)
        if self.size is not None:
            pixels = _resized(pixels, self.size, FILTERS.index(self.resample))
        if self.crop is not None:
            for axis, length in enumerate(self.crop):
                pixels = _centered(pixels, length, axis)
        x = pixels.astype(np.float32)
        if self.scale is not None:
            x = (pixels.astype(np.float64) * self.scale).astype(np.float32)
        if self.mean is not None and self.std is not None:
            mean, std = (np.array(numbers, np.float32) for numbers in (self.mean, self.std))
            x = (x - mean) / std
        return x


def _pixels(picture: Any) -> np.ndarray:
    """Return a picture as an array (height, width, 3) of 8 bits."""
    is_file = isinstance(picture, str | Path)
    values = read_image(picture, None) if is_file else np.asarray(picture)
    if values.ndim != 3 or values.shape[-1] != 3 or 0 in values.shape:
        advice = ""
        if values.ndim == 3 and values.shape[0] == 3:
            advice = ". Put the channels last: np.moveaxis(picture, 0, -1)"
        raise ValueError(
            f"{WHO}: expected a file or an array (height, width, 3), got "
            f"{_described(values)}{advice}"
        )
    if values.dtype == np.uint8:
        return values
    inside = values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1
    if not inside:  # also NaN
        raise ValueError(
            f"{WHO}: an array must hold integers of 8 bits (np.uint8), or floats in [0, 1], got "
            f"{_described(values)} from {values.min()} to {values.max()}"
        )
    return np.rint(255 * values.astype(np.float64)).astype(np.uint8)


def _described(values: np.ndarray) -> str:
    return f"{values.dtype} {values.shape}"


def _resized(pixels: np.ndarray, size: Size | int, number: int) -> np.ndarray:
    """Return a picture of another size, by one of Pillow's filters."""
    pil = extra("PIL.Image", "Pillow", WHO)
    height, width = size if isinstance(size, tuple) else _kept_aspect(pixels.shape[:2], size)
    if height * width > LARGEST:
        raise ValueError(
            f"{WHO}: a picture of size {pixels.shape[:2]} would become one of {height, width}"
        )
    return np.array(pil.fromarray(pixels).resize((width, height), number))


def _kept_aspect(size: Sequence[int], shorter: int) -> Size:
    """Return the size of a picture whose shorter side gets a length.

    Example:
      >>> _kept_aspect((300, 401), 224)
      (224, 299)
    """
    height, width = size
    if width <= height:
        return int(shorter * height / width), shorter
    return shorter, int(shorter * width / height)


def _centered(pixels: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Return the middle of an axis; a shorter one gets zeros on both sides.

    Example:
      >>> _centered(np.arange(1, 6), 2, 0), _centered(np.arange(1, 4), 6, 0)
      (array([2, 3]), array([0, 0, 1, 2, 3, 0]))
    """
    missing = length - pixels.shape[axis]
    if missing <= 0:
        start = -missing // 2
        return pixels.take(range(start, start + length), axis)
    before = (missing + 1) // 2
    around = [(0, 0)] * pixels.ndim
    around[axis] = before, missing - before
    return np.pad(pixels, around)
