import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet import losses
from jaxnet.services.jax_versions import enable_x64
from tests.losses.common import check_torch, close, slopes

RNG = np.random.default_rng(7)
LOGITS = RNG.normal(size=(5, 4)) * 2
LABELS = np.array([0, 3, 1, 1, 2])
BITS = RNG.integers(0, 2, size=(5, 4)).astype(float)


def test_cross_entropies_agree():
    """On probabilities and on logits, optax's and ours are the same function."""

    @jax.jit
    def pairs(z, labels, bits):
        plain = optax.softmax_cross_entropy_with_integer_labels(z, labels)
        one_hot = optax.smooth_labels(jax.nn.one_hot(labels, 4), 0.3)
        return {
            "of logits": (losses.cross_entropy(z, labels), plain),
            "focal": (losses.focal(z, labels, gamma=0.0), plain),
            "smooth": (
                losses.cross_entropy(z, labels, label_smoothing=0.3),
                optax.softmax_cross_entropy(z, one_hot),
            ),
            "binary": (
                losses.sigmoid_cross_entropy(z, bits),
                optax.sigmoid_binary_cross_entropy(z, bits),
            ),
        }

    with enable_x64(True):
        for name, (ours, theirs) in pairs(jnp.array(LOGITS), LABELS, jnp.array(BITS)).items():
            np.testing.assert_allclose(ours, theirs, 1e-10, 1e-10, err_msg=name)


def test_focal_by_hand():
    z = np.log(np.float32([[0.75, 0.25]]))
    close(
        jax.jit(partial(losses.focal, gamma=2.0))(z, np.array([0])),
        [0.0625 * -math.log(0.75)],
        1e-6,
    )
    close(
        jax.jit(partial(losses.focal, gamma=1.0))(z, np.array([1])), [0.75 * -math.log(0.25)], 1e-6
    )
    # two classes with logits (z, 0) are one logit z
    z = np.float32([-3, 0.5, 2])
    two = jax.jit(partial(losses.focal, gamma=1.5))(np.stack([z, 0 * z], -1), np.array([0, 1, 0]))
    one = partial(optax.sigmoid_focal_loss, gamma=1.5)
    close(jax.jit(one)(z, np.array([1, 0, 1])), two, 1e-6)


def test_focal_is_finite_where_one_minus_p_rounds_to_zero():
    """(1 - p)^0.5 has an infinite slope at p = 1."""
    z = jnp.array([[60.0, 0.0]])
    value, grad = slopes(partial(losses.focal, gamma=0.5), z, jnp.array([0]))
    assert 0 <= value < 1e-20 and jnp.isfinite(grad).all()


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.focal])
def test_a_class_that_is_ruled_out_does_not_matter(loss):
    """Its logit is minus infinity; 0 times its logarithm was NaN."""
    z, y = jnp.array([[1.0, 2.0]]), jnp.array([1])
    values, grads = slopes(loss, jnp.array([[1.0, 2.0, -jnp.inf]]), y)
    close(values, loss(z, y), 1e-6)
    assert jnp.isfinite(grads).all()


def torch_pairs(torch):
    """name: our loss, PyTorch's, outputs, targets."""
    f = torch.nn.functional

    def focal(z, y, gamma=1.7):
        p = z.softmax(-1).gather(-1, y[:, None])[:, 0]
        return -((1 - p) ** gamma) * p.log()

    def bce(p, y):
        return f.binary_cross_entropy_with_logits(p, y, reduction="none")

    def smoothed(z, y):
        return f.cross_entropy(z, y, reduction="none", label_smoothing=0.2)

    ours = partial(losses.cross_entropy, label_smoothing=0.2)
    return {
        "binary": (losses.sigmoid_cross_entropy, bce, LOGITS, BITS),
        "cross_entropy": (ours, smoothed, LOGITS, LABELS),
        "focal": (partial(losses.focal, gamma=1.7), focal, LOGITS, LABELS),
    }


@pytest.mark.parametrize("name", ["binary", "cross_entropy", "focal"])
def test_values_and_gradients_match_pytorch(name):
    torch = pytest.importorskip("torch", reason="PyTorch is the reference")
    check_torch(*torch_pairs(torch)[name])


@pytest.mark.parametrize("shape", [(6,), (3, 4)])
@pytest.mark.parametrize("options", [
    {"class_weights": [0.5, 2.0, 1.0, 0.0]},
    {"class_weights": [0.5, 2.0, 1.0, 3.0], "label_smoothing": 0.2},
    {"ignore_label": -100},
    {"ignore_label": -100, "label_smoothing": 0.2},
    {"class_weights": [0.5, 2.0, 1.0, 3.0], "label_smoothing": 0.2, "ignore_label": 1},
], ids=lambda options: " ".join(options))  # fmt: skip
def test_weighted_cross_entropy_is_that_of_pytorch(shape, options):
    """The ratio of the sums is PyTorch's mean, values and gradients."""
    torch = pytest.importorskip("torch", reason="values are compared with PyTorch's")
    rng = np.random.default_rng(1)
    z, labels = rng.normal(size=(*shape, 4)) * 2, rng.integers(0, 3, size=shape)
    labels.flat[0] = options.get("ignore_label", 0)
    given = torch.tensor(z, requires_grad=True)
    options = dict(options)
    smoothing = {"label_smoothing": options.pop("label_smoothing", 0.0)}
    theirs = smoothing | {"ignore_index": options.get("ignore_label", -100)}
    if "class_weights" in options:
        theirs["weight"] = torch.tensor(options["class_weights"], dtype=torch.float64)
    value = torch.nn.functional.cross_entropy(given.movedim(-1, 1), torch.tensor(labels), **theirs)
    value.backward()
    loss = losses.weighted(partial(losses.cross_entropy, **smoothing), **options)

    def mean(z, labels):
        totals, weights = loss(z, labels)
        assert totals.shape == weights.shape == shape[:1]
        return totals.sum() / weights.sum()

    with enable_x64(True):
        ours, slope = jax.jit(jax.value_and_grad(mean))(jnp.array(z), jnp.array(labels))
        close(ours, value.detach().numpy())
        close(slope, given.grad.numpy(), 1e-9)


