"""Normalization of features, with a gradient of few passes over memory."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.ops.native.call import Kernel, native_call
from jaxnet.ops.native.norm import NEGLIGIBLE, has_moments, kernels, moments
from jaxnet.ops.precision import at_least_float32, output_dtype
from jaxnet.ops.scaling import within_range


@partial(jax.jit, static_argnums=3, inline=True)  # so that norms of one shape are traced once
def normalized(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalize each feature of x over all other axes, then multiply by scale and add bias.

    Args:
      x: Floats (..., features).
      scale, bias: Arrays (features,), in at least float32.
      epsilon: Number added to the variance.

    Returns:
      y like x, and the mean and the biased variance of x, (features,), in the dtype of scale.

    Example:
      >>> x = jnp.array([[1.0, 5.0], [3.0, 5.0]])
      >>> y, mean, var = normalized(x, jnp.array([2.0, 1.0]), jnp.array([0.0, 7.0]), 1e-5)
      >>> y.round(2).tolist(), mean.tolist(), var.tolist()
      ([[-2.0, 7.0], [2.0, 7.0]], [2.0, 5.0], [1.0, 0.0])
    """
    y, mean, var, power = _normalized(x, scale, bias, epsilon)
    return y, mean, unscaled(var, power)


def unscaled(var: jax.Array, power: jax.Array) -> jax.Array:
    """Return the variance of x from that of x times a power of two; infinite if it is no float.

    Example:
      >>> unscaled(jnp.float32(1.0), jnp.float32(2.0**-10)).item() == 2.0**20
      True
    """
    inverse = 1 / power  # XLA would divide twice by the square, which is no float
    return var * inverse * inverse


# Beside the results, the variance is that of x times a power of two for each feature, which is 1
# unless the squares of x would be no floats (`within_range`).
@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _normalized(x, scale, bias, epsilon):
    def run(x, scale, bias):
        return _over_batch(moments(x), epsilon, x, scale, bias)

    def in_jax(x, scale, bias):
        return _over_batch(_moments_of_batch(x, scale.dtype, epsilon), epsilon, x, scale, bias)

    def supported(x, *others):
        return epsilon >= NEGLIGIBLE and has_moments(x, *others)

    return native_call(in_jax, Kernel(run, supported), x, scale, bias)


def _moments_of_batch(x, dtype, epsilon):
    axes = tuple(range(x.ndim - 1))
    x, power = within_range(x.astype(dtype), axes, tiny=epsilon < NEGLIGIBLE)
    mean, _, var = _moments(x, axes)
    return (mean / power).ravel(), var.ravel(), power.ravel()


def _one_over_deviation(var, power, epsilon):
    """Return one over the root of a variance and epsilon; the variance is that of x * power."""
    return lax.rsqrt(var + epsilon * power * power)


def _over_batch(moments, epsilon, x, scale, bias):
    mean, var, power = moments
    # x minus its mean is written in three ways, here and in the tangents. If the expressions were
    # equal, XLA would compute the array once, write it to memory and read it again.
    factor = _one_over_deviation(var, power, epsilon) * scale
    centered = (x.astype(scale.dtype) + -_beside(mean, x)) * _beside(power, x)
    y = centered * _beside(factor, x) + _beside(bias, x)
    return y.astype(x.dtype), mean, var, power


def _beside(a, x):
    """Return an array of the last axes of x with as many axes as x."""
    return a.reshape((1,) * (x.ndim - a.ndim) + a.shape)


def _first(x, axes):
    """Return the first entry along these axes, which are kept."""
    averaged = {axis % x.ndim for axis in axes}
    first = [slice(None)] * x.ndim
    for axis in averaged:
        first[axis] = slice(1)
    return x[tuple(first)]


def _moments(x, axes, centered=True):
    """Return the mean, x minus the mean, and the variance; uncentered: 0, x and its mean square."""
    first = _first(x, axes)
    if centered:
        # From the first entry on: the mean of equal numbers is then exact, however large they are.
        mean = first + (x - first).mean(axes, keepdims=True)
    else:
        mean = jnp.zeros_like(first)
    difference = x - mean
    # The mean of squares minus the squared mean would lose digits for data far from zero.
    variance = jnp.square(difference).mean(axes, keepdims=True)
    return mean, difference, variance


@_normalized.defjvp
def _tangents(epsilon, primals, tangents):
    """Return tangents whose transpose, the gradient, takes two sums of (batch) arrays and one pass.

    Differentiated step by step, the gradient of the formulas above takes four sums and three
    passes.
    """
    x, scale, _ = primals
    y, mean, var, power = _normalized(*primals, epsilon)
    in_c = Kernel(linear=3, transpose=Kernel(partial(_back, epsilon), has_moments))
    known = x, mean, scale, var, power
    push = native_call(partial(_push_batch, epsilon), in_c, *known, *tangents)
    return (y, mean, var, power), (*push, jnp.zeros_like(power))


