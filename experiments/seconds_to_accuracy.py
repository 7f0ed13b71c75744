"""Seconds until 99% of MNIST's test digits or 80% of CIFAR-10's photos are classified, in 3
libraries.

Claim: from the start of the process, jaxnet needs less time than Flax Linen.

Each run has a fresh process, and its clock starts before Python does: imports, loading arrays,
compilation, training and the measurements of accuracy all count. The libraries train the same net
from the same weights on the same batches with the same optimizer, each as its users write it:
jaxnet with `fit`, Linen with a jitted step in a Python loop, PyTorch eagerly; they take turns. The
moment at which an accuracy is reached varies by chance from seed to seed, the time of the whole
run does not.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

import jaxnet as jn
from experiments.benchmarks.fresh import in_fresh_process
from experiments.benchmarks.whole_run import WIDTHS, Task, whole_run
from experiments.cifar10 import fast_net
from experiments.common import Output, Short, TrainSize, grid, main, save
from experiments.records import Command, Picture, Record, higher, lower
from jaxnet import Table
from jaxnet.viz.style import COLORS, new_figure

RECORDS = (
    Record(
        topic="cost",
        title="To 99 percent on MNIST, jaxnet takes less time than PyTorch and Linen",
        verdict="Supported",
        sentence=(
            "After its first step, jaxnet trains LeNet-5 to 99% test accuracy in about 7 s and "
            "PyTorch, which gives memory back after each step, in about 12 s. With start-up, "
            "jaxnet takes 10.3 s, PyTorch 20.9 s and Linen 25.3 s."
        ),
        columns=(
            "library",
            *lower(
                "to the first step (s)", "to 99% test accuracy (s)", "to the end of epoch 4 (s)"
            ),
        ),
        rows=(
            ("jaxnet", "3.0", "10.3", "12.2"),
            ("Flax Linen", "4.5", "25.3", "33.9"),
            ("PyTorch", "9.4", "20.9", "25.3"),
        ),
        commands=(Command("--rounds 5", 365, "6 min"),),
        caveat="Start-up varies: an earlier measurement found 2.5 s for PyTorch.",
        seeds=5,
        key="about 7 s after the first step, PyTorch about 12 s",
        baseline="PyTorch",
        note=(
            "The times are medians of five runs. All libraries train the same network from the "
            "same weights on the same batches.\n"
            "Start-up depends on the machine: an earlier measurement found 2.5 s for PyTorch. "
            "After its first step, jaxnet takes about 7 s and PyTorch about 12 s."
        ),
        versions="jax 0.12.0.1, Flax 0.12.12, PyTorch 2.13.0",
        pictures=(
            Picture("seconds_to_accuracy.png", "Test accuracy over time in three libraries"),
        ),
    ),
    Record(
        topic="cost",
        title="To 80 percent on CIFAR-10, jaxnet takes less time than PyTorch",
        verdict="Measured",
        sentence=(
            "Both libraries train the network of `experiments.cifar10`, and the clock starts with "
            "the process. jaxnet reaches 80% after 228 s, and PyTorch, which gives memory back "
            "after each step, after 407 s."
        ),
        columns=(
            "library",
            *lower("to 80% test accuracy (s)", "to the end of epoch 10 (s)"),
            *higher("accuracy at the end (%)"),
        ),
        rows=(
            ("jaxnet", "228", "262", "81.62"),
            ("PyTorch", "407", "448", "81.64"),
        ),
        commands=(Command("--data cifar10 --libraries jaxnet PyTorch --rounds 1", 710, "12 min"),),
        caveat=(
            "[Single steps](../performance.md) of such networks are nearly level if PyTorch keeps "
            "its memory, and each time is one run."
        ),
        seeds=1,
        key="228 s, PyTorch 407 s",
        baseline="PyTorch",
        note="The photos are re-encoded as JPEG. The network is nearly all convolutions.",
        versions="jax 0.12.0.1, PyTorch 2.13.0",
    ),
)


@dataclass(frozen=True)
class Config(TrainSize, Output):
    """Compares the time that training takes in three libraries."""

    output: Path = Path("runs/seconds_to_accuracy")
    data: Literal["mnist", "cifar10"] = "mnist"
    """task: LeNet-5 on digits, or the small net of experiments.cifar10 on photos"""
    rounds: int = 3
    """number of runs of each library, in turn, each with different weights and a different order"""
    epochs: int | None = None
    """passes over the training split, by default 4 for mnist and 10 for cifar10"""
    pieces: int | None = None
    """measurements per epoch, by default 4 for mnist and 1 for cifar10"""
    batch_size: int | None = None
    """examples per step, by default 64 for mnist and 128 for cifar10"""
    target: float | None = None
    """target accuracy on the test split, by default 0.99 for mnist and 0.8 for cifar10"""
    libraries: tuple[Literal["jaxnet", "Flax Linen", "PyTorch"], ...] = (
        "jaxnet", "Flax Linen", "PyTorch",
    )  # fmt: skip
    """libraries to compare"""
    timeout: float = 3600.0
    """seconds after which a run is stopped"""

    def task(self, folder: Path, seed: int) -> Task:
        photos = self.data == "cifar10"
        epochs, pieces, batch_size, rate = (10, 1, 128, 0.1) if photos else (4, 4, 64, 2e-3)
        return Task(
            str(folder),
            photos,
            self.epochs or epochs,
            self.pieces or pieces,
            self.batch_size or batch_size,
            rate,
            seed,
        )

    @property
    def reached(self) -> float:
        return self.target or (0.8 if self.data == "cifar10" else 0.99)


class Curve(NamedTuple):
    """A run, piece by piece.

    Fields:
      library: Name of the library.
      ready: Seconds from the start of the process to the first step.
      seconds: Seconds since the start of the process, after each piece.
      accuracies: Accuracies on the test split, after each piece.
    """

    library: str
    ready: float
    seconds: list[float]
    accuracies: list[float]

    def until(self, target: float) -> float:
        """Return the seconds until the accuracy is first reached; NaN if it never is."""
        there = np.array(self.accuracies) >= target
        return self.seconds[there.argmax()] if there.any() else float("nan")


def run(config: Config) -> list[Curve]:
    """Train the same net in each library in turn, print a table and draw the curves."""
    load = jn.data.cifar10 if config.data == "cifar10" else jn.data.mnist
    net = fast_net(WIDTHS) if config.data == "cifar10" else jn.models.lenet5(classes=10)
    (x, y), (test_x, test_y) = load(data_dir=config.data_dir)
    curves = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arrays = {"x": x[: config.train_size], "y": y[: config.train_size]}
        for key, array in (arrays | {"test_x": test_x, "test_y": test_y}).items():
            np.save(folder / f"{key}.npy", array)
        for round_ in range(config.rounds):
            weights, _ = net.init(jax.random.key(round_), test_x)
            flat = {f"{one}/{k}": v for one, layer in weights.items() for k, v in layer.items()}
            np.savez(folder / "weights.npz", **flat)
            for library in rotated(list(config.libraries), round_):
                task = config.task(folder, round_)
                found = in_fresh_process(
                    whole_run, library, task, time.time(), timeout=config.timeout
                )
                curves.append(Curve(library, *found))
                print(
                    f"round {round_}, {library}: {curves[-1].until(config.reached):.1f} s to "
                    f"{config.reached:.1%}; {found.accuracies[-1]:.2%} after "
                    f"{found.seconds[-1]:.1f} s, of which {found.ready:.1f} before the first step",
                    flush=True,
                )
    print(table(curves, config.reached))
    save({f"seconds_to_accuracy_{config.data}": draw(curves, config.reached)}, config.output)
    return curves


def rotated(names: list[str], by: int) -> list[str]:
    """Return the names in a different order per round, so that each is first in turn."""
    by %= len(names)
    return names[by:] + names[:by]


def table(curves: list[Curve], target: float) -> Table:
    """Return medians and ranges of the rounds, and the ratios of medians to jaxnet's."""
    rows, ours = [], None
    for library in dict.fromkeys(["jaxnet", *(curve.library for curve in curves)]):
        mine = [curve for curve in curves if curve.library == library]
        ends = [curve.seconds[-1] for curve in mine]
        ours = ours or float(np.median(ends))
        rows.append(
            (
                library, said([curve.ready for curve in mine]),
                said([curve.until(target) for curve in mine]), said(ends),
                f"{np.median(ends) / ours:.2f}",
                f"{np.mean([curve.accuracies[-1] for curve in mine]):.2%}",
            )
        )  # fmt: skip
    title = (
        f"seconds since the process was started, until the first step, until an accuracy of "
        f"{target:.1%} on the test split, and until the end: median (lowest to highest)"
    )
    head = ("library", "first step", f"{target:.1%}", "end", "end / jaxnet", "at the end")
    return Table(title, head, rows)


