"""Laws of all losses: one value per example, strict shapes, dtypes, finite gradients, jit."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

import jaxnet as jn
from jaxnet import losses
from jaxnet.services.jax_versions import enable_x64
from tests import helpers
from tests.helpers import refuses
from tests.losses.common import TAKERS, close, slopes

# losses that compare entry with entry, and losses of scores and labels
SAME = {
    "half_squared_error": losses.half_squared_error,
    "sigmoid_cross_entropy": partial(losses.sigmoid_cross_entropy, pos_weight=2.0),
    "perceptron": losses.perceptron,
}
LABELLED = {
    "cross_entropy": partial(losses.cross_entropy, label_smoothing=0.1),
    "focal": losses.focal,
    "dice": losses.dice,
}
OTHER = {"ignore_label", "weighted", "kl_sparsity", "masked", "ctc", "linear_cross_entropy"}
ALL = SAME | LABELLED
NAN = float("nan")
same = pytest.mark.parametrize("loss", SAME.values(), ids=SAME)
labeled = pytest.mark.parametrize("loss", LABELLED.values(), ids=LABELLED)


def test_every_loss_is_in_these_tables():
    functions = {n for n, f in vars(losses).items() if inspect.isfunction(f)}
    assert functions == SAME.keys() | LABELLED.keys() | OTHER


@same
def test_shapes_are_never_broadcast(loss):
    with pytest.raises(ValueError, match=r"same shape, got \(4, 1\) and \(4,\).*outputs\[..., 0\]"):
        loss(jnp.ones((4, 1)), jnp.ones(4))


@labeled
def test_labels_must_match_the_scores(loss):
    with pytest.raises(ValueError, match=r"got \(4, 3\) and \(4, 1\)"):
        loss(jnp.ones((4, 3)), jnp.ones((4, 1), int))
    words = r"targets must hold integers; .* x.argmax\(-1\), got float32"
    with pytest.raises(TypeError, match=words):
        loss(jnp.ones((4, 3)), jnp.ones(4))


@pytest.mark.parametrize("name", ALL)
def test_values_have_the_batch_first(name):
    targets = jn.spec((5, 2, 3)) if name in SAME else jn.spec((5, 2), int)
    values = jax.eval_shape(ALL[name], jn.spec((5, 2, 3)), targets)
    shapes = {"half_squared_error": (5,), "dice": (5,)}
    assert values.shape == shapes.get(name, (5, 2, 3) if name in SAME else (5, 2))


@pytest.mark.fast_cases("3-cross_entropy", "3-focal", "-1-cross_entropy")
@pytest.mark.parametrize("name", sorted(LABELLED.keys() - {"dice"}))
@pytest.mark.parametrize("label", [-1, 3, 255])
def test_a_label_that_is_no_class_gives_nan(name, label):
    values = jax.jit(LABELLED[name])(jnp.full((2, 3), 1 / 3), jnp.array([label, 0]))
    assert np.isnan(values).tolist() == [True, False]
    with pytest.raises(ValueError, match=rf"{name}: targets must be .* \[0, 3\) .* got {label}"):
        LABELLED[name](jnp.full((2, 3), 1 / 3), np.array([0, label]))  # values are known
    with pytest.raises(ValueError, match=f"got {label}"):
        LABELLED[name](jnp.full((2, 3), 1 / 3), jnp.array([0, label]))


@pytest.mark.fast_cases("cross_entropy")
@labeled
def test_labels_that_would_wrap_are_no_classes(loss, x64):
    z = jnp.full((1, 3), 1 / 3)
    for wide in (jnp.array([2**32]), jnp.array([2**32 - 1], jnp.uint32)):
        value = np.asarray(jax.jit(loss)(z, wide))
        assert value == 0 if loss is LABELLED["dice"] else np.isnan(value)
    with enable_x64(False), pytest.raises(ValueError, match="int32 cannot hold|must be in"):
        loss(z.astype(jnp.float32), np.array([2**32]))


@pytest.mark.parametrize("given", [None, [0.5], np.array(["a"])], ids=["object", "list", "words"])
@pytest.mark.parametrize("name", ALL)
def test_arguments_that_are_no_arrays_are_named(name, given):
    outputs = np.ones(1) if name in SAME else np.ones((1, 3))
    with pytest.raises(TypeError, match=f"{name}: outputs must"):
        ALL[name](given, np.ones(1, int))
    with pytest.raises(TypeError, match=f"{name}: targets must"):
        ALL[name](outputs, given)


@pytest.mark.parametrize("target", [-1, 2, np.nan])
def test_targets_that_are_no_probabilities(target):
    """For logits and targets of -1 and +1 there is optax.hinge_loss."""
    words = rf"sigmoid_cross_entropy: targets must be in \[0, 1\], got {target}"
    with pytest.raises(ValueError, match=words):
        losses.sigmoid_cross_entropy(jnp.array([0.5, 0.5]), np.array([0, target], np.float32))


@pytest.mark.fast_cases("cross_entropy")
@labeled
def test_an_empty_batch_has_no_values(loss):
    assert loss(jnp.ones((0, 3)), jnp.ones(0, int)).shape == (0,)


@pytest.mark.fast_cases("cross_entropy", "focal", "perceptron")
@pytest.mark.parametrize("name", ALL)
def test_values_are_wide_and_jit_is_eager(name):
    loss = ALL[name]
    targets = np.array([1, 0, 1], np.int32)
    z = np.float32([0.25, 0.5, 0.75])
    if name in LABELLED:
        z = np.stack([z, z[::-1], 0 * z], -1)
        targets = np.array([1, 2, 0], np.uint8)
    for dtype in (jnp.float32, jnp.bfloat16):
        eager = loss(z.astype(dtype), targets)
        assert eager.dtype == jnp.float32
        close(eager, jax.jit(loss)(z.astype(dtype), targets), 1e-6)
        close(eager, loss(z, targets), 1e-6)


@pytest.mark.parametrize("name", ALL)
def test_value_and_gradient_are_finite_at_extremes(name):
    if name in SAME:
        ends = np.float32([0.0, 1.0, -300.0, 300.0])
        x, y = (a.reshape(-1, 1) for a in np.meshgrid(ends, np.float32([0.0, 1.0])))
    else:
        x = np.float32([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-900.0, 900.0, 0.0]] * 3)
        y = np.repeat(np.arange(3), 3)
    values, grads = jax.device_get(slopes(ALL[name], x, y))
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert np.isfinite(grads).all()


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("cross_entropy", {"label_smoothing": 1}, r"label_smoothing must be in \[0, 1\), got 1"),
        ("focal", {"gamma": -1}, r"focal: gamma must be in \[0, inf\), got -1"),
        ("focal", {"gamma": NAN}, "focal: gamma must be in .* got nan"),
        ("focal", {"gamma": "2"}, "focal: gamma must be a number in .* got '2'"),
        ("sigmoid_cross_entropy", {"pos_weight": -1}, "pos_weight must be finite and at least 0"),
        ("dice", {"smooth": 0}, r"dice: smooth must be in \(0, inf\), got 0"),
        ("ctc", {"blank": -1}, "ctc: blank must be at least 0, got -1"),
    ],
)
def test_options_are_checked_when_used_and_when_passed(name, options, message):
    loss = partial(getattr(losses, name), **options)
    with pytest.raises((ValueError, TypeError), match=message):
        loss(jnp.ones((2, 3)), jnp.ones((2, 3)))
    for take in (TAKERS[taker] for taker in ("supervised", "metrics", "masked")):
        with pytest.raises((ValueError, TypeError), match=message):
            take(loss)


test_messages = refuses(
    [
        (lambda: losses.kl_sparsity(jnp.ones((2, 2)), rho=0), r"rho must be in \(0, 1\), got 0"),
        (lambda: losses.kl_sparsity(jnp.ones((2, 2)), rho=1), r"rho must be in \(0, 1\), got 1"),
        (lambda: losses.focal(jnp.ones((2, 1)), jnp.zeros(2, int)), "two classes or more"),
    ],
    (ValueError, TypeError),
)


CLASSES = LABELLED | {
    "cross_entropy unsmoothed": losses.cross_entropy,
    "focal with gamma 0": partial(losses.focal, gamma=0.0),
}
RNG = np.random.default_rng(0)


@pytest.mark.fast_cases("others-cross_entropy", "others-focal", "two-cross_entropy unsmoothed")
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("masked", [[3, 4], [1, 2, 3, 4]], ids=["two", "others"])
def test_classes_of_minus_infinity_are_as_if_they_were_not_there(name, masked):
    """In value and gradient; a sweep over all losses of classes."""
    z = RNG.normal(size=(6, 5)).astype(np.float32)
    z[:, masked] = -np.inf
    kept = [i for i in range(5) if i not in masked]
    labels = np.arange(6) % len(kept)
    values, slope = slopes(CLASSES[name], z, labels)
    assert np.isfinite(values).all()
    assert np.isfinite(slope).all()
    assert (np.asarray(slope)[:, masked] == 0).all()
    if len(kept) > 1 and name != "dice":  # dice is a mean over the classes
        wanted, by_kept = slopes(CLASSES[name], z[:, kept], labels)
        np.testing.assert_allclose(values, wanted, rtol=1e-5)
        np.testing.assert_allclose(np.asarray(slope)[:, kept], by_kept, rtol=1e-4, atol=1e-7)
    elif name != "dice":
        np.testing.assert_allclose(values, 0, atol=1e-6)


@pytest.mark.fast_cases("cross_entropy unsmoothed", "cross_entropy")
@pytest.mark.parametrize("name", ["cross_entropy", "focal", "cross_entropy unsmoothed"])
def test_an_impossible_label_costs_infinitely_much(name):
    z = np.float32([[-np.inf, 1, 2]])
    assert np.asarray(CLASSES[name](z, np.array([0]))) == np.inf


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_certain_units_cost_nothing_or_infinitely_much(weight):
    z = np.float32([np.inf, -np.inf, np.inf, -np.inf])
    y = np.array([1, 0, 0, 1])
    loss = partial(losses.sigmoid_cross_entropy, pos_weight=weight)
    values, slope = slopes(loss, z, y)
    np.testing.assert_array_equal(values, [0, 0, np.inf, np.inf])
    np.testing.assert_allclose(slope, [0, 0, 1, -weight])


@pytest.mark.fast_cases("cross_entropy", "cross_entropy unsmoothed", "focal")
@pytest.mark.parametrize("name", CLASSES)
def test_probabilities_are_targets_too(name):
    """One-hot targets are labels; mixed ones give the mean of the labels' losses."""
    z = RNG.normal(size=(6, 4)).astype(np.float32)
    labels, loss = np.arange(6) % 4, CLASSES[name]
    one_hot = np.eye(4, dtype=np.float32)[labels]
    helpers.close(slopes(loss, z, one_hot), slopes(loss, z, labels), 1e-5, 1e-6)
    if name != "dice":
        other = (labels + 1) % 4
        mixed = 0.3 * one_hot + 0.7 * np.eye(4, dtype=np.float32)[other]
        run = jax.jit(loss)
        if "unsmoothed" in name or "focal" in name:
            each = 0.3 * np.asarray(run(z, labels)) + 0.7 * np.asarray(run(z, other))
            np.testing.assert_allclose(run(z, mixed), each, rtol=1e-5)
    with pytest.raises(ValueError, match="each row of targets must sum to 1, got 0.5"):
        loss(z, one_hot / 2)
    with pytest.raises(TypeError, match="must hold integers"):
        loss(z, one_hot[:, :3])


