"""Convolutions in C for CPU, several times faster than XLA's in training.

Installing jaxnet builds the library from conv.c if there is a C compiler. The first convolution
that is compiled loads it. Convolutions that it does not support run in XLA's form, and all do if it
was not built. Set the environment variable JAXNET_NATIVE to choose: "0" turns the library off,
"avx2" leaves out AVX-512.
"""

import ctypes
import math
import os
import warnings
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

LIBRARY = Path(__file__).parent / "conv.so"
TARGET = "jaxnet_conv"

# What the library calls the instruction sets.
LEVELS = {0: None, 1: "NEON", 2: "AVX2", 3: "AVX-512"}
CHOICES = {"": 3, "1": 3, "avx512": 3, "avx2": 2, "0": 0}

FAR = 10_000  # zeros on a side of the input, which are written

KINDS = "yxw"  # in the order of the library's numbers


@cache
def instructions() -> str | None:
    """Return the instruction set of the kernels in C, or None if convolutions run in XLA's form.

    Loads the library when called for the first time.

    Raises:
      ValueError: If the environment variable JAXNET_NATIVE has another value than the above.

    Example:
      >>> instructions() in ("AVX-512", "AVX2", "NEON", None)
      True
    """
    choice = os.environ.get("JAXNET_NATIVE", "").lower()
    if choice not in CHOICES:
        raise ValueError(
            f"JAXNET_NATIVE must be one of {', '.join(filter(None, CHOICES))}, got {choice!r}"
        )
    if not CHOICES[choice] or not LIBRARY.exists():
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        level = LEVELS[library.jaxnet_conv_use(CHOICES[choice])]
        if level:
            jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(library.jaxnet_conv), "cpu")
    except Exception as error:
        warnings.warn(
            f"jaxnet: convolutions run in XLA's form, which is slower, since {LIBRARY} cannot be "
            f"used with jax {jax.__version__}: {error}. Install jaxnet again, or set "
            "JAXNET_NATIVE=0 to hide this warning",
            stacklevel=2,
        )
        return None
    return level


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
    if form.groups == 1 and math.prod(form.window) == 1:  # XLA has matrix products for it
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
    return call(a, b, form=np.array(numbers, np.int64)).reshape(shape)
