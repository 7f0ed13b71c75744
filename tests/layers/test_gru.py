"""GRU: its reset gate by hand, params and messages; see test_recurrent.py for its values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.compiled import jit_apply


def test_the_reset_gate_acts_after_the_product(x64):
    """One feature, one step from h: n = tanh(a_n + r (h w_n + b)), h' = (1 - u) n + u h."""
    params = {
        "kernel": jnp.array([[1.0, -2.0, 0.5]]),
        "recurrent_kernel": jnp.array([[0.5, 1.0, 2.0]]),
        "bias": jnp.array([0.1, 0.2, 0.3]),
        "recurrent_bias": jnp.array([-0.4]),
    }
    x, h = 2.0, 0.7
    r = 1 / (1 + np.exp(-(x + 0.1 + 0.5 * h)))
    u = 1 / (1 + np.exp(-(-2 * x + 0.2 + h)))
    n = np.tanh(0.5 * x + 0.3 + r * (2 * h - 0.4))
    (new, y), _ = jit_apply(jn.layers.gru_cell(1), params, {}, (jnp.array([[h]]), jnp.array([[x]])))
    np.testing.assert_allclose(new, [[(1 - u) * n + u * h]], rtol=1e-12)
    assert new == y


def test_the_reset_gate_of_the_paper_acts_before_the_product(x64):
    """Two features by hand: n = tanh(a_n + (r * h) w_n), and the layer runs the cell."""
    rng = np.random.default_rng(0)
    w, u, b = rng.normal(size=(3, 6)), rng.normal(size=(2, 6)), rng.normal(size=6)
    x, h = rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 2))
    params = {"kernel": w, "recurrent_kernel": u, "bias": b}
    layer = jn.gru(2, reset_after=False)
    drawn, _ = layer.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(np.shape, params)
    y = jit_apply(layer, params, {}, {"x": x, "initial": h})[0]["x"]

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    for t in range(5):
        a = x[:, t] @ w + b
        r, z = sigmoid(a[:, :2] + h @ u[:, :2]), sigmoid(a[:, 2:4] + h @ u[:, 2:4])
        n = np.tanh(a[:, 4:] + (r * h) @ u[:, 4:])
        h = (1 - z) * n + z * h
        np.testing.assert_allclose(y[:, t], h, rtol=1e-10)


def test_params():
    params, _ = jn.gru(4).init(jax.random.key(0), jn.spec((2, 6, 5)))
    assert jax.tree.map(jnp.shape, params) == {
        "bias": (12,),
        "kernel": (5, 12),
        "recurrent_bias": (4,),
        "recurrent_kernel": (4, 12),
    }
    params, _ = jn.gru(4, use_bias=False).init(jax.random.key(0), jn.spec((2, 6, 5)))
    assert set(params) == {"kernel", "recurrent_kernel"}


def test_messages():
    with pytest.raises(ValueError, match="gru: features must be at least 1, got 0"):
        jn.gru(0)
    params, _ = jn.gru(4).init(jax.random.key(0), jn.spec((3, 6, 5)))
    with pytest.raises(ValueError, match=r"must be an array \(batch, features\) = \(3, 4\)"):
        jn.layers.gru_cell(4).apply(params, {}, (jnp.ones((3, 7)), jnp.ones((3, 5))))
