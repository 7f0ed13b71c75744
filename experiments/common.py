"""The parts that all experiments share: options, seeds, training, figures, the command.

An experiment is one file that reads from top to bottom: a docstring with the claim, `RECORDS` with
the figures measured (see `experiments.records`), a `Config` of options, `run(config)`, and

    SHORT = Short({"epochs": 1})

    if __name__ == "__main__":
        main(Config, run)

`python -m experiments` and the tests find it by its `RECORDS` and its `SHORT`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import jax
import numpy as np

import jaxnet as jn
from jaxnet import Table
from jaxnet.typing import PyTree
from jaxnet.viz.style import COLORS, new_figure

T = TypeVar("T")


class Short(NamedTuple):
    """A run of seconds, for the tests.

    Fields:
      options: Values of the experiment's `Config`.
      constants: Values of constants of its module.
      draws: Whether it writes pictures.
      needs: Package without which it is skipped.
      long: Whether it takes over ten seconds nevertheless.
    """

    options: dict[str, Any]
    constants: Mapping[str, Any] = MappingProxyType({})
    draws: bool = True
    needs: str = ""
    long: bool = False


@dataclass(frozen=True)
class Options:
    """Base of the options below, which a Config inherits; checks values at construction.

    An option of type Literal must have one of its values; an int whose default is at least 1 must
    be at least 1. For a tuple this holds for each entry, and a default that is not empty forbids an
    empty one.

    Raises:
      ValueError: If an option has a wrong value; the message names the option, the values expected
        and the value given.
    """

    def __post_init__(self):
        hints = get_type_hints(type(self))
        for field in fields(self):
            hint, value = hints[field.name], getattr(self, field.name)
            default: Any = field.default
            if get_origin(hint) is tuple:
                hint = get_args(hint)[0]
                if default and not value:
                    raise ValueError(f"{field.name} must not be empty")
            else:
                value, default = (value,), (default,)
            for given in value:
                if get_origin(hint) is Literal and given not in get_args(hint):
                    choices = ", ".join(map(str, get_args(hint)))
                    raise ValueError(f"{field.name} must be one of {choices}, got {given!r}")
                if hint is int and given < 1 and all(usual >= 1 for usual in default):
                    raise ValueError(f"{field.name} must be at least 1, got {given}")


@dataclass(frozen=True)
class Output(Options):
    output: Path = Path("runs")
    """folder of the pictures"""


@dataclass(frozen=True)
class Seed(Options):
    seed: int = 0
    """seed of weights, order and augmentation; the first seed if there are several"""

    def __post_init__(self):
        super().__post_init__()
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")


@dataclass(frozen=True)
class Seeds(Seed):
    seeds: int = 1
    """number of runs, with consecutive seeds"""

    @property
    def all_seeds(self) -> range:
        return range(self.seed, self.seed + self.seeds)


@dataclass(frozen=True)
class Data(Options):
    data_dir: Path | None = None
    """folder of the datasets; by default the environment variable TFDS_DATA_DIR"""


@dataclass(frozen=True)
class TrainSize(Data):
    train_size: int | None = None
    """train on the first `train_size` examples; by default on all"""


def main(config: type, run: Callable[[Any], Any]) -> None:
    """Run the command line of an experiment: read the options, run, print the time taken.

    Args:
      config: Dataclass of the options; its docstring and the docstrings of its fields are the help.
      run: Function that is called with an instance of `config`.
    """
    import tyro

    options = tyro.cli(config)
    wall, cpu = time.perf_counter(), time.process_time()
    run(options)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{wall:.1f} s, {cpu:.1f} s of CPU, loading and compilation included")


def over_seeds(run: Callable[[int], T], config: Seeds) -> list[T]:
    """Return results of `run(seed)` for every seed of a config."""
    return [run(seed) for seed in config.all_seeds]


def total_steps(examples: int, config: Any) -> int:
    """Return training steps of `config.epochs` epochs in batches of `config.batch_size`."""
    return config.epochs * -(-examples // config.batch_size)


def moments(
    trainer: jn.Trainer, data: PyTree, config: Any, first: int, most: int
) -> tuple[dict[int, PyTree], PyTree]:
    """Train; return the params of some moments by step, and the last state.

    Args:
      trainer: Trainer.
      data: Arrays, one example per row.
      config: Options, with seed, epochs and batch_size.
      first: Step of the second moment; the others follow ever further apart, up to the last step.
      most: Number of moments, fewer if there are fewer steps.
    """
    steps = total_steps(len(jax.tree.leaves(data)[0]), config)
    train_state, step = trainer.init(jax.random.key(config.seed), data), jax.jit(trainer.step)
    kept = np.geomspace(first, steps, most - 1).round().astype(int).tolist()
    found, number = {0: train_state.params}, 0
    for epoch in range(config.epochs):
        for batch in jn.data.batches(data, config.batch_size, seed=config.seed + epoch):
            train_state, _ = step(train_state, batch)
            number += 1
            if number in kept:
                found[number] = train_state.params
    return found, train_state.state


def run_epochs(
    trainer: jn.Trainer,
    data: PyTree,
    *,
    seed: int,
    epochs: int,
    batch_size: int,
    evaluate: PyTree | None = None,
) -> list[jn.Epoch]:
    """Return every epoch of a training from scratch; print about ten of them.

    Args:
      trainer: Trainer from `jn.trainer`.
      data, epochs, batch_size, evaluate: Options of `jn.fit`.
      seed: Seed of `trainer.init`.
    """
    done = []
    train_state = trainer.init(jax.random.key(seed), data)
    for epoch in jn.fit(
        trainer, train_state, data, epochs=epochs, batch_size=batch_size, evaluate=evaluate
    ):
        done.append(epoch)
        if epoch.number % -(-epochs // 10) == 0:
            print(epoch, flush=True)
    return done


def deviation(values: Sequence[float] | np.ndarray) -> float:
    """Return the sample standard deviation; NaN for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def mean_std(values: Sequence[float] | np.ndarray, spec: str = ".2%", *, ends: bool = False) -> str:
    """Return mean ± standard deviation as text; the mean alone for a single value.

    Args:
      values: Values (seeds,).
      spec: Format of each number.
      ends: Whether to add the lowest and the highest value.

    Example:
      >>> mean_std([0.98, 0.99, 1.0], ends=True)
      '99.00 ± 1.00% (98.00% to 100.00%)'
    """
    text = f"{np.mean(values):{spec}}"
    if len(values) > 1:
        text = f"{text.removesuffix('%')} ± {deviation(values):{spec}}"
        text += f" ({np.min(values):{spec}} to {np.max(values):{spec}})" if ends else ""
    return text


