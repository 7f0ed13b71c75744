"""How the convolution primitive runs: JAX's own form on accelerators, XLA's fast form on CPU.

Each function computes the convolution ("y") or one of its two gradients ("x", "w") from the other
two operands; see `jaxnet.ops.convolution`.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.ops.precision import lifted
from jaxnet.ops.window import Pairs, padded, taps


class Form(NamedTuple):
    """Static description of a convolution, except for the sizes of batch and features.

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
    precision: str | None = None  # of products, JAX's default where the convolution was traced

    def room(self) -> tuple[int, ...]:
        """Return the number of positions of the window at stride 1, per axis."""
        x = _dilated(self.inputs, self.input_dilation)
        window = _dilated(self.window, self.dilation)
        axes = zip(x, self.padding, window, strict=True)
        return tuple(size + sum(pad) - span + 1 for size, pad, span in axes)

    @property
    def outputs(self) -> tuple[int, ...]:
        """Spatial sizes of y."""
        axes = zip(self.room(), self.strides, strict=True)
        return tuple(-(-room // stride) for room, stride in axes)

    def reach(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield the sizes of x, y and window with their gaps, and the zeros before x, by axis."""
        x = _dilated(self.inputs, self.input_dilation)
        y = _dilated(self.outputs, self.strides)
        window = _dilated(self.window, self.dilation)
        before = [low for low, _ in self.padding]
        yield from zip(x, y, window, before, strict=True)

    def result(self, a: tuple[int, ...], b: tuple[int, ...], wanted: str) -> tuple[int, ...]:
        """Return the wanted array's shape from the other two shapes, each with a leading axis e."""
        if wanted == "y":
            return (*a[:2], *self.outputs, b[-1])
        if wanted == "x":
            return (*b[:2], *self.inputs, a[-2] * self.groups)
        inputs = a[-1] // self.groups
        return (a[0], *self.window, inputs, b[-1])


def of_rows(rows: tuple[int, ...]) -> Form:
    """Return the form of a matrix product: a window of one entry, over the rows.

    Args:
      rows: Number of rows, in a tuple.

    Example:
      >>> of_rows((7,)).outputs
      (7,)
    """
    once = (1,)
    return Form(once, ((0, 0),), once, once, 1, rows, window=once)


def _dilated(sizes, dilation) -> tuple[int, ...]:
    return tuple((size - 1) * apart + 1 for size, apart in zip(sizes, dilation, strict=True))


# On GPU and TPU: JAX's own forms, which their compilers recognize.


def _lax_convolution(x, w, form):
    if form == of_rows(form.inputs):
        return x @ w[0]
    *space, last = range(1, x.ndim)
    image = (0, last, *space)
    kernel = (last, last - 1, *(axis - 1 for axis in space))
    return lax.conv_general_dilated(
        x,
        w,
        form.strides,
        form.padding,
        form.input_dilation,
        form.dilation,
        dimension_numbers=lax.ConvDimensionNumbers(image, kernel, image),
        feature_group_count=form.groups,
        precision=form.precision,
    )


def accelerator(a: jax.Array, b: jax.Array, *, wanted: str, form: Form) -> jax.Array:
    """Return the wanted array from the other two, by `lax.conv_general_dilated` and its transposes.

    Args:
      a, b: Two operands among x, w, y, in this order, each with a leading axis e.
      wanted: Name of the wanted array, "x", "w" or "y".
      form: Description of the convolution.

    Example:
      >>> form = Form((1,), ((0, 0),), (1,), (1,), 1, inputs=(3,), window=(2,))
      >>> w, y = jnp.array([1.0, 5.0]).reshape(1, 2, 1, 1), jnp.ones((1, 1, 2, 1))
      >>> accelerator(w, y, wanted="x", form=form).ravel()
      Array([1., 6., 5.], dtype=float32)
    """
    one = partial(_lax_convolution, form=form)

    def forward(x, w):
        if len(x) == 1:
            return one(x[0], w[0])[None]
        return jax.vmap(one)(x, w)

    if wanted == "y":
        return forward(a, b)

    def of_unknown(unknown):
        return forward(unknown, a) if wanted == "x" else forward(a, unknown)

    # Transposes of the mapped convolution, as JAX derives them. For several convolutions at once,
    # XLA maps these to fast algorithms of cuDNN, and the mapped transpose to slower ones.
    unknown = jax.ShapeDtypeStruct(form.result(a.shape, b.shape, wanted), a.dtype)
    (result,) = jax.linear_transpose(of_unknown, unknown)(b)
    return result


# The forms on CPU, for convolutions that the kernels in C do not support. All three are
# convolutions in XLA's one fast form, even inside loops. Independent convolutions run in a loop,
# which is several times faster than one grouped convolution.


def cpu(a: jax.Array, b: jax.Array, *, wanted: str, form: Form) -> jax.Array:
    """Return the wanted array from the other two, in the forms that XLA runs fast on CPU.

    Args:
      a, b: Two operands among x, w, y, in this order, each with a leading axis e.
      wanted: Name of the wanted array, "x", "w" or "y".
      form: Description of the convolution.

    Example:
      >>> form = Form((1,), ((0, 0),), (1,), (1,), 1, inputs=(3,), window=(2,))
      >>> x, w = jnp.arange(3.0).reshape(1, 1, 3, 1), jnp.ones((1, 2, 1, 1))
      >>> cpu(x, w, wanted="y", form=form).ravel()
      Array([1., 3.], dtype=float32)
    """
    compute = {"y": _forward, "x": _input_gradient, "w": _kernel_gradient}[wanted]
    both = lifted(a), lifted(b)  # XLA takes half again as long for 16 bits
    if len(a) == 1:
        y = compute(both[0][0], both[1][0], form)[None]
    else:
        y = lax.map(lambda pair: compute(*pair, form), both)
    return y.astype(a.dtype)


def _forward(x, w, form):
    if math.prod(form.window) == 1 and form.groups == 1:
        return _pointwise(x, w, form)
    return _canonical(x, w, form)


def _canonical(x, w, form):
    """Return a convolution that XLA leaves unchanged.

    If the window has more entries than the input, XLA swaps the two and reverses one, which is
    slow inside loops. Here the zeros become part of the input, and a barrier keeps them there.
    """
    if math.prod(form.window) > math.prod(form.inputs):
        x = lax.optimization_barrier(padded(x, form.padding, form.input_dilation))
        axes = len(form.window)
        form = form._replace(
            padding=((0, 0),) * axes,
            input_dilation=(1,) * axes,
            inputs=x.shape[1:-1],
        )
    return _lax_convolution(x, w, form)


def _pointwise(x, w, form):
    """Convolve with a window of one entry by a matrix product.

    The gradient of the kernel is several times faster as a product than as a convolution.
    """
    w = w.reshape(w.shape[-2:])
    if max(form.input_dilation) > 1:
        # Zeros are inserted after the product, so they are not multiplied.
        (y,) = _seen(x @ w, form)
        return y
    (x,) = _seen(x, form)
    return x @ w


def _input_gradient(w, y, form):
    """Return y, dilated by the strides, convolved with the reversed kernel."""
    axes = len(form.window)
    groups = form.groups
    features = w.shape[-1] // groups
    w = jnp.flip(w, range(axes))
    w = w.reshape(*form.window, -1, groups, features)
    w = jnp.swapaxes(w, -1, -3)
    w = w.reshape(*form.window, features, -1)  # (*window, o / g, i)
    # Adds zeros after y, until the result has the size of x.
    padding = tuple((span - 1 - low, x - y + low) for x, y, span, low in form.reach())
    transposed = form._replace(
        padding=padding,
        inputs=form.outputs,
        strides=form.input_dilation,
        input_dilation=form.strides,
    )
    return _forward(y, w, transposed)


def _kernel_gradient(x, y, form):
    if form.groups > 1:
        return _shifted_products(x, y, form)
    if math.prod(form.window) > 1:
        return _as_convolution(x, y, form)
    (seen,) = _seen(x, form)
    seen = seen.reshape(-1, x.shape[-1])
    y = y.reshape(-1, y.shape[-1])
    over_rows = ((0,), (0,)), ((), ())
    gradient = lax.dot_general(seen, y, over_rows)
    return gradient.reshape(*form.window, *gradient.shape)


def _as_convolution(x, y, form):
    """Convolve x with y as the kernel, which sums over the batch; the inputs act as batch."""
    # Adds zeros after x, until the result has the size of the window; negative numbers crop.
    padding = tuple((low, y + span - 1 - x - low) for x, y, span, low in form.reach())
    transposed = form._replace(
        padding=padding,
        window=form.outputs,
        strides=form.dilation,
        dilation=form.strides,
    )
    x = jnp.swapaxes(x, 0, -1)  # (i, *space, n)
    y = jnp.moveaxis(y, 0, -2)  # (*space, n, o)
    w = _canonical(x, y, transposed)  # (i, *window, o)
    return jnp.moveaxis(w, 0, -2)


def _seen(x, form):
    return taps(x, form.window, form.strides, form.padding, form.dilation, form.input_dilation)


def _shifted_products(x, y, form):
    """Return one matrix product per tap of the kernel, in groups."""
    groups = form.groups
    inputs = x.shape[-1] // groups
    features = y.shape[-1]
    y = y.reshape(*y.shape[:-1], groups, features // groups)
    products = []
    for tap in _seen(x, form):
        tap = tap.reshape(*tap.shape[:-1], groups, inputs)
        products.append(jnp.einsum("n...gi,n...go->igo", tap, y))
    return jnp.stack(products).reshape(*form.window, inputs, features)
