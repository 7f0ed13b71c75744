"""Jaxprs inside jaxprs: bodies of loops, of `jit`, of `remat`."""

from collections.abc import Iterable
from typing import Any


def jaxprs_among(values: Iterable[Any]) -> list[Any]:
    """Return the jaxprs among values, such as the parameters of an equation.

    Example:
      >>> (equation,) = jax.make_jaxpr(jax.jit(jnp.sin))(1.0).jaxpr.eqns
      >>> [str(inner.eqns[0].primitive) for inner in jaxprs_among(equation.params.values())]
      ['sin']
    """
    found = (getattr(value, "jaxpr", value) for value in values)
    return [value for value in found if hasattr(value, "eqns")]
