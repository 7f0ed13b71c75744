"""Convolution as one bilinear primitive, whose gradients stay fast inside loops.

XLA brings a convolution on CPU into its fast form (batch, space, features, no reversed window)
only outside of loops; the transposes that JAX derives are not in that form, so a training step
inside `lax.scan` runs some forty times slower [ResNet-20 in Flax, batch 64, 2 cores: 170 ms a step
by itself, 6,534 in a scan of two; `python -m experiments.benchmarks --workloads ResNet-20`]. Here
the transposes are written in the fast form from the start.

The idea: an input x, a kernel w and an output y make one number, linear in each of the three,

    T(x, w, y) = sum over n, p, k, i, o of  x[n, p * stride + k, i] * w[k, i, o] * y[n, p, o]

and its derivative by any one of them is a function of the other two. By y it is the convolution,
by x and by w its two gradients. So one primitive with the parameter `wanted` is closed under
transposition, and forward mode, reverse mode and their compositions come of themselves. Every
operand has a leading axis e of independent convolutions, usually of size 1, so that `vmap` over
both operands is closed too.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla

from jaxnet.ops.window import taps, zero_padded

Pairs = tuple[tuple[int, int], ...]


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: tuple[int, ...],
    padding: Pairs,
    dilation: tuple[int, ...] | None = None,
    input_dilation: tuple[int, ...] | None = None,
    groups: int = 1,
) -> jax.Array:
    """y[n, p, o] = sum over k, i of x[n, p * strides + k * dilation, i] * kernel[k, i, o].

    A correlation: the kernel is not reversed. Any number of spatial axes, from one. It is bilinear
    and goes through every transformation of JAX, to any order.

    Args:
      x: (batch, *space, inputs).
      kernel: (*window, inputs // groups, features).
      strides: steps of the window, one for each spatial axis.
      padding: (before, after) for each spatial axis, in entries of zeros; negative ones crop.
      dilation: distance between the taps of the kernel; 1 by default.
      input_dilation: distance between the entries of x, zeros between them; 1 by default.
      groups: input and output features are cut into as many groups, in order, and each group of
        outputs sees its group of inputs.

    Returns:
      (batch, *space, features), in the dtype to which x and kernel promote.

    Raises:
      ValueError: where shapes, axes or groups do not fit, or the window is larger than the input.

    Example:
      >>> x = jnp.arange(5.0).reshape(1, 5, 1)
      >>> kernel = jnp.array([1.0, 0.0, -1.0]).reshape(3, 1, 1)
      >>> convolve(x, kernel, strides=(2,), padding=((1, 1),)).ravel()
      Array([-1., -2.,  3.], dtype=float32)
    """
    axes = x.ndim - 2
    dilation = (1,) * axes if dilation is None else tuple(dilation)
    input_dilation = (1,) * axes if input_dilation is None else tuple(input_dilation)
    strides, padding = tuple(strides), tuple((low, high) for low, high in padding)
    if axes < 1 or kernel.ndim != x.ndim:
        raise ValueError(
            "convolve: needs x (batch, *space, inputs) and kernel (*window, inputs, features) with "
            f"as many axes, got {x.shape} and {kernel.shape}"
        )
    for word, value in (
        ("strides", strides),
        ("padding", padding),
        ("dilation", dilation),
        ("input_dilation", input_dilation),
    ):
        if len(value) != axes:
            raise ValueError(
                f"convolve: {word} needs {axes} entries, one a spatial axis, got {value}"
            )
    if min(strides + dilation + input_dilation) < 1 or groups < 1:
        raise ValueError(
            "convolve: strides, dilations and groups must be at least 1, got "
            f"strides={strides}, dilation={dilation}, input_dilation={input_dilation}, {groups=}"
        )
    inputs, per_group, features = x.shape[-1], kernel.shape[-2], kernel.shape[-1]
    if inputs != per_group * groups or features % groups:
        raise ValueError(
            f"convolve: {groups} groups need a kernel (*window, inputs / {groups}, a multiple of "
            f"{groups}), got {kernel.shape} for x of {x.shape}"
        )
    form = _Form(
        strides, padding, dilation, input_dilation, groups, x.shape[1:-1], kernel.shape[:-2]
    )
    if min(form.room()) < 1:
        raise ValueError(
            f"convolve: a window of {kernel.shape[:-2]} with dilation {dilation} does not fit into "
            f"an input of {x.shape[1:-1]} with padding {padding}; pad more, or use a smaller kernel"
        )

    def run(x, kernel):
        return convolution_p.bind(x[None], kernel[None], wanted="y", form=form)[0]

    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    x, kernel = jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)
    sharding = jax.typeof(x).sharding
    if sharding.mesh.explicit_axes:
        # On a mesh of explicit axes the compiler splits the work, and the batch stays split.
        batch = jax.sharding.PartitionSpec(*sharding.spec[:1])
        with jax.sharding.use_abstract_mesh(sharding.mesh):
            run_auto: Any = jax.sharding.auto_axes(run, out_sharding=batch)
            return run_auto(x, kernel)
    return run(_varying(x, kernel), _varying(kernel, x))


def _varying(a: jax.Array, other: jax.Array) -> jax.Array:
    """Inside shard_map: declares that `a` may vary where the other does, as JAX asks for."""
    axes = jax.typeof(other).manual_axis_type.varying - jax.typeof(a).manual_axis_type.varying
    return lax.pcast(a, tuple(axes), to="varying") if axes else a


class _Form(NamedTuple):
    """Everything about a convolution but the sizes of batch and features."""

    strides: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    input_dilation: tuple[int, ...]
    groups: int
    inputs: tuple[int, ...]  # spatial sizes of x
    window: tuple[int, ...]  # spatial sizes of the kernel

    def room(self) -> tuple[int, ...]:
        """Positions of the window at stride 1."""
        spans = zip(
            _dilated(self.inputs, self.input_dilation),
            self.padding,
            _dilated(self.window, self.dilation),
            strict=True,
        )
        return tuple(size + sum(pad) - window + 1 for size, pad, window in spans)

    @property
    def outputs(self) -> tuple[int, ...]:
        """Spatial sizes of y."""
        return tuple(-(-room // s) for room, s in zip(self.room(), self.strides, strict=True))


def _dilated(sizes, dilation) -> tuple[int, ...]:
    return tuple((n - 1) * d + 1 for n, d in zip(sizes, dilation, strict=True))


# The primitive: x, w, y in this order, without the wanted one.

convolution_p = Primitive("convolution")
convolution_p.def_impl(partial(xla.apply_primitive, convolution_p))

# The two operands, by the result that is wanted.
_OPERANDS = {"y": ("x", "w"), "x": ("w", "y"), "w": ("x", "y")}

# The axis that two of them share, in (e, n, *space, features) for x and y and in
# (e, *window, inputs // groups, features) for w; True where it is cut into groups.
_SHARED = {
    frozenset("xy"): {"x": (1, False), "y": (1, False)},  # batch
    frozenset("xw"): {"x": (-1, True), "w": (-2, False)},  # inputs
    frozenset("wy"): {"w": (-1, True), "y": (-1, True)},  # features
}


@convolution_p.def_abstract_eval
def _result(a, b, *, wanted, form):
    if wanted == "y":
        shape = (*a.shape[:2], *form.outputs, b.shape[-1])
    elif wanted == "x":
        shape = (*b.shape[:2], *form.inputs, a.shape[-2] * form.groups)
    else:
        shape = (a.shape[0], *form.window, a.shape[-1] // form.groups, b.shape[-1])
    return a.update(shape=shape, weak_type=False)


def _transpose(operand, cotangent, a, b, *, wanted, form):
    """The derivative of T by an operand that is not known."""
    known = {wanted: cotangent, _OPERANDS[wanted][1 - operand]: a if operand else b}
    target = _OPERANDS[wanted][operand]
    return convolution_p.bind(*(known[n] for n in _OPERANDS[target]), wanted=target, form=form)


ad.defbilinear(convolution_p, partial(_transpose, 0), partial(_transpose, 1))


def _batch(operands, dims, *, wanted, form):
    """Both batched: stacked along e. One: folded into the axis that it shares with the result."""
    operands = [
        a if dim is None else jnp.moveaxis(a, dim, 0) for a, dim in zip(operands, dims, strict=True)
    ]
    if None not in dims:
        size = operands[0].shape[0]
        operands = [a.reshape(-1, *a.shape[2:]) for a in operands]  # (b, e, ...) -> (b * e, ...)
        result = convolution_p.bind(*operands, wanted=wanted, form=form)
        return result.reshape(size, -1, *result.shape[1:]), 0
    batched = dims.index(None) ^ 1
    name = _OPERANDS[wanted][batched]
    shared = _SHARED[frozenset((name, wanted))]
    size = operands[batched].shape[0]
    operands[batched] = _fold(operands[batched], *shared[name], form.groups)
    result = convolution_p.bind(*operands, wanted=wanted, form=form)
    return _unfold(result, *shared[wanted], form.groups, size), 0


def _fold(a, axis, grouped, groups):
    """(b, ..., g * c, ...) -> (..., g * b * c, ...)."""
    g, axis = (groups if grouped else 1), axis % (a.ndim - 1)
    rest = a.shape[1:]
    a = a.reshape(a.shape[0], *rest[:axis], g, rest[axis] // g, *rest[axis + 1 :])
    return jnp.moveaxis(a, 0, axis + 1).reshape(*rest[:axis], -1, *rest[axis + 1 :])


def _unfold(a, axis, grouped, groups, size):
    """(..., g * b * c, ...) -> (b, ..., g * c, ...)."""
    g, axis, shape = (groups if grouped else 1), axis % a.ndim, a.shape
    a = a.reshape(*shape[:axis], g, size, shape[axis] // (g * size), *shape[axis + 1 :])
    return jnp.moveaxis(a, axis + 1, 0).reshape(
        size, *shape[:axis], shape[axis] // size, *shape[axis + 1 :]
    )


batching.primitive_batchers[convolution_p] = _batch


# How it runs. On GPU and TPU: as JAX does it, whose forms their compilers know.


def _plain(x, w, form):
    *space, last = range(1, x.ndim)
    features_last = lax.ConvDimensionNumbers(
        (0, last, *space), (last, last - 1, *(i - 1 for i in space)), (0, last, *space)
    )
    return lax.conv_general_dilated(
        x,
        w,
        form.strides,
        form.padding,
        form.input_dilation,
        form.dilation,
        features_last,
        form.groups,
    )


def _accelerator(a, b, *, wanted, form):
    def one(a, b):
        if wanted == "y":
            return _plain(a, b, form)
        if wanted == "x":
            x = jax.ShapeDtypeStruct((b.shape[0], *form.inputs, a.shape[-2] * form.groups), a.dtype)
            return jax.linear_transpose(lambda x: _plain(x, a, form), x)(b)[0]
        w = (*form.window, a.shape[-1] // form.groups, b.shape[-1])
        w = jax.ShapeDtypeStruct(w, a.dtype)
        return jax.linear_transpose(lambda w: _plain(a, w, form), w)(b)[0]

    return one(a[0], b[0])[None] if len(a) == 1 else jax.vmap(one)(a, b)


mlir.register_lowering(convolution_p, mlir.lower_fun(_accelerator, multiple_results=False))


# On CPU: all three as convolutions in the one form that XLA is fast at, also inside of loops, but
# for a few shapes. The figures are milliseconds of processor time for one convolution in float32
# (jax 0.10.2, medians of interleaved rounds). Tried and not faster: im2col, shifted products of
# matrices and Winograd's 2x2 tiles for windows of 3x3; blocks for the gradient of the kernel.
# Convolutions side by side run in a loop: 64 of 5x5, 1 to 6 features, took 12 ms that way,
# 68 as one grouped convolution and 148 by im2col.


def _cpu(a, b, *, wanted, form):
    one = partial({"y": _forward, "x": _input_gradient, "w": _kernel_gradient}[wanted], form=form)
    return one(a[0], b[0])[None] if len(a) == 1 else lax.map(lambda ab: one(*ab), (a, b))


def _forward(x, w, form):
    if math.prod(form.window) == 1 and form.groups == 1:
        return _pointwise(x, w, form)
    blocks = _blocks(w, form)
    return _canonical(x, w, form) if blocks == 1 else _blocked(x, w, form, blocks)


def _canonical(x, w, form):
    """A convolution that XLA leaves as it is.

    Where the window has more entries than the input, XLA exchanges the two and reverses one, and
    inside of loops that is slow. So zeros become part of the input, and a barrier keeps them there.
    """
    if math.prod(form.window) > math.prod(form.inputs):
        x = lax.optimization_barrier(zero_padded(x, form.padding, form.input_dilation))
        none = tuple((0, 0) for _ in form.window)
        form = form._replace(padding=none, input_dilation=(1,) * len(none), inputs=x.shape[1:-1])
    return _plain(x, w, form)


def _pointwise(x, w, form):
    """A window of one entry is a product of matrices.

    16 to 32 features, 32x32, strides 2, batch 64: kernel's gradient 1.62 as convolution, 0.37 so;
    32 to 64, 16x16, strides 1: 3.29 and 0.91.
    """
    w = w.reshape(w.shape[-2:])
    place = partial(
        taps,
        window=form.window,
        strides=form.strides,
        padding=form.padding,
        input_dilation=form.input_dilation,
    )
    if max(form.input_dilation) > 1:  # zeros come after the product, so that none are multiplied
        return next(place(x @ w))
    return next(place(x)) @ w


def _blocks(w, form) -> int:
    """How many neighbouring outputs to compute as one, so that a product has columns enough."""
    inputs, features = w.shape[-2:]
    plain = max(*form.strides, *form.dilation, *form.input_dilation, form.groups) == 1
    # 3x3, 32 to 16 features, 16x16, batch 64: 0.96 as it is, 1.10 by blocks of 2.
    if not plain or inputs > 16 or features > 16:
        return 1
    # 5x5, 1 to 6, 28x28, batch 128: 4.69 as it is, 2.93 by 2, 0.83 by 4, 0.83 by 7.
    # 3x3, 3 to 16, 32x32, batch 64: 2.59 as it is, 2.76 by 2, 0.66 by 4, 1.41 by 8.
    # 5x5, 16 to 6 (gradient), 14x14, batch 128: 3.48 as it is, 2.15 by 2, 2.13 by 4.
    if features <= 8 or inputs <= 3:
        return min(4, form.outputs[-1])
    # 5x5, 6 to 16, 14x14, batch 128: 1.01 as it is, 0.50 by 2, 0.62 by 4.
    # 3x3, 16 to 16, 32x32, batch 64: 3.38 as it is, 2.56 by 2 of processor time; but by the clock a
    # step of ResNet-20 took 184 as it is, 193 by 2.
    return min(2, form.outputs[-1]) if inputs <= 8 else 1


def _blocked(x, w, form, blocks):
    """`blocks` neighbours along the last axis become features: a wider kernel, and strides."""
    rest, features = w.shape[:-3], w.shape[-1]
    shifted = [
        jnp.pad(w, (*((0, 0),) * len(rest), (i, blocks - 1 - i), (0, 0), (0, 0)))
        for i in range(blocks)
    ]
    w = jnp.concatenate(shifted, -1)  # (*window + blocks - 1, inputs, blocks * features)
    outputs = form.outputs[-1]
    low, high = form.padding[-1]
    wide = form._replace(
        strides=(*form.strides[:-1], blocks),
        padding=(*form.padding[:-1], (low, high + -outputs % blocks)),
        window=w.shape[:-2],
    )
    y = _canonical(x, w, wide)  # (n, ..., outputs / blocks rounded up, blocks * features)
    y = y.reshape(*y.shape[:-2], y.shape[-2] * blocks, features)
    return lax.slice_in_dim(y, 0, outputs, axis=y.ndim - 2)


def _input_gradient(w, y, form):
    """y, spread out by the strides, convolved with the reversed kernel."""
    axes, g = len(form.window), form.groups
    w = jnp.flip(w, range(axes)).reshape(*form.window, -1, g, w.shape[-1] // g)
    w = jnp.swapaxes(w, -1, -3).reshape(*form.window, y.shape[-1] // g, -1)  # (*window, o / g, i)
    spans = _dilated(form.window, form.dilation)
    before = [span - 1 - low for span, (low, _) in zip(spans, form.padding, strict=True)]
    # As many zeros behind as make the result as large as x.
    sizes = zip(
        _dilated(form.inputs, form.input_dilation),
        _dilated(form.outputs, form.strides),
        spans,
        before,
        strict=True,
    )
    padding = tuple((low, x + span - 1 - y - low) for x, y, span, low in sizes)
    transposed = _Form(
        strides=form.input_dilation,
        padding=padding,
        dilation=form.dilation,
        input_dilation=form.strides,
        groups=g,
        inputs=form.outputs,
        window=form.window,
    )
    return _forward(y, w, transposed)


def _kernel_gradient(x, y, form):
    """Products of matrices or a convolution; milliseconds by the clock, for one float32 gradient.

    A whole step of ResNet-20, batch 64, takes 190 with convolutions and 163 with the products that
    are chosen here: the convolution wants both operands transposed, and XLA computes what comes
    before it once more in that order.
    """
    axes, inputs, features = len(form.window), x.shape[-1], y.shape[-1]
    if form.groups > 1 or math.prod(form.window) == 1:
        return _shifted_products(x, y, form)
    if max(form.input_dilation) == 1 and axes > 1:
        # 3x3x3, 16 to 32 features, 16x28x28, batch 4: 16 by rows of x, 48 as convolution.
        # 11x11, 3 to 96, strides 4, 227x227, batch 16: 26 and 36; 5x5, 6 to 16, 14x14, batch 128:
        # 1.0 and 1.2; 3x3, 16 to 32, strides 2, 32x32, batch 64: 1.8 and 2.7.
        if axes > 2 or max(form.strides) > 1 or inputs <= min(8, features):
            return _products_by_rows(x, y, form)
        # 3x3, 32 to 32, 16x16, batch 64: 2.1 by rows of y, 4.0; 32 to 8, 28x28, batch 32: 0.9, 2.1.
        # 5x5, 32 to 16, 28x28, batch 32: 7.1 and 4.0.
        if features <= inputs and form.window[-1] <= 3:
            w = _products_by_rows(y, x, _with_y_shifted(form))
            return jnp.swapaxes(jnp.flip(w, range(axes)), -1, -2)
    return _as_convolution(x, y, form)


def _as_convolution(x, y, form):
    """x convolved with y as the kernel: the batch is summed over, the inputs are the batch."""
    # As many zeros behind as make the result as large as the window; negative ones crop.
    sizes = zip(
        _dilated(form.inputs, form.input_dilation),
        _dilated(form.outputs, form.strides),
        _dilated(form.window, form.dilation),
        form.padding,
        strict=True,
    )
    padding = tuple((low, y + window - 1 - x - low) for x, y, window, (low, _) in sizes)
    transposed = _Form(
        strides=form.dilation,
        padding=padding,
        dilation=form.strides,
        input_dilation=form.input_dilation,
        groups=1,
        inputs=form.inputs,
        window=form.outputs,
    )
    x = jnp.swapaxes(x, 0, -1)  # (i, *space, n)
    y = jnp.moveaxis(y, 0, -2)  # (*space, n, o)
    return jnp.moveaxis(_canonical(x, y, transposed), 0, -2)  # (i, *window, o) -> (*window, i, o)


def _products_by_rows(x, y, form):
    """The last axis of the window is laid out as features, for one product for each row of it."""
    *rows, last = form.window
    along = form._replace(
        window=(*(1 for _ in rows), last), strides=(*(1 for _ in rows), form.strides[-1])
    )
    wide = jnp.concatenate(list(_seen(x, along)), -1)  # (n, *padded, outputs, last * i)
    none = ((0, 0),) * len(form.window)
    y = y.reshape(-1, y.shape[-1])
    products = [
        lax.dot_general(row.reshape(y.shape[0], -1), y, (((0,), (0,)), ((), ())))
        for row in taps(wide, (*rows, 1), (*form.strides[:-1], 1), none, (*form.dilation[:-1], 1))
    ]
    return jnp.stack(products).reshape(*form.window, x.shape[-1], -1)


def _seen(x, form):
    return taps(x, form.window, form.strides, form.padding, form.dilation, form.input_dilation)


def _with_y_shifted(form):
    """The same sum with x in place: y[q - k + low] instead of x[p + k - low], without strides."""
    spans = _dilated(form.window, form.dilation)
    sizes = zip(spans, form.padding, form.inputs, form.outputs, strict=True)
    padding = tuple((span - 1 - low, x + low - y) for span, (low, _), x, y in sizes)
    return form._replace(inputs=form.outputs, padding=padding)


def _shifted_products(x, y, form):
    """One product of matrices for each tap of the kernel, by groups."""
    g = form.groups
    y = y.reshape(*y.shape[:-1], g, -1)
    products = [
        jnp.einsum("n...gi,n...go->igo", tap.reshape(*tap.shape[:-1], g, -1), y)
        for tap in _seen(x, form)
    ]
    return jnp.stack(products).reshape(*form.window, x.shape[-1] // g, -1)


mlir.register_lowering(convolution_p, mlir.lower_fun(_cpu, multiple_results=False), platform="cpu")
