"""Epochs: the user's loop on top, one compiled program below.

Data in memory goes to the device. Shuffling and batching happen inside the program, which runs many
steps per dispatch and sums up the metrics; they come to the host once per epoch. The number of
steps per dispatch is an argument of the program, not part of it, so it is tuned while training
runs, and nothing compiles twice.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.checks import at_least
from jaxnet.core import Memo, PyTree
from jaxnet.progress import progress_bar
from jaxnet.training.evaluate import is_stream, means, measure_all, on_device, takes_mask
from jaxnet.training.labels import check_labels
from jaxnet.training.objective import Average
from jaxnet.training.placement import check_batch, check_places, places, stay
from jaxnet.training.trainer import Trainer, TrainState, next_key
from jaxnet.training.watch import Watcher, explain_reuse, warn_nonfinite

REFRESH = 0.2  # seconds of work per dispatch, so that the progress bar moves


class Epoch(NamedTuple):
    """The result of one pass over the data; prints as one line.

    Fields:
      number: from 1; a resumed train_state continues the count.
      epochs: number of the last epoch.
      train_state: after this epoch; it stays valid, whatever `fit` does later.
      train: mean of each metric over the epoch's examples, while the parameters changed.
      test: the same on the `evaluate` data, with the parameters after the epoch; else None.
      losses: (steps,), the loss of every step.
      seconds: of training, evaluation included, compilation too in the first epoch.
    """

    number: int
    epochs: int
    train_state: TrainState
    train: dict[str, float]
    test: dict[str, float] | None
    losses: np.ndarray
    seconds: float

    def __str__(self) -> str:
        width = len(str(self.epochs))
        parts = [f"epoch {self.number:{width}}/{self.epochs}", _words(self.train)]
        if self.test is not None:
            parts.append("test " + _words(self.test))
        return "  |  ".join([*parts, f"{self.seconds:.3g} s"])

    __repr__ = __str__  # the arrays inside would fill pages


def _words(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {np.array2string(np.asarray(v), precision=4, floatmode='fixed')}"
                     for name, v in metrics.items())  # fmt: skip


def fit(
    trainer: Trainer,
    train_state: TrainState,
    data: PyTree | Iterable[PyTree],
    *,
    epochs: int,
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
        do not fit.
      epochs: passes over the data, at least 1.
      batch_size: examples per step. The last batch is padded with examples from the beginning of
        the epoch, which are left out of the loss and of the metrics.
      evaluate: data like `data`, measured after each epoch.
      shuffle: whether the order is drawn again for each epoch.
      steps_per_dispatch: by default measured while running, so that a dispatch takes about 0.2 s.
      progress: whether to show a progress bar, in a terminal or a notebook.

    Raises:
      TypeError: for something else than a trainer and a TrainState.
      ValueError: for no epochs, no examples, unequal lengths, data with a NaN, or padding with an
        objective that returns one value per batch.

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
    at_least("fit", "epochs", epochs)
    at_least("fit", "batch_size", batch_size)
    if steps_per_dispatch is not None:
        at_least("fit", "steps_per_dispatch", steps_per_dispatch)
    if not isinstance(trainer, Trainer):
        raise TypeError(
            f"fit: expected a trainer from jn.trainer first, got {type(trainer).__name__}; write "
            "fit(trainer, train_state, data, epochs=...)"
        )
    if not isinstance(train_state, TrainState):
        raise TypeError(
            f"fit: expected a TrainState from trainer.init, got {type(train_state).__name__}"
        )
    if evaluate is not None:
        if trainer.objective is None:
            raise ValueError("fit: evaluate= needs a trainer from jn.trainer, with an objective")
        if not is_stream(evaluate):
            evaluate = on_device(evaluate, "fit: evaluate")
    if is_stream(data):
        source = _Stream(trainer, data, batch_size)
    else:
        data = on_device(data, "fit: data")
        programs = Memo() if trainer.programs is None else trainer.programs
        with explain_reuse():
            check_labels(trainer.objective, programs, *train_state[1:3], data, "fit", train=True)
        source = _Resident(trainer, train_state, data, batch_size, shuffle)
    pace = _Pace(steps_per_dispatch)
    return _Epochs(_epochs(trainer, train_state, source, pace, epochs, evaluate, progress))


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
            warnings.warn(
                "fit was never iterated, so nothing was trained; write: for epoch in jn.fit(...):",
                stacklevel=2,
            )


def _epochs(trainer, train_state, source, pace, epochs, test, progress) -> Iterator[Epoch]:
    warned = False  # values that are not finite usually stay so
    programs = Memo() if trainer.programs is None else trainer.programs
    with explain_reuse():
        done = int(train_state.step) // source.steps if source.steps else 0
    for number in range(done + 1, done + epochs + 1):
        start = time.perf_counter()
        first = int(train_state.step) + 1
        # A copy is donated, so that the caller's train_state stays whole.
        if places(train_state) is None:
            train_state = jax.device_put(train_state, may_alias=False)
        else:  # which device_put refuses
            train_state = jax.tree.map(jnp.copy, train_state)
        with progress_bar(source.steps, f"epoch {number}/{done + epochs}", progress) as bar:
            train_state, totals = source.run(train_state, bar, pace)
        finite, losses = np.asarray(totals.finite), np.asarray(totals.losses)
        warned = warned or warn_nonfinite(train_state.params, finite, losses, first)
        found = None
        if test is not None:
            now = train_state.params, train_state.state
            found = measure_all(trainer.objective, programs, *now, test, source.size, "fit")
        seconds = time.perf_counter() - start
        train = means(totals.sums)
        yield Epoch(number, done + epochs, train_state, train, found, losses, seconds)


class Totals(NamedTuple):
    """Sums of an epoch, on the device.

    Fields:
      sums: name -> Average of (sum of mean * weight, sum of weights).
      losses: (steps,).
      finite: (steps, leaves of the gradient).
    """

    sums: dict[str, Average]
    losses: jax.Array
    finite: jax.Array


def update_of(trainer: Trainer) -> Callable:
    """The pure update of a trainer; made from `step` for a trainer of the user's own."""
    if trainer.update is not None:
        return trainer.update

    def update(train_state, batch, mask=None):
        if mask is not None:
            raise ValueError(
                "fit: the last batch is padded, and this trainer's step takes no mask; choose a "
                "batch_size that divides the number of examples"
            )
        train_state, metrics = trainer.step(train_state, batch)  # type: ignore
        found = {name: Average(value, jnp.float32(1)) for name, value in metrics.items()}
        return train_state, found, jnp.ones(0, bool)

    return update


