"""Which operations of JAX our kernels compute, and how.

Each plan is a function (equation) -> how its results are computed, or None if XLA is left to it.
Plans decide by dtypes, sizes and params alone, so equal programs are rewritten equally.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.ops.convolution import bilinear
from jaxnet.ops.convolution_lowering import Form, of_rows
from jaxnet.ops.pooling import window_maxima, window_sums
from jaxnet.ops.precision import wide
from jaxnet.ops.window import Pairs
from jaxnet.rewriting.layout import Merged, Value, axes_of, in_order, plain, stored

Run = Callable[[Sequence[Value]], list[Value]]

WIDE = 2**21  # fewest products of a pair of numbers in a matrix product in 16 bits

HALVES = (jnp.bfloat16, jnp.float16)
FLOATS = (jnp.float32, *HALVES)


def plan(eqn: Any) -> Run | None:
    """Return how our kernels compute an equation of a jaxpr, or None if they do not.

    Example:
      >>> x, w = jnp.ones((1, 4, 4, 8)), jnp.ones((3, 3, 8, 8))
      >>> layout = ("NHWC", "HWIO", "NHWC")
      >>> conv = lambda x, w: jax.lax.conv_general_dilated(
      ...     x, w, (1, 1), "SAME", dimension_numbers=layout)
      >>> (eqn,) = jax.make_jaxpr(conv)(x, w).eqns
      >>> (y,) = plan(eqn)([x, w])
      >>> y.shape
      (1, 4, 4, 8)
    """
    make = _PLANS.get(eqn.primitive.name)
    if make is None or not all(map(_is_sized, [*eqn.invars, *eqn.outvars])):
        return None
    return make(eqn)


def _is_sized(variable: Any) -> bool:
    """Whether all sizes are known, as they are not in an export with an open axis."""
    return all(isinstance(size, int) and size > 0 for size in variable.aval.shape)


# Convolutions. T is the sum over three arrays in `jaxnet.ops.convolution`; a convolution is its
# derivative by y. JAX writes the gradient of a kernel as a convolution, too, whose window is the
# gradient of an image, and whose batch and features have changed places: it is the derivative by w.


def _convolution(eqn: Any) -> Run | None:
    x, w = (variable.aval for variable in eqn.invars)
    axes, dtype = len(x.shape) - 2, eqn.outvars[0].aval.dtype
    known = x.dtype == w.dtype and x.dtype in FLOATS and dtype in (x.dtype, jnp.float32)
    if not known or not 1 <= axes <= 3 or _precision(eqn) is UNKNOWN:
        return None

    def run(given):
        batch, features, *_ = eqn.params["dimension_numbers"].lhs_spec
        stored_as = axes_of(given[0])
        places_changed = stored_as.index(features) < stored_as.index(batch)
        by_w = places_changed and eqn.params["feature_group_count"] == 1
        return (_derivative_by_w if by_w else _derivative_by_y)(eqn, *given)

    return run


def _form(eqn: Any, x: jax.Array, w: jax.Array, groups: int) -> Form:
    """Return the form of a convolution of x (..., batch, *space, features)."""
    params = eqn.params
    axes = len(params["window_strides"])
    return Form(
        tuple(params["window_strides"]),
        tuple((int(low), int(high)) for low, high in params["padding"]),
        tuple(params["rhs_dilation"]),
        tuple(params["lhs_dilation"]),
        groups,
        inputs=x.shape[-1 - axes : -1],
        window=w.shape[-2 - axes : -2],
        precision=_precision(eqn),
    )


def _derivative_by_y(eqn: Any, x: Value, w: Value) -> list[Value]:
    params, apart = eqn.params, eqn.params["batch_group_count"]
    (batch, features, *space), (out, into, *window), _ = params["dimension_numbers"]
    x = _widened(eqn, in_order(x, (batch, *space, features)))
    w = _widened(eqn, in_order(w, (*window, into, out)))
    form = _form(eqn, x, w, params["feature_group_count"])
    if apart == 1:
        return _result(eqn, bilinear(x[None], w[None], wanted="y", form=form)[0])
    # Groups of the batch, each with kernels of its own, are independent convolutions.
    x = x.reshape(apart, x.shape[0] // apart, *x.shape[1:])
    w = jnp.moveaxis(w.reshape(*w.shape[:-1], apart, w.shape[-1] // apart), -2, 0)
    y = jnp.moveaxis(bilinear(x, w, wanted="y", form=form), 0, -2)
    return _result(eqn, y.reshape(*y.shape[:-2], -1))  # (n, *positions, groups, o) -> (..., o)


def _derivative_by_w(eqn: Any, x: Value, y: Value) -> list[Value]:
    params = eqn.params
    (batch, features, *space), (out, into, *window), result = params["dimension_numbers"]
    x = _widened(eqn, in_order(x, (features, *space, batch)))
    y = _widened(eqn, in_order(y, (into, *window, out)))
    form = Form(
        tuple(params["rhs_dilation"]),
        tuple((int(low), 0) for low, _ in params["padding"]),
        tuple(params["window_strides"]),
        tuple(params["lhs_dilation"]),
        params["batch_group_count"],
        inputs=x.shape[1:-1],
        window=tuple(eqn.outvars[0].aval.shape[axis] for axis in result[2:]),
        precision=_precision(eqn),
    )
    form = _with_outputs(form, y.shape[1:-1])
    w = bilinear(x[None], y[None], wanted="w", form=form)[0]
    return _result(eqn, jnp.moveaxis(w, -2, 0))  # (*window, i, o) -> (i, *window, o)


# `vmap` over both operands writes independent convolutions as one with groups: it merges the axis
# of `vmap` with the features of each operand, and divides those of the result.


def is_fold(eqn: Any) -> bool:
    """Whether an equation merges an axis with the next one, maybe after it has moved it."""
    if eqn.primitive.name != "reshape":
        return False
    return len(eqn.outvars[0].aval.shape) == len(eqn.invars[0].aval.shape) - 1


def mapped_convolution(eqn: Any, folds: dict, known: dict) -> list[Value] | None:
    """Return the results of a convolution over which `vmap` was taken, of the arrays before.

    Args:
      eqn: Equation.
      folds: Variable -> the equation that merged two of its axes.
      known: Values of variables.

    Returns:
      The results; None if the equation is something else.
    """
    if eqn.primitive.name != "conv_general_dilated" or plan(eqn) is None:
        return None
    both = [folds.get(variable) for variable in eqn.invars if not hasattr(variable, "val")]
    moved = [fold and fold.params["dimensions"] is not None for fold in both]
    if len(both) < 2 or not all(both) or not any(moved):
        return None
    params, count = eqn.params, eqn.params["feature_group_count"]
    (batch, features, *space), (out, into, *window), result = params["dimension_numbers"]
    at_x, at_w = _unmerged(both[0], features), _unmerged(both[1], out)
    shapes = [fold.invars[0].aval.shape for fold in both]
    if not at_x or not at_w or (shapes[0][at_x[-1]], shapes[1][at_w[-1]]) != (count, count):
        return None
    x, w = (known[fold.invars[0]] for fold in both)
    order_x, order_w = (batch, *space, features), (*window, into, out)
    x = _widened(eqn, in_order(x, [at_x[-1], *(at_x[axis] for axis in order_x)]))
    w = _widened(eqn, in_order(w, [at_w[-1], *(at_w[axis] for axis in order_w)]))
    y = bilinear(x, w, wanted="y", form=_form(eqn, x, w, 1))
    # (e, n, *positions, o), where e will be merged with o, and is before it in the program
    places = [axis + (axis > result[1]) for axis in result]
    places[1] += 1
    order = (result[1], places[0], *places[2:], places[1])
    return [Merged(stored(y, order), eqn.outvars[0].aval.shape)]


def _unmerged(fold: Any, merged: int) -> list[int]:
    """Return the axis before a fold of each axis after it, and the axis that was merged.

    An empty list stands for a fold that merged other axes.
    """
    after = fold.outvars[0].aval.shape
    before = list(fold.params["dimensions"] or range(len(after) + 1))
    sizes = [fold.invars[0].aval.shape[axis] for axis in before]
    if sizes[merged] * sizes[merged + 1] != after[merged]:
        return []
    several = before.pop(merged)
    left = [size for axis, size in enumerate(after) if axis != merged]
    same = sizes[:merged] + sizes[merged + 2 :] == left
    return [*before, several] if same else []


def _with_outputs(form: Form, outputs: Sequence[int]) -> Form:
    """Return the form with as many zeros after x as give y these sizes."""
    pairs = []
    for room, (low, high), size, stride in zip(
        form.room(), form.padding, outputs, form.strides, strict=True
    ):
        pairs.append((low, high + (size - 1) * stride + 1 - room))
    return form._replace(padding=tuple(pairs))


def _widened(eqn: Any, array: jax.Array) -> jax.Array:
    """Return an operand in the dtype of the result, which may be float32 for 16 bits."""
    return array.astype(eqn.outvars[0].aval.dtype)


def _result(eqn: Any, y: jax.Array) -> list[Value]:
    """Return (batch, *positions, features) as the result of an equation."""
    batch, features, *positions = eqn.params["dimension_numbers"].out_spec
    return [stored(y, (batch, *positions, features))]


UNKNOWN = "unknown"
_PRECISIONS = {
    None: None,
    lax.Precision.DEFAULT: None,
    lax.Precision.HIGH: "high",
    lax.Precision.HIGHEST: "highest",
}


def _precision(eqn: Any) -> str | None:
    """Return the name of an equation's precision, as forms have it, or `UNKNOWN`."""
    precision = eqn.params["precision"]
    both = set(precision) if isinstance(precision, tuple) else {precision}
    return _PRECISIONS.get(both.pop(), UNKNOWN) if len(both) == 1 else UNKNOWN


