"""Products of few rows, and dropout, in C against NumPy in float64 and the forms in JAX."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops.integers import scales_of_values, unpacked
from jaxnet.ops.native import instructions
from jaxnet.ops.native.gemv import few_rows, supports
from jaxnet.ops.native.keep import bernoulli
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


@pytest.mark.fast_cases(
    "False-int8-float32", "True-int8-float32", "True-uint8-bfloat16", "False-uint8-bfloat16"
)
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


@pytest.mark.slow
def test_derivatives_and_vmap_are_those_of_jax():
    x, w = jnp.linspace(-1, 1, 2 * 6).reshape(2, 6), jnp.arange(18.0).reshape(6, 3)

    def loss(product):
        return lambda x, w: jnp.sin(product(x, w)).sum()

    def compiled_hessian(f, at):
        return jax.jit(jax.hessian(f, at))

    for derivative in (jax.grad, compiled_hessian):
        found = derivative(loss(few_rows), (0, 1))(x, w)
        expected = derivative(loss(jnp.matmul), (0, 1))(x, w)
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


@pytest.mark.fast_cases("0.0", "0.123")
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


@pytest.mark.slow
def test_keys_of_another_kind_are_left_to_jax():
    key = jax.random.key(3, impl="rbg")
    assert "jaxnet_keep" not in compiled(partial(bernoulli, p=0.5, shape=(8,)), key).as_text()
