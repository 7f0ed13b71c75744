"""Convolutions in C for CPU, several times faster than XLA's in training.

Arrays of 16 bits are computed in float32 and rounded once. Where the processor multiplies bfloat16
(AVX512-BF16), it reads them as they are, and matrix products of many rows run here too: twice as
fast as in float32. Sums are float32 all the same, but numbers below 2**-126 count as 0.
"""

import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.ops.native import compute, countable, instructions

TARGET = "jaxnet_conv"

FAR = 10_000  # largest number of zeros on one side of the input, since they are written to memory

OVERHEAD = 100  # tiles, see `_tile`

WIDE = 2**18  # fewest products of a pair of numbers in a matrix product that pays

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
    if a.dtype != b.dtype or a.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        return False
    if len(form.window) > 3 or not countable(a, b):
        return False
    if wanted == "w" and max(form.input_dilation) > 1:
        if max(form.strides) > 1:
            return False
        form = _mirrored(form)
    if _reach(form) > FAR:
        return False
    is_product = form.groups == math.prod(form.window) == 1
    if is_product and not (a.dtype == jnp.float32 and wanted == "w" and _sums_many(a, b)):
        return _in_words(a)  # XLA multiplies floats as fast
    return instructions() is not None


def _in_words(x, groups=1) -> bool:
    """Return whether the library multiplies words of two numbers of x."""
    return x.dtype == jnp.bfloat16 and groups == 1 and instructions() == "AVX-512-BF16"


def _reach(form) -> int:
    """Return the largest number of zeros on one side, or of entries that a window spans."""
    zeros = [abs(number) for pair in form.padding for number in pair]
    spans = [size * apart for size, apart in zip(form.window, form.dilation, strict=True)]
    return max(zeros + spans)


def _sums_many(x, y) -> bool:
    """Return whether a kernel's gradient is a sum over many rows, of more than a few inputs."""
    features = y.shape[-1]
    return y.size >= 64 * features and x.shape[-1] >= min(64, features)


def is_wide(x: jax.Array, kernel: jax.Array) -> bool:
    """Return whether a product of two matrices is faster as a convolution than as XLA's product.

    It is for many numbers of 16 bits: the library multiplies words of two, or XLA does in float32.

    Example:
      >>> is_wide(jnp.ones((512, 512)), jnp.ones((512, 512)))  # float32
      False
    """
    halves = x.dtype == kernel.dtype and x.dtype in (jnp.bfloat16, jnp.float16)
    if not halves or not countable(x, kernel) or jax.default_backend() != "cpu":
        return False
    return x.shape[0] * kernel.size >= WIDE


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
    dtype = a.dtype
    words = _in_words(a, form.groups)
    tile = 0
    if dtype != jnp.float16:
        tile = _tile(a.shape, b.shape, wanted, form, words)
    if tile:
        return _winograd(a, b, wanted, form, tile)
    if dtype != jnp.float32 and not words:
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        return convolution(a, b, wanted=wanted, form=form).astype(dtype)
    if wanted == "w" and max(form.input_dilation) > 1:
        result = convolution(b, a, wanted="w", form=_mirrored(form))
        result = _mirrored_kernel(result, form.groups)
        return result.reshape(form.result(a.shape, b.shape, "w"))
    result = _direct(a, b, wanted, form)
    if wanted == "x":
        result = _without_unread(result, form)
    return result


def _winograd(a, b, wanted, form, tile):
    """Return the wanted array by Winograd's algorithm, in tiles of this size."""
    dtype = a.dtype
    shape = form.result(a.shape, b.shape, wanted)
    # Kernels and their gradients are in float32.
    if wanted == "x":
        a = a.astype(jnp.float32)
    elif wanted == "y":
        b = b.astype(jnp.float32)
    of_result = "float32" if wanted == "w" else dtype
    before = [low for low, _ in form.padding]
    numbers = np.array([KINDS.index(wanted), tile, *before], np.int64)
    (result,) = compute("jaxnet_winograd", [shape], a, b, form=numbers, dtype=of_result)
    return result.astype(dtype)


