"""Params in other forms: one leaf for paths, and arrays for code that does not know them."""

import jax.numpy as jnp

import jaxnet as jn
from jaxnet.services.nodes import is_stored, plain
from jaxnet.services.trees import flat
from jaxnet.transforms.adapt import Adapted

NODE = Adapted(jnp.ones((2, 3)), jnp.ones((2, 1)), jnp.ones((1, 3)), 2.0)


def test_a_node_is_one_leaf():
    assert [path for path, _ in flat({"dense": {"kernel": NODE}})] == ["dense/kernel"]
    assert is_stored(NODE) and plain({"a": NODE})["a"].tolist() == [[3.0] * 3] * 2


def test_a_layer_of_a_user_gets_arrays():
    def user(m, x):
        kernel = m.param("kernel", jn.initializers.ones, (2, 3))
        return x @ kernel + jnp.linalg.norm(kernel)

    y, _ = jn.compose(user).apply({"kernel": NODE}, {}, jnp.ones((1, 2)))
    assert y.shape == (1, 3)
