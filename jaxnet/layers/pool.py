"""Pooling: reduces each window of a feature map to one number."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, compose
from jaxnet.layers.resize import resized
from jaxnet.ops.pooling import window_lengths, window_maxima, window_sums
from jaxnet.ops.precision import at_least_float32, output_dtype
from jaxnet.ops.scaling import length
from jaxnet.ops.window import Padding, check_window, pad_pairs, spatial_axes
from jaxnet.services.checks import at_least, check_options, check_rank, within
from jaxnet.services.checks.keywords import explain_keywords


@explain_keywords
def max_pool(
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    name: str = "max_pool",
) -> Layer:
    """Take the largest entry of each window, per feature.

    Among equal largest entries, the first in row-major order gets the whole gradient, as in
    PyTorch and `jax.lax.reduce_window`; `jnp.max` would split it. Padding is never the maximum, and
    a NaN in a window makes the output NaN. If all entries of a window that begins in padding are
    -inf, their gradient may be 0.

    Args:
      window: Size of the window, a number for all spatial axes or one per axis.
      strides: Strides of the window; its size by default, so that windows do not overlap.
      padding: Padding, as in `conv`. "VALID" drops a remainder that fills no window.
      dilation: Distance between the entries of a window, a number or one per axis.
      name: Name of the layer.

    Returns:
      A layer from (batch, *space, features) to (batch, *windows, features).

    Raises:
      ValueError: If the input does not have spatial axes.
      ValueError: If the window is larger than the padded input.
      ValueError: If the padding is at least as wide as the window.

    Example:
      >>> y, _ = max_pool(2).apply({}, {}, jnp.arange(20.0).reshape(1, 4, 5, 1))
      >>> y[0, :, :, 0]
      Array([[ 6.,  8.],
             [16., 18.]], dtype=float32)

    Reference: Ranzato et al. 2007, "Unsupervised learning of invariant feature hierarchies".
    """

    return _by_window(window_maxima, name, "max_pool", window, strides, padding, dilation)


@explain_keywords
def avg_pool(
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    count_include_pad: bool = True,
    name: str = "avg_pool",
) -> Layer:
    """Average each window, per feature.

    Args:
      window: Size of the window, a number for all spatial axes or one per axis.
      strides: Strides of the window; its size by default.
      padding: Padding, as in `conv`.
      dilation: Distance between the entries of a window, a number or one per axis.
      count_include_pad: Whether padding counts as zeros. True divides by the size of the window,
        as PyTorch and Flax do by default; False by the number of entries of the input in the
        window, as TensorFlow does.
      name: Name of the layer.

    Returns:
      A layer from (batch, *space, features) to (batch, *windows, features).

    Raises:
      ValueError: As in `max_pool`.

    Example:
      >>> y, _ = avg_pool(2).apply({}, {}, jnp.arange(20.0).reshape(1, 4, 5, 1))
      >>> y[0, :, :, 0]
      Array([[ 3.,  5.],
             [13., 15.]], dtype=float32)

    Reference: LeCun et al. 1998, "Gradient-based learning applied to document recognition".
    """

    check_options(name, count_include_pad=count_include_pad)

    def pool(x, size, steps, pairs, apart):
        total = window_sums(at_least_float32(x), size, steps, pairs, apart)
        if count_include_pad:
            return (total / math.prod(size)).astype(output_dtype(x))
        for i, n in enumerate(x.shape[1:-1]):
            before, _ = pairs[i]
            first = np.arange(total.shape[i + 1]) * steps[i] - before
            taps = first[:, None] + np.arange(size[i]) * apart[i]
            count = ((taps >= 0) & (taps < n)).sum(1)  # of entries, without padding
            others = [axis for axis in range(x.ndim) if axis != i + 1]
            total /= jnp.expand_dims(count.astype(total.dtype), others)
        return total.astype(output_dtype(x))

    return _by_window(pool, name, "avg_pool", window, strides, padding, dilation)


@explain_keywords
def lp_pool(
    p: float,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    name: str = "lp_pool",
) -> Layer:
    """Take the p-norm of each window, per feature: (sum of |x|^p)^(1/p).

    It is a sum of absolute values at p = 1, and approaches the largest absolute value as p grows.
    If a whole window is 0, the gradient is 0; the plain formula would give NaN.

    PyTorch's LPPool sums x^p without the absolute value. So for odd p it sums signed powers, and is
    NaN if the sum is negative and p is above 1; for p that is not whole, negative inputs give NaN.
    Both agree for even p, and for inputs of at least 0.

    Args:
      p: Power, at least 1.
      window: Size of the window, a number for all spatial axes or one per axis.
      strides: Strides of the window; its size by default.
      padding: Padding, as in `conv`.
      dilation: Distance between the entries of a window, a number or one per axis.
      name: Name of the layer.

    Returns:
      A layer from (batch, *space, features) to (batch, *windows, features).

    Raises:
      ValueError: If `p` is below 1.
      ValueError: As in `max_pool`.

    Example:
      >>> y, _ = lp_pool(3, 2).apply({}, {}, jnp.array([3.0, 4, 0, -5, 1]).reshape(1, 5, 1))
      >>> y.ravel().round(3)
      Array([4.498, 5.   ], dtype=float32)

    Reference: Sermanet et al. 2012, "Convolutional neural networks applied to house numbers digit
    classification".
    """
    within(name, "p", p, "[1, inf)")

    def pool(x, size, steps, pairs, apart):
        y = at_least_float32(x)
        return window_lengths(y, p, size, steps, pairs, apart).astype(output_dtype(x))

    return _by_window(pool, name, "lp_pool", window, strides, padding, dilation)


def l2_pool_channels(size: int, *, name: str = "l2_pool_channels") -> Layer:
    """Take the root of the sum of squares over neighboring features, per position.

    Filters that are pooled together learn variants of one another. The gradient is as in
    `lp_pool`.

    Args:
      size: Number of neighboring features that become one.
      name: Name of the layer.

    Returns:
      A layer from (..., features) to (..., features / size).

    Raises:
      ValueError: If `size` is below 1, or does not divide the features.

    Example:
      >>> y, _ = l2_pool_channels(2).apply({}, {}, jnp.array([[3.0, 4, 5, 12]]))
      >>> y
      Array([[ 5., 13.]], dtype=float32)

    Reference: Kavukcuoglu et al. 2009, "Learning invariant features through topographic filter
    maps".
    """
    at_least(name, "size", size)

    def pool(x):
        check_rank(name, x, 2)
        if x.shape[-1] % size:
            raise ValueError(f"{name}: expected a multiple of {size} features, got {x.shape}")
        shape = (*x.shape[:-1], x.shape[-1] // size, size)
        groups = at_least_float32(x).reshape(shape)  # (..., f) -> (..., f / size, size)
        return length(groups, -1).astype(output_dtype(x))

    return _pooling(pool, name, "l2_pool_channels", places=False)


def adaptive_avg_pool(size: int | Sequence[int], *, name: str = "adaptive_avg_pool") -> Layer:
    """Average each of `size` windows that together cover the input, per feature.

    Window i of an axis starts at floor(i * inputs / size) and ends before
    ceil((i + 1) * inputs / size), as in PyTorch; the input may be of any size.
    `resize(size, method="area")` is the same.

    Args:
      size: Number of outputs, a number for all spatial axes or one per axis.
      name: Name of the layer.

    Returns:
      A layer from (batch, *space, features) to (batch, *size, features).

    Raises:
      ValueError: If the input does not have positions, or `size` does not match its axes.

    Example:
      >>> y, _ = adaptive_avg_pool((1, 2)).apply({}, {}, jnp.arange(15.0).reshape(1, 3, 5, 1))
      >>> y[0, :, :, 0]
      Array([[6., 8.]], dtype=float32)

    Reference: He et al. 2015, "Spatial Pyramid Pooling in Deep Convolutional Networks".
    """
    sizes = check_window(name, size=size)

    def pool(x):
        (outputs,) = sizes(x)
        return resized(name, x, [(n, None) for n in outputs], "area")

    return _pooling(pool, name, "adaptive_avg_pool")


def global_max_pool(*, name: str = "global_max_pool") -> Layer:
    """Take the largest entry of each feature map; gradients are as in `max_pool`.

    Args:
      name: Name of the layer.

    Returns:
      A layer from (batch, *space, features) to (batch, features).

    Raises:
      ValueError: If the input does not have spatial axes.

    Example:
      >>> y, _ = global_max_pool().apply({}, {}, jnp.arange(24.0).reshape(2, 2, 3, 2))
      >>> y
      Array([[10., 11.],
             [22., 23.]], dtype=float32)

    Reference: Oquab et al. 2015, "Is object localization for free?".
    """

    def pool(x):
        positions = _positions(name, x)
        x = jnp.reshape(x, (x.shape[0], positions, x.shape[-1]))  # (batch, positions, features)
        largest = jnp.argmax(x, axis=1, keepdims=True)
        return jnp.take_along_axis(x, largest, axis=1)[:, 0]

    return _pooling(pool, name, "global_max_pool")


def global_avg_pool(*, name: str = "global_avg_pool") -> Layer:
    """Average each feature map: (batch, *space, features) to (batch, features).

    Args:
      name: Name of the layer.

    Returns:
      A layer from (batch, *space, features) to (batch, features).

    Raises:
      ValueError: If the input does not have spatial axes.

    Example:
      >>> y, _ = global_avg_pool().apply({}, {}, jnp.arange(24.0).reshape(2, 2, 3, 2))
      >>> y
      Array([[ 5.,  6.],
             [17., 18.]], dtype=float32)

    Reference: Lin et al. 2014, "Network in network".
    """

    def pool(x):
        _positions(name, x)
        return jnp.mean(x, axis=range(1, x.ndim - 1))

    return _pooling(pool, name, "global_avg_pool")


def _pooling(pool: Callable, name: str, kind: str, places: bool = True) -> Layer:
    def forward(m, x):
        if places:
            m._not_in_stream("pools over time")
        return pool(x)

    return compose(forward, name=name, kind=kind)


def _positions(name: str, x: Any) -> int:
    spatial_axes(name, x)
    positions = math.prod(x.shape[1:-1])
    if not positions:
        raise ValueError(f"{name}: needs at least one position, got an input of {x.shape}")
    return positions


def _by_window(
    pool: Callable, name: str, kind: str, window: Any, strides: Any, padding: Any, dilation: Any
) -> Layer:
    """Return the layer of `pool(x, window, strides, padding, dilation)`, given for each axis."""
    strides = window if strides is None else strides
    sizes = check_window(name, padding, window=window, strides=strides, dilation=dilation)

    def pool_all(x):
        size, steps, apart = sizes(x)
        space = x.shape[1:-1]
        pairs = pad_pairs(name, padding, space, size, steps, apart)
        axes = zip(space, size, apart, pairs, strict=True)
        if not all(_fits(n, k, dilation, pair) for n, k, dilation, pair in axes):
            dilated = f" and dilation {apart}" if max(apart) > 1 else ""
            raise ValueError(
                f"{name}: a window of {size} needs an input at least as large and padding "
                f"smaller than the window, got an input of {space} with padding {pairs}{dilated}"
            )
        return pool(x, size, steps, pairs, apart)

    return _pooling(pool_all, name, kind)


def _fits(n: int, window: int, dilation: int, pair: tuple[int, int]) -> bool:
    """Return whether every window along an axis of n entries has at least one of them."""
    span = (window - 1) * dilation + 1
    largest = max(pair)
    # The taps of a window may be on both sides of the input.
    jumps_over = dilation > 1 and largest > 0 and n < dilation
    return largest < span and n + sum(pair) >= span and not jumps_over
