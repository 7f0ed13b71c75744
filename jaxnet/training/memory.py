"""Memory of the process on CPU: what is kept for the next step, and what the system gets back."""

import ctypes
import mmap
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jax

from jaxnet.services.checks import check_options
from jaxnet.services.jaxprs import arrays_in

# Options of glibc's `mallopt`, from its malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -2, -3, -4, -8
# Arrays come from the heap and not from separate mappings, and neither a heap's end nor an empty
# heap is given back.
KEEP = {
    MMAP_MAX: 0,
    TRIM_THRESHOLD: 2**31 - 1,
    TOP_PAD: 64 * 2**20,
    # Threads have separate heaps, each of which keeps what its programs needed. With one heap,
    # XLA's threads would wait for each other, and small steps would be much slower.
    ARENA_MAX: 8,
}
# glibc's own values. Its thresholds grow as large arrays are freed, up to these, and stay there.
GIVE_BACK = {
    MMAP_MAX: 65536,
    MMAP_THRESHOLD: 32 * 2**20,
    TRIM_THRESHOLD: 64 * 2**20,
    TOP_PAD: 128 * 2**10,
    ARENA_MAX: 0,  # by the number of processors
}
# With these, a heap gives its free end back as soon as an array is freed there.
GIVE_BACK_ENDS = {**GIVE_BACK, TRIM_THRESHOLD: 0, TOP_PAD: 0}
FREED = 256 * 2**10  # bytes; glibc looks at the end of a heap from 64 KiB on
THREADS = 128  # at most, to reach the heaps

# The heap of a thread has blocks of 64 MiB, and larger arrays get a mapping after all. XLA puts all
# temporary arrays of a program into one, unless asked for several.
PIECE = 56 * 2**20
IN_PIECES = {"xla_multiheap_size_constraint_per_heap": PIECE}
# Mappings whose pages are touched, to measure how long a page fault takes.
MAPPED, MAPPINGS = 4 * 2**20, 5
_keeps_memory = False  # whether memory is kept; glibc's options belong to the process
_waits = None  # JAX's own setting of its dispatch, before memory was kept


def reuse_memory(keep: bool = True) -> bool:
    """Keep freed memory in the process for the next step; for training on CPU under Linux.

    By default glibc gives every array of more than 32 MiB back to the system when it is freed, and
    gets it again page by page, at each training step. This function asks glibc to keep memory, and
    XLA to divide temporary memory into parts of at most 56 MiB, which a thread's heap can keep.
    XLA does not divide it if JAX has a folder of compiled programs (`jax_compilation_cache_dir`),
    which cannot hold programs so divided. It also makes JAX run programs on the calling thread,
    whose heap can grow (`jax_cpu_enable_async_dispatch`). This makes steps of less than a
    millisecond slower, by about 0.04 ms each. Call it once, before the first computation; it holds
    for the whole process. Apart from this, only an open `jn.Checkpoints` changes settings of the
    process: what SIGTERM and SIGHUP do, until it is closed.

    Args:
      keep: Whether to keep memory. False gives what is free back to the system, whether memory was
        kept or not, and restores the settings; programs that were compiled before stay divided.
        To get back what a net took, first delete it, its trainer and train_state.

    Returns:
      Whether the process takes the setting; False, and nothing changes, without glibc.

    Example:
      >>> jn.reuse_memory()  # doctest: +SKIP
      True
    """
    check_options("reuse_memory", keep=keep)
    if not _has_glibc():
        return False
    global _keeps_memory, _waits
    library = ctypes.CDLL(None)
    if keep and not _keeps_memory:
        _waits = jax.config.values["jax_cpu_enable_async_dispatch"]
    if keep:
        if not _set(library, KEEP):
            return False
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    else:
        if _set(library, GIVE_BACK_ENDS):
            _give_back_ends(library)
        if not _set(library, GIVE_BACK):
            return False
        give_back()
        if _waits is not None:
            jax.config.update("jax_cpu_enable_async_dispatch", _waits)
    _keeps_memory = keep
    return True


def _has_glibc() -> bool:
    return sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"


