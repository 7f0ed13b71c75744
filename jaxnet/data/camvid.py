"""CamVid: road scenes with a class per pixel."""

from pathlib import Path

import numpy as np

from jaxnet.data import tfds
from jaxnet.data.builders.camvid import CLASSES as CLASSES
from jaxnet.typing import Pair

VOID = 11

# The usual colors, red, green and blue, in the order of CLASSES.
COLORS = np.array([
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192), (0, 0, 0),
], np.uint8)  # fmt: skip


def camvid(
    *, data_dir: str | Path | None = None, download: bool = False
) -> tuple[Pair, Pair, Pair]:
    """Load 701 road scenes of 120x160 pixels, each pixel with one of 11 classes or void.

    The usual split has 367 scenes for training, 101 for validation and 233 for test. The splits
    come from different drives in a car, so their class frequencies differ.

    The images come from the repository of SegNet (187 MB, CC BY-NC 4.0: personal and research use).
    They are scaled down when they are prepared, see `jaxnet.data.prepare`; compare results only at
    this size.

    Args:
      data_dir: Folder of the datasets, see `tfds.load`.
      download: Whether to download missing data, see `tfds.load`.

    Returns:
      (train, validation, test), each (images, masks): images (n, 120, 160, 3) float32 in [0, 1];
      masks (n, 120, 160) int32, 0 to 10, and 11 for
        unlabeled pixels; `from jaxnet.data.camvid import CLASSES` has the names.

    Raises:
      ImportError, FileNotFoundError: As in `tfds.load`.

    Example:
      >>> train, validation, test = camvid()  # doctest: +SKIP

    Reference: Brostow, Fauqueur and Cipolla 2009, "Semantic object classes in video: a
    high-definition ground truth database"; the 11 classes and the split:
    Badrinarayanan, Kendall and Cipolla 2015, "SegNet".
    """

    def part(split: str) -> Pair:
        data = tfds.load("camvid", split, data_dir=data_dir, download=download)
        images = data["image"].astype(np.float32)
        images /= 255
        masks = data["segmentation_mask"][..., 0]
        return images, masks.astype(np.int32)

    return part("train"), part("validation"), part("test")
