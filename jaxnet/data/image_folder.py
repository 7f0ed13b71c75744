"""Images of your own, in one folder per class."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.data.image_file import check_size, read_image
from jaxnet.services.checks import check_list
from jaxnet.services.files import file_path, is_folder
from jaxnet.services.progress import progress_bar

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class ImageFolder(NamedTuple):
    """The images of a folder.

    Fields:
      images: Images (examples, height, width, channels), float32 in [0, 1].
      labels: Indices (examples,) in `classes`, int32.
      classes: Names of the class folders, sorted.
      files: Files of the examples, to find a misclassified one.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: list[str]
    files: list[Path]


def image_folder(
    folder: str | Path,
    size: int | tuple[int, int],
    *,
    channels: int = 3,
    classes: Sequence[str] | None = None,
    value_range: tuple[float, float] | None = None,
) -> ImageFolder:
    """Load all images of folder/CLASS/..., resized to one size, with their labels.

    Classes are numbered in the order of their names. For a test folder, pass the `classes` of the
    training folder: without them, a class that is missing would shift the labels of those after it.

    The images are sorted by class; use `jn.data.split(..., labels=labels)` for a stratified split.
    All images are in memory: 10,000 RGB images of 224x224 pixels are 6 GB. Hidden files and
    folders, and files without the suffix of an image, are ignored.

    Args:
      folder: Folder that contains the class folders.
      size, channels, value_range: Options of `read_image`.
      classes: Names of the classes in the order of their labels. A class may then lack a folder or
        images.

    Returns:
      A named tuple of `images` (examples, height, width, channels) float32 in [0, 1]; `labels`
      (examples,) int32, indices in `classes`; `classes`, the names of the class folders; and
      `files`, one path per example.

    Raises:
      ImportError: If Pillow is not installed.
      ValueError: If `folder` does not exist or has no class folders.
      ValueError: If a class has no images, or if `classes` lacks the name of a folder.
      OSError, TypeError, ValueError: As in `read_image`.

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
    root = file_path("image_folder", folder, "folder")
    if not is_folder("image_folder", root):
        raise ValueError(
            f"image_folder: {root} is not a folder. Pass a folder with one subfolder per class"
        )
    folders = _class_folders(root)
    there = sorted(folders)
    names = there if classes is None else check_list("image_folder", "classes", classes, "names")
    if isinstance(classes, set | frozenset) or len(set(names)) < len(names):
        raise ValueError(f"image_folder: classes must be different names, in order, got {names}")
    names = [_composed(name) for name in names]
    unknown = [name for name in there if name not in names]
    if unknown:
        raise ValueError(
            f"image_folder: {root} has folders that are not among classes: {', '.join(unknown)}. "
            f"classes are {', '.join(map(str, names))}"
        )
    if not there:
        raise ValueError(
            f"image_folder: expected one folder per class in {root}, such as {root}/cat/1.png and "
            f"{root}/dog/2.png; it has {_listed(root)}"
        )
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        class_folder = folders[name] if name in folders else root / name
        pictures = _pictures(class_folder, root)
        if not pictures and classes is None:
            raise ValueError(
                f"image_folder: class {name!r} has no images ({', '.join(sorted(SUFFIXES))}); "
                f"{class_folder} has {_listed(class_folder)}"
            )
        files += pictures
        labels += [label] * len(pictures)
    images = np.empty((len(files), *check_size("read_image", size, channels)), np.float32)
    with progress_bar(len(files), root.name, unit="image") as bar:
        for i, file in enumerate(files):
            images[i] = read_image(file, size, channels=channels, value_range=value_range)
            bar.update()
    return ImageFolder(images, np.array(labels, np.int32), names, files)


def _class_folders(root: Path) -> dict[str, Path]:
    """Return the folders of classes by name; a name with accents is one, however it is written."""
    folders: dict[str, Path] = {}
    for path in sorted(path for path in root.iterdir() if path.is_dir() and _shown(path, root)):
        name = _composed(path.name)
        if name in folders:
            raise ValueError(
                f"image_folder: {root} has two folders whose names look alike, "
                f"{ascii(folders[name].name)} and {ascii(path.name)}; put their images in one"
            )
        folders[name] = path
    return folders


def _composed(name: Any) -> Any:
    """Return a name with each accent and its letter as one character.

    macOS and some archives write them as two.
    """
    return unicodedata.normalize("NFC", name) if isinstance(name, str) else name


def _pictures(folder: Path, root: Path) -> list[Path]:
    """Return the images below a folder in order, without hidden ones."""
    pictures = []
    for file in folder.rglob("*"):
        if file.is_symlink() and file.is_dir():
            raise ValueError(f"image_folder: {file} is a link to a folder; move the images here")
        if file.suffix.lower() in SUFFIXES and file.is_file() and _shown(file, root):
            pictures.append(file)
    # By parts: paths of Windows compare as if all letters were small.
    return sorted(pictures, key=lambda file: file.parts)


def _shown(path: Path, root: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(root).parts)


def _listed(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    if len(names) > 5:
        return f"{', '.join(names[:5])} and {len(names) - 5} more"
    return ", ".join(names) or "nothing"
