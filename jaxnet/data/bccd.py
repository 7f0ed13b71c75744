"""Blood cells under the microscope, with a box around each."""

from pathlib import Path

import numpy as np

from jaxnet.data import tfds

CELLS = ("red cell", "white cell", "platelet")  # classes 0, 1 and 2

Boxed = tuple[np.ndarray, dict[str, np.ndarray]]


def bccd(
    *,
    size: tuple[int, int] = (240, 320),
    data_dir: str | Path | None = None,
    download: bool = False,
) -> tuple[Boxed, Boxed, Boxed]:
    """364 images of blood with red cells, white cells and platelets: 205 to train, 87, 72 to test.

    Known of the data: some cells have no box, some boxes hold none, two boxes (one in each of the
    first two parts) have no height and width, which are left out; cells at the edge are cut by it.
    Red cells are eleven times as many as white ones or platelets, and overlap.

    Args:
      size: height and width in pixels that the images of 480x640 are brought to; smaller ones by
        the mean over areas.
      data_dir: where datasets lie, see `tfds.load`.
      download: fetches the images where they are not there, see `tfds.load`.

    Returns:
      (train, validation, test), each (images, targets): images (n, height, width, 3) float32 in
      [0, 1]; targets a dict of "boxes" (n, 30, 4) float32, top, left, bottom and right as shares of
      the image, 0 for padding, and "classes" (n, 30) int32, 0 red cell, 1 white cell, 2 platelet,
      -1 for padding. The same number of places, that of the fullest image, in all three parts.

    Raises:
      ImportError, FileNotFoundError: see `tfds.load`.

    Example:
      >>> train, validation, test = bccd(size=(120, 160))  # doctest: +SKIP
      >>> train[0].shape, train[1]["boxes"].shape  # doctest: +SKIP
      ((205, 120, 160, 3), (205, 30, 4))

    Source: Shenggan 2017, "BCCD Dataset", github.com/Shenggan/BCCD_Dataset (MIT licence).
    """
    parts = []
    for split in ("train", "validation", "test"):  # one after another: they are large as they are
        data = tfds.load("bccd", split, data_dir=data_dir, download=download)
        cells = data["objects"]
        parts.append((_resized(data["image"], size), cells["bbox"], cells["label"]))
    most = max(len(boxes) for _, lists, _ in parts for boxes in lists)
    train, validation, test = (
        (images, pad_boxes(boxes, classes, most)) for images, boxes, classes in parts
    )
    return train, validation, test


def pad_boxes(
    boxes: list[np.ndarray], classes: list[np.ndarray], most: int | None = None
) -> dict[str, np.ndarray]:
    """Lists of boxes and classes, one entry an image, as arrays with padding.

    Boxes without height or width are left out.

    Args:
      boxes: an array (count, 4) for each image.
      classes: an array (count,) for each image.
      most: places for each image; by default those of the fullest one.

    Returns:
      "boxes" (images, most, 4) float32, 0 for padding; "classes" (images, most) int32, -1 for
      padding.

    Raises:
      ValueError: where an image has more boxes than `most`.

    Example:
      >>> targets = pad_boxes([np.array([[0, 0, 1, 0.5]]), np.zeros((0, 4))], [np.array([2]), []])
      >>> targets["boxes"].shape, targets["classes"].tolist()
      ((2, 1, 4), [[2], [-1]])
    """
    real = [((b[:, 2:] - b[:, :2]) > 0).all(-1) for b in boxes]
    fullest = max((int(r.sum()) for r in real), default=0)
    most = fullest if most is None else most
    if fullest > most:
        raise ValueError(f"pad_boxes: an image has {fullest} boxes, more than most={most}")
    result = {
        "boxes": np.zeros((len(boxes), most, 4), np.float32),
        "classes": np.full((len(boxes), most), -1, np.int32),
    }
    for i, there in enumerate(real):
        count = there.sum()
        result["boxes"][i, :count] = boxes[i][there]
        result["classes"][i, :count] = np.asarray(classes[i])[there]
    return result


def _resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 images as floats in [0, 1] of another size, one by one to keep memory low."""
    from PIL import Image  # which decoded them

    height, width = size
    out = np.empty((len(images), height, width, 3), np.float32)
    for i, image in enumerate(images):
        if image.shape[:2] != (height, width):
            image = Image.fromarray(image).resize((width, height), Image.Resampling.BOX)
        out[i] = np.asarray(image)
    return np.divide(out, 255, out=out)
