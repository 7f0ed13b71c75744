"""A net alone, observed, collected and in a stream is the same net, whatever transforms it has.

A transform gets the layer inside as a function, and no transform makes another layer. So programs
are compared, not numbers: what is traced must be the same, operation by operation.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.core import Layer, LayerTransform
from tests.helpers import traced

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 8)), jnp.float32)
MESH = jax.make_mesh((1,), ("time",), (jax.sharding.AxisType.Auto,))


def scaled(layer, factor=3.0):  # as in the guide
    def apply(run, params, state, x):
        y, state = run(params, state, x)
        return factor * y, state

    return jn.transforms.transform(layer, apply, kind="scaled")


def same(path, layer, x, y):
    return y


def averaged(layer):
    average = jn.transforms.moving_average(layer, 0.5)
    return jn.compose(lambda m, x: sum(m(average, (x, x))), name="averaged")


def as_cell(layer):
    def cell(m, given):
        carry, x = given
        y = m(layer, x if carry is None else x + carry)
        return y, y

    return jn.compose(cell)


TRANSFORMS: dict[str, Callable[[Layer], Layer]] = {
    "repeat": lambda f: jn.repeat(f, 2),
    "ensemble": lambda f: jn.ensemble(f, 2),
    "mapped": lambda f: jn.transforms.mapped(f, 1),
    "remat": jn.remat,
    "remat-policy": lambda f: jn.remat(f, policy=jax.checkpoint_policies.dots_saveable),
    "remat-keep": lambda f: jn.remat(f, keep="*"),
    "cast": lambda f: jn.cast(f, jnp.bfloat16),
    "freeze": jn.freeze,
    "freeze-where": lambda f: jn.freeze(f, "*bias"),
    "lora": lambda f: jn.lora(f, 2, where="*kernel", trainable="*bias"),
    "quantized": jn.quantized,
    "quantized-4": lambda f: jn.quantized(f, 4, group=4),
    "quantized-aware": lambda f: jn.quantized(f, aware=True),
    "weight_norm": jn.transforms.weight_norm,
    "spectral_norm": jn.transforms.spectral_norm,
    "time_distributed": jn.layers.time_distributed,
    "recurrent": lambda f: jn.recurrent(as_cell(f)),
    "experts": lambda f: jn.moe(f, 3, 2),
    "moving_average": averaged,
    "gathered": lambda f: jn.distributed.gathered(f, MESH),
    "context_parallel": lambda f: jn.distributed.context_parallel(f, MESH, "time"),
    "observe": lambda f: jn.observe(f, same),
    "observe-transforms": lambda f: jn.observe(f, same, transforms=True),
    "collect": lambda f: jn.compose(lambda m, x: m(jn.collect(f), x)[0], name="collected"),
    "tap": lambda f: jn.tap(jn.serial(f, jnp.tanh), f.name),
    "plain": jn.interop.without_kernels,
    "pair": lambda f: jn.Layer(f.init, f.apply, f.name),
    "scaled": scaled,
}
LOOKS = {name: TRANSFORMS[name] for name in ("observe", "observe-transforms")}
LOOKS |= {"collect": jn.collect}


def base() -> Layer:
    return jn.serial(jn.dense(8), jax.nn.relu, jn.dropout(0.5), jn.dense(8), name="base")


def steps() -> Layer:
    """A causal net, whose outputs depend on earlier steps."""
    attention = jn.multi_head_attention(2, causal=True, rotary=True)
    return jn.serial(jn.dense(8), jn.residual(attention), jn.gru(8), name="steps")


def program(net: Layer, x: Any, train: bool = False, collected: bool = False) -> str:
    """The traced program of a net; skips a net that its transforms refuse to make or to run."""

    def run(params, state, x, key):
        y, state = net.apply(params, state, x, key=key, train=train)
        return y[0] if collected else y, state

    try:
        given = jax.eval_shape(net.init, KEY, x)
        return traced(run, *given, x, KEY)
    except (TypeError, ValueError) as error:
        if not re.match(r"[\w ]+: |params do not fit", str(error)):  # not in our words
            raise
        pytest.skip(str(error).split("\n")[0])


def holds_a_layer(function: Any) -> bool:
    """Whether a function has a layer in its closure."""
    if isinstance(function, functools.partial):
        return any(map(holds_a_layer, (function.func, *function.args, *function.keywords.values())))
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    functions = [each for each in cells if callable(each) and not isinstance(each, type)]
    return isinstance(function, Layer) or any(map(holds_a_layer, functions))


def check_looks(net: Layer, trains=(False, True)) -> None:
    """The net is the same program, however it is looked at."""
    for train in trains:
        alone = program(net, X, train)
        for name, look in LOOKS.items():
            looked = program(look(net), X, train, name == "collect")
            if looked != alone and name == "collect":  # what is sown leaves a loop or a remat
                looked, alone = (numbers(each, train) for each in (look(net), net))
                looked = looked[0][0], looked[1]
                jax.tree.map(np.testing.assert_array_equal, looked, alone)
            else:
                assert looked == alone, (name, train)


def numbers(net: Layer, train: bool) -> Any:
    params, state = jax.jit(net.init)(KEY, X)
    return jax.jit(net.apply, static_argnames="train")(params, state, X, key=KEY, train=train)


@pytest.mark.fast_cases("freeze", "remat", "scaled", "time_distributed")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_is_the_same_program_however_it_is_looked_at(name):
    check_looks(TRANSFORMS[name](base()))


@pytest.mark.parametrize("inner", TRANSFORMS)
@pytest.mark.parametrize("outer", TRANSFORMS)
@pytest.mark.slow
def test_a_pair_of_transforms_is_the_same_program_however_it_is_looked_at(outer, inner):
    check_looks(TRANSFORMS[outer](TRANSFORMS[inner](base())), [True])


def check_stream(net: Layer) -> None:
    """The stream is the same program, however it is looked at; test_stream.py has its values."""
    stream = jn.stream(net, length=6)
    chunk = X[:, :3]
    alone = program(stream, chunk)
    for name, look in LOOKS.items():
        looked = jn.stream(look(net), length=6)
        assert program(looked, chunk, collected=name == "collect") == alone, name


ALONE = ("moving_average", "plain", "pair", "tap", "mapped", "collect")  # see the message


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name not in ALONE])
def test_a_transform_streams(name):
    check_stream(TRANSFORMS[name](jn.dense(8) if name in ("recurrent", "experts") else steps()))


@pytest.mark.parametrize("inner", [name for name in TRANSFORMS if name not in ALONE])
@pytest.mark.parametrize("outer", [name for name in TRANSFORMS if name not in ALONE])
@pytest.mark.slow
def test_a_pair_of_transforms_streams(outer, inner):
    net = TRANSFORMS[inner](jn.dense(8) if "recurrent" in (inner, outer) else steps())
    check_stream(TRANSFORMS[outer](net))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_no_transform_holds_the_layer_inside(name):
    """So it is the same transform of any other layer."""
    around = TRANSFORMS[name](jn.dense(8)).inside
    if isinstance(around, LayerTransform) and around.layer is not None:
        assert not holds_a_layer(around.apply)
        assert not holds_a_layer(around.init)


def test_the_old_form_of_a_transform_is_answered():
    inner = jn.dense(3)
    layer = jn.Layer(inner.init, inner.apply, "mine", "scaled").replace(inside=(inner, scaled))
    with pytest.raises(TypeError, match=r"^mine: .* jn.transforms.transform\(layer, apply, kind="):
        jn.serial(layer).init(KEY, X)


def test_a_transform_that_calls_its_layer_is_answered():
    layer = jn.dense(3)

    def apply(run, params, state, x):
        return layer.apply(params, state, x)

    with pytest.raises(ValueError, match=r"^mine: apply .* Call `run\(params, state, x\)`"):
        jn.transforms.transform(layer, apply, kind="mine")


def test_entries_of_ones_own_are_compared():
    def init(run, key, x):
        params, state = run.init(key, x)
        return params | {"factor": jnp.ones(())}, state

    def apply(run, params, state, x):
        params, factor = dict(params), params["factor"]
        y, state = run({n: params[n] for n in params if n != "factor"}, state, x)
        return factor * y, state

    layer = jn.transforms.transform(jn.dense(3), apply, kind="mine", init=init)
    params, state = layer.init(KEY, X)
    plain, _ = jn.dense(3).apply({n: params[n] for n in ("kernel", "bias")}, state, X)
    np.testing.assert_array_equal(layer.apply(params, state, X)[0], plain)
    with pytest.raises(jn.Misfit, match=r"factor: expected \(\), got \(2,\)"):
        jn.serial(layer).apply({"dense": params | {"factor": jnp.ones(2)}}, {}, X)


def fading(layer, rate=0.5, steps=100):  # as in the guide
    def init(run, key, x):
        params, state = run.init(key, x)
        return params, {**state, "count": jnp.zeros((), jnp.int32)}

    def apply(run, params, state, x):
        count = state.pop("count")
        y, state = run(params, state, x)
        if run.train:
            keep = 1 - rate * jnp.maximum(0, 1 - count / steps)
            y = jnp.where(jax.random.bernoulli(run.key("fade"), keep, y.shape), y / keep, 0)
        return y, {**state, "count": count + run.train}

    return jn.transforms.transform(layer, apply, kind="fading", init=init)


@pytest.mark.slow
def test_a_transform_draws_numbers_of_its_own():
    def apply(run, params, state, x):
        kept = jax.random.bernoulli(run.key("fade"), 0.5, x.shape)
        return jnp.where(kept, run(params, state, x)[0], 0), state

    x, itself = jnp.ones((1000, 4)), jn.compose(lambda m, x: x, name="x")
    outer = jn.transforms.transform(fading(itself), apply, kind="outer")
    inner = jn.serial(fading(jn.serial(jn.dropout(0.5, name="fade"))), name="net")
    for net in (fading(jn.dropout(0.5)), inner, outer):
        given = net.init(KEY, x)
        before = jax.tree.leaves(given[1])
        y, after = net.apply(*given, x, key=KEY, train=True)
        assert 0.72 < (y == 0).mean() < 0.78
        assert jax.tree.leaves(given[1]) == before  # nothing is taken out of what was given
    with pytest.raises(ValueError, match="needs a key in training. Pass one"):
        net.apply(*given, x, train=True)


def test_the_output_of_a_transform_is_rounded_below_cast():
    def centered(layer):
        def apply(run, params, state, x):
            y, state = run(params, state, x)
            return y - jnp.float32(0.1) * jnp.ones(8, jnp.float32), state

        return jn.transforms.transform(layer, apply, kind="centered")

    net = jn.cast(jn.repeat(centered(jn.dense(8)), 2), jnp.bfloat16)
    params, state = net.init(KEY, X)
    assert net.apply(params, state, X)[0].dtype == jnp.float32
