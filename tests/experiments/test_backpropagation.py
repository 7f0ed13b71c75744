import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from experiments import backpropagation as bp
from tests.helpers import close

ACTIVATIONS = {
    "sigmoid": (bp.sigmoid, bp.sigmoid_slope),
    "tanh": (jnp.tanh, lambda z: 1 - jnp.tanh(z) ** 2),
    "relu": (jax.nn.relu, lambda z: (z > 0) * 1.0),
}


def both(hidden, f, slope, dtype):
    """Cost and gradient by hand, and those of the library's perceptron."""
    r = np.random.default_rng(0)
    x, y = jnp.asarray(r.normal(size=(5, 2, 3)), dtype), jnp.asarray(r.random((5, 4)), dtype)
    net = bp.make_net(hidden, 4, f)
    params, _ = net.init(jax.random.key(0), x)
    params = jax.tree.map(lambda w: w + jnp.asarray(0.1 * r.normal(size=w.shape), dtype), params)
    objective = bp.make_objective(net, 0.3)

    @jax.jit
    def compare(params):
        exact = jax.value_and_grad(lambda p: objective.apply(p, {}, (x, y))[0][0].mean())
        return bp.backpropagate(params["mlp"], x, y, f, slope, 0.3), exact(params)

    return compare(params)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "hidden"),
    [("sigmoid", ()), ("sigmoid", (7, 6)), ("tanh", (9, 8, 7, 6)), ("relu", (5,) * 12)],
)
def test_equals_jax_grad_in_float64(hidden, name, x64):
    (cost, gradients), (value, exact) = both(hidden, *ACTIVATIONS[name], jnp.float64)
    assert float(cost) == pytest.approx(float(value), abs=1e-12)
    close(gradients, exact["mlp"], 1e-7, 1e-12)
    assert max(float(abs(g).max()) for g in jax.tree.leaves(gradients)) > 0.1


def test_one_neuron_by_hand():
    """z = -0.46, a = σ(z) = 0.387, δ = -(1 - a) a (1 - a), and then δ x + λ W."""
    w, x, y = np.float32(bp.W)[:, None], np.float32(bp.X)[None], np.ones((1, 1), np.float32)
    params = {"output": {"kernel": w, "bias": np.zeros(1, np.float32)}}
    run = jax.jit(bp.backpropagate, static_argnums=(3, 4))
    cost, gradients = jax.device_get(run(params, x, y, bp.sigmoid, bp.sigmoid_slope, 0.5))
    a = 1 / (1 + np.exp(0.46))
    delta = -((1 - a) ** 2) * a
    np.testing.assert_allclose(gradients["output"]["bias"], [delta], rtol=1e-5)
    close(gradients["output"]["kernel"][:, 0], delta * bp.X + 0.5 * bp.W, 1e-5, 0)
    assert float(cost) == pytest.approx((1 - a) ** 2 / 2 + 0.25 * 0.73, rel=1e-5)


def test_the_layers_come_in_their_order_beyond_ten():
    params, _ = jn.models.mlp([3] * 13).init(jax.random.key(0), jn.spec((2, 3)))
    names = bp.in_order(params)
    assert names[1:3] == ["dense_1", "dense_2"] and names[10:] == ["dense_10", "dense_11", "output"]
    assert sorted(names) == sorted(params)
    assert bp.in_order({"output": {}}) == ["output"]


@pytest.mark.long
def test_a_run(tmp_path):
    """Sizes and one epoch of a real run: the same losses, the orders of the differences."""
    results = bp.run(bp.Config(epochs=3, learning_rate=3, hidden=(20,), output=tmp_path))
    assert 0 < results.gradients["float32"] < 1e-6
    assert results.gradients["float64"] < 1e-12  # 0 if XLA orders both sums in the same way
    assert results.losses.shape == (2, 3 * (1438 // 16))
    np.testing.assert_allclose(results.losses[0], results.losses[1], rtol=1e-5)
    assert 0.05 < results.losses[0, -1] < 0.4 < results.losses[0, 0]
    assert 0.5 < results.accuracy < 0.95
    for (method, name), slope in results.orders.items():
        expected = {"forward": 1, "central": 2}[method]
        assert slope == pytest.approx(expected, abs=0.01 if name == "float64" else 0.1)