# All that take probabilities; the perceptron takes the sign of its targets.
SOFT = CLASSES | SAME | {"weighted": losses.weighted(class_weights=[1.0, 2.0, 4.0])}


@pytest.mark.fast_cases("cross_entropy", "sigmoid_cross_entropy", "weighted")
@pytest.mark.parametrize("name", sorted(SOFT.keys() - {"perceptron"}))
def test_gradients_by_both_arguments(name, x64):
    """Also by probabilities of exactly 0 and 1, as of labels that are learned."""
    y = np.array([[1.0, 0, 0], [0, 1, 0], [0.25, 0.75, 0], [0.5, 0.25, 0.25]])
    check_grads(jax.jit(SOFT[name]), (RNG.normal(size=y.shape), y), order=2, modes=["rev"])


@pytest.mark.slow
def test_a_masked_class_may_have_probability_0():
    z = np.float32([[1, -np.inf, 2]])
    p = np.float32([[0.25, 0, 0.75]])
    for loss in (losses.cross_entropy, losses.focal):
        values, slope = slopes(loss, z, p)
        assert np.isfinite(values).all()
        assert np.isfinite(slope).all()
        by_p = jax.jit(jax.grad(lambda p, z, loss=loss: loss(z, p).sum()))(p, z)
        assert np.isfinite(by_p).all()
        assert by_p[0, 2] > 0