def said(values: list[float]) -> str:
    """Return the median of the finite values, with the range if there are several."""
    there = [v for v in values if np.isfinite(v)]
    if not there:
        return "never"
    words = f"{np.median(there):.1f}"
    if len(there) > 1:
        words += f" ({min(there):.1f} to {max(there):.1f})"
    missing = len(values) - len(there)
    return words + (f", {missing} never" if missing else "")


def draw(curves: list[Curve], target: float) -> Any:
    """Draw accuracy against the seconds since the process was started."""
    figure = new_figure(6, 4)
    axes = figure.subplots()
    low = 100 * max(0.0, min(max(curve.accuracies) for curve in curves) - 0.1)
    for i, library in enumerate(sorted({curve.library for curve in curves})):
        for j, curve in enumerate(c for c in curves if c.library == library):
            axes.plot(
                curve.seconds,
                100 * np.array(curve.accuracies),
                color=COLORS[i],
                marker="o",
                markersize=3,
                linewidth=1.2,
                label=None if j else library,
            )
    axes.axhline(100 * target, color="0.4", linestyle=":", linewidth=1)
    axes.set_ylim(bottom=low)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds since the process was started")
    axes.set_ylabel("test accuracy, %")
    grid(axes)
    axes.legend(frameon=False, loc="lower right")
    return figure


SHORT = Short(
    {"rounds": 1, "epochs": 1, "pieces": 1, "batch_size": 100, "target": 0.05},
    {"in_fresh_process": lambda function, *given, timeout: function(*given)},
    needs="torch",
)


if __name__ == "__main__":
    main(Config, run)
