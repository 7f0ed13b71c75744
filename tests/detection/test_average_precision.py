"""Average precision by hand, from the definition, and by pycocotools."""

import contextlib
import io

import numpy as np
import pytest

from jaxnet.detection import average_precision
from tests.detection.test_boxes import loop_iou, random_boxes

CLASSES = 3


def scene(seed, images=12, n=14, m=6, step=None):
    """True boxes with padding; detections, most of them near a true box and of its class."""
    rng = np.random.default_rng(seed)
    boxes = random_boxes(seed, images, m) + np.array([0, 0, 0.1, 0.1])
    truth = {"boxes": boxes, "classes": rng.integers(-1, CLASSES, (images, m))}
    truth["classes"][0] = -1  # an image without truths
    which = rng.integers(0, m, n)
    near = boxes[:, which] + rng.normal(0, 0.015, (images, n, 4))
    far = random_boxes(seed + 1, images, n)
    others = rng.integers(-1, CLASSES, (images, n))
    is_near = rng.uniform(size=(images, n, 1)) < 0.7
    is_right = rng.uniform(size=(images, n)) < 0.8
    scores = rng.uniform(0, 1, (images, n))
    if step is not None:
        scores = (scores / step).round() * step
    found = {
        "boxes": np.where(is_near, near, far),
        "classes": np.where(is_right, truth["classes"][:, which], others),
        "scores": scores,
    }
    return found, truth


def slow_average_precision(found, truth, c, iou, points):
    """From the definition: recall and precision counted from scratch at each rank."""
    ranked = sorted(np.argwhere(found["classes"] == c), key=lambda at: -found["scores"][*at])
    taken = set()
    right = []
    for i, j in ranked:
        free = [k for k in np.flatnonzero(truth["classes"][i] == c) if (i, k) not in taken]
        box = found["boxes"][i, j]
        boxes = truth["boxes"][i]
        rivals = [(loop_iou(box, boxes[k]), -k) for k in free]
        overlap, k = max(rivals, default=(0.0, 0))
        right.append(overlap >= iou)
        if right[-1]:
            taken.add((i, -k))
    total = int((truth["classes"] == c).sum())
    curve = []
    for rank in range(1, len(right) + 1):
        hits = sum(right[:rank])
        curve.append((hits / total, hits / rank))

    def highest(recall):
        return max((p for r, p in curve if r >= recall), default=0.0)

    if points is not None:
        return np.mean([highest(t) for t in np.linspace(0, 1, points)])
    return sum(highest(hit / total) for hit in range(1, total + 1)) / total


@pytest.mark.parametrize("points", [None, 11])
@pytest.mark.parametrize("seed, iou", [(0, 0.5), (2, 0.75), (3, 0.3)])
def test_against_the_definition(seed, iou, points):
    found, truth = scene(seed)
    result = average_precision(found, truth, CLASSES, iou=iou, points=points)
    wanted = [slow_average_precision(found, truth, c, iou, points) for c in range(CLASSES)]
    assert 0.02 < min(wanted)
    assert max(wanted) < 0.95
    np.testing.assert_allclose(result.each, wanted, rtol=1e-12)
    assert result.mean == pytest.approx(np.mean(wanted), rel=1e-12)


@pytest.mark.parametrize("step", [None, 0.25], ids=["different scores", "many equal scores"])
@pytest.mark.parametrize("seed, iou", [(1, 0.5), (2, 0.75)])
def test_against_pycocotools(seed, iou, step):
    coco = pytest.importorskip("pycocotools.coco", reason="compares with pycocotools")  # 2.0.11
    from pycocotools.cocoeval import COCOeval

    found, truth = scene(seed, step=step)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        judge = COCOeval(*coco_format(coco.COCO, found, truth), "bbox")
        judge.params.iouThrs = np.array([iou])
        judge.evaluate()
        judge.accumulate()
    wanted = judge.eval["precision"][0, :, :, 0, -1].mean(0)  # (recalls, classes) -> (classes,)
    result = average_precision(found, truth, CLASSES, iou=iou, points=101)
    np.testing.assert_allclose(result.each, wanted, rtol=1e-9)
    reached = judge.eval["recall"][0, :, 0, -1]
    np.testing.assert_allclose([r[-1] for r in result.recall], reached, rtol=1e-12)


def coco_format(COCO, found, truth):
    """Both in pycocotools' format: boxes as left, top, width, height."""

    def listed(part):
        rows = []
        for i, j in np.argwhere(part["classes"] >= 0):
            top, left, bottom, right = part["boxes"][i, j].tolist()
            area = (right - left) * (bottom - top)
            box = [left, top, right - left, bottom - top]
            row = {"image_id": int(i), "category_id": int(part["classes"][i, j]), "bbox": box}
            rows.append(row | {"id": len(rows) + 1, "area": area, "iscrowd": 0})
            if "scores" in part:
                rows[-1]["score"] = float(part["scores"][i, j])
        return rows

    true = COCO()
    true.dataset = {
        "images": [{"id": i} for i in range(len(truth["boxes"]))],
        "categories": [{"id": c} for c in range(CLASSES)],
        "annotations": listed(truth),
        "info": {},
    }
    true.createIndex()
    return true, true.loadRes(listed(found))


