"""Convolutions in C for CPU, several times faster than XLA's in training."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.ops.native import instructions

TARGET = "jaxnet_conv"

FAR = 10_000  # largest number of zeros on one side of the input, since they are written to memory

KINDS = "yxw"  # in the order in which the library numbers them


def supports(a, b, *, wanted: str, form) -> bool:
    """Return whether the library computes this, and faster than XLA.

    Args:
      a, b, wanted, form: Arguments of `jaxnet.ops.convolution_lowering.cpu`.

    Example:
      >>> from jaxnet.ops.convolution_lowering import Form
      >>> form = Form((1,), ((0, 0),), (1,), (1,), 1, inputs=(3,), window=(2,))
      >>> x = jnp.ones((1, 1, 3, 1))
      >>> supports(x.astype(int), x, wanted="y", form=form)
      False
    """
    sizes = (*a.shape, *b.shape)
    if len(form.window) > 2 or a.dtype != jnp.float32 or b.dtype != jnp.float32:
        return False
    if not all(isinstance(size, int) and 0 < size < 2**31 for size in sizes):
        return False
    if wanted == "w" and max(form.input_dilation) > 1:
        return False
    far = [abs(n) for pair in form.padding for n in pair]
    far += [k * d for k, d in zip(form.window, form.dilation, strict=True)]
    if max(far) > FAR:
        return False
    if form.groups == 1 and math.prod(form.window) == 1:  # XLA computes it as a matrix product
        return False
    return instructions() is not None


def convolution(a: jax.Array, b: jax.Array, *, wanted: str, form) -> jax.Array:
    """Return the wanted array from the other two, by the library.

    Args:
      a, b, wanted, form: Arguments of `jaxnet.ops.convolution_lowering.cpu`.

    Example:
      >>> from jaxnet.ops.convolution_lowering import Form
      >>> form = Form((1,), ((0, 0),), (1,), (1,), 1, inputs=(3,), window=(2,))
      >>> x, w = jnp.arange(3.0).reshape(1, 1, 3, 1), jnp.ones((1, 2, 1, 1))
      >>> convolution(x, w, wanted="y", form=form).ravel()  # doctest: +SKIP
      Array([1., 3.], dtype=float32)
    """
    line = len(form.window) == 1  # is an image of one row
    before = tuple(low for low, _ in form.padding)
    axes = [
        (usual, *numbers) if line else numbers
        for numbers, usual in (
            (form.strides, 1), (form.dilation, 1), (before, 0), (form.input_dilation, 1),
        )
    ]  # fmt: skip
    numbers = [KINDS.index(wanted), form.groups, *(n for pair in axes for n in pair)]
    shape = form.result(a.shape, b.shape, wanted)

    def image(shape, is_kernel):
        at = 1 if is_kernel else 2
        return (*shape[:at], 1, *shape[at:]) if line else shape

    a = a.reshape(image(a.shape, wanted == "x"))
    b = b.reshape(image(b.shape, wanted == "y"))
    result = jax.ShapeDtypeStruct(image(shape, wanted == "w"), jnp.float32)
    call = jax.ffi.ffi_call(TARGET, result)
    found = call(a, b, form=np.array(numbers, np.int64)).reshape(shape)
    if wanted != "x":
        return found
    for axis, seen in enumerate(_read(form), 2):  # the library multiplies zeros by the kernel there
        if not seen.all():
            seen = seen.reshape((-1,) + (1,) * (found.ndim - axis - 1))
            found = jnp.where(np.broadcast_to(seen, found.shape), found, 0)
    return found


def _read(form) -> list[np.ndarray]:
    """Return by axis which entries of x an output depends on."""
    masks = []
    for i, n in enumerate(form.inputs):
        tap = np.arange(form.window[i]) * form.dilation[i] - form.padding[i][0]
        at = np.add.outer(np.arange(form.outputs[i]) * form.strides[i], tap)
        masks.append(np.isin(np.arange(n) * form.input_dilation[i], at))
    return masks
