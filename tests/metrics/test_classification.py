import math

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
GUESSES = np.where(RNG.random(200) < 0.6, LABELS, RNG.integers(0, 4, 200))


@pytest.mark.parametrize(
    "labels, right",
    [
        pytest.param([1, 2, 0, 0], [1, 1, 1, 0], id="a tie counts for the first, NaN is wrong"),
        pytest.param([0, 0, 1, 1], [0, 0, 0, 0], id="all wrong; NaN is no maximum"),
        pytest.param([-1, 255, 3, 1], [0, 0, 0, 0], id="labels that are no classes"),
    ],
)
def test_accuracy_gives_one_value_an_example(labels, right):
    values = metrics.accuracy(SCORES, jnp.array(labels))
    assert values.dtype == jnp.float32
    assert values.tolist() == right
    assert metrics.error_rate(SCORES, jnp.array(labels)).tolist() == [1 - r for r in right]


def test_accuracy_of_sequences_and_narrow_labels():
    scores = jax.nn.one_hot(jnp.array([[0, 200, 3], [4, 250, 6]]), 256)
    values = metrics.accuracy(scores, jnp.array([[0, 200, 1], [4, 251, 6]], jnp.uint8))
    assert values.tolist() == [[1, 1, 0], [1, 0, 1]]


def test_top_k_accuracy():
    labels = jnp.array([2, 1, 0, 0])
    assert metrics.top_k_accuracy(1)(SCORES, labels).tolist() == [0, 0, 1, 0]
    assert metrics.top_k_accuracy(2)(SCORES, labels).tolist() == [1, 0, 1, 0]
    assert metrics.top_k_accuracy(3)(SCORES, labels).tolist() == [1, 1, 1, 0]
    # Ties are not all right: zeros are right on the first k classes only.
    zeros = jnp.zeros((5, 5))
    assert metrics.top_k_accuracy(2)(zeros, jnp.arange(5)).tolist() == [1, 1, 0, 0, 0]


def test_top_k_is_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")
    scores = RNG.normal(size=(200, 4))
    for k in (1, 2, 3):
        ours = metrics.top_k_accuracy(k)(jnp.array(scores), jnp.array(LABELS)).mean()
        np.testing.assert_allclose(ours, sklearn.top_k_accuracy_score(LABELS, scores, k=k), 1e-6)


@pytest.mark.parametrize("targets", [[0, 1, 1, 1], [-1, 1, 1, 1], [False, True, True, True]])
def test_binary_accuracy(targets):
    logits = jnp.array([-2.0, 0.5, -3.0, jnp.nan])
    assert metrics.binary_accuracy()(logits, jnp.array(targets)).tolist() == [1, 1, 0, 0]
    assert metrics.binary_accuracy(0.75)(logits, jnp.array(targets)).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.accuracy(SCORES, jnp.zeros((4, 1), int)), r"\(4, 3\) and \(4, 1\)"),
        (lambda: metrics.accuracy(SCORES[:, 0], jnp.zeros(4, int)), r"\(batch, ..., classes\)"),
        (lambda: metrics.top_k_accuracy(4)(SCORES, jnp.zeros(4, int)), "only 3 classes"),
        (lambda: metrics.top_k_accuracy(0), "at least 1, got 0"),
        (lambda: metrics.binary_accuracy()(SCORES, jnp.zeros(4)), r"outputs\[:, 0\]"),
        (lambda: metrics.confusion(LABELS, LABELS[None], 4), r"\(200,\) and \(1, 200\)"),
        (lambda: metrics.mean_iou(jnp.zeros((2, 3))), r"got \(2, 3\)"),
        (lambda: metrics.pixel_accuracy(jnp.zeros((2, 3))), r"pixel_accuracy.* got \(2, 3\)"),
        (lambda: metrics.edit_error_rate(["a"], []), "1 and 0"),
        (lambda: metrics.edit_error_rate(["a"], [""]), "all empty"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_labels_must_be_integers():
    with pytest.raises(TypeError, match="argmax"):
        metrics.accuracy(SCORES, jnp.eye(4, 3))
    with pytest.raises(TypeError, match="predictions must be integers, got float32"):
        metrics.confusion(SCORES, SCORES, 3)


def test_metrics_in_training_leave_out_the_padding():
    """5 examples in batches of 3: the last batch is filled up and masked."""
    x = jnp.eye(5)
    y = jnp.array([0, 1, 2, 0, 1])
    net, optimizer = jn.dense(3, kernel_init=jn.initializers.zeros), optax.sgd(0.0)
    loss = optax.softmax_cross_entropy_with_integer_labels
    objective = jn.supervised(net, loss, metrics={"accuracy": jn.metrics.accuracy})
    step = jn.make_step(objective, optimizer)
    train_state = jn.init_training(net, optimizer, jax.random.key(0), (x, y))
    epochs = jn.fit(train_state, step, (x, y), epochs=1, batch_size=3, progress=False)
    assert next(epochs).train["accuracy"] == pytest.approx(2 / 5)  # zeros say class 0


def test_confusion_by_hand():
    labels = jnp.array([[0, 0, 1], [2, 2, 2]])
    guesses = jnp.array([[0, 1, 1], [2, 0, 0]])
    matrix = metrics.confusion(guesses, labels, 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 1]]  # rows are true
    assert metrics.confusion(guesses, labels, 3, void=2).tolist() == [[1, 1, 0], [0, 1, 0], [0] * 3]


def test_confusion_does_not_count_what_is_no_class():
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


def test_confusion_and_scores_are_scikit_learns():
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


def test_bits_per_character():
    assert metrics.bits_per_character(math.log(8)) == pytest.approx(3)
    assert metrics.bits_per_character(jnp.float32(math.log(2))) == pytest.approx(1)


@pytest.mark.parametrize(
    "a, b, edits",
    [
        ("kitten", "sitting", 3),
        ("", "", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("abc", "abc", 0),
        ("abcdef", "bcdefg", 2),
        (["the", "cat"], ["the", "black", "cat"], 1),
        (np.array([1, 2, 3]), jnp.array([3, 2, 1]), 2),
    ],
)
def test_edit_distance_by_hand(a, b, edits):
    assert metrics.edit_distance(a, b) == metrics.edit_distance(b, a) == edits


def test_edit_distance_is_the_textbook_recursion():
    def textbook(a, b):
        table = np.zeros((len(a) + 1, len(b) + 1), int)
        table[:, 0], table[0] = range(len(a) + 1), range(len(b) + 1)
        for i in range(1, len(a) + 1):
            for j in range(1, len(b) + 1):
                table[i, j] = min(
                    table[i - 1, j] + 1,
                    table[i, j - 1] + 1,
                    table[i - 1, j - 1] + (a[i - 1] != b[j - 1]),
                )
        return table[-1, -1]

    rng = np.random.default_rng(0)
    for _ in range(100):
        a, b = (rng.integers(0, 3, rng.integers(0, 9)) for _ in range(2))
        assert metrics.edit_distance(a, b) == textbook(a, b)


def test_sequence_error_rate_weighs_by_length():
    assert metrics.edit_error_rate(["a", "xyz"], ["b", "xyz"]) == 1 / 4  # not (1 + 0) / 2
    assert metrics.edit_error_rate(["aaaa"], ["b"]) == 4
