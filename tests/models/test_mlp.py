import jax
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.models import mlp
from tests.helpers import refused
from tests.models.sizes import count


def test_a_layer_of_100_on_28x28_has_78400_weights():
    assert count(mlp([100, 10]), (2, 28, 28, 1)) == 28 * 28 * 100 + 100 + 1000 + 10


def test_one_size_is_a_linear_model():
    net = mlp([10])
    params, _ = net.init(jax.random.key(0), jn.spec((2, 8, 8, 1)))
    assert list(params) == ["output"] and params["output"]["kernel"].shape == (64, 10)
    a, b = jax.random.normal(jax.random.key(0), (2, 3, 64))
    y = [net.apply(params, {}, x)[0] for x in (a, b, a + b)]
    bias = params["output"]["bias"]
    np.testing.assert_allclose(y[0] + y[1] - bias, y[2], atol=1e-5)


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


@refused([
    ([], r"mlp: features must be sizes, such as \[100"),
    (10, r"mlp: features must be sizes, such as \[100"),
    ([5, 0], "features must be at least 1, got 0"),
])  # fmt: skip
def test_refusals(features):
    mlp(features)
