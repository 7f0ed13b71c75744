"""Epochs: the loop is the user's, and `fit` trains between its turns."""

import functools
import time
from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.checks import at_least, check_options
from jaxnet.core import Memo, PyTree
from jaxnet.core.messages import all_native
from jaxnet.keywords import explain_keywords
from jaxnet.progress import progress_bar
from jaxnet.training.described import check_run, describe_run
from jaxnet.training.epoch import Epoch, Place
from jaxnet.training.evaluate import is_stream, means, measure_all, on_device
from jaxnet.training.placement import places
from jaxnet.training.source import Pace, Resident, Stream, Totals, added_up
from jaxnet.training.targets import check_targets, rows_are_in_order
from jaxnet.training.trainer import Trainer, TrainState, check_train_state
from jaxnet.training.watch import explain_reuse, warn_nonfinite
from jaxnet.warn import warn


@explain_keywords
def fit(
    trainer: Trainer,
    train_state: TrainState,
    data: PyTree | Iterable[PyTree],
    *,
    epochs: int | None = None,
    steps: int | None = None,
    every: int | None = None,
    place: Place | None = None,
    batch_size: int = 64,
    evaluate: PyTree | None = None,
    shuffle: bool = True,
    steps_per_dispatch: int | None = None,
    progress: bool = True,
) -> Iterator[Epoch]:
    """Trains, and yields an `Epoch` after each pass over the data: the loop is yours.

    Stopping early, saving and plotting are ordinary statements in it. The `train_state` that goes
    in stays valid, and so does each epoch's. Nothing runs before the first iteration.

    Args:
      trainer: from `jn.trainer`.
      train_state: where to start, from `trainer.init` or an earlier epoch, whose count goes on.
      data: a pytree of arrays with one example per row, usually `(x, y)`, which is put on the
        device whole; or an iterable of batches that can be iterated once per epoch, for data that
        do not fit, such as a pipeline of grain or a DataLoader (a list counts as a pytree).
      epochs: passes over the data, at least 1.
      steps: number of updates, in place of epochs; for a stream that never ends.
      every: number of steps after which an `Epoch` comes, in place of a pass.
      place: where an interrupted run stood, `epoch.place` of the epoch whose train_state this is;
        `epochs` and `steps` count from the start of that run, which goes on to the same numbers as
        if it had not been interrupted. A stream needs iterators with get_state and set_state, as
        grain's are, or yields the same batches again.
      batch_size: examples per step. The last batch is padded with examples from the beginning of
        the epoch, which are left out of the loss and of the metrics.
      evaluate: data like `data`, measured after each epoch.
      shuffle: whether the order is drawn again for each epoch.
      steps_per_dispatch: by default measured while running, so that a dispatch takes about 0.2 s.
      progress: whether to show a progress bar, in a terminal or a notebook.

    Raises:
      TypeError: for something else than a trainer and a TrainState.
      ValueError: for no epochs, both or neither of epochs and steps, no examples, unequal lengths,
        several epochs of a generator, data with a NaN, padding with an objective that returns one
        value per batch, a place of another run, and several processes with arrays that they do not
        share.

    Example:
      >>> data = jnp.eye(4), jnp.array([0, 1, 0, 1])
      >>> loss = optax.softmax_cross_entropy_with_integer_labels
      >>> trainer = jn.trainer(jn.supervised(jn.dense(2), loss), optax.sgd(1.0))
      >>> train_state = trainer.init(jax.random.key(0), data)
      >>> for epoch in jn.fit(trainer, train_state, data, epochs=9, batch_size=3):
      ...     if epoch.train["loss"] < 0.5:
      ...         break
      >>> epoch.number < 9, int(epoch.train_state.step) == 2 * epoch.number
      (True, True)
    """
    if (epochs is None) == (steps is None):
        raise ValueError(
            "fit: expected either epochs= or steps=, got "
            + ("none" if epochs is None else f"epochs={epochs!r:.60} and steps={steps!r:.60}")
        )
    for what, count in (("epochs", epochs), ("steps", steps), ("every", every)):
        if count is not None:
            at_least("fit", what, count)
    at_least("fit", "batch_size", batch_size)
    if steps_per_dispatch is not None:
        at_least("fit", "steps_per_dispatch", steps_per_dispatch)
    if not isinstance(trainer, Trainer):
        raise TypeError(
            f"fit: expected a trainer from jn.trainer first, got {type(trainer).__name__}; write "
            "fit(trainer, train_state, data, epochs=...)"
        )
    check_train_state("fit", train_state)
    train_state = all_native(train_state, "fit")
    check_options("fit", shuffle=shuffle)
    if evaluate is not None:
        if trainer.objective is None:
            raise ValueError("fit: evaluate= needs a trainer from jn.trainer, with an objective")
        if not is_stream(evaluate):
            evaluate = on_device(evaluate, "fit: evaluate")
            with explain_reuse():  # once, and before an epoch is trained
                check_targets(trainer.objective, *train_state[1:3], evaluate, "fit: evaluate")
    if place is not None and not isinstance(place, Place):
        raise TypeError(f"fit: place must be that of an Epoch, got {type(place).__name__}")
    if is_stream(data):
        if isinstance(data, Generator | map | zip) and (epochs or 1) > 1:
            raise ValueError(
                f"fit: a {type(data).__name__} can be used once only, and epochs={epochs} starts "
                "it again; write steps=..., or pass an object whose __iter__ starts over for each "
                "epoch"
            )
        source, about = Stream(trainer, data, batch_size), describe_run(trainer, None, None)
    else:
        data = on_device(data, "fit: data")
        with explain_reuse():
            check_targets(trainer.objective, *train_state[1:3], data, "fit", train=True)
            source = Resident(trainer, train_state, data, batch_size, shuffle)
            given = trainer.objective, train_state.state, data, source.size
            if shuffle and rows_are_in_order(*given):
                raise ValueError(
                    "fit: the state has an entry for each row of a batch, such as the carry of "
                    "truncated_bptt, so each batch must continue the one before. Pass shuffle=False"
                )
        about = describe_run(trainer, data, shuffle)
    with explain_reuse():
        step = int(train_state.step)
    if place is None:
        place = Place(step // source.steps if source.steps else 0, 0, step, 0, run=about)
    else:
        source.resume(place)
        check_run(place.run, about)
        place = place._replace(run=about)
        made = step - place.start
        if source.steps and trainer.update and made != _steps_to(place, source.steps):
            raise ValueError(
                f"fit: the place is {_steps_to(place, source.steps)} steps into a run, the "
                f"train_state {made}; pass both of the same epoch"
            )
    end = _end(place, source.steps, epochs, steps)
    if end.reached(place, step):
        warn(
            "fit: the run was finished before, so there is no epoch to yield: what follows the "
            "loop can use the train_state that was passed"
        )
    pace = Pace(steps_per_dispatch)
    return _Epochs(
        _epochs(trainer, train_state, source, pace, place, end, every, evaluate, progress)
    )


class _Epochs:
    """The iterator of `fit`; warns where nobody iterates it."""

    def __init__(self, epochs: Iterator[Epoch]):
        self._epochs, self._begun = epochs, False

    def __iter__(self) -> Iterator[Epoch]:
        return self

    def __next__(self) -> Epoch:
        self._begun = True
        return next(self._epochs)

    def __del__(self) -> None:
        if not self._begun:
            warn("fit was never iterated, so nothing was trained; write: for epoch in jn.fit(...):")


class _End(NamedTuple):
    """Where a run ends; None where that is not known."""

    epoch: int | None
    step: int | None

    def reached(self, place: Place, step: int) -> bool:
        passes = self.epoch is not None and not place.done and place.epoch >= self.epoch
        return passes or (self.step is not None and step >= self.step)


def _end(place: Place, per_pass: int | None, epochs: int | None, steps: int | None) -> _End:
    last_epoch = last_step = None
    if per_pass:
        begun = place.start // per_pass  # passes before this run
        last_epoch = begun + (-(-steps // per_pass) if steps else epochs)  # type: ignore[operator]
        last_step = place.start + (steps or epochs * per_pass)  # type: ignore[operator]
    elif steps:
        last_step = place.start + steps
    else:
        last_epoch = epochs
    return _End(last_epoch, last_step)


def _steps_to(place: Place, per_pass: int) -> int:
    """Steps of a run up to a place."""
    return (place.epoch - place.start // per_pass) * per_pass + place.done


def _epochs(
    trainer: Trainer,
    train_state: TrainState,
    source: Resident | Stream,
    pace: Pace,
    place: Place,
    end: _End,
    every: int | None,
    test: PyTree | None,
    progress: bool,
) -> Iterator[Epoch]:
    warned = False  # values that are not finite usually stay so
    programs = Memo() if trainer.programs is None else trainer.programs
    with explain_reuse():
        step = int(train_state.step)
    while not end.reached(place, step) and not pace.stopped:
        start, before = time.perf_counter(), step
        # A copy is donated, so that the caller's train_state stays whole.
        if places(train_state) is None:
            train_state = jax.device_put(train_state, may_alias=False)
        else:  # which device_put refuses
            train_state = jax.tree.map(jnp.copy, train_state)
        stop = min((n for n in (every and before + every, end.step) if n), default=None)
        parts: list[Totals] = []
        title, size = f"epoch {place.epoch + 1}{_of(end.epoch)}", source.steps
        if every is not None:
            title, size = f"to step {stop}{_of(end.step)}", every
        with progress_bar(size, title, progress) as bar:
            while not pace.stopped:
                limit = None if stop is None else stop - step
                train_state, totals, place = source.run(train_state, place, limit, bar, pace)
                if totals is not None:
                    parts.append(totals)
                    step += len(totals.losses)
                if step == stop or end.reached(place, step) or (parts and every is None):
                    break
        if not parts:  # a stream had just ended
            return
        losses = np.concatenate([part.losses for part in parts])
        finite = np.concatenate([part.finite for part in parts])
        warned = warned or warn_nonfinite(train_state.params, finite, losses, before + 1)
        found = None
        if test is not None:
            now = train_state.params, train_state.state
            given = trainer.objective, programs, *now, test, source.size, "fit"
            found = measure_all(*given, checked=not is_stream(test))
        yield Epoch(
            number=place.epoch + (place.done > 0),
            epochs=end.epoch,
            train_state=train_state,
            train=means(functools.reduce(added_up, (part.sums for part in parts))),
            test=found,
            losses=losses,
            seconds=time.perf_counter() - start,
            step=step,
            steps=end.step,
            place=place,
        )


def _of(last: int | None) -> str:
    return "" if last is None else f"/{last}"