def give_back() -> None:
    """Give free memory back to the system, without a change of settings; nothing without glibc.

    The free end of a thread's heap stays.

    Example:
      >>> give_back()
    """
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _give_back_ends(library: ctypes.CDLL) -> None:
    """Free an array in the heap of each thread, so that the heap gives its free end back.

    `malloc_trim` gives back the end of the first heap alone. glibc makes heaps up to 8 per
    processor, then hands them out in turn. So twice as many threads at a time reach each of them.
    """
    malloc, free = library.malloc, library.free
    malloc.argtypes, malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
    free.argtypes, free.restype = (ctypes.c_void_p,), None
    count = min(2 * 8 * (os.cpu_count() or 1), THREADS)
    all_have_one = threading.Barrier(count)

    def use_heap():
        array = malloc(FREED)
        with suppress(threading.BrokenBarrierError):
            all_have_one.wait()
        free(array)

    threads = [threading.Thread(target=use_heap) for _ in range(count)]
    for i, thread in enumerate(threads):
        try:
            thread.start()
        except RuntimeError:  # the system allows no further thread
            all_have_one.abort()
            threads = threads[:i]
            break
    for thread in threads:
        thread.join()


def _set(library: ctypes.CDLL, options: dict[int, int]) -> bool:
    """Set glibc's options, and return whether it takes them."""
    mallopt = library.mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return all([mallopt(option, value) == 1 for option, value in options.items()])


def page_faults() -> int:
    """Return the page faults of this process so far; 0 if the system does not count them.

    Example:
      >>> page_faults() >= 0
      True
    """
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def seconds_per_fault() -> float:
    """Return about how much time of a processor a page fault takes.

    It is the median over mappings whose pages are touched once.

    Example:
      >>> 0 <= seconds_per_fault() < 1
      True
    """
    times = []
    for _ in range(MAPPINGS):
        with mmap.mmap(-1, MAPPED) as mapping:
            before = page_faults()
            start = time.thread_time()
            for byte in range(0, MAPPED, mmap.PAGESIZE):
                mapping[byte] = 1
            seconds = time.thread_time() - start
            times.append(seconds / max(page_faults() - before, 1))
    return statistics.median(times)


def compile_for(program: Any, *args: Any) -> None:
    """Compile a program before its first call; on CPU, give free memory back before and after it.

    The compiler needs more memory than most steps, and the first step would come on top of it.

    Args:
      program: Function returned by `jit`.
      args: Arguments of the call.

    Example:
      >>> compile_for(jit(jnp.cos), 0.0)
    """
    if jax.default_backend() != "cpu" or jax.config.jax_disable_jit:
        return
    give_back()
    with suppress(jax.errors.JaxRuntimeError):  # the call raises it, or compiles without an option
        program.lower(*args).compile()
    give_back()


def jit(run: Callable, **options) -> Callable:
    """Compile a function by `jax.jit`; if memory is kept, in pieces that a thread can keep.

    Args:
      run: Function that is compiled.
      options: Options of `jax.jit`.

    Example:
      >>> float(jit(jnp.cos)(0.0))
      1.0
    """
    # JAX's folder of compiled programs takes none with several temporary arrays.
    if not _keeps_memory or jax.default_backend() != "cpu" or jax.config.jax_compilation_cache_dir:
        return jax.jit(run, **options)
    return _InPieces(run, options)


class _InPieces:
    """A compiled function whose temporary memory is divided, unless an array fits no piece."""

    def __init__(self, run: Callable, options: dict[str, Any]):
        self._undivided = jax.jit(run, **options)
        self._pieces = jax.jit(run, compiler_options=IN_PIECES, **options)
        self._chosen: dict[tuple, Callable] = {}

    def lower(self, *args: Any) -> Any:
        """Return the lowered program, as a function of `jax.jit` does."""
        return self._program(self._shapes(args), args).lower(*args)

    def __call__(self, *args: Any) -> Any:
        shapes = self._shapes(args)
        try:
            return self._program(shapes, args)(*args)
        except ValueError as error:  # a program inside another one does not take options
            if "top-level" not in str(error):
                raise
        except jax.errors.JaxRuntimeError as error:  # a future XLA may not have this option
            if "compile option" not in str(error):
                raise
            self._chosen[shapes] = self._undivided
        return self._undivided(*args)

    def _shapes(self, args: tuple) -> tuple:
        # The first argument, params or a train_state, keeps its shapes; to flatten it would cost
        # microseconds.
        return tuple([getattr(leaf, "shape", ()) for leaf in jax.tree.leaves(args[1:])])

    def _program(self, shapes: tuple, args: tuple) -> Any:
        program = self._chosen.get(shapes)
        if program is None:  # XLA would warn about each array that is larger than a piece
            arrays = arrays_in(self._undivided.trace(*args).jaxpr.jaxpr)  # each call traces once
            largest = max((one.size * one.dtype.itemsize for one in arrays), default=0)
            program = self._pieces if largest <= PIECE else self._undivided
            self._chosen[shapes] = program
        return program
