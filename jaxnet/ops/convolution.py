"""Convolution as one bilinear primitive, whose gradients stay fast inside loops.

On CPU, XLA converts a convolution to its fast layout (batch, space, features, unreversed window)
outside loops only. The transposes that JAX derives are not in that layout, so a training step
inside `lax.scan` runs about forty times slower (to measure it, run `python -m
experiments.benchmarks --workloads ResNet-20`). Here the transposes are written in the fast layout
from the start.

An input x, a kernel w and an output y define one number that is linear in each of the three,

    T(x, w, y) = sum over n, p, k, i, o of  x[n, p * stride + k, i] * w[k, i, o] * y[n, p, o]

and its derivative by any one of them is a function of the other two. By y it is the convolution;
by x and by w it is one of the two gradients. One primitive with the parameter `wanted` is therefore
closed under transposition, which gives forward mode, reverse mode and their compositions. Every
operand has a leading axis e of independent convolutions, usually of size 1, so the primitive is
also closed under `vmap` over both operands.

On CPU, convolutions of one to three axes in 32 or 16 bits run in C, see `jaxnet.ops.native`.
All others, and platforms on which the library was not built, use the forms for XLA. Large products
of matrices of 16 bits are convolutions with a window of one entry, too.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad, mlir

from jaxnet.ops.convolution_lowering import Form, accelerator, cpu, of_rows
from jaxnet.ops.native import conv as native
from jaxnet.ops.native.call import make_primitive, on_one_device
from jaxnet.ops.varying import varying
from jaxnet.ops.window import Pairs


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: tuple[int, ...],
    padding: Pairs,
    dilation: tuple[int, ...] | None = None,
    input_dilation: tuple[int, ...] | None = None,
    groups: int = 1,
    who: str = "convolve",
) -> jax.Array:
    """Return the convolution of x with a kernel, over one or more spatial axes.

    y[n, p, o] = sum over k, i of x[n, p * strides + k * dilation, i] * kernel[k, i, o]. This is a
    correlation: the kernel is not reversed. All transformations of JAX apply to it, to any order.

    Args:
      x: Input (batch, *space, inputs).
      kernel: Kernel (*window, inputs // groups, features).
      strides: Strides of the window, one per spatial axis.
      padding: Zeros (before, after) per spatial axis; negative numbers crop.
      dilation: Distance between the taps of the kernel, per axis; 1 by default.
      input_dilation: Distance between the entries of x, with zeros between them, per axis; 1 by
        default.
      groups: Number of groups into which input and output features are split, in order; each
        group of outputs depends on its own group of inputs.
      who: Name of the function, for errors.

    Returns:
      (batch, *space, features), in the promoted dtype of x and kernel.

    Raises:
      ValueError: If the window is larger than the padded input.

    Example:
      >>> x = jnp.arange(5.0).reshape(1, 5, 1)
      >>> kernel = jnp.array([1.0, 0.0, -1.0]).reshape(3, 1, 1)
      >>> convolve(x, kernel, strides=(2,), padding=((1, 1),)).ravel()
      Array([-1., -2.,  3.], dtype=float32)
    """
    once = (1,) * len(strides)
    dilation = dilation or once
    input_dilation = input_dilation or once
    space = x.shape[1:-1]
    window = kernel.shape[:-2]
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    form = Form(strides, padding, dilation, input_dilation, groups, space, window, precision)
    if any(n < 1 for n in form.room()):  # in an export, sizes are not compared with each other
        raise ValueError(
            f"{who}: a window of {window} with dilation {dilation} does not fit into an input of "
            f"{space} with padding {padding}. Pad more, or use a smaller kernel"
        )

    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    x = jnp.asarray(x, dtype)
    kernel = jnp.asarray(kernel, dtype)
    return bilinear(x[None], kernel[None], wanted="y", form=form)[0]


def bilinear(a: jax.Array, b: jax.Array, *, wanted: str, form: Form) -> jax.Array:
    """Return the wanted one of x, w, y from the other two: a convolution or one of its gradients.

    Args:
      a, b: The other two, in this order: x (e, batch, *space, inputs), w (e, *window, inputs //
        groups, features), y (e, batch, *positions, features), of one dtype. The axis e counts
        independent convolutions.
      wanted: Name of the wanted array, "x", "w" or "y".
      form: Description of the convolution.

    Example:
      >>> form = Form((1,), ((0, 0),), (1,), (1,), 1, inputs=(3,), window=(2,))
      >>> x, y = jnp.arange(3.0).reshape(1, 1, 3, 1), jnp.ones((1, 1, 2, 1))
      >>> bilinear(x, y, wanted="w", form=form).ravel()
      Array([1., 3.], dtype=float32)
    """
    a, b = varying((a, b), a, b)
    return _primitive().bind(a, b, wanted=wanted, form=form)


def multiply(x: jax.Array, kernel: jax.Array, *, transposed: bool = False) -> jax.Array:
    """Return x @ kernel, or x @ kernel.T, as a convolution along the rows.

    Example:
      >>> multiply(jnp.ones((2, 3)), jnp.ones((7, 3)), transposed=True).shape
      (2, 7)
    """
    form = of_rows(x.shape[:1])
    if transposed:
        y = bilinear(kernel[None, None], x[None, None], wanted="x", form=form)
    else:
        y = bilinear(x[None, None], kernel[None, None], wanted="y", form=form)
    return y[0, 0]


# The primitive. Its operands are x, w, y in this order, without the wanted one.


@cache
def _primitive():
    convolution_p = make_primitive(
        "convolution",
        shapes=_result,
        batch=_batch,
        run=accelerator,
        lower_for_cpu=_lower_for_cpu,
        multiple_results=False,
    )
    ad.defbilinear(convolution_p, partial(_transpose, 0), partial(_transpose, 1))
    return convolution_p


# The two operands per wanted result.
_OPERANDS = {"y": ("x", "w"), "x": ("w", "y"), "w": ("x", "y")}

# The axis that two operands share, and whether it is split into groups. The axes are (e, n, *space,
# features) in x and y, and (e, *window, inputs // groups, features) in w.
_SHARED = {
    frozenset("xy"): {"x": (1, False), "y": (1, False)},  # batch
    frozenset("xw"): {"x": (-1, True), "w": (-2, False)},  # inputs
    frozenset("wy"): {"w": (-1, True), "y": (-1, True)},  # features
}


def _result(a, b, *, wanted, form):
    shape = form.result(a.shape, b.shape, wanted)
    return a.update(shape=shape, weak_type=False)


def _transpose(operand, cotangent, a, b, *, wanted, form):
    """Return the derivative of T by the unknown operand."""
    target = _OPERANDS[wanted][operand]
    other = _OPERANDS[wanted][1 - operand]
    operands = {wanted: cotangent, other: a if operand else b}
    first, second = _OPERANDS[target]
    return _primitive().bind(operands[first], operands[second], wanted=target, form=form)


def _batch(operands, dims, *, wanted, form):
    """Stack both along e if both are batched; fold one into the axis it shares with the result."""
    operands = list(operands)
    for number, dim in enumerate(dims):
        if dim is not None:
            operands[number] = jnp.moveaxis(operands[number], dim, 0)
    if None not in dims:
        size, each = operands[0].shape[:2]
        # (b, e, ...) -> (b * e, ...)
        operands = [a.reshape(size * each, *a.shape[2:]) for a in operands]
        result = _primitive().bind(*operands, wanted=wanted, form=form)
        return result.reshape(size, each, *result.shape[1:]), 0
    batched = 0 if dims[1] is None else 1
    name = _OPERANDS[wanted][batched]
    shared = _SHARED[frozenset((name, wanted))]
    size = operands[batched].shape[0]
    operands[batched] = _fold(operands[batched], *shared[name], form.groups)
    result = _primitive().bind(*operands, wanted=wanted, form=form)
    return _unfold(result, *shared[wanted], form.groups, size), 0


def _fold(a, axis, grouped, groups):
    """Fold the batch into an axis: (b, ..., g * c, ...) -> (..., g * b * c, ...)."""
    if not grouped:
        groups = 1
    batch, *shape = a.shape
    before, size, after = _split_shape(shape, axis)
    a = a.reshape(batch, *before, groups, size // groups, *after)
    a = jnp.moveaxis(a, 0, len(before) + 1)
    return a.reshape(*before, batch * size, *after)


def _unfold(a, axis, grouped, groups, batch):
    """Undo `_fold`: (..., g * b * c, ...) -> (b, ..., g * c, ...)."""
    if not grouped:
        groups = 1
    before, size, after = _split_shape(a.shape, axis)
    a = a.reshape(*before, groups, batch, size // (groups * batch), *after)
    a = jnp.moveaxis(a, len(before) + 1, 0)
    return a.reshape(batch, *before, size // batch, *after)


def _split_shape(shape, axis):
    """Return the sizes before an axis, its own size, and the sizes after it."""
    axis %= len(shape)
    return shape[:axis], shape[axis], shape[axis + 1 :]


def _lower_for_cpu(ctx, a, b, *, wanted, form):
    """Return the kernels in C if they run, else XLA's form."""
    alone = on_one_device(ctx.module_context)
    in_c = alone and native.supports(*ctx.avals_in, wanted=wanted, form=form)
    run = native.convolution if in_c else cpu
    lower: Any = mlir.lower_fun(run, multiple_results=False)
    return lower(ctx, a, b, wanted=wanted, form=form)
