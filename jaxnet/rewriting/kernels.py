"""Which operations of JAX our kernels compute.

A plan is a function (equation) -> how its results are computed, or None if XLA is left to it. Plans
decide by dtypes, sizes and params alone, so equal programs are rewritten equally.
"""

from collections.abc import Callable
from typing import Any

from jaxnet.rewriting import convolutions, pools
from jaxnet.rewriting.layout import Run


def plan(eqn: Any) -> Run | None:
    """Return how our kernels compute an equation of a jaxpr, or None if they do not.

    Example:
      >>> x, w = jnp.ones((1, 4, 4, 8)), jnp.ones((3, 3, 8, 8))
      >>> layout = ("NHWC", "HWIO", "NHWC")
      >>> conv = lambda x, w: jax.lax.conv_general_dilated(
      ...     x, w, (1, 1), "SAME", dimension_numbers=layout)
      >>> (eqn,) = jax.make_jaxpr(conv)(x, w).eqns
      >>> (y,) = plan(eqn)([x, w])
      >>> y.shape
      (1, 4, 4, 8)
    """
    make = _PLANS.get(eqn.primitive.name)
    if make is None or not all(map(_is_sized, [*eqn.invars, *eqn.outvars])):
        return None
    return make(eqn)


def _is_sized(variable: Any) -> bool:
    """Whether all sizes are known, as they are not in an export with an open axis."""
    return all(isinstance(size, int) and size > 0 for size in variable.aval.shape)


_PLANS: dict[str, Callable[[Any], Run | None]] = {
    "conv_general_dilated": convolutions.convolution,
    "dot_general": convolutions.product,
    "reduce_window_max": pools.maxima,
    "reduce_window_sum": pools.sums,
    "select_and_scatter_add": pools.maxima_gradient,
}
