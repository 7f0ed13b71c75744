"""Products of few rows, and an LSTM, in C against NumPy in float64 and the forms in JAX."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.ops import recurrence
from jaxnet.ops.integers import scales_of_values, unpacked
from jaxnet.ops.native import instructions
from jaxnet.ops.native.gemv import few_rows, supports
from jaxnet.ops.native.keep import bernoulli
from jaxnet.ops.recurrence import LSTM, TANH, unroll
from jaxnet.profile.program import flops_of, parse
from jaxnet.services.trees import Memo
from tests.helpers import compiled, near

pytestmark = pytest.mark.skipif(instructions() is None, reason="needs the kernels in C")

FORMS = ("float32", "bfloat16", "int8", "int4", "uint8")

SIZES = [  # rows, inputs, outputs, neighbors that share a scale
    (1, 1, 2, None),
    (4, 96, 70, 32),
    (1, 200, 131, None),
    (3, 160, 130, 32),
    (2, 71, 34, 32),
    (1, 192, 400, 32),
    (4, 48, 18, 16),
    (7, 64, 30, 32),
]


def stored(form, shape, group, transposed, seed=0):
    """A kernel in this form, its scales or nothing, and the same in float64."""
    rng = np.random.default_rng(seed)
    if form in ("float32", "bfloat16"):
        kernel = jnp.asarray(rng.normal(size=shape), form)
        return (kernel,), np.asarray(kernel, np.float64)
    most = 127 if form == "int8" else 7
    numbers = rng.integers(-most - 1, most + 1, shape)
    axis = int(transposed)
    length = shape[axis]
    groups = -(-length // group) if group else 1
    size = -(-length // groups)
    of_scale = list(shape)
    of_scale[axis] = groups
    scale = rng.uniform(0.5, 2, of_scale).astype(np.float32)
    spread = np.repeat(scale, size, axis)[tuple(map(slice, shape))]
    if form == "uint8":
        both = np.pad(numbers, [(0, 0), (0, shape[1] % 2)]) & 15
        kernel = jnp.asarray(both[:, ::2] | both[:, 1::2] << 4, jnp.uint8)
    else:
        kernel = jnp.asarray(numbers, form)
    return (kernel, jnp.asarray(scale)), numbers * spread.astype(np.float64)


def in_c(x, *given, transposed=False):
    program = compiled(partial(few_rows, transposed=transposed), x, *given)
    assert "jaxnet_gemv" in program.as_text()
    return np.asarray(program(x, *given), np.float64)


@pytest.mark.fast_cases("bfloat16-False", "float32-False", "int4-True", "int8-True")
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_values(form, transposed):
    for rows, inputs, outputs, group in SIZES:
        if "float" in form:
            rows = min(rows, 4)
        if form == "int4":  # fills whole bytes
            inputs += inputs % 2
            outputs += outputs % 2
        shape = (outputs, inputs) if transposed else (inputs, outputs)
        given, exact = stored(form, shape, group, transposed)
        if transposed:
            exact = exact.T
        x = np.random.default_rng(1).normal(size=(rows, inputs)).astype(np.float32)
        expected = x.astype(np.float64) @ exact
        found = in_c(jnp.asarray(x), *given, transposed=transposed)
        of_many = few_rows(jnp.tile(x, (9, 1)), *given, transposed=transposed)
        near([found, of_many[:rows]], [expected] * 2, 3e-6, 0)


@pytest.mark.parametrize("form, narrow", [
    ("uint8", "float16"), ("uint8", "bfloat16"), ("int8", "float32"),
])  # fmt: skip
@pytest.mark.parametrize("transposed", [False, True])
def test_x_is_multiplied_as_integers_that_fit_its_size(transposed, form, narrow):
    """Row by row: zeros, small and large numbers, NaN and infinity; with scales in 16 bits."""
    shape = (130, 95) if transposed else (95, 130)
    (kernel, scale), _ = stored(form, shape, 32 if form == "uint8" else None, transposed)
    x = np.random.default_rng(1).normal(size=(5, 95)).astype(np.float32)
    x[:3] *= np.float32([[0], [1e-32], [1e30]])
    x[3, 40], x[4, 2] = np.nan, np.inf
    scale = scale.astype(narrow)
    scales = np.asarray(scales_of_values(scale.astype(jnp.float32), shape), np.float64)
    numbers = np.asarray(unpacked(kernel, shape[1]) if form == "uint8" else kernel) * scales
    expected = x[:3].astype(np.float64) @ (numbers.T if transposed else numbers)
    found = in_c(jnp.asarray(x), kernel, scale, transposed=transposed)
    largest = abs(expected).max(1, keepdims=True)
    assert (abs(found[:3] - expected) <= 3e-6 * largest).all()
    assert np.isnan(found[3]).all() and not np.isfinite(found[4]).any()
    assert form == "int8" or np.isnan(found[4]).all()  # 8 bits are floats without VNNI
    for row in range(3):
        alone = in_c(jnp.asarray(x[row : row + 1]), kernel, scale, transposed=transposed)
        np.testing.assert_array_equal(alone[0], found[row])


def test_derivatives_and_vmap_are_those_of_jax():
    x, w = jnp.linspace(-1, 1, 2 * 6).reshape(2, 6), jnp.arange(18.0).reshape(6, 3)

    def loss(product):
        return lambda x, w: jnp.sin(product(x, w)).sum()

    for derivative in (jax.grad, jax.hessian):
        found = jax.jit(derivative(loss(few_rows), (0, 1)))(x, w)
        expected = jax.jit(derivative(loss(jnp.matmul), (0, 1)))(x, w)
        near(found, expected, 1e-5, 0)
    stack = jax.vmap(few_rows, (0, None))(jnp.stack([x, 2 * x]), w)
    np.testing.assert_allclose(stack, jnp.stack([x @ w, 2 * x @ w]), rtol=1e-5)


def test_rows_in_bfloat16_are_summed_in_float32():
    x, w = jnp.ones((1, 600), jnp.bfloat16), jnp.ones((600, 40), jnp.bfloat16)
    assert (in_c(x, w) == 600).all()
    assert few_rows(x, w).dtype == jnp.bfloat16


def spec(shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize("x, given, transposed, runs", [
    ((4, 6), [spec((6, 5))], False, True),
    ((5, 6), [spec((6, 5))], False, False),  # XLA multiplies many rows faster
    ((8, 6), [spec((6, 5), "int8"), spec((1, 5))], False, True),
    ((9, 6), [spec((6, 5), "int8"), spec((1, 5))], False, False),
    ((1, 6), [spec((6, 5), "float16")], False, False),
    ((1, 6), [spec((6, 5), "int4"), spec((1, 5))], False, False),  # lines end inside a byte
    ((1, 6), [spec((6, 3), "uint8"), spec((1, 5))], False, True),
    ((1, 6), [spec((6, 5), "int8")], False, False),  # no scale
    ((1, 9), [spec((9, 5), "int8"), spec((5, 5))], False, True),
    ((1, 9), [spec((9, 5), "int8"), spec((6, 5))], False, False),  # 2 inputs would give 5 groups
    ((1, 9), [spec((5, 9), "int8"), spec((5, 3))], True, False),  # a word has two scales
])  # fmt: skip
def test_what_runs_in_c(x, given, transposed, runs):
    assert supports(spec(x), *given, transposed=transposed) == runs


@pytest.mark.parametrize(("kernel", "scale"), [
    ((5, 4), None), ((6, 5), None), ((6, 4), (4, 4)), ((6, 4), (1, 5)),
])  # fmt: skip
def test_arrays_that_do_not_fit_are_errors(kernel, scale):
    if scale is None:
        given = [jnp.ones(kernel)]
    else:
        given = [jnp.ones(kernel, "int8"), jnp.ones(scale)]
    call = jax.ffi.ffi_call("jaxnet_gemv", spec((1, 4)))
    with pytest.raises(Exception, match="jaxnet: not .*dims|jaxnet: not .*groups"):
        jax.jit(call)(jnp.ones((1, 6)), *given)


def lstm_arguments(steps=9, batch=6, features=19, masked=True, dtype=np.float32, cell=LSTM):
    rng = np.random.default_rng(5)
    wide, carry = cell.gates * features, (batch, features)
    shapes = (steps, batch, wide), (features, wide), (wide,), carry, carry
    pre, kernel, bias, c, h = (jnp.asarray(rng.normal(size=s), dtype) for s in shapes)
    mask = np.arange(steps)[:, None, None] < rng.integers(1, steps + 1, batch)[:, None]
    given = pre, kernel * 0.3, (bias, None), {"c": c, "h": h} if cell.memory else h
    return given, jnp.asarray(mask) if masked else None


def lstm_loss(given, mask):
    h, final = unroll(LSTM if isinstance(given[-1], dict) else TANH, *given, mask)
    last = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(final))
    return (jnp.sin(h) * jnp.arange(1.0, 1 + h.shape[-1])).sum() + last


def in_xla(monkeypatch, function, *args):
    """What the function gives without the kernels."""
    with monkeypatch.context() as patch:
        patch.setattr(recurrence, "_run", lambda loop, cell, *args: loop(cell, *args))
        patch.setattr(recurrence, "memo_of", lambda owner: Memo())
        program = compiled(function, *args)
    assert "jaxnet" not in program.as_text()
    return program(*args)


@pytest.mark.fast_cases("lstm-True", "rnn-True")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "cell, targets", [(LSTM, ["lstm", "lstm_back"]), (TANH, ["rnn"])], ids=["lstm", "rnn"]
)
def test_derivatives_of_a_loop_agree_with_xla(monkeypatch, masked, cell, targets):
    """To second order, under vmap and remat and in a scan."""
    given, mask = lstm_arguments(masked=masked, cell=cell)

    def everything(given, mask):
        loss = partial(lstm_loss, mask=mask)
        gradient = jax.grad(loss)
        moved = jax.tree.map(jnp.cos, given)

        def of_gradient(given):
            _, by_kernel, *_ = gradient(given)
            return jnp.sin(by_kernel).sum()

        def scaled(factor):
            return gradient(jax.tree.map(lambda a: a * factor, given))

        def step(total, _):
            return total * loss(given), gradient(given)

        return {
            "gradient": gradient(given),
            "tangent": jax.jvp(loss, (given,), (moved,)),
            "second": jax.jvp(gradient, (given,), (moved,)),
            "reverse twice": jax.grad(of_gradient)(given),
            "remat": jax.grad(jax.checkpoint(loss))(given),
            "vmap": jax.vmap(scaled)(jnp.linspace(0.5, 1, 2)),
            "scan": jax.lax.scan(step, 1.0, None, 2),
        }

    program = compiled(everything, given, mask)
    for target in targets:
        assert f'"jaxnet_{target}"' in program.as_text()
    near(program(given, mask), in_xla(monkeypatch, everything, given, mask), 2e-5)


@pytest.mark.parametrize(
    "where, value", [("pre", np.nan), ("pre", np.inf), ("c", np.nan), ("kernel", np.nan)]
)
@pytest.mark.parametrize("cell", [LSTM, TANH], ids=["lstm", "rnn"])
def test_nan_and_infinity_pass_through_a_loop(monkeypatch, where, value, cell):
    (pre, kernel, biases, carry), mask = lstm_arguments(masked=False, cell=cell)
    if where == "pre":
        pre = pre.at[3, 2, 5].set(value)
    elif where == "kernel":
        kernel = kernel.at[0, 7].set(value)
    else:
        carry = jax.tree.map(lambda leaf: leaf.at[1, 3].set(value), carry)
    given = pre, kernel, biases, carry
    gradient = jax.value_and_grad(lstm_loss)
    found = compiled(gradient, given, mask)(given, mask)
    expected = in_xla(monkeypatch, gradient, given, mask)
    jax.tree.map(np.testing.assert_array_equal, *jax.tree.map(np.isnan, (found, expected)))


@pytest.mark.slow
def test_what_an_lstm_leaves_to_xla():
    given, mask = lstm_arguments()
    gradient = jax.grad(lstm_loss)
    assert "jaxnet_lstm_back" in compiled(gradient, given, mask).as_text()
    for options in {"steps": 2}, {"batch": 1}:
        assert "jaxnet_lstm" not in compiled(gradient, *lstm_arguments(**options)).as_text()


@pytest.mark.parametrize("change, message", [
    (dict(kernel=(6, 12)), "wide"), (dict(pre=(8, 4, 13)), "GATES"), (dict(c=(4, 4)), "batch"),
])  # fmt: skip
def test_arrays_of_an_lstm_that_do_not_fit_are_errors(change, message):
    shapes = dict(pre=(8, 4, 12), kernel=(3, 12), bias=(12,), c=(4, 3), h=(4, 3)) | change
    results = [jax.ShapeDtypeStruct(s, np.float32) for s in ((8, 4, 3), (4, 3))]
    call = jax.ffi.ffi_call("jaxnet_lstm", results)
    with pytest.raises(Exception, match=f"jaxnet: not .*{message}"):
        jax.jit(call)(*(np.ones(shape, np.float32) for shape in shapes.values()))


def test_flops_of_an_lstm_are_counted():
    given, mask = lstm_arguments(steps=9, batch=6, features=19)
    flops = 2 * 9 * 6 * 19 * 4 * 19
    assert jn.inspect.flops(partial(unroll, LSTM), *given, mask) == flops
    text = compiled(partial(unroll, LSTM), *given, mask).as_text()
    runs = [run for run in parse(text).runs() if "jaxnet_lstm" in run.instruction.attributes]
    assert sum(map(flops_of, runs)) == flops


def test_threads_that_compute_at_once_have_the_same_bits():
    given, mask = lstm_arguments(steps=12, batch=40)
    program = jax.jit(jax.grad(lstm_loss))

    def bits(_=None):
        leaves = jax.tree.leaves(program(given, mask))
        return b"".join(np.asarray(leaf).tobytes() for leaf in leaves)

    expected = bits()
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(bits, range(100))) == {expected}


@jax.debug_key_reuse(False)
@pytest.mark.parametrize("p", [0.9, 0.123, 1e-9, 1.0, 0.0])
def test_dropout_has_the_bits_of_jax(p):
    """Also in the last vector of a chunk, and under vmap."""
    keys = jax.random.split(jax.random.key(3), 2)
    for shape in [(1,), (7, 5), (3, 40000)]:
        one = partial(bernoulli, p=p, shape=shape)
        assert "jaxnet_keep" in compiled(one, keys[0]).as_text()
        expected = jax.vmap(lambda key: jax.random.bernoulli(key, p, shape))(keys)  # noqa: B023
        np.testing.assert_array_equal(one(keys[0]), expected[0])
        np.testing.assert_array_equal(jax.vmap(one)(keys), expected)


def test_keys_of_another_kind_are_left_to_jax():
    key = jax.random.key(3, impl="rbg")
    assert "jaxnet_keep" not in compiled(partial(bernoulli, p=0.5, shape=(8,)), key).as_text()
