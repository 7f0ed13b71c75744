"""Many runs side by side in one program: seeds, learning rates and other numbers."""

import inspect
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnet.checks import a_function, at_least, check_arrays, check_options
from jaxnet.core import Layer, Memo, Params, PyTree, function_name
from jaxnet.keywords import explain_keywords
from jaxnet.markup import html_table
from jaxnet.progress import progress_bar
from jaxnet.training.evaluate import measure, on_device
from jaxnet.training.placement import check_batch, in_batches, places
from jaxnet.training.source import resident_programs
from jaxnet.training.trainer import TrainState, strong
from jaxnet.training.trainer import trainer as make_trainer


class Sweep(NamedTuple):
    """The result of `sweep`; prints as a table.

    Fields:
      settings: of the grid, in the order of `itertools.product`: name -> value.
      seeds: of the runs per setting.
      train_state: all that was trained: params, state and opt_state have two leading axes
        (settings, seeds), key has that of seeds, and step has none.
      train: metric -> (settings, seeds, epochs), means over each epoch's examples.
      test: the same on the `evaluate` data; None without.
      seconds: of everything, compilation included.
    """

    settings: list[dict[str, float]]
    seeds: list[int]
    train_state: TrainState
    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray] | None
    seconds: float

    def member(self, setting: int, seed: int) -> TrainState:
        """One run by its indices, to use or to train further with `fit`.

        Args:
          setting: its index, 0 for the first row of the table.
          seed: its index among the seeds, not the seed itself.

        Raises:
          IndexError: for a run that there is not.
        """
        every = self.train_state
        counts = {"setting": len(self.settings), "seed": len(self.seeds)}
        for (what, count), i in zip(counts.items(), (setting, seed), strict=True):
            if not -count <= i < count:  # JAX would take the last one
                raise IndexError(
                    f"Sweep: member takes indices, {what} from 0 to {count - 1}, got {i}"
                )
        trained = every.params, every.state, every.opt_state
        params, state, opt_state = jax.tree.map(lambda leaf: leaf[setting, seed], trained)
        return TrainState(every.step, params, state, opt_state, every.key[seed])

    def rows(self, metric: str = "loss", part: str | None = None) -> list[dict[str, float]]:
        """One row per setting: its values, and the metric after the last epoch over the seeds.

        Args:
          metric: "loss" or one of the objective's.
          part: "train" or "test"; by default test where there is one.

        Returns:
          For each setting its values, then mean, low and high (the 95% interval of the mean by
          Student's t; NaN for one seed; of a metric that stays in [0, 1], within it), std, min,
          max and seeds.

        Raises:
          KeyError: for a metric or a part that is not there.
        """
        part = part or ("train" if self.test is None else "test")
        parts = {"train": self.train, "test": self.test}
        values = parts.get(part)
        if values is None or metric not in values:
            there = {name: sorted(found) for name, found in parts.items() if found is not None}
            raise KeyError(f"Sweep: no {metric!r} of {part!r}; there are {there}")
        # A metric that never leaves [0, 1] is a share, such as an accuracy, and so is its mean.
        share = metric != "loss" and _in_unit(
            found[metric] for found in parts.values() if found and metric in found
        )
        found = []
        for setting, last in zip(self.settings, values[metric][..., -1], strict=True):
            n, mean = len(last), float(last.mean())
            with np.errstate(invalid="ignore"):  # of a run that diverged
                spread = float(last.std(ddof=1)) if n > 1 else math.nan
            half = _quantile(n - 1) * spread / math.sqrt(n) if n > 1 else math.nan
            low, high = mean - half, mean + half
            if share:
                low, high = np.clip([low, high], 0, 1).tolist()
            found.append(
                {
                    **setting,
                    "mean": mean,
                    "low": low,
                    "high": high,
                    "std": spread,
                    "min": float(last.min()),
                    "max": float(last.max()),
                    "seeds": n,
                }
            )
        return found

    def best(self, metric: str = "loss", part: str | None = None) -> int:
        """Index of the setting with the lowest mean loss, or the highest mean of another metric.

        Runs that diverged count as worst. Choose on other data than those you report.
        """
        mean = np.array([row["mean"] for row in self.rows(metric, part)])
        mean = mean if metric == "loss" else -mean
        return int(np.argmin(np.where(np.isfinite(mean), mean, np.inf)))

    def _table(self) -> tuple[list[str], list[list[str]], str]:
        """Head, rows and last line of the printed table."""
        part = "train" if self.test is None else "test"
        metrics = self.train if self.test is None else self.test
        head = [*self.settings[0], *(f"{part} {metric} (95%)" for metric in metrics)]
        lines = []
        tables = [self.rows(metric) for metric in metrics]
        for i, setting in enumerate(self.settings):
            cells = [f"{value:g}" for value in setting.values()]
            for table in tables:
                row = table[i]
                cells.append(f"{row['mean']:.4f} ({row['low']:.4f} to {row['high']:.4f})")
            lines.append(cells)
        return head, lines, f"{len(self.seeds)} seeds each, {self.seconds:.3g} s in all"

    def __str__(self) -> str:
        head, rows, note = self._table()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        text = ["  ".join(map(str.rjust, line, widths)).rstrip() for line in [head, *rows]]
        text.insert(1, "─" * (sum(widths) + 2 * (len(widths) - 1)))
        return "\n".join([*text, note])

    __repr__ = __str__  # the arrays inside would fill pages

    def _repr_html_(self) -> str:
        head, rows, note = self._table()
        return html_table(head, rows, right=[True] * len(head), notes=[note])


