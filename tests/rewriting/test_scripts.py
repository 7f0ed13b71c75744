"""Small steps that run in one call, against the same programs by XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxnet as jn
from jaxnet.ops.native import instructions
from jaxnet.rewriting.folding import Folded
from tests.helpers import close

pytestmark = pytest.mark.skipif(instructions() is None, reason="there are no kernels in C")

KERNEL = np.linspace(-1, 1, 48, dtype=np.float32).reshape(6, 8)
WIDE = np.linspace(-1, 1, 48, dtype=np.float32).reshape(3, 8, 2)
X = np.linspace(-2.3, 2.9, 18, dtype=np.float32).reshape(3, 6)


def calls(function, *args) -> list[str]:
    """The names of what is left of a program."""
    folded = Folded(jax.make_jaxpr(function)(*args), in_c=True)
    return [getattr(call, "name", "call") for call in folded.calls]


# What follows x @ KERNEL (3, 8), with every form of every step.
FORMS = {
    "neg": lambda y: -y,
    "abs": jnp.abs,
    "exp": jnp.exp,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "sqrt": lambda y: jnp.sqrt(abs(y)),
    "rsqrt": lambda y: lax.rsqrt(abs(y) + 1),
    "erf": lax.erf,
    "gelu": lambda y: jax.nn.gelu(y, approximate=True),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "square": jnp.square,
    "cube": lambda y: y**3,
    "minus a number": lambda y: 1 - y,
    "by a number": lambda y: 2 / (3 + y * y),
    "bias": lambda y: y + KERNEL[0],
    "a column": lambda y: y * y[:, :1],
    "size one by axis": lambda y: y.reshape(3, 2, 4) * y.reshape(3, 2, 4)[:1, :, :1],
    "clip": lambda y: jnp.clip(y, -0.5, 0.7),
    "where": lambda y: jnp.where(y > 0.1, y, -2 * y),
    "all comparisons": lambda y: sum(
        jnp.where(test(y, y[:1]), y, 1.0)
        for test in (lax.gt, lax.ge, lax.lt, lax.le, lax.eq, lax.ne)
    ),
    "truth as a number": lambda y: (y < 0).astype(jnp.float32) + y,
    "transpose": lambda y: y.T * 2,
    "transpose of three": lambda y: y.reshape(3, 2, 4).transpose(2, 0, 1) + 1,
    "slice": lambda y: y[1:, 2:7] + 1,
    "slice with steps": lambda y: lax.slice(y, (0, 1), (3, 8), (2, 3)) + 1,
    "split": lambda y: jnp.split(y, 4, axis=1)[2] + 1,
    "split of rows": lambda y: sum(jnp.split(y, 3, axis=0)),
    "concatenate": lambda y: jnp.concatenate([y, 2 * y[:1], y[2:]], 0) + 1,
    "concatenate columns": lambda y: jnp.concatenate([y[:, 3:], y], 1) + 1,
    "stack": lambda y: jnp.stack([y, -y], 1) + 1,
    "pad": lambda y: jnp.pad(y, ((1, 0), (2, 3)), constant_values=0.5) + 1,
    "sum": lambda y: y.sum(1) + 1,
    "sum of rows": lambda y: y.sum(0) + 1,
    "sum of all": lambda y: y.sum() + 1,
    "largest": lambda y: y.max(1) + 1,
    "smallest": lambda y: y.min(0) + 1,
    "mean of the middle": lambda y: y.reshape(3, 2, 4).mean(1),
    "softmax": jax.nn.softmax,
    "layer norm": lambda y: (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True)),
    "product": lambda y: y @ KERNEL.T,
    "product with its transpose": lambda y: y @ y.T,
    "product in a batch": lambda y: jnp.einsum("abi,abj->aij", *[y.reshape(3, 4, 2)] * 2),
    "product of heads": lambda y: jnp.einsum("iha,jha->hij", *[y.reshape(3, 2, 4)] * 2),
    "product over two axes": lambda y: jnp.einsum("iab,abj->ij", y[None], WIDE),
    "kernel read twice": lambda y: jnp.tanh(y @ KERNEL.T) @ KERNEL,
    "loop that runs once": lambda y: lax.scan(lambda a, b: (a + b, a * b), y[0], y[1:2])[1],
    "several results": lambda y: {"a": y + 1, "b": [y.T, y[0]]},
    "a result twice": lambda y: (y, y, y.reshape(-1)),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_runs_in_one_call(name):
    def program(x):
        return FORMS[name](x @ KERNEL)

    answer = jn.optimize_for_inference(program)
    close(answer(X), jax.jit(program)(X), 3e-6)
    assert calls(program, X) == ["script"]


@pytest.mark.parametrize("name", FORMS)
def test_numbers_that_are_not_finite_stay(name):
    def program(x):
        return FORMS[name](x[:, :8] * 1 + 0 * (x[:1, :6] @ KERNEL))

    ours, theirs = jn.optimize_for_inference(program), jax.jit(program)
    for number in (np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-30):
        x = np.tile(X, (1, 2))[:, :8].copy()
        x[1, 2] = number
        x[0, :6] = 1  # the product stays finite
        close(ours(x), theirs(x))


NETS = {
    "policy": lambda: jn.serial(jn.dense(64), jnp.tanh, jn.dense(64), jax.nn.relu, jn.dense(8)),
    "norms": lambda: jn.serial(
        jn.dense(9), jn.layer_norm(), jax.nn.gelu, jn.rms_norm(), jn.dense(4)
    ),
    "softmax": lambda: jn.serial(jn.dense(9), jax.nn.softmax),
}


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("name", NETS)
def test_a_small_net_is_one_call(name, rows):
    net = NETS[name]()
    x = jax.random.normal(jax.random.key(1), (rows, 7))
    params, state = net.init(jax.random.key(0), x)
    answer = jn.optimize_for_inference(net, params, state)
    close(answer(x), net.apply(params, state, x)[0], 2e-6)
    assert calls(lambda x: net.apply(params, state, x)[0], x) == ["script"]


STREAMS = {
    "gru": lambda: jn.gru(16),
    "lstm": lambda: jn.lstm(16),
    "rnn": lambda: jn.rnn(16),
    "two": lambda: jn.serial(jn.lstm(9), jn.gru(5), jn.dense(3)),
    "convolutions": lambda: jn.serial(
        jn.conv(8, 3, padding="CAUSAL", dilation=2), jax.nn.relu, jn.conv(4, 2, padding="CAUSAL")
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_step_of_a_stream_is_one_call(name):
    net = jn.stream(STREAMS[name]())
    x = jax.random.normal(jax.random.key(1), (2, 6, 5))
    params, state = net.init(jax.random.key(0), x[:, :1])
    step, known = jn.optimize_for_inference(net, params, state), state
    for place in range(6):
        frame = x[:, place : place + 1]
        y, state = step(state, frame)
        wanted, known = net.apply(params, known, frame)
        close((y, state), (wanted, known), 3e-6)
    assert calls(lambda state, x: net.apply(params, state, x), state, x[:, :1]) == ["script"]


def test_derivatives_and_vmap_are_those_of_the_program():
    def program(x):
        return jnp.tanh(x @ KERNEL).sum()

    answer = jn.optimize_for_inference(program)
    close(jax.grad(answer)(X), jax.grad(program)(X))
    many = np.stack([X, 2 * X])
    close(jax.vmap(answer)(many), jax.vmap(program)(many))
    close(jax.jit(lambda x: answer(x) + 1)(X), program(X) + 1)


def test_large_arrays_and_products_stay_where_threads_compute_them():
    kernel = jnp.ones((600, 600))
    assert "script" not in calls(lambda x: jnp.tanh(x @ kernel), jnp.ones((1, 600)))
    small = jnp.ones((64, 64))
    assert "script" not in calls(lambda x: jnp.tanh(x @ small), jnp.ones((512, 64)))


def test_steps_between_which_others_run_are_several_calls():
    def program(x):
        y = jnp.tanh(x @ KERNEL)
        order = jnp.argsort(y, axis=1)  # no small step
        return jnp.take_along_axis(y, order, 1) @ KERNEL.T

    names = calls(program, X)
    assert names.count("script") == 2
    close(jn.optimize_for_inference(program)(X), program(X))


def test_truth_values_do_not_leave_a_call():
    def program(x):
        y = x @ KERNEL
        return y > 0, jnp.any(y > 1, 1), y + 1

    close(jn.optimize_for_inference(program)(X), program(X))


def test_steps_without_a_product_stay_with_xla():
    assert "script" not in calls(lambda x: jnp.tanh(x) + 1, X)


@pytest.mark.parametrize(
    "seed", [*range(12), *(pytest.param(i, marks=pytest.mark.slow) for i in range(12, 200))]
)
def test_random_programs(seed):
    program = random_program(np.random.default_rng(seed))
    answer = jn.optimize_for_inference(program)
    ours, theirs = answer(X), jax.jit(program)(X)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, 1e-4, 1e-5 * (1 + abs(np.asarray(b)).max()))


def random_program(draw: np.random.Generator):
    """A function of X with about thirty small steps, some of which XLA keeps."""
    choices = draw.integers(0, 2**31, (30, 3))
    kernel = draw.standard_normal((6, 6)).astype(np.float32) / 3

    def program(x):
        made = [x, jnp.tanh(x @ kernel)]
        for kind, first, second in choices:
            a, b = made[first % len(made)], made[second % len(made)]
            steps = [
                lambda a, b: jnp.tanh(a @ kernel),
                lambda a, b: a + b,
                lambda a, b: jnp.maximum(a, b) * 0.5,
                lambda a, b: jnp.where(a > b, a, jnp.sin(b)),
                lambda a, b: jnp.concatenate([a[:, 4:], b[:, :4]], 1),
                lambda a, b: jax.nn.softmax(a @ b.T) @ b,
                lambda a, b: a - b.mean(0),
                lambda a, b: jax.nn.sigmoid(a) * b[:, ::-1],
                lambda a, b: jnp.stack([a, b], 1).transpose(0, 2, 1).max(-1),
            ]
            made.append(steps[kind % len(steps)](a, b))
        return made[-3:]

    return program
