"""Interleaved rounds: every program runs in a separate process, and they take turns.

So they do not share thread pools, caches or backends, and a program that hangs or dies is reported.
While others are measured a process waits on a pipe and uses no processor.
"""

import gc
import importlib
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks.workloads import NotOffered, Program, Workload, draw_weights

# Number of updates whose losses are compared, and tolerances relative to ours: the first loss
# differs by rounding alone, later ones by rounding that training has amplified.
CHECKS = 5
TOLERANCE = {"cpu": (1e-4, 2e-3), "gpu": (2e-2, 5e-2)}  # TF32, and 16 bits anywhere
# Settings of memory: as the process starts, and kept for the next step by `jn.reuse_memory`.
DEFAULT, REUSED = "", "memory reused"
# End of the name of a program whose loss went through `jn.accelerate`.
ACCELERATED = ", accelerated"
PEERS = ("ours", "hand", "linen", "nnx", "equinox", "haiku", "keras", "torch")


class Row(NamedTuple):
    """One line of the table: a program on a workload.

    Fields:
      workload, peer, program: Names; the peer is a file in peers/.
      unit: Unit of the samples: "ms" per update, "s" or "MB".
      samples: Samples, one per round, in order.
      note: Reason for missing samples, or a difference from the other programs.
      load: One-minute load average of the machine, before and after the workload.
    """

    workload: str
    peer: str
    program: str
    unit: str
    samples: list[float]
    note: str = ""
    load: tuple[float, float] = (math.nan, math.nan)


