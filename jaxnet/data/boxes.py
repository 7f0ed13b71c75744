"""Converts lists of bounding boxes, one per image, to arrays of one shape."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnet.services.checks import at_least, on_host

ROUNDING = 1e-3  # distance by which a box may extend beyond the image


def pad_boxes(
    boxes: Sequence[Any], classes: Sequence[Any], *, max_boxes: int | None = None
) -> dict[str, np.ndarray]:
    """Pad the boxes and classes of each image to arrays of one shape.

    The result is the targets of `jn.models.yolo_loss`, the truth of
    `jn.detection.average_precision` and of `jn.viz.boxes`, and one row per image for `jn.fit` and
    `jn.data.split`. Boxes without height or width are dropped. For boxes of center, height and
    width, convert them with `jn.detection.to_corners` first.

    Args:
      boxes: Array or list (count, 4) for each image: top, left, bottom, right as fractions of the
        image's height and width, in [0, 1]. The counts may differ; [] is an image without boxes.
      classes: Array or list (count,) of whole numbers from 0 for each image.
      max_boxes: Number of boxes per image in the result; by default the largest count, at least 1.

    Returns:
      A dict of "boxes" (images, max_boxes, 4) float32, 0 for padding, and "classes" (images,
      max_boxes) int32, -1 for padding.

    Raises:
      TypeError: If an entry is not an array of numbers.
      ValueError: If boxes and classes do not match.
      ValueError: If a box is not in the image or has its corners exchanged.
      ValueError: If a class is negative or not whole.
      ValueError: If an image has more than `max_boxes` boxes.

    Example:
      Two images of 48x64 pixels, the second without an object:

      >>> pixels = [[[12, 16, 36, 64], [0, 0, 48, 8]], []]
      >>> fractions = [np.reshape(b, (-1, 4)) / [48, 64, 48, 64] for b in pixels]
      >>> targets = pad_boxes(fractions, [[2, 0], []])
      >>> targets["boxes"][0].tolist(), targets["classes"].tolist()
      ([[0.25, 0.25, 0.75, 1.0], [0.0, 0.0, 1.0, 0.125]], [[2, 0], [-1, -1]])
    """
    if len(boxes) != len(classes):
        raise ValueError(
            f"pad_boxes: boxes and classes must have one entry per image, got {len(boxes)} and "
            f"{len(classes)}"
        )
    pairs = zip(boxes, classes, strict=True)
    boxes_with_area = [_with_area(i, *pair) for i, pair in enumerate(pairs)]
    fullest = max((len(labels) for _, labels in boxes_with_area), default=0)
    max_boxes = max(fullest, 1) if max_boxes is None else max_boxes
    at_least("pad_boxes", "max_boxes", max_boxes)
    if fullest > max_boxes:
        raise ValueError(
            f"pad_boxes: an image has {fullest} boxes, more than max_boxes={max_boxes}"
        )
    padded = np.zeros((len(boxes_with_area), max_boxes, 4), np.float32)
    padded_labels = np.full((len(boxes_with_area), max_boxes), -1, np.int32)
    for i, (corners, labels) in enumerate(boxes_with_area):
        padded[i, : len(labels)] = corners
        padded_labels[i, : len(labels)] = labels
    return {"boxes": padded, "classes": padded_labels}


def _with_area(i: int, boxes: Any, classes: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the checked boxes of image i that have an area, and their classes."""
    if hasattr(boxes, "__len__") and getattr(boxes, "ndim", 1) and not len(boxes):
        boxes = np.zeros((0, 4))  # [] has one axis
    sizes: dict[str, int] = {}
    boxes = on_host("pad_boxes", f"boxes[{i}]", boxes, "(n, 4)", "reals", sizes)
    classes = on_host("pad_boxes", f"classes[{i}]", classes, "(n,)", "reals", sizes)
    outside = ~((boxes >= -ROUNDING) & (boxes <= 1 + ROUNDING))  # also true for NaN
    if outside.any():
        raise ValueError(
            f"pad_boxes: boxes[{i}] must be fractions of the image's height and width, in [0, 1], "
            f"got {boxes[outside][0]:g}. Divide pixels by [height, width, height, width]; clip a "
            "box that extends beyond the image with np.clip(boxes, 0, 1)"
        )
    size = boxes[:, 2:] - boxes[:, :2]
    if (size < 0).any():
        box = boxes[(size < 0).any(-1)][0].round(3).tolist()
        raise ValueError(
            f"pad_boxes: boxes[{i}] must hold top, left, bottom, right, got {box}, which ends "
            "before it begins. For a center, height and width, write jn.detection.to_corners(boxes)"
        )
    if (classes < 0).any() or np.mod(classes, 1).any():
        raise ValueError(
            f"pad_boxes: classes[{i}] must be whole numbers from 0, got {classes.tolist()!r:.60}; "
            "leave out objects without a class"
        )
    has_area = (size > 0).all(-1)
    return boxes[has_area], classes[has_area].astype(np.int32)
