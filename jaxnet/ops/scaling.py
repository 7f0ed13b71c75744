"""Lengths and mean squares of numbers whose squares are beyond the range of floats."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Powers within 2 ** ±(3/4 of the largest exponent) leave room for sums of billions of them.
ROOM = 0.75


def bound(dtype: Any, p: float = 2.0) -> int:
    """Return the exponent of the largest number whose p-th powers can be summed.

    Example:
      >>> bound(jnp.float32)  # numbers up to 2.0**48 = 2.8e14, and from 2.0**-48 on
      48
    """
    return int(ROOM * jnp.finfo(dtype).maxexp / p)


def power_of_two(largest: jax.Array, *, tiny: bool = True) -> jax.Array:
    """Return the factor that brings numbers to where sums of their squares are floats.

    It is a power of two, so multiplying by it is exact, and 1 for usual numbers, in float32 those
    of 4e-15 to 2e14.

    Args:
      largest: Largest absolute value of each group of numbers.
      tiny: Whether to enlarge numbers whose squares would be 0. Where something is added to the
        sum, as in norms, they need not be.

    Returns:
      Factors of the shape of `largest`, without gradient.

    Example:
      >>> power_of_two(jnp.array([1.0, 1e30, 1e-30, 0.0])).tolist() == [1.0, 2.0**-88, 2.0**88, 1.0]
      True
    """
    largest = lax.stop_gradient(largest)
    usual = bound(largest.dtype)
    middle = (usual + jnp.finfo(largest.dtype).maxexp) // 2  # of the exponents beyond the usual
    factor = jnp.where(largest > 2.0**usual, 2.0**-middle, 1).astype(largest.dtype)
    if tiny:
        is_tiny = (largest < 2.0**-usual) & (largest > 0)
        factor = jnp.where(is_tiny, 2.0**middle, factor)
    return factor


def within_range(x: jax.Array, axes: Any, *, tiny: bool = True) -> tuple[jax.Array, jax.Array]:
    """Return x times `power_of_two` of its groups along these axes, and this factor.

    Args:
      x: Array of real or complex numbers, in at least float32.
      axes: Axis or axes of a group, which remain with size 1 in the factor.
      tiny: Argument of `power_of_two`.

    Example:
      >>> x, factor = within_range(jnp.array([[2.0**90, 2.0**88], [1.0, 2.0]]), 1)
      >>> x.tolist(), (factor * 2.0**88).tolist()[0]
      ([[4.0, 1.0], [1.0, 2.0]], [1.0])
    """
    factor = power_of_two(jnp.abs(x).max(axes, keepdims=True), tiny=tiny)
    return x * factor, factor


def length(x: jax.Array, axes: Any, *, keepdims: bool = False) -> jax.Array:
    """Return the root of the sum of squares of absolute values, with gradient 0 at 0.

    Unlike `jnp.linalg.norm`, it is right for numbers whose squares are no floats.

    Args:
      x: Array of real or complex numbers, in at least float32.
      axes: Axis or axes to sum over.
      keepdims: Whether these axes remain, with size 1.

    Example:
      >>> length(jnp.array([[3e30, 4e30], [0.0, 0.0]]), 1)
      Array([5.e+30, 0.e+00], dtype=float32)
    """
    found = _length(x, axes)
    return found if keepdims else found.squeeze(axes)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _length(x, axes):
    x, factor = within_range(x, axes)
    return root(powers(x).sum(axes, keepdims=True)) / factor


@_length.defjvp
def _length_tangent(axes, primals, tangents):
    """The derivative of the formula above would have factors that are no floats."""
    (x,), (dx,) = primals, tangents
    found = _length(x, axes)
    unit = jnp.where(found == 0, 0, x / jnp.where(found == 0, 1, found))
    return found, jnp.real(unit.conj() * dx).sum(axes, keepdims=True)


def powers(x: jax.Array, p: float = 2.0) -> jax.Array:
    """Return the p-th powers of absolute values.

    Example:
      >>> powers(jnp.array([-2.0, 3.0])).tolist(), powers(jnp.array([-2.0]), 3.0).tolist()
      ([4.0, 9.0], [8.0])
    """
    return jnp.real(x * x.conj()) if p == 2 else jnp.abs(x) ** p


def root(total: jax.Array, p: float = 2.0) -> jax.Array:
    """Return the p-th root, with gradient 0 at 0.

    Example:
      >>> root(jnp.array([9.0, 0.0])).tolist(), jax.grad(root)(0.0).item()
      ([3.0, 0.0], 0.0)
    """
    is_zero = total == 0
    some = jnp.where(is_zero, 1, total)
    found = jnp.sqrt(some) if p == 2 else some ** (1 / p)
    return jnp.where(is_zero, 0, found)