def _direct(a, b, wanted, form):
    """Return the wanted array by direct convolution, in float32 or, if in words, in bfloat16."""
    axes = 3 - len(form.window)
    flat = (1,) * axes  # a line or image is a volume of one row or frame
    before = [low for low, _ in form.padding]
    numbers = [
        KINDS.index(wanted),
        form.groups,
        *flat, *form.strides,
        *flat, *form.dilation,
        *[0] * axes, *before,
        *flat, *form.input_dilation,
    ]  # fmt: skip

    def volume(shape, is_kernel):
        at = 1 if is_kernel else 2
        return (*shape[:at], *flat, *shape[at:])

    shape = form.result(a.shape, b.shape, wanted)
    a = a.reshape(volume(a.shape, wanted == "x"))
    b = b.reshape(volume(b.shape, wanted == "y"))
    shapes = [volume(shape, wanted == "w")]
    numbers = np.array(numbers, np.int64)
    (result,) = compute(TARGET, shapes, a, b, form=numbers, dtype=a.dtype)
    return result.reshape(shape)


def _without_unread(x, form):
    """Return the gradient of x with zeros where no output depends on x.

    There the library multiplies zeros by the kernel, which may not be finite.
    """
    for axis, seen in enumerate(_read(form), 2):
        if not seen.all():
            after = (1,) * (x.ndim - axis - 1)
            seen = np.broadcast_to(seen.reshape(-1, *after), x.shape)
            x = jnp.where(seen, x, 0)
    return x


def _tile(a, b, wanted, form, words) -> int:
    """Return how many rows of results Winograd's algorithm makes at once: 4, 2 or, if not used, 0.

    Its costs are counted in products of one pair of features. OVERHEAD tiles more stand for the
    transforms, above all of the weights. Direct convolution multiplies words of two pairs at once.
    """
    choice = os.environ.get("JAXNET_WINOGRAD", "1")
    if choice not in ("0", "1"):
        raise ValueError(f"JAXNET_WINOGRAD must be 0 or 1, got {choice!r}")
    inputs = a[-2 if wanted == "x" else -1]
    features = min(inputs, b[-1])
    off = choice == "0" or form.precision in ("highest", "float32")
    if off or features < 8 or not _in_tiles(form):
        return 0
    batch = (a if wanted == "y" else b)[1]
    sizes = form.inputs if wanted == "x" else form.outputs
    positions = batch * math.prod(form.outputs)
    direct = (0.8 if wanted == "w" else 1.05) * 9 * positions
    costs = {0: direct / 2 if words else direct}
    for size in (4, 2) if features >= 32 else (4,):
        tiles = batch * math.prod(-(-length // size) for length in sizes)
        costs[size] = (size + 2) ** 2 * (tiles + OVERHEAD)
    return min(costs, key=lambda size: costs[size])


def _in_tiles(form) -> bool:
    """Return whether Winograd's algorithm computes a convolution, if it has enough features."""
    steps = *form.strides, *form.dilation, *form.input_dilation, form.groups
    near = all(0 <= number <= 2 for pair in form.padding for number in pair)
    return form.window == (3, 3) and max(steps) == 1 and near


def _mirrored(form) -> Any:
    """Return the convolution of y with the reversed kernel, whose result is like x."""
    padding = []
    for size, apart, (low, _) in zip(form.window, form.dilation, form.padding, strict=True):
        zeros = (size - 1) * apart - low
        padding.append((zeros, zeros))
    return form._replace(
        padding=tuple(padding),
        inputs=form.outputs,
        strides=form.input_dilation,
        input_dilation=form.strides,
    )


def _mirrored_kernel(kernel, groups):
    """Return a kernel (e, *window, o / g, i), reversed, as (e, *window, i / g, o)."""
    *before, out, _ = kernel.shape
    kernel = jnp.flip(kernel, range(1, len(before)))
    kernel = kernel.reshape(*before, out, groups, -1)
    return jnp.swapaxes(kernel, -1, -3)


def _read(form) -> list[np.ndarray]:
    """Return by axis which entries of x an output depends on."""
    masks = []
    for axis, length in enumerate(form.inputs):
        low, _ = form.padding[axis]
        taps = np.arange(form.window[axis]) * form.dilation[axis] - low
        starts = np.arange(form.outputs[axis]) * form.strides[axis]
        read = np.add.outer(starts, taps)
        entries = np.arange(length) * form.input_dilation[axis]
        masks.append(np.isin(entries, read))
    return masks
