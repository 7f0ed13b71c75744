"""Train many runs at once in one program: seeds, learning rates and other numbers."""

import functools
import inspect
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnet.core import Layer, Params
from jaxnet.services import checks, preemption
from jaxnet.services.checks.keywords import explain_keywords
from jaxnet.services.functions import function_name
from jaxnet.services.progress import progress_bar
from jaxnet.services.table import Number, Table, Tabular
from jaxnet.services.trees import PyTree, describe, floats_of, key_spec
from jaxnet.training.batching import Batching, rows_in
from jaxnet.training.checkpoints import best_mode
from jaxnet.training.data_adapter import DataAdapter, PreparedData, data_on_device
from jaxnet.training.evaluate import loss_first, measure, predict
from jaxnet.training.loss_scale import LossScale
from jaxnet.training.objective import Supervised, mean_of
from jaxnet.training.objective_trace import rows_are_in_order, trace_or_none
from jaxnet.training.placement import shardings_of
from jaxnet.training.source import resident_programs
from jaxnet.training.train_state import TrainState, only, without_weak_types
from jaxnet.training.trainer import Trainer
from jaxnet.training.trainer import trainer as make_trainer


class Sweep(NamedTuple):
    """The result of `sweep`; prints as a table.

    Fields:
      settings: Settings of the grid, in the order of `itertools.product`: name -> value.
      seeds: Seeds of the runs per setting.
      train_state: Train states of all runs. params, state and opt_state have two leading axes
        (settings, seeds), key has the axis of seeds, and step has neither.
      train: Means over each epoch's examples: metric -> (settings, seeds, epochs).
      evaluation: The same on the `evaluate` data or on the fold held out; None without either.
      seconds: Seconds of everything, compilation included.
      outputs: With folds, the outputs of the net, each from the run that was not trained on the
        example, NumPy arrays (settings, examples, ...); None without folds, and if the objective is
        not from `jn.supervised`.
      folds: Number of folds, which then take the place of the seeds; else None.
    """

    settings: list[dict[str, float]]
    seeds: list[int]
    train_state: TrainState
    train: dict[str, np.ndarray]
    evaluation: dict[str, np.ndarray] | None
    seconds: float
    outputs: PyTree = None
    folds: int | None = None

    def member(self, setting: int, seed: int) -> TrainState:
        """Return one run by its indices, to use or to train further with `fit`.

        Args:
          setting: Index of the setting, 0 for the first row of the table.
          seed: Index among the seeds, not the seed itself.

        Raises:
          IndexError: If there is no such run.
        """
        settings, seeds = len(self.settings), len(self.seeds)
        for what, i, count in (("setting", setting, settings), ("seed", seed, seeds)):
            if not -count <= i < count:  # JAX would use the last run
                raise IndexError(
                    f"Sweep: member takes indices, {what} from 0 to {count - 1}, got {i}"
                )

        def of_run(part):
            return jax.tree.map(lambda leaf: leaf[setting, seed], part)

        every = self.train_state
        opt_state = of_run(every.opt_state)
        if self.settings[0]:
            opt_state = _without_hyperparams(opt_state)
        return every._replace(
            params=of_run(every.params),
            state=of_run(every.state),
            opt_state=opt_state,
            key=every.key[seed],
        )

    def rows(self, metric: str = "loss", part: str | None = None) -> list[dict[str, float]]:
        """Return a row per setting: its values, and the metric after the last epoch over seeds.

        Args:
          metric: "loss" or a metric of the objective.
          part: "train" or "evaluation"; by default "evaluation" if there is one.

        Returns:
          For each setting its values, then mean, low and high (the 95% interval of the mean by
            Student's t; NaN for one seed; clipped to [0, 1] if the metric stays in [0, 1]), std
            (the sample standard deviation over seeds), min, max and seeds.

        Raises:
          KeyError: If there is no such metric or part.
        """
        from scipy.stats import t  # slow to import, and JAX depends on scipy

        part = part or ("train" if self.evaluation is None else "evaluation")
        parts = {"train": self.train, "evaluation": self.evaluation}
        values = parts.get(part)
        if values is None or metric not in values:
            names = ", ".join(sorted(values)) if values else "no metrics"
            raise KeyError(f"Sweep.rows: {part!r} has no metric {metric!r}; it has {names}")
        curves = [metrics[metric] for metrics in parts.values() if metrics and metric in metrics]
        is_fraction = metric != "loss" and all(map(_in_unit, curves))
        rows = []
        for setting, last in zip(self.settings, values[metric][..., -1], strict=True):
            n = len(last)
            mean = float(last.mean())
            with np.errstate(invalid="ignore"):  # for a run that diverged
                spread = float(last.std(ddof=1)) if n > 1 else math.nan
            half = float(t.ppf(0.975, n - 1)) * spread / math.sqrt(n)  # NaN for n = 1
            low, high = mean - half, mean + half
            if is_fraction:
                low, high = np.clip([low, high], 0, 1).tolist()
            row = {"mean": mean, "low": low, "high": high, "std": spread}
            extremes = {"min": float(last.min()), "max": float(last.max())}
            rows.append(setting | row | extremes | {"seeds": n})
        return rows

    def best(self, metric: str = "loss", part: str | None = None, mode: str | None = None) -> int:
        """Return the index of the best setting by its mean metric.

        Runs that diverged count as worst. Choose on different data from the data you report.

        Args:
          metric, part: As in `rows`.
          mode: Whether the lowest ("min") or the highest ("max") value is the best. Needed unless
            `metric` is a loss, whose lowest value is the best, or the accuracy.
        """
        mean = np.array([row["mean"] for row in self.rows(metric, part)])
        mode = best_mode("Sweep.best", metric, mode or {"accuracy": "max"}.get(metric))
        mean = mean if mode == "min" else -mean
        return int(np.argmin(np.where(np.isfinite(mean), mean, np.inf)))

    def table(self) -> Table:
        """Return a row per setting: the last value of each metric, and the interval of its mean."""
        part = "train" if self.evaluation is None else "evaluation"
        metrics = self.train if self.evaluation is None else self.evaluation
        head = *self.settings[0], *(f"{part} {metric} (95%)" for metric in metrics)
        rows = [[Number(f"{value:g}") for value in setting.values()] for setting in self.settings]
        for metric in metrics:
            for cells, row in zip(rows, self.rows(metric), strict=True):
                cells.append(Number(f"{row['mean']:.4f} ({row['low']:.4f} to {row['high']:.4f})"))
        runs = f"{len(self.seeds)} {'folds' if self.folds else 'seeds'}"
        note = f"{runs} each, {self.seconds:.3g} s in all"
        return Table("", head, [tuple(cells) for cells in rows], notes=[note])

    __str__ = __repr__ = Tabular.__str__  # the arrays inside would fill pages
    _repr_html_ = Tabular._repr_html_


