"""Jaxprs inside jaxprs: bodies of loops, of `jit`, of `remat`."""

from collections.abc import Iterable, Iterator, Sequence
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


def depends_on(jaxpr: Any, given: Sequence[bool]) -> list[bool]:
    """Return for each output of a jaxpr whether it depends on one of the given inputs.

    Every output of an equation counts as depending on all inputs of the equation, except for calls
    of other functions, which are looked into.

    Args:
      jaxpr: Jaxpr.
      given: Whether each input is one of them.

    Example:
      >>> jaxpr = jax.make_jaxpr(lambda a, b: (a + 1, a * b, -b))(1.0, 2.0).jaxpr
      >>> depends_on(jaxpr, [True, False])
      [True, True, False]
    """
    known = {var for var, yes in zip(jaxpr.invars, given, strict=True) if yes}
    of = lambda vars: [not hasattr(v, "val") and v in known for v in vars]  # noqa: E731
    for eqn in jaxpr.eqns:
        found = [any(of(eqn.invars))] * len(eqn.outvars)
        inner = [p for p in jaxprs_among(eqn.params.values()) if len(p.invars) == len(eqn.invars)]
        # A loop carries what one result depends on to the others.
        called = eqn.primitive.name not in ("scan", "while") and inner
        if called and len(inner[0].outvars) == len(eqn.outvars):
            found = depends_on(inner[0], of(eqn.invars))
        known |= {var for var, yes in zip(eqn.outvars, found, strict=True) if yes}
    return of(jaxpr.outvars)
