"""Layers that only change shapes."""

import jax.numpy as jnp

import jaxnet as jn
from tests.compiled import jit_apply


def test_flatten_of_an_empty_batch_and_of_flat_data():
    assert jit_apply(jn.flatten(), {}, {}, jnp.ones((0, 3, 4)))[0].shape == (0, 12)
    assert jit_apply(jn.flatten(), {}, {}, jnp.ones((5, 3)))[0].shape == (5, 3)
    assert jit_apply(jn.flatten(), {}, {}, jnp.ones(5))[0].shape == (5, 1)
