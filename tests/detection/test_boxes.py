"""Values by hand, and against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import detection
from tests import oracles


def loop_iou(a, b):
    """Of one pair."""
    return float(oracles.iou([a], [b])[0, 0])


def loop_suppression(found, scores, iou, score, max_outputs):
    """Greedy, by Python lists."""
    left = [i for i in np.argsort(-scores, kind="stable") if scores[i] > score]
    kept = []
    while left and len(kept) < max_outputs:
        best = left.pop(0)
        kept.append(int(best))
        left = [i for i in left if loop_iou(found[best], found[i]) <= iou]
    return kept


def random_boxes(seed, *shape):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.8, (*shape, 2))
    size = rng.uniform(0.01, 0.4, (*shape, 2))
    return np.concatenate([low, low + size], -1)


@pytest.mark.parametrize(("a", "b", "value"), [
    pytest.param([0, 0, 4, 4], [1, 2, 2, 4], 0.125, id="inside: 2 / 16"),
    pytest.param([0, 0, 2, 3], [2, 0, 4, 3], 0, id="touching"),
    pytest.param([0, 0, 0, 0], [0, 0, 0, 0], 0, id="padding twice"),
    pytest.param([3, 3, 2, 2], [0, 0, 9, 9], 0, id="bottom above top"),
])  # fmt: skip
def test_iou_by_hand(a, b, value):
    a = jnp.array([a], float)
    b = jnp.array([b], float)
    assert detection.iou(a, b).tolist() == detection.iou(b, a).tolist() == [[value]]


def test_iou_has_finite_gradients_at_padding():
    a = jnp.zeros((2, 4))
    b = jnp.array([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])

    def total(a, b):
        return detection.iou(a, b).sum()

    for gradient in jax.jit(jax.grad(total, (0, 1)))(a, b):
        assert jnp.isfinite(gradient).all()


KEPT = jax.jit(detection.non_max_suppression, static_argnames=("iou", "score", "max_outputs"))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("iou", "score", "max_outputs"), [(0.5, 0.0, 60), (0.2, 0.4, 60), (0.3, 0.1, 7)]
)
def test_suppression_against_a_loop(seed, iou, score, max_outputs):
    found = random_boxes(seed, 60)
    scores = np.random.default_rng(seed + 9).uniform(0, 1, 60).round(2)  # some are equal
    kept = jax.device_get(KEPT(found, scores, iou=iou, score=score, max_outputs=max_outputs))
    wanted = loop_suppression(found, scores, iou, score, max_outputs)
    assert 3 < len(wanted) < 60
    assert kept.indices.shape == kept.valid.shape == (max_outputs,)
    assert kept.indices.dtype == np.int32
    assert kept.indices[kept.valid].tolist() == wanted
    assert kept.valid.tolist() == [i < len(wanted) for i in range(max_outputs)]


@pytest.mark.slow
def test_suppression_by_hand():
    """The second overlaps the first by 0.5, the third the second but not the first."""
    found = np.array([[0, 0, 2, 3], [0, 1, 2, 4], [0, 3, 2, 6]], np.float32)
    scores = np.float32([0.9, 0.8, 0.7])

    def survivors(**options):
        found_, valid = jax.device_get(KEPT(found, scores, max_outputs=3, **options))
        return found_[valid].tolist()

    assert survivors(iou=0.49) == [0, 2]
    assert survivors(iou=0.5) == [0, 1, 2]  # above iou, not equal to it
    assert survivors(iou=0.1, score=0.8) == [0]  # above the score, not equal to it
    assert survivors(iou=0.1, score=0.95) == []


def test_equal_scores_padding_and_boxes_without_area():
    found = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [2, 2, 3, 3]])
    scores = np.array([0.5, 0.5, -np.inf, 0.4, -np.inf])
    kept = jax.device_get(KEPT(found, scores, max_outputs=4))
    assert kept.indices[kept.valid].tolist() == [0, 3]


@pytest.mark.slow
def test_suppression_of_batches():
    found = jnp.asarray(random_boxes(3, 2, 3, 20))
    scores = jnp.asarray(np.random.default_rng(4).uniform(0, 1, (2, 3, 20)))
    kept = detection.non_max_suppression(found, scores, iou=0.2, max_outputs=6)
    assert kept.indices.shape == kept.valid.shape == (2, 3, 6)
    one = detection.non_max_suppression(found[1, 2], scores[1, 2], iou=0.2, max_outputs=6)
    assert kept.indices[1, 2].tolist() == one.indices.tolist()


def test_suppression_of_no_boxes():
    none = detection.non_max_suppression(jnp.zeros((0, 4)), jnp.zeros(0), max_outputs=3)
    assert none.indices.tolist() == [0, 0, 0]
    assert not none.valid.any()


@pytest.mark.fast_cases("asarray0-float32", "asarray1-uint16", "asarray1-float16")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.float16, np.float32])
@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_boxes_of_any_dtype_have_the_values_of_float64(make, dtype, x64):
    """Unsigned differences wrap, 300 times 300 overflows float16, 60,000 squared int32."""
    side = {np.uint8: 200, np.float16: 300}.get(dtype, 60_000)
    corners = np.array([[0, 0, side, side], [side // 2, 0, side, side], [3, 5, 2, 9]])
    others = np.array([[side - 1, side - 1, side, side], [0, 0, side // 4, side // 4]])
    a = make(corners.astype(dtype))
    b = make(others.astype(dtype))
    np.testing.assert_allclose(detection.iou(a, b), oracles.iou(corners, others), rtol=1e-5)
    np.testing.assert_allclose(detection.area(a), oracles.area(corners), rtol=1e-6)
    np.testing.assert_allclose(detection.to_middle(a), oracles.to_middle(corners), rtol=1e-6)
    corner = detection.to_corners(make(np.array([1, 1, 4, 4], dtype)))
    assert corner.tolist() == [-1, -1, 3, 3]
    kept = detection.non_max_suppression(a, make(np.array([1, 3, 2])), iou=0.4, max_outputs=3)
    assert kept.indices[kept.valid].tolist() == [1, 2]


def test_suppression_keeps_no_box_whose_score_is_nan():
    found = np.array([[0, 0, 2, 3], [5, 5, 8, 9]], np.float32)
    kept = jax.device_get(KEPT(found, np.float32([np.nan, 0.5]), max_outputs=2))
    assert kept.indices[kept.valid].tolist() == [1]


@pytest.mark.fast_cases("inf")
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_suppression_keeps_no_box_that_is_not_finite(wrong):
    """With a score of -inf it is padding; else it raises, or is left out inside jit."""
    found = np.array([[5, wrong, 8, 9], [5, 5, 8, 9], [0, 0, 2, 3]], np.float32)
    kept = detection.non_max_suppression(found, np.array([-np.inf, 0.5, 0.3]), max_outputs=2)
    assert kept.indices[kept.valid].tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"a box must be finite, got .* at \(0,\)\..*score -inf"):
        detection.non_max_suppression(found, np.array([0.9, 0.5, 0.3]), max_outputs=2)
    batch = np.stack([found[::-1], found])
    scores = np.array([[0.9, 0.5, -1], [0.9, 0.5, 0.3]])
    with pytest.raises(ValueError, match=r"at \(0, 2\)"):
        detection.non_max_suppression(batch, scores, max_outputs=2)
    kept = KEPT(batch, scores, max_outputs=3)
    assert kept.indices[1][kept.valid[1]].tolist() == [1, 2]


NMS = detection.non_max_suppression
BOXES = np.zeros((3, 4))
SCORES = np.zeros(3)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: detection.iou(np.zeros(4), BOXES), r"iou: a must have shape \(..., n, 4\), got"),
    (lambda: detection.iou(BOXES, [[0, 0, 1, 1]]), r"iou: b must be .* jnp.asarray\(x\)"),
    (lambda: detection.iou(np.zeros((2, 3, 4)), np.zeros((5, 3, 4))), r"iou: .* broadcast"),
    (lambda: detection.area(np.zeros((2, 3))), r"area: boxes must have shape \(..., 4\)"),
    (lambda: detection.to_corners(np.zeros((2, 6))), r"to_corners: boxes must have shape"),
    (lambda: detection.to_middle(np.zeros((4, 2))), r"to_middle: boxes must have shape"),
    (lambda: NMS(BOXES, np.zeros((3, 2))), r"boxes \(..., n, 4\) and scores \(..., n\), got"),
    (lambda: NMS(BOXES, SCORES, max_outputs=0), "max_outputs must be at least 1, got 0"),
    (lambda: NMS(BOXES, SCORES, iou=50), r"non_max_suppression: iou must be in \[0, 1\], got 50"),
    (lambda: NMS(BOXES, SCORES, score=np.nan), "non_max_suppression: score must be in .* got nan"),
])  # fmt: skip
def test_messages(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call()
