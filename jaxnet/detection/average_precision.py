"""The average precision of detected boxes, computed by NumPy on the host."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet.detection.boxes import iou as box_iou
from jaxnet.services.checks import as_array, at_least, on_host, within

_overlaps = jax.jit(box_iou)


class AveragePrecision(NamedTuple):
    """The result of `average_precision`.

    Fields:
      mean: Mean over the classes that occur in the truth; NaN if there are none.
      each: Average precision per class, (classes,); NaN for a class that is not in the truth.
      recall: Recall after each detection, best first; one array per class, (detections of the
        class,).
      precision: Precision after each detection, in the same form.
      scores: Score of each detection, in the same form, from high to low.
    """

    mean: float
    each: np.ndarray
    recall: list[np.ndarray]
    precision: list[np.ndarray]
    scores: list[np.ndarray]


def average_precision(
    found: Mapping[str, Any] | tuple[Any, ...],
    truth: Mapping[str, Any],
    classes: int,
    *,
    iou: float = 0.5,
    points: int | None = None,
) -> AveragePrecision:
    """Return the average precision of each class, and their mean (mAP), over a whole test set.

    The detections of a class are ranked by score. A detection is a true positive if it overlaps an
    unmatched true box of its class and image by at least `iou`; it is matched to the box it
    overlaps most. All others, including second detections of an object, are false positives.
    Average precision is the area under the curve of precision against recall, where the precision
    at a recall is the highest at this recall or above. Among equal scores, earlier images and
    earlier places come first. (This is COCO's matching. The VOC kit counts a detection as false if
    the true box it overlaps most is matched, even if it overlaps another box that is not.)

    Args:
      found: The result of `jn.models.yolo_detect`, or a dict of "boxes" (images, n, 4), "scores"
        (images, n) and "classes" (images, n), with class -1 for padding. Detections of low score
        never lower the result, so do not threshold the scores.
      truth: Dict of "boxes" (images, m, 4) and "classes" (images, m), with class -1 for padding,
        such as the result of `jn.data.pad_boxes`.
      classes: Number of classes.
      iou: Least overlap of a true positive, in (0, 1].
      points: Number of recalls at which the precision is averaged. None computes the exact area
        (VOC since 2010); 11 averages the precision at recalls 0, 0.1, ..., 1 (VOC 2007), 101 at 0,
        0.01, ..., 1 (COCO).

    Returns:
      An `AveragePrecision`: the average precision of each class, their mean, and the curves of
      precision and recall.

    Raises:
      TypeError: If `found` or `truth` is not such a dict.
      ValueError: If shapes do not match.
      ValueError: If boxes or scores contain NaN.
      ValueError: If `classes`, `iou` or `points` is out of range.

    Example:
      Two objects, detected by the first and the third box:

      >>> truth = {"boxes": np.array([[[0, 0, 2, 3], [5, 5, 8, 9]]]), "classes": np.array([[0, 0]])}
      >>> found = {"boxes": np.array([[[0, 0, 2, 3], [3, 3, 4, 5], [5, 5, 8, 9]]]),
      ...          "scores": np.array([[0.9, 0.8, 0.7]]), "classes": np.array([[0, 0, 0]])}
      >>> result = average_precision(found, truth, classes=1)
      >>> result.recall[0].tolist(), result.precision[0].round(3).tolist(), round(result.mean, 3)
      ([0.5, 0.5, 1.0], [1.0, 0.5, 0.667], 0.833)

    References: Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge"; Lin et
    al. 2014, "Microsoft COCO: Common Objects in Context".
    """
    at_least("average_precision", "classes", classes)
    within("average_precision", "iou", iou, "(0, 1]")
    at_least("average_precision", "points", points, 2, optional=True)
    sizes: dict[str, int] = {}  # sizes of axes, which found and truth share
    found = _read("found", found, "n", classes, sizes, scored=True)
    truth = _read("truth", truth, "m", classes, sizes)
    overlap = np.asarray(_overlaps(found["boxes"], truth["boxes"]))  # (images, n, m)
    recalls = []
    precisions = []
    scores = []
    each = np.full(classes, np.nan)
    for c in range(classes):
        recall, precision, score = _curve(found, truth, overlap, c, iou)
        recalls.append(recall)
        precisions.append(precision)
        scores.append(score)
        if (truth["classes"] == c).any():
            each[c] = _area(recall, precision, points)
    occurs = ~np.isnan(each)
    mean = float(each[occurs].mean()) if occurs.any() else float("nan")
    return AveragePrecision(mean, each, recalls, precisions, scores)


def _curve(predicted, truth, overlap, c: int, iou: float) -> tuple[np.ndarray, ...]:
    """Return recall, precision and score after each detection of class c, best first."""
    free = truth["classes"] == c  # (images, m)
    total = free.sum()
    image, place = np.nonzero(predicted["classes"] == c)
    scores = predicted["scores"][image, place]
    order = np.argsort(-scores, kind="stable")
    right = np.zeros(len(order))
    for rank, at in enumerate(order):
        i = image[at]
        over = np.where(free[i], overlap[i, place[at]], -1)
        if over.size and over.max() >= iou:
            right[rank] = 1
            free[i, over.argmax()] = False
    hits = right.cumsum()
    recall = hits / max(total, 1)
    precision = hits / np.arange(1, len(hits) + 1)
    return recall, precision, scores[order]


def _area(recall: np.ndarray, precision: np.ndarray, points: int | None) -> float:
    """Return the area under the highest precision at each recall or above."""
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    if points is None:
        steps = np.diff(recall, prepend=0)
        return float((steps * highest).sum())
    places = np.searchsorted(recall, np.linspace(0, 1, points), side="left")
    highest = np.append(highest, 0)  # 0 at recalls never reached
    return float(highest[places].mean())


def _read(
    what: str, entries: Any, axis: str, classes: int, sizes: dict, scored: bool = False
) -> dict[str, np.ndarray]:
    """Return the checked arrays of `found` or `truth`."""
    who = "average_precision"
    names = ("boxes", "scores", "classes") if scored else ("boxes", "classes")
    entries = getattr(entries, "_asdict", lambda: entries)()  # for a NamedTuple
    if not isinstance(entries, Mapping) or not set(names) <= set(entries):
        got = sorted(map(str, entries)) if isinstance(entries, Mapping) else type(entries).__name__
        raise TypeError(f"{who}: {what} must be a dict of {', '.join(names)}, got {got}")
    parts = {}
    for name in names:
        form = f"(images, {axis}, 4)" if name == "boxes" else f"(images, {axis})"
        dtype = "integers" if name == "classes" else "reals"
        parts[name] = on_host(who, f"{what}['{name}']", entries[name], form, dtype, sizes)
    # Signed integers, since classes are compared with -1.
    parts["classes"] = parts["classes"].astype(np.int64)
    largest = parts["classes"].max(initial=-1)
    if largest >= classes:
        raise ValueError(f"{who}: {what}['classes'] must be below {classes}, got {largest}")
    real = parts["classes"] >= 0  # padding may contain anything
    boxes = as_array(who, f"{what}['boxes']", parts["boxes"][real])
    if not np.isfinite(boxes).all():
        raise ValueError(f"{who}: {what}['boxes'] must be finite, got NaN or Inf")
    if scored and np.isnan(parts["scores"][real]).any():
        raise ValueError(f"{who}: {what}['scores'] must not hold NaN")
    return parts
