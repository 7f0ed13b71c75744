"""Loss for real-valued targets."""

import jax
import jax.numpy as jnp

from jaxnet.losses.arrays import read_same
from jaxnet.losses.form import comparison
from jaxnet.ops.precision import at_least_float32


@comparison(read_same)
def half_squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return ½‖h - y‖², summed over all axes except the batch; its gradient is h - y.

    `optax.l2_loss` returns the same per entry, without the sum.

    Args:
      outputs: Predictions h (batch, ...).
      targets: Values y in the shape of outputs.

    Returns:
      (batch,).

    Example:
      >>> h, y = jnp.array([[1.0, 2.0, 5.0]]), jnp.array([[0.0, 4.0, 5.0]])
      >>> half_squared_error(h, y).tolist()
      [2.5]
    """
    squares = jnp.square(at_least_float32(outputs) - targets)
    axes = tuple(range(1, outputs.ndim))
    return squares.sum(axes) / 2
