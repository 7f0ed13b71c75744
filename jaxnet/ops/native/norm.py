"""Standardizing in C, and its gradient: one pass over memory each."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.ops.native import compute, countable, instructions
from jaxnet.ops.native.call import Kernel

# An epsilon below adds nothing to the variance of usual numbers, so tiny numbers have to be
# enlarged, which C does not do. Beside one above, numbers whose squares would be 0 are 0.
NEGLIGIBLE = 1e-15


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
    if not shape or 0 in over:  # the first axis is that of the examples
        return None
    parts = itertools.groupby(range(len(shape)), lambda axis: axis in over)
    sizes = [math.prod(shape[axis] for axis in part) for _, part in parts]
    match sizes:
        case examples, members:
            return examples, 1, 1, members
        case examples, pixels, groups:
            return examples, pixels, groups, 1
        case examples, pixels, groups, members:
            return examples, pixels, groups, members
    return None


def supports(x, scale, other, *, axes, epsilon) -> bool:
    """Return whether the library standardizes x, faster than XLA.

    Args:
      x: Array.
      scale: Array of the last axes of x.
      other: The bias or, for the gradient, the gradient of the result.
      axes: Axes to average over.
      epsilon: Number added to the variance.

    Example:
      >>> supports(jnp.ones((2, 8)), jnp.ones(8), jnp.ones(8), axes=(0,), epsilon=1e-6)
      False
    """
    if epsilon < NEGLIGIBLE:
        return False
    if x.dtype not in (jnp.float32, jnp.bfloat16) or scale.dtype != jnp.float32:
        return False
    form = form_of(x.shape, axes) if countable(x) else None
    if form is None or scale.size < 16:
        return False
    _, pixels, groups, members = form
    if groups * members != scale.size:
        return False
    if pixels == 1 and x.size < 16384:
        return False  # XLA is as fast for rows of fewer entries, which stay in the cache
    return instructions() is not None


def run(x, scale, other, *, axes, epsilon, centered):
    """Return the standardized x or the gradients of x, scale and bias, as a list.

    Args:
      x, scale, other, axes: Arguments of `supports`; with an `other` of the shape of x, the
        gradients are returned.
      epsilon: Number added to the variance.
      centered: Whether to subtract the mean.

    Example:
      >>> x, one = jnp.ones((2, 20)), jnp.ones(20)
      >>> (y,) = run(x, one, one, axes=(-1,), epsilon=1e-5, centered=True)  # doctest: +SKIP
    """
    form = form_of(x.shape, axes)
    features = (scale.size,)
    results = [jax.ShapeDtypeStruct(form, x.dtype)]
    if other.shape == x.shape:
        other = other.reshape(form)
        results += [jax.ShapeDtypeStruct(features, scale.dtype)] * 2
    else:
        other = other.reshape(features)
    call = jax.ffi.ffi_call("jaxnet_norm", results)
    y, *sums = call(
        x.reshape(form),
        scale.ravel(),
        other,
        centered=np.int32(centered),
        epsilon=np.float32(epsilon),
    )
    gradients = [of_features.reshape(scale.shape) for of_features in sums]
    return [y.reshape(x.shape), *gradients]


def kernels(axes: tuple[int, ...], epsilon: float, centered: bool) -> tuple[Kernel, Kernel]:
    """Return the kernels of the values, and of the tangents, whose transpose runs in C.

    Args:
      axes, epsilon, centered: Arguments of `run`.

    Example:
      >>> values, tangents = kernels((-1,), 1e-5, True)
      >>> tangents.linear
      3
    """
    run_with_options = partial(run, axes=axes, epsilon=epsilon, centered=centered)
    kernel = Kernel(run_with_options, partial(supports, axes=axes, epsilon=epsilon))
    return kernel, Kernel(linear=3, transpose=kernel)


def has_moments(x, *others) -> bool:
    """Return whether the library computes the moments of x, faster than XLA.

    Example:
      >>> has_moments(jnp.ones((4, 16), jnp.float16))
      False
    """
    if x.dtype not in (jnp.float32, jnp.bfloat16) or not countable(x):
        return False
    for other in others:
        if other.dtype != (x.dtype if other.shape == x.shape else jnp.float32):
            return False
    return x.shape[-1] >= 16 and x.size >= 16 * 1024 and instructions() is not None


def moments(x, *others) -> list:
    """Return mean, variance and power of each feature of x, or two sums of a gradient.

    The variance is that of x times the power, which is 1 unless the squares are no floats.

    Args:
      x: Array (..., features) that `has_moments`.
      *others: A gradient like x, and the mean of x. Then the results are the sums of the gradient,
        and of the gradient times x less its mean.

    Example:
      >>> mean, var, power = moments(jnp.ones((1024, 16)))  # doctest: +SKIP
    """
    features = x.shape[-1:]
    # As lines: in rows of 16 bfloat16, XLA's relu's gradient takes over 30 times as long.
    lines = [array.ravel() for array in (x, *others)]
    results = [features] * (2 if others else 3)
    return compute("jaxnet_moments", results, *lines)