def _without_diverged(metrics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return metrics that are NaN where the loss is: of outputs of NaN, an accuracy would be 0."""
    diverged = np.isnan(metrics["loss"])
    return {name: np.where(diverged, np.nan, values) for name, values in metrics.items()}


def _in_unit(curves: np.ndarray) -> bool:
    """Return whether a metric stays in [0, 1], as a fraction such as an accuracy does."""
    inside = (curves >= 0) & (curves <= 1)
    return bool((inside | np.isnan(curves)).all())


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
    folds: int | None = None,
    progress: bool = True,
) -> Sweep:
    """Train an objective with many seeds and settings at once, in one jitted program.

    Each run gives, up to rounding, the same results as a single run: `jn.trainer(objective,
    optimizer(**setting))`, `init` with `jax.random.key(seed)`, then `fit`. If a run diverges, its
    results are NaN, and the other runs are not affected.

    If the data is on a mesh, each batch is split over the devices. The runs are not split: every
    device holds all of them.

    Args:
      objective: Objective, such as `jn.supervised(net, loss)`.
      optimizer: Function that makes the optimizer from a setting, e.g. `optax.adam` for a grid of
        learning_rate.
      data: Arrays with one example per row, all of them in memory.
      epochs: Number of passes over the data, at least 1.
      seeds: Number of seeds, counted from 0, or a list of seeds.
      grid: Dict from names of arguments of `optimizer` to numbers. Every combination is a setting.
        By default, the optimizer is called without arguments.
      batch_size: Number of examples per step, the same for all runs.
      evaluate: Data like `data`, measured after each epoch.
      shuffle: Whether the order is drawn again for each epoch.
      params: Params to start from, all or some of them, as in `trainer.init`. Each array has a
        leading axis of seeds.
      own_data: Whether each seed has its own data, such as its own fold. `data` and `evaluate` then
        have a leading axis of seeds. To measure all seeds on the same examples, repeat them:
        `jax.tree.map(lambda a: jnp.broadcast_to(a, (seeds, *a.shape)), evaluate)`.
      folds: Number of parts for cross-validation, instead of `evaluate`. The examples are cut at
        random into parts of equal size, give or take one example. Run i, whose seed is i or
        `seeds[i]`, trains on all parts but the i-th and is measured on the i-th. All runs train on
        equally many examples and are measured on equally many, so a run may leave out one example
        of either kind. The device holds the data once per fold.
      progress: Whether to show a progress bar.

    Returns:
      A `Sweep` with the curves and the train states of all runs, (settings, seeds, ...). With
        `folds`, it also has the outputs for all examples, each from the run that did not train on
        it; the intervals are over folds, whose training data overlap, so they are a bit too narrow.

    Raises:
      ValueError: If `epochs` is below 1, or if there are no seeds or numbers in the grid.
      ValueError: If the data does not have the shapes that the objective expects.
      ValueError: If `folds` is given with `evaluate` or `own_data`, or exceeds the examples.
      ValueError: If `folds` is given and the rows of a batch continue those of the batch before.
      TypeError: If the optimizer does not take the grid's names, or if a value is not a number.

    Example:
      >>> x, y = jnp.eye(4), jnp.array([0, 1, 0, 1])
      >>> loss = optax.softmax_cross_entropy_with_integer_labels
      >>> objective = jn.supervised(jn.dense(2), loss)
      >>> grid = {"learning_rate": [0.1, 1.0]}
      >>> result = jn.sweep(objective, optax.sgd, (x, y), epochs=9, grid=grid)
      >>> print(result.table())
      learning_rate           train loss (95%)
      ────────────────────────────────────────
                0.1  0.7396 (0.5668 to 0.9124)
                  1  0.2510 (0.2186 to 0.2834)
      5 seeds each, ... s in all
      >>> best = result.member(result.best(), 0)  # the train state of its first seed

      Cross-validation:

      >>> result = jn.sweep(objective, optax.sgd, (x, y), epochs=9, grid=grid, folds=2)
      >>> result.outputs[result.best()].shape  # of each example, from the run that left it out
      (4, 2)
    """
    began = time.perf_counter()
    checks.all_at_least("sweep", epochs=epochs, batch_size=batch_size)
    checks.check_options("sweep", shuffle=shuffle, own_data=own_data, progress=progress)
    words = "a layer, such as jn.supervised(net, loss)"
    checks.check_type("sweep", "objective", objective, Layer, words)
    if folds is not None and (evaluate is not None or own_data):
        raise ValueError("sweep: folds= cuts the data; leave out evaluate= and own_data=")
    settings = _settings({} if grid is None else grid)
    _check_optimizer(optimizer, settings[0])
    checks.check_arrays("sweep: params", params)
    items = "seeds" if own_data else "examples"
    data = data_on_device(data, "sweep: data", items, finite=own_data)
    runs = _Runs(
        objective=objective,
        optimizer=optimizer,
        settings=settings,
        seeds=_seeds(seeds) if folds is None else _seeds_of_folds(folds, seeds, data),
        epochs=epochs,
        batch_size=batch_size,
        shuffle=shuffle,
        params=params,
        progress=progress,
    )
    if folds is not None:
        result = _cross_validated(runs, data)
    else:
        test = (
            None
            if evaluate is None
            else data_on_device(evaluate, "sweep: evaluate", items, finite=own_data)
        )
        result = runs.train(data, test, own_data)
    return result._replace(seconds=time.perf_counter() - began)


@dataclass(frozen=True)
class _Runs:
    """The runs of a sweep, apart from their data; the fields are arguments of `sweep`, checked."""

    objective: Layer
    optimizer: Callable[..., optax.GradientTransformation]
    settings: list[dict[str, float]]
    seeds: list[int]
    epochs: int
    batch_size: int
    shuffle: bool
    params: Params | None
    progress: bool

    def train(self, data: PyTree, test: PyTree, own_data: bool) -> Sweep:
        """Train and measure all runs.

        Args:
          data: Arrays on the device.
          test: Arrays on the device to measure after each epoch; None without any.
          own_data: Whether both have a leading axis of seeds.
        """
        _check_axes(data, test, self.params, len(self.seeds), own_data)
        _check_places(data, own_data)
        batch = _specs(_of_one_run(data, own_data), self.batch_size)
        epoch, batching = self._program(batch, data, test, own_data)
        train_state = self._start(batch)
        if batching.shardings is not None:  # every device has all members and a part of each batch
            train_state = jax.device_put(train_state, NamedSharding(batching.shardings.mesh, P()))
        means = []
        label = f"{len(self.settings)} settings x {len(self.seeds)} seeds"
        with progress_bar(self.epochs, label, self.progress) as bar:
            for _ in range(self.epochs):
                preemption.leave("sweep", "all runs of it are lost; begin again with fewer epochs")
                train_state, epoch_means = epoch(train_state, data, test)
                means.append(jax.device_get(epoch_means))
                bar.update(1)
        curves = jax.tree.map(lambda *each: np.stack(each, -1), *means)
        trained, *tested = (_without_diverged(loss_first(part)) for part in curves)
        evaluation = tested[0] if tested else None
        return Sweep(self.settings, self.seeds, train_state, trained, evaluation, seconds=math.nan)

    def _make_optimizer(self, setting: Mapping[str, Any]) -> optax.GradientTransformation:
        """Return the optimizer of a setting, whose numbers are part of its state."""
        if not setting:
            return self.optimizer()
        return _with_hyperparams(self.optimizer, setting)(**setting)

    def _program(
        self, batch: PyTree, data: PyTree, test: PyTree, own_data: bool
    ) -> tuple[Callable, Batching]:
        """Return the program of an epoch of all runs, and how their data become batches."""
        trainer = make_trainer(self.objective, self._make_optimizer(self.settings[0]))
        first = jax.eval_shape(trainer.init, jax.random.key(0), batch)
        prepare = functools.partial(_prepared, self.objective, first, own_data)
        prepared = prepare("sweep: data", data, self.batch_size, train=True, shuffle=self.shuffle)
        batching = prepared.batching
        measure_run = None
        if test is not None:
            prepared = prepare("sweep: evaluate", test, batching.size)  # as fit evaluates
            # XLA divides batches inside the program.
            test_batching = Batching(prepared.batching.size)
            measure_run = measure(self.objective, test_batching, None, prepared.carried)
        epoch = _epoch_of_run(trainer, batching, self.shuffle, measure_run)
        return _over_runs(epoch, own_data), batching

    def _start(self, batch: PyTree) -> TrainState:
        """Initialize all runs, one seed after another, which compiles nothing."""
        init = make_trainer(self.objective, optax.identity()).init
        fresh = []
        for i, seed in enumerate(self.seeds):
            params = jax.tree.map(lambda leaf, i=i: leaf[i], self.params)
            fresh.append(init(jax.random.key(seed), batch, params))
        by_seed: TrainState = jax.tree.map(lambda *leaves: jnp.stack(leaves), *fresh)

        def for_each_setting(part):
            count = len(self.settings)
            return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), part)

        opt_state = self._opt_states(by_seed.params)
        scaling = for_each_setting(by_seed.opt_state)
        if isinstance(scaling, LossScale):
            opt_state = scaling._replace(optimizer=opt_state)
        return by_seed._replace(
            step=fresh[0].step,
            params=for_each_setting(by_seed.params),
            state=for_each_setting(by_seed.state),
            opt_state=opt_state,
        )

    def _opt_states(self, params: Params) -> PyTree:
        """Return the state of the optimizer of each run, (settings, seeds, ...)."""

        def start(values, params):
            return without_weak_types(self._make_optimizer(values).init(floats_of(params)))

        values = {}
        for name in self.settings[0]:
            numbers = [setting[name] for setting in self.settings]
            values[name] = jnp.array(numbers, jnp.float32)
        by_seed = jax.vmap(start, (None, 0))
        by_setting = jax.vmap(by_seed, (0, None), axis_size=len(self.settings))
        return jax.jit(by_setting)(values, params)


def _with_hyperparams(optimizer: Callable, names: Iterable[str]) -> Callable:
    """Return the optimizer with the numbers of the grid as part of its state.

    It takes only these arguments. Of others, optax would trace numbers, and call functions as
    schedules.
    """

    def from_grid(**values):
        return optimizer(**values)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, keyword) for name in names]
    from_grid.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return optax.inject_hyperparams(from_grid)


def _without_hyperparams(opt_state: PyTree) -> PyTree:
    """Return what a trainer with the settings of a run has: a state without their values."""
    if isinstance(opt_state, LossScale):
        return opt_state._replace(optimizer=opt_state.optimizer.inner_state)
    return opt_state.inner_state


def _check_axes(data: PyTree, test: PyTree, params: PyTree, seeds: int, own_data: bool) -> None:
    """Raise unless the params, and data of one seed each, have a leading axis of seeds."""
    per_seed = {"data": data, "evaluate": test} if own_data else {}
    for what, tree in (per_seed | {"params": params}).items():
        sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(tree)}
        if sizes - {(seeds,)}:
            raise ValueError(
                f"sweep: {what} must have a leading axis of {seeds} seeds, got {sorted(sizes)}"
            )
    if own_data and test is not None and _axes(data) != _axes(test):
        raise ValueError(
            f"sweep: evaluate must have the axes of data, seeds and examples first, got "
            f"{describe(test)} for data {describe(data)}"
        )
    for what, tree in per_seed.items():
        counts = {leaf.shape[1:2] for leaf in jax.tree.leaves(tree)}
        if len(counts) > 1 or () in counts:
            raise ValueError(
                f"sweep: {what} must be arrays (seeds, examples, ...) with one number of "
                f"examples, got {describe(tree)}"
            )


def _axes(data: PyTree) -> list[int]:
    """Return the number of axes of each array."""
    return [leaf.ndim for leaf in jax.tree.leaves(data)]


def _of_one_run(data: PyTree, own_data: bool) -> PyTree:
    """Return the examples of the first run."""
    return jax.tree.map(lambda leaf: leaf[0], data) if own_data else data


def _specs(data: PyTree, size: int) -> PyTree:
    """Return the specs of a batch of at most this size."""
    rows = min(size, rows_in(data))
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype), data
    )


def _prepared(
    objective: Layer,
    train_state: TrainState,
    own_data: bool,
    who: str,
    data: PyTree,
    batch_size: int,
    **options: Any,
) -> PreparedData:
    """Return the prepared data of all runs, of which each run reads those of its seed."""
    rows = rows_in(_of_one_run(data, own_data))
    if own_data:
        data = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), data)
    size = min(batch_size, rows)
    adapter = DataAdapter(
        who.removesuffix(": data"),
        only(objective),
        size,
        data_name=who,
        rows_per_pass=rows,
        **options,
    )
    return adapter.prepare_on_device(train_state, data)


def _epoch_of_run(
    trainer: Trainer, batching: Batching, shuffle: bool, measure_run: Callable | None
) -> Callable:
    """Return the function (train_state, data, test) -> (train_state, means) of one run."""
    begin, advance = resident_programs(trainer, batching, shuffle, None)

    def means_of(sums):
        return {name: mean_of(*average) for name, average in sums.items()}

    def epoch(train_state, data, test):
        train_state, (_, order, totals) = begin(train_state, data)
        span = jnp.int32(0), jnp.int32(len(order))
        train_state, totals = advance(train_state, data, totals, order, *span)
        sums = [totals.sums]
        if measure_run is not None:
            arguments = train_state.params, train_state.state, test, jax.random.key(0), jnp.int32(0)
            tested, _ = measure_run(*arguments)
            sums.append(tested)
        return train_state, [means_of(each) for each in sums]

    return epoch


def _over_runs(epoch: Callable, own_data: bool) -> Callable:
    """Return the program of an epoch of all runs, (settings, seeds).

    Runs with the same seed share their randomness, so the order of examples is drawn once per seed.
    """
    data_axis = 0 if own_data else None  # the axis of seeds in the data
    # Which parts of a TrainState have an axis of runs.
    by_setting: Any = TrainState(step=None, params=0, state=0, opt_state=0, key=None)  # type: ignore
    by_seed: Any = by_setting._replace(key=0)
    epoch = jax.vmap(epoch, (by_seed, data_axis, data_axis), (by_seed, 0))
    return jax.jit(jax.vmap(epoch, (by_setting, None, None), (by_setting, 0)), donate_argnums=0)


def _cross_validated(runs: _Runs, data: PyTree) -> Sweep:
    """Train each run on all folds but its own, and measure it on that one."""
    count = rows_in(data)
    _check_independent(runs.objective, data, min(runs.batch_size, count))
    folds = len(runs.seeds)
    order = np.random.default_rng(0).permutation(count)
    parts = [order[i::folds] for i in range(folds)]
    most, least = len(parts[0]), len(parts[-1])
    rest = []
    for i in range(folds):
        others = np.concatenate(parts[:i] + parts[i + 1 :])
        rest.append(others[: count - most])
    held = [part[:least] for part in parts]
    train, test = _take(data, np.stack(rest)), _take(data, np.stack(held))
    result = runs.train(train, test, own_data=True)._replace(folds=folds)
    if not isinstance(runs.objective.inside, Supervised):
        return result
    net = runs.objective.inside.net
    return result._replace(outputs=_outputs_of_folds(result, net, data, parts, runs.batch_size))


def _take(data: PyTree, rows: np.ndarray) -> PyTree:
    """Return the examples of these rows."""
    return jax.tree.map(lambda leaf: leaf[rows], data)


def _outputs_of_folds(
    result: Sweep, net: Layer, data: PyTree, parts: list[np.ndarray], batch_size: int
) -> PyTree:
    """Return the outputs of a net for each example, from the runs that did not train on it."""
    back = np.argsort(np.concatenate(parts))  # from the order of the folds to that of the data
    most = len(parts[0])
    by_setting = []
    for i in range(len(result.settings)):
        by_fold = []
        for fold, part in enumerate(parts):
            run = result.member(i, fold)
            x, _ = _take(data, np.resize(part, most))  # of one size, so that one program serves all
            y = predict(net, run.params, run.state, x, batch_size=batch_size)
            by_fold.append(jax.tree.map(lambda leaf, n=len(part): leaf[:n], y))
        by_setting.append(jax.tree.map(lambda *leaves: np.concatenate(leaves)[back], *by_fold))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *by_setting)


def _check_independent(objective: Layer, data: PyTree, size: int) -> None:
    """Raise if rows continue each other, which those of a random fold do not."""
    first = trace_or_none(jax.eval_shape, objective.init, key_spec(), _specs(data, size))
    if first is None:
        return
    _, state = first
    if rows_are_in_order(objective, state, data, size):
        raise ValueError(
            "sweep: folds= cuts the examples at random, but each batch must continue the previous "
            "batch, since the state has an entry for each row, such as the carry of "
            "truncated_bptt. Leave out folds=, and pass evaluate= instead"
        )


def _check_places(data: PyTree, own_data: bool) -> None:
    """Raise if a sweep cannot use data divided like this."""
    if jax.process_count() > 1:
        raise ValueError("sweep: runs in one process; in several, use fit, one run after another")
    places = shardings_of(data)
    if places is not None and (own_data or AxisType.Explicit in places.mesh.axis_types):
        raise ValueError(
            "sweep: on a mesh it splits batches, along axes of type Auto, not seeds; pass data "
            "that all seeds share, or arrays on one device"
        )


def _check_optimizer(optimizer: Any, setting: Mapping[str, float]) -> None:
    form = 'the names in grid, such as optax.adam with grid={"learning_rate": [1e-3, 1e-2]}'
    checks.a_function("sweep", "optimizer", optimizer, form)
    try:
        inspect.signature(optimizer).bind(**setting)
    except TypeError as error:
        raise TypeError(
            f"sweep: optimizer must be a function of {form}; {function_name(optimizer)}: {error}"
        ) from None


def _seeds(seeds: Any) -> list[int]:
    if isinstance(seeds, np.ndarray | jax.Array):
        seeds = np.asarray(seeds).tolist()
    if isinstance(seeds, Sequence) and not isinstance(seeds, str | bytes):
        for seed in seeds:
            checks.at_least("sweep", "seeds", seed, -(2**63))
    else:
        checks.at_least("sweep", "seeds", seeds, 0)
        seeds = range(int(seeds))
    if not seeds:
        raise ValueError("sweep: expected at least one seed, got none")
    return [int(seed) for seed in seeds]


def _seeds_of_folds(folds: Any, seeds: Any, data: PyTree) -> list[int]:
    """Return a seed for each fold."""
    checks.between("sweep", "folds", folds, 2, rows_in(data))
    fold_seeds = list(range(folds)) if isinstance(seeds, int) else _seeds(seeds)
    if len(fold_seeds) != folds:
        raise ValueError(f"sweep: folds={folds} needs a seed for each, got {len(fold_seeds)} seeds")
    return fold_seeds


def _settings(grid: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    words = "a dict such as {'learning_rate': [0.1, 0.01]}"
    checks.check_type("sweep", "grid", grid, Mapping, words)
    for name, values in grid.items():
        numbers = np.asarray(values)
        if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iuf":
            raise TypeError(f"sweep: grid[{name!r}] must be a sequence of numbers, got {values!r}")
    combinations = itertools.product(*grid.values())
    return [dict(zip(grid, map(float, values), strict=True)) for values in combinations]
