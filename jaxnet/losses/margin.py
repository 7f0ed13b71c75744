"""The perceptron criterion: a unit on the wrong side costs its size, others cost 0."""

import jax
import jax.numpy as jnp

from jaxnet.losses.arrays import read_same
from jaxnet.losses.form import comparison
from jaxnet.ops.precision import at_least_float32


@comparison(read_same)
def perceptron(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return -t z if the unit is wrong, else 0.

    Gradient descent on this loss is the perceptron rule.

    The unit outputs +1 for z > 0 and -1 otherwise. At z = 0 it is therefore wrong on targets +1,
    with slope -1, and correct on targets -1, with slope 0. `optax.losses.perceptron_loss` has half
    the slope for both, so a perceptron that starts from zero weights would follow another rule.

    Args:
      outputs: Scores (batch, ...) before the threshold.
      targets: Numbers or booleans in the shape of outputs. Values above 0 are the class +1, all
        others (0, -1, False) the class -1.

    Returns:
      (batch, ...); NaN if an output or a target is NaN.

    Example:
      >>> perceptron(jnp.array([0.5, -3.0, 0.5]), jnp.array([1, 1, -1])).tolist()
      [0.0, 3.0, 0.5]

    Reference: Rosenblatt 1958, "The Perceptron".
    """
    z = at_least_float32(outputs)
    positive = targets > 0
    is_wrong = (z > 0) != positive
    cost = jnp.where(positive, -z, z)
    values = jnp.where(is_wrong, cost, 0)
    is_unknown = jnp.isnan(z) | jnp.isnan(targets)
    return jnp.where(is_unknown, jnp.nan, values)
