"""Below `cast`, a layer as users write it has gradients that are summed in float32."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.test_laws import sums_in_16_bits

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(1, 1, (64, 16, 16, 8)), jnp.float32)
IDS = np.minimum(np.random.default_rng(0).zipf(1.3, 16384), 500) - 1  # the first row 5,000 times


def own(forward: Callable) -> jn.Layer:
    return jn.compose(forward, name="own")


def ones(m: Any, x: Any) -> Any:
    return m.param("gain", jn.initializers.ones, (x.shape[-1],))


def normalized(m, x):  # the README's block
    y = jax.nn.relu(m(jn.batch_norm(), m(jn.conv(8, 3, use_bias=False), x)))
    return x + ones(m, x) * y


def by_hand(m, x):
    kernel = m.param("kernel", jn.initializers.lecun_normal(), (x.shape[-1], 4))
    return x @ kernel + m.param("bias", jn.initializers.zeros, (4,))


def table(m, ids):
    return m.param("table", jn.initializers.normal(1.0), (500, 8))[ids]


def running(m, x):
    mean = m.state("mean", jn.initializers.constant(0.5), x.shape[-1:])
    if m.train:
        m.update("mean", 0.9 * mean + 0.1 * x.mean((0, 1, 2)))
    return x - mean


def linen():
    nn = pytest.importorskip("flax.linen")
    from jaxnet.interop.flax import from_linen

    return from_linen(nn.Sequential([nn.Embed(500, 8), nn.Dense(4)]))


def pair(init, apply):
    return jn.stateless(lambda key, x: init(x), apply, "pair")


GAIN = own(lambda m, x: ones(m, x) * x)
SHIFT = own(lambda m, x: x + m.param("shift", jn.initializers.zeros, (x.shape[-1],)))
LAYERS: dict[str, tuple[Callable[[], jn.Layer], Any]] = {
    "block": (lambda: own(normalized), X),
    "gain": (lambda: GAIN, X),
    "shift": (lambda: SHIFT, X),
    "prelu": (lambda: own(lambda m, x: jnp.where(
        x > 0, x, m.param("slope", jn.initializers.constant(0.25), ()) * x)), X),
    "by-hand": (lambda: own(by_hand), X),
    "before-a-child": (lambda: own(lambda m, x: m(jn.dense(4), ones(m, x) * x)), X),
    "state": (lambda: jn.serial(own(running), jn.dense(4)), X),
    "table": (lambda: own(table), IDS),
    "stateless": (lambda: pair(
        lambda x: {"bias": jnp.zeros(x.shape[-1])}, lambda params, x: x + params["bias"]), X),
    "pair-table": (lambda: pair(
        lambda x: {"w": jnp.ones((500, 8))}, lambda params, ids: params["w"][ids]), IDS),
    "pair-product": (lambda: pair(
        lambda x: {"kernel": jnp.ones((8, 4)), "b": jnp.zeros(4)},
        lambda params, x: x @ params["kernel"] + params["b"]), X),
    "linen": (linen, IDS),
    "repeat": (lambda: jn.repeat(GAIN, 2), X),
    "remat": (lambda: jn.remat(SHIFT), X),
    "ensemble": (lambda: jn.ensemble(SHIFT, 2), X),
    "lora": (lambda: jn.serial(jn.lora(jn.dense(8), 2, where="kernel", trainable="*"), SHIFT), X),
    "quantized": (lambda: jn.serial(jn.quantized(jn.dense(8)), GAIN), X),
    "time": (lambda: jn.layers.time_distributed(GAIN), X),
    "observed": (lambda: jn.observe(GAIN, lambda path, layer, x, y: y), X),
}  # fmt: skip


def gradient(layer: jn.Layer, x: Any, state: Any) -> Callable:
    def loss(params):
        y, _ = layer.apply(params, state, x, key=KEY, train=True)
        return jnp.square(y.astype(jnp.float32)).mean()

    return jax.grad(loss, allow_int=True)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_ones_own_sums_in_float32(name):
    make, x = LAYERS[name]
    layer = jn.cast(make(), jnp.bfloat16)
    params, state = jax.eval_shape(layer.init, KEY, x)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    assert not sums_in_16_bits(jax.make_jaxpr(gradient(layer, x, state))(params).jaxpr)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_ones_own_has_the_gradient_of_float32(name, dtype):
    make, x = LAYERS[name]
    layer = make()
    params, state = jax.jit(layer.init)(KEY, x)
    both = [jax.jit(gradient(net, x, state))(params) for net in (layer, jn.cast(layer, dtype))]
    for exact, found in zip(*map(jax.tree.leaves, both), strict=True):
        if exact.dtype == jnp.float32:
            off = np.linalg.norm(np.float64(exact) - np.float64(found))
            assert off <= 0.01 * np.linalg.norm(exact)


def test_only_what_is_multiplied_is_narrow():
    """And what leaves a layer is narrow, so that wide values stay inside one layer."""
    seen = {}

    def forward(m, x):
        seen["param"] = m.param("weight", jn.initializers.ones, (8, 8)).dtype
        seen["kernel"] = m.kernel("kernel", jn.initializers.ones, (8, 8)).dtype
        wide = x * ones(m, x)
        m(lambda x: seen.setdefault("child", x.dtype) and x, wide)
        return wide

    net = jn.serial(own(forward), lambda x: seen.setdefault("after", x.dtype) and x)
    params, state = net.init(KEY, X[:1])
    seen.clear()
    y, _ = jn.cast(net, jnp.bfloat16).apply(params, state, X[:1])
    assert [str(dtype) for dtype in (*seen.values(), y.dtype)] == [
        "float32", "bfloat16", "bfloat16", "bfloat16", "float32"
    ]  # fmt: skip
