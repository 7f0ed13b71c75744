import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import metrics

RNG = np.random.default_rng(5)
LABELS = RNG.integers(0, 4, 200)
GUESSES = np.where(RNG.random(200) < 0.6, LABELS, RNG.integers(0, 4, 200))


def test_confusion_by_hand():
    labels = jnp.array([[0, 0, 1], [2, 2, 2]])
    guesses = jnp.array([[0, 1, 1], [2, 0, 0]])
    matrix = metrics.confusion(guesses, labels, 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 1]]  # rows are true
    assert metrics.confusion(guesses, labels, 3, void=2).tolist() == [[1, 1, 0], [0, 1, 0], [0] * 3]


def test_confusion_ignores_labels_that_are_no_classes():
    labels = jnp.array([0, -1, 3, 255, 1, 1], jnp.int32)
    guesses = jnp.array([0, 0, 0, 0, -1, 3], jnp.int32)
    assert metrics.confusion(guesses, labels, 3).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


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


def test_confusion_and_scores_match_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")
    matrix = metrics.confusion(GUESSES, LABELS, 4)
    assert matrix.tolist() == sklearn.confusion_matrix(LABELS, GUESSES).tolist()
    precision, recall, f1, _ = sklearn.precision_recall_fscore_support(LABELS, GUESSES)
    np.testing.assert_allclose(metrics.precision(matrix), precision, 1e-6)
    np.testing.assert_allclose(metrics.recall(matrix), recall, 1e-6)
    np.testing.assert_allclose(metrics.f1(matrix), f1, 1e-6)
    jaccard = sklearn.jaccard_score(LABELS, GUESSES, average=None)
    np.testing.assert_allclose(metrics.intersection_over_union(matrix), jaccard, 1e-6)
    np.testing.assert_allclose(metrics.mean_iou(matrix), jaccard.mean(), 1e-6)


def test_segmentation_scores_are_of_the_whole_set():
    """Sums over batches, void left out; the mean of the batches' scores is another number."""
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")
    truth = RNG.integers(0, 4, (6, 5, 7)) * (np.arange(6) < 3)[:, None, None]
    found = np.where(RNG.random(truth.shape) < 0.7, truth, RNG.integers(0, 4, truth.shape))
    truth[RNG.random(truth.shape) < 0.2] = 11
    parts = [metrics.confusion(found[i : i + 3], truth[i : i + 3], 4, void=11) for i in (0, 3)]
    seen = truth != 11
    jaccard = sklearn.jaccard_score(truth[seen], found[seen], average=None)
    np.testing.assert_allclose(metrics.intersection_over_union(sum(parts)), jaccard, 1e-6)
    np.testing.assert_allclose(metrics.mean_iou(sum(parts)), jaccard.mean(), 1e-6)
    accuracy = sklearn.accuracy_score(truth[seen], found[seen])
    np.testing.assert_allclose(metrics.pixel_accuracy(sum(parts)), accuracy, 1e-6)
    means = np.mean([metrics.mean_iou(part) for part in parts])
    assert abs(means - jaccard.mean()) > 0.05
    assert math.isnan(metrics.pixel_accuracy(jnp.zeros((3, 3), int)))


def test_classes_that_do_not_occur():
    """Class 2 is never predicted, class 3 never true, class 4 neither."""
    matrix = jnp.array(
        [[3, 1, 0, 0, 0], [0, 4, 0, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0] * 5]
    )
    iou = metrics.intersection_over_union(matrix)
    np.testing.assert_allclose(iou, [3 / 5, 4 / 5, 0, 0, math.nan], 1e-6)
    np.testing.assert_allclose(metrics.mean_iou(matrix), (3 / 5 + 4 / 5) / 4, 1e-6)
    np.testing.assert_allclose(metrics.precision(matrix), [3 / 4, 4 / 5, 0, 0, 0], 1e-6)
    np.testing.assert_allclose(metrics.recall(matrix), [3 / 4, 1, 0, 0, 0], 1e-6)
    np.testing.assert_allclose(metrics.f1(matrix), [3 / 4, 8 / 9, 0, 0, 0], 1e-6)
    assert math.isnan(metrics.mean_iou(jnp.zeros((3, 3), int)))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.confusion(LABELS, LABELS[None], 4), r"\(200,\) and \(1, 200\)"),
        (lambda: metrics.mean_iou(jnp.zeros((2, 3))), r"mean_iou.* got \(2, 3\)"),
        (lambda: metrics.pixel_accuracy(jnp.zeros((2, 3))), r"pixel_accuracy.* got \(2, 3\)"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_predictions_must_be_integers():
    with pytest.raises(TypeError, match="predictions must be integers, got float32.*argmax"):
        metrics.confusion(jnp.ones(3), LABELS, 3)
