import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import metrics

RNG = np.random.default_rng(5)
LABELS = RNG.integers(0, 4, 200)
GUESSES = np.where(RNG.random(200) < 0.6, LABELS, RNG.integers(0, 4, 200))


def test_confusion_ignores_labels_that_are_no_classes():
    labels = jnp.array([0, -1, 3, 255, 1, 1], jnp.int32)
    guesses = jnp.array([0, 0, 255, -1, 1, 2], jnp.int32)
    assert metrics.confusion(guesses, labels, 3).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    few = jnp.array([0, 9]), jnp.array([0, 1])
    assert metrics.confusion(*few, 2, void=1).tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("guess", [255, -1])
def test_predictions_that_are_no_classes_never_help(guess):
    """They were dropped, so that the score was 1; now they raise, and inside jit are wrong."""
    guesses = jnp.array([guess, 1, 0, guess, guess])
    labels = jnp.array([0, 1, 0, 1, 9])
    words = rf"predictions must be in \[0, 2\) if the label is a class, got {guess}"
    with pytest.raises(ValueError, match=words):
        metrics.confusion(guesses, labels, 2, void=9)
    with pytest.raises(ValueError, match=words):
        metrics.confusion(np.asarray(guesses), np.asarray(labels), 2)
    matrix = jax.jit(lambda a, b: metrics.confusion(a, b, 2, void=9))(guesses, labels)
    assert matrix.sum() == 4
    assert metrics.scores(matrix).accuracy == 2 / 4
    assert metrics.scores(matrix).recall.tolist() == [0.5, 0.5]
    np.testing.assert_allclose(metrics.scores(matrix).iou, [1 / 3, 1 / 3])


def test_confusion_does_not_wrap_narrow_integers():
    """20 · 21 + 20 is more than a byte holds."""
    labels = jnp.arange(21, dtype=jnp.uint8)
    assert metrics.confusion(labels, labels, 21).tolist() == np.eye(21).tolist()


def test_confusion_sums_over_batches_under_jit():
    whole = metrics.confusion(GUESSES, LABELS, 4)
    jitted = jax.jit(lambda a, b: metrics.confusion(a, b, 4))
    parts = [jitted(GUESSES[i : i + 50], LABELS[i : i + 50]) for i in range(0, 200, 50)]
    assert (sum(parts) == whole).all()
    assert whole.sum() == 200


@pytest.mark.slow
def test_classes_that_do_not_occur():
    """Class 2 is never predicted, class 3 never true, class 4 neither."""
    rows = [3, 1, 0, 0, 0], [0, 4, 0, 0, 0], [1, 0, 0, 1, 0], [0] * 5, [0] * 5
    found = metrics.scores(jnp.array(rows))
    np.testing.assert_allclose(found.iou, [3 / 5, 4 / 5, 0, 0, math.nan], 1e-6)
    np.testing.assert_allclose(found.mean_iou, (3 / 5 + 4 / 5) / 4, 1e-6)
    each = [3 / 4, 4 / 5, 0, 0, 0], [3 / 4, 1, 0, 0, 0], [3 / 4, 8 / 9, 0, 0, 0]
    np.testing.assert_allclose([found.precision, found.recall, found.f1], each, 1e-6)
    none = metrics.scores(jnp.zeros((3, 3), int))
    assert math.isnan(none.mean_iou)
    assert math.isnan(none.accuracy)


COUNTS = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])


@pytest.mark.parametrize("matrix", [
    pytest.param(jnp.array(COUNTS * 2**28), id="int32 sums overflow"),
    pytest.param(COUNTS * 2**40, id="int64 would be narrowed"),
    pytest.param((COUNTS * 2**40).astype(">i8"), id="big-endian"),
    pytest.param(COUNTS.astype(np.uint8) * 60, id="uint8 sums overflow"),
    pytest.param(jnp.array(COUNTS * 2**13, jnp.float16), id="float16 sums overflow"),
    pytest.param(COUNTS / 10, id="shares"),
])  # fmt: skip
def test_scores_do_not_depend_on_the_size_of_counts(matrix):
    found = metrics.scores(matrix)
    wanted = metrics.scores(jnp.array(COUNTS))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), found, wanted)


def test_accuracy_of_many():
    assert metrics.scores(jnp.full((2, 2), 2**30)).accuracy == 0.5


def test_counts_after_an_overflow_are_nan():
    wrapped = jnp.array([[2**31 - 1, 1], [1, 1]]) + 1  # -2**31
    for score in (metrics.scores, jax.jit(metrics.scores)):
        assert all(jnp.isnan(values).all() for values in score(wrapped))


@pytest.mark.parametrize(("count", "got"), [(-1, "-1"), (math.nan, "nan"), (math.inf, "1 to inf")])
def test_counts_that_are_none_raise(count, got):
    with pytest.raises(ValueError, match=rf"matrix must be in \[0, inf\), got {got}"):
        metrics.scores(np.array([[1, count], [1, 1]]))


def test_scores_print_as_a_table():
    lines = str(metrics.scores(np.diag(np.arange(12)))).splitlines()
    assert [line.split()[0] for line in lines] == ["class", *map(str, range(12)), "accuracy"]
    assert len({len(line) for line in lines[:-1]}) == 1
    assert lines[1].split() == ["0", "0.0000", "0.0000", "0.0000", "nan"]
    assert lines[-1] == "accuracy 1.0000, mean IoU 1.0000"


def test_confusion_does_not_wrap_wide_labels(x64):
    wide = jnp.array([0, 2**32, 2**32 - 1])
    assert metrics.confusion(wide, wide, 2).tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(("call", "words"), [
    (lambda: metrics.confusion(LABELS, None, 4), "confusion: labels must be a JAX or NumPy"),
    (lambda: metrics.confusion(LABELS + 2**32, LABELS, 4), "predictions hold .* cannot hold"),
    (lambda: metrics.confusion(LABELS, LABELS, 0), "confusion: classes must be at least 1"),
    (lambda: metrics.confusion(LABELS, LABELS, 50_000), "classes must be 1 to 46340, "),
    (lambda: metrics.confusion(jnp.ones(3), LABELS, 3),
     "predictions must hold integers.*argmax.*got float32"),
    (lambda: metrics.confusion(LABELS, LABELS, 4, void=2**40), r"void must be below 2\*\*31"),
    (lambda: metrics.confusion(LABELS, LABELS[None], 4), r"\(200,\) and \(1, 200\)"),
    (lambda: metrics.scores(jnp.zeros((2, 3))), r"scores: matrix must .* \(2, 3\)$"),
    (lambda: metrics.scores([[1, 0], [0, 1]]), "scores: matrix must"),
])  # fmt: skip
def test_messages(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call()


def test_booleans_are_two_classes_and_probabilities_are_told_the_threshold():
    p = jnp.array([0.2, 0.7, 0.9])
    labels = np.array([False, True, False])
    for given in (labels, labels.astype(int)):
        assert metrics.confusion(p > 0.5, given, 2).tolist() == [[1, 1], [0, 1]]
    with pytest.raises(TypeError, match="write p > 0.5 of probabilities"):
        metrics.confusion(p, labels, 2)