@pytest.mark.slow
def test_class_weights_of_probabilities():
    z = RNG.normal(size=(5, 3)).astype(np.float32)
    labels = np.arange(5) % 3
    for inner in (losses.cross_entropy, losses.focal):
        loss = jax.jit(losses.weighted(inner, class_weights=[1.0, 2.0, 4.0]))
        helpers.close(loss(z, np.eye(3)[labels]), loss(z, labels), 1e-5, 0)


@pytest.mark.slow
@pytest.mark.parametrize("augment", [jn.data.mixup(1.0, 3), jn.data.cutmix(1.0, 3)])
def test_mixed_labels_train_with_an_accuracy(augment):
    net = jn.serial(jn.flatten(), jn.dense(3))
    metrics = {"accuracy": jn.metrics.accuracy, "two": partial(jn.metrics.top_k_accuracy, k=2)}
    objective = jn.supervised(net, losses.cross_entropy, metrics=metrics)
    trainer = jn.trainer(jn.augmented(objective, augment), optax.sgd(0.1))
    batch = RNG.normal(size=(8, 4, 4, 1)).astype(np.float32), np.arange(8) % 3
    _, found = trainer.step(trainer.init(jax.random.key(0), batch), batch)
    assert 0 <= found["accuracy"] <= found["two"] <= 1
    assert np.isfinite(found["loss"])


