import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from experiments.tied_autoencoder import tied_autoencoder
from jaxnet.models import autoencoder

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(5, 7))


def test_plain_functions_and_state_pass():
    net = autoencoder(jn.serial(jn.dense(3), jn.batch_norm()), jn.serial(jn.dense(7), jnp.tanh))
    params, state = net.init(jax.random.key(0), jn.spec((5, 7)))
    assert set(state) == {"encoder"}
    _, after = net.apply(params, state, jnp.asarray(X, jnp.float32), train=True)
    assert (after["encoder"]["batch_norm"]["mean"] != 0).any()
    y, _ = autoencoder(jnp.exp, jnp.log).apply({}, {}, jnp.ones((2, 3)))
    np.testing.assert_array_equal(y, np.ones((2, 3)))


def test_another_shape_raises():
    net = autoencoder(jn.models.mlp([3]), jn.dense(64))
    with pytest.raises(ValueError, match=r"shape of x, \(2, 8, 8, 1\), got \(2, 64\)"):
        net.init(jax.random.key(0), jn.spec((2, 8, 8, 1)))
    words = r"tied_autoencoder: expected an input of shape \(batch, inputs\)"
    with pytest.raises(ValueError, match=words):
        tied_autoencoder(3).init(jax.random.key(0), jn.spec((2, 8, 8, 1)))


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def test_tied_values_and_gradients(x64):
    """By hand: z = σ(x W + b), y = σ(z Wᵀ + c); W has the gradients of both its uses."""
    net = tied_autoencoder(3, jax.nn.sigmoid, jax.nn.sigmoid)
    params, state = net.init(jax.random.key(0), jnp.asarray(X))
    w, b, c = (RANDOM.normal(size=shape) for shape in ((7, 3), 3, 7))
    given = {"encoder": {"kernel": w, "bias": b}, "decoder": {"bias": c}}
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, given)
    given = jax.tree.map(jnp.asarray, given)

    def loss(params):
        y, _ = net.apply(params, state, jnp.asarray(X))
        return jnp.square(y - X).sum() / 2, y

    grads, y = jax.jit(jax.grad(loss, has_aux=True))(given)
    z = sigmoid(X @ w + b)
    np.testing.assert_allclose(y, sigmoid(z @ w.T + c), atol=1e-12)
    d_out = (y - X) * y * (1 - y)  # (5, 7)
    d_code = (d_out @ w) * z * (1 - z)  # (5, 3)
    np.testing.assert_allclose(grads["encoder"]["kernel"], X.T @ d_code + d_out.T @ z, atol=1e-12)
    np.testing.assert_allclose(grads["encoder"]["bias"], d_code.sum(0), atol=1e-12)
    np.testing.assert_allclose(grads["decoder"]["bias"], d_out.sum(0), atol=1e-12)


def test_the_tied_encoder_stands_by_itself():
    net = tied_autoencoder(3)
    params, state = net.init(jax.random.key(0), jn.spec((5, 7)))
    encoder = jn.serial(jn.dense(3, name="encoder"), jax.nn.sigmoid)
    x = jnp.asarray(X, jnp.float32)
    z, _ = encoder.apply({"encoder": params["encoder"]}, {}, x)
    y, _ = net.apply(params, state, x)
    np.testing.assert_allclose(y, z @ params["encoder"]["kernel"].T, atol=1e-6)


def test_the_decoders_bias_is_drawn_by_its_initializer():
    net = tied_autoencoder(3, decoder_bias_init=jn.initializers.constant(0.25))
    params, _ = net.init(jax.random.key(0), jn.spec((5, 7)))
    assert params["decoder"]["bias"].tolist() == [0.25] * 7
