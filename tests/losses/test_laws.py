"""Laws of all losses: one value per example, strict shapes, dtypes, finite gradients, jit."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet import losses
from tests.losses.common import close, slopes

# losses that compare entry with entry, and losses of scores and labels
SAME = {
    "half_squared_error": losses.half_squared_error,
    "binary_cross_entropy_of_probabilities": losses.binary_cross_entropy_of_probabilities,
    "sigmoid_cross_entropy": partial(losses.sigmoid_cross_entropy, pos_weight=2.0),
    "perceptron": losses.perceptron,
}
LABELLED = {
    "cross_entropy_of_probabilities": losses.cross_entropy_of_probabilities,
    "cross_entropy": partial(losses.cross_entropy, label_smoothing=0.1),
    "focal": losses.focal,
    "dice": losses.dice,
}
OTHER = {"ignore_label", "weighted", "kl_sparsity", "masked", "masked_mean", "ctc"}
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
    with pytest.raises(
        TypeError, match=r"targets must hold integers; .* x.argmax\(-1\), got float32"
    ):
        loss(jnp.ones((4, 3)), jnp.ones(4))


@same
def test_values_have_the_batch_first(loss):
    values = jax.eval_shape(loss, jn.spec((5, 2, 3)), jn.spec((5, 2, 3)))
    assert values.shape == ((5,) if loss is losses.half_squared_error else (5, 2, 3))


@pytest.mark.fast_cases("cross_entropy_of_probabilities")
@labeled
def test_values_of_labels_have_the_batch_first(loss):
    values = jax.eval_shape(loss, jn.spec((5, 2, 3)), jn.spec((5, 2), int))
    assert values.shape == ((5,) if loss is LABELLED["dice"] else (5, 2))


@pytest.mark.fast_cases(
    "3-cross_entropy",
    "3-cross_entropy_of_probabilities",
    "255-cross_entropy",
    "-1-cross_entropy",
)
@pytest.mark.parametrize("name", sorted(LABELLED.keys() - {"dice"}))
@pytest.mark.parametrize("label", [-1, 3, 255])
def test_a_label_that_is_no_class_gives_nan(name, label):
    values = jax.jit(LABELLED[name])(jnp.full((2, 3), 1 / 3), jnp.array([label, 0]))
    assert np.isnan(values).tolist() == [True, False]
    with pytest.raises(ValueError, match=rf"{name}: targets must be .* \[0, 3\) .* got {label}"):
        LABELLED[name](jnp.full((2, 3), 1 / 3), np.array([0, label]))  # values are known
    with pytest.raises(ValueError, match=f"got {label}"):
        LABELLED[name](jnp.full((2, 3), 1 / 3), jnp.array([0, label]))


@pytest.mark.fast_cases("cross_entropy_of_probabilities")
@labeled
def test_labels_that_would_wrap_are_no_classes(loss, x64):
    z = jnp.full((1, 3), 1 / 3)
    for wide in (jnp.array([2**32]), jnp.array([2**32 - 1], jnp.uint32)):
        value = np.asarray(jax.jit(loss)(z, wide))
        assert value == 0 if loss is LABELLED["dice"] else np.isnan(value)
    with jax.enable_x64(False), pytest.raises(ValueError, match="int32 cannot hold|must be in"):
        loss(z.astype(jnp.float32), np.array([2**32]))


@pytest.mark.parametrize("given", [None, [0.5], "a", 0.5, np.array(["a"]), np.array([None])])
@pytest.mark.parametrize("name", SAME | LABELLED)
def test_arguments_that_are_no_arrays_are_named(name, given):
    """Lists, objects, strings."""
    loss, maker = (SAME | LABELLED)[name], name
    with pytest.raises(TypeError, match=f"{maker}: outputs must"):
        loss(given, np.ones(1, int))
    with pytest.raises(TypeError, match=f"{maker}: targets must"):
        loss(np.ones((1, 3))[:, 0] if name in SAME else np.ones((1, 3)), given)


@pytest.mark.parametrize("name", ["binary_cross_entropy_of_probabilities", "sigmoid_cross_entropy"])
@pytest.mark.parametrize("target", [-1, 2, np.nan])
def test_targets_that_are_no_probabilities(name, target):
    """For logits and targets of -1 and +1 there is optax.hinge_loss."""
    with pytest.raises(ValueError, match=rf"{name}: targets must be in \[0, 1\], got {target}"):
        SAME[name](jnp.array([0.5, 0.5]), np.array([0, target], np.float32))


@pytest.mark.fast_cases("cross_entropy")
@labeled
def test_an_empty_batch_has_no_values(loss):
    assert loss(jnp.ones((0, 3)), jnp.ones(0, int)).shape == (0,)


@same
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_are_wide_and_jit_is_eager(loss, dtype):
    z, targets = jnp.array([0.25, 0.5, 0.75], dtype), jnp.array([1, 0, 1])
    eager = loss(z, targets)
    assert eager.dtype == jnp.float32
    close(eager, jax.jit(loss)(z, targets), 1e-6)
    close(eager, loss(z.astype(jnp.float32), targets), 1e-6)


@labeled
def test_labeled_losses_are_wide_and_jit_is_eager(loss):
    z = jnp.array([[0.25, 0.5, 0.125], [0.5, 0.25, 0.25]], jnp.bfloat16)
    eager = loss(z, jnp.array([1, 2], jnp.uint8))
    assert eager.dtype == jnp.float32
    close(eager, jax.jit(loss)(z, jnp.array([1, 2])), 1e-6)
    close(eager, loss(z.astype(jnp.float32), jnp.array([1, 2])), 1e-6)


@pytest.mark.parametrize("name", SAME)
def test_value_and_gradient_are_finite_at_extremes(name):
    ends = [0.0, 1.0] if name.endswith("probabilities") else [0.0, 1.0, -300.0, 300.0]
    x, y = (a.reshape(-1, 1) for a in jnp.meshgrid(jnp.array(ends), jnp.array([0.0, 1.0])))
    values, grads = slopes(SAME[name], x, y)
    assert jnp.isfinite(values).all() and (values >= 0).all()
    assert jnp.isfinite(grads).all()


@pytest.mark.parametrize("name", LABELLED)
def test_labeled_value_and_gradient_are_finite_at_extremes(name):
    scores = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-900.0, 900.0, 0.0]]
    scores = jnp.array(scores[:2] if name.endswith("probabilities") else scores)
    for label in range(3):
        values, grads = slopes(LABELLED[name], scores, jnp.full(len(scores), label))
        assert jnp.isfinite(values).all() and (values >= 0).all()
        assert jnp.isfinite(grads).all()


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("cross_entropy", {"label_smoothing": 1}, r"label_smoothing must be in \[0, 1\), got 1"),
        ("cross_entropy", {"label_smoothing": NAN}, "cross_entropy: label_smoothing must"),
        ("focal", {"gamma": -1}, r"focal: gamma must be in \[0, inf\), got -1"),
        ("focal", {"gamma": NAN}, "focal: gamma must be in .* got nan"),
        ("focal", {"gamma": "2"}, "focal: gamma must be a number in .* got '2'"),
        ("focal", {"gamma": None}, "focal: gamma must be a number in .* got None"),
        ("sigmoid_cross_entropy", {"pos_weight": -1}, "pos_weight must be finite and at least 0"),
        ("dice", {"smooth": 0}, r"dice: smooth must be in \(0, inf\), got 0"),
        ("dice", {"smooth": NAN}, r"dice: smooth must be in \(0, inf\), got nan"),
        ("ctc", {"blank": -1}, "ctc: blank must be at least 0, got -1"),
    ],
)
def test_options_are_checked_when_used_and_when_passed(name, options, message):
    loss = partial(getattr(losses, name), **options)
    with pytest.raises((ValueError, TypeError), match=message):
        loss(jnp.ones((2, 3)), jnp.ones((2, 3)))
    for take in (
        lambda: jn.supervised(jn.dense(3), loss),
        lambda: jn.supervised(jn.dense(3), optax.squared_error, metrics={"m": loss}),
        lambda: losses.masked(loss),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            take()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: losses.kl_sparsity(jnp.ones((2, 2)), rho=0), r"rho must be in \(0, 1\), got 0"),
        (lambda: losses.kl_sparsity(jnp.ones((2, 2)), rho=1), r"rho must be in \(0, 1\), got 1"),
        (lambda: losses.kl_sparsity(jnp.ones((2, 2)), rho=None), "rho must be a number in"),
        (lambda: losses.focal(jnp.ones((2, 1)), jnp.zeros(2, int)), "two classes or more"),
    ],
)
def test_messages(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


@pytest.mark.slow
def test_losses_take_part_in_training():
    """A perceptron trained on its criterion learns AND, with no mistake left."""
    x = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = jnp.array([[0], [0], [0], [1]])
    net = jn.dense(1, kernel_init=jn.initializers.zeros)
    metrics = {"accuracy": jn.metrics.binary_accuracy}
    objective = jn.supervised(net, jn.losses.perceptron, metrics=metrics)
    trainer = jn.trainer(objective, optax.sgd(1.0))
    train_state = trainer.init(jax.random.key(0), (x, y))
    for _ in range(60):
        train_state, seen = trainer.step(train_state, (x, y))
    assert seen["accuracy"] == 1 and seen["loss"] == 0
