"""The simple recurrent layer; see test_recurrent.py for what it shares with the others."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from tests.compiled import jit_apply
from tests.layers.test_recurrent import random


def test_long_padding_after_a_layer_that_blows_up(x64):
    """relu and a kernel above 1: 400 steps of padding would overflow."""
    layer = jn.rnn(1, activation=jax.nn.relu)
    params = {
        "kernel": jnp.ones((1, 1)),
        "recurrent_kernel": jnp.full((1, 1), 9.0),
        "bias": jnp.ones(1),
    }

    def loss(params):
        given = {"x": jnp.ones((1, 402, 1)), "lengths": jnp.array([2])}
        return jit_apply(layer, params, {}, given)[0]["final"].sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert value == 9 * 2 + 2  # by hand: h1 = 1 + 1, h2 = 1 + 9 h1 + 1
    assert gradient["recurrent_kernel"] == 2 and gradient["kernel"] == 9 * 1 + 1


def test_a_fresh_layer_keeps_variance():
    layer = jn.rnn(200, activation=lambda z: z)
    x = random(64, 1, 300).astype(np.float32)
    params, _ = layer.init(jax.random.key(1), x)
    y, _ = jit_apply(layer, params, {}, np.concatenate([x, np.zeros((64, 9, 300), np.float32)], 1))
    assert 0.9 < y[:, 0].var() < 1.1
    np.testing.assert_allclose(y[:, 9].var(), y[:, 0].var(), rtol=0.01)  # orthogonal: carried whole