def test_any_loss_can_be_weighted():
    """The pair is the values times the weights, and the weights."""
    rng = np.random.default_rng(1)
    z, labels = rng.normal(size=(3, 4, 5)), rng.integers(0, 5, size=(3, 4))
    options = {"class_weights": jnp.array([0.5, 2.0, 1.0, 0.0, 3.0]), "ignore_label": 1}
    by_entry = np.where(labels == 1, 0, np.array(options["class_weights"])[labels])
    for loss in (losses.focal, losses.cross_entropy, lambda z, y: losses.focal(z, y)):
        totals, weights = losses.weighted(loss, **options)(z, labels)
        close(weights, by_entry.sum(1), 1e-6)
        close(totals, (by_entry * np.asarray(loss(z, labels))).sum(1), 1e-6)
    with pytest.raises(ValueError, match="expected class_weights or ignore_label, got neither"):
        losses.weighted()
    for wrong in ([1.0, -1.0], jnp.array([1.0, -1.0]), jnp.array([1.0, jnp.nan])):
        with pytest.raises(ValueError, match="class_weights must be finite and at least 0, got"):
            losses.weighted(class_weights=wrong)
    with pytest.raises(ValueError, match=r"one value per label \(3, 4\), got \(3,\)"):
        losses.weighted(lambda z, y: jnp.ones(3), ignore_label=0)(z, labels)


def test_weighted_cross_entropy_in_a_trainer():
    """Batches whose weights differ are averaged by weight, in training and in evaluation."""
    objective = jn.supervised(lambda x: x, losses.weighted(class_weights=[1.0, 3.0]))
    x, y = jnp.array([[2.0, 0], [0, 1], [1, 1]]), jnp.array([0, 1, 1])
    found = jn.evaluate(objective, {}, {}, (x, y), batch_size=2)
    nll = np.log(1 + np.exp([-2.0, -1, 0]))
    close(found["loss"], (nll * [1, 3, 3]).sum() / 7, 1e-6)


def test_sigmoid_cross_entropy_is_that_of_pytorch():
    torch = pytest.importorskip("torch", reason="values are compared with PyTorch's")
    functional = torch.nn.functional
    weights = np.array([0.5, 1.0, 3.0, 7.0])
    loss = partial(losses.sigmoid_cross_entropy, pos_weight=weights)
    check_torch(
        loss,
        lambda z, y: functional.binary_cross_entropy_with_logits(
            z, y, reduction="none", pos_weight=torch.tensor(weights)
        ),
        LOGITS,
        BITS,
    )
    plain = losses.sigmoid_cross_entropy(LOGITS, BITS)
    close(plain, optax.sigmoid_binary_cross_entropy(jnp.array(LOGITS), BITS), 1e-5)
    far, slope = slopes(losses.sigmoid_cross_entropy, jnp.array([-300.0]), jnp.array([1.0]))
    assert (far, slope) == (300, -1)


@pytest.mark.parametrize(("make", "words"), [
    (lambda: losses.weighted(class_weights=[[1.0]]), r"must have shape \(classes,\), got"),
    (lambda: losses.weighted(ignore_label=0.5), "weighted: ignore_label must be"),
    (
        lambda: losses.sigmoid_cross_entropy(LOGITS, BITS, pos_weight=float("nan")),
        "pos_weight must be finite",
    ),
    (
        lambda: losses.weighted(class_weights=[1.0, 2.0])(LOGITS, LABELS),
        "class_weights must hold one per class, 4, got 2",
    ),
    (
        lambda: losses.sigmoid_cross_entropy(LOGITS, BITS, pos_weight=[1.0, 2.0]),
        r"pos_weight must be a number or one per label, got \(2,\)",
    ),
    (lambda: losses.weighted(ignore_label=9)(LOGITS, LABELS + 3), r"targets .*\[0, 4\)"),
])  # fmt: skip
def test_weights_that_do_not_fit(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()


def test_labels_that_start_at_1_are_told_so():
    with pytest.raises(
        ValueError, match="Labels start at 0; if yours are 1 to 3, write labels - 1"
    ):
        jn.losses.cross_entropy(jnp.ones((3, 3)), np.array([1, 2, 3]))
    with pytest.raises(ValueError, match="For labels up to 3, the last layer needs 4 outputs"):
        jn.losses.cross_entropy(jnp.ones((3, 3)), np.array([0, 2, 3]))
