"""Nets with folded weights answer as `apply` does, whatever a user writes."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.interop.export import export
from jaxnet.rewriting import batches
from jaxnet.rewriting.folding import Call, Folded
from jaxnet.services.jax_versions import enable_x64
from tests.helpers import near
from tests.rewriting.nets import KINDS, made, random_input, random_net

TOLERANCE = 1e-5  # of the largest output


def calls_of(net, params, state, x):
    program = jax.make_jaxpr(lambda x: net.apply(params, state, x)[0])(x)
    return [call for call in Folded(program, in_c=False).calls if isinstance(call, Call)]


def check(seed):
    """Compare a random net; return whether something was folded."""
    kind = KINDS[seed % len(KINDS)]
    net, x = random_net(seed, kind), random_input(seed, kind)
    params, state = made(net, x, seed)
    want, _ = jax.jit(net.apply)(params, state, x)
    got = jn.optimize_for_inference(net, params, state)(x)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for found, expected in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert found.shape == expected.shape and found.dtype == expected.dtype
        largest = abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * largest + 1e-6)
    return bool(calls_of(net, params, state, x))


@pytest.mark.parametrize("seed", range(10))
def test_random_nets_answer_the_same(seed):
    check(seed)


@pytest.mark.long
def test_most_of_two_hundred_random_nets_are_folded():
    folded = sum(map(check, range(1000, 1200)))
    assert folded >= 150, folded


@pytest.mark.parametrize("wild", [np.nan, np.inf, 3e38])
def test_wild_weights_and_inputs_give_what_apply_gives(wild):
    net = jn.serial(jn.conv(16, 3), jn.batch_norm(), jax.nn.relu, jn.conv(4, 1))
    x = np.random.default_rng(0).normal(size=(1, 9, 9, 16)).astype("float32")
    params, state = made(net, x)
    spoiled = x.copy()
    spoiled[0, 4, 4, 2] = wild
    want, _ = net.apply(params, state, spoiled)
    got = jn.optimize_for_inference(net, params, state)(spoiled)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    params["conv"]["kernel"] = params["conv"]["kernel"].at[1, 1, 0, 0].set(wild)
    want, _ = net.apply(params, state, x)
    got = jn.optimize_for_inference(net, params, state)(x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))


def test_streams_take_and_return_their_state():
    net = jn.serial(jn.conv(8, 3, padding="CAUSAL"), jn.gru(8), jn.dense(4))
    stream = jn.stream(net)
    x = jax.random.normal(jax.random.key(1), (2, 6, 3))
    params, state = stream.init(jax.random.key(0), x[:, :1])
    step = jn.optimize_for_inference(stream, params, state)
    other = state
    for time in range(6):
        chunk = x[:, time : time + 1]
        y, state = step(state, chunk)
        expected, other = stream.apply(params, other, chunk)
        near(y, expected, 1e-5)
    near(state, other, 1e-5)


def test_functions_of_other_libraries():
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(8, (3, 3))(x)))
            return nn.Dense(3)(nn.gelu(nn.Conv(8, (3, 3), feature_group_count=8)(x)).mean((1, 2)))

    net, x = Net(), jax.random.normal(jax.random.key(1), (8, 8, 8, 3))
    variables = net.init(jax.random.key(0), x)

    def answer(x):
        return net.apply(variables, x)

    near(jn.optimize_for_inference(answer)(x), answer(x), 1e-5)
    calls = Folded(jax.make_jaxpr(jn.accelerate(answer))(x), in_c=False).calls
    assert [c.fused.activation or c.fused.least for c in calls if isinstance(c, Call)][:2] == [
        0,
        "gelu_tanh",
    ]


def test_inside_transformations():
    net = jn.serial(jn.conv(8, 3), jax.nn.silu, jn.flatten(), jn.dense(3))
    x = jax.random.normal(jax.random.key(1), (4, 6, 6, 2))
    params, state = net.init(jax.random.key(0), x)
    answer = jn.optimize_for_inference(net, params, state)

    def plain(x):
        return net.apply(params, state, x)[0]

    near(jax.jit(lambda x: answer(x) + 1)(x), plain(x) + 1, 1e-5)
    several = jnp.stack([x, 2 * x])
    near(jax.vmap(answer)(several), jax.vmap(plain)(several), 1e-5)
    near(jax.grad(lambda x: answer(x).sum())(x), jax.grad(lambda x: plain(x).sum())(x), 1e-5)


ON_FOUR_DEVICES = """
net = jn.serial(jn.conv(8, 3), jax.nn.relu, jn.flatten(), jn.dense(3))
x = jax.random.normal(jax.random.key(1), (8, 6, 6, 2))
params, state = net.init(jax.random.key(0), x)
want, _ = net.apply(params, state, x)
answer = jn.optimize_for_inference(net, params, state)
mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
where = {"mesh": mesh, "in_specs": P("x"), "out_specs": P("x")}
for check in (True, False):
    mapped = jax.jit(jax.shard_map(answer, check_vma=check, **where))
    np.testing.assert_allclose(mapped(x), want, atol=1e-5)
