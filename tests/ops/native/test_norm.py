"""Standardizing in C against NumPy in float64 and the form in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxnet.ops.native import instructions, norm
from jaxnet.ops.normalization import standardized

pytestmark = pytest.mark.skipif(instructions() is None, reason="needs the kernels in C")

CASES = {
    "group norm": ((2, 3, 5, 4, 6), (1, 2, 4)),
    "groups of vectors": ((2, 7, 3, 32), (1, 3)),
    "instance norm": ((3, 4, 5, 19), (1, 2)),
    "all features": ((3, 5, 1, 37), (1, 3)),
}


def exact(x, axes, epsilon, given=None):
    x = np.asarray(x, np.float64)
    centered = x - x.mean(axes, keepdims=True)
    root = 1 / np.sqrt(np.square(centered).mean(axes, keepdims=True) + epsilon)
    if given is None:
        return centered * root
    along = (centered * given).mean(axes, keepdims=True) * root**2
    return root * (given - given.mean(axes, keepdims=True) - centered * along)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case):
    shape, axes = CASES[case]
    rng = np.random.default_rng(0)
    x, given = (rng.normal(3, 2, shape).astype(np.float32) for _ in range(2))
    values = jax.jit(lambda x: standardized(x, axes, 1e-3)).lower(x).compile()

    def gradient(x, given):
        return jax.vjp(lambda x: standardized(x, axes, 1e-3), x)[1](given)[0]

    gradients = jax.jit(gradient).lower(x, given).compile()
    for program in (values, gradients):
        assert 'custom_call_target="jaxnet_norm"' in program.as_text()
    np.testing.assert_allclose(values(x), exact(x, axes, 1e-3), rtol=0, atol=1e-5)
    expected = exact(x, axes, 1e-3, np.asarray(given, np.float64))
    np.testing.assert_allclose(gradients(x, given), expected, rtol=0, atol=1e-5)


def test_equal_numbers_and_what_is_not_a_number():
    x = jnp.full((4, 2, 1, 20), 1e6).at[1, 1, 0, 3].set(jnp.nan).at[2].set(jnp.arange(20.0))
    y = jax.jit(lambda x: standardized(x, (1, 3), 1e-6))(x)
    assert (y[0] == 0).all() and jnp.isnan(y[1]).all() and jnp.isfinite(y[2:]).all()


def test_second_derivatives_agree_with_numbers():
    x = jnp.linspace(-1, 2, 2 * 3 * 16).reshape(2, 3, 2, 8) ** 3
    check_grads(lambda x: standardized(x, (1, 3), 0.1), (x,), 2, rtol=0.02)


@pytest.mark.parametrize("axes", [(0,), (1,)])
def test_averages_over_the_batch_or_over_rows_run_in_jax(axes):
    x = jnp.arange(64.0).reshape(2, 32)
    program = jax.jit(lambda x: standardized(x, axes, 0.0)).lower(x).compile()
    assert "jaxnet_norm" not in program.as_text()
    np.testing.assert_allclose(program(x), exact(x, axes, 0.0), rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_other_dtypes_are_not_for_the_library(case):
    shape, axes = CASES[case]
    assert norm.supports(jnp.ones(shape), axes=axes)
    for dtype in (jnp.bfloat16, jnp.float16, jnp.int32):
        assert not norm.supports(jnp.ones(shape, dtype), axes=axes), dtype