def _push_batch(epsilon, x, mean, scale, var, power, dx, dscale, dbias):
    axes = tuple(range(x.ndim - 1))
    narrow = x.dtype
    x = x.astype(scale.dtype)
    dx = dx.astype(scale.dtype)
    mean, scale, dscale, dbias = (_beside(a, x) for a in (mean, scale, dscale, dbias))
    power = _beside(power, x)
    root = _one_over_deviation(_beside(var, x), power, epsilon)
    # Of numbers beyond the range of squares, the products are those of x and dx times the power.
    within = x * power
    first = _first(within, axes)  # x minus its mean is written in a third way
    count = math.prod(x.shape[:-1])
    minus_mean = (within - first).sum(axes, keepdims=True) / -count - first
    dmean = dx.mean(axes, keepdims=True)
    dvar = 2 * ((x + -mean) * power * (dx * power)).mean(axes, keepdims=True)
    factor = root * scale
    dy = factor * power * dx + (dbias - factor * power * dmean)
    dy += (within + minus_mean) * (root * dscale - factor * (root * (root * dvar)) / 2)
    return dy.astype(narrow), dmean.ravel(), dvar.ravel()


def _back(epsilon, x, mean, scale, var, power, dy, dmean, dvar):
    """Return the gradients of x, scale and bias: the transpose of `_push_batch`, with sums in C."""
    sum_dtype = scale.dtype
    count = math.prod(x.shape[:-1])
    root = _one_over_deviation(var, power, epsilon)
    total, along = moments(x, dy, mean)
    along *= power
    factor = root * scale
    offset = dmean - factor * power * total
    slope = (2 * dvar - factor * (root * (root * along))) * power
    dx = _beside(factor * power, x) * dy.astype(sum_dtype) + _beside(offset / count, x)
    centered = (x.astype(sum_dtype) + -_beside(mean, x)) * _beside(power, x)
    dx += centered * _beside(slope / count, x)
    return dx.astype(x.dtype), along * root, total


@partial(jax.jit, static_argnums=(3, 4, 5), inline=True)  # else eager calls compile each time
def standardized(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    axes: tuple[int, ...],
    epsilon: float,
    centered: bool = True,
) -> jax.Array:
    """Return x with mean 0 and variance 1 over these axes, times a scale plus a bias.

    The result has the dtype of x.

    Args:
      x: Array of any shape; integers become float32.
      scale, bias: Arrays of the shape of the last axes of x.
      axes: Axes to average over.
      epsilon: Number added to the variance, which is biased.
      centered: Whether to subtract the mean. If not, x is divided by the root of its mean square.

    Example:
      >>> x = jnp.array([[1.0, 3.0], [5.0, 9.0]])
      >>> standardized(x, jnp.ones(2), jnp.array([2.0, 0.0]), (-1,), 0.0).tolist()
      [[1.0, 1.0], [1.0, 1.0]]
    """
    x = x.astype(output_dtype(x))
    dtype = at_least_float32(x).dtype
    options = axes, epsilon, centered
    return _values(x, scale.astype(dtype), bias.astype(dtype), options)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _values(x, scale, bias, options):
    in_c, _ = kernels(*options)
    return native_call(partial(_standardized, options), in_c, x, scale, bias)


@_values.defjvp
def _tangents_of_values(options, primals, tangents):
    x, scale, _ = primals
    _, in_c = kernels(*options)
    push = native_call(partial(_push, options), in_c, x, scale, *tangents)
    return _values(*primals, options), push


def _units(options, x):
    """Return x without scale and bias, and one over its deviation, in at least float32."""
    axes, epsilon, centered = options
    x, power = within_range(at_least_float32(x), axes, tiny=epsilon < NEGLIGIBLE)
    _, x, square = _moments(x, axes, centered)
    root = _one_over_deviation(square, power, epsilon)
    return x * root, root * power


def _standardized(options, x, scale, bias):
    unit, _ = _units(options, x)
    y = unit * _beside(scale, x) + _beside(bias, x)
    return y.astype(x.dtype)


def _push(options, x, scale, dx, dscale, dbias):
    """Return the tangents, which are linear in the last three; C computes the transpose."""
    axes, _, centered = options
    unit, root = _units(options, x)
    dx = at_least_float32(dx)
    dunit = root * (dx - unit * (unit * dx).mean(axes, keepdims=True))
    if centered:
        dunit -= root * dx.mean(axes, keepdims=True)
    dy = dunit * _beside(scale, x) + unit * _beside(dscale, x) + _beside(dbias, x)
    return dy.astype(x.dtype)
