"""Packed integers and scales of groups, against loops in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops.integers import scaled, scales_of_values, unpacked

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("length", [6, 7])
def test_two_numbers_of_4_bits_lie_in_a_byte(length):
    numbers = RNG.integers(-8, 8, (3, length))
    low = numbers[:, ::2] & 15
    high = np.zeros_like(low)
    high[:, : length // 2] = numbers[:, 1::2] & 15
    packed = jnp.asarray(low + 16 * high, jnp.uint8)
    np.testing.assert_array_equal(unpacked(packed, length), numbers)
    assert unpacked(jnp.asarray(numbers, jnp.int8), length).tolist() == numbers.tolist()


@pytest.mark.parametrize("length, groups, size", [(7, 1, 7), (7, 7, 1), (7, 2, 4), (6, 3, 2)])
def test_neighbors_share_a_scale(length, groups, size):
    numbers, scale = RNG.normal(size=(2, length, 3)), RNG.uniform(size=(1, groups, 3))
    wanted = np.stack([numbers[:, i] * scale[:, i // size] for i in range(length)], 1)
    np.testing.assert_allclose(scaled(jnp.asarray(numbers), jnp.asarray(scale)), wanted, 1e-6)
    spread = np.broadcast_to(scales_of_values(jnp.asarray(scale), numbers.shape), numbers.shape)
    np.testing.assert_allclose(numbers * spread, wanted, 1e-6)
