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
    floats = a.dtype == b.dtype and a.dtype in (jnp.float32, jnp.bfloat16, jnp.float16)
    if len(form.window) > 3 or not floats or not countable(a, b):
        return False
    if wanted == "w" and max(form.input_dilation) > 1:
        if max(form.strides) > 1:
            return False
        form = _mirrored(form)
    far = [abs(n) for pair in form.padding for n in pair]
    far += [k * d for k, d in zip(form.window, form.dilation, strict=True)]
    # XLA multiplies floats as fast, unless it sums over many rows, of more than a few inputs.
    many = wanted == "w" and b.size >= 64 * b.shape[-1] and a.shape[-1] >= min(64, b.shape[-1])
    product = not (many and a.dtype == jnp.float32) and form.groups == math.prod(form.window) == 1
    return max(far) <= FAR and (_in_words(a) if product else instructions() is not None)


def _in_words(x, groups=1) -> bool:
    """Return whether the library multiplies words of two numbers of x."""
    return x.dtype == jnp.bfloat16 and groups == 1 and instructions() == "AVX-512-BF16"


def is_wide(x: jax.Array, kernel: jax.Array) -> bool:
    """Return whether a product of two matrices is faster as a convolution than as XLA's product.

    It is for many numbers of 16 bits: the library multiplies words of two, or XLA does in float32.

    Example:
      >>> is_wide(jnp.ones((512, 512)), jnp.ones((512, 512)))  # float32
      False
    """
    halves = x.dtype == kernel.dtype and x.dtype in (jnp.bfloat16, jnp.float16)
    known = halves and countable(x, kernel) and jax.default_backend() == "cpu"
    return known and x.shape[0] * kernel.size >= WIDE


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
    shape = form.result(a.shape, b.shape, wanted)
    words = _in_words(a, form.groups)
    dtype, wider = a.dtype, [operand.astype(jnp.float32) for operand in (a, b)]
    if tile := dtype != jnp.float16 and _tile(a.shape, b.shape, wanted, form, words):
        a, b = (wider[0] if wanted == "x" else a), (wider[1] if wanted == "y" else b)
        kept = "float32" if wanted == "w" else dtype  # kernels and their gradients
        given = np.array([KINDS.index(wanted), tile, *(low for low, _ in form.padding)], np.int64)
        return compute("jaxnet_winograd", [shape], a, b, form=given, dtype=kept)[0].astype(dtype)
    if dtype != jnp.float32 and not words:
        return convolution(*wider, wanted=wanted, form=form).astype(dtype)
    if wanted == "w" and max(form.input_dilation) > 1:
        found = convolution(b, a, wanted="w", form=_mirrored(form))
        return _mirrored_kernel(found, form.groups).reshape(shape)
    flat = (1,) * (3 - len(form.window))  # a line or image is a volume of one row or frame
    numbers = [KINDS.index(wanted), form.groups, *flat, *form.strides, *flat, *form.dilation]
    numbers += [*(0 for _ in flat), *(low for low, _ in form.padding), *flat, *form.input_dilation]

    def volume(shape, is_kernel):
        at = 1 if is_kernel else 2
        return (*shape[:at], *flat, *shape[at:])

    a, b = a.reshape(volume(a.shape, wanted == "x")), b.reshape(volume(b.shape, wanted == "y"))
    options = {"form": np.array(numbers, np.int64), "dtype": dtype}
    found = compute(TARGET, [volume(shape, wanted == "w")], a, b, **options)[0].reshape(shape)
    # Where an output does not depend on x, the library multiplies zeros by the kernel.
    for axis, seen in enumerate(_read(form) if wanted == "x" else [], 2):
        if not seen.all():
            seen = seen.reshape((-1,) + (1,) * (found.ndim - axis - 1))
            found = jnp.where(np.broadcast_to(seen, found.shape), found, 0)
    return found


def _tile(a, b, wanted, form, words) -> int:
    """Return how many rows of results Winograd's algorithm makes at once: 4, 2 or, if not used, 0.

    Its costs are counted in products of one pair of features. OVERHEAD tiles more stand for the
    transforms, above all of the weights. Direct convolution multiplies words of two pairs at once.
    """
    choice = os.environ.get("JAXNET_WINOGRAD", "1")
    if choice not in ("0", "1"):
        raise ValueError(f"JAXNET_WINOGRAD must be 0 or 1, got {choice!r}")
    once = max(*form.strides, *form.dilation, *form.input_dilation, form.groups) == 1
    near = all(0 <= n <= 2 for pair in form.padding for n in pair)
    features = min(a[-2 if wanted == "x" else -1], b[-1])
    off = choice == "0" or form.precision in ("highest", "float32")
    if off or form.window != (3, 3) or not once or not near or features < 8:
        return 0
    batch, sizes = (a if wanted == "y" else b)[1], form.inputs if wanted == "x" else form.outputs
    costs = {0: (0.8 if wanted == "w" else 1.05) * 9 * batch * math.prod(form.outputs)}
    costs[0] /= 1 + words
    for m in (4, 2) if features >= 32 else (4,):
        costs[m] = (m + 2) ** 2 * (batch * math.prod(-(-n // m) for n in sizes) + OVERHEAD)
    return min(costs, key=lambda m: costs[m])


def _mirrored(form) -> Any:
    """Return the convolution of y with the reversed kernel, whose result is like x."""
    spans = zip(form.window, form.dilation, form.padding, strict=True)
    padding = tuple(((k - 1) * d - low,) * 2 for k, d, (low, _) in spans)
    apart = {"strides": form.input_dilation, "input_dilation": form.strides}
    return form._replace(padding=padding, inputs=form.outputs, **apart)


def _mirrored_kernel(kernel, groups):
    """Return a kernel (e, *window, o / g, i), reversed, as (e, *window, i / g, o)."""
    *before, out, _ = kernel.shape
    kernel = jnp.flip(kernel, range(1, len(before))).reshape(*before, out, groups, -1)
    return jnp.swapaxes(kernel, -1, -3)


def _read(form) -> list[np.ndarray]:
    """Return by axis which entries of x an output depends on."""
    masks = []
    for i, n in enumerate(form.inputs):
        tap = np.arange(form.window[i]) * form.dilation[i] - form.padding[i][0]
        at = np.add.outer(np.arange(form.outputs[i]) * form.strides[i], tap)
        masks.append(np.isin(np.arange(n) * form.input_dilation[i], at))
    return masks