@explain_keywords
def sweep(
    objective: Layer,
    optimizer: Callable[..., optax.GradientTransformation],
    data: PyTree,
    *,
    epochs: int,
    seeds: int | Sequence[int] = 5,
    grid: Mapping[str, Sequence[float]] | None = None,
    batch_size: int = 64,
    evaluate: PyTree | None = None,
    shuffle: bool = True,
    params: Params | None = None,
    own_data: bool = False,
    progress: bool = True,
) -> Sweep:
    """Trains an objective with many seeds and settings at once, in one jitted program.

    Each run is the one that `jn.trainer(objective, optimizer(**setting))`, its `init` with
    `jax.random.key(seed)` and `fit` would make, with the same weights, order and randomness, up to
    rounding. A run that diverges harms no other, and shows as NaN.

    Data that lie on a mesh split each batch over its devices; members are not split: every device
    holds all of them.

    Args:
      objective: such as `jn.supervised(net, loss)`.
      optimizer: makes the optimizer from a setting, e.g. `optax.adam` for a grid of learning_rate.
      data: arrays with one example per row, all of them in memory.
      epochs: passes over the data, at least 1.
      seeds: their number, counted from 0, or a list of them.
      grid: name of an argument of `optimizer` -> numbers; every combination is a setting. Without
        it the optimizer is made without arguments.
      batch_size: examples per step, the same for all runs, since it is a shape.
      evaluate: data like `data`, measured after each epoch.
      shuffle: whether the order is drawn again for each epoch.
      params: to start from in place of fresh ones, each leaf with a leading axis of seeds, for
        example pretrained.
      own_data: whether `data` has a leading axis of seeds too, so that each seed has its own.
      progress: whether to show a progress bar.

    Raises:
      ValueError: for no epochs, seeds or numbers in the grid, or data that do not fit.
      TypeError: for an optimizer that does not take the grid's names, or a value that is not a
        number.

    Example:
      >>> x, y = jnp.eye(4), jnp.array([0, 1, 0, 1])
      >>> loss = optax.softmax_cross_entropy_with_integer_labels
      >>> objective = jn.supervised(jn.dense(2), loss)
      >>> grid = {"learning_rate": [0.1, 1.0]}
      >>> found = jn.sweep(objective, optax.sgd, (x, y), epochs=9, grid=grid)
      >>> found.train["loss"].shape, found.settings[found.best()]
      ((2, 5, 9), {'learning_rate': 1.0})
    """
    began = time.perf_counter()
    at_least("sweep", "epochs", epochs)
    at_least("sweep", "batch_size", batch_size)
    check_options("sweep", shuffle=shuffle, own_data=own_data)
    seeds = _seeds(seeds)
    settings = _settings({} if grid is None else grid)
    _check_optimizer(optimizer, settings[0])
    make = optax.inject_hyperparams(optimizer) if grid else optimizer
    trainer = make_trainer(objective, make(**settings[0]))
    data = on_device(data, "sweep: data")
    test = None if evaluate is None else on_device(evaluate, "sweep: evaluate")
    if params is not None:
        check_arrays("sweep: params", params)
    for what, tree in (("data", data if own_data else None), ("params", params)):
        sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(tree)}
        if sizes - {(len(seeds),)}:
            raise ValueError(
                f"sweep: {what} must have a leading axis of {len(seeds)} seeds, got {sorted(sizes)}"
            )
    count = jax.tree.leaves(data)[0].shape[1 if own_data else 0]
    size = min(batch_size, count)
    steps = -(-count // size)
    split = _split(data, own_data, size)
    programs = resident_programs(trainer, size, shuffle, split=split)

    def epoch(train_state, data):
        train_state, (_, order, totals) = programs.begin(train_state, data)
        span = jnp.int32(0), jnp.int32(steps)
        train_state, totals = programs.advance(train_state, totals, data, order, *span)
        train = {name: total / weight for name, (total, weight) in totals.sums.items()}
        if test is None:
            return train_state, train, None
        many = jax.tree.leaves(test)[0].shape[0]
        cut = in_batches(check_batch("sweep", test, min(size, many)))
        run = measure(objective, Memo(), min(size, many), cut)
        found = run(train_state.params, train_state.state, test, jax.random.key(0))
        return train_state, train, {name: total / n for name, (total, n) in found.items()}

    # Runs of one seed share their randomness, so their order of examples is drawn once for all.
    seen = 0 if own_data else None  # the axis of seeds in data
    by_seed, by_setting = _axes(key=0), _axes(key=None)
    epoch = jax.vmap(epoch, (by_seed, seen), (by_seed, 0, 0))
    epoch = jax.jit(jax.vmap(epoch, (by_setting, None), (by_setting, 0, 0)), donate_argnums=0)
    example = jax.tree.map(lambda leaf: leaf[0], data) if own_data else data
    train_state = _start(objective, make, example, settings, seeds, params)
    if split is not None:  # members are on all devices, each of which has its part of a batch
        train_state = jax.device_put(train_state, NamedSharding(split[0].mesh, P()))
    trains, tests = [], []
    with progress_bar(epochs, f"{len(settings)} settings x {len(seeds)} seeds", progress) as bar:
        for _ in range(epochs):
            train_state, train, found = epoch(train_state, data)
            trains.append(jax.device_get(train))
            tests.append(jax.device_get(found))
            bar.update(1)

    def curves(found):
        names = sorted(found[0], key=lambda name: (name != "loss", name))
        return {name: np.stack([one[name] for one in found], -1) for name in names}

    return Sweep(
        settings,
        seeds,
        train_state,
        curves(trains),
        None if test is None else curves(tests),
        time.perf_counter() - began,
    )


def _split(data: PyTree, own_data: bool, size: int) -> tuple | None:
    """How batches are split; raises where the data lie as a sweep cannot have them."""
    split = places(data) if own_data else check_batch("sweep", data, size)
    if jax.process_count() > 1:
        raise ValueError("sweep: runs in one process; in several, use fit, one run after another")
    if split is not None and (own_data or AxisType.Explicit in split[0].mesh.axis_types):
        raise ValueError(
            "sweep: on a mesh it splits batches, along axes of type Auto, not seeds; pass data "
            "that all seeds share, or arrays on one device"
        )
    return split


def _axes(key: int | None) -> Any:
    """Which parts of a TrainState have an axis of members."""
    return TrainState(None, 0, 0, 0, key)  # type: ignore[arg-type]


def _check_optimizer(optimizer: Any, setting: Mapping[str, float]) -> None:
    form = 'the names in grid, such as optax.adam with grid={"learning_rate": [1e-3, 1e-2]}'
    a_function("sweep", "optimizer", optimizer, form)
    try:
        inspect.signature(optimizer).bind(**setting)
    except TypeError as error:
        raise TypeError(
            f"sweep: optimizer must be a function of {form}; {function_name(optimizer)}: {error}"
        ) from None


def _start(objective, make, data, settings, seeds, params) -> TrainState:
    """All members before their first step, drawn one seed after another: that compiles nothing."""

    def start(values, params):
        return strong(make(**values).init(params))

    init = make_trainer(objective, optax.identity()).init
    fresh = [init(jax.random.key(seed), data) for seed in seeds]
    first: TrainState = jax.tree.map(lambda *leaves: jnp.stack(leaves), *fresh)
    params = first.params if params is None else params
    values = {name: jnp.array([s[name] for s in settings], jnp.float32) for name in settings[0]}
    by_seed = jax.vmap(start, (None, 0))
    many = jax.jit(jax.vmap(by_seed, (0, None), axis_size=len(settings)))
    params, state = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (len(settings), *leaf.shape)), (params, first.state)
    )
    return TrainState(
        fresh[0].step,
        params,
        state,
        many(values, jax.tree.map(lambda leaf: leaf[0], params)),
        first.key,
    )