split = jax.device_put(x, jax.sharding.NamedSharding(mesh, P("x")))
np.testing.assert_allclose(answer(split), want, atol=1e-5)
there = answer(jax.device_put(x, jax.devices()[2]))
assert there.devices() == {jax.devices()[2]}
np.testing.assert_allclose(there, want, atol=1e-5)
mapped = jax.pmap(answer)(x.reshape(4, 2, 6, 6, 2))
np.testing.assert_allclose(mapped, want.reshape(4, 2, 3), atol=1e-5)
"""


def test_on_four_devices(on_devices):
    on_devices(ON_FOUR_DEVICES, 4)


@jax.custom_vjp
def rounded(x):
    return jnp.round(x)


rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, slope: (slope,))


@jax.custom_jvp
def root(x):
    return jnp.sqrt(x)


@root.defjvp
def root_slope(primals, tangents):
    return root(primals[0]), 7 * tangents[0]


@pytest.mark.parametrize("function", [rounded, root, jax.nn.relu, jnp.abs])
def test_derivatives_are_those_of_the_function(function):
    kernel = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")

    def net(x):
        return function((x @ kernel) ** 2)

    def gradient(f):
        return jax.grad(lambda x: jnp.sin(f(x)).sum())(x)

    x = np.random.default_rng(1).normal(size=(20, 8)).astype("float32")
    answer = jn.optimize_for_inference(net)
    near(gradient(answer), gradient(net), 1e-5)
    near(gradient(answer.in_jax), gradient(net), 1e-5)


def test_a_function_with_effects_has_them(capfd):
    def net(x):
        jax.debug.print("seen {}", x.sum(), ordered=True)
        return jnp.sin(x)

    jn.optimize_for_inference(net)(jnp.ones(3))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("seen 3.0") == 1


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_other_platforms_get_folded_operations_of_jax(monkeypatch, platform):
    net = jn.serial(jn.conv(8, 3), jn.batch_norm(), jax.nn.relu)
    x = jnp.ones((2, 6, 6, 3))
    params, state = made(net, x)
    answer = jn.optimize_for_inference(net, params, state)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    near(answer(x), net.apply(params, state, x)[0], 1e-5)
    assert "jaxnet_fused" not in jax.jit(answer).lower(x).as_text()


def test_programs_of_the_last_shapes_are_kept():
    answer = jn.optimize_for_inference(lambda x: x * 2)
    for size in range(1, 7):
        answer(jnp.ones(size))
    assert str(answer) == "optimize_for_inference(<lambda>), compiled for 4 shapes"


def test_numbers_of_python_stay_weak():
    answer = jn.optimize_for_inference(lambda x: x * jnp.float16(2))
    assert answer(3.0).dtype == jnp.float16


def test_arrays_of_other_layouts():
    net, x = jn.serial(jn.conv(4, 3), jax.nn.relu), np.ones((2, 6, 5, 3), "float32")
    params, state = net.init(jax.random.key(0), x)
    answer = jn.optimize_for_inference(net, params, state)
    want, _ = net.apply(params, state, x)
    for given in (x.astype(">f4"), x.astype("float64"), x[::-1], x.astype("int8")):
        near(answer(given), want, 1e-5)
        near(answer(given), want, 1e-5)  # by the program of the last shape
    with pytest.raises(TypeError, match="masked"):
        answer(np.ma.masked_array(x))


def test_64_bits_switched_on_afterwards():
    net, x = jn.dense(4), np.random.default_rng(0).normal(size=(20, 8))
    params, state = net.init(jax.random.key(0), x)
    answer = jn.optimize_for_inference(net, params, state)
    near(answer(x), net.apply(params, state, x)[0], 1e-5)
    with enable_x64(True):
        want, _ = net.apply(params, state, x)
        assert answer(x).dtype == want.dtype == np.float64
        near(answer(x), want, 1e-9)


def test_a_batch_split_in_parts_may_be_the_only_one(monkeypatch):
    monkeypatch.setattr(batches, "last_cache", lambda: 2**12)
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 8)).astype("float32")
    kernel = np.ones((8, 8), "float32")
    answer = jn.optimize_for_inference(lambda rows: rows @ kernel + x)
    near(answer(x), x @ kernel + x, 1e-5)
    refusing = jn.optimize_for_inference(lambda x: x @ kernel if len(x) == 8 else 1 / 0)
    near(refusing(x), x @ kernel, 1e-5)


def test_threads_share_an_answer():
    kernel = jnp.ones((3, 4))
    answer = jn.optimize_for_inference(lambda x: x @ kernel)

    def call(number):
        rows = 1 + number % 6  # more than are kept
        return answer(np.ones((rows, 3), "float32")).shape == (rows, 4)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(60)))


def test_an_interrupt_of_the_first_call_leaves_nothing_behind():
    calls = []

    def net(x):
        calls.append(x)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return 2 * x

    answer = jn.optimize_for_inference(net)
    with pytest.raises(KeyboardInterrupt):
        answer(jnp.ones(3))
    assert answer(jnp.ones(3)).tolist() == [2, 2, 2]


def test_copies_are_the_answer_itself():
    answer = jn.optimize_for_inference(jnp.sin)
    assert copy.deepcopy(answer) is copy.copy(answer) is answer
    with pytest.raises(TypeError, match="answer of sin cannot be pickled"):
        pickle.dumps(answer)


def test_params_that_were_donated():
    net, x = jn.dense(3), jnp.ones((2, 4))
    params, state = net.init(jax.random.key(0), x)
    answer = jn.optimize_for_inference(net, params, state)
    want = answer(x)
    jax.tree.map(lambda a: a.delete(), params)
    near(answer(x), want, 1e-6)
    with pytest.raises(ValueError, match="weights of dense were deleted"):
        answer(x[:1])
    with pytest.raises(ValueError, match="weights of dense were deleted"):
        export(answer, x)


def test_wrong_numbers_of_arguments():
    x = jnp.ones((1, 1, 3))
    stream = jn.stream(jn.gru(4))
    params, state = stream.init(jax.random.key(0), x)
    step = jn.optimize_for_inference(stream, params, state)
    with pytest.raises(TypeError, match=r"expected answer\(state, x\) for gru"):
        step(x)
    for given in ((x,), (state, x)):
        with pytest.raises(TypeError, match=r"write export\(stream, params, state, x\)"):
            export(step, *given)
    net = jn.dense(3)
    answer = jn.optimize_for_inference(net, *net.init(jax.random.key(0), x))
    for given in ((), (x, x)):
        with pytest.raises(TypeError, match=r"expected answer\(x\) for dense"):
            answer(*given)


def test_a_net_in_16_bits_stays():
    net = jn.serial(jn.conv(8, 3), jax.nn.relu)
    x = jnp.ones((1, 5, 5, 8), jnp.bfloat16)
    params, state = net.init(jax.random.key(0), x)
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    assert calls_of(net, params, state, x) == []
    got = jn.optimize_for_inference(net, params, state)(x)
    assert got.dtype == jnp.bfloat16
    near(got, net.apply(params, state, x)[0], 1e-2)


def test_errors():
    net = jn.dense(3)
    x = jnp.ones((2, 4))
    params, state = net.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="state of dense is missing"):
        jn.optimize_for_inference(net, params)
    with pytest.raises(TypeError, match="optimize_for_inference: net must be a function"):
        jn.optimize_for_inference(3)
    with pytest.raises(ValueError, match="a function has no params"):
        jn.optimize_for_inference(jnp.sin, params, state)
    with pytest.raises(ValueError, match="Make the answer outside"):
        jax.jit(lambda params: jn.optimize_for_inference(net, params, state)(x))(params)


def test_a_net_that_changes_its_state_must_say_so():
    @jn.compose
    def counted(m, x):
        m.update("count", m.state("count", jn.initializers.constant(0.0), ()) + 1)
        return x

    x = jnp.ones((2, 3))
    params, state = counted.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"counted changes its state \(count\) in evaluation"):
        jn.optimize_for_inference(counted, params, state)(x)
    step = jn.optimize_for_inference(lambda state, x: counted.apply(params, state, x))
    _, state = step(state, x)
    assert state["count"] == 1


@pytest.mark.parametrize("batch", [None, 3])
def test_exported_answers_have_folded_weights(batch):
    net = jn.serial(jn.conv(8, 3), jn.batch_norm(), jax.nn.relu, jn.flatten(), jn.dense(3))
    x = jax.random.normal(jax.random.key(1), (3, 6, 6, 2))
    params, state = made(net, x)
    answer = jn.optimize_for_inference(net, params, state)
    answer(x)  # which makes a program that holds weights
    program = export(answer, jn.spec((2, 6, 6, 2)), batch=batch)
    near(program(x), net.apply(params, state, x)[0], 1e-5)
    text = program.exported.mlir_module()
    assert "jaxnet" not in text and "rsqrt" not in text
    with pytest.raises(TypeError, match=r"write export\(answer, x\)"):
        export(answer, params, state, x)
