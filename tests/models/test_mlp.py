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


def test_activation_may_be_a_layer_and_is_not_put_after_the_last():
    params, _ = mlp([70, 60, 5]).init(jax.random.key(0), jn.spec((2, 4)))
    x = jax.random.normal(jax.random.key(0), (50, 4))
    dropped = mlp([70, 60, 5], jn.dropout(0.5))
    y, _ = dropped.apply(params, {}, x, key=jax.random.key(0), train=True)
    assert y.shape == (50, 5) and (y != 0).all()  # what is dropped is hidden
    y, _ = mlp([70, 60, 5]).apply(params, {}, x)
    assert (y < 0).any()


def test_hidden_units_keep_the_second_moment_near_1():
    """He's kernels keep mean(relu(z)²) at mean(x²) = 1, layer after layer, whatever the widths."""
    x = jax.random.normal(jax.random.key(0), (500, 400))
    net = mlp([500, 300, 200, 400])
    params, _ = net.init(jax.random.key(1), x)
    y, _ = net.apply(params, {}, x)
    assert 0.85 < float((y**2).mean()) < 1.15  # the last layer is LeCun's, which keeps it too


@pytest.mark.parametrize("features", [[], 10, ()])
def test_needs_a_list_of_sizes(features):
    with pytest.raises(ValueError, match=r"mlp: features needs one size a layer, such as \[100"):
        mlp(features)


def test_a_size_below_1_raises():
    with pytest.raises(ValueError, match="features must be at least 1, got 0"):
        mlp([5, 0])
