"""Image files as arrays: one image, or all pages of a file."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.services.checks import check_options, check_tuple, within
from jaxnet.services.extras import extra
from jaxnet.services.files import readable

FORMATS = ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"]  # Pillow's names; PGM is read as PPM
CHANNELS = {1: "L", 3: "RGB"}  # number of channels -> Pillow's name
Size = int | tuple[int, int]
Range = tuple[float, float]


def read_image(
    file: str | Path,
    size: Size | None,
    *,
    channels: int = 3,
    crop: bool = True,
    value_range: Range | None = None,
) -> np.ndarray:
    """Read one image file as an array.

    For a net, `image[None]` is a batch of one. The image is rotated according to its EXIF
    orientation, cropped at the center to the aspect ratio of `size`, and resized; transparent
    pixels become white.

    Args:
      file: BMP, GIF (its first image), JPEG, PNG, PGM, PPM, TIFF (its first page) or WebP file; "~"
        is the home folder. For all pages, use `read_pages`.
      size: Size (height, width) in pixels, or one number for both; None keeps that of the file.
      channels: Number of channels: 3 for red, green and blue; 1 for grayscale.
      crop: Whether to crop to the aspect ratio of `size`. Pass False for an image with boxes: it is
        stretched as a whole, so boxes in fractions of the image stay where they are.
      value_range: Values (low, high) that become 0 and 1 in an image of 16 or 32 bits or of floats,
        which must be gray: (0, 65535) for all of 16 bits, (0, 4095) for a camera of 12. Other
        values become less than 0 or more than 1; clip them if they should not. Images of 8 bits
        are divided by 255, so a folder may have both.

    Returns:
      (height, width, channels) float32, in [0, 1] for images of 8 bits.

    Raises:
      ImportError: If Pillow is not installed.
      FileNotFoundError: If the file does not exist.
      IsADirectoryError: If `file` is a directory.
      OSError: If the file cannot be read.
      ValueError: If `size` is below 1, or if `channels` is neither 1 nor 3.
      ValueError: If the file has more than 8 bits per channel, and `value_range` is missing or the
        file has colors, of which Pillow reads 8 bits.
      ValueError: If the file is not an image, is truncated, or has far too many pixels; the message
        names the file.

    Example:
      >>> import tempfile
      >>> from PIL import Image
      >>> file = Path(tempfile.mkdtemp()) / "sky.png"
      >>> Image.new("RGB", (30, 20), "blue").save(file)
      >>> read_image(file, (4, 5)).shape, read_image(file, 2)[0, 0].tolist()
      ((4, 5, 3), [0.0, 0.0, 1.0])

      A camera of 12 bits:

      >>> Image.fromarray(np.full((20, 30), 1024, np.uint16)).save(file)
      >>> read_image(file, 2, channels=1, value_range=(0, 4096))[0, 0].tolist()
      [0.25]
    """
    reading = _Reading("read_image", channels, crop, value_range)
    reading.check(1 if size is None else size)
    return _read(reading, file, size, every_page=False)[0]


def read_pages(
    file: str | Path,
    size: Size | None = None,
    *,
    channels: int = 1,
    crop: bool = True,
    value_range: Range | None = None,
) -> np.ndarray:
    """Read all pages of a TIFF file, such as the slices of a volume, as one array.

    For a net, `pages[None]` is a batch of one volume. The frames of a GIF, PNG or WebP file are
    pages too, and a file with one image has one page.

    Args:
      file: File, as in `read_image`.
      size: Size (height, width) of the pages; by default they keep theirs, which must be equal.
      channels, crop, value_range: Options of `read_image`, here with one channel by default.
        Labels in 8 bits are `np.rint(255 * pages)`.

    Returns:
      (pages, height, width, channels) float32, in [0, 1] for images of 8 bits.

    Raises:
      ValueError: If `size` is not given and the pages differ in size.
      ImportError, OSError, ValueError: As in `read_image`.

    Example:
      >>> import tempfile
      >>> from PIL import Image
      >>> file = Path(tempfile.mkdtemp()) / "scan.tif"
      >>> slices = [Image.fromarray(np.full((5, 4), i * 100, np.uint16)) for i in range(3)]
      >>> slices[0].save(file, save_all=True, append_images=slices[1:])
      >>> volume = read_pages(file, value_range=(0, 200))
      >>> volume.shape, volume[:, 0, 0, 0].tolist()
      ((3, 5, 4, 1), [0.0, 0.5, 1.0])
    """
    reading = _Reading("read_pages", channels, crop, value_range)
    reading.check(1 if size is None else size)
    pages = _read(reading, file, size, every_page=True)
    shapes = list(dict.fromkeys(page.shape[:2] for page in pages))
    if len(shapes) > 1:
        raise ValueError(
            f"read_pages: the pages of {file} have different sizes (height, width), "
            f"{', '.join(map(str, shapes[:4]))}. Pass size={shapes[0]}"
        )
    return np.stack(pages)


class _Reading(NamedTuple):
    """How images are read.

    Fields:
      who: Name of the function, for messages.
      channels, crop, value_range: Options of `read_image`.
    """

    who: str
    channels: int
    crop: bool
    value_range: Range | None

    def check(self, size: Size) -> None:
        check_options(self.who, crop=self.crop)
        check_size(self.who, size, self.channels)
        if self.value_range is None:
            return
        check_tuple(self.who, "value_range", self.value_range, "(low, high)")
        for i, value in enumerate(self.value_range):
            within(self.who, f"value_range[{i}]", value, "(-inf, inf)")
        low, high = self.value_range
        if low >= high:
            raise ValueError(
                f"{self.who}: value_range[0] must be below value_range[1], got {low} and {high}"
            )


class _DeepImage(Exception):
    """An image of more than 8 bits per channel that cannot be read; says why, and what to do."""


def _read(
    reading: _Reading, file: str | Path, size: Size | None, *, every_page: bool
) -> list[np.ndarray]:
    """Read the first or every page of a file, (height, width, channels) each."""
    pil = extra("PIL.Image", "Pillow", reading.who)
    file = readable(reading.who, file, "file")
    pages = []
    try:
        with pil.open(file, formats=FORMATS) as opened:  # other formats may run programs
            pages.append(_pixels(reading, opened, size))
            for number in range(1, getattr(opened, "n_frames", 1) if every_page else 1):
                opened.seek(number)
                pages.append(_pixels(reading, opened, size))
    except _DeepImage as error:
        raise ValueError(
            f"{reading.who}: {file} has more than 8 bits per channel {error}"
        ) from None
    except Exception as error:  # Pillow raises many kinds for a broken file
        raise ValueError(
            f"{reading.who}: {file} cannot be read as an image of the formats {', '.join(FORMATS)} "
            f"({error})"
        ) from error
    return pages


def _pixels(reading: _Reading, opened: Any, size: Size | None) -> np.ndarray:
    """Return the pixels of the current page of an open image, (height, width, channels)."""
    pil = extra("PIL.Image", "Pillow", reading.who)
    ops = extra("PIL.ImageOps", "Pillow", reading.who)
    deep = _deep(opened)
    image = ops.exif_transpose(opened)
    if deep:
        scaled = _scaled(reading, image, deep)
        pixels = np.asarray(_resized(reading, scaled, size))
        low, high = scaled.getextrema()
        pixels = pixels.clip(low, high)  # a cubic interpolation overshoots
        return np.repeat(pixels[..., None], reading.channels, -1)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = pil.alpha_composite(pil.new("RGBA", image.size, "white"), image)
    image = _resized(reading, image.convert(CHANNELS[reading.channels]), size)
    pixels = np.asarray(image, np.float32) / 255
    return pixels.reshape(*pixels.shape[:2], reading.channels)  # Pillow drops a single channel


def _resized(reading: _Reading, image: Any, size: Size | None) -> Any:
    if size is None:
        return image
    height, width, _ = check_size(reading.who, size, reading.channels)
    ops = extra("PIL.ImageOps", "Pillow", reading.who)
    if reading.crop:
        return ops.fit(image, (width, height))
    return image.resize((width, height))


def _scaled(reading: _Reading, image: Any, deep: str) -> Any:
    """Return an image of more than 8 bits as one of floats, in which `value_range` is [0, 1]."""
    if not image.mode.startswith(("I", "F")):
        raise _DeepImage(
            f"and several channels (mode {deep}), of which Pillow reads 8 bits. Save each channel "
            "as a gray image, or read it with another package and scale it to [0, 1]"
        )
    values = np.asarray(image).astype(np.float64)
    if reading.value_range is None:
        low, high = values.min(), values.max()
        example = "(0, 65535)" if image.mode.startswith("I;16") else f"({low:.6g}, {high:.6g})"
        raise _DeepImage(
            f"(mode {deep}), here {low:.6g} to {high:.6g}. Pass value_range=(low, high), the "
            f"values that become 0 and 1, such as {example}"
        )
    low, high = reading.value_range
    pil = extra("PIL.Image", "Pillow", reading.who)
    return pil.fromarray(((values - low) / (high - low)).astype(np.float32))


def _deep(opened: Any) -> str:
    """Return the mode if it has more than 8 bits per channel, which Pillow truncates; else ""."""
    if opened.mode.startswith(("I", "F")):
        return opened.mode
    for tile in opened.tile:
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        for arg in args:
            wide = isinstance(arg, str) and re.search(r";(16|32|64)[A-Z]", arg)
            if wide or (tile[0] == "ppm" and isinstance(arg, int) and arg > 255):
                return str(arg)
    return ""


def check_size(who: str, size: Any, channels: Any) -> tuple[int, int, int]:
    """Return the checked (height, width, channels) of an image.

    Example:
      >>> check_size("read_image", 8, 3)
      (8, 8, 3)
    """
    both: Any = size if isinstance(size, tuple | list) else (size, size)
    are_integers = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in both)
    if not are_integers or len(both) != 2 or min(both) < 1:
        raise ValueError(
            f"{who}: size must be integers of at least 1, (height, width) or one for both, "
            f"got {size!r}"
        )
    if type(channels) is not int or channels not in CHANNELS:
        raise ValueError(f"{who}: channels must be 3 (RGB) or 1 (grayscale), got {channels!r}")
    return int(both[0]), int(both[1]), channels