def _seeds(seeds: Any) -> list[int]:
    if isinstance(seeds, Sequence | np.ndarray | jax.Array) and not isinstance(seeds, str | bytes):
        seeds = seeds if isinstance(seeds, Sequence) else np.asarray(seeds).tolist()
        for seed in seeds:
            at_least("sweep", "seeds", seed, -(2**63))
        found = [int(seed) for seed in seeds]
    else:
        at_least("sweep", "seeds", seeds, 0)
        count: Any = seeds
        found = list(range(count))
    if not found:
        raise ValueError("sweep: expected at least one seed, got none")
    return found


def _settings(grid: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    if not isinstance(grid, Mapping):
        raise TypeError(
            "sweep: grid must be a dict such as {'learning_rate': [0.1, 0.01]}, got "
            f"{type(grid).__name__}"
        )
    for name, values in grid.items():
        numbers = np.asarray(values)
        if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iuf":
            raise TypeError(f"sweep: grid[{name!r}] must be a sequence of numbers, got {values!r}")
    combinations = itertools.product(*grid.values())
    return [dict(zip(grid, map(float, values), strict=True)) for values in combinations]


def _in_unit(curves: Iterable[np.ndarray]) -> bool:
    """Whether all values that are known lie in [0, 1]."""
    return all(bool(((values >= 0) & (values <= 1) | np.isnan(values)).all()) for values in curves)


def _quantile(freedom: int) -> float:
    """Two-sided 95% quantile of Student's t distribution."""
    from scipy.stats import t  # slow to import, and JAX depends on scipy

    return float(t.ppf(0.975, freedom))
