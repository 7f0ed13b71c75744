"""Where versions of JAX differ. Each function says since which version JAX has its own."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

try:
    from jax.extend.core import get_opaque_trace_state as _trace_state
except ImportError:  # before JAX 0.8
    from jax.core import get_opaque_trace_state as _trace_state  # type: ignore[attr-defined]

from jaxnet.services.trees import PyTree

EXPLICIT_MESHES = hasattr(jax, "enable_x64")  # programs of trainers take them since JAX 0.8
TRANSPOSES_LOOPS = hasattr(jax.typeof(0.0), "manual_axis_type")  # since JAX 0.10, see `linear`


def enable_x64(on: bool) -> AbstractContextManager:
    """Return a context in which arrays may have 64 bits; `jax.enable_x64` since JAX 0.8.

    Args:
      on: Whether they may.

    Example:
      >>> with enable_x64(True):
      ...     jnp.ones(2).dtype
      dtype('float64')
    """
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(on)
    from jax.experimental import enable_x64  # type: ignore[attr-defined]

    return enable_x64(on)


def varying_axes(a: jax.Array) -> frozenset:
    """Return the axes of `jax.shard_map` over which an array varies; `vma` before JAX 0.10.

    Example:
      >>> varying_axes(jnp.ones(2))
      frozenset()
    """
    kind: Any = jax.typeof(a)
    return kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma


def as_varying(a: jax.Array, axes: tuple) -> jax.Array:
    """Return an array marked as varying over axes of `jax.shard_map`; `lax.pvary` before JAX 0.8.2.

    Args:
      a: Array that does not vary over them.
      axes: Their names.

    Example:
      >>> as_varying(jnp.ones(2), ())
      Array([1., 1.], dtype=float32)
    """
    if hasattr(lax, "pcast"):
        return lax.pcast(a, axes, to="varying")
    return lax.pvary(a, axes)  # type: ignore[attr-defined]


def trace_state() -> Any:
    """Return what tells one trace from another; equal in two places that JAX traces together.

    Example:
      >>> here, seen = trace_state(), []
      >>> _ = jax.vmap(lambda x: seen.append(trace_state() == here))(jnp.ones(2))
      >>> trace_state() == here, seen
      (True, [False])
    """
    return _trace_state()


def linear(function: Callable, *args: PyTree) -> PyTree:
    """Return function(*args) of a linear function, whose loops need marks before JAX 0.10.

    An older JAX transposes a loop only if it came from a derivative, and so this is its own.

    Args:
      function: Linear function of floats, which may contain `lax.scan`.
      *args: Its arguments.

    Example:
      >>> linear(lambda x: 2 * x, jnp.ones(2))
      Array([2., 2.], dtype=float32)
    """
    if TRANSPOSES_LOOPS:
        return function(*args)
    return jax.jvp(function, jax.tree.map(jnp.zeros_like, args), args)[1]


def bind(eqn: Any, args: Sequence, params: dict | None = None) -> list[Any]:
    """Return the results of an equation of a jaxpr; JAX before 0.10 has functions as args, too.

    Args:
      eqn: The equation.
      args: Values of its inputs.
      params: Params instead of its own.

    Example:
      >>> (eqn,) = jax.make_jaxpr(jnp.sin)(0.0).eqns
      >>> bind(eqn, [0.0])
      [Array(0., dtype=float32, weak_type=True)]
    """
    options = eqn.primitive.get_bind_params(eqn.params if params is None else params)
    functions = []
    if isinstance(options, tuple):  # before JAX 0.10
        functions, options = options
    results = eqn.primitive.bind(*functions, *args, **options)
    return list(results) if eqn.primitive.multiple_results else [results]


def scan_parts(eqn: Any, operands: Sequence) -> tuple[list, list, list]:
    """Divide the operands of a loop by `lax.scan` into constants, what it carries, and rows.

    Since JAX 0.12 the equation does not count them. A row has an axis less in the body of the loop.

    Args:
      eqn: Equation of the loop.
      operands: Its operands.

    Example:
      >>> loop = jax.make_jaxpr(lambda x: lax.scan(lambda a, b: (a + b, a), 0.0, x))(jnp.ones(3))
      >>> [len(part) for part in scan_parts(loop.eqns[-1], loop.eqns[-1].invars)]
      [0, 1, 1]
    """
    body = eqn.params["jaxpr"]

    def rows_among(inside: Sequence, outside: Sequence) -> int:
        pairs = zip(inside, outside, strict=True)
        return sum(len(aval.shape) < len(variable.aval.shape) for aval, variable in pairs)

    rows = rows_among(body.in_avals, eqn.invars)
    carried = len(eqn.outvars) - rows_among(body.out_avals, eqn.outvars)
    last = len(operands) - rows
    first = last - carried
    return list(operands[:first]), list(operands[first:last]), list(operands[last:])


def shard_map_like(eqn: Any, function: Callable) -> Callable:
    """Return a function mapped over devices as an equation of `jax.shard_map` is.

    Args:
      eqn: The equation; JAX before 0.12 names its axes otherwise.
      function: Function of the slices of the operands, which returns a tuple of slices.
    """
    params = eqn.params
    names = "newly_manual_axes" if "newly_manual_axes" in params else "manual_axes"
    return jax.shard_map(
        function,
        mesh=params["mesh"],
        in_specs=params["in_specs"],
        out_specs=params["out_specs"],
        axis_names=params[names],
        check_vma=params["check_vma"],
    )
