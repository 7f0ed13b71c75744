"""A function in C beside the same in JAX. Here "C" is JAX too, with other values."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops.native import countable
from jaxnet.ops.native.call import Kernel, native_call

X = jnp.array([1.0, 2.0, 3.0])


def three_times(x, y):
    """Ten more than the function in JAX, to tell them apart."""
    return [3 * x * y + 10]


def call(kernel, x, y=2.0):
    return native_call(lambda x, y: 3 * x * y, kernel, x, jnp.float32(y))


def test_the_kernel_computes_values_alone():
    kernel = Kernel(three_times)
    assert jax.jit(lambda x: call(kernel, x))(X).tolist() == [16, 22, 28]
    assert call(kernel, X).tolist() == [16, 22, 28]
    assert jax.vmap(lambda x: call(kernel, x))(X).tolist() == [6, 12, 18]
    value, tangent = jax.jvp(lambda x: call(kernel, x), (X,), (X,))
    assert tangent.tolist() == [6, 12, 18]
    assert jax.grad(lambda x: call(kernel, x).sum())(X).tolist() == [6, 6, 6]
    assert jax.grad(lambda y: call(kernel, X, y).sum())(2.0) == 18


def test_arrays_that_the_kernel_does_not_take():
    kernel = Kernel(three_times, lambda x, y: x.ndim == 1)
    assert jax.jit(lambda x: call(kernel, x))(X[None]).tolist() == [[6, 12, 18]]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_16_bits_run_in_float32_and_are_rounded_once(dtype):
    odd = jnp.asarray([1 + 2.0**-7, 257 / 256, 2.0], dtype)

    def function(x):
        return x * jnp.asarray(3, x.dtype)

    alone = Kernel(lambda x: [x * 3 + 10], lambda x: x.dtype == jnp.float32)
    found = jax.jit(lambda x: native_call(function, alone, x))(odd)
    wanted = odd.astype(jnp.float32) * 3 + 10
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, wanted.astype(dtype))


def test_an_exported_program_is_without_the_kernel():
    exported = jax.export.export(jax.jit(lambda x: call(Kernel(three_times), x)))(X)
    assert exported.call(X).tolist() == [6, 12, 18]


@pytest.mark.parametrize("both", [False, True])
def test_the_transpose_runs_by_its_own_kernel(both):
    """Only of leaves in which the function is linear."""
    own = Kernel(lambda y, ct: [3 * y * ct + 10])
    kernel = Kernel(linear=1, transpose=own)

    def loss(y, x):
        return native_call(lambda y, x: 3 * y * x, kernel, y, x).sum()

    if both:  # in y too, the tangents are those of the function in JAX
        by_y, by_x = jax.grad(loss, (0, 1))(jnp.float32(2), X)
        assert by_y == 18
        assert by_x.tolist() == [6] * 3
    else:
        (by_x,) = jax.linear_transpose(lambda x: loss(jnp.float32(2), x), X)(1.0)
        assert by_x.tolist() == [16] * 3


def test_c_counts_sizes_in_32_bits():
    spec = jax.ShapeDtypeStruct
    assert countable(X, spec((2**31 - 1, 1), jnp.int8))
    assert not countable(X, spec((2**31, 1), jnp.int8))
    assert not countable(X, jnp.ones((3, 0)))
