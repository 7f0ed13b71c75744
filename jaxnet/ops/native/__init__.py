"""Convolutions, pools, RNNs, norms, attention, dropout and some matrix products in C, for CPU.

They are faster than XLA's forms. Wheels for Linux, macOS and Windows have the library, and
installing from the sources builds it if there is a C compiler, for AVX-512 only if the processor
has it. The first of these operations that is compiled loads it. Operations that it does not support
run in XLA's form, and so do all operations if there is no library. Set the environment variable
JAXNET_NATIVE to choose: "0" turns the library off, "avx2" leaves out AVX-512, "avx512" its products
of bfloat16. JAXNET_WINOGRAD=0, or JAX's precision of matrix products "highest", leaves out
Winograd's convolutions of 3x3. Their errors are up to nine times those of direct convolution,
usually twice, and for usual numbers at most 1e-5 of the largest result.
"""

import ctypes
import os
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax

LIBRARY = Path(__file__).parent / "kernels.so"
TARGETS = (
    "jaxnet_attention", "jaxnet_attention_back", "jaxnet_attention_one", "jaxnet_conv",
    "jaxnet_fused", "jaxnet_gemv", "jaxnet_gemv_transposed", "jaxnet_keep", "jaxnet_lstm",
    "jaxnet_lstm_back", "jaxnet_max_pool", "jaxnet_moments", "jaxnet_norm", "jaxnet_pack",
    "jaxnet_rnn", "jaxnet_script", "jaxnet_winograd",
)  # fmt: skip

# The library's names of the instruction sets.
LEVELS = {0: None, 1: "NEON", 2: "AVX2", 3: "AVX-512", 4: "AVX-512-BF16"}
CHOICES = {"": 4, "1": 4, "avx512": 3, "avx2": 2, "0": 0}


@cache
def instructions() -> str | None:
    """Return the instruction set of the kernels in C, or None if XLA's forms run.

    Loads the library when called for the first time.

    Raises:
      ValueError: If the environment variable JAXNET_NATIVE has any other value.

    Example:
      >>> instructions() in ("AVX-512-BF16", "AVX-512", "AVX2", "NEON", None)
      True
    """
    choice = os.environ.get("JAXNET_NATIVE", "").lower()
    if choice not in CHOICES:
        choices = ", ".join(filter(None, CHOICES))
        raise ValueError(f"JAXNET_NATIVE must be one of {choices}, got {choice!r}")
    if not CHOICES[choice] or not LIBRARY.exists():
        return None
    try:
        _check_complete(LIBRARY)
        library = ctypes.CDLL(str(LIBRARY))
        level = LEVELS[library.jaxnet_use(CHOICES[choice])]
        if level:
            _register(library)
    except Exception as error:
        warnings.warn(
            f"jaxnet: the C kernels in {LIBRARY} cannot be used with jax {jax.__version__}, so "
            f"convolutions, attention and LSTMs run as slower XLA operations: {error}. Reinstall "
            "jaxnet-toolkit, or set JAXNET_NATIVE=0 to hide this warning",
            stacklevel=2,
        )
        return None
    return level


def _register(library: Any) -> None:
    """Tell JAX where the library's functions are."""
    for target in TARGETS:
        handler = jax.ffi.pycapsule(getattr(library, target))
        jax.ffi.register_ffi_target(target, handler, "cpu")


def countable(*arrays: Any) -> bool:
    """Return whether the library can count the sizes of arrays: in an open export it cannot."""
    sizes = [size for array in arrays for size in array.shape]
    return all(isinstance(size, int) and 0 < size < 2**31 for size in sizes)


def compute(
    target: str, shapes: Sequence, *arrays, dtype: Any = "float32", aliases: Any = None, **options
) -> list:
    """Return the results of a function of the library, arrays of these shapes and this dtype."""
    results = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    call = jax.ffi.ffi_call(target, results, input_output_aliases=aliases)
    return list(call(*arrays, **options))


def _check_complete(path: Path) -> None:
    """Raise if an ELF file was cut: reading beyond its end would end the process.

    The table of sections is at its end; the header says where.
    """
    with open(path, "rb") as file:
        header = file.read(64)
        size = file.seek(0, os.SEEK_END)
    if header[:4] != b"\x7fELF" or header[4:6] != b"\x02\x01":  # of another system
        if size < 64:
            raise OSError(f"it has {size} bytes")
        return
    table = int.from_bytes(header[40:48], "little")
    entry = int.from_bytes(header[58:60], "little")
    count = int.from_bytes(header[60:62], "little")
    needed_size = table + entry * count
    if len(header) < 64 or size < needed_size:
        raise OSError(f"it is cut short, to {size:,} of {needed_size:,} bytes")
