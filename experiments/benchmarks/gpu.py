"""Benchmarks on one NVIDIA GPU: the tests that need one, the table, then tokens per second.

    python -m experiments.benchmarks.gpu

No row begins after seven minutes.
A program that is not installed, fails or runs out of memory keeps a row with the reason, and the
samples are saved after each workload. Below the table are operations per second, as a fraction of
the rate of a large product of bfloat16 matrices on the same GPU.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.benchmarks import fresh, generation, report
from experiments.benchmarks.measure import (
    TOLERANCE,
    PeerError,
    Processes,
    Row,
    check_peers,
    run_workload,
    say,
)
from experiments.benchmarks.workloads import GPU_WORKLOADS, Workload

TESTS = ("tests/test_gpu.py",)


@dataclass(frozen=True)
class Config:
    """Options of the benchmark on a GPU."""

    workloads: tuple[str, ...] = ()
    """beginnings of the names of workloads; by default all"""
    peers: tuple[str, ...] = ("hand", "linen", "equinox", "torch")
    """libraries to compare with; those not installed are reported and left out"""
    rounds: int = 7
    """number of samples per program"""
    seconds: float = 0.2
    """duration of a sample in seconds"""
    patience: float = 5.0
    """total seconds after which a program takes no more samples, once it has three"""
    timeout: float = 90.0
    """largest number of seconds for building a program"""
    limit: float = 420.0
    """seconds after which no further workload starts"""
    tests: bool = True
    """whether to run the tests that need a GPU first"""
    model: Path | None = None
    """file of `experiments.benchmarks.generation`, which runs last"""
    out: Path = Path("runs/benchmarks")
    """folder of the samples, the tables and the figure"""

    def __post_init__(self):
        check_peers(self.peers)
        if min(self.rounds, self.seconds, self.limit) <= 0:
            raise ValueError("rounds, seconds and limit must be above 0")


def run(
    config: Config, workloads: tuple[Workload, ...] = GPU_WORKLOADS, backend: str = "gpu"
) -> list[Row]:
    """Test, measure, print the table, write samples and tables, and return the rows."""
    start, rows = time.monotonic(), []
    # By default each process would reserve three quarters of the memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    processes = Processes(("ours", *config.peers), config.timeout)
    try:
        about = report.describe(processes.get("ours", 0).ask("device"), config)
        if about["backend"] != backend:
            raise SystemExit(
                f"needs a {backend}, and JAX sees {about['device']} ({about['backend']}). For "
                'NVIDIA: pip install "jax[cuda13]"; then jax.devices() shows it'
            )
        if config.tests:
            about["tests"] = run_tests()
            print(f"tests that need a GPU: {about['tests']}", flush=True)
        for workload in workloads:
            if config.workloads and not workload.name.startswith(config.workloads):
                continue
            rows += _row(workload, processes, config, backend, start)
            report.save(rows, about, config.out / f"{backend}.json")
        about["shares"] = shares(rows, workloads, processes)
    finally:
        processes.stop()
    report.save(rows, about, config.out / f"{backend}.json")
    report.show(rows, about, config.out)
    print("\n".join(about["shares"]))
    if config.model is not None:
        options = {"rounds": config.rounds, "timeout": config.timeout}
        generation.run(generation.Config(config.model, **options))
    return rows


def _row(
    workload: Workload, processes: Processes, config: Config, backend: str, start: float
) -> list[Row]:
    if time.monotonic() - start > config.limit:
        note = f"not begun: {config.limit:.0f} s were over"
        return [Row(workload.name, "ours", "jaxnet", "ms", [], note)]

    def measure() -> list[Row]:
        return run_workload(
            workload,
            processes,
            rounds=config.rounds,
            seconds=config.seconds,
            patience=config.patience,
            tolerance=TOLERANCE[backend],
            say=say,
        )

    rows = measure()
    if any(out_of_memory(row.note) for row in rows):
        processes.stop()  # the processes hold memory of earlier workloads
        rows = measure()
        processes.stop()
    return rows


def out_of_memory(note: str) -> bool:
    """Return whether a program failed for lack of memory, in the words of JAX or PyTorch.

    Example:
      >>> out_of_memory("XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory"), out_of_memory("")
      (True, False)
    """
    return "RESOURCE_EXHAUSTED" in note or "out of memory" in note.lower()


def run_tests() -> str:
    """Return the last line of the tests that need a GPU."""
    words = [sys.executable, "-m", "pytest", "-q", "-n4", "-m", "", *TESTS]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired:
        return "no answer in 240 s"
    return (done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]])[-1]


def shares(rows: list[Row], workloads: tuple[Workload, ...], processes: Processes) -> list[str]:
    """Return a line per program on the nets in bfloat16: operations per second, and their fraction
    of the peak."""
    measured = {row.workload for row in rows if row.samples}
    chosen = [one for one in workloads if one.half and one.name in measured]
    lines = []
    try:
        peak = processes.get("ours", 0).ask("product") if chosen else 0.0
        for workload in chosen:
            count = fresh.in_fresh_process(_operations, workload, timeout=120)
            for row in rows:
                if row.workload == workload.name and row.samples:
                    rate = 1e3 * count / float(np.median(row.samples))
                    lines.append(
                        f"{workload.name}, {row.program}: {rate / 1e12:.3g} TFLOP/s, "
                        f"{rate / peak:.1%} of a large product's {peak / 1e12:.3g}"
                    )
    except PeerError as error:
        lines.append(f"no further shares: {error}")
    return lines


def _operations(workload: Workload) -> float:
    """Count on the CPU, whose compiler counts convolutions too."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from experiments.benchmarks.peers import ours

    return ours.operations(workload)


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config, description=__doc__))
