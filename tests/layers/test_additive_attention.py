"""Additive attention by hand, and with keys computed once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.layers.test_attention import draw, random_params, run, softmax


def test_additive_attention_by_hand(x64):
    queries, memory, lengths = draw(2, 3, 4), draw(2, 5, 7, seed=1), jnp.array([2, 5])
    layer = jn.layers.additive_attention(6, return_weights=True)
    given = (jnp.asarray(queries), jnp.asarray(memory), lengths)
    p = random_params(layer, given)
    y, weights = run(layer, p, given)
    w, u, v = (np.asarray(p[part]["kernel"]) for part in ("query", "key", "score"))
    for b in range(2):
        for t in range(3):
            n = lengths[b]
            scores = [np.tanh(queries[b, t] @ w + memory[b, s] @ u) @ v[:, 0] for s in range(n)]
            wanted = softmax(np.array(scores))
            np.testing.assert_allclose(weights[b, t, :n], wanted, rtol=1e-10)
            assert not weights[b, t, n:].any()
            np.testing.assert_allclose(y[b, t], wanted @ memory[b, :n], rtol=1e-10, atol=1e-12)
    one, alone = run(layer, p, (given[0][:, 1], given[1], lengths))
    np.testing.assert_allclose(one, y[:, 1], rtol=1e-10)
    np.testing.assert_allclose(alone, weights[:, 1], rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("mask", [(), (jnp.array([2, 5]),)], ids=["whole", "lengths"])
def test_keys_computed_once_give_the_same(mask, x64):
    queries, memory = jnp.asarray(draw(2, 3, 4)), jnp.asarray(draw(2, 5, 7, seed=1))
    layer = jn.layers.additive_attention(6, return_weights=True)
    params = random_params(layer, (queries, memory, *mask))
    whole = run(layer, params, (queries, memory, *mask))
    rest = {part: params[part] for part in ("query", "score")}
    projected = {"key": memory @ params["key"]["kernel"], "value": memory}
    once = run(layer, rest, (queries, projected, *mask))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), whole, once)
    drawn, _ = layer.init(jax.random.key(0), (queries, projected, *mask))
    assert set(drawn) == {"query", "score"}


def test_messages():
    queries, memory = jn.spec((2, 3, 4)), jn.spec((2, 5, 7))
    with pytest.raises(ValueError, match="features must be at least 1, got 0"):
        jn.layers.additive_attention(0)
    layer = jn.layers.additive_attention(3)

    def says(match, *given):
        with pytest.raises(ValueError, match=match):
            layer.init(jax.random.key(0), given if len(given) > 1 else given[0])

    says(r"expected \(queries, memory\) with", queries)
    says(r"got \(2, 3, 4\) and \(2, 7\)", queries, jn.spec((2, 7)))
    says(r"got \(4,\) and \(2, 5, 7\)", jn.spec((4,)), memory)
    wrong = {"key": jn.spec((2, 5, 4)), "value": memory}
    says(r"expected keys of shape \(2, 5, 3\) for a memory .*, got \(2, 5, 4\)", queries, wrong)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.bool_])
def test_a_memory_of_integers_is_refused(dtype):
    layer = jn.layers.additive_attention(4)
    queries, memory, lengths = jnp.ones((2, 3, 4)), jnp.ones((2, 5, 7), dtype), jnp.array([5, 2])
    with pytest.raises(TypeError, match="additive_attention: expected an input of floats, got"):
        layer.init(jax.random.key(0), (queries, memory, lengths))  # the weights would become 0
    for part in ("key", "value"):
        given = {"key": jnp.ones((2, 5, 4)), "value": jnp.ones((2, 5, 7))}
        given[part] = given[part].astype(dtype)
        with pytest.raises(TypeError, match="expected an input of floats"):
            layer.init(jax.random.key(0), (queries, given, lengths))
