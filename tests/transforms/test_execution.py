"""`remat`, `cast` and `freeze` against the plain layer."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.ops.native import instructions
from jaxnet.services.trees import flat
from tests.helpers import close, compiled, draw, jit_apply, refused
from tests.test_laws import sums_in_16_bits
from tests.transforms.test_copies import KEY, X, block


@pytest.mark.slow
def test_remat_changes_nothing_but_recomputes():
    layer, net = block(), jn.remat(block())
    params, state = net.init(KEY, X)
    close((params, state), layer.init(KEY, X), 0)

    def loss(layer):
        return lambda p: (jit_apply(layer, p, state, X, key=KEY, train=True)[0] ** 2).sum()

    close(*(jax.jit(jax.value_and_grad(loss(each)))(params) for each in (net, layer)))
    count = {n: str(jax.make_jaxpr(jax.grad(loss(n)))(params)).count("tanh") for n in (net, layer)}
    assert count[net] > count[layer]


def gradient(make):
    """The compiled gradient of eight blocks, made by a function of one block, and its value."""
    mlp = jn.serial(jn.dense(64, name="mlp_in"), jax.nn.gelu, jn.dense(16, name="mlp_out"))
    net = make(jn.residual(mlp, name="block"))
    x = jnp.ones((128, 16))
    params, state = net.init(KEY, x)

    def loss(params):
        return (net.apply(params, state, x)[0] ** 2).mean()

    traced = jax.jit(jax.grad(loss)).trace(params)
    compiled = traced.lower().compile()
    return traced, compiled.memory_analysis().temp_size_in_bytes, compiled(params)


@pytest.mark.slow
def test_remat_keeps_by_path():
    policy = jax.checkpoint_policies.everything_saveable
    made = {
        name: gradient(lambda block, options=options: jn.repeat(jn.remat(block, **options), 8))
        for name, options in {
            "none": {},
            "in": {"keep": "*/mlp_in"},
            "all": {"keep": "*"},
            "policy": {"keep": "*/mlp_in", "policy": policy},
        }.items()
    }
    made["plain"] = gradient(lambda block: jn.repeat(block, 8))
    for _, _, grads in made.values():
        close(grads, made["plain"][2])
    memory = {name: temporary for name, (_, temporary, _) in made.items()}
    one = 8 * 128 * 64 * 4  # bytes of the outputs of mlp_in
    assert 0.9 * one < memory["in"] - memory["none"] < 1.2 * one
    assert memory["none"] < memory["in"] < memory["all"] < memory["plain"]
    assert memory["policy"] > 2 * memory["in"]
    dots = {name: str(traced.jaxpr).count("dot_general") for name, (traced, *_) in made.items()}
    assert dots["none"] == dots["plain"] + 1
    assert dots["in"] == dots["plain"]


def test_names_cost_nothing_unless_asked_for():
    for keep, names in (None, 0), ("*/mlp_in", 1):
        traced, _, _ = gradient(lambda block, keep=keep: jn.remat(block, keep=keep))
        assert str(traced.jaxpr).count("name[") == names


def test_remat_offloads_by_path():
    traced, _, grads = gradient(lambda block: jn.remat(block, offload="*/mlp_in"))
    close(grads, gradient(lambda block: block)[2])
    assert "pinned_host" in traced.lower(lowering_platforms=("cuda",)).as_text()


@refused(
    [
        ({"keep": "*/mlp"}, r"remat: no layer needs keep='\*/mlp'; paths: serial/mlp_in, "),
        ({"keep": "*", "offload": "*/mlp_in"}, "no layer needs offload='\\*/mlp_in'"),
        ({"keep": "(a"}, "remat: keep must hold patterns"),
        ({"offload": 3}, TypeError, "remat: offload must hold patterns"),
    ]
)
def test_remat_of_no_layer(options):
    gradient(lambda block: jn.remat(block, **options))


@pytest.mark.slow
def test_cast_computes_in_the_dtype_and_keeps_params():
    seen = []

    def spy(x):
        seen.append(x.dtype)
        return x

    wide = jn.serial(jn.dense(5), spy, jn.batch_norm())
    net = jn.cast(wide, jnp.bfloat16)
    params, state = net.init(KEY, X)
    seen.clear()
    y, after = jit_apply(net, params, state, X, train=True)
    assert set(seen) == {jnp.dtype(jnp.bfloat16)}
    grads = jax.jit(jax.grad(lambda p: net.apply(p, state, X)[0].sum()))(params)
    leaves = jax.tree.leaves((params, after, y, grads))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float32)}
    plain, _ = jit_apply(wide, params, state, X, train=True)
    close(y, plain, 0.05)
    assert not jnp.array_equal(y, plain)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_no_slow_operation_of_16_bits_is_left_on_cpu(dtype):
    """XLA takes up to 1.5 times as long for such a product, and 8 times for such a maximum."""
    maps = jn.conv(32, 3), jax.nn.relu, jn.max_pool(2), jax.nn.relu6, jn.max_pool(3, strides=2)
    rows = lambda x: x.reshape(len(x), -1, 32), jn.lstm(32), jn.rnn(32), jn.dense(128), jn.dense(10)
    net = jn.cast(jn.serial(*maps, *rows), dtype)
    x = jn.spec((64, 32, 32, 3))
    params, state = jax.eval_shape(net.init, KEY, x)

    def loss(params, x):
        return net.apply(params, state, x)[0].astype(jnp.float32).sum()

    text = compiled(jax.grad(loss), params, x).as_text()
    slow = r"(bf16|f16)\[[\d,]*\](\{[\d,]*\})? (maximum|minimum|dot|convolution)\("
    assert not re.findall(slow, text)
    in_c = {f"jaxnet_{name}" for name in ("max_pool", "lstm", "lstm_back", "rnn")}
    assert instructions() is None or in_c <= set(re.findall(r'target="(\w+)"', text))


def test_cast_leaves_integers_alone():
    net = jn.cast(jn.compose(lambda m, x: x["a"] * x["i"]), jnp.bfloat16)
    y, _ = jit_apply(net, {}, {}, {"a": jnp.ones((2, 3)), "i": jnp.full((2, 3), 300)})
    assert y.dtype == jnp.float32
    assert (y == 300).all()
    words = jn.cast(jn.embedding(5, 3), jnp.bfloat16)
    assert words.apply(*words.init(KEY, jnp.arange(5)), jnp.arange(5))[0].dtype == jnp.float32
    with pytest.raises(ValueError, match="must be a float"):
        jn.cast(jn.dense(2), jnp.int32)


@pytest.mark.slow
def test_freeze_stops_params_and_state_but_not_the_input():
    net = jn.serial(jn.dense(3, name="below"), jn.freeze(block()), jn.dense(2, name="head"))
    trainer = jn.trainer(jn.supervised(net, lambda h, y: (h - y) ** 2), optax.adam(0.1))
    before = trainer.init(KEY, (X, X[:, :2]))
    train_state = jax.device_put(before, may_alias=False)
    for _ in range(3):
        train_state, _ = trainer.step(train_state, (X, X[:, :2]))
    close(train_state.params["block"], before.params["block"], 0)
    close(train_state.state["block"], before.state["block"], 0)
    for name in ("below", "head"):
        moved = jnp.abs(train_state.params[name]["kernel"] - before.params[name]["kernel"])
        assert moved.max() > 0.01


@pytest.mark.parametrize("kind", [list, dict])
def test_params_in_containers_are_frozen(kind):
    made = {"x": jnp.ones(3), "y": jnp.ones(3)} if kind is dict else kind([jnp.ones(3)] * 2)

    def apply(params, x):
        return sum(jax.tree.leaves(params["w"])) * params["b"] * x

    net = jn.stateless(lambda key, x: {"w": made, "b": jnp.ones(3)}, apply)
    params, state = net.init(KEY, jnp.ones((2, 3)))
    frozen = jn.freeze(net, "w/*")
    found = jax.grad(lambda p: frozen.apply(p, state, jnp.ones((2, 3)))[0].sum())(params)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(found["w"]))
    assert found["b"].all()


@pytest.mark.slow
def test_params_frozen_by_path():
    """Only these get no gradient; the layer stays in the mode of its parent."""
    net = jn.serial(jn.dense(4), jn.batch_norm(), jn.dense(2, name="head"))
    some = jn.freeze(net, "*/kernel")
    x = jnp.arange(6.0).reshape(3, 2)
    params, state = some.init(KEY, x)
    jax.tree.map(np.testing.assert_array_equal, params, net.init(KEY, x)[0])

    def total(layer, params):
        y, after = layer.apply(params, state, x, train=True)
        return (y**2).sum(), after

    slopes = [jax.jit(jax.grad(partial(total, layer), has_aux=True)) for layer in (some, net)]
    (grads, after), (whole, same) = (slope(params) for slope in slopes)
    jax.tree.map(np.testing.assert_array_equal, after, same)
    for path, grad in flat(grads):
        expected = 0 * grad if path.endswith("kernel") else dict(flat(whole))[path]
        np.testing.assert_allclose(grad, expected, 1e-6)
    with pytest.raises(ValueError, match="freeze: no array needs the pattern 'tail/.'"):
        jn.freeze(net, "tail/*").apply(params, state, x)


@pytest.mark.slow
def test_a_frozen_layer_passes_gradients_to_earlier_chunks_of_a_stream():
    def second(x, layer):
        stream, (params, _) = jn.stream(layer), layer.init(KEY, x)
        _, state = stream.apply(params, jn.start_stream(stream, x), x)
        return stream.apply(params, state, MAP[:2, 1])[0].sum()

    both = [jax.grad(second)(MAP[:2, 0], layer) for layer in (jn.freeze(jn.gru(4)), jn.gru(4))]
    assert both[1].any()
    close(*both)


MAP = jnp.asarray(np.random.default_rng(0).normal(1, 1, (64, 16, 16, 8)), jnp.float32)
IDS = np.minimum(np.random.default_rng(0).zipf(1.3, 16384), 500) - 1  # the first row 5,000 times


def composed(forward: Callable) -> jn.Layer:
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


GAIN = composed(lambda m, x: ones(m, x) * x)
SHIFT = composed(lambda m, x: x + m.param("shift", jn.initializers.zeros, (x.shape[-1],)))
LAYERS: dict[str, tuple[Callable[[], jn.Layer], Any]] = {
    "block": (lambda: composed(normalized), MAP),
    "gain": (lambda: GAIN, MAP),
    "shift": (lambda: SHIFT, MAP),
    "prelu": (lambda: composed(lambda m, x: jnp.where(
        x > 0, x, m.param("slope", jn.initializers.constant(0.25), ()) * x)), MAP),
    "by-hand": (lambda: composed(by_hand), MAP),
    "before-a-child": (lambda: composed(lambda m, x: m(jn.dense(4), ones(m, x) * x)), MAP),
    "state": (lambda: jn.serial(composed(running), jn.dense(4)), MAP),
    "table": (lambda: composed(table), IDS),
    "stateless": (lambda: pair(
        lambda x: {"bias": jnp.zeros(x.shape[-1])}, lambda params, x: x + params["bias"]), MAP),
    "pair-table": (lambda: pair(
        lambda x: {"w": jnp.ones((500, 8))}, lambda params, ids: params["w"][ids]), IDS),
    "pair-product": (lambda: pair(
        lambda x: {"kernel": jnp.ones((8, 4)), "b": jnp.zeros(4)},
        lambda params, x: x @ params["kernel"] + params["b"]), MAP),
    "linen": (linen, IDS),
    "repeat": (lambda: jn.repeat(GAIN, 2), MAP),
    "remat": (lambda: jn.remat(SHIFT), MAP),
    "ensemble": (lambda: jn.ensemble(SHIFT, 2), MAP),
    "lora": (lambda: jn.serial(jn.lora(jn.dense(8), 2, where="kernel", trainable="*"), SHIFT), MAP),
    "quantized": (lambda: jn.serial(jn.quantized(jn.dense(8)), GAIN), MAP),
    "time": (lambda: jn.layers.time_distributed(GAIN), MAP),
    "observed": (lambda: jn.observe(GAIN, lambda path, layer, x, y: y), MAP),
}  # fmt: skip


def gradient_of_cast(layer: jn.Layer, x: Any, state: Any) -> Callable:
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
    assert not sums_in_16_bits(jax.make_jaxpr(gradient_of_cast(layer, x, state))(params).jaxpr)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_ones_own_has_the_gradient_of_float32(name, dtype):
    make, x = LAYERS[name]
    layer = make()
    params, state = jax.jit(layer.init)(KEY, x)
    nets = layer, jn.cast(layer, dtype)
    both = [jax.jit(gradient_of_cast(net, x, state))(params) for net in nets]
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
        m.state("count", jn.initializers.zeros, (), jnp.int32)  # of which nothing is wide
        m(lambda x: seen.setdefault("child", x.dtype) and x, wide)
        return wide

    net = jn.serial(composed(forward), lambda x: seen.setdefault("after", x.dtype) and x)
    params, state = net.init(KEY, MAP[:1])
    seen.clear()
    y, _ = jn.cast(net, jnp.bfloat16).apply(params, state, MAP[:1])
    found = [str(dtype) for dtype in (*seen.values(), y.dtype)]
    assert found == ["float32", "bfloat16", "bfloat16", "bfloat16", "float32"]
    sums = jn.cast(composed(lambda m, x: (x * ones(m, x)).sum(-1)), jnp.bfloat16)
    x = jnp.ones((1, 257))
    assert sums.apply(*sums.init(KEY, x), x)[0] == 257  # 258 or 256 in 16 bits


@pytest.mark.parametrize(("around", "train"), [
    (jn.remat, False),
    (jn.freeze, False),
    (jn.freeze, True),
    (jn.transforms.spectral_norm, False),
], ids=["remat", "freeze", "freeze in training", "spectral_norm"])  # fmt: skip
def test_a_state_that_stays_as_it_is_goes_into_any_function_of_jax(around, train):
    """What the layer returns are the arrays that it got, so nothing ends with the function."""
    layer = around(jn.serial(jn.dense(3), jn.batch_norm(), name="inner"))
    x = jnp.asarray(draw(4, 5), jnp.float32)
    net = jn.compose(lambda m, x: jax.vmap(lambda row: m(layer, row[None])[0])(x), name="net")
    params, state = net.init(jax.random.key(0), x)
    y, after = jit_apply(net, params, state, x, train=train)
    close(y, layer.apply(params["inner"], state["inner"], x)[0], 1e-5)
    jax.tree.map(np.testing.assert_array_equal, after, state)