def per_class(y: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return indices of `count` random examples of each class, without repetition.

    Args:
      y: Labels (examples,).
      count: Number of examples per class.
      seed: Seed of the draw.
    """
    draw = np.random.default_rng(seed)
    rows = [draw.choice(np.flatnonzero(y == c), count, replace=False) for c in np.unique(y)]
    return np.concatenate(rows)


def save(figures: Mapping[str, Any], folder: Path, *, dpi: int = 100) -> list[Path]:
    """Save each figure as folder/name.png, print the paths and return them."""
    made = {"Software": jn.inspect.machine()}  # the tests compare it with the record
    paths = [
        jn.viz.save(figure, folder / f"{name}.png", dpi=dpi, metadata=made)
        for name, figure in figures.items()
    ]
    print("pictures: " + ", ".join(map(str, paths)))
    return paths


def grid(axes: Any) -> None:
    """Draw a light grid behind the data, and no frame above and on the right."""
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def labels_table(what: str, accuracies: dict[str, dict[int, np.ndarray]]) -> Table:
    """Return accuracies by method and labels per class, as `plot_by_labels` takes them."""
    labels = list(next(iter(accuracies.values())))
    rows = [(name, *(mean_std(a[n]) for n in labels)) for name, a in accuracies.items()]
    head = ("method", *(f"{n} per class" for n in labels))
    return Table(f"{what}, by labels per class", head, rows)


def labels_figure(
    what: str, accuracies: dict[str, dict[int, np.ndarray]], width: float = 7.6, height: float = 3.8
) -> Any:
    """Return a figure of `plot_by_labels` with its legend, sizes in inches."""
    figure = new_figure(width, height)
    axes = figure.subplots()
    plot_by_labels(axes, accuracies, 0.03)
    axes.set_ylabel(f"{what}, %")
    figure.legend(frameon=False, loc="outside right center")
    return figure


def plot_by_labels(axes: Any, accuracies: dict[str, dict[int, np.ndarray]], step: float) -> None:
    """Plot accuracy against labels per class: one line per method, with standard deviations.

    Args:
      axes: Axes of matplotlib.
      accuracies: Accuracies, method -> labels per class (0 for all) -> (seeds,).
      step: Horizontal distance between the lines, so that they do not overlap.
    """
    for i, (name, found) in enumerate(accuracies.items()):
        places = np.arange(len(found)) + step * (i - len(accuracies) / 2)
        means = [100 * a.mean() for a in found.values()]
        errors = [100 * np.nan_to_num(deviation(a)) for a in found.values()]
        style: Any = dict(color=COLORS[i % len(COLORS)], marker="o", markersize=4, capsize=2)
        axes.errorbar(places, means, errors, label=name, **style)
    labels = list(next(iter(accuracies.values())))
    axes.set_xticks(range(len(labels)), [str(n or "all") for n in labels])
    axes.set_xlabel("labels per class")
    grid(axes)
