"""Jaxprs inside jaxprs: bodies of loops, of `jit`, of `remat`."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax


def jaxprs_among(values: Iterable[Any]) -> list[Any]:
    """Return the jaxprs among values, such as the parameters of an equation.

    Example:
      >>> (equation,) = jax.make_jaxpr(jax.jit(jnp.sin))(1.0).jaxpr.eqns
      >>> [str(inner.eqns[0].primitive) for inner in jaxprs_among(equation.params.values())]
      ['sin']
    """
    found = (getattr(value, "jaxpr", value) for value in values)
    return [value for value in found if hasattr(value, "eqns")]


def arrays_in(jaxpr: Any) -> Iterator[Any]:
    """Yield shape and dtype of each array that a jaxpr computes, also inside loops and branches.

    Example:
      >>> jaxpr = jax.make_jaxpr(jax.jit(lambda a: jnp.sin(a).sum()))(jnp.ones(3)).jaxpr
      >>> [array.shape for array in arrays_in(jaxpr)]
      [(), (3,), ()]
    """
    for equation in jaxpr.eqns:
        yield from (v.aval for v in equation.outvars if hasattr(v.aval, "dtype"))
        # Branches are in a tuple.
        for inner in jaxprs_among(jax.tree.leaves(list(equation.params.values()))):
            yield from arrays_in(inner)


def depends_on(jaxpr: Any, count: int) -> list[bool]:
    """Return for each output of a jaxpr whether it depends on one of the first `count` inputs.

    Every output of an equation counts as depending on all inputs of the equation.

    Example:
      >>> jaxpr = jax.make_jaxpr(lambda a, b: (a + 1, a * b, -b))(1.0, 2.0).jaxpr
      >>> depends_on(jaxpr, 1)
      [True, True, False]
    """
    reached = {id(variable) for variable in jaxpr.invars[:count]}
    for equation in jaxpr.eqns:
        if any(id(variable) in reached for variable in equation.invars):
            reached |= {id(variable) for variable in equation.outvars}
    return [id(variable) in reached for variable in jaxpr.outvars]
