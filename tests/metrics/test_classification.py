import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet import metrics

SCORES = jnp.array([[0.1, 2.0, 0.3], [5.0, 1.0, 7.0], [0.0, 0.0, 0.0], [1.0, jnp.nan, 0.0]])
RNG = np.random.default_rng(5)
LABELS = RNG.integers(0, 4, 200)


@pytest.mark.parametrize(
    "labels, correct",
    [
        pytest.param([1, 2, 0, 0], [1, 1, 1, 0], id="a tie counts for the first, NaN is wrong"),
        pytest.param([0, 0, 1, 1], [0, 0, 0, 0], id="all wrong; NaN is no maximum"),
        pytest.param([-1, 255, 3, 1], [0, 0, 0, 0], id="labels that are no classes"),
    ],
)
def test_accuracy_is_one_value_per_example(labels, correct):
    values = metrics.accuracy(SCORES, jnp.array(labels))
    assert values.dtype == jnp.float32
    assert values.tolist() == correct


@pytest.mark.parametrize("metric", [metrics.accuracy, partial(metrics.top_k_accuracy, k=2)])
@pytest.mark.parametrize("label", [-100, 3])
def test_labels_that_a_loss_leaves_out_bring_a_warning(metric, label):
    """As `fit` looks at them: the labels are known, the outputs are not."""
    labels = jnp.array([1, label, 0, label])
    with pytest.warns(
        UserWarning, match=rf"labels outside \[0, 3\) .* got {label}.*ignore_label={label}\)"
    ):
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
    scores, targets = jnp.array([[1, 4, 2], [3, 0, 1]]), jnp.array([[0.1, 0.9, 0.0], [0.2, 0.8, 0]])
    assert metric(scores, targets).tolist() == [1, 0]


@pytest.mark.slow
def test_top_k_accuracy():
    labels = jnp.array([2, 1, 0, 0])
    assert metrics.top_k_accuracy(SCORES, labels, k=1).tolist() == [0, 0, 1, 0]
    assert metrics.top_k_accuracy(SCORES, labels, k=2).tolist() == [1, 0, 1, 0]
    assert metrics.top_k_accuracy(SCORES, labels, k=3).tolist() == [1, 1, 1, 0]
    # Ties are not all correct: zeros are correct on the first k classes only.
    zeros = jnp.zeros((5, 5))
    assert metrics.top_k_accuracy(zeros, jnp.arange(5), k=2).tolist() == [1, 1, 0, 0, 0]


@pytest.mark.slow
def test_top_k_accuracy_matches_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")
    scores = RNG.normal(size=(200, 4))
    for k in (1, 2, 3):
        ours = metrics.top_k_accuracy(jnp.array(scores), jnp.array(LABELS), k=k).mean()
        np.testing.assert_allclose(ours, sklearn.top_k_accuracy_score(LABELS, scores, k=k), 1e-6)


@pytest.mark.parametrize("targets", [[0, 1, 1, 1], [-1, 1, 1, 1], [False, True, True, True]])
def test_binary_accuracy(targets):
    logits = jnp.array([-2.0, 0.5, -3.0, jnp.nan])
    assert metrics.binary_accuracy(logits, jnp.array(targets)).tolist() == [1, 1, 0, 0]
    assert metrics.binary_accuracy(logits, jnp.array(targets), threshold=0.75).tolist() == [
        1,
        0,
        0,
        0,
    ]
    assert metrics.binary_accuracy(logits, jnp.full(4, jnp.nan)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.accuracy(SCORES, jnp.zeros((4, 1), int)), r"\(4, 3\) and \(4, 1\)"),
        (lambda: metrics.accuracy(SCORES[:, 0], jnp.zeros(4, int)), r"\(batch, ..., classes\)"),
        (
            lambda: metrics.top_k_accuracy(SCORES, jnp.zeros(4, int), k=4),
            "at most the number of classes, 3, got 4",
        ),
        (lambda: metrics.top_k_accuracy(SCORES, LABELS, k=0), "k must be at least 1, got 0"),
        (lambda: metrics.binary_accuracy(SCORES, jnp.zeros(4)), r"outputs\[..., 0\]"),
        (
            lambda: metrics.binary_accuracy(SCORES, SCORES, threshold=math.nan),
            "binary_accuracy: threshold must .* got nan",
        ),
        (
            lambda: metrics.binary_accuracy(SCORES, SCORES, threshold="a"),
            "binary_accuracy: threshold must be a number",
        ),
        (lambda: metrics.binary_accuracy(None, SCORES), "binary_accuracy: outputs must be a JAX"),
        (lambda: metrics.accuracy(SCORES, [0, 1, 2, 0]), r"accuracy: targets .* jnp.asarray\(x\)"),
        (lambda: metrics.accuracy("a", LABELS), "accuracy: outputs must be a JAX or NumPy array"),
        (
            lambda: metrics.top_k_accuracy(None, LABELS, k=1),
            "top_k_accuracy: outputs must be a JAX",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_labels_are_integers_or_probabilities():
    with pytest.raises(TypeError, match="argmax"):
        metrics.accuracy(SCORES, jnp.ones(4))
    with pytest.raises(ValueError, match="each row of targets must sum to 1, got 0"):
        metrics.accuracy(SCORES, jnp.eye(4, 3))
    labels = np.array([0, 2, 1, 1])
    soft = 0.6 * np.eye(3)[labels] + 0.4 / 3
    for metric in (metrics.accuracy, partial(metrics.top_k_accuracy, k=2)):
        np.testing.assert_array_equal(metric(SCORES, soft), metric(SCORES, labels))


@pytest.mark.slow
def test_metrics_in_training_leave_out_the_padding():
    """5 examples in batches of 3: the last batch is padded and masked."""
    x = jnp.eye(5)
    y = jnp.array([0, 1, 2, 0, 1])
    net = jn.dense(3, kernel_init=jn.initializers.zeros)
    loss = optax.softmax_cross_entropy_with_integer_labels
    objective = jn.supervised(net, loss, metrics={"accuracy": jn.metrics.accuracy})
    trainer = jn.trainer(objective, optax.sgd(0.0))
    train_state = trainer.init(jax.random.key(0), (x, y))
    epochs = jn.fit(trainer, train_state, (x, y), epochs=1, batch_size=3, progress=False)
    assert next(epochs).train["accuracy"] == pytest.approx(2 / 5)  # zeros predict class 0
