"""How the convolution primitive runs: JAX's own form on accelerators, XLA's fast form on CPU.

Each function computes the convolution ("y") or one of its two gradients ("x", "w") from the other
two operands; see `jaxnet.ops.convolution`.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.ops.window import taps, zero_padded

Pairs = tuple[tuple[int, int], ...]


class Form(NamedTuple):
    """Static description of a convolution, all but the sizes of batch and features.

    Example:
      >>> Form((2,), ((1, 1),), (1,), (1,), 1, inputs=(7,), window=(3,)).outputs
      (4,)
    """

    strides: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    input_dilation: tuple[int, ...]
    groups: int
    inputs: tuple[int, ...]  # spatial sizes of x
    window: tuple[int, ...]  # spatial sizes of the kernel

    def room(self) -> tuple[int, ...]:
        """Number of positions of the window at stride 1, per axis."""
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

    def result(self, a: tuple[int, ...], b: tuple[int, ...], wanted: str) -> tuple[int, ...]:
        """Shape of the wanted array from those of the other two, each with a leading axis e."""
        if wanted == "y":
            return (*a[:2], *self.outputs, b[-1])
        if wanted == "x":
            return (*b[:2], *self.inputs, a[-2] * self.groups)
        return (a[0], *self.window, a[-1] // self.groups, b[-1])


def _dilated(sizes, dilation) -> tuple[int, ...]:
    return tuple((n - 1) * d + 1 for n, d in zip(sizes, dilation, strict=True))


# On GPU and TPU: JAX's own forms, which their compilers recognize.


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


def accelerator(a: jax.Array, b: jax.Array, *, wanted: str, form: Form) -> jax.Array:
    """The wanted array from the other two, by `lax.conv_general_dilated` and its transposes.

    Args:
      a, b: the two operands among x, w, y, in this order, each with a leading axis e.
      wanted: "x", "w" or "y".
      form: the convolution.

    Example:
      >>> form = Form((1,), ((0, 0),), (1,), (1,), 1, inputs=(3,), window=(2,))
      >>> w, y = jnp.array([1.0, 5.0]).reshape(1, 2, 1, 1), jnp.ones((1, 1, 2, 1))
      >>> accelerator(w, y, wanted="x", form=form).ravel()
      Array([1., 6., 5.], dtype=float32)
    """

    # Transposes of the mapped convolution, as JAX has them: for several convolutions at once, XLA
    # finds cuDNN's fast forms for these, and slower ones for the mapped transpose.
    alone = len(a) == 1

    def forward(x, w):
        return (
            _plain(x[0], w[0], form)[None] if alone else jax.vmap(partial(_plain, form=form))(x, w)
        )

    if wanted == "y":
        return forward(a, b)
    unknown = jax.ShapeDtypeStruct(form.result(a.shape, b.shape, wanted), a.dtype)
    known = (lambda x: forward(x, a)) if wanted == "x" else (lambda w: forward(a, w))
    return jax.linear_transpose(known, unknown)(b)[0]


# On CPU: all three as convolutions in XLA's one fast form, inside loops too, except for a few
# shapes. The figures are milliseconds of processor time per convolution in float32 (jax 0.10.2,
# medians of interleaved rounds). Tried and not faster: im2col, shifted matrix products and
# Winograd's 2x2 tiles for windows of 3x3; for the gradient of the kernel, one product of x shifted
# along columns and y along rows. Independent convolutions run in a loop: 64 of 5x5, 1 to 6
# features, took 12 ms in a loop, 68 as one grouped convolution and 148 by im2col.


def cpu(a: jax.Array, b: jax.Array, *, wanted: str, form: Form) -> jax.Array:
    """The wanted array from the other two, in the forms that XLA runs fast on CPU.

    Args:
      a, b: the two operands among x, w, y, in this order, each with a leading axis e.
      wanted: "x", "w" or "y".
      form: the convolution.

    Example:
      >>> form = Form((1,), ((0, 0),), (1,), (1,), 1, inputs=(3,), window=(2,))
      >>> x, w = jnp.arange(3.0).reshape(1, 1, 3, 1), jnp.ones((1, 2, 1, 1))
      >>> cpu(x, w, wanted="y", form=form).ravel()
      Array([1., 3.], dtype=float32)
    """
    one = partial({"y": _forward, "x": _input_gradient, "w": _kernel_gradient}[wanted], form=form)
    return one(a[0], b[0])[None] if len(a) == 1 else lax.map(lambda ab: one(*ab), (a, b))


def _forward(x, w, form):
    if math.prod(form.window) == 1 and form.groups == 1:
        return _pointwise(x, w, form)
    blocks = _blocks(w, form)
    return _canonical(x, w, form) if blocks == 1 else _blocked(x, w, form, blocks)


def _canonical(x, w, form):
    """A convolution that XLA leaves unchanged.

    Where the window has more entries than the input, XLA swaps the two and reverses one, which is
    slow inside loops. Here the zeros become part of the input, and a barrier keeps them there.
    """
    if math.prod(form.window) > math.prod(form.inputs):
        x = lax.optimization_barrier(zero_padded(x, form.padding, form.input_dilation))
        none = tuple((0, 0) for _ in form.window)
        form = form._replace(padding=none, input_dilation=(1,) * len(none), inputs=x.shape[1:-1])
    return _plain(x, w, form)


def _pointwise(x, w, form):
    """A window of one entry as a matrix product.

    Gradient of the kernel, as a convolution and as a product: 16 to 32 features, 32x32, strides 2,
    batch 64: 1.62 and 0.37; 32 to 64, 16x16, strides 1: 3.29 and 0.91.
    """
    w = w.reshape(w.shape[-2:])
    place = partial(
        taps,
        window=form.window,
        strides=form.strides,
        padding=form.padding,
        input_dilation=form.input_dilation,
    )
    if max(form.input_dilation) > 1:  # zeros are inserted after the product: none are multiplied
        return next(place(x @ w))
    return next(place(x)) @ w


def _blocks(w, form) -> int:
    """Number of neighbouring outputs to compute together, for wide enough matrix products."""
    inputs, features = w.shape[-2:]
    plain = max(*form.strides, *form.dilation, *form.input_dilation, form.groups) == 1
    # 3x3, 32 to 16 features, 16x16, batch 64: 0.96 without blocks, 1.10 in blocks of 2.
    if not plain or inputs > 16 or features > 16:
        return 1
    # 5x5, 1 to 6, 28x28, batch 128: 4.69 without, 2.93 in 2, 0.83 in 4, 0.83 in 7.
    # 3x3, 3 to 16, 32x32, batch 64: 2.59 without, 2.76 in 2, 0.66 in 4, 1.41 in 8.
    # 5x5, 16 to 6 (gradient), 14x14, batch 128: 3.48 without, 2.15 in 2, 2.13 in 4.
    if features <= 8 or inputs <= 3:
        return min(4, form.outputs[-1])
    # 5x5, 6 to 16, 14x14, batch 128: 1.01 without, 0.50 in 2, 0.62 in 4.
    # 3x3, 16 to 16, 32x32, batch 64: 3.38 without, 2.56 in 2, of processor time; but in wall clock
    # a step of ResNet-20 took 184 without, 193 in 2.
    return min(2, form.outputs[-1]) if inputs <= 8 else 1


def _blocked(x, w, form, blocks):
    """`blocks` neighbours along the last axis as features: a wider kernel with strides."""
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
    """y, dilated by the strides, convolved with the reversed kernel."""
    axes, g = len(form.window), form.groups
    w = jnp.flip(w, range(axes)).reshape(*form.window, -1, g, w.shape[-1] // g)
    w = jnp.swapaxes(w, -1, -3).reshape(*form.window, y.shape[-1] // g, -1)  # (*window, o / g, i)
    spans = _dilated(form.window, form.dilation)
    before = [span - 1 - low for span, (low, _) in zip(spans, form.padding, strict=True)]
    # Zeros after y, until the result has the size of x.
    sizes = zip(
        _dilated(form.inputs, form.input_dilation),
        _dilated(form.outputs, form.strides),
        spans,
        before,
        strict=True,
    )
    padding = tuple((low, x + span - 1 - y - low) for x, y, span, low in sizes)
    transposed = Form(
        strides=form.input_dilation,
        padding=padding,
        dilation=form.dilation,
        input_dilation=form.strides,
        groups=g,
        inputs=form.outputs,
        window=form.window,
    )
    return _forward(y, w, transposed)


# Bytes of y in a piece: y is the kernel of the convolution, and should stay in a core's cache.
PIECE, PIECES = 512 * 1024, 8


def _kernel_gradient(x, y, form):
    """Matrix products, or a convolution, in pieces of the batch where that is faster.

    Figures are wall-clock ms per float32 gradient on two cores, with memory reused.
    """
    axes, inputs, features = len(form.window), x.shape[-1], y.shape[-1]
    if form.groups > 1:
        return _shifted_products(x, y, form)
    if math.prod(form.window) == 1:
        (seen,) = _seen(x, form)
        return _product(seen, y).reshape(*form.window, inputs, features)
    # Whole, by rows and in pieces; batch 64, 3x3: 16 to 16 features, 32x32: 14.8, 13.5 and 5.9;
    # 32 to 32, 16x16: 9.6, 6.4 and 5.2; 64 to 64, 8x8: 5.3, 5.4 and 3.1; 16 to 32, strides 2,
    # 32x32: 8.7, 7.2 and 3.9. 5x5, batch 128: 1 to 6, 28x28: 4.4, 5.1 and 1.8; 6 to 16, 14x14:
    # 3.5, 3.1 and 1.4. 11x11, 3 to 96, strides 4, 227x227, batch 16: 144, 59 and 39.
    # Not with many inputs for few features: 5x5, 32 to 16, 28x28, batch 32: 11.3 and 13.8 in
    # pieces; 3x3, 32 to 8: 5.1 whole, 4.1 by rows and 13.5 in pieces.
    few = inputs <= 16 or (features > 8 and math.prod(form.window) <= 9)
    known = all(isinstance(size, int) for size in y.shape)  # an exported batch size is open
    if axes == 2 and features <= 128 and few and known:
        return _in_pieces(x, y, form)
    if max(form.input_dilation) == 1 and axes > 1:
        # 3x3x3, 16 to 32 features, 16x28x28, batch 4: 32 by rows of x, 123 whole.
        if axes > 2 or max(form.strides) > 1:
            return _products_by_rows(x, y, form)
        # 3x3, 512 to 512, 14x14, batch 16: 120 by rows of y, 140 whole, 154 in pieces.
        if features <= inputs and form.window[-1] <= 3:
            w = _products_by_rows(y, x, _with_y_shifted(form))
            return jnp.swapaxes(jnp.flip(w, range(axes)), -1, -2)
    return _as_convolution(x, y, form)


def _in_pieces(x, y, form):
    """The sum over pieces of the batch, of at most `PIECE` bytes of y, in at most `PIECES`.

    A piece has at least eight examples where there are few features: they are the inputs of the
    convolution, read eight at a time (16 to 16, 32x32: 5.9 in eights, 11.6 in fours).
    """
    examples, features = len(y), y.shape[-1]
    size = max(PIECE // (y[0].size * y.dtype.itemsize), 8 if features <= 16 else 1)
    size = max(1 << size.bit_length() - 1, 1 << (-(-examples // PIECES) - 1).bit_length())
    if examples % size or examples == size:
        pieces = [slice(start, start + size) for start in range(0, examples, size)]
        return sum(_as_convolution(x[piece], y[piece], form) for piece in pieces)

    # Sliced inside the loop: XLA would compute what leads to x and y once more for other slices of
    # them, and in the order of a transposed copy, which is slow. ResNet-20: 1,210 of 1,560 MB.
    def add(total, start):
        x_, y_ = (lax.dynamic_slice_in_dim(a, start, size) for a in (x, y))
        return total + _as_convolution(x_, y_, form), None

    # A loop compiles two pieces in place of eight. ResNet-20: the first step 3.7 s in place of 5.2,
    # the others 1 to 3% slower; one piece per turn: 5 to 8%. But XLA unrolls a loop of one turn.
    zero = jnp.zeros((*form.window, x.shape[-1], features), jnp.result_type(x, y))
    starts = np.arange(0, examples, size)
    return lax.scan(add, zero, starts, unroll=2 if len(starts) > 2 else 1)[0]


def _as_convolution(x, y, form):
    """x convolved with y as the kernel: sums over the batch, with the inputs as the batch."""
    # Zeros after x, until the result has the size of the window; negative numbers crop.
    sizes = zip(
        _dilated(form.inputs, form.input_dilation),
        _dilated(form.outputs, form.strides),
        _dilated(form.window, form.dilation),
        form.padding,
        strict=True,
    )
    padding = tuple((low, y + window - 1 - x - low) for x, y, window, (low, _) in sizes)
    transposed = Form(
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
    """One matrix product per row of the window, whose last axis is laid out as features."""
    *rows, last = form.window
    along = form._replace(
        window=(*(1 for _ in rows), last), strides=(*(1 for _ in rows), form.strides[-1])
    )
    wide = jnp.concatenate(list(_seen(x, along)), -1)  # (n, *padded, outputs, last * i)
    none = ((0, 0),) * len(form.window)
    products = [
        _product(row, y)
        for row in taps(wide, (*rows, 1), (*form.strides[:-1], 1), none, (*form.dilation[:-1], 1))
    ]
    return jnp.stack(products).reshape(*form.window, x.shape[-1], y.shape[-1])


def _product(x, y):
    """The sum over all axes but the last of the products of x and y, (i, o)."""
    x, y = (a.reshape(-1, a.shape[-1]) for a in (x, y))
    return lax.dot_general(x, y, (((0,), (0,)), ((), ())))


def _seen(x, form):
    return taps(x, form.window, form.strides, form.padding, form.dilation, form.input_dilation)


def _with_y_shifted(form):
    """The same sum with y shifted, y[q - k + low], in place of x, x[p + k - low]; strides of 1."""
    spans = _dilated(form.window, form.dilation)
    sizes = zip(spans, form.padding, form.inputs, form.outputs, strict=True)
    padding = tuple((span - 1 - low, x + low - y) for span, (low, _), x, y in sizes)
    return form._replace(inputs=form.outputs, padding=padding)


def _shifted_products(x, y, form):
    """One matrix product per tap of the kernel, in groups."""
    g = form.groups
    inputs, features = x.shape[-1] // g, y.shape[-1]
    y = y.reshape(*y.shape[:-1], g, features // g)
    products = [
        jnp.einsum("n...gi,n...go->igo", tap.reshape(*tap.shape[:-1], g, inputs), y)
        for tap in _seen(x, form)
    ]
    return jnp.stack(products).reshape(*form.window, inputs, features)
