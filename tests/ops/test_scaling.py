"""Lengths of numbers whose squares are no floats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops.scaling import length, power_of_two


@pytest.mark.parametrize("size", [0.0, 1e-35, 1e-30, 1e-15, 1.0, 1e15, 1e30, 1e37])
def test_length_is_that_of_float64(size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 7)) * size, jnp.float32)
    found, slope = jax.jit(jax.value_and_grad(lambda x: length(x, 1).sum()))(x)
    wide = np.asarray(x, np.float64)
    wanted = np.linalg.norm(wide, axis=1)
    np.testing.assert_allclose(found, wanted.sum(), rtol=1e-6)
    right = wide / wanted[:, None] if size else 0 * wide
    np.testing.assert_allclose(slope, right, rtol=0, atol=1e-6)


def test_usual_numbers_keep_their_bits():
    usual = jnp.asarray([1e-14, 1.0, 2e14])
    np.testing.assert_array_equal(power_of_two(usual), np.ones(3))


def test_what_is_not_finite_stays_so():
    found = length(jnp.asarray([[jnp.inf, 1.0], [jnp.nan, 1.0]]), 1)
    assert np.isinf(found[0]) and np.isnan(found[1])
