"""Images of one's own: one folder a class."""

import operator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.progress import progress_bar

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
CHANNELS = {1: "L", 3: "RGB"}  # number of channels -> Pillow's name


class ImageFolder(NamedTuple):
    """What lies in a folder of images.

    Fields:
      images: (examples, height, width, channels) float32 in [0, 1].
      labels: (examples,) int32, places in `classes`.
      classes: the names of the class folders, sorted.
      files: of each example, to look up one that was read wrongly.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: list[str]
    files: list[Path]


def image_folder(
    folder: str | Path, size: int | tuple[int, int], *, channels: int = 3
) -> ImageFolder:
    """All images of folder/CLASS/..., brought to one size, with their labels.

    Classes are numbered by the order of their names, and the images of a class stand together:
    `jaxnet.data.split(..., labels=labels)` takes parts of each class. All of it is in memory:
    10,000 RGB images of 224x224 pixels are 6 GB. Hidden files and folders, and files that are no
    images by their suffix, are left out.

    Args:
      folder: that holds the class folders.
      size, channels: see `read_image`.

    Raises:
      ImportError: where Pillow is not installed.
      ValueError: for no folder, no class folders, a class without images, and as `read_image`.

    Example:
      >>> import tempfile
      >>> from PIL import Image
      >>> root = Path(tempfile.mkdtemp())
      >>> for name, color in (("sky", "blue"), ("grass", "green")):
      ...     (root / name).mkdir()
      ...     Image.new("RGB", (30, 20), color).save(root / name / "1.png")
      >>> images, labels, classes, files = image_folder(root, size=8)
      >>> images.shape, labels.tolist(), classes, files[0].name
      ((2, 8, 8, 3), [0, 1], ['grass', 'sky'], '1.png')
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ValueError(f"image_folder: there is no folder {root}")
    classes = sorted(path.name for path in root.iterdir() if path.is_dir() and _shown(path, root))
    if not classes:
        raise ValueError(
            f"image_folder: needs one folder a class inside {root}, such as {root}/cat/1.png and "
            f"{root}/dog/2.png; it has {_listed(root)}"
        )
    files, labels = [], []
    for label, name in enumerate(classes):
        here = root / name
        found = sorted(f for f in here.rglob("*") if _is_image(f) and _shown(f, root))
        if not found:
            raise ValueError(
                f"image_folder: class {name!r} has no images ({', '.join(sorted(SUFFIXES))}); "
                f"{here} has {_listed(here)}"
            )
        files += found
        labels += [label] * len(found)
    images = np.empty((len(files), *_shape(size, channels)), np.float32)
    with progress_bar(len(files), root.name, unit="image") as bar:
        for i, file in enumerate(files):
            images[i] = read_image(file, size, channels=channels)
            bar.update()
    return ImageFolder(images, np.array(labels, np.int32), classes, files)


def read_image(file: str | Path, size: int | tuple[int, int], *, channels: int = 3) -> np.ndarray:
    """One image file as an array; for a net, `image[None]` is a batch of one.

    It is turned as the camera was held, its middle is cut to the proportions of `size` and resized,
    and what is transparent becomes white.

    Args:
      file: of any kind that Pillow reads, with 8 bits a channel.
      size: (height, width) in pixels, or one number for both.
      channels: 3 for red, green and blue; 1 for grey.

    Returns:
      (height, width, channels) float32 in [0, 1].

    Raises:
      ImportError: where Pillow is not installed.
      ValueError: for sizes below 1, other channels, and a file that is no image, is cut off, or has
        more than 8 bits a channel; the message names it.

    Example:
      >>> import tempfile
      >>> from PIL import Image
      >>> file = Path(tempfile.mkdtemp()) / "sky.png"
      >>> Image.new("RGB", (30, 20), "blue").save(file)
      >>> read_image(file, (4, 5)).shape, read_image(file, 2)[0, 0].tolist()
      ((4, 5, 3), [0.0, 0.0, 1.0])
    """
    height, width, channels = _shape(size, channels)
    pil, ops = _import_pillow()
    try:
        with pil.open(file) as opened:
            if opened.mode.startswith(("I", "F")):
                raise ValueError(
                    f"read_image: {file} has more than 8 bits a channel (mode {opened.mode}); "
                    "save it with 8, or read it with PIL.Image.open and scale it to [0, 1]"
                )
            image = ops.exif_transpose(opened)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = pil.alpha_composite(pil.new("RGBA", image.size, "white"), image)
            image = ops.fit(image.convert(CHANNELS[channels]), (width, height))
    except OSError as error:
        raise ValueError(f"read_image: {file} cannot be read as an image ({error})") from error
    pixels = np.asarray(image, np.float32) / 255
    return pixels.reshape(height, width, channels)  # (height, width) where it is grey


def _shape(size: int | tuple[int, int], channels: int) -> tuple[int, int, int]:
    """That of an image of this size, where there is one."""
    both: Any = (size, size) if np.ndim(size) == 0 else size
    try:
        height, width = map(operator.index, both)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise ValueError(
            "read_image: size must be whole numbers from 1 on, (height, width) or one for both, "
            f"got {size!r}"
        )
    if channels not in CHANNELS:
        raise ValueError(f"read_image: channels must be 3 (RGB) or 1 (grey), got {channels}")
    return height, width, channels


def _shown(path: Path, root: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(root).parts)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _listed(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "") or "nothing"


def _import_pillow() -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(
            "read_image: needs Pillow; install the extra jaxnet-toolkit[data]: in a checkout, "
            'pip install -e ".[data]"'
        ) from error
    return Image, ImageOps
