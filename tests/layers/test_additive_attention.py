"""Additive attention with keys computed once, and what it refuses."""

import jax
import jax.numpy as jnp
import pytest

import jaxnet as jn
from tests.helpers import beside_memory, close, draw, refuses
from tests.layers.test_attention import random_params, run


@pytest.mark.slow
@pytest.mark.parametrize("mask", [None, jnp.array([2, 5])], ids=["whole", "lengths"])
def test_keys_computed_once_give_the_same(mask, x64):
    queries = jnp.asarray(draw(2, 3, 4))
    memory = jnp.asarray(draw(2, 5, 7, seed=1))
    layer = jn.layers.additive_attention(6, return_weights=True)
    params = random_params(layer, beside_memory(queries, memory, mask))
    whole = run(layer, params, beside_memory(queries, memory, mask))
    rest = {part: params[part] for part in ("query", "score")}
    projected = {"key": memory @ params["key"]["kernel"], "value": memory}
    once = run(layer, rest, beside_memory(queries, projected, mask))
    close(whole, once, 1e-12, 0)
    drawn, _ = layer.init(jax.random.key(0), beside_memory(queries, projected, mask))
    assert set(drawn) == {"query", "score"}


def inits(x, memory=None, mask=None, **projected):
    layer = jn.layers.additive_attention(3)
    return layer.init(jax.random.key(0), beside_memory(x, projected or memory, mask))


QUERIES = jn.spec((2, 3, 4))
MEMORY = jn.spec((2, 5, 7))
KEYS = jn.spec((2, 5, 3))


test_refusals = refuses([
    (lambda: jn.layers.additive_attention(0), "features must be at least 1, got 0"),
    (lambda: inits(QUERIES), r'expected {"x": queries, "memory": memory} with'),
    (lambda: inits(QUERIES, jn.spec((2, 7))), r"got \(2, 3, 4\) and \(2, 7\)"),
    (lambda: inits(jn.spec((4,)), MEMORY), r"got \(4,\) and \(2, 5, 7\)"),
    (lambda: inits(QUERIES, key=QUERIES, value=MEMORY),
     r"expected keys of shape \(2, 5, 3\) for a memory .*, got \(2, 3, 4\)"),
    # The weights would become 0.
    (lambda: inits(QUERIES, jn.spec((2, 5, 7), int), jn.spec((2,), int)), TypeError,
     "additive_attention: expected an input of floats, got"),
    (lambda: inits(QUERIES, key=KEYS, value=jn.spec((2, 5, 7), int)), TypeError,
     "expected an input of floats"),
    (lambda: inits(QUERIES, key=jn.spec((2, 5, 3), int), value=MEMORY), TypeError,
     "expected an input of floats"),
])  # fmt: skip
