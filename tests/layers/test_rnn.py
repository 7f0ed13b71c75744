"""The simple recurrent layer by hand; see test_recurrent.py for what it shares with the others."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from tests.compiled import jit_apply
from tests.layers.test_recurrent import random


def test_simple_rnn_and_readout_by_hand(x64):
    """h = sigma(W x + U h + b), o = sigma(V h + c): 1 input, 2 features, 1 output, 3 steps."""
    net = jn.serial(jn.rnn(2, activation=jax.nn.sigmoid), jn.dense(1), jax.nn.sigmoid)
    params = {
        "rnn": {
            "kernel": jnp.array([[1.0, -2.0]]),
            "recurrent_kernel": jnp.array([[0.5, 1.0], [-1.0, 0.0]]),
            "bias": jnp.array([0.0, 1.0]),
        },
        "dense": {"kernel": jnp.array([[2.0], [-1.0]]), "bias": jnp.array([0.25])},
    }
    y, _ = jit_apply(net, params, {}, jnp.array([[[1.0], [0.0], [-1.0]]]))

    def sigma(z):
        return 1 / (1 + np.exp(-z))

    # by hand: row t holds x_t W + h_{t-1} U + b written out
    a1, b1 = sigma(1.0), sigma(-2.0 + 1.0)
    a2, b2 = sigma(0.5 * a1 - b1), sigma(a1 + 1.0)
    a3, b3 = sigma(-1.0 + 0.5 * a2 - b2), sigma(2.0 + a2 + 1.0)
    o = [sigma(2 * a - b + 0.25) for a, b in ((a1, b1), (a2, b2), (a3, b3))]
    np.testing.assert_allclose(y[0, :, 0], o, rtol=1e-14)
    assert abs(a1 - 0.7310585786) < 1e-10  # sigma(1)


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
