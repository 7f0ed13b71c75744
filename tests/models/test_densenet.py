"""Maps that reach all later blocks; stages and sizes as published are in test_stages.py."""

import jax
import jax.numpy as jnp
import pytest

import jaxnet as jn
from tests.models.sizes import shapes


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "first", "growth"), [(121, 64, 32), (161, 96, 48)])
def test_each_block_adds_as_many_maps(depth, first, growth):
    found = shapes(jn.models.densenet(depth, 7), (2, 32, 32, 3))
    maps = [found[f"stage_1_block_{i}"][-1] for i in range(1, 7)]
    assert maps == [first + i * growth for i in range(1, 7)]
    assert found["reduce_1"][-1] == maps[-1] // 2


@pytest.mark.slow
def test_a_block_begins_with_the_maps_before_it():
    net = jn.models.densenet(121, 7)
    x = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    params, state = net.init(jax.random.key(0), x)
    blocks = jn.tap(net, "stage_1_block_1", "stage_1_block_2")
    (one, two), _ = jax.jit(blocks.apply)(params, state, x)
    assert jnp.array_equal(two[..., : one.shape[-1]], one)


def test_depths_are_those_of_the_paper():
    with pytest.raises(ValueError, match="densenet: depth must be 121, 161, 169 or 201, got 100"):
        jn.models.densenet(100)
