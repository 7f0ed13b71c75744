"""Largest entries and sums of sliding windows, over arrays (batch, *space, features).

Maxima of 32-bit floats run in C on one CPU, and so does their gradient; see `jaxnet.ops.native`.
All others combine shifted slices: XLA's own windows are slow in gradients on a CPU.
"""

import itertools
import math
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.ops.convolution_lowering import Form
from jaxnet.ops.native.call import Kernel, native_call
from jaxnet.ops.native.pool import kernels
from jaxnet.ops.precision import at_least_float32
from jaxnet.ops.scaling import bound, powers, root
from jaxnet.ops.window import Pairs, Sizes, padded, taps

MOST_BY_RANGES = 8  # of exponents: higher ones have too many ranges


def window_maxima(
    x: jax.Array, window: Sizes, strides: Sizes, padding: Pairs, dilation: Sizes
) -> jax.Array:
    """Return the largest entry of each window; the first of equals gets the whole gradient.

    Args:
      x: Array (batch, *space, features) of floats, integers or booleans.
      window, strides, dilation: Sizes of the window, one number per spatial axis.
      padding: Pairs (before, after) per spatial axis. Padding is never the maximum.

    Returns:
      (batch, *positions, features), in the dtype of x.

    Example:
      >>> x = jnp.arange(5.0).reshape(1, 5, 1)
      >>> window_maxima(x, (2,), (2,), ((0, 0),), (1,)).ravel()
      Array([1., 3.], dtype=float32)
    """
    form = _form(x, window, strides, padding, dilation)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return _maxima(form, x)
    if _is_tiling(form):
        y = _largest(padded(at_least_float32(x), padding, fill=-jnp.inf), window)
        return y.astype(x.dtype)
    return _highest(x, form)


def window_sums(
    x: jax.Array, window: Sizes, strides: Sizes, padding: Pairs, dilation: Sizes
) -> jax.Array:
    """Return the sum of each window.

    Args:
      x: Array (batch, *space, features) of numbers.
      window, strides, padding, dilation: As in `window_maxima`; padding counts as zeros.

    Returns:
      (batch, *positions, features), in the dtype of x.

    Example:
      >>> window_sums(jnp.arange(5.0).reshape(1, 5, 1), (2,), (1,), ((0, 0),), (2,)).ravel()
      Array([2., 4., 6.], dtype=float32)
    """
    return _sums(x, _form(x, window, strides, padding, dilation))


def window_lengths(
    x: jax.Array, p: float, window: Sizes, strides: Sizes, padding: Pairs, dilation: Sizes
) -> jax.Array:
    """Return the p-th root of the sum of p-th powers of absolute values in each window.

    Args:
      x: Array (batch, *space, features) of numbers, in at least float32.
      p: Exponent, at least 1.
      window, strides, padding, dilation: As in `window_sums`.

    Returns:
      (batch, *positions, features), in the dtype of the absolute values.

    Example:
      >>> window_lengths(jnp.array([3e30, 4e30]).reshape(1, 2, 1), 2.0, (2,), (1,), ((0, 0),), (1,))
      Array([[[5.e+30]]], dtype=float32)
    """
    form = window, strides, padding, dilation
    absolute = jnp.abs(x)
    if p == 1:
        return window_sums(absolute, *form)
    if p > MOST_BY_RANGES:
        return _lengths_by_division(absolute, p, form)
    return _lengths_by_ranges(absolute, p, form)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _lengths_by_ranges(x, p, form):
    """Return the lengths by sums over windows, which are fast, and so is their gradient."""
    y = None
    for _, total, factor, is_within in _ranges(x, p, form):
        lengths = root(total, p) / factor
        y = lengths if y is None else jnp.where(is_within, lengths, y)
    return y


@_lengths_by_ranges.defjvp
def _lengths_tangent(p, form, primals, tangents):
    (x,), (dx,) = primals, tangents
    y = _lengths_by_ranges(x, p, form)
    if p == 2:
        return y, _over(window_sums(x * dx, *form), y)
    push = None
    for cut, total, _, is_within in _ranges(x, p, form):
        along = _over(window_sums(cut ** (p - 1) * dx, *form), root(total, p) ** (p - 1))
        push = along if push is None else jnp.where(is_within, along, push)
    return y, push


