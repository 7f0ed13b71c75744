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
from jaxnet.rewriting.layout import Merged, Run, Value, axes_of, in_order, merge, plain, stored
from jaxnet.services.jaxprs import variables_of

WIDE = 2**21  # fewest products of a pair of numbers in a matrix product in 16 bits

HALVES = (jnp.bfloat16, jnp.float16)
FLOATS = (jnp.float32, *HALVES)


def convolution(eqn: Any) -> Run | None:
    """Plan a convolution of one to three axes in 32 or 16 bits."""
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
      eqn: Equation for which there is a plan.
      folds: Variable -> the equation that merged two of its axes.
      known: Values of variables.

    Returns:
      The results; None if the equation is something else.
    """
    if eqn.primitive.name != "conv_general_dilated":
        return None
    both = [folds[variable] for variable in variables_of(eqn.invars) if variable in folds]
    if len(both) < 2 or all(fold.params["dimensions"] is None for fold in both):
        return None
    params, count = eqn.params, eqn.params["feature_group_count"]
    (batch, features, *space), (out, into, *window), result = params["dimension_numbers"]
    at_x, at_w = _unmerged(both[0], features), _unmerged(both[1], out)
    shapes = [fold.invars[0].aval.shape for fold in both]
    if not at_x or not at_w or (shapes[0][at_x[-1]], shapes[1][at_w[-1]]) != (count, count):
        return None
    x, w = (merge(known[fold.invars[0]]) for fold in both)
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


def product(eqn: Any) -> Run | None:
    """Plan a large product of matrices in 16 bits."""
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