class Programs(NamedTuple):
    """The two compiled programs of data on the device.

    Fields:
      begin: (train_state, data) -> (train_state, order, totals): the order of an epoch's examples,
        padded to whole batches, and empty totals.
      advance: (train_state, totals, data, order, start, stop) -> (train_state, totals).
    """

    begin: Callable
    advance: Callable


def resident_programs(
    trainer: Trainer,
    size: int,
    shuffle: bool,
    where: tuple | None = None,
    split: tuple | None = None,
) -> Programs:
    """The programs of a trainer for one batch size, compiled once per trainer.

    On a mesh the train_state stays `where` it lies, and batches are `split` as the data are.
    """
    memo = trainer.programs if trainer.programs is not None else Memo()
    if (place := ("resident", size, shuffle, where, split)) in memo:
        return memo[place]
    update, watcher = update_of(trainer), trainer.watcher or Watcher()

    # Jitted by itself, so that begin's look at the shapes and advance's loop trace it once.
    @jax.jit
    def one_step(train_state, i, data, order):
        count = jax.tree.leaves(data)[0].shape[0]
        batch = stay(jax.tree.map(lambda leaf: leaf[order[i]], data), split)
        mask = None
        if count % size:
            mask = (i * size + jnp.arange(size) < count).astype(jnp.float32)
        return update(train_state, batch, mask)

    @jax.jit
    def begin(train_state, data):
        count = jax.tree.leaves(data)[0].shape[0]
        steps = -(-count // size)
        train_state, order_key = next_key(train_state)
        order = jax.random.permutation(order_key, count) if shuffle else jnp.arange(count)
        order = jnp.resize(order, (steps, size))  # starts over where the examples end
        _, found, finite = jax.eval_shape(one_step, train_state, jnp.int32(0), data, order)
        zeros = lambda leaf: jnp.zeros(leaf.shape, jnp.result_type(leaf.dtype, jnp.float32))  # noqa: E731
        totals = Totals(
            jax.tree.map(zeros, found),
            jnp.zeros(steps, found["loss"].mean.dtype),
            jnp.ones((steps, *finite.shape), bool),
        )
        return stay(train_state, where), order, totals

    def advance(train_state, totals, data, order, start, stop):
        watcher.traced("fit", train_state=train_state, data=data)

        def body(i, carry):
            train_state, totals = carry
            train_state, found, finite = one_step(train_state, i, data, order)
            losses = totals.losses.at[i].set(found["loss"].mean)
            return train_state, Totals(
                _added(totals.sums, found), losses, totals.finite.at[i].set(finite)
            )

        train_state, totals = jax.lax.fori_loop(start, stop, body, (train_state, totals))
        return stay(train_state, where), totals

    memo[place] = Programs(begin, jax.jit(advance, donate_argnums=(0, 1)))
    return memo[place]


def _added(sums: dict[str, Average], found: dict[str, Average]) -> dict[str, Average]:
    return {
        name: Average(s.mean + found[name].mean * found[name].weight, s.weight + found[name].weight)
        for name, s in sums.items()
    }


class _Resident:
    """Data on the device: a whole epoch is one program with the number of steps as argument."""

    def __init__(self, trainer: Trainer, train_state: Any, data: PyTree, size: int, shuffle: bool):
        self.data = data
        count = jax.tree.leaves(data)[0].shape[0]
        self.size = min(size, count)
        self.steps = -(-count // self.size)
        split = check_batch("fit", data, self.size)
        where = check_places(train_state, split, "fit")
        self.programs = resident_programs(trainer, self.size, shuffle, where, split)

    def run(self, train_state: TrainState, bar: Any, pace: "_Pace"):
        train_state, order, totals = self.programs.begin(train_state, self.data)
        done = 0
        while done < self.steps:
            stop = min(done + pace.steps, self.steps)
            start = time.perf_counter()
            span = np.int32(done), np.int32(stop)
            train_state, totals = self.programs.advance(
                train_state, totals, self.data, order, *span
            )
            jax.block_until_ready(totals.losses)
            pace.took(stop - done, time.perf_counter() - start)
            bar.update(stop - done)
            done = stop
        return train_state, totals


class _Stream:
    """Batches from an iterable; a short one is padded with its own examples and masked."""

    def __init__(self, trainer: Trainer, batches: Iterable[PyTree], size: int):
        self.batches, self.size = batches, size
        self.steps = len(batches) if hasattr(batches, "__len__") else None  # type: ignore[arg-type]
        self.trainer = trainer
        self.memo = memo = trainer.programs if trainer.programs is not None else Memo()
        if "stream" not in memo:
            update, watcher = update_of(trainer), trainer.watcher or Watcher()

            def step(train_state, batch, mask, where):
                watcher.traced("fit from batches", train_state=train_state, batch=batch)
                after, found, finite = update(train_state, batch, mask)
                return stay(after, where), found, finite

            memo["stream"] = jax.jit(step, donate_argnums=0, static_argnums=3)
        self.step = memo["stream"]

    def run(self, train_state: TrainState, bar: Any, pace: "_Pace"):
        seen, flags = [], []
        size = where = None
        for batch in self.batches:
            batch = on_device(batch, "fit: a batch")
            now = train_state.params, train_state.state
            check_labels(self.trainer.objective, self.memo, *now, batch, "fit", train=True)
            count = jax.tree.leaves(batch)[0].shape[0]
            if size is None:
                where = check_places(train_state, check_batch("fit", batch, count), "fit")
                size = count
            if count > size:
                raise ValueError(
                    f"fit: the first batch had {size} examples, a later one {count}; only the last "
                    "batch may be smaller, and none larger"
                )
            if count < size:
                batch = jax.tree.map(
                    lambda leaf, n=size: jnp.resize(leaf, (n, *leaf.shape[1:])), batch
                )
            mask = None
            if count < size or self._masked(train_state, batch):  # one program for all batches
                mask = jnp.asarray(np.arange(size) < count, jnp.float32)
            train_state, found, finite = self.step(train_state, batch, mask, where)
            seen.append(found)
            flags.append(finite)
            bar.update(1)
        if not seen:
            raise ValueError(
                "fit: the data yielded no batch; an iterator can be used once only, so pass "
                "something that starts over for each epoch, such as a list or a loader"
            )
        seen = jax.device_get(seen)
        sums = jax.tree.map(np.zeros_like, seen[0])
        for found in seen:
            sums = _added(sums, found)
        losses = np.array([found["loss"].mean for found in seen])
        return train_state, Totals(sums, losses, np.stack(flags))  # type: ignore[arg-type]

    def _masked(self, train_state: TrainState, batch: PyTree) -> bool:
        if (objective := self.trainer.objective) is None:
            return False
        return takes_mask(objective, self.memo, train_state.params, train_state.state, batch)


class _Pace:
    """Chooses the number of steps per dispatch from the duration of the last one."""

    def __init__(self, fixed: int | None):
        self.fixed, self.steps = fixed, fixed or 1
        self.seen = 0

    def took(self, steps: int, seconds: float) -> None:
        self.seen += 1
        if self.fixed is None and self.seen > 1:  # the first one compiles
            # At most 8 times more at once: a short dispatch is a poor clock.
            rate = steps / max(seconds, 1e-6)
            self.steps = int(np.clip(rate * REFRESH, 1, 8 * self.steps))