def _ranges(x, p, form):
    """Yield for several ranges of numbers what their windows are, from the highest range on.

    Numbers are multiplied by a power of two that brings the range to where powers are floats, and
    numbers above it are cut. Each window takes the lowest range that is above its numbers, so a
    huge number changes no window that does not see it.

    Yields:
      The numbers of the range, the sum of their powers in each window, the factor, and whether the
      window has no number above the range.
    """
    most = jnp.finfo(x.dtype).maxexp
    usual = bound(x.dtype, p)
    outer = math.ceil((most - usual) / (2 * usual))
    for number in range(outer, -outer - 1, -1):
        exponent = -2 * usual * number
        factor = 2.0 ** max(2 - most, min(exponent, most - 2))
        cut = jnp.minimum(x * factor, 2.0**usual)
        total = window_sums(powers(cut, p), *form)
        yield cut, total, factor, total < 2.0 ** (usual * p)


def _over(sums, lengths):
    """Divide, where the length of a window is not 0: there the gradient is 0."""
    is_zero = lengths == 0
    return jnp.where(is_zero, 0, sums / jnp.where(is_zero, 1, lengths))


def _lengths_by_division(x, p, form):
    """Divide the numbers of each window by the largest."""
    largest = window_maxima(lax.stop_gradient(x), *form)
    divisor = jnp.where(largest == 0, 1, largest)
    total = reduce(jnp.add, (powers(entry / divisor, p) for entry in taps(x, *form)))
    return root(total, p) * divisor


def _form(x, window, strides, padding, dilation):
    """Return the windows over x as those of a convolution."""
    once = (1,) * len(window)
    return Form(strides, padding, dilation, once, 1, x.shape[1:-1], window)


def _is_tiling(form):
    """Return whether the windows lie side by side, without gaps or overlaps."""
    return form.strides == form.window and max(form.dilation) == 1


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _sums(x, form):
    return _slide(x, form.window, form.strides, form.dilation, form.padding, jnp.add, 0)


@_sums.defjvp
def _sums_tangent(form, primals, tangents):
    """The gradient is a sum over windows, too; as the transpose of slices it would take longer."""
    y = _sums(*primals, form)
    kernel = Kernel(linear=1, transpose=Kernel(lambda dy: [_spread(form, dy)]))
    return y, native_call(lambda dx: _sums(dx, form), kernel, *tangents)


def _spread(form, dy):
    """Return the gradient of x: each entry is the sum of dy over the windows that it is in."""
    dy = lax.optimization_barrier(dy)  # or XLA would compute it again for each entry of a window
    if _is_tiling(form):
        for axis, size in enumerate(form.window, 1):
            dy = jnp.repeat(dy, size, axis)
        edges = []
        for inputs, (low, _), size in zip(form.inputs, form.padding, dy.shape[1:-1], strict=True):
            edges.append((-low, inputs - size + low))
        return padded(dy, tuple(edges))
    edges = tuple((span - 1 - low, x - y + low) for x, y, span, low in form.reach())
    dy = padded(dy, edges, form.strides)
    once = (1,) * len(form.window)
    nothing = ((0, 0),) * len(form.window)
    return _slide(dy, form.window, once, form.dilation, nothing, jnp.add, 0)


def _slide(x, window, strides, apart, pairs, combine, fill):
    """Combine the entries of each window along one axis after another, in row-major order."""
    x = padded(x, pairs, fill=fill)
    # Start with the last axis, so that the order is row-major.
    for axis in reversed(range(len(window))):
        x = _slide_along(x, axis + 1, window[axis], strides[axis], apart[axis], combine)
    return x