def narrow(name, dtype):
    """Outputs of 16,384 rows or of 64 x 64 pixels, targets, and the loss."""
    if name in LABELLED:
        shape = (2, 64, 64, 5) if name == "dice" else (16_384, 5)
        z = RNG.normal(size=shape).astype(dtype)
        return LABELLED[name], z, RNG.integers(0, 5, shape[:-1])
    shape = (2, 64, 64, 4)
    z = RNG.uniform(0.05, 0.95, shape).astype(dtype)
    return SAME[name], z, RNG.integers(0, 2, shape).astype(dtype)


@pytest.mark.fast_cases(*(f"{name}-bfloat16" for name in ALL))
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", ALL)
def test_sums_are_made_in_float32(name, dtype):
    loss, z, targets = narrow(name, dtype)
    objective = jn.supervised(jn.compose(lambda m, x: x, name="same"), loss)

    def mean(z, targets):
        (values, _), _ = objective.apply({}, {}, (z, targets))
        return values.mean()

    run = jax.jit(jax.value_and_grad(mean))
    value, slope = run(z, targets)
    wide_targets = targets.astype(np.float32) if targets.dtype == dtype else targets
    wanted, by_z = run(z.astype(np.float32), wide_targets)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, wanted, rtol=1e-3)
    off = np.linalg.norm(np.float32(slope) - by_z) / np.linalg.norm(by_z)
    assert off < (0.01 if dtype == jnp.bfloat16 else 0.05)  # means of 16,384: below 6e-5
