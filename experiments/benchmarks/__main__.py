"""Benchmarks of jaxnet against other libraries, in one run.

Rounds are interleaved, all programs start from the same weights, and their first losses are
compared before anything is timed. Run it on an idle machine; the load is recorded.
"""

from dataclasses import dataclass
from pathlib import Path

from experiments.benchmarks import fresh, report
from experiments.benchmarks.measure import (
    PEERS,
    TOLERANCE,
    Processes,
    Row,
    check_peers,
    run_workload,
    say,
)
from experiments.benchmarks.workloads import WORKLOADS, Transformer, Workload

FRESH = ("first step", "import", "compile")
FIRST_STEPS = ("ResNet-20", "transformer block")


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    workloads: tuple[str, ...] = ()
    """names or their beginnings, e.g. LSTM, "64"; "first step", "import" and "compile" run in fresh
    processes; by default all"""
    peers: tuple[str, ...] = PEERS[1:]
    """libraries to compare with; those not installed are reported and left out"""
    skip: tuple[str, ...] = ()
    """words; programs with one of them in their name are skipped, e.g. compiled"""
    memory: tuple[str, ...] = ()
    """libraries, e.g. ours, torch; their programs run in both settings of memory, the default and
    `jn.reuse_memory`, and page faults and peak memory are reported"""
    rounds: int = 15
    """number of samples per program"""
    seconds: float = 0.2
    """duration of a sample in seconds"""
    patience: float = 60.0
    """total seconds after which a program takes no more samples, once it has three"""
    timeout: float = 900.0
    """largest number of seconds for building a program"""
    fresh_rounds: int = 5
    """samples per measurement in fresh processes"""
    depths: tuple[int, ...] = (2, 4, 8, 16, 32)
    """depths of the nets whose compile time is measured"""
    again: Path | None = None
    """JSON of an earlier run: print its table and draw its figure, and measure nothing"""
    out: Path = Path("runs/benchmarks")
    """folder of the samples, the tables and the figure"""

    def __post_init__(self):
        names = [one.name for one in WORKLOADS] + list(FRESH)
        for word in self.workloads:
            if not any(name.startswith(word) for name in names):
                raise ValueError(f"no workload begins with {word!r}; workloads: {', '.join(names)}")
        check_peers(self.peers)
        check_peers([peer for peer in self.memory if peer != "ours"])
        if min(self.rounds, self.fresh_rounds) < 1:
            raise ValueError("rounds and fresh_rounds must be at least 1")

    def wants(self, name: str) -> bool:
        whole = {one.name for one in WORKLOADS}  # "LeNet" is a row, and the beginning of another
        return not self.workloads or any(
            name == word if word in whole else name.startswith(word) for word in self.workloads
        )


def run(config: Config, workloads: tuple[Workload, ...] = WORKLOADS) -> list[Row]:
    """Measure, print the table, write samples, tables and figure, and return the rows."""
    if config.again is not None:
        rows, about = report.read(config.again)
        report.show(rows, about, config.out)
        return rows
    rows: list[Row] = []
    processes = Processes(("ours", *config.peers), config.timeout, config.memory)
    try:
        about = report.describe(processes.get("ours", 0).ask("device"), config)
        backend = about["backend"]

        def note(new: list[Row]) -> None:
            """Save after each workload, so that an interrupted run keeps its results."""
            rows.extend(new)
            report.save(rows, about, config.out / f"{backend}.json")

        for workload in workloads:
            if config.wants(workload.name):
                found = run_workload(
                    workload,
                    processes,
                    rounds=config.rounds,
                    seconds=config.seconds,
                    patience=config.patience,
                    tolerance=TOLERANCE["gpu" if workload.half or backend != "cpu" else "cpu"],
                    skip=config.skip,
                    say=say,
                )
                note(found)
    finally:
        processes.stop()
    options = {"rounds": config.fresh_rounds, "timeout": config.timeout, "say": say}
    if config.wants("first step"):
        programs = tuple(
            (peer, program)
            for peer, program in fresh.PROGRAMS
            if peer in ("ours", *config.peers) and not any(word in program for word in config.skip)
        )
        for workload in WORKLOADS:
            if workload.name in FIRST_STEPS:
                note(fresh.run_first_steps(workload, programs=programs, **options))
    if config.wants("import"):
        note(fresh.run_imports(**options))
    if config.wants("compile"):
        block = Transformer(heads=2, mlp=64)
        note(fresh.run_compile_times(block, (4, 16, 32), config.depths, **options))
    report.show(rows, about, config.out)
    return rows


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config, description=__doc__))
