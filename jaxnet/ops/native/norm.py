"""Standardizing over pixels in C, and its gradient: one pass over memory each."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.ops.native import instructions
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
    runs = itertools.groupby(range(len(shape)), lambda axis: axis in over)
    found = [(averaged, math.prod(shape[axis] for axis in run)) for averaged, run in runs]
    if not found or found[0][0] or not 2 <= len(found) <= 4:
        return None
    examples, *sizes = (size for _, size in found)
    return {1: (examples, 1, 1, *sizes), 2: (examples, *sizes, 1), 3: (examples, *sizes)}[
        len(sizes)
    ]


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
    if x.dtype != jnp.float32 or not all(isinstance(n, int) and n > 0 for n in x.shape):
        return False
    form = form_of(x.shape, axes)
    if form is None or form[1] == 1 or form[2] * form[3] < 16:  # XLA keeps a row in the cache too
        return False
    return instructions() is not None


def run(x, *given, axes, epsilon):
    """Return the standardized x or, given the gradient of it, the gradient of x; as a list.

    Args:
      x, *given, axes: Arguments of `supports`.
      epsilon: Number added to the variance.

    Example:
      >>> (y,) = run(jnp.ones((2, 20)), axes=(-1,), epsilon=1e-5)  # doctest: +SKIP
    """
    form = form_of(x.shape, axes)
    call = jax.ffi.ffi_call("jaxnet_norm", jax.ShapeDtypeStruct(form, jnp.float32))
    found = call(*(a.reshape(form) for a in (x, *given)), epsilon=np.float32(epsilon))
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
