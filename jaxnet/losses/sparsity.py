"""Penalty on activations that makes hidden units sparse."""

import jax
import jax.numpy as jnp

from jaxnet.losses.arrays import check_unit
from jaxnet.ops.precision import at_least_float32
from jaxnet.services.checks import as_array, within


def log(p: jax.Array) -> jax.Array:
    """Return log p, continued by its tangent below the dtype's epsilon, so it is finite at 0."""
    least = jnp.finfo(p.dtype).eps
    tangent = jnp.minimum(p - least, 0) / least
    return jnp.log(jnp.maximum(p, least)) + tangent


def kl_sparsity(activations: jax.Array, *, rho: float) -> jax.Array:
    """Return Σ_j KL(ρ ‖ ρ̂_j), ρ̂_j the mean activation of unit j over the batch; 0 at ρ̂ = ρ.

    This is a penalty on the activations of a layer, not a loss per example: add it to the loss with
    a weight. At ρ̂ = 0 and 1, where KL is infinite, value and gradient are finite, and the
    gradient moves ρ̂ back towards ρ.

    Args:
      activations: Activations (batch, ..., units) in [0, 1], such as the outputs of a sigmoid.
      rho: Target mean activation, in (0, 1).

    Returns:
      A scalar.

    Example:
      >>> activations = jnp.array([[0.1, 0.5], [0.3, 0.7]])  # means 0.2 and 0.6
      >>> float(kl_sparsity(activations, rho=0.2))  # 0 + 0.2 log(0.2/0.6) + 0.8 log(0.8/0.4)
      0.334...

    Reference: Lee, Ekanadham and Ng 2008, "Sparse deep belief net model for visual area V2"; in
    this form, Ng 2011, "Sparse autoencoder" (lecture notes).
    """
    within("kl_sparsity", "rho", rho, "(0, 1)")
    a = as_array("kl_sparsity", "activations", activations, "(batch, ..., units)", "reals")
    check_unit("kl_sparsity", "activations", activations)
    a = at_least_float32(a)
    mean = a.mean(tuple(range(a.ndim - 1)))  # (units,)
    r = jnp.asarray(rho, a.dtype)
    active = r * (jnp.log(r) - log(mean))
    idle = (1 - r) * (jnp.log(1 - r) - log(1 - mean))
    return (active + idle).sum()
