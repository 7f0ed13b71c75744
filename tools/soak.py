"""Many steps of a small net, which must leave nothing behind.

    python -m tools.soak --steps 100_000

It prints what the process holds more after the steps than before: open files, threads, Python
objects and memory. Some steps come first, in which caches fill and heaps find their size.
"""

import argparse
import gc
import os
from pathlib import Path
from typing import NamedTuple

from jaxnet.training.memory import give_back

READ = 256  # a trainer reads its losses after so many steps, and holds them until then
FIRST = 80 * READ


class Held(NamedTuple):
    """What a process holds.

    Fields:
      files: Number of open files.
      threads: Number of threads.
      objects: Number of Python objects that the garbage collector knows.
      megabytes: Resident memory.
    """

    files: int
    threads: int
    objects: int
    megabytes: float


def held() -> Held:
    """Return what this process holds now, without what is free; Linux alone says it."""
    gc.collect()
    give_back()
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    files, threads = (len(os.listdir(f"/proc/self/{each}")) for each in ("fd", "task"))
    return Held(files, threads, len(gc.get_objects()), pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def soak(steps: int) -> Held:
    """Return how much more this process holds after many steps of training than before them.

    Args:
      steps: Number of steps, rounded up to those after which no loss is unread.
    """
    import jax
    import numpy as np
    import optax

    import jaxnet as jn

    rng = np.random.default_rng(0)
    batch = rng.normal(size=(32, 16)).astype(np.float32), rng.integers(0, 3, 32)
    net = jn.serial(jn.dense(32), jax.nn.relu, jn.dense(3))
    loss = optax.softmax_cross_entropy_with_integer_labels
    trainer = jn.trainer(jn.supervised(net, loss), optax.adam(1e-3))
    train_state = trainer.init(jax.random.key(0), batch)

    def train(count):
        nonlocal train_state
        for _ in range(count):
            train_state, metrics = trainer.step(train_state, batch)
        jax.block_until_ready((train_state, metrics))

    train(FIRST)
    before = held()
    train(-(-steps // READ) * READ)
    return Held(*(after - first for after, first in zip(held(), before, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    steps = parser.parse_args().steps
    more = soak(steps)
    print(
        f"{steps:,} steps: {more.files} files, {more.threads} threads, {more.objects} objects and "
        f"{more.megabytes:.2f} MB more than before"
    )


if __name__ == "__main__":
    main()
