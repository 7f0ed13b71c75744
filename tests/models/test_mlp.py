import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.models import mlp


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_a_layer_of_100_on_28x28_has_78400_weights():
    params, state = mlp([100, 10]).init(jax.random.key(0), jn.spec((2, 28, 28, 1)))
    assert params["dense"]["kernel"].size == 78_400  # 28 · 28 · 100
    assert count(params) == 78_400 + 100 + 1000 + 10
    assert state == {}


@pytest.mark.parametrize(("inputs", "outputs"), [(7, 3), (3, 11)])
def test_a_layer_from_n_to_m_has_m_times_n_weights(inputs, outputs):
    params, _ = mlp([outputs, 2]).init(jax.random.key(0), jn.spec((2, inputs)))
    assert params["dense"]["kernel"].size == inputs * outputs


@pytest.mark.parametrize(
    ("activation", "value", "slope"),
    [
        pytest.param(jax.nn.sigmoid, 0.731059, 0.196612, id="σ(1) = 0.73, σ(1 - σ) = 0.20"),
        pytest.param(jnp.tanh, 0.761594, 0.419974, id="1 - tanh²"),
        pytest.param(jax.nn.relu, 1.0, 1.0, id="relu"),
        pytest.param(jax.nn.softplus, 1.313262, 0.731059, id="ln(1 + e), and its slope is σ"),
    ],
)
def test_activations_at_1(activation, value, slope):
    """One unit with weight 1, then the output with weight 1: y = f(z) at z = 1."""
    one = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    net = mlp([1, 1], activation)

    def y(x):
        return net.apply({"dense": one, "output": one}, {}, x)[0].sum()

    found = jax.value_and_grad(y)(jnp.ones((1, 1)))
    np.testing.assert_allclose(found[0], value, 1e-5)
    np.testing.assert_allclose(found[1], [[slope]], 1e-5)


@pytest.mark.parametrize("z", [-30.0, -2.0, 0.0, 0.5, 30.0])
def test_activations_by_their_formulas(z):
    s = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(jax.nn.sigmoid(z), s, 1e-5, 1e-7)
    np.testing.assert_allclose(jax.grad(jax.nn.sigmoid)(z), s * (1 - s), 1e-5, 1e-7)
    np.testing.assert_allclose(jax.nn.softplus(z), np.log1p(np.exp(z)), 1e-5, 1e-7)
    np.testing.assert_allclose(jax.grad(jnp.tanh)(z), 1 - np.tanh(z) ** 2, 1e-5, 1e-7)
    assert jax.grad(jax.nn.relu)(z) == (z > 0)


def test_values_by_hand():
    net = mlp([2, 1])
    params = {
        "dense": {"kernel": jnp.array([[1.0, -1.0], [2.0, 1.0]]), "bias": jnp.array([0.5, 0.0])},
        "output": {"kernel": jnp.array([[3.0], [5.0]]), "bias": jnp.array([-1.0])},
    }
    y, _ = net.apply(params, {}, jnp.array([[1.0, 1.0], [-2.0, 0.0]]))
    # hidden: relu(3.5, 0) = (3.5, 0), then 10.5 - 1; relu(-1.5, 2) = (0, 2), then 10 - 1
    np.testing.assert_array_equal(y, [[9.5], [9.0]])


def test_one_size_is_a_linear_model():
    net = mlp([10])
    params, _ = net.init(jax.random.key(0), jn.spec((2, 8, 8, 1)))
    assert list(params) == ["output"] and count(params) == 650
    a, b = jax.random.normal(jax.random.key(0), (2, 3, 64))
    y = [net.apply(params, {}, x)[0] for x in (a, b, a + b)]
    bias = params["output"]["bias"]
    np.testing.assert_allclose(y[0] + y[1] - bias, y[2], atol=1e-5)


def test_a_stack_without_activations_stays_linear():
    net = mlp([7, 6, 5], lambda x: x)
    params, _ = net.init(jax.random.key(0), jn.spec((2, 4)))
    a, b = jax.random.normal(jax.random.key(0), (2, 3, 4))
    y = [net.apply(params, {}, x)[0] for x in (a, b, a + b)]  # biases start at zero
    np.testing.assert_allclose(y[0] + y[1], y[2], atol=1e-5)
    bent = mlp([7, 6, 5])
    y = [bent.apply(params, {}, x)[0] for x in (a, b, a + b)]
    assert np.abs(y[0] + y[1] - y[2]).max() > 0.1


@pytest.mark.slow
def test_activation_may_be_a_layer_and_is_not_put_after_the_last():
    params, _ = mlp([70, 60, 5]).init(jax.random.key(0), jn.spec((2, 4)))
    x = jax.random.normal(jax.random.key(0), (50, 4))
    dropped = mlp([70, 60, 5], jn.dropout(0.5))
    y, _ = dropped.apply(params, {}, x, key=jax.random.key(0), train=True)
    assert y.shape == (50, 5) and (y != 0).all()  # what is dropped is hidden
    y, _ = mlp([70, 60, 5]).apply(params, {}, x)
    assert (y < 0).any()


@pytest.mark.slow
def test_hidden_units_keep_the_second_moment_near_1():
    """He's kernels keep mean(relu(z)²) at mean(x²) = 1, layer after layer, whatever the widths."""
    x = jax.random.normal(jax.random.key(0), (500, 400))
    net = mlp([500, 300, 200, 400])
    params, _ = net.init(jax.random.key(1), x)
    y, _ = net.apply(params, {}, x)
    assert 0.85 < float((y**2).mean()) < 1.15  # the last layer is LeCun's, which keeps it too


@pytest.mark.parametrize("features", [[], 10, ()])
def test_needs_a_list_of_sizes(features):
    with pytest.raises(ValueError, match=r"mlp: features needs one size per layer, such as \[100"):
        mlp(features)


def test_a_size_below_1_raises():
    with pytest.raises(ValueError, match="features must be at least 1, got 0"):
        mlp([5, 0])