def one_image(found, scores, truth, classes=None):
    found = np.array([found], float)
    truth = np.array([truth], float)
    labels = np.zeros(found.shape[:2], int) if classes is None else np.array([classes])
    detected = {"boxes": found, "scores": np.array([scores]), "classes": labels}
    true = {"boxes": truth, "classes": np.zeros(truth.shape[:2], int)}
    return average_precision(detected, true, 1)


A = [0, 0, 2, 3]
B = [5, 5, 8, 9]
NOWHERE = [20, 20, 21, 21]


@pytest.mark.parametrize(("found", "scores", "truth", "value"), [
    pytest.param([NOWHERE, A, B], [0.9, 0.8, 0.7], [A, B], 2 / 3, id="2/3 at either recall"),
    pytest.param([A, NOWHERE, B], [0.9, 0.8, 0.7], [A, B], 5 / 6, id="(1 + 2/3) / 2"),
    pytest.param([A, A, B], [0.9, 0.8, 0.7], [A, B], 5 / 6, id="a second detection is wrong"),
    pytest.param([A], [0.9], [A, B], 0.5, id="half of them"),
    pytest.param([NOWHERE], [0.9], [A, B], 0, id="none"),
    pytest.param([[0, 1, 2, 4]], [0.9], [A], 1, id="an overlap of 0.5 is enough"),
])  # fmt: skip
def test_by_hand(found, scores, truth, value):
    assert one_image(found, scores, truth).mean == pytest.approx(value, rel=1e-12)


def test_padding_is_not_counted():
    assert one_image([NOWHERE, A], [0.9, 0.8], [A], classes=[-1, 0]).mean == 1


def test_a_matched_box_leaves_the_next():
    """Both overlap the first true box most; the second matches the other, with overlap 0.5."""
    result = one_image([[0, 0, 2, 3], [0, 0.5, 2, 3.5]], [0.9, 0.8], [[0, 0, 2, 3], [0, 1, 2, 4]])
    assert result.precision[0].tolist() == [1, 1]


def test_a_class_that_does_not_occur_is_left_out():
    found = {"boxes": np.array([[A, B]], float), "scores": np.ones((1, 2)), "classes": [[0, 2]]}
    truth = {"boxes": np.array([[A]], float), "classes": [[0]]}
    result = average_precision(found, truth, 3)
    assert result.each[0] == result.mean == 1
    assert np.isnan(result.each[1:]).all()
    empty = {"boxes": np.zeros((1, 0, 4)), "scores": np.zeros((1, 0))}
    empty["classes"] = np.zeros((1, 0), int)
    assert average_precision(empty, truth, 3).mean == 0
    assert np.isnan(average_precision(found, empty, 3).mean)


def test_the_classes_are_kept_apart():
    found = {"boxes": np.array([[A, B]], float), "scores": np.ones((1, 2)), "classes": [[1, 0]]}
    truth = {"boxes": np.array([[A, B]], float), "classes": [[0, 1]]}
    assert average_precision(found, truth, 2).each.tolist() == [0, 0]


def test_integer_boxes_do_not_wrap():
    found = {"boxes": np.array([[[0, 0, 2, 3]]], np.uint16), "scores": [[1]], "classes": [[0]]}
    truth = {"boxes": np.array([[[500, 500, 900, 900]]], np.uint16), "classes": [[0]]}
    assert average_precision(found, truth, 1).mean == 0
    assert average_precision(found, {**truth, "boxes": found["boxes"]}, 1).mean == 1


FOUND, TRUTH = scene(0)
NAN = np.where(FOUND["scores"] == FOUND["scores"].max(), np.nan, FOUND["scores"])


@pytest.mark.parametrize(("found", "truth", "options", "words"), [
    ({}, {}, {"classes": 2}, r"average_precision: found\['classes'\] must be below 2, got 2"),
    ({"scores": np.zeros((12, 3))}, {}, {}, r"found\['scores'\] must .* n = 14, got \(12, 3\)"),
    ({"scores": NAN}, {}, {}, r"found\['scores'\] must not hold NaN"),
    ({"boxes": np.full((12, 14, 4), np.nan)}, {}, {}, r"found\['boxes'\] must be finite"),
    ({}, {"boxes": np.zeros((12, 6, 3))}, {}, r"truth\['boxes'\] must have shape"),
    ({}, {"classes": np.zeros((12, 6))}, {}, r"truth\['classes'\] must hold integers"),
    ({}, {name: part[1:] for name, part in TRUTH.items()}, {}, "images = 12, got"),
    ({}, {}, {"iou": 0}, r"average_precision: iou must be in \(0, 1\], got 0"),
    ({}, {}, {"iou": 50}, r"average_precision: iou must be in \(0, 1\], got 50"),
    ({}, {}, {"points": 1}, "average_precision: points must be at least 2, got 1"),
])  # fmt: skip
def test_messages(found, truth, options, words):
    options = {"classes": 3} | options
    with pytest.raises((ValueError, TypeError), match=words):
        average_precision(FOUND | found, TRUTH | truth, **options)


@pytest.mark.parametrize("found", [[1], {"boxes": FOUND["boxes"]}])
def test_found_is_a_dict_of_three_arrays(found):
    with pytest.raises(TypeError, match="average_precision: found must be a dict of boxes, scores"):
        average_precision(found, TRUTH, 3)
