"""Products of few rows in C against NumPy in float64, and in the forms that JAX sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops.native import instructions
from jaxnet.ops.native.gemv import few_rows, supports

pytestmark = pytest.mark.skipif(instructions() is None, reason="needs the kernels in C")

FORMS = ("float32", "bfloat16", "int8", "int4", "uint8")


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
    scale = rng.uniform(0.5, 2, [groups if i == axis else n for i, n in enumerate(shape)])
    scale = scale.astype(np.float32)
    spread = np.repeat(scale, size, axis)[tuple(map(slice, shape))]
    if form == "uint8":
        both = np.pad(numbers, [(0, 0), (0, shape[1] % 2)]) & 15
        kernel = jnp.asarray(both[:, ::2] | both[:, 1::2] << 4, jnp.uint8)
    else:
        kernel = jnp.asarray(numbers, form)
    return (kernel, jnp.asarray(scale)), numbers * spread.astype(np.float64)


def in_c(x, *given, transposed=False):
    program = jax.jit(lambda *a: few_rows(*a, transposed=transposed)).lower(x, *given).compile()
    assert "jaxnet_gemv" in program.as_text()
    return np.asarray(program(x, *given), np.float64)


@pytest.mark.fast_cases("bfloat16-False", "float32-False", "int4-True", "int8-True")
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_values(form, transposed):
    sizes = [(1, 1, 2, None), (4, 96, 70, 32), (1, 200, 131, None), (3, 160, 130, 32),
             (2, 71, 34, 32), (1, 192, 400, 32), (4, 48, 18, 16), (7, 64, 30, 32)]  # fmt: skip
    for rows, inputs, outputs, group in sizes:
        if "float" in form:
            rows = min(rows, 4)
        if form == "int4":  # fills whole bytes
            inputs, outputs = inputs + inputs % 2, outputs + outputs % 2
        shape = (outputs, inputs) if transposed else (inputs, outputs)
        given, exact = stored(form, shape, group, transposed)
        x = np.random.default_rng(1).normal(size=(rows, inputs)).astype(np.float32)
        expected = x.astype(np.float64) @ (exact.T if transposed else exact)
        found = in_c(jnp.asarray(x), *given, transposed=transposed)
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * abs(expected).max())
        twin = few_rows(jnp.tile(x, (9, 1)), *given, transposed=transposed)[:rows]
        np.testing.assert_allclose(twin, expected, rtol=0, atol=3e-6 * abs(expected).max())


def test_derivatives_and_vmap_are_those_of_jax():
    x, w = jnp.linspace(-1, 1, 2 * 6).reshape(2, 6), jnp.arange(18.0).reshape(6, 3)

    def loss(product):
        return lambda x, w: jnp.sin(product(x, w)).sum()

    for derivative in (jax.grad, lambda f, n: jax.jit(jax.hessian(f, n))):
        found, expected = (derivative(loss(f), (0, 1))(x, w) for f in (few_rows, jnp.matmul))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * abs(b).max())
    stack = jax.vmap(few_rows, (0, None))(jnp.stack([x, 2 * x]), w)
    np.testing.assert_allclose(stack, jnp.stack([x @ w, 2 * x @ w]), rtol=1e-5)


def test_rows_in_bfloat16_are_summed_in_float32():
    x, w = jnp.ones((1, 600), jnp.bfloat16), jnp.ones((600, 40), jnp.bfloat16)
    assert (in_c(x, w) == 600).all()
    assert few_rows(x, w).dtype == jnp.bfloat16


def spec(shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize(
    "x, given, transposed, runs",
    [
        ((4, 6), [spec((6, 5))], False, True),
        ((5, 6), [spec((6, 5))], False, False),  # XLA multiplies many rows faster
        ((8, 6), [spec((6, 5), "int8"), spec((1, 5))], False, True),
        ((9, 6), [spec((6, 5), "int8"), spec((1, 5))], False, False),
        ((1, 6), [spec((6, 5), "float16")], False, False),
        ((1, 6), [spec((6, 5), "int4"), spec((1, 5))], False, False),  # lines end inside a byte
        ((1, 6), [spec((6, 3), "uint8"), spec((1, 5))], False, True),
        ((1, 6), [spec((6, 5), "int8")], False, False),  # no scale
        ((1, 9), [spec((9, 5), "int8"), spec((5, 5))], False, True),
        # 2 inputs would give 5 groups.
        ((1, 9), [spec((9, 5), "int8"), spec((6, 5))], False, False),
        ((1, 9), [spec((5, 9), "int8"), spec((5, 3))], True, False),  # a word has two scales
    ],
)
def test_what_runs_in_c(x, given, transposed, runs):
    assert supports(spec(x), *given, transposed=transposed) == runs


def test_arrays_that_do_not_fit_are_errors():
    x = jnp.ones((1, 6))
    for kernel, scale in [((5, 4), None), ((6, 5), None), ((6, 4), (4, 4)), ((6, 4), (1, 5))]:
        given = [jnp.ones(kernel)] if scale is None else [jnp.ones(kernel, "int8"), jnp.ones(scale)]
        call = jax.ffi.ffi_call("jaxnet_gemv", spec((1, 4)))
        with pytest.raises(Exception, match="jaxnet: not .*dims|jaxnet: not .*groups"):
            jax.jit(call)(x, *given)
