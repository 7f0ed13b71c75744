"""Convolutions and matrix products of JAX as the primitive of `jaxnet.ops.convolution`.

T is the sum over three arrays there, and a convolution is its derivative by y. JAX writes the
gradient of a kernel as a convolution, too, whose window is the gradient of an image, and whose
batch and features have changed places: it is the derivative by w.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.ops.convolution import bilinear
from jaxnet.ops.convolution_lowering import Form, of_rows
from jaxnet.rewriting.layout import (
    Merged,
    Run,
    Value,
    axes_of,
    in_order,
    in_program_order,
    merge,
    stored,
)
from jaxnet.services.jaxprs import variables_of

WIDE = 2**21  # fewest products of a pair of numbers in a matrix product in 16 bits

HALVES = (jnp.bfloat16, jnp.float16)
FLOATS = (jnp.float32, *HALVES)


def convolution(eqn: Any) -> Run | None:
    """Plan a convolution of one to three axes in 32 or 16 bits."""
    x, w = (variable.aval for variable in eqn.invars)
    dtype = eqn.outvars[0].aval.dtype
    axes = len(x.shape) - 2
    if x.dtype != w.dtype or x.dtype not in FLOATS or dtype not in (x.dtype, jnp.float32):
        return None
    if not 1 <= axes <= 3 or _precision(eqn) is UNKNOWN:
        return None

    def run(operands):
        batch, features, *_ = eqn.params["dimension_numbers"].lhs_spec
        stored_as = axes_of(operands[0])
        places_changed = stored_as.index(features) < stored_as.index(batch)
        if places_changed and eqn.params["feature_group_count"] == 1:
            return _derivative_by_w(eqn, *operands)
        return _derivative_by_y(eqn, *operands)

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
    params = eqn.params
    (batch, features, *space), (out, into, *window), _ = params["dimension_numbers"]
    x = _widened(eqn, in_order(x, (batch, *space, features)))
    w = _widened(eqn, in_order(w, (*window, into, out)))
    form = _form(eqn, x, w, params["feature_group_count"])
    groups = params["batch_group_count"]
    if groups == 1:
        y = bilinear(x[None], w[None], wanted="y", form=form)
        return _result(eqn, y[0])
    # Groups of the batch, each with kernels of its own, are independent convolutions.
    images, *of_image = x.shape
    *of_kernel, outputs = w.shape
    x = x.reshape(groups, images // groups, *of_image)
    w = w.reshape(*of_kernel, groups, outputs // groups)
    w = jnp.moveaxis(w, -2, 0)
    y = bilinear(x, w, wanted="y", form=form)
    y = jnp.moveaxis(y, 0, -2)  # (n, *positions, groups, o)
    return _result(eqn, y.reshape(*y.shape[:-2], -1))


def _derivative_by_w(eqn: Any, x: Value, y: Value) -> list[Value]:
    params = eqn.params
    (batch, features, *space), (out, into, *window), result = params["dimension_numbers"]
    x = _widened(eqn, in_order(x, (features, *space, batch)))
    y = _widened(eqn, in_order(y, (into, *window, out)))
    shape = eqn.outvars[0].aval.shape
    form = Form(
        tuple(params["rhs_dilation"]),
        tuple((int(low), 0) for low, _ in params["padding"]),
        tuple(params["window_strides"]),
        tuple(params["lhs_dilation"]),
        params["batch_group_count"],
        inputs=x.shape[1:-1],
        window=tuple(shape[axis] for axis in result[2:]),
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
    before = eqn.invars[0].aval.shape
    after = eqn.outvars[0].aval.shape
    return len(after) == len(before) - 1


def mapped_convolution(eqn: Any, folds: dict, environment: dict) -> list[Value] | None:
    """Return the results of a convolution over which `vmap` was taken, of the arrays before.

    Args:
      eqn: Equation for which there is a plan.
      folds: Variable -> the equation that merged two of its axes.
      environment: Values of variables.

    Returns:
      The results; None if the equation is something else.
    """
    if eqn.primitive.name != "conv_general_dilated":
        return None
    both = [folds[variable] for variable in variables_of(eqn.invars) if variable in folds]
    if len(both) < 2 or all(fold.params["dimensions"] is None for fold in both):
        return None
    (batch, features, *space), (out, into, *window), result = eqn.params["dimension_numbers"]
    count = eqn.params["feature_group_count"]
    at_x = _unmerged(both[0], features, count)
    at_w = _unmerged(both[1], out, count)
    if not at_x or not at_w:
        return None
    x, w = (merge(environment[fold.invars[0]]) for fold in both)
    *at_x, mapped_x = at_x
    *at_w, mapped_w = at_w
    order_x = [mapped_x, *(at_x[axis] for axis in (batch, *space, features))]
    order_w = [mapped_w, *(at_w[axis] for axis in (*window, into, out))]
    x = _widened(eqn, in_order(x, order_x))
    w = _widened(eqn, in_order(w, order_w))
    y = bilinear(x, w, wanted="y", form=_form(eqn, x, w, 1))
    # (e, n, *positions, o), where e will be merged with o, and is before it in the program
    merged = result[1]
    at_n, at_o, *positions = [axis + 1 if axis > merged else axis for axis in result]
    order = merged, at_n, *positions, at_o + 1
    return [Merged(stored(y, order), eqn.outvars[0].aval.shape)]


def _unmerged(fold: Any, merged: int, count: int) -> list[int]:
    """Return the axis before a fold of each axis after it, and the axis that was merged.

    An empty list stands for a fold that merged other axes, or an axis that is not of size `count`.
    """
    after = fold.outvars[0].aval.shape
    before = list(fold.params["dimensions"] or range(len(after) + 1))
    sizes = [fold.invars[0].aval.shape[axis] for axis in before]
    if sizes[merged] != count or count * sizes[merged + 1] != after[merged]:
        return []
    others_before = sizes[:merged] + sizes[merged + 2 :]
    others_after = [size for axis, size in enumerate(after) if axis != merged]
    if others_before != others_after:
        return []
    several = before.pop(merged)
    return [*before, several]


def _with_outputs(form: Form, outputs: Sequence[int]) -> Form:
    """Return the form with as many zeros after x as give y these sizes."""
    padding = []
    axes = zip(form.room(), form.padding, outputs, form.strides, strict=True)
    for room, (low, high), size, stride in axes:
        span = (size - 1) * stride + 1
        padding.append((low, high + span - room))
    return form._replace(padding=tuple(padding))


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
    if isinstance(precision, tuple):
        first, second = precision
        if first != second:
            return UNKNOWN
        precision = first
    return _PRECISIONS.get(precision, UNKNOWN)


# Products of matrices in 16 bits, which XLA computes in float32 on a CPU.


def product(eqn: Any) -> Run | None:
    """Plan a large product of matrices in 16 bits."""
    x, w = (variable.aval for variable in eqn.invars)
    dtype = eqn.outvars[0].aval.dtype
    (summed, _), (together, _) = eqn.params["dimension_numbers"]
    if not x.dtype == w.dtype == dtype or dtype not in HALVES:
        return None
    if together or not summed or _precision(eqn) is UNKNOWN:
        return None
    rows = math.prod(size for axis, size in enumerate(x.shape) if axis not in summed)
    if rows * math.prod(w.shape) < WIDE:
        return None
    return partial(_matrices, eqn)


def _matrices(eqn: Any, operands: Sequence[Value]) -> list[Value]:
    """Compute a product in that one of its three forms that needs no transposes, if one does."""
    x, w = map(in_program_order, operands)
    (summed, summed_too), _ = eqn.params["dimension_numbers"]
    rows = [axis for axis in range(x.ndim) if axis not in summed]
    columns = [axis for axis in range(w.ndim) if axis not in summed_too]
    inner = math.prod(x.shape[axis] for axis in summed)
    outer = w.size // inner

    def matrix(array, first, second, size):
        return jnp.transpose(array, (*first, *second)).reshape(-1, size)

    left = matrix(x, rows, summed, inner)
    if rows and _are_first(summed):  # as in the gradient of a kernel
        wanted = "w"
        a = matrix(x, summed, rows, len(left))
        b = matrix(w, summed_too, columns, outer)
    elif columns and _are_first(columns):
        wanted = "x"
        a = matrix(w, columns, summed_too, inner)
        b = left
    else:
        wanted = "y"
        a = left
        b = matrix(w, summed_too, columns, outer)
    count = inner if wanted == "w" else len(left)
    form = of_rows((count,))._replace(precision=_precision(eqn))
    result = bilinear(a[None, None], b[None, None], wanted=wanted, form=form)
    return [result.reshape(eqn.outvars[0].aval.shape)]


def _are_first(axes: Sequence[int]) -> bool:
    """Return whether axes are the first ones of an array, in order."""
    return list(axes) == list(range(len(axes)))