def _slide_along(x, axis, size, stride, apart, combine):
    """Combine the entries of each window along one axis."""
    reach = (size - 1) * apart
    outputs = (x.shape[axis] - reach - 1) // stride + 1
    phases = _phases(x, axis, outputs + reach // stride, stride)
    taps = []
    for tap in range(size):
        first, phase = divmod(tap * apart, stride)
        taps.append(lax.slice_in_dim(phases[phase], first, first + outputs, axis=axis))
    # Combine neighbors first, which keeps the order and loses few digits in sums.
    while len(taps) > 1:
        pairs = zip(taps[::2], taps[1::2], strict=False)
        last = taps[-1:] if len(taps) % 2 else []
        taps = [combine(a, b) for a, b in pairs] + last
    return taps[0]


def _maxima(form, x):
    sizes = form.window, form.strides, form.dilation, form.padding
    return _slide(x, *sizes, combine=_first_max, fill=_lowest(x.dtype))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _highest(x, form):
    in_c, _ = kernels(form)
    return native_call(partial(_maxima, form), in_c, x)


@_highest.defjvp
def _highest_tangent(form, primals, tangents):
    """Find the maxima again; C computes the transpose, the gradient."""
    _, in_c = kernels(form)
    push = native_call(partial(_push, form), in_c, *primals, *tangents)
    return _highest(*primals, form), push


def _push(form, x, dx):
    _, tangent = jax.jvp(partial(_maxima, form), [x], [dx])
    return tangent


def _phases(x, axis, size, stride):
    """Return x[i::stride] for each i below the stride, along an axis; each cut or filled to a size.

    The strides become an axis of their own. On CPU the gradient is a quarter faster than that of
    strided slices, which fills gaps with zeros.
    """
    if stride == 1:
        return [x]
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (0, size * stride - x.shape[axis], 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), pads)
    before = x.shape[:axis]
    after = x.shape[axis + 1 :]
    x = x.reshape(*before, size, stride, *after)
    along = axis + 1
    return [lax.index_in_dim(x, phase, along, keepdims=False) for phase in range(stride)]


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _largest(x, size):
    """Return the largest entry of each window, without overlap; a remainder is dropped."""
    return reduce(_first_max, _entries(x, size))


@_largest.defjvp
def _largest_tangent(size, primals, tangents):
    """Pick the first largest entries; the transpose writes the gradient in one pass."""
    (x,), (dx,) = primals, tangents
    best, *others = _entries(x, size)
    first = jnp.zeros(best.shape, jnp.float32)  # the square of its index in the window
    for number, entry in enumerate(others, 1):
        stays = _stays(best, entry)
        first = jnp.where(stays, first, number**2)
        best = jnp.where(stays, best, entry)
    # The root makes XLA compute the index once per window instead of once per entry, which is
    # faster.
    within = range(2, 2 * len(size) + 1, 2)  # the axes of a window
    first = jnp.expand_dims(jnp.sqrt(first), within)
    numbers = jnp.arange(math.prod(size), dtype=jnp.float32)
    of_window = [length for k in size for length in (1, k)]
    numbers = numbers.reshape(1, *of_window, 1)
    y = _largest(x, size)
    picked = jnp.where(first == numbers, _cut(dx, size), 0)
    return y, picked.sum(within)


def _cut(x, size):
    """Split (batch, *space, features) into (batch, windows, size, windows, size, ..., features)."""
    batch, *space, features = x.shape
    counts = [length // k for length, k in zip(space, size, strict=True)]
    complete = [slice(count * k) for count, k in zip(counts, size, strict=True)]
    x = x[(slice(None), *complete)]
    axes = itertools.chain(*zip(counts, size, strict=True))
    return x.reshape(batch, *axes, features)


def _entries(x, size):
    """Return the entries of all windows, in row-major order."""
    x = _cut(x, size)
    every = slice(None)
    entries = []
    for at in np.ndindex(*size):
        index = [every]
        for entry in at:
            index += [every, entry]
        entries.append(x[tuple(index)])
    return entries


def _stays(a, b):
    return (a >= b) | (a != a)  # a NaN stays


def _first_max(a, b):
    """Return the larger, or the first of equals: jnp.maximum would split their gradient."""
    return jnp.where(_stays(a, b), a, b)


def _lowest(dtype):
    if jnp.issubdtype(dtype, jnp.floating):
        return -jnp.inf
    if dtype == jnp.bool_:
        return False
    return jnp.iinfo(dtype).min
