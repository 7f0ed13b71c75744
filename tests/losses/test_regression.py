import jax.numpy as jnp

from jaxnet import losses
from tests.losses.common import slopes


def test_half_squared_error_has_gradient_h_minus_y():
    h, y = jnp.array([[3.0, -1.0], [0.5, 2.0]]), jnp.array([[1.0, 1.0], [0.5, 0.0]])
    assert losses.half_squared_error(h, y).tolist() == [4.0, 2.0]  # (4 + 4)/2, (0 + 4)/2
    assert (slopes(losses.half_squared_error, h, y)[1] == h - y).all()
    assert losses.half_squared_error(h[:, 0], y[:, 0]).tolist() == [2.0, 0.0]
