"""Single neurons: their threshold, their initial params, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet import models
from tests.helpers import KEY, close


def test_a_perceptron_fires_above_0_alone():
    params = {"kernel": jnp.array([[1.0, 0.0], [2.0, 0.0]]), "bias": jnp.array([-2.0, 0.0])}
    x = jnp.array([[2.0, 0.0], [2.0, 0.1], [0.0, 0.9], [0.0, 1.1]])
    y, _ = models.perceptron(2).apply(params, {}, x)
    assert y[:, 0].tolist() == [0, 1, 0, 1]  # z = 0, 0.2, -0.2, 0.2
    assert y[:, 1].tolist() == [0, 0, 0, 0]  # z = 0 is not above


@pytest.mark.parametrize("layer", [models.perceptron, models.adaline])
def test_units_begin_at_0(layer):
    params, _ = layer(4).init(KEY, jn.spec((2, 3)))
    close(params, {"kernel": np.zeros((3, 4)), "bias": np.zeros(4)}, 0)
    random = layer(4, kernel_init=jn.initializers.normal(1.0))
    drawn, _ = random.init(KEY, jn.spec((2, 3)))
    assert (drawn["kernel"] != 0).all()


@pytest.mark.parametrize("layer", [models.perceptron, models.adaline])
def test_a_layer_has_at_least_one_unit(layer):
    message = f"{layer.__name__}: features must be at least 1, got 0"
    with pytest.raises(ValueError, match=message):
        layer(0)


def test_gradients_teach_a_threshold_nothing():
    params = {"kernel": jnp.array([[1.0], [2.0]]), "bias": jnp.array([0.3])}
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)

    def total(params):
        y, _ = models.perceptron().apply(params, {}, corners)
        return y.sum()

    grads = jax.grad(total)(params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads))