def bootstrap(
    peer: list[float], ours: list[float], *, draws: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the ratio of two medians, peer / ours, with a 95% interval.

    Rounds are drawn with replacement, both samples of a round together, since disturbances of the
    machine affect both. If one has fewer rounds, only as many first rounds of the other are used.

    Example:
      >>> bootstrap([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
      (2.0, 2.0, 2.0)
    """
    n = min(len(peer), len(ours))
    pairs = np.array([peer[:n], ours[:n]])  # (2, rounds)
    chosen = np.random.default_rng(seed).integers(0, n, (draws, n))
    medians = np.median(pairs[:, chosen], axis=-1)  # (2, draws)
    low, high = np.quantile(medians[0] / medians[1], [0.025, 0.975])
    middle = np.median(pairs, axis=-1)
    return float(middle[0] / middle[1]), float(low), float(high)


def timed(program: Program, steps: int) -> float:
    """Return seconds per call of step, including the wait for the last value."""
    if steps > 1:  # warms up threads and caches after another program ran
        program.wait(program.step())
    start = time.perf_counter()
    for _ in range(steps - 1):
        program.step()
    program.wait(program.step())
    return (time.perf_counter() - start) / steps


def outputs(program: Program, calls: int = CHECKS) -> np.ndarray:
    """Return the losses of the first updates, (calls, ...); without training, equal outputs."""
    found = []
    for _ in range(calls):
        value = program.step()
        program.wait(value)
        found.append(np.asarray(to_numpy(value), np.float64).ravel())
    return np.stack(found)


def to_numpy(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value  # of PyTorch


def disagreement(
    theirs: np.ndarray, ours: np.ndarray, tolerance: tuple[float, float], differs: str = ""
) -> str:
    """Return a message if losses differ by more than the tolerance, else an empty string."""
    first, later = tolerance
    if theirs.shape != ours.shape:
        return f"gives values of shape {theirs.shape}, ours {ours.shape}"
    if differs:
        theirs, ours = theirs[:1, :1], ours[:1, :1]
    error = np.abs(theirs - ours) / np.abs(ours).max(axis=1, keepdims=True)
    allowed = np.full(error.shape, later)
    allowed[0, 0] = first
    if (error <= allowed).all():  # a NaN never is
        return ""
    call, place = np.argwhere(~(error <= allowed))[0]
    return (
        f"call {call + 1} gives {theirs[call, place]:.6g} at place {place + 1}, "
        f"ours {ours[call, place]:.6g}; {allowed[call, place]:g} of it is allowed"
    )


class Processes:
    """The processes of all peers, one per program, started on first use.

    Args:
      names: Names of the peers.
      seconds: Timeout of an answer, e.g. while a program compiles.
      both: Peers whose programs run once in each setting of memory, DEFAULT and REUSED.
    """

    def __init__(self, names: Sequence[str], seconds: float, both: Sequence[str] = ()):
        self.seconds, self.both = seconds, tuple(both)
        self.started: dict[str, list[Process]] = {name: [] for name in names}

    def get(self, name: str, number: int) -> "Process":
        """Return process `number` of a peer; the settings of memory take turns."""
        while len(self.started[name]) <= number:
            settings = self.settings(name)
            setting = settings[len(self.started[name]) % len(settings)]
            self.started[name].append(Process(name, self.seconds, setting))
        return self.started[name][number]

    def settings(self, name: str) -> tuple[str, ...]:
        return (DEFAULT, REUSED) if name in self.both else (DEFAULT,)

    def all(self) -> list["Process"]:
        return [one for several in self.started.values() for one in several]

    def stop(self) -> None:
        """End all processes; the next use starts new ones."""
        for several in self.started.values():
            while several:
                several.pop().stop()


class Process:
    """Handle of a process that builds and times programs of one peer."""

    def __init__(self, name: str, seconds: float, setting: str = DEFAULT):
        self.name, self.seconds, self.setting = name, seconds, setting
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(there, self.name, self.setting), daemon=True
        )
        self.process.start()
        there.close()

    def ask(self, *words: Any) -> Any:
        """Return the answer to an action; errors of the peer are raised as a `PeerError`."""
        try:
            self.pipe.send(words)
            if not self.pipe.poll(self.seconds):
                raise PeerError(f"no answer in {self.seconds:.0f} s")
            good, answer = self.pipe.recv()
        except (EOFError, OSError) as error:
            self.stop()
            self._start()
            raise PeerError("its process died") from error
        except PeerError:
            self.stop()
            self._start()
            raise
        if not good:
            raise PeerError(answer)
        return answer

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def check_peers(peers: Sequence[str]) -> None:
    for peer in peers:
        if peer not in PEERS[1:]:
            raise ValueError(f"peers must be one of {', '.join(PEERS[1:])}, got {peer!r}")


class PeerError(Exception):
    """A peer is not installed, does not offer a workload, failed, or took too long."""


def _serve(pipe: Any, name: str, setting: str = DEFAULT) -> None:
    """Run the loop of a peer's process, which holds one program at a time."""
    share_gpu()
    if setting == REUSED:
        from jaxnet import reuse_memory

        reuse_memory()
    program: Program | None = None

    def peer():
        return importlib.import_module(f"experiments.benchmarks.peers.{name}")

    def variants(workload):
        return peer().variants(workload)

    def device():
        import jax

        return jax.default_backend(), jax.devices()[0].device_kind, jax.__version__

    def build(workload, variant):
        nonlocal program
        program = built = peer().build(workload, draw_weights(workload), variant)
        return outputs(built), built.differs

    def sample(steps):
        assert program is not None, "the process was restarted and has no program"
        return timed(program, steps)

    def faults(steps):
        """Return page faults per call of step, and the largest resident memory in MB."""
        assert program is not None, "the process was restarted and has no program"
        before = page_faults()
        timed(program, steps)
        return (page_faults() - before) / steps, peak_memory()

    def drop():
        nonlocal program
        program = None
        gc.collect()
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()

    def product():
        from experiments.benchmarks.peers.jax_program import product_rate

        return product_rate()

    actions = {"variants": variants, "device": device, "build": build, "sample": sample}
    actions |= {"drop": drop, "faults": faults, "product": product}
    while True:
        try:
            action, *words = pipe.recv()
        except EOFError:  # the run is over
            return
        try:
            answer = True, actions[action](*words)
        except Exception as error:
            answer = False, in_a_line(error)
        pipe.send(answer)


def in_a_line(error: Exception) -> str:
    """Return the error as one line, for a note below the table."""
    if isinstance(error, ModuleNotFoundError):
        return f"needs {error.name}, which is not installed"
    first = (str(error).splitlines() or [""])[0]
    return first if isinstance(error, NotOffered) else f"{type(error).__name__}: {first}"


def share_gpu() -> None:
    """Limit the GPU memory of each process; by default JAX takes three quarters."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.05")


def page_faults() -> int:
    """Return the page faults of this process so far; 0 if the system does not count them."""
    with suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return 0


def peak_memory() -> float:
    """Return the peak resident memory of this process in MB."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        return 1.024e-3 * kilobytes
    except (OSError, StopIteration):  # not Linux; includes the parent's pages at the fork
        import resource

        unit = 1e-6 if sys.platform == "darwin" else 1.024e-3
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def say(line: str) -> None:
    """Print progress, on one line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)


def load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def run_workload(
    workload: Workload,
    processes: Processes,
    *,
    rounds: int,
    seconds: float,
    patience: float,
    tolerance: tuple[float, float],
    skip: Sequence[str] = (),
    say: Callable[[str], Any] = print,
) -> list[Row]:
    """Run rounds over all programs of a workload, each starting with another program.

    A program that fails keeps its row, with the reason. Losses are compared with ours, or with the
    first program's that runs.

    Args:
      workload: Workload to measure.
      processes: Processes of the peers, "ours" first.
      rounds: Number of samples per program.
      seconds: Approximate duration of a sample, which has at least one call of step.
      patience: Total seconds after which a program takes no more samples, once it has three.
      tolerance: Tolerances of the first loss and of later losses.
      skip: Words; programs with one of them in their name are left out.
      say: Function that is called with a line of progress.
    """
    before = load()
    rows: list[Row] = []
    running: list[_Running] = []
    ours = None
    for name in processes.started:
        if workload.peers and name not in workload.peers:
            continue
        try:
            variants = processes.get(name, 0).ask("variants", workload)
        except PeerError as error:
            rows.append(Row(workload.name, name, name, "ms", [], str(error)))
            continue
        variants = [one for one in variants if not any(word in one for word in skip)]
        programs = [(one, setting) for one in variants for setting in processes.settings(name)]
        for number, (variant, setting) in enumerate(programs):
            title = f"{variant}, {setting}" if setting else variant
            say(f"{workload.name}: {title}")
            row = Row(workload.name, name, title, "ms", [])
            process = processes.get(name, number)
            try:
                found, differs = process.ask("build", workload, variant)
                ours = found if ours is None else ours
                if wrong := disagreement(found, ours, tolerance, differs):
                    raise PeerError(wrong)
                row = row._replace(note=differs)
                running.append(_Running(process, len(rows), row.samples, _steps(process, seconds)))
            except PeerError as error:
                row = row._replace(note=str(error))
            rows.append(row)
    for r in range(rounds if running else 0):
        turn = r % len(running)
        for one in running[turn:] + running[:turn]:
            if one.lost or (len(one.samples) >= 3 and one.spent > patience):
                continue
            start = time.perf_counter()
            try:
                each = one.process.ask("sample", one.steps)
                one.samples.append(1000 * each / workload.steps)
            except PeerError as error:
                one.lost = True
                rows[one.row] = rows[one.row]._replace(note=f"lost in round {r + 1}: {error}")
            one.spent += time.perf_counter() - start
    if processes.both:
        rows += memory_rows(workload, rows, running)
        processes.stop()  # kept memory would count in the next workload
    for process in processes.all():
        with suppress(PeerError):
            process.ask("drop")
    after = load()
    return [row._replace(load=(before, after)) for row in rows]


def memory_rows(workload: Workload, rows: list[Row], running: list["_Running"]) -> list[Row]:
    """Return page faults per update and the process's largest memory, of the programs that ran."""
    faults, memory = [], []
    for one in running:
        if one.lost:
            continue
        per_call, peak = one.process.ask("faults", 3)
        row = rows[one.row]._replace(note="")
        title = f"{workload.name}: page faults"
        faults.append(
            row._replace(workload=title, unit="faults", samples=[per_call / workload.steps])
        )
        title = f"{workload.name}: peak memory"
        memory.append(row._replace(workload=title, unit="MB", samples=[peak]))
    return faults + memory


@dataclass
class _Running:
    """A program in the rounds; `row` is its index in the table."""

    process: Process
    row: int
    samples: list[float]
    steps: int
    spent: float = 0.0
    lost: bool = False


def _steps(process: Process, seconds: float) -> int:
    """Return the number of calls that take about `seconds`."""
    once = process.ask("sample", 1)
    if once >= seconds:
        return 1
    once = process.ask("sample", max(3, math.ceil(0.1 * seconds / once)))  # warm, and less noisy
    return max(2, math.ceil(seconds / once))
