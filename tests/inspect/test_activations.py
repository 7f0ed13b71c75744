"""Outputs inside a network, and where a NaN comes from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.inspect import activations, first_nonfinite
from tests.helpers import KEY, jit_apply, jit_init

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5)), jnp.float32)


def net():
    shared = jn.dense(7, name="twice")

    def block(m, x):
        return m(jnp.tanh, m(shared, m(shared, x)))

    return jn.serial(jn.dense(7, name="first"), jn.compose(block), jn.batch_norm(), name="net")


def begun(layer):
    """A layer with its first params and state."""
    return layer, *layer.init(KEY, X)


def test_values():
    layer, params, state = begun(net())
    found = activations(layer, params, state, X)
    a = X @ params["first"]["kernel"]
    w = params["block"]["twice"]["kernel"]
    expected = {
        "first": a, "block/twice": a @ w, "block/twice#2": a @ w @ w,
        "block/tanh": np.tanh(a @ w @ w), "block": np.tanh(a @ w @ w),
        "batch_norm": np.tanh(a @ w @ w) / np.sqrt(1 + 1e-5),
    }  # fmt: skip
    assert list(found) == list(expected)  # in the order in which they end
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, 1e-5, 1e-6)


def test_under_jit_grad_and_vmap():
    layer, params, state = begun(net())

    def tanh(params, x):
        return activations(layer, params, state, x)["block/tanh"]

    eager = tanh(params, X)
    jitted = jax.jit(tanh)(params, X)
    np.testing.assert_allclose(jitted, eager, 1e-6)
    mapped = jax.jit(jax.vmap(tanh, (None, 0)))(params, X[None])
    np.testing.assert_allclose(mapped[0], eager, 1e-6)
    gradient = jax.jit(jax.grad(lambda params: tanh(params, X).sum()))(params)
    assert jnp.any(gradient["first"]["bias"] != 0)
    assert jnp.all(gradient["batch_norm"]["bias"] == 0)


@pytest.mark.slow
def test_training_mode_and_key():
    layer, params, state = begun(jn.serial(jn.batch_norm(), jn.dropout(0.5)))
    found = activations(layer, params, state, X, key=jax.random.key(1), train=True)
    np.testing.assert_allclose(found["batch_norm"].mean(0), 0, atol=1e-6)
    again, _ = jit_apply(layer, params, state, X, key=jax.random.key(1), train=True)
    np.testing.assert_array_equal(found["dropout"], again)
    assert 0 < (found["dropout"] == 0).mean() < 1


def test_a_single_layer_and_an_empty_one():
    layer, params, state = begun(jn.dense(3, name="d"))
    assert list(activations(layer, params, state, X)) == ["d"]
    assert list(activations(jn.serial(name="nothing"), {}, {}, X)) == ["nothing"]


@pytest.mark.slow
def test_layers_in_a_loop_are_left_out():
    cell = jn.dense(5, name="cell")

    def forward(m, x):
        x, _ = jax.lax.scan(lambda x, _: (m(cell, x), None), x, None, length=3)
        return m(jnp.tanh, x)

    layer, params, state = begun(jn.compose(forward, name="net"))
    with pytest.warns(UserWarning) as seen:
        found = activations(layer, params, state, X)
    words = "activations: omitted, since they run inside jax.lax.scan or the like: net/cell"
    assert [str(w.message) for w in seen] == [words]
    assert list(found) == ["tanh"]
    jitted = jax.jit(lambda params, x: activations(layer, params, state, x)["tanh"])
    np.testing.assert_allclose(jitted(params, X), found["tanh"], 1e-6)
    assert first_nonfinite(layer, params, state, X) is None


def test_observe_keeps_the_layer():
    dropout = jn.dropout(0.5)
    layer = jn.serial(net(), jn.serial(dropout, name="a"), dropout, name="net")
    watched = jn.observe(layer, lambda path, layer, x, y: y)
    params, state = layer.init(KEY, X)
    jax.tree.map(np.testing.assert_array_equal, watched.init(KEY, X), (params, state))
    options = {"key": jax.random.key(1), "train": True}
    y, _ = jit_apply(layer, params, state, X, **options)
    z, _ = jit_apply(watched, params, state, X, **options)
    np.testing.assert_array_equal(y, z)
    with pytest.raises(ValueError, match="net: unused entries: params/surplus; layers here: net"):
        watched.apply(params | {"surplus": {}}, state, X)


def test_observe_shares_a_composed_layer():
    twice = jn.serial(jn.serial(jn.dense(5), name="b"), name="a")
    layer, params, state = begun(jn.serial(twice, twice, name="net"))
    assert list(params) == ["a"]
    assert list(activations(layer, params, state, X)) == [
        "a/b/dense", "a/b", "a", "a/b/dense#2", "a/b#2", "a#2",
    ]  # fmt: skip


# The first NaN.

BAD = jnp.array([[0.5, 2.0, -1.0]])


@pytest.mark.slow
def test_all_finite():
    assert first_nonfinite(*begun(net()), X) is None


@pytest.mark.slow
def test_before():
    layer, params, state = begun(net())
    kernel = params["block"]["twice"]["kernel"]
    params["block"]["twice"]["kernel"] = kernel.at[0, 1].set(jnp.nan)
    assert str(first_nonfinite(layer, params, state, X)) == (
        "before: params/block/twice/kernel, entry: 1 NaN and 0 Inf in 49 numbers; it was passed in"
        "; pass params and state from before the step"
    )
    params, _ = layer.init(KEY, X)
    found = first_nonfinite(layer, params, state, X.at[0].set(jnp.inf))
    assert found[:5] == ("before", "x", 0, 5, 10)


def test_forward():
    layer = jn.serial(jax.nn.relu, jn.serial(jnp.log, jnp.sin, name="inner"), name="net")
    words = "forward: net/inner/log, output: 0 NaN and 1 Inf in 3 numbers; its input is finite"
    assert str(first_nonfinite(layer, {}, {}, BAD)) == words


def test_forward_between_layers():
    layer = jn.compose(lambda m, x: m(jnp.tanh, x / m(jax.nn.relu, x)), name="net")
    found = first_nonfinite(layer, {}, {}, BAD.at[0, 0].set(0))
    assert found is not None
    assert found[:6] == ("forward", "net/tanh", 1, 0, 3, "output")
    assert found.arises.startswith("its input is not: it arises between layers")


def test_forward_of_the_loss():
    layer = jn.serial(jax.nn.relu, name="net")
    found = first_nonfinite(layer, {}, {}, BAD, loss=lambda y: jnp.log(y).sum())
    assert str(found) == ("forward: net, loss: 0 NaN and 1 Inf in 1 numbers; the output is finite")


@pytest.mark.slow
def test_backward():
    last = jn.serial(jnp.sqrt, jnp.sin, name="b")
    layer = jn.serial(jn.dense(3, name="in"), jax.nn.relu, last, name="net")
    params = {"in": {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}}
    assert str(first_nonfinite(layer, params, {}, BAD)) == (
        "backward: net/relu, gradient: 0 NaN and 1 Inf in 3 numbers; "
        "the gradient of the output of net/b/sqrt, its consumer, is finite"
    )


@pytest.mark.slow
def test_backward_names_the_last_of_several():
    """Inf goes on to all that comes before."""
    layer = jn.serial(jn.serial(jnp.sin, name="a"), jnp.tanh, jnp.sqrt, jnp.cos, name="net")
    found = first_nonfinite(layer, {}, {}, jnp.zeros((1, 2)))
    assert found is not None
    assert found.path == "net/tanh"


def test_backward_in_a_shared_layer_and_an_unknown_taker():
    layer = jn.compose(lambda m, x: m(jnp.sin, jnp.sqrt(m(jax.nn.relu, x))), name="net")
    found = first_nonfinite(layer, {}, {}, BAD)
    assert found is not None
    assert found[:2] == ("backward", "net/relu")
    assert found.arises == "the gradients of all later outputs are finite"


@pytest.mark.slow
def test_backward_of_params_and_of_x():
    def init(key, x):
        return {"root": jnp.zeros(3)}

    layer = jn.stateless(init, lambda params, x: x + jnp.sqrt(params["root"]), "root")
    net = jn.serial(layer, name="net")
    found = first_nonfinite(net, {"root": {"root": jnp.zeros(3)}}, {}, BAD)
    assert str(found) == (
        "backward: params/root/root, gradient: 0 NaN and 3 Inf in 3 numbers; "
        "the gradients of all outputs are finite"
    )
    found = first_nonfinite(jn.serial(jnp.sqrt), {}, {}, {"a": BAD * 0}["a"])
    assert found is not None
    assert found[:5] == ("backward", "x", 0, 3, 3)


@pytest.mark.slow
def test_an_objective():
    """Its batch is the input; targets count too."""
    net = jn.serial(jn.dense(3, name="in"), jnp.log, name="net")
    objective = jn.supervised(net, optax.squared_error)
    params = {"in": {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}}
    batch = jnp.abs(BAD), jnp.ones((1, 3))
    assert list(activations(objective, params, {}, batch)) == ["in", "log", "loss"]
    assert first_nonfinite(objective, params, {}, batch) is None
    found = first_nonfinite(objective, params, {}, (0 * BAD, batch[1]))
    assert found is not None
    assert found[:2] == ("forward", "net/log")
    found = first_nonfinite(objective, params, {}, (batch[0], jnp.nan * batch[1]))
    assert found is not None
    assert found[:2] == ("before", "x/1")


def test_integers_pass():

    def root_inside(m, x):
        y = m(lambda x: {"i": x["i"], "f": jnp.sqrt(x["f"])}, x)
        return y["f"]

    layer = jn.compose(root_inside)
    found = first_nonfinite(layer, {}, {}, {"i": jnp.arange(3), "f": jnp.zeros(2)})
    assert found is not None
    assert found[:5] == ("backward", "x/f", 0, 2, 2)


@pytest.mark.parametrize("loss", [3, lambda y: y, lambda y: 1])
def test_losses_that_are_no_number(loss):
    with pytest.raises(TypeError, match="first_nonfinite: loss must "):
        first_nonfinite(jn.serial(jnp.tanh), {}, {}, jnp.ones((2, 3)), loss=loss)


@pytest.mark.slow
@pytest.mark.parametrize("adapt", [
    lambda net: jn.lora(net, 2, where="*/kernel"), jn.quantized,
    lambda net: jn.lora(jn.quantized(net, 4), 2, where="*/kernel"),
], ids=["lora", "quantized", "both"])  # fmt: skip
def test_layers_inside_a_transform_of_params_are_seen(adapt):
    """Its merged params give the plain net the same values."""
    net = jn.serial(jn.dense(6, name="hidden"), jax.nn.relu, jn.dense(3))
    adapted = adapt(net)
    params, state = jax.device_get(jit_init(adapted, KEY, X))
    params = jax.tree.map(lambda a: a + np.asarray(1, a.dtype), params)
    found = activations(adapted, params, state, X)
    plain = activations(net, jn.merge(adapted, params), state, X)
    assert list(found) == list(plain) == ["hidden", "relu", "dense"]
    for path, y in plain.items():
        np.testing.assert_allclose(found[path], y, rtol=1e-5, atol=1e-5)
    hidden = params["hidden"] | {"bias": jnp.full(6, 3e38)}
    broken = params | {"hidden": hidden}
    assert first_nonfinite(adapted, broken, state, X + 1e38).path.endswith("hidden")


@pytest.mark.fast_cases("freeze", "collect")
@pytest.mark.parametrize("wrap", [jn.collect, jn.freeze, lambda net: jn.cast(net, jnp.bfloat16)])
def test_the_layer_is_found_inside_a_transform(wrap):
    net = wrap(jn.serial(jn.dense(8), jnp.log, name="net"))

    def loss(m, x):
        (y,) = jax.tree.leaves(m(net, x))
        return y.sum(-1), {}

    objective = jn.compose(loss)
    params, state = objective.init(jax.random.key(0), X)
    found = first_nonfinite(objective, params, state, X)
    assert found.path.endswith("net/log")
    assert found.arises == "its input is finite"


@pytest.mark.parametrize(("dtype", "ends"), [
    (jnp.float16, "its input is finite; it is in float16, which ends at 65,504"),
    (jnp.bfloat16, "None"),
], ids=["float16", "bfloat16"])  # fmt: skip
def test_an_overflow_of_float16_names_its_range(dtype, ends):
    net = jn.cast(jn.serial(jnp.abs, lambda x: x * x, name="net"), dtype)
    found = first_nonfinite(net, {}, {}, jnp.array([[300.0, 1.0]]))
    assert str(found).endswith(ends)