# Products of matrices in 16 bits, which XLA computes in float32 on a CPU.


def _product(eqn: Any) -> Run | None:
    x, w = (variable.aval for variable in eqn.invars)
    (summed, _), (together, _) = eqn.params["dimension_numbers"]
    halves = x.dtype == w.dtype == eqn.outvars[0].aval.dtype and x.dtype in HALVES
    if not halves or together or not summed or _precision(eqn) is UNKNOWN:
        return None
    rows = math.prod(size for axis, size in enumerate(x.shape) if axis not in summed)
    return partial(_matrices, eqn) if rows * math.prod(w.shape) >= WIDE else None


def _matrices(eqn: Any, given: Sequence[Value]) -> list[Value]:
    """Compute a product in that one of its three forms that needs no transposes, if one does."""
    x, w = map(plain, given)
    (summed, summed_too), _ = eqn.params["dimension_numbers"]
    rows = [axis for axis in range(x.ndim) if axis not in summed]
    columns = [axis for axis in range(w.ndim) if axis not in summed_too]
    inner = math.prod(x.shape[axis] for axis in summed)

    def matrix(array, first, second, size):
        return jnp.transpose(array, (*first, *second)).reshape(-1, size)

    left = matrix(x, rows, summed, inner)  # (rows, inner)
    if tuple(summed) == tuple(range(len(summed))) and rows:  # as in the gradient of a kernel
        wanted, a = "w", matrix(x, summed, rows, len(left))
        b = matrix(w, summed_too, columns, w.size // inner)
    elif columns == list(range(len(columns))) and columns:
        wanted, a, b = "x", matrix(w, columns, summed_too, inner), left
    else:
        wanted, a, b = "y", left, matrix(w, summed_too, columns, w.size // inner)
    form = of_rows((len(a) if wanted == "w" else len(left),))._replace(precision=_precision(eqn))
    found = bilinear(a[None, None], b[None, None], wanted=wanted, form=form)
    return [found.reshape(eqn.outvars[0].aval.shape)]


# Pools.


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
    params, rank = eqn.params, len(eqn.params["window_dimensions"])
    once = (1,) * rank
    dilation = params.get("window_dilation", once)
    sizes = [params["window_dimensions"], params["window_strides"], params["padding"], dilation]
    each = list(zip(*sizes, strict=True))
    axes = tuple(axis for axis, form in enumerate(each) if form != (1, 1, (0, 0), 1))
    inside = all(max(pad) < (size - 1) * apart + 1 for size, _, pad, apart in each)
    spread = params.get("base_dilation", once) != once
    if spread or not inside or min(min(pad) for _, _, pad, _ in each) < 0:
        return None
    if eqn.outvars[0].aval.dtype not in FLOATS or not 1 <= len(axes) <= min(3, rank - 1):
        return None
    return _Window(axes, *zip(*(each[axis] for axis in axes), strict=True))


def _maxima(eqn: Any) -> Run | None:
    if (window := _window(eqn)) is None:
        return None
    pool = partial(window_maxima, **window.options())
    return partial(_pooled, window, pool, features_last=window.overlaps())


def _maxima_gradient(eqn: Any) -> Run | None:
    window = _window(eqn)
    if window is None or eqn.params["select_prim"].name != "ge":
        return None

    def pull(x, dy):
        return jax.vjp(partial(window_maxima, **window.options()), x)[1](dy)[0]

    def run(given):
        dy, x = given
        return _pooled(window, pull, [x, dy], features_last=window.overlaps())

    return run


def _sums(eqn: Any) -> Run | None:
    if (window := _window(eqn)) is None:
        return None

    def pool(x):
        return window_sums(wide(x), **window.options()).astype(x.dtype)

    return partial(_pooled, window, pool, features_last=False)


def _pooled(
    window: _Window, pool: Callable, given: Sequence[Value], *, features_last: bool
) -> list[Value]:
    """Apply a pool to arrays, viewed as (batch, *space, features).

    The kernel of maxima in C wants many features. Other pools take whatever is stored after the
    axes of the window, such as a single feature if the features are first.
    """
    axes = axes_of(given[0])
    place = axes.index(window.axes[0])
    end = place + len(window.axes)
    if features_last or axes[place:end] != window.axes:
        rest = [axis for axis in axes if axis not in window.axes]
        axes = (*rest[:-1], *window.axes, rest[-1])
        place, end = len(rest) - 1, len(axes) - 1
    arrays = [in_order(value, axes) for value in given]

    def viewed(array):
        batch, features = math.prod(array.shape[:place]), math.prod(array.shape[end:])
        return array.reshape(batch, *array.shape[place:end], features)

    y = pool(*map(viewed, arrays))
    shape = arrays[0].shape
    return [stored(y.reshape(*shape[:place], *y.shape[1:-1], *shape[end:]), axes)]


_PLANS: dict[str, Callable[[Any], Run | None]] = {
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "reduce_window_max": _maxima,
    "reduce_window_sum": _sums,
    "select_and_scatter_add": _maxima_gradient,
}
