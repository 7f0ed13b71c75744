"""Arrays whose axes are stored in another order, and the operations that keep that order.

The kernels in C want the features last. A program that has them first would need a transpose
before and after each convolution. Here the result of a convolution stays as the kernel stored it,
and the operations between two convolutions are computed in that order.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.jax_versions import bind

Axes = tuple[int, ...]


@partial(jax.tree_util.register_dataclass, data_fields=["array"], meta_fields=["order", "shape"])
@dataclass(frozen=True)
class Permuted:
    """An array whose axes are stored in another order.

    Fields:
      array: The array as it is stored. Its axes are those of `order`.
      order: Axes of the program's array that are longer than 1, in the order in which they are
        stored.
      shape: Shape of the program's array.
    """

    array: Any
    order: Axes
    shape: Axes

    @property
    def dtype(self) -> Any:
        """The dtype of the array."""
        return self.array.dtype


@dataclass(frozen=True)
class Merged:
    """A value in which two neighboring axes are still to be merged.

    Fields:
      value: The value before.
      shape: Shape of the program's array.
    """

    value: Any
    shape: Axes


Value = Any  # an array, a `Permuted` or, between two operations, a `Merged`
Run = Callable[[Sequence[Value]], list[Value]]  # values of operands -> those of results


def axes_of(value: Value) -> Axes:
    """Return all axes of a value in the order in which they are stored, those of length 1 first.

    Example:
      >>> axes_of(stored(jnp.ones((2, 5, 7, 1)), (1, 2, 0, 3)))
      (3, 1, 2, 0)
    """
    if not isinstance(value, Permuted):
        return tuple(range(len(value.shape)))
    units = tuple(axis for axis, size in enumerate(value.shape) if size == 1)
    return units + value.order


def stored(array: jax.Array, axes: Sequence[int]) -> Value:
    """Return a value from an array whose axes are these axes of the program's array.

    Returns:
      A `Permuted`; an array if its order is that of the program.

    Example:
      >>> stored(jnp.ones((2, 3)), (1, 0)).shape
      (3, 2)
    """
    shape = tuple(array.shape[axes.index(axis)] for axis in range(array.ndim))
    order = tuple(axis for axis in axes if shape[axis] != 1)
    return _value(array, order, shape)


def _value(array: jax.Array, order: Axes, shape: Axes) -> Value:
    """Return a value from an array with axes in this order, with or without axes of length 1."""
    if order == tuple(sorted(order)):
        return array.reshape(shape)
    without_units = [shape[axis] for axis in order]
    return Permuted(array.reshape(without_units), order, shape)


def in_order(value: Value, axes: Sequence[int]) -> jax.Array:
    """Return the array of a value with its axes in this order: without a copy if stored so.

    Example:
      >>> in_order(stored(jnp.ones((2, 3)), (1, 0)), (0, 1)).shape
      (3, 2)
    """
    axes = tuple(axes)
    if not isinstance(value, Permuted):
        if axes == tuple(range(len(axes))):
            return value
        return jnp.transpose(value, axes)
    order = tuple(axis for axis in axes if value.shape[axis] != 1)
    array = value.array
    if order != value.order:
        array = jnp.transpose(array, [value.order.index(axis) for axis in order])
    return array.reshape([value.shape[axis] for axis in axes])


def in_program_order(value: Value) -> jax.Array:
    """Return the array of a value with its axes in the order of the program."""
    if isinstance(value, Merged):
        return in_program_order(value.value).reshape(value.shape)
    if isinstance(value, Permuted):
        return in_order(value, range(len(value.shape)))
    return value


def merge(value: Value) -> Value:
    """Return a value whose axes are merged."""
    return in_program_order(value) if isinstance(value, Merged) else value


def like(value: Value, other: Value) -> Value:
    """Return a value stored as another one is."""
    if not isinstance(other, Permuted):
        return in_program_order(value)
    if isinstance(value, Permuted) and value.order == other.order:
        return value
    axes = axes_of(other)
    return stored(in_order(value, axes), axes)


def carry(eqn: Any, operands: Sequence[Value]) -> list[Value] | None:
    """Return the results of an operation in the order of its first `Permuted` operand.

    Args:
      eqn: Equation of a jaxpr.
      operands: Values of its operands, at least one of them a `Permuted`.

    Returns:
      The results; None if the operation does not keep the order.
    """
    name = eqn.primitive.name
    if name in _SHAPES:
        if not isinstance(operands[0], Permuted):
            return None
        result = _SHAPES[name](eqn, operands[0])
        return None if result is None else [result]
    if name == "optimization_barrier":
        return _barrier(eqn, operands)
    if name in _SLICES:
        return _slice(eqn, operands)
    if name in _BY_AXIS:
        return _by_axis(eqn, operands)
    return None


# Operations on operands of one rank, whose results have the same axes. Each names the params that
# speak of axes, with a function (the param, the order of the axes) -> the param in that order.


def _position(axis: int, axes: Axes) -> int:
    return axes.index(axis)


def _positions(several: Iterable[int], axes: Axes) -> Axes:
    return tuple(axes.index(axis) for axis in several)


def _permuted(entries: Sequence | None, axes: Axes) -> tuple | None:
    return None if entries is None else tuple(entries[axis] for axis in axes)


_ELEMENTWISE = (
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp "
    "convert_element_type copy cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt "
    "integer_pow is_finite le lgamma log log1p logistic lt max min mul name ne neg nextafter not "
    "or pow reduce_precision rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub "
    "tan tanh xor"
).split()
_WINDOW = dict.fromkeys(("window_dimensions", "window_strides", "padding"), _permuted)
_DILATED = _WINDOW | dict.fromkeys(("base_dilation", "window_dilation"), _permuted)
_BY_AXIS: dict[str, dict[str, Callable]] = dict.fromkeys(_ELEMENTWISE, {}) | {
    "concatenate": {"dimension": _position},
    "cumlogsumexp": {"axis": _position},
    "cummax": {"axis": _position},
    "cummin": {"axis": _position},
    "cumprod": {"axis": _position},
    "cumsum": {"axis": _position},
    "pad": {"padding_config": _permuted},
    "reduce_window_max": _DILATED,
    "reduce_window_min": _DILATED,
    "reduce_window_sum": _DILATED,
    "rev": {"dimensions": _positions},
    "select_and_gather_add": _DILATED,
    "select_and_scatter_add": _WINDOW,
    "slice": dict.fromkeys(("start_indices", "limit_indices", "strides"), _permuted),
    "split": {"axis": _position},
}


def _by_axis(eqn: Any, operands: Sequence[Value]) -> list[Value] | None:
    first = next(value for value in operands if isinstance(value, Permuted))
    axes = axes_of(first)
    if not {_rank(value) for value in operands} <= {0, len(axes)}:
        return None
    arrays = [in_order(value, axes) if _rank(value) else value for value in operands]
    params = dict(eqn.params)
    for name, turn in _BY_AXIS[eqn.primitive.name].items():
        params[name] = turn(params[name], axes)
    return [stored(y, axes) for y in bind(eqn, arrays, params)]


_SLICES = {"dynamic_slice": 1, "dynamic_update_slice": 2}  # operands before the indices


def _slice(eqn: Any, operands: Sequence[Value]) -> list[Value] | None:
    """Slice at indices that are known only when the program runs."""
    count = _SLICES[eqn.primitive.name]
    if not isinstance(operands[0], Permuted):
        return None
    axes = axes_of(operands[0])
    arrays = [in_order(value, axes) for value in operands[:count]]
    starts = operands[count:]
    indices = [starts[axis] for axis in axes]
    params = dict(eqn.params)
    if "slice_sizes" in params:
        params["slice_sizes"] = _permuted(params["slice_sizes"], axes)
    return [stored(y, axes) for y in bind(eqn, [*arrays, *indices], params)]


def _rank(value: Value) -> int:
    return len(value.shape) if isinstance(value, Permuted) else np.ndim(value)


def _barrier(eqn: Any, operands: Sequence[Value]) -> list[Value]:
    arrays = [value.array if isinstance(value, Permuted) else value for value in operands]
    results: list[Value] = []
    for y, value in zip(bind(eqn, arrays), operands, strict=True):
        if isinstance(value, Permuted):
            y = Permuted(y, value.order, value.shape)
        results.append(y)
    return results


# Operations on one operand whose results have other axes.


def _transpose(eqn: Any, x: Permuted) -> Value:
    axes = eqn.params["permutation"]
    order = tuple(axes.index(axis) for axis in x.order)
    shape = tuple(x.shape[axis] for axis in axes)
    return _value(x.array, order, shape)


def _reduce(eqn: Any, x: Permuted) -> Value | None:
    summed = [int(axis) for axis in eqn.params["axes"]]
    at = tuple(x.order.index(axis) for axis in summed if axis in x.order)
    if len(at) < len(summed) and not eqn.primitive.name.startswith("reduce_"):
        return None  # the position of the largest entry along an axis of length 1
    y = x.array
    if at:
        (y,) = bind(eqn, [y], eqn.params | {"axes": at})
    left = [axis for axis in range(len(x.shape)) if axis not in summed]
    order = tuple(left.index(axis) for axis in x.order if axis in left)
    shape = tuple(x.shape[axis] for axis in left)
    return _value(y, order, shape)


def _reshape(eqn: Any, x: Permuted) -> Value | None:
    """Split and merge axes that are stored next to each other."""
    shape = eqn.outvars[0].aval.shape
    moves = eqn.primitive.name == "reshape" and eqn.params["dimensions"] is not None
    if moves or 0 in shape:
        return None
    becomes = {before[0]: (before, after) for before, after in _groups(x.shape, shape)}
    left = x.order
    order = ()
    while left:
        before, after = becomes.get(left[0], ((), ()))
        if not before or left[: len(before)] != before:
            return None
        left = left[len(before) :]
        order += after
    return _value(x.array, order, shape)


def _broadcast(eqn: Any, x: Permuted) -> Value | None:
    """Add axes of length 1; the broadcast of others is computed in the order of the program."""
    shape = eqn.outvars[0].aval.shape
    if math.prod(shape) != math.prod(x.shape):
        return None
    return _reshape(eqn, x)


_SHAPES: dict[str, Callable[[Any, Permuted], Value | None]] = {
    "transpose": _transpose,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "broadcast_in_dim": _broadcast,
    "argmax": _reduce,
    "argmin": _reduce,
    "reduce_and": _reduce,
    "reduce_max": _reduce,
    "reduce_min": _reduce,
    "reduce_or": _reduce,
    "reduce_prod": _reduce,
    "reduce_sum": _reduce,
}


def _groups(before: Axes, after: Axes) -> list[tuple[Axes, Axes]]:
    """Return which axes of a shape become which of another, in order; without axes of length 1.

    Example:
      >>> _groups((2, 12, 1, 5, 7), (2, 3, 4, 35))
      [((0,), (0,)), ((1,), (1, 2)), ((3, 4), (3,))]
    """
    old = [axis for axis, size in enumerate(before) if size != 1]
    new = [axis for axis, size in enumerate(after) if size != 1]
    groups = []
    while old:
        some, others = [old.pop(0)], [new.pop(0)]
        left, right = before[some[0]], after[others[0]]
        while left != right:
            if left < right:
                some.append(old.pop(0))
                left *= before[some[-1]]
            else:
                others.append(new.pop(0))
                right *= after[others[-1]]
        groups.append((tuple(some), tuple(others)))
    return groups
