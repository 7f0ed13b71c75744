"""Memory of the process on CPU: kept for the next step instead of returned to the system."""

import ctypes
import os
import sys

import jax

# Options of glibc's `mallopt`, from its malloc.h, and their values here. Arrays come from the heap
# and not from separate mappings, and neither a heap's end nor an empty heap (64 MiB) is given back.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
OPTIONS = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 64 * 2**20}
# A single arena (M_ARENA_MAX) would serve arrays of every size, but XLA's threads then wait for one
# lock: a step of LeNet took 26 ms of wall clock and not 17.
SWITCH = "JAXNET_REUSE_MEMORY"


def reuse_memory() -> bool:
    """Keep freed memory in the process for the next step; for training on CPU under Linux.

    By default glibc gives every array of more than 32 MiB back to the system when it is freed, and
    gets it again page by page, at each training step. `jn.trainer` asks glibc to keep memory, which
    serves up to 64 MiB per array, unless the environment says `JAXNET_REUSE_MEMORY=0`. This
    function serves arrays of every size: it also makes JAX run programs on the calling thread,
    whose heap can grow (`jax_cpu_enable_async_dispatch`). This makes steps of less than a
    millisecond slower, by about 0.04 ms each. Call it once, before the first computation; it holds
    for the whole process and cannot be undone. The process keeps its largest demand so far until
    it ends.

    Returns:
      Whether the process takes the setting; False, and nothing changes, without glibc.

    Example:
      >>> jn.reuse_memory()  # doctest: +SKIP
      True
    """
    kept = keep_freed()
    if kept:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    return kept


def keep_freed() -> bool:
    """Ask glibc to keep freed memory, and return whether it does."""
    if not sys.platform.startswith("linux") or not _glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return all([mallopt(option, value) == 1 for option, value in OPTIONS.items()])


def keep_by_default() -> None:
    """Call `keep_freed` unless the environment switches it off."""
    if os.environ.get(SWITCH, "1") != "0":
        keep_freed()


def _glibc() -> bool:
    try:
        return str(os.confstr("CS_GNU_LIBC_VERSION")).startswith("glibc")
    except (AttributeError, ValueError, OSError):  # musl and others have no such name
        return False
