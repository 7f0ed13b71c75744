"""BCCD: microscope images of blood cells with bounding boxes."""

from pathlib import Path

import numpy as np

from jaxnet.data import tfds
from jaxnet.data.boxes import pad_boxes
from jaxnet.services.checks import check_sizes
from jaxnet.services.extras import extra

CELLS = ("red cell", "white cell", "platelet")
"""Names of the classes 0, 1 and 2 of `bccd`."""

Boxed = tuple[np.ndarray, dict[str, np.ndarray]]


def bccd(
    *,
    size: tuple[int, int] = (240, 320),
    data_dir: str | Path | None = None,
    download: bool = False,
) -> tuple[Boxed, Boxed, Boxed]:
    """Load 364 images of blood cells: 205 for training, 87 for validation, 72 for test.

    The cells are red cells, white cells and platelets. Some cells have no box, and some boxes have
    no cell. Two boxes, one in each of the first two splits, have no area and are dropped. Cells at
    the border are cropped. Red cells are eleven times as frequent as white cells or platelets, and
    overlap.

    Args:
      size: Height and width in pixels; the images of 480x640 are resized by averaging over areas.
      data_dir: Folder of the datasets, see `tfds.load`.
      download: Whether to download missing data, see `tfds.load`.

    Returns:
      (train, validation, test), each (images, targets): images (n, height, width, 3) float32 in
      [0, 1]; targets a dict of "boxes" (n, 30, 4) float32, (top, left, bottom, right) relative to
      the image size, 0 for padding, and "classes" (n, 30) int32, 0 red cell, 1 white cell,
      2 platelet, -1 for padding. The largest number of boxes per image is 30.

    Raises:
      ImportError, FileNotFoundError: As in `tfds.load`.

    Example:
      >>> train, validation, test = bccd(size=(120, 160))  # doctest: +SKIP
      >>> train[0].shape, train[1]["boxes"].shape  # doctest: +SKIP
      ((205, 120, 160, 3), (205, 30, 4))

    Source: Shenggan 2017, "BCCD Dataset", github.com/Shenggan/BCCD_Dataset (MIT license).
    """
    check_sizes("bccd", "size", size, "(height, width)")
    parts = []
    for split in ("train", "validation", "test"):  # one by one, to limit memory
        data = tfds.load("bccd", split, data_dir=data_dir, download=download)
        cells = data["objects"]
        parts.append((_resized(data["image"], size), cells["bbox"], cells["label"]))
    fullest = max(len(boxes) for _, lists, _ in parts for boxes in lists)
    train, validation, test = [(x, pad_boxes(*targets, max_boxes=fullest)) for x, *targets in parts]
    return train, validation, test


def _resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return uint8 images as floats in [0, 1] of another size, one by one to limit memory."""
    pillow = extra("PIL.Image", "Pillow", "bccd")
    height, width = size
    out = np.empty((len(images), height, width, 3), np.float32)
    for i, image in enumerate(images):
        if image.shape[:2] != (height, width):
            image = pillow.fromarray(image).resize((width, height), pillow.Resampling.BOX)
        out[i] = np.asarray(image)
    return np.divide(out, 255, out=out)
