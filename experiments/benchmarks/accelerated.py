"""Time of programs with convolutions that issues report as slow, plain and by `jn.accelerate`.

    python -m experiments.benchmarks.accelerated

Both run in one process and take turns. Each timed call comes after an untimed call of the same
program and a rest, in which the threads of the other one fall asleep. Their results are compared
before anything is timed. The samples go to a file that `experiments.benchmarks.figures` takes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxnet as jn
from experiments import pages
from experiments.benchmarks import report
from experiments.benchmarks.figures import issue_rows
from experiments.benchmarks.issues import CASES, Case
from experiments.benchmarks.measure import Row, load, say

PLAIN, ACCELERATED = "plain", "accelerated"
SECTION = "accelerated issues"
"""The table's section in `figures.json`."""
COLUMNS = ("issue", "what is computed", "plain (ms)", "accelerated (ms)", "times as fast (95%)")
REST = 0.06  # seconds


@dataclass(frozen=True)
class Config:
    """Prints the time of each program, plain and accelerated, and their ratio with an interval."""

    rounds: int = 9
    """samples per program"""
    only: str = ""
    """word in the issue or in the description, e.g. "dm_pix" or "scan"; by default all"""
    tiny: bool = False
    """whether to run tiny sizes, whose times say nothing"""
    out: Path = Path("runs/benchmarks")
    """folder of the samples"""

    def __post_init__(self):
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")
        if not self.cases():
            raise ValueError(f"only: no issue or description has {self.only!r}")

    def cases(self) -> list[Case]:
        return [case for case in CASES if self.only.lower() in case.name.lower()]


def compiled(case: Case, accelerate: Callable, tiny: bool) -> Callable[[], Any]:
    """Return a function that runs the program once and waits for its result."""
    function, given = case.program(accelerate, tiny)
    program = jax.jit(function).lower(*given).compile()
    return lambda: jax.block_until_ready(program(*given))


def unequal(plain: Any, accelerated: Any, allowed: float) -> str:
    """Return a message if results differ by more than is allowed, else an empty string."""
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(accelerated), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        difference = np.abs(a - b).max() / np.abs(a).max()
        if not difference <= allowed:  # a NaN never is
            return f"results differ by {difference:.1g} of the largest entry, allowed: {allowed:g}"
    return ""


def measure(case: Case, rounds: int, tiny: bool = False) -> tuple[Row, Row]:
    """Return the samples of the plain and of the accelerated program, or the reason for none."""
    before = load()
    programs = [compiled(case, accelerate, tiny) for accelerate in (lambda f: f, jn.accelerate)]
    results = [run() for run in programs]
    note = unequal(results[0], results[1], case.tolerance)
    samples: list[list[float]] = [[], []]
    for _ in range(0 if note else rounds):
        for run, times in zip(programs, samples, strict=True):
            run()
            time.sleep(REST)
            start = time.perf_counter()
            run()
            times.append(1000 * (time.perf_counter() - start))
    plain, accelerated = (
        Row(case.issue, case.what, name, "ms", times, note, (before, load()))
        for name, times in zip((PLAIN, ACCELERATED), samples, strict=True)
    )
    return plain, accelerated


def run(config: Config) -> list[Row]:
    """Measure, print the table, write the samples after each program, and return them."""
    device = jax.default_backend(), jax.devices()[0].device_kind, jax.__version__
    about = report.describe(device, config) | {"section": SECTION}
    rows: list[Row] = []
    for case in config.cases():
        say(case.name)
        rows += measure(case, config.rounds, config.tiny)
        report.save(rows, about, config.out / "accelerated.json")
    print(pages.table(COLUMNS, tuple(map(tuple, issue_rows(rows)))))
    for row in rows[::2]:
        if row.note:
            print(f"{row.workload}, {row.peer}: {row.note}")
    return rows


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config, description=__doc__))
