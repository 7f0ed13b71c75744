"""Measurements in fresh processes: time to the first step, import, compile time, peak memory.

Cold: no compiled program is cached. Warm: JAX's and PyTorch's persistent caches hold the programs
of an earlier run. In both cases, the files that Python reads are in the system's cache.
"""

import importlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from experiments.benchmarks.measure import (
    PeerError,
    Row,
    in_a_line,
    load,
    peak_memory,
    share_gpu,
)
from experiments.benchmarks.workloads import Transformer, Workload, batches


class First(NamedTuple):
    """Seconds of each part of one process, and its peak memory in MB."""

    imports: float
    init: float
    compile_and_step: float
    second_step: float
    peak: float

    @property
    def first_step(self) -> float:
        return self.imports + self.init + self.compile_and_step


# Peers and their variants, ours first.
PROGRAMS = (
    ("ours", "jaxnet"),
    ("linen", "Linen"),
    ("linen", "Linen, jitted init"),
    ("nnx", "NNX cached_partial"),
    ("equinox", "Equinox filter_jit"),
    ("haiku", "Haiku"),
    ("keras", "Keras stateless"),
    ("torch", "PyTorch"),
    ("torch", "PyTorch compiled"),
)
IMPORTS = ("jaxnet", "flax.linen", "flax.nnx", "equinox", "haiku")


def in_fresh_process(function: Callable, *words: Any, timeout: float) -> Any:
    """Return the result of function(*words) in a new Python process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(there, function, *words), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(timeout):
            raise PeerError(f"no answer in {timeout:.0f} s")
        good, answer = here.recv()
    except EOFError as error:
        raise PeerError("its process died") from error
    finally:
        process.kill()
        process.join()
    if not good:
        raise PeerError(answer)
    return answer


def _answer(pipe: Any, function: Callable, *words: Any) -> None:
    try:
        pipe.send((True, function(*words)))
    except Exception as error:
        pipe.send((False, in_a_line(error)))


def first_step(peer: str, variant: str, workload: Workload, cache: str | None) -> First:
    """Time import, init, trace, compile and one step; then run two more for the peak memory."""
    if cache is not None:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{cache}/jax"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    share_gpu()
    with tempfile.TemporaryDirectory() as empty:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{cache or empty}/torch"
        start = time.perf_counter()
        module = importlib.import_module(f"experiments.benchmarks.peers.{peer}")
        imported = time.perf_counter()
        program = module.build(workload, None, variant)
        ready = time.perf_counter()
        program.wait(program.step())
        first = time.perf_counter()
        program.wait(program.step())
        program.wait(program.step())
        second = (time.perf_counter() - first) / 2
        return First(imported - start, ready - imported, first - ready, second, peak_memory())


def import_time(module: str) -> float:
    """Return seconds of `import module` after `import jax, optax`."""
    import jax  # noqa: F401
    import optax  # noqa: F401

    start = time.perf_counter()
    importlib.import_module(module)
    return time.perf_counter() - start


def compile_time(depth: int, repeated: bool, net: Transformer, shape: tuple[int, ...]) -> float:
    """Return seconds to trace and compile a training step of `depth` transformer blocks."""
    import jax
    import optax

    import jaxnet as jn
    from experiments.benchmarks.workloads import CLASSES

    def block():
        return jn.transformer_block(net.heads, net.mlp)

    body = [jn.repeat(block(), depth)] if repeated else [block() for _ in range(depth)]
    model = jn.serial(*body, lambda x: x.mean(1), jn.dense(CLASSES, name="output"))
    data = batches(Workload("", net, shape))
    objective = jn.supervised(model, optax.softmax_cross_entropy_with_integer_labels)
    trainer = jn.trainer(objective, optax.sgd(0.01, momentum=0.9))
    train_state = trainer.init(jax.random.key(0), data)
    start = time.perf_counter()
    jax.jit(trainer.step).lower(train_state, data).compile()
    return time.perf_counter() - start


def run_first_steps(
    workload: Workload, *, rounds: int, timeout: float, programs=PROGRAMS, say: Any = print
) -> list[Row]:
    """Measure cold and warm time to the first step, its parts, and memory, in rounds."""
    before = load()
    found: dict[tuple[str, str, str], list[First]] = {}
    notes: dict[tuple[str, str], str] = {}
    with tempfile.TemporaryDirectory() as folder:
        caches = {program: f"{folder}/{i}" for i, program in enumerate(programs)}
        for r in range(rounds + 1):  # the first round fills all caches
            for program in programs:
                if program in notes:
                    continue
                say(f"{workload.name}, fresh process, round {r}: {program[1]}")
                try:
                    for kind, cache in (("cold", None), ("warm", caches[program])):
                        if not r and kind == "cold":
                            continue
                        seen = in_fresh_process(
                            first_step, *program, workload, cache, timeout=timeout
                        )
                        if r:
                            found.setdefault((*program, kind), []).append(seen)
                except PeerError as error:
                    notes[program] = str(error)
    after = load()
    groups = {
        "first step, cold": ("s", "cold", lambda one: one.first_step),
        "first step, warm": ("s", "warm", lambda one: one.first_step),
        "import, cold": ("s", "cold", lambda one: one.imports),
        "init, cold": ("s", "cold", lambda one: one.init),
        "trace, compile, step, cold": ("s", "cold", lambda one: one.compile_and_step),
        "peak memory": ("MB", "cold", lambda one: one.peak),
    }
    rows = []
    for name, (unit, kind, take) in groups.items():
        for peer, program in programs:
            samples = [take(one) for one in found.get((peer, program, kind), [])]
            note = notes.get((peer, program), "")
            title = f"{workload.name}: {name}"
            rows.append(Row(title, peer, program, unit, samples, note, (before, after)))
    return rows


def run_imports(*, rounds: int, timeout: float, say: Any = print) -> list[Row]:
    """Measure the seconds of imports in addition to `import jax, optax`."""
    return _rounds(
        "import, after jax and optax",
        {name: partial(import_time, name) for name in IMPORTS},
        rounds,
        timeout,
        say,
    )


def run_compile_times(
    net: Transformer,
    shape: tuple[int, ...],
    depths: tuple[int, ...],
    *,
    rounds: int,
    timeout: float,
    say: Any = print,
) -> list[Row]:
    """Measure compile time against depth, with `repeat` and with separate blocks."""
    rows = []
    for depth in depths:
        forms = {
            f"repeat(block, {depth})": partial(compile_time, depth, True, net, shape),
            f"{depth} blocks": partial(compile_time, depth, False, net, shape),
        }
        rows += _rounds(f"compile {depth} transformer blocks", forms, rounds, timeout, say)
    return rows


def _rounds(title: str, forms: dict[str, Callable], rounds: int, timeout: float, say: Any):
    before = load()
    samples: dict[str, list[float]] = {name: [] for name in forms}
    notes = dict.fromkeys(forms, "")
    for r in range(rounds + 1):  # the first round fills the system's file cache
        for name, function in forms.items():
            if notes[name]:
                continue
            say(f"{title}, round {r}: {name}")
            try:
                seen = in_fresh_process(function, timeout=timeout)
                if r:
                    samples[name].append(seen)
            except PeerError as error:
                notes[name] = str(error)
    after = load()
    return [
        Row(title, name.split(".")[-1], name, "s", samples[name], notes[name], (before, after))
        for name in forms
    ]
