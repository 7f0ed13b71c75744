"""Memory of training ResNet-18 on images of 32x32, in fresh processes.

The table has how much a process needs beyond what it held before the net was made: at its peak
during the first steps, and after the net and its train_state were deleted and free memory was given
back, in jaxnet by `jn.reuse_memory(False)`.
"""

import gc
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

import jaxnet as jn
from experiments.benchmarks.figures import digits
from experiments.benchmarks.fresh import in_fresh_process
from experiments.benchmarks.measure import DEFAULT, REUSED, PeerError, peak_memory
from experiments.benchmarks.workloads import LargeResNet, Workload

RESNET = Workload("ResNet-18", LargeResNet(18), (64, 32, 32, 3), peers=("torch",))
# Name of the row, peer, its variant, setting of memory.
PROGRAMS = (
    ("jaxnet", "ours", "jaxnet", DEFAULT),
    ("jaxnet, after `jn.reuse_memory()`", "ours", "jaxnet", REUSED),
    ("PyTorch", "torch", "PyTorch", DEFAULT),
)


class Needed(NamedTuple):
    """MB beyond what a process held before: at the peak, and after all was deleted."""

    peak: float
    left: float


def resident_memory() -> float:
    """Return the resident memory of this process in MB."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return 1.024e-3 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def needed(peer: str, variant: str, setting: str, workload: Workload, steps: int) -> Needed:
    """Return the memory that the training of a peer needs in this process."""
    if setting == REUSED:
        jn.reuse_memory()
    module = importlib.import_module(f"experiments.benchmarks.peers.{peer}")
    before = resident_memory()
    program = module.build(workload, None, variant)
    for _ in range(steps):
        program.wait(program.step())
    peak = peak_memory()
    del program
    gc.collect()
    if peer == "ours":
        jn.reuse_memory(False)
    return Needed(peak - before, resident_memory() - before)


@dataclass(frozen=True)
class Config:
    """Prints a row per program: medians of its peak, and of what is left after all was deleted."""

    rounds: int = 5
    """number of fresh processes per program"""
    steps: int = 10
    """number of training steps"""
    timeout: float = 300.0
    """seconds after which a process is given up"""


def run(config: Config, programs=PROGRAMS, workload: Workload = RESNET) -> list[tuple[str, ...]]:
    found: dict[str, list[Needed]] = {name: [] for name, *_ in programs}
    notes = {}
    for _ in range(config.rounds):
        for name, *words in programs:
            try:
                seen = in_fresh_process(
                    needed, *words, workload, config.steps, timeout=config.timeout
                )
                found[name].append(seen)
            except PeerError as error:
                notes[name] = str(error)
    rows = []
    for name, samples in found.items():
        medians = np.median(samples, axis=0) if samples else ()
        rows.append((name, *map(digits, map(float, medians))) if samples else (name, "", ""))
    head = ("program", "peak memory (MB)", "left after it (MB)")
    print(jn.Table(workload.name, head, rows))
    for name, note in notes.items():
        print(f"{name}: {note}")
    return rows


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config))
