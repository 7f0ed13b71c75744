"""The cost of moving data to the device.

Claim: slicing arrays adds no measurable time to a step of LeNet-5, with or without reading ahead.
  Decoding does, if the loader shares two cores with the step.

LeNet-5 on MNIST, batches of 128. Each way is one `fit` that yields after every `steps` updates;
the ways take turns, and the median of the rounds is reported.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import jax
import numpy as np
import optax

import jaxnet as jn
from experiments.common import Data, Seed, Short, main
from experiments.records import Command, Record, lower

RECORDS = (
    Record(
        topic="cost",
        title="Reading slices of arrays costs little time, decoding images much",
        verdict="Supported",
        sentence=(
            "`jn.models.lenet5` trains on MNIST in batches of 128, with data from six sources. "
            "With slices of arrays, a step takes 12.5 ms, and reading ahead does not reliably "
            "help. Data on the device runs many steps in one program, which is slower on these two "
            "cores. Decoding PNGs raises the time to 45.0 ms, because decoding and the step share "
            "the cores."
        ),
        columns=("source of the data", *lower("time per step (ms)"), "in a second run (ms)"),
        rows=(
            ("data on the device", "18.7", "17.5"),
            ("slices of arrays", "12.5", "13.7"),
            ("slices of arrays, read ahead", "12.6", "11.4"),
            ("grain, threads", "15.0", "14.2"),
            ("grain, from PNGs of ArrayRecord files", "45.0", "43.8"),
            ("grain, from PNGs, 2 worker processes", "49.6", "46.8"),
        ),
        commands=(Command("--rounds 5 --steps 40", 96, "96 s"),),
        caveat=(
            "The table of [single steps](../performance.md) comes from a later run with SGD, so "
            "compare times within this table only. With an accelerator, the cores are free for "
            "decoding."
        ),
        seeds=1,
        key="12.5 ms with slices, 45.0 ms with PNGs",
        repeated="run",
        baseline="slices of arrays",
        note=(
            "The times are medians of five rounds of 40 steps.\n"
            "The second run shared the machine with other work. There, reading ahead made the "
            "steps faster.\n"
            "Data on the device runs many steps in one program, which is slower here than single "
            "steps."
        ),
        lesson=15,
    ),
)

Way = Literal["device", "slices", "feed", "threads", "records", "workers"]
MEANING = {
    "device": "arrays on the device, one program",
    "slices": "slices of arrays in memory",
    "feed": "slices, read ahead by feed",
    "threads": "grain, single examples of arrays in memory, 16 threads, feed",
    "records": "grain, PNGs of ArrayRecord files, 16 threads, feed",
    "workers": "the same in 2 worker processes",
}


@dataclass(frozen=True)
class Config(Data, Seed):
    """Times training steps with data that come in several ways."""

    ways: tuple[Way, ...] = ("device", "slices", "feed", "threads", "records", "workers")
    """ways to move data to the device"""
    steps: int = 100
    """number of updates in a round"""
    rounds: int = 7
    """number of rounds, whose median is reported"""
    batch_size: int = 128
    """examples per update"""


class Slices:
    """Batches of arrays in another order for each pass."""

    def __init__(self, rows: Any, size: int, seed: int):
        self.rows, self.size, self.seed = rows, size, seed

    def __iter__(self) -> Iterator[Any]:
        self.seed += 1
        return jn.data.batches(self.rows, self.size, seed=self.seed, drop_last=True)


class Examples:
    """Arrays as a source of single examples; a class, since worker processes get a copy."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows[0])

    def __getitem__(self, i: int) -> tuple[np.ndarray, ...]:
        return tuple(a[i] for a in self.rows)


def scaled(example: dict[str, Any]) -> tuple[Any, ...]:
    """Return an example of TFDS as `jn.data.mnist` has it."""
    return example["image"].astype(np.float32) / 255, np.int32(example["label"])


def source(way: str, rows: Any, config: Config) -> Any:
    """Return the data of a way."""
    mesh = jax.make_mesh((1,), ("data",))
    spec = jax.P("data")
    if way == "device":
        return rows
    slices = Slices(rows, config.batch_size, config.seed)
    if way == "slices":
        return slices
    if way == "feed":
        return jn.distributed.feed(slices, mesh, spec)
    import grain

    if way == "threads":
        arrays: Any = Examples(rows)
        examples = grain.MapDataset.source(arrays)
    else:
        records = jn.data.tfds.source("mnist", "train", data_dir=config.data_dir)
        examples = grain.MapDataset.source(records)
    examples = examples.seed(config.seed).shuffle().repeat()
    if way != "threads":
        examples = examples.map(scaled)
    batches = examples.batch(config.batch_size).to_iter_dataset()
    if way == "workers":
        from absl import flags

        flags.FLAGS.mark_as_parsed()  # grain reads one of them
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=2))
    return jn.distributed.feed(batches, mesh, spec)


def run(config: Config) -> dict[str, float]:
    """Return milliseconds per step of each way, by the median of the rounds."""
    rows, _ = jn.data.mnist(data_dir=config.data_dir)
    objective = jn.supervised(
        jn.models.lenet5(classes=10), optax.softmax_cross_entropy_with_integer_labels
    )
    runs, losses = {}, {}
    for way in config.ways:
        trainer = jn.trainer(objective, optax.adam(1e-3))
        train_state = trainer.init(jax.random.key(config.seed), rows)
        steps = config.steps * (config.rounds + 1)  # the first round compiles
        runs[way] = jn.fit(
            trainer,
            train_state,
            source(way, rows, config),
            steps=steps,
            every=config.steps,
            batch_size=config.batch_size,
            progress=False,
        )
    seconds: dict[str, list[float]] = {way: [] for way in config.ways}
    for _ in range(config.rounds + 1):
        for way in config.ways:
            epoch = next(runs[way])
            seconds[way].append(epoch.seconds)
            losses[way] = epoch.train["loss"]
    runs.clear()  # ends the threads and processes of the loaders
    found = {way: 1e3 * median(each[1:]) / config.steps for way, each in seconds.items()}
    for way, time in found.items():
        print(f"{time:8.2f} ms per step, loss {losses[way]:.3f}: {MEANING[way]}")
    return found


SHORT = Short(
    {"ways": ("device", "slices", "feed", "threads"), "steps": 2, "rounds": 1, "batch_size": 50},
    draws=False,
)


if __name__ == "__main__":
    main(Config, run)
