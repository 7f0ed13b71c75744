"""Epochs: the loop is the user's, and `fit` trains between its turns."""

import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.services.checks import all_at_least, all_native, at_least, check_options, check_type
from jaxnet.services.checks.keywords import explain_keywords
from jaxnet.services.peers import Stopped
from jaxnet.services.progress import progress_bar
from jaxnet.services.trees import PyTree
from jaxnet.services.warn import later_warning, warn
from jaxnet.training.data_adapter import DataAdapter, is_stream
from jaxnet.training.described import check_run, describe_run
from jaxnet.training.epoch import Epoch, Position
from jaxnet.training.evaluate import evaluate_prepared, means
from jaxnet.training.loss_scale import scales_in
from jaxnet.training.placement import agree_on, shardings_of
from jaxnet.training.ranges import warn_pixels
from jaxnet.training.source import REFRESH, Batches, Pace, Resident, Spent, Totals, source_of
from jaxnet.training.train_state import TrainState, check_train_state, only, without_weak_types
from jaxnet.training.trainer import Trainer
from jaxnet.training.watch import (
    check_count,
    explain_reuse,
    warn_below,
    warn_nonfinite,
    warn_skipped,
)


@explain_keywords
def fit(
    trainer: Trainer,
    train_state: TrainState,
    data: PyTree | Iterable[PyTree],
    *,
    epochs: int | None = None,
    steps: int | None = None,
    every: int | None = None,
    position: Position | None = None,
    batch_size: int = 64,
    evaluate: PyTree | None = None,
    shuffle: bool = True,
    steps_per_dispatch: int | None = None,
    progress: bool = True,
) -> Iterator[Epoch]:
    """Train a model, and yield an `Epoch` after each pass over the data.

    `fit` is a generator, so you stop early, save and plot with ordinary statements in your loop.
    Nothing runs before the first iteration. The `train_state` that you pass stays valid, and so
    does the `train_state` of each epoch.

    Args:
      trainer: Trainer from `jn.trainer`.
      train_state: Train state to start from, returned by `trainer.init` or taken from an earlier
        epoch. The count of its steps continues.
      data: Pytree of arrays with one example per row, usually `(x, y)`. It is moved to the device
        as a whole. If it does not fit, pass an iterable of batches that starts again for each
        epoch, such as a grain pipeline or a DataLoader. A list counts as a pytree.
      epochs: Number of passes over the data, at least 1.
      steps: Number of updates, instead of `epochs`, for an endless stream.
      every: Number of steps after which an `Epoch` is yielded, instead of after a pass.
      position: Position of an interrupted run: the `epoch.position` that belongs to `train_state`.
        The run continues with the same results as if it had not been interrupted, and `epochs` and
        `steps` count from its start. The iterators of a stream need get_state and set_state, as in
        grain; otherwise the stream must yield the same batches again.
      batch_size: Number of examples per step. The last batch is padded with examples from the
        beginning of the epoch. These do not count in the loss and the metrics.
      evaluate: Data like `data`, measured after each epoch.
      shuffle: Whether the order is drawn again for each epoch.
      steps_per_dispatch: Number of steps per dispatch; by default measured while running, so that a
        dispatch takes about 0.2 s.
      progress: Whether to show a progress bar, in a terminal or a notebook.

    Yields:
      An `Epoch` after each pass, or after every `every` steps. Its `train_state` is the result so
      far.

    Raises:
      TypeError: If the arguments are not a trainer and a TrainState.
      ValueError: If `epochs` is below 1, or if both or neither of epochs and steps are given.
      ValueError: If `data` is empty, has arrays of unequal lengths, or contains NaN or Inf.
      ValueError: If a generator is passed for several epochs.
      ValueError: If padding is needed and the objective returns one value per batch.
      ValueError: If `position` belongs to another run.
      ValueError: If arrays are not distributed over all processes of a run.

    Example:
      >>> data = jnp.eye(4), jnp.array([0, 1, 0, 1])
      >>> loss = optax.softmax_cross_entropy_with_integer_labels
      >>> trainer = jn.trainer(jn.supervised(jn.dense(2), loss), optax.sgd(1.0))
      >>> train_state = trainer.init(jax.random.key(0), data)
      >>> for epoch in jn.fit(trainer, train_state, data, epochs=9, batch_size=3):
      ...     print(f"epoch {epoch.number}: loss {epoch.train['loss']:.2f}")
      ...     if epoch.train["loss"] < 0.5:
      ...         break
      epoch 1: loss 0.72
      epoch 2: loss 0.64
      epoch 3: loss 0.50
      epoch 4: loss 0.33
      >>> params = epoch.train_state.params  # the trained ones
    """
    if (epochs is None) == (steps is None):
        raise ValueError(
            "fit: expected either epochs= or steps=, got "
            + ("none" if epochs is None else f"epochs={epochs!r:.60} and steps={steps!r:.60}")
        )
    at_least("fit", "batch_size", batch_size)
    all_at_least("fit", optional=True, epochs=epochs, steps=steps, every=every)
    at_least("fit", "steps_per_dispatch", steps_per_dispatch, optional=True)
    hint = "write fit(trainer, train_state, data, epochs=...)"
    check_type("fit", "", trainer, Trainer, "a trainer from jn.trainer first", hint)
    check_train_state("fit", train_state)
    train_state = without_weak_types(all_native(train_state, "fit"))
    check_options("fit", shuffle=shuffle, progress=progress)
    if evaluate is not None and trainer.objective is None:
        raise ValueError(
            "fit: evaluate= needs an objective; write jn.Trainer(init, step, objective=...), "
            "or make the trainer by jn.trainer"
        )
    check_type("fit", "position", position, Position | None, "the position of an Epoch")
    _check_iterators(data, evaluate, epochs, every)
    with explain_reuse():
        step = int(train_state.step)
        train_state, source = source_of(trainer, train_state, data, batch_size, shuffle)
        measure = _evaluation(trainer, train_state, evaluate, source.size)
    position = _position(trainer, source, position, step)
    end = _end(position, source.steps, epochs, steps)
    if end.reached(position, step):
        warn(
            "fit: the run was finished before, so there is no epoch to yield: what follows the "
            "loop can use the train_state that was passed"
        )
    pace = Pace(steps_per_dispatch)
    description = ", ".join(
        str((position.run or {}).get(name)) for name in ("objective", "optimizer")
    )
    loop = _FitLoop(trainer.objective, source, description, end, every, pace, measure, progress)
    return Epochs(trainer, loop.epochs(train_state, position))


