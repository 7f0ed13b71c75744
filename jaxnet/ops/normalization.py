"""Normalization of features over the batch, with a gradient of few passes over memory."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.ops.native.call import native_call
from jaxnet.ops.native.norm import kernels


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def normalized(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalize each feature of x over all other axes, then multiply by scale and add bias.

    Args:
      x: Floats (..., features).
      scale, bias: Arrays (features,), in the dtype of x.
      epsilon: Number added to the variance.

    Returns:
      y like x, and the mean and the biased variance of x, (features,).

    Example:
      >>> x = jnp.array([[1.0, 5.0], [3.0, 5.0]])
      >>> y, mean, var = normalized(x, jnp.array([2.0, 1.0]), jnp.array([0.0, 7.0]), 1e-5)
      >>> y.round(2).tolist(), mean.tolist(), var.tolist()
      ([[-2.0, 7.0], [2.0, 7.0]], [2.0, 5.0], [1.0, 0.0])
    """
    mean, _, var = _moments(x, tuple(range(x.ndim - 1)))
    # x minus its mean is written in three ways, here and in the tangents. If the expressions were
    # equal, XLA would compute the array once, write it to memory and read it again.
    y = (x + -mean) * (lax.rsqrt(var + epsilon) * _beside(scale, x)) + _beside(bias, x)
    return y, mean.ravel(), var.ravel()


def _beside(a, x):
    """Return a (features,) with the number of axes of x."""
    return a.reshape((1,) * (x.ndim - 1) + a.shape)


def _first(x, axes):
    """Return the first entry along these axes, which are kept."""
    averaged = {axis % x.ndim for axis in axes}
    return x[tuple(slice(1 if axis in averaged else None) for axis in range(x.ndim))]


def _moments(x, axes):
    """Return the mean, x minus the mean, and the variance; axes are kept."""
    # From the first entry on: the mean of equal numbers is then exact, however large they are.
    first = _first(x, axes)
    mean = first + (x - first).mean(axes, keepdims=True)
    centered = x - mean
    # The mean of squares minus the squared mean would lose digits for data far from zero.
    return mean, centered, jnp.square(centered).mean(axes, keepdims=True)


@normalized.defjvp
def _tangents(epsilon, primals, tangents):
    """Return tangents whose transpose, the gradient, takes two sums of (batch) arrays and one pass.

    Differentiated step by step, the gradient of the formulas above takes four sums and three
    passes.
    """
    x, scale, _ = primals
    dx, dscale, dbias = tangents
    y, mean, var = normalized(*primals, epsilon)
    axes = tuple(range(x.ndim - 1))
    at_mean, scale, dscale, dbias = (_beside(a, x) for a in (mean, scale, dscale, dbias))
    root = lax.rsqrt(_beside(var, x) + epsilon)
    first = _first(x, axes)  # x minus its mean is written in a third way
    minus = (x - first).sum(axes, keepdims=True) / -math.prod(x.shape[:-1]) - first
    dmean = dx.mean(axes, keepdims=True)
    dvar = 2 * ((x + -at_mean) * dx).mean(axes, keepdims=True)
    factor = root * scale
    dy = factor * dx + (dbias - factor * dmean)
    dy += (x + minus) * (root * dscale - factor * root**2 * dvar / 2)
    return (y, mean, var), (dy, dmean.ravel(), dvar.ravel())


@partial(jax.jit, static_argnums=(1, 2), inline=True)  # else eager calls compile each time
def standardized(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    """Return x minus its mean over these axes, divided by its standard deviation.

    Args:
      x: Floats of any shape.
      axes: Axes to average over.
      epsilon: Number added to the variance, which is biased.

    Example:
      >>> standardized(jnp.array([[1.0, 3.0], [5.0, 9.0]]), (-1,), 0.0).tolist()
      [[-1.0, 1.0], [-1.0, 1.0]]
    """
    return _values(x, axes, epsilon)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _values(x, axes, epsilon):
    return _run(0, _standardized, axes, epsilon, x)


@_values.defjvp
def _tangents_of_values(axes, epsilon, primals, tangents):
    (x,), (dx,) = primals, tangents
    return _values(x, axes, epsilon), _run(1, _push, axes, epsilon, x, dx)


def _run(which, function, axes, epsilon, *arrays):
    run = partial(function, axes, epsilon)
    return native_call(run, kernels(axes, epsilon)[which], *arrays)


def _standardized(axes, epsilon, x):
    _, centered, var = _moments(x, axes)
    return centered * lax.rsqrt(var + epsilon)


def _push(axes, epsilon, x, dx):
    """Return the tangents, which are linear in dx; the transpose is the same function."""
    _, centered, var = _moments(x, axes)
    root = lax.rsqrt(var + epsilon)
    along = (centered * dx).mean(axes, keepdims=True)
    return root * (dx - dx.mean(axes, keepdims=True)) - centered * (root**3 * along)
