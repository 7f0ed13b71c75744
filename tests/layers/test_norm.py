"""Norms against PyTorch and Flax in float64, and what each takes its statistics over."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import jit_apply, refuses


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape)


@pytest.mark.parametrize(
    "make",
    [
        jn.rms_norm,
        jn.layer_norm,
        jn.layers.instance_norm,
        jn.batch_norm,
        partial(jn.group_norm, 2),
    ],
)
@pytest.mark.parametrize("size", [1e-30, 1e16, 1e30, 1e37])
def test_numbers_whose_squares_are_no_floats(make, size):
    layer = make(epsilon=0)
    x = jax.random.normal(jax.random.key(0), (2, 6, 4))
    given = layer.init(jax.random.key(0), x)
    one, other = (jit_apply(layer, *given, a, train=True)[0] for a in (x, size * x))
    np.testing.assert_allclose(other, one, 1e-4, 1e-6)


NORMS = {  # the axes that the statistics are taken over, for (batch, positions, features)
    "batch_norm": (jn.batch_norm, (0, 1)),
    "layer_norm": (jn.layer_norm, (2,)),
    "instance_norm": (jn.layers.instance_norm, (1,)),
    "group_norm": (partial(jn.group_norm, 4), (1,)),  # one feature per group
}


@pytest.mark.parametrize(("use_scale", "use_bias"), [(True, False), (False, True)])
@pytest.mark.parametrize("name", NORMS)
def test_values_with_and_without_scale_and_bias(name, use_scale, use_bias):
    """In training, against NumPy in float64."""
    make, axes = NORMS[name]
    layer = make(epsilon=0.25, use_scale=use_scale, use_bias=use_bias)
    x = draw(3, 5, 4)
    params, state = layer.init(jax.random.key(0), jn.spec(x.shape))
    assert [*params] == ["scale"] * use_scale + ["bias"] * use_bias
    values = {"scale": np.array([2.0, -1.0, 0.5, 3.0]), "bias": np.array([1.0, 4.0, -2.0, 0.0])}
    params = {key: jnp.asarray(values[key], jnp.float32) for key in params}
    y, _ = jit_apply(layer, params, state, jnp.asarray(x, jnp.float32), train=True)
    right = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 0.25)
    right = right * (values["scale"] if use_scale else 1) + (values["bias"] if use_bias else 0)
    np.testing.assert_allclose(y, right, rtol=1e-5, atol=1e-5)


def test_running_statistics_carry_no_gradient():
    layer = jn.batch_norm()
    x = jnp.asarray(draw(4, 3), jnp.float32)
    params, state = layer.init(jax.random.key(0), x)

    def variance(x):
        return layer.apply(params, state, x, train=True)[1]["var"].sum()

    assert not jax.jit(jax.grad(variance))(x).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        jn.layer_norm,
        jn.rms_norm,
        jn.layers.instance_norm,
        jn.batch_norm,
        lambda: jn.group_norm(3),
    ],
)
def test_constant_input_is_finite(make):
    x = jnp.ones((2, 4, 6))
    layer = make()
    params, state = layer.init(jax.random.key(0), x)

    def total(x):
        return jit_apply(layer, params, state, x, train=True)[0].sum()

    value, grad = jax.jit(jax.value_and_grad(total))(x)
    assert jnp.isfinite(value)
    assert jnp.isfinite(grad).all()


def apply(layer, *shape):
    return layer.apply(*layer.init(jax.random.key(0), jn.spec(shape)), jnp.ones(shape), train=True)


SPACED = r"of shape .batch, positions, ..., features., got"
SHAPED = r"of shape .batch, ..., features., got"
ONE = "norm: needs more than one value per {}, got an input of {}"  # its output was 0


test_refusals = refuses([
    (lambda: jn.batch_norm(momentum=1.0), "momentum must be in"),
    (lambda: jn.layer_norm(epsilon=float("nan")), r"epsilon must be in \[0, inf\), got"),
    (lambda: apply(jn.batch_norm(), 0, 3), "at least one entry per feature"),
    (lambda: jn.group_norm(0), "groups must be at least 1"),
    (lambda: apply(jn.group_norm(4), 2, 6), "4 groups must divide the 6 features"),
    (lambda: apply(jn.layers.instance_norm(), 2, 6), SPACED),
    (lambda: apply(jn.layer_norm(), 2), SHAPED),
    (lambda: apply(jn.rms_norm(), 2), SHAPED),
    (lambda: apply(jn.batch_norm(), 2), SHAPED),
    (lambda: apply(jn.layer_norm(), 5, 1), ONE.format("position", r"\(5, 1\)")),
    (lambda: apply(jn.group_norm(3), 5, 3), ONE.format("group", r"\(5, 3\)")),
    (lambda: apply(jn.group_norm(3), 5, 1, 1, 3), ONE.format("group", "")),
    (lambda: apply(jn.layers.instance_norm(), 5, 1, 1, 3),
     ONE.format("feature map", r"\(5, 1, 1, 3\)")),
    (lambda: jn.rms_norm().init(jax.random.key(0), jn.spec((2, 5, 3), jnp.complex64)), TypeError,
     "expected an input of real numbers, got complex64"),
])  # fmt: skip


def test_a_batch_of_one_has_no_variance():
    """Training on it gave the bias, whatever the input; init, evaluation and positions are fine."""
    net = jn.serial(jn.dense(3), jn.batch_norm())
    params, state = net.init(jax.random.key(0), jn.spec((1, 2)))
    words = r"batch_norm: .* got an input of \(1, 3\).*layer_norm"
    with pytest.raises(ValueError, match=words) as caught:
        net.apply(params, state, jnp.ones((1, 2)), train=True)
    assert any("in serial/batch_norm" in note for note in caught.value.__notes__)
    with pytest.raises(ValueError, match="more than one value per feature"):
        jax.jit(partial(net.apply, train=True))(params, state, jnp.ones((1, 2)))
    assert net.apply(params, state, jnp.ones((1, 2)))[0].shape == (1, 3)
    assert apply(jn.batch_norm(), 1, 4, 4, 3)[0].shape == (1, 4, 4, 3)
    apply(jn.batch_norm(use_running_average=True), 1, 3)


@pytest.mark.slow
def test_fit_pads_the_last_example_with_others():
    """Nine examples in batches of four: no batch of one, and statistics of several rows."""
    x = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    y = np.arange(9) % 3
    net = jn.serial(jn.batch_norm(), jn.dense(3))
    objective = jn.supervised(net, optax.softmax_cross_entropy_with_integer_labels)
    trainer = jn.trainer(objective, optax.sgd(0.1))
    start = trainer.init(jax.random.key(0), (x, y))
    (epoch,) = jn.fit(trainer, start, (x, y), epochs=1, batch_size=4, progress=False)
    assert np.isfinite(epoch.train["loss"])
    assert (epoch.train_state.state["batch_norm"]["var"] > 0.75).all()


def test_pytorchs_defaults_that_docstrings_name():
    nn = pytest.importorskip("torch", reason="values are compared with PyTorch's").nn
    norms = nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.InstanceNorm1d(2), nn.BatchNorm1d(2)
    assert [norm.eps for norm in norms] == [1e-5] * 4
    assert not norms[2].affine
    assert (nn.LocalResponseNorm(2).k, nn.RMSNorm(2).eps, norms[3].momentum) == (1, None, 0.1)


def test_frozen_statistics_are_those_of_pytorch_in_eval(x64, torch):
    """`use_running_average` trains scale and bias on fixed statistics, as bn.eval() does."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 5, 3))
    c = rng.normal(size=(4, 5, 3))
    layer = jn.batch_norm(use_running_average=True)
    params, _ = layer.init(jax.random.key(0), x)
    state = {"mean": jnp.array([1.0, 2, 3]), "var": jnp.array([4.0, 5, 6])}

    @jax.jit
    def loss(params, x):
        y, new = layer.apply(params, state, x, train=True)
        return (y * c).sum(), new

    (by_params, by_x), new = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)
    jax.tree.map(np.testing.assert_array_equal, new, state)
    other = torch.nn.BatchNorm1d(3).double().eval()
    other.running_mean.copy_(torch.tensor([1.0, 2, 3]))
    other.running_var.copy_(torch.tensor([4.0, 5, 6]))
    given = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    (other(given) * torch.tensor(np.moveaxis(c, -1, 1))).sum().backward()
    np.testing.assert_allclose(by_x, np.moveaxis(given.grad.numpy(), 1, -1), 1e-10)
    np.testing.assert_allclose(by_params["scale"], other.weight.grad, 1e-10)
    np.testing.assert_allclose(by_params["bias"], other.bias.grad, 1e-10)


