"""Memory of the process on CPU: kept for the next step instead of returned to the system."""

import ctypes
import platform
import sys
from collections.abc import Callable

import jax

from jaxnet.services.jaxprs import arrays_in

# Options of glibc's `mallopt`, from its malloc.h, and their values here. Arrays come from the heap
# and not from separate mappings, and neither a heap's end nor an empty heap is given back.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8
OPTIONS = {
    MMAP_MAX: 0,
    TRIM_THRESHOLD: 2**31 - 1,
    TOP_PAD: 64 * 2**20,
    # Threads have separate heaps, each of which keeps what its programs needed. With one heap,
    # XLA's threads would wait for each other, and small steps would be much slower.
    ARENA_MAX: 8,
}

# The heap of a thread has blocks of 64 MiB, and larger arrays get a mapping after all. XLA puts all
# temporary arrays of a program into one, unless asked for several.
PIECE = 56 * 2**20
IN_PIECES = {"xla_multiheap_size_constraint_per_heap": PIECE}
_kept = False  # whether they are set; glibc's options belong to the process


def reuse_memory() -> bool:
    """Keep freed memory in the process for the next step; for training on CPU under Linux.

    By default glibc gives every array of more than 32 MiB back to the system when it is freed, and
    gets it again page by page, at each training step. This function asks glibc to keep memory, and
    XLA to divide temporary memory into parts of at most 56 MiB, which a thread's heap can keep.
    XLA does not divide it if JAX has a folder of compiled programs (`jax_compilation_cache_dir`),
    which cannot hold programs so divided. It also makes JAX run programs on the calling thread,
    whose heap can grow (`jax_cpu_enable_async_dispatch`). This makes steps of less than a
    millisecond slower, by about 0.04 ms each. Call it once, before the first computation; it holds
    for the whole process and cannot be undone. The process keeps its largest demand so far until it
    ends.

    Returns:
      Whether the process takes the setting; False, and nothing changes, without glibc.

    Example:
      >>> jn.reuse_memory()  # doctest: +SKIP
      True
    """
    if kept := keep_freed():
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    return kept


def keep_freed() -> bool:
    """Ask glibc to keep freed memory, and return whether it does."""
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    global _kept
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    _kept = all([mallopt(option, value) == 1 for option, value in OPTIONS.items()])
    return _kept


def jit(run: Callable, **options) -> Callable:
    """Compile a function by `jax.jit`; if memory is kept, in pieces that a thread can keep.

    Args:
      run: Function that is compiled.
      options: Options of `jax.jit`.

    Example:
      >>> float(jit(jnp.cos)(0.0))
      1.0
    """
    plain = jax.jit(run, **options)
    # JAX's folder of compiled programs takes none with several temporary arrays.
    if not _kept or jax.default_backend() != "cpu" or jax.config.jax_compilation_cache_dir:
        return plain
    pieces = jax.jit(run, compiler_options=IN_PIECES, **options)
    chosen = {}

    def call(*args):
        # The first argument, params or a train_state, keeps its shapes; to flatten it would cost
        # microseconds.
        shapes = tuple([getattr(leaf, "shape", ()) for leaf in jax.tree.leaves(args[1:])])
        program = chosen.get(shapes)
        if program is None:  # XLA would warn about each array that is larger than a piece
            arrays = arrays_in(plain.trace(*args).jaxpr.jaxpr)  # both calls trace only once
            largest = max((one.size * one.dtype.itemsize for one in arrays), default=0)
            program = chosen[shapes] = pieces if largest <= PIECE else plain
        try:
            return program(*args)
        except ValueError as error:  # a program inside another one does not take options
            if "top-level" not in str(error):
                raise
        except jax.errors.JaxRuntimeError as error:  # a future XLA may not have this option
            if "compile option" not in str(error):
                raise
            chosen[shapes] = plain
        return plain(*args)

    return call
