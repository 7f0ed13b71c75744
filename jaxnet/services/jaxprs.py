"""Jaxprs inside jaxprs: bodies of loops, of `jit`, of `remat`."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp


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


def weights_in(program: Any) -> list[jax.Array]:
    """Return the float arrays of two axes or more that a program captures and that gradients reach.

    Constants of NumPy are left out, since programs make tables of them.

    Args:
      program: Result of `jax.make_jaxpr`.

    Example:
      >>> a, b = jnp.ones((2, 3)), jnp.ones((3, 4))
      >>> program = jax.make_jaxpr(lambda x: x @ a @ jax.lax.stop_gradient(b))(jnp.ones((5, 2)))
      >>> [array.shape for array in weights_in(program)]
      [(2, 3)]
    """
    found: dict[int, jax.Array] = {}
    is_float = lambda a: hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.inexact)  # noqa: E731
    variables = lambda vars: {v for v in vars if not hasattr(v, "val")}  # noqa: E731

    def visit(jaxpr: Any, consts: Any, reached: set) -> set:
        """Note the constants on the way to some variables; return all variables on the way."""
        for eqn in reversed(jaxpr.eqns):
            known = [var in reached and is_float(var.aval) for var in eqn.outvars]
            if not any(known) or eqn.primitive.name == "stop_gradient":
                continue
            before = []
            closed = [p for p in jax.tree.leaves(list(eqn.params.values())) if jaxprs_among([p])]
            for outer in closed:
                (body,), loop = jaxprs_among([outer]), eqn.primitive.name in ("scan", "while")
                # A loop carries what one result depends on to the others.
                all_of_them = loop or len(known) != len(body.outvars)
                ends = body.outvars if all_of_them else itertools.compress(body.outvars, known)
                inside = visit(body, getattr(outer, "consts", ()), variables(ends))
                # A branch has no input for the index.
                skipped = max(len(eqn.invars) - len(body.invars), 0)
                pairs = zip(eqn.invars[skipped:], body.invars, strict=False)
                before += eqn.invars[:skipped] + [v for v, of in pairs if of in inside]
            reached |= variables(before if closed else eqn.invars)
        for var, const in zip(jaxpr.constvars, consts, strict=False):
            if var in reached and isinstance(const, jax.Array) and is_float(const):
                found.update({id(const): const} if sum(n > 1 for n in const.shape) > 1 else {})
        return reached

    visit(program.jaxpr, program.consts, variables(program.jaxpr.outvars))
    return list(found.values())