def test_frozen_statistics_are_no_mistake():
    """A trainer warns of state that does not change, but not where it is meant."""
    net = jn.serial(jn.dense(4), jn.batch_norm(use_running_average=True), jn.dense(2))
    trainer = jn.trainer(jn.supervised(net, optax.squared_error), optax.sgd(0.1))
    batch = jnp.ones((4, 3)), jnp.ones((4, 2))
    train_state, _ = trainer.step(trainer.init(jax.random.key(0), batch), batch)  # warnings raise
    assert train_state.state["batch_norm"]["mean"].tolist() == [0, 0, 0, 0]


def test_batch_statistics_of_narrow_floats_are_wide():
    """A mean in bfloat16 would keep three digits."""
    layer = jn.batch_norm(momentum=0.0)
    x = jnp.linspace(1, 2, 999).astype(jnp.bfloat16)[:, None]
    params, state = layer.init(jax.random.key(0), jn.spec((9, 1)))
    y, state = layer.apply(params, state, x, train=True)
    assert y.dtype == jnp.bfloat16
    assert state["mean"].dtype == jnp.float32
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(state["mean"], exact.mean(0), rtol=1e-5)
    np.testing.assert_allclose(state["var"], exact.var(0), rtol=1e-4)


FOUR = [jn.layer_norm(), jn.group_norm(1), jn.layers.instance_norm(), jn.batch_norm()]


@pytest.mark.parametrize("layer", FOUR, ids=lambda layer: layer.name)
@pytest.mark.parametrize("value", [33_000.0, 1e7])
def test_equal_numbers_become_zero(layer, value):
    """Far from 0, the mean of equal numbers was rounded, and the rest divided by itself."""
    x = np.full((4, 5, 7, 16), value, np.float32)
    params, state = layer.init(jax.random.key(0), x)
    y, _ = jax.jit(lambda x: layer.apply(params, state, x, train=True))(x)
    np.testing.assert_array_equal(y, np.zeros_like(x))


def test_numbers_beyond_the_range_of_squares_leave_the_running_variance():
    layer = jn.batch_norm()
    params, state = layer.init(jax.random.key(0), jn.spec((3, 2)))
    x = np.float32([[1, 1e30], [2, -1e30], [6, 1e30]])
    _, after = layer.apply(params, state, x, train=True)
    np.testing.assert_allclose(after["var"], [0.9 + 0.1 * 14 / 3, 1.0], rtol=1e-6)
    assert np.isfinite(after["mean"]).all()


def test_the_mean_square_of_one_feature_is_its_square():
    y, _ = jn.rms_norm(use_scale=False, epsilon=0).apply({}, {}, jnp.array([[3.0], [-2.0]]))
    np.testing.assert_array_equal(y, [[1.0], [-1.0]])
