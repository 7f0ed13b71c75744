import jax.numpy as jnp
import numpy as np

from jaxnet import losses
from tests.losses.common import slopes


def test_classes_may_be_written_in_three_ways():
    z, signs = jnp.array([0.5, -2.0, 0.25, -0.125]), jnp.array([1, 1, -1, -1])
    assert losses.perceptron(z, signs).tolist() == [0, 2, 0.25, 0]
    for targets in ((signs + 1) // 2, signs > 0, signs.astype(float)):
        assert (losses.perceptron(z, targets) == losses.perceptron(z, signs)).all()


def test_perceptron_gradient_is_the_learning_rule():
    """-(y - o) for a unit that outputs 1 where z > 0 else 0, also at z = 0."""
    z = jnp.array([-2.0, 0.0, 3.0, -2.0, 0.0, 3.0])
    y = jnp.array([0, 0, 0, 1, 1, 1])
    o = (z > 0).astype(int)
    values, grads = slopes(losses.perceptron, z, y)
    assert (grads == -(y - o)).all()
    assert (values == abs(z) * (y != o)).all()


def test_nan_is_not_hidden_by_a_target_that_seems_right():
    nan, inf = jnp.nan, jnp.inf
    z, y = jnp.array([nan, nan, 1.0, 1.0, -inf]), jnp.array([-1.0, 1.0, nan, 1.0, -1.0])
    values, grads = slopes(losses.perceptron, z, y)
    assert np.isnan(values).tolist() == [True, True, True, False, False]
    assert grads[3:].tolist() == [0, 0]
