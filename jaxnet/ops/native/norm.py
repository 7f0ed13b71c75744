"""Standardizing over pixels in C, and its gradient: one pass over memory each."""

import itertools
import math
from functools import partial

import jax.numpy as jnp
import numpy as np

from jaxnet.ops.native import compute, countable, instructions
from jaxnet.ops.native.call import Kernel


def form_of(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the sizes (examples, pixels, groups, members), or None in another order.

    Args:
      shape: Shape of an array.
      axes: Axes to average over: those of pixels and members.

    Example:
      >>> form_of((8, 5, 7, 4, 3), (1, 2, 4)), form_of((8, 5), (-1,)), form_of((8, 5), (0,))
      ((8, 35, 4, 3), (8, 1, 1, 5), None)
    """
    over = {axis % len(shape) for axis in axes}
    parts = itertools.groupby(range(len(shape)), lambda axis: axis in over)
    found = [(averaged, math.prod(shape[axis] for axis in part)) for averaged, part in parts]
    if not found or found[0][0] or not 2 <= len(found) <= 4:
        return None
    examples, *sizes = (size for _, size in found)
    return (examples, 1, 1, *sizes) if len(sizes) == 1 else (examples, *sizes, 1)[:4]


def supports(x, *given, axes) -> bool:
    """Return whether the library standardizes x, faster than XLA.

    Args:
      x: Array.
      *given: For the gradient, the gradient of the result.
      axes: Axes to average over.

    Example:
      >>> supports(jnp.ones((2, 8)), axes=(0,))
      False
    """
    if x.dtype != jnp.float32 or not countable(x):
        return False
    form = form_of(x.shape, axes)
    # XLA keeps a row in the cache, too.
    fits = form is not None and form[1] > 1 and form[2] * form[3] >= 16
    return fits and instructions() is not None


def run(x, *given, axes, epsilon):
    """Return the standardized x or, given the gradient of it, the gradient of x; as a list.

    Args:
      x, *given, axes: Arguments of `supports`.
      epsilon: Number added to the variance.

    Example:
      >>> (y,) = run(jnp.ones((2, 20)), axes=(-1,), epsilon=1e-5)  # doctest: +SKIP
    """
    form = form_of(x.shape, axes)
    arrays = (a.reshape(form) for a in (x, *given))
    (found,) = compute("jaxnet_norm", [form], *arrays, epsilon=np.float32(epsilon))
    return [found.reshape(x.shape)]


def kernels(axes: tuple[int, ...], epsilon: float) -> tuple[Kernel, Kernel]:
    """Return the kernels of the values, and of the tangents, whose transpose runs in C.

    Args:
      axes, epsilon: Arguments of `run`.

    Example:
      >>> values, tangents = kernels((-1,), 1e-5)
      >>> tangents.linear
      1
    """
    here, fits = partial(run, axes=axes, epsilon=epsilon), partial(supports, axes=axes)
    return Kernel(here, fits), Kernel(linear=1, transpose=Kernel(here, fits))
