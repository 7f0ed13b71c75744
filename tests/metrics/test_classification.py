from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet import metrics

SCORES = jnp.array([[0.1, 2.0, 0.3], [5.0, 1.0, 7.0], [0.0, 0.0, 0.0], [1.0, jnp.nan, 0.0]])


@pytest.mark.parametrize("labels, correct", [
    pytest.param([1, 2, 0, 0], [1, 1, 1, 0], id="a tie counts for the first, NaN is wrong"),
    pytest.param([0, 0, 1, 1], [0, 0, 0, 0], id="all wrong; NaN is no maximum"),
    pytest.param([-1, 255, 3, 1], [0, 0, 0, 0], id="labels that are no classes"),
])  # fmt: skip
def test_accuracy_is_one_value_per_example(labels, correct):
    values = metrics.accuracy(SCORES, jnp.array(labels))
    assert values.dtype == jnp.float32
    assert values.tolist() == correct


@pytest.mark.parametrize("metric", [metrics.accuracy, partial(metrics.top_k_accuracy, k=2)])
@pytest.mark.parametrize("label", [-100, 3])
def test_labels_that_a_loss_leaves_out_bring_a_warning(metric, label):
    """As `fit` looks at them: the labels are known, the outputs are not."""
    labels = jnp.array([1, label, 0, label])
    words = rf"labels outside \[0, 3\) .* got {label}.*ignore_label={label}\)"
    with pytest.warns(UserWarning, match=words):
        jax.eval_shape(lambda z: metric(z, labels), SCORES)
    left_out = jn.losses.weighted(metric, ignore_label=label)  # the line to write
    jax.eval_shape(lambda z: left_out(z, labels), SCORES)
    totals, weights = left_out(SCORES, labels)
    assert totals.tolist() == weights.tolist() == [1, 0, 1, 0]


def test_accuracy_of_sequences_and_narrow_labels():
    scores = jax.nn.one_hot(jnp.array([[0, 200, 3], [4, 250, 6]]), 256)
    values = metrics.accuracy(scores, jnp.array([[0, 200, 1], [4, 251, 6]], jnp.uint8))
    assert values.tolist() == [[1, 1, 0], [1, 0, 1]]


@pytest.mark.parametrize("metric", [metrics.accuracy, partial(metrics.top_k_accuracy, k=1)])
def test_class_probabilities_of_integer_scores(metric):
    """The dtype of the targets alone tells that they are probabilities."""
    scores = jnp.array([[1, 4, 2], [3, 0, 1]])
    targets = jnp.array([[0.1, 0.9, 0.0], [0.2, 0.8, 0]])
    assert metric(scores, targets).tolist() == [1, 0]


@pytest.mark.slow
def test_top_k_accuracy():
    found = metrics.top_k_accuracy(SCORES, jnp.array([2, 1, 0, 0]), k=3)
    assert found.tolist() == [1, 1, 1, 0]  # NaN is never right
    # Ties are not all correct: zeros are correct on the first k classes only.
    zeros = jnp.zeros((5, 5))
    assert metrics.top_k_accuracy(zeros, jnp.arange(5), k=2).tolist() == [1, 1, 0, 0, 0]


@pytest.mark.parametrize("targets", [[-1, 1, 1, 1], [False, True, True, True]])
def test_binary_accuracy(targets):
    logits = jnp.array([-2.0, 0.5, -3.0, jnp.nan])
    assert metrics.binary_accuracy(logits, jnp.array(targets)).tolist() == [1, 1, 0, 0]
    strict = metrics.binary_accuracy(logits, jnp.array(targets), threshold=0.75)
    assert strict.tolist() == [1, 0, 0, 0]
    assert metrics.binary_accuracy(logits, jnp.full(4, jnp.nan)).tolist() == [0, 0, 0, 0]


@pytest.mark.slow
def test_labels_are_integers_or_probabilities():
    labels = np.array([0, 2, 1, 1])
    soft = 0.6 * np.eye(3)[labels] + 0.4 / 3
    for metric in (metrics.accuracy, partial(metrics.top_k_accuracy, k=2)):
        np.testing.assert_array_equal(metric(SCORES, soft), metric(SCORES, labels))
        by_step = metric(SCORES.reshape(2, 2, 3), soft.reshape(2, 2, 3))  # of sequences
        np.testing.assert_array_equal(by_step.ravel(), metric(SCORES, labels))
        assert not jax.jit(metric)(jnp.eye(3)[:1], jnp.full((1, 3), jnp.nan)).any()


NONE = jnp.zeros(4, int)


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: metrics.accuracy(SCORES, NONE[:, None]), ValueError, r"\(4, 3\) and \(4, 1\)"),
    (lambda: metrics.accuracy(SCORES[:, 0], NONE), ValueError, "take jn.metrics.binary_accuracy"),
    (lambda: metrics.accuracy(SCORES[:, 0], SCORES[:, 0]), ValueError, "binary_accuracy"),
    (lambda: metrics.accuracy(SCORES[:, :1], NONE), ValueError, r"got outputs \(4, 1\).*binary_"),
    (lambda: metrics.accuracy(SCORES, [0, 1, 2, 0]), TypeError,
     r"accuracy: targets .* jnp.asarray\(x\)"),
    (lambda: metrics.accuracy(SCORES, jnp.ones(4)), TypeError, "argmax"),
    (lambda: metrics.accuracy(SCORES, jnp.eye(4, 3)), ValueError,
     "each row of targets must sum to 1, got 0"),
    (lambda: metrics.top_k_accuracy(SCORES, NONE, k=4), ValueError,
     "k must be 1 to 3, the number of classes, got 4"),
    (lambda: metrics.top_k_accuracy(SCORES, NONE, k=0), ValueError, "k must be at least 1, got 0"),
    (lambda: metrics.binary_accuracy(SCORES, NONE), ValueError, r"outputs\[..., 0\]"),
    (lambda: metrics.binary_accuracy(SCORES, SCORES, threshold=float("nan")), ValueError,
     "binary_accuracy: threshold must .* got nan"),
])  # fmt: skip
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()
