"""Pools of JAX as those of `jaxnet.ops.pooling`."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax

from jaxnet.ops.pooling import window_maxima, window_sums
from jaxnet.ops.precision import at_least_float32
from jaxnet.ops.window import Pairs
from jaxnet.rewriting.convolutions import FLOATS
from jaxnet.rewriting.layout import Run, Value, axes_of, in_order, stored


class _Window(NamedTuple):
    """The window of a pool, on the axes on which it is more than one entry."""

    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]

    def options(self) -> dict[str, Any]:
        """Return the arguments of the functions of `jaxnet.ops.pooling`."""
        names = ("window", "strides", "padding", "dilation")
        return dict(zip(names, self[1:], strict=True))

    def overlaps(self) -> bool:
        """Whether an entry may be in several windows, or between two."""
        return self.strides != self.sizes or max(self.dilation) > 1


def _window(eqn: Any) -> _Window | None:
    """Return the window of an equation; None if it has one that our pools do not compute."""
    params = eqn.params
    sizes = params["window_dimensions"]
    rank = len(sizes)
    once = (1,) * rank
    dtype = eqn.outvars[0].aval.dtype
    if dtype not in FLOATS or params.get("base_dilation", once) != once:
        return None
    dilation = params.get("window_dilation", once)
    each = list(zip(sizes, params["window_strides"], params["padding"], dilation, strict=True))
    for size, _, pad, apart in each:
        span = (size - 1) * apart + 1
        if min(pad) < 0 or max(pad) >= span:
            return None
    axes = tuple(axis for axis, form in enumerate(each) if form != (1, 1, (0, 0), 1))
    if not 1 <= len(axes) <= min(3, rank - 1):
        return None
    return _Window(axes, *zip(*(each[axis] for axis in axes), strict=True))


def maxima(eqn: Any) -> Run | None:
    """Plan the largest entries of windows."""
    window = _window(eqn)
    if window is None:
        return None
    pool = partial(window_maxima, **window.options())
    return partial(_pooled, window, pool, features_last=window.overlaps())


def maxima_gradient(eqn: Any) -> Run | None:
    """Plan the gradient of the largest entries of windows."""
    window = _window(eqn)
    if window is None or eqn.params["select_prim"].name != "ge":
        return None

    def pull(x, dy):
        _, pull_back = jax.vjp(partial(window_maxima, **window.options()), x)
        (dx,) = pull_back(dy)
        return dx

    def run(operands):
        dy, x = operands
        return _pooled(window, pull, [x, dy], features_last=window.overlaps())

    return run


def sums(eqn: Any) -> Run | None:
    """Plan the sums of windows."""
    window = _window(eqn)
    if window is None:
        return None

    def pool(x):
        y = window_sums(at_least_float32(x), **window.options())
        return y.astype(x.dtype)

    return partial(_pooled, window, pool, features_last=False)


def _pooled(
    window: _Window, pool: Callable, operands: Sequence[Value], *, features_last: bool
) -> list[Value]:
    """Apply a pool to arrays, viewed as (batch, *space, features).

    The kernel of maxima in C wants many features. Other pools take whatever is stored after the
    axes of the window, such as a single feature if the features are first.
    """
    axes = axes_of(operands[0])
    place = axes.index(window.axes[0])
    end = place + len(window.axes)
    if features_last or axes[place:end] != window.axes:
        *batch, features = [axis for axis in axes if axis not in window.axes]
        axes = (*batch, *window.axes, features)
        place = len(batch)
        end = len(axes) - 1
    arrays = [in_order(value, axes) for value in operands]

    def viewed(array):
        batch = math.prod(array.shape[:place])
        features = math.prod(array.shape[end:])
        return array.reshape(batch, *array.shape[place:end], features)

    y = pool(*map(viewed, arrays))
    _, *positions, _ = y.shape
    shape = arrays[0].shape
    y = y.reshape(*shape[:place], *positions, *shape[end:])
    return [stored(y, axes)]
