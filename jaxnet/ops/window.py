"""Sliding windows: sizes, strides and padding as users write them, and the taps of a window."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.services.checks import check_rank, is_integer

Sizes = tuple[int, ...]  # a number of each axis
Pairs = tuple[tuple[int, int], ...]  # (before, after) of each axis
Padding = Literal["SAME", "VALID", "CAUSAL"] | int | Sequence[int | tuple[int, int]]


def spatial_axes(who: str, x: Any) -> int:
    """Return the number of spatial axes of x (batch, *space, features).

    Args:
      who: Name of the layer, for messages.
      x: Array or spec of the input.

    Raises:
      TypeError: If x is not an array.
      ValueError: If x does not have a spatial axis.

    Example:
      >>> spatial_axes("conv", jn.spec((32, 28, 28, 1)))
      2
    """
    check_rank(who, x, 0, "(batch, *space, features)")
    if len(x.shape) < 3:
        raise ValueError(
            f"{who}: expected an input of shape (batch, *space, features), such as "
            f"(32, 28, 28, 1), got {x.shape}. Is an axis missing? Add the batch axis by x[None], "
            "the feature axis by x[..., None]"
        )
    return len(x.shape) - 2


def per_axis(who: str, word: str, value: int | Sequence[int], axes: int | None) -> tuple[int, ...]:
    """Return one entry per spatial axis; a single number is repeated for all axes.

    Args:
      who: Name of the layer, for messages.
      word: Name of the argument, for messages.
      value: Whole number of at least 1, or one per axis.
      axes: Number of spatial axes; None takes as many as are given.

    Raises:
      ValueError: If the number of entries is not `axes`, or if an entry is below 1.

    Example:
      >>> per_axis("conv", "strides", 2, axes=3)
      (2, 2, 2)
    """
    numbers = entries(who, word, value, axes)
    if not all(is_integer(number) and 1 <= number < 2**31 for number in numbers):
        raise ValueError(f"{who}: {word} must be whole numbers of at least 1, got {value}")
    return tuple(int(number) for number in numbers)


def entries(who: str, word: str, value: Any, axes: int | None = None) -> tuple[Any, ...]:
    """Return one entry per spatial axis, of any type; without `axes`, those that are given.

    Raises:
      ValueError: If the number of entries is wrong.

    Example:
      >>> entries("resize", "scale", 0.5, axes=2)
      (0.5, 0.5)
    """
    is_bytes = isinstance(value, bytes | bytearray)  # sequences of integers to Python
    if not is_bytes and (isinstance(value, Sequence) or np.ndim(value) == 1):
        sizes = tuple(value)
    else:
        sizes = (value,) * (1 if axes is None else axes)
    if axes not in (None, len(sizes)):
        raise ValueError(
            f"{who}: {word} needs {axes} entries, one per spatial axis of the input, got {value}. "
            "A single number is repeated for all axes"
        )
    return sizes


def check_window(who: str, padding: Any = "VALID", **numbers: Any) -> Callable[[Any], list]:
    """Check a window's options while the layer is made, and return what they are for an input.

    How many entries are needed is known only with the input.

    Args:
      who: Name of the layer, for messages.
      padding: Padding, as in `pad_pairs`.
      numbers: Sizes, strides and dilation by name; None is a default.

    Returns:
      A function of the input, which returns each number as one entry per spatial axis.

    Raises:
      ValueError: If one of them has a form that fits no input.

    Example:
      >>> check_window("conv", kernel_size=(3, 5), strides=2)(jn.spec((2, 8, 6, 3)))
      [(3, 5), (2, 2)]
      >>> check_window("conv", padding="SAME", strides=0)
      Traceback (most recent call last):
      ...
      ValueError: conv: strides must be whole numbers of at least 1, got 0
    """
    for word, value in numbers.items():
        if value is not None:
            per_axis(who, word, value, None)
    if not _may_be_padding(padding):
        raise ValueError(
            f'{who}: padding must be "SAME", "VALID", "CAUSAL" (for one spatial axis), a number, '
            f"or per spatial axis a number or a pair (before, after), got {padding!r:.60}"
        )

    def by_axis(x):
        axes = spatial_axes(who, x)
        return [per_axis(who, word, value, axes) for word, value in numbers.items()]

    return by_axis


def _may_be_padding(padding: Any) -> bool:
    """Return whether padding has a form that fits some input."""
    if isinstance(padding, str):
        return padding in ("SAME", "VALID", "CAUSAL")
    each = padding if isinstance(padding, Sequence) else [padding]
    return all(is_integer(entry) or _is_pair(entry) for entry in each)


def pad_pairs(
    who: str, padding: Any, space: Sizes, window: Sizes, strides: Sizes, dilation: Sizes = ()
) -> Pairs:
    """Return padding as (before, after) per spatial axis.

    Args:
      who: Name of the layer, for messages.
      padding: One of these forms:
        "SAME": pads to ceil(space / strides) positions; an odd zero goes after, as in TensorFlow
          and Flax (PyTorch's padding=1 for a window of 3 and strides of 2 puts it before);
        "VALID": pads nothing;
        "CAUSAL": all padding before, for a single axis of time;
        a number: that many on both sides of every axis;
        a sequence: per axis a number or a pair (before, after).
      space: Spatial sizes of the input.
      window: Spatial sizes of the window.
      strides: Strides of the window, per axis.
      dilation: Distance between taps, per axis; 1 by default.

    Raises:
      ValueError: If `padding` has the wrong form.

    Example:
      >>> pad_pairs("conv", "SAME", space=(28, 7), window=(5, 3), strides=(1, 2))
      ((2, 2), (1, 1))
    """
    axes = len(space)
    apart = dilation or (1,) * axes
    spans = [(size - 1) * step + 1 for size, step in zip(window, apart, strict=True)]
    if isinstance(padding, str):
        if padding == "VALID":
            return ((0, 0),) * axes
        if padding == "SAME":
            return _same_padding(space, strides, spans)
        if padding == "CAUSAL" and axes == 1:
            return ((spans[0] - 1, 0),)
    else:
        each = (padding,) * axes if is_integer(padding) else padding
        if isinstance(each, Sequence) and len(each) == axes:
            pairs = [(entry, entry) if is_integer(entry) else entry for entry in each]
            if all(map(_is_pair, pairs)):
                return tuple((int(low), int(high)) for low, high in pairs)
    raise ValueError(
        f'{who}: padding must be "SAME", "VALID", "CAUSAL" (for one spatial axis), a number, or '
        f"for each of the {axes} spatial axes a number or a pair (before, after), got {padding!r}"
    )


def _same_padding(space, strides, spans):
    """Return the padding to ceil(space / strides) positions; an odd zero goes after."""
    pairs = []
    for size, stride, span in zip(space, strides, spans, strict=True):
        positions = -(-size // stride)
        total = max((positions - 1) * stride + span - size, 0)
        before = total // 2
        pairs.append((before, total - before))
    return tuple(pairs)


def padded(x: jax.Array, padding: Pairs, input_dilation: Sizes = (), fill: Any = 0) -> jax.Array:
    """Return x with zeros, or another number, around it and between its entries.

    Args:
      x: Array (batch, *space, features).
      padding: Zeros (before, after) per spatial axis; negative numbers crop.
      input_dilation: Distance between the entries of x in the result, per spatial axis; 1 by
        default.
      fill: The number instead of zero.

    Example:
      >>> padded(jnp.arange(1, 4).reshape(1, 3, 1), ((1, -1),), (2,)).ravel()
      Array([0, 1, 0, 2, 0], dtype=int32)
    """
    apart = input_dilation or (1,) * len(padding)
    edges = [(low, high, step - 1) for (low, high), step in zip(padding, apart, strict=True)]
    none = (0, 0, 0)
    fill = jnp.asarray(fill, x.dtype)
    return lax.pad(x, fill, (none, *edges, none))


def taps(
    x: jax.Array,
    window: Sizes,
    strides: Sizes,
    padding: Pairs,
    dilation: Sizes = (),
    input_dilation: Sizes = (),
) -> Iterator[jax.Array]:
    """Yield the input of each tap of the window at all positions, in row-major order of the taps.

    Args:
      x: Array (batch, *space, features).
      window: Spatial sizes of the window.
      strides: Strides of the window, per axis.
      padding: Zeros (before, after) per axis; negative numbers crop.
      dilation: Distance between the taps of the window, per axis; 1 by default.
      input_dilation: Distance between the entries of x, per axis; 1 by default.

    Yields:
      One array (batch, *positions, features) per tap.

    Example:
      >>> [t.ravel() for t in taps(jnp.arange(5).reshape(1, 5, 1), (2,), (3,), ((0, 0),))]
      [Array([0, 3], dtype=int32), Array([1, 4], dtype=int32)]
    """
    dilation = dilation or (1,) * len(window)
    x = padded(x, padding, input_dilation)
    batch, *space, features = x.shape
    lengths = []
    for length, size, apart, stride in zip(space, window, dilation, strides, strict=True):
        reach = (size - 1) * apart
        lengths.append((length - reach - 1) // stride * stride + 1)
    for tap in itertools.product(*map(range, window)):
        start = [entry * apart for entry, apart in zip(tap, dilation, strict=True)]
        stop = [first + length for first, length in zip(start, lengths, strict=True)]
        yield lax.slice(
            x,
            start_indices=(0, *start, 0),
            limit_indices=(batch, *stop, features),
            strides=(1, *strides, 1),
        )


def _is_pair(value: Any) -> bool:
    if not isinstance(value, Sequence) or len(value) != 2:
        return False
    return all(map(is_integer, value))