def _check_iterators(data: Any, evaluate: Any, epochs: int | None, every: int | None) -> None:
    """Raise if an iterator that can be used once is to be read more often."""
    if isinstance(data, Generator | map | zip) and (epochs or 1) > 1:
        raise ValueError(
            f"fit: a {type(data).__name__} can be used once only, and epochs={epochs} starts it "
            "again; write steps=..., or pass an object whose __iter__ starts over for each epoch"
        )
    if isinstance(evaluate, Generator | map | zip) and (epochs != 1 or every):
        raise ValueError(
            f"fit: evaluate= is read in each epoch, and a {type(evaluate).__name__} can be used "
            "once only; pass arrays, or an object whose __iter__ starts over"
        )


def _position(
    trainer: Trainer, source: Resident | Batches, position: Position | None, step: int
) -> Position:
    """Return the position where a run starts or continues; raise if it belongs to another run.

    Args:
      trainer: Trainer of the run.
      source: Source of its batches, which a position moves on.
      position: Position to continue from; None for a new run.
      step: Step of the train_state.
    """
    description = describe_run(trainer, source.data, source.shuffle)
    per_pass = source.steps
    if position is None:
        passes = step // per_pass if per_pass else 0
        return Position(epoch=passes, done=0, start=step, size=0, run=description)
    steps_since_start = wanted = step - position.start
    passes = position.epoch - (position.start // per_pass if per_pass else 0)
    if trainer.objective is not None:  # a trainer of your own may not count its steps
        wanted = max(steps_since_start, position.done, passes)
    if steps_since_start == wanted:  # else no batch is read, of which there may be no end
        source.resume(position)
        check_run(position.run, description)
        if trainer.objective is not None and per_pass:
            wanted = passes * per_pass + position.done
    if steps_since_start != wanted or steps_since_start < 0:
        raise ValueError(
            f"fit: the position is {wanted} steps into a run that began at step "
            f"{position.start}, the train_state at step {step}; pass both from the same epoch"
        )
    return position._replace(run=description)


def _evaluation(
    trainer: Trainer, train_state: TrainState, data: PyTree, batch_size: int
) -> Callable[[TrainState], dict[str, Any] | None] | None:
    """Return the function of a train_state that evaluates its objective; None without data.

    The function returns None if a signal asked the run to stop, and ended the loader.

    Arrays are checked here, before any epoch is trained, and a stream in each epoch.
    """
    if data is None:
        return None
    who = "fit: evaluate"
    stream = is_stream(data)
    objective = trainer.objective
    adapter = DataAdapter(who, only(objective), batch_size, data_name=who, stream=stream)
    arrays = None if stream else adapter.prepare_all(train_state, data)

    def evaluate(now: TrainState) -> dict[str, Any] | None:
        parts = adapter.prepare_all(now, data) if arrays is None else arrays
        try:
            return evaluate_prepared(who, objective, now, parts)
        except Stopped:  # the train_state can be saved
            return None

    return evaluate


class _End(NamedTuple):
    """The epoch and the step at which a run ends; None if it is not known."""

    epoch: int | None
    step: int | None

    def reached(self, position: Position, step: int) -> bool:
        passes = self.epoch is not None and not position.done and position.epoch >= self.epoch
        return passes or (self.step is not None and step >= self.step)


def _end(position: Position, per_pass: int | None, epochs: int | None, steps: int | None) -> _End:
    if not per_pass:
        return _End(epochs, position.start + steps if steps else None)
    begun = position.start // per_pass  # passes before this run
    passes = -(-steps // per_pass) if steps else epochs
    total_steps = steps or epochs * per_pass  # type: ignore[operator]
    return _End(begun + passes, position.start + total_steps)  # type: ignore[operator]


class Epochs:
    """What `fit` returns: an iterator of epochs, which warns if nobody iterates it."""

    def __init__(self, trainer: Trainer, run: Iterator[Epoch]):
        self._trainer, self._run, self._ended = trainer, run, False
        # Not `__del__`, which a program's exit calls when warnings can no longer be given.
        self._unused = weakref.finalize(self, later_warning(UNUSED))

    def __iter__(self) -> Iterator[Epoch]:
        if self._ended:
            warn(
                "fit: this run was iterated to its end, so it has no epochs left; keep them, as in "
                "epochs = list(jn.fit(...)), or write jn.fit(trainer, epoch.train_state, ...) again"
            )
        return self

    @explain_reuse()
    def __next__(self) -> Epoch:
        self._unused.detach()
        try:
            return next(self._run)
        except StopIteration:
            self._ended = True
            raise

    def __repr__(self) -> str:
        return f"fit({self._trainer!r}{USE})"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"fit returns epochs{USE}, got .{name}")

    def __reduce__(self) -> Any:
        raise TypeError("fit: a run cannot be copied; pass epoch.train_state and position= to fit")


@dataclass
class _FitLoop:
    """The loop of `fit`, which yields epochs.

    Fields:
      objective: Objective that is trained; None for a trainer of your own.
      source: Source of the batches.
      description: What is trained, the same in all processes.
      end: Epoch and step at which the run ends.
      every: Number of steps of an epoch; None for a pass.
      pace: Steps per dispatch, and whether the run is to stop.
      evaluate: Function train_state -> means on the evaluation data; None without such data.
      progress: Whether to show a progress bar.
    """

    objective: Any
    source: Resident | Batches
    description: str
    end: _End
    every: int | None
    pace: Pace
    evaluate: Callable[[TrainState], dict[str, Any] | None] | None
    progress: bool
    # Each kind of warning comes once, since what is wrong usually stays wrong.
    _warned_of_gradients: bool = False
    _warned_of_losses: bool = False

    def epochs(self, train_state: TrainState, position: Position) -> Iterator[Epoch]:
        """Yield the epochs; the given train_state is free once it is trained further."""
        step = int(train_state.step)
        seconds = float("inf")
        while not self.end.reached(position, step) and not self.pace.stopped:
            start = time.perf_counter()
            check_count("fit", step)
            before = step
            stop = self._next_stop(step)
            agree_on("fit", train_state, self._plan(step, stop))
            train_state = _copied(train_state)
            with self._progress_bar(position, stop, seconds) as bar:
                train_state, totals, position = self._epoch(train_state, position, step, stop, bar)
            if totals is None:  # the stream had ended
                return
            seconds = time.perf_counter() - start
            step += len(totals.losses)
            self._warn(train_state, totals, before + 1)
            yield Epoch(
                number=position.epoch + (position.done > 0),
                epochs=self.end.epoch,
                train_state=train_state,
                train=means(totals.sums),
                evaluation=None if self.evaluate is None else self.evaluate(train_state),
                losses=totals.losses,
                seconds=time.perf_counter() - start,
                step=step,
                steps=self.end.step,
                position=position,
                skipped=totals.skipped() if scales_in(train_state.opt_state) else None,
            )

    def _plan(self, step: int, stop: int | None) -> str:
        """Return in words what the next epoch is, which must be the same in all processes."""
        until = "to the end of a pass" if stop is None else f"to step {stop}"
        passes = f"{self.source.steps or 'any number of'} steps in a pass"
        paces = f"{self.pace.steps} at once"
        return f"fit goes on after step {step} {until}, {passes}, {paces}: {self.description}"

    def _next_stop(self, step: int) -> int | None:
        """Return the step at which the next epoch ends; None if only a pass ends it."""
        stops = [] if self.end.step is None else [self.end.step]
        if self.every is not None:
            stops.append(step + self.every)
        return min(stops, default=None)

    def _epoch(
        self, train_state: TrainState, position: Position, step: int, stop: int | None, bar: Any
    ) -> tuple[TrainState, Totals | None, Position]:
        """Train up to a step or to the end of a pass; without totals if a stream had ended."""
        parts: list[Totals] = []
        while not self.pace.stopped:
            limit = None if stop is None else stop - step
            try:
                train_state, totals, position = self.source.run(
                    train_state, position, limit, bar, self.pace
                )
            except Spent:  # an iterator for one pass: what it gave is an epoch
                if not parts:
                    raise
                break
            if totals is not None:
                parts.append(totals)
                step += len(totals.losses)
            passed = self.every is None and parts
            if step == stop or passed or self.end.reached(position, step):
                break
        return train_state, Totals.joined(parts) if parts else None, position

    def _progress_bar(self, position: Position, stop: int | None, seconds: float) -> Any:
        """Return a progress bar; an epoch as short as the last one would only make it flicker."""
        if self.every is None:
            title = f"epoch {position.epoch + 1}{_of(self.end.epoch)}"
            size = self.source.steps
        else:
            title = f"to step {stop}{_of(self.end.step)}"
            size = self.every
        return progress_bar(size, title, self.progress and seconds > REFRESH)

    def _warn(self, train_state: TrainState, totals: Totals, first: int) -> None:
        """Warn about the gradients and losses of steps, of which `first` is the first."""
        params, losses, finite = train_state.params, totals.losses, totals.finite
        if first == 1 and len(losses):
            warn_pixels("fit", self.objective, float(losses[0]))
        if not self._warned_of_gradients:
            if scales := scales_in(train_state.opt_state):
                self._warned_of_gradients = warn_skipped(params, scales, finite[-1])
            else:
                self._warned_of_gradients = warn_nonfinite(params, finite, losses, first)
        if not self._warned_of_losses:
            self._warned_of_losses = warn_below(self.objective, losses)


def _copied(train_state: TrainState) -> TrainState:
    """Return a copy to donate, so that the caller's train_state stays valid."""
    if shardings_of(train_state) is None:
        return jax.device_put(train_state, may_alias=False)
    return jax.tree.map(jnp.copy, train_state)  # device_put cannot copy sharded arrays


UNUSED = "fit was never iterated, so nothing was trained; write: for epoch in jn.fit(...):"
# How to get what other libraries keep in a history.
USE = "; iterate it: losses = [epoch.train['loss'] for epoch in jn.fit(...)]"


def _of(last: int | None) -> str:
    return "" if last is None else f"/{last}"
