"""Read the batches of `fit` from arrays on the device or from a stream, and keep the position.

Data in memory are put on the device. Shuffling and batching happen inside the program, which runs
many steps per dispatch and sums up the metrics. The number of steps per dispatch is an argument of
the program, not part of it, so it is tuned while training runs, and nothing compiles twice.

Both kinds of source run consecutive steps from one `Position` to another. From a stored position
they compute the same results as the interrupted run would have computed.
"""

import functools
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Sized
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services import peers, preemption
from jaxnet.services.trees import PyTree
from jaxnet.services.warn import warn
from jaxnet.training import placement
from jaxnet.training.batching import Batching, rows_in
from jaxnet.training.data_adapter import DataAdapter, PreparedData, is_stream
from jaxnet.training.epoch import Position
from jaxnet.training.objective import Average, added
from jaxnet.training.objective_trace import trace_objective
from jaxnet.training.train_state import TrainState, key_of, next_key
from jaxnet.training.trainer import (
    Trainer,
    compile_first,
    driver,
    objectives_of,
    takes_mask,
)

BATCHES = "fit from batches"  # name of the program
REFRESH = 0.2  # seconds of work per dispatch, short enough to update the progress bar


class Spent(ValueError):
    """A pass had no batch."""


class Totals(NamedTuple):
    """Sums over consecutive steps, on the device.

    Fields:
      sums: Average of (sum of mean * weight, sum of weights) by name.
      losses: Loss of each step, (steps,); of a whole pass if the data are on the device.
      finite: Whether each leaf of the gradient is finite, (steps, leaves of the gradient).
    """

    sums: dict[str, Average]
    losses: Any
    finite: Any

    def skipped(self) -> int:
        """Return the number of steps whose gradient is not finite."""
        return int((~self.finite.all(axis=1)).sum())

    @staticmethod
    def joined(parts: "list[Totals]") -> "Totals":
        """Return the totals of steps that follow each other."""
        sums, losses, finite = zip(*parts, strict=True)
        total = jax.tree.map(lambda *each: sum(each), *sums)
        return Totals(total, np.concatenate(losses), np.concatenate(finite))


def resident_programs(
    trainer: Trainer, batching: Batching, shuffle: bool, shardings: placement.Where
) -> tuple[Callable, Callable]:
    """Return the two programs of a trainer for one batching, compiled once per trainer.

    Args:
      trainer: Trainer whose update is made in each step.
      batching: How the data become batches.
      shuffle: Whether the order is drawn.
      shardings: Shardings of the train_state, which keeps them.

    Returns:
      begin: Program (train_state, data, key) -> (train_state, (key, order, totals)): the order of
        the examples of a pass, padded to whole batches, and empty totals. Without a key the
        train_state gives one.
      advance: Program (train_state, data, totals, order, start, stop) -> (train_state, totals).
    """
    update = trainer.update

    # Jitted separately, so that it is traced only once, for begin's shapes and advance's loop.
    @jax.jit
    def one_step(train_state, i, data, order):
        return update(train_state, batching.take(data, order[i]), batching.mask(data, i))

    def begin(train_state, data, key=None):
        if key is None:
            train_state, order_key = next_key(train_state)
            key = jax.random.key_data(order_key)
        else:
            order_key = key_of(key, train_state)
        order = batching.order(data, order_key if shuffle else None)
        _, averages, finite = jax.eval_shape(one_step, train_state, jnp.int32(0), data, order)

        def zeros(leaf):
            return jnp.zeros(leaf.shape, jnp.result_type(leaf.dtype, jnp.float32))

        totals = Totals(
            sums=jax.tree.map(zeros, averages),
            losses=jnp.zeros(len(order), averages["loss"].mean.dtype),
            finite=jnp.ones((len(order), *finite.shape), bool),
        )
        return train_state, (key, order, totals)

    def advance(train_state, data, totals, order, start, stop):
        def body(i, carry):
            train_state, before = carry
            train_state, averages, finite = one_step(train_state, i, data, order)
            losses = before.losses.at[i].set(averages["loss"].mean)
            finite = before.finite.at[i].set(finite)
            return train_state, Totals(added(before.sums, averages), losses, finite)

        return jax.lax.fori_loop(start, stop, body, (train_state, totals))

    key = "fit", "data", batching, shuffle
    first = trainer._cache.programs.of(
        ("begin", *key, shardings), lambda: placement.placed(begin, shardings)
    )
    return first, driver(trainer._cache, key, advance, shardings, donate=(0, 2))


def source_of(
    trainer: Trainer, train_state: TrainState, data: PyTree, size: int, shuffle: bool
) -> tuple[TrainState, "Resident | Batches"]:
    """Return the train_state on the mesh of the data, and the source of its batches.

    The mesh of a stream is known with its first batch, so there the train_state stays as it is.

    Args:
      trainer: Trainer of the run.
      train_state: Train_state that the run starts from.
      data: Arrays, or an iterable of batches.
      size: Number of examples in a batch of arrays.
      shuffle: Whether the order of arrays is shuffled in each pass.
    """
    if is_stream(data):
        return train_state, Batches(trainer, data, size)
    adapter = DataAdapter("fit", objectives_of(trainer), size, train=True, shuffle=shuffle)
    prepared = adapter.prepare(train_state, data)
    train_state, shardings = placement.onto_mesh("fit", train_state, prepared.batching.shardings)
    return train_state, Resident(trainer, prepared, shuffle, shardings)


class Resident:
    """Data on the device: a pass is one program with the first and last step as arguments."""

    def __init__(
        self, trainer: Trainer, prepared: PreparedData, shuffle: bool, shardings: placement.Where
    ):
        batching = prepared.batching
        self.data, self.size, self.shuffle = prepared.data, batching.size, shuffle
        self.steps = batching.steps(prepared.data)
        self.cache = trainer._cache
        self.programs = resident_programs(trainer, batching, shuffle, shardings)

    def resume(self, position: Position) -> None:
        """Raise if a position belongs to other data or batches."""
        size, done = position.size, position.done
        if position.loader is not None or size != self.size or done >= self.steps:
            raise ValueError(
                f"fit: the position belongs to a run with batches of {size} examples, {done} "
                f"steps into a pass; these data have {self.steps} batches of {self.size}"
            )

    def run(
        self, train_state: TrainState, position: Position, limit: int | None, bar: Any, pace: "Pace"
    ) -> tuple[TrainState, Totals | None, Position]:
        """Run at most `limit` steps, and no further than the end of the pass."""
        key = None if position.key is None else _put_on_device(np.asarray(position.key, np.uint32))
        begin, advance = self.programs
        train_state, (key, order, totals) = begin(train_state, self.data, key)
        key = np.asarray(key)  # read before advance, whose outputs are available much later
        first = done = position.done
        last = self.steps if limit is None else min(self.steps, first + limit)
        while done < last and not pace.stopped:
            stop = min(done + pace.steps, last)
            start = time.perf_counter()
            span = _put_on_device((np.int32(done), np.int32(stop)))
            compile_first(self.cache, "fit", advance, train_state, self.data, totals, order, *span)
            train_state, totals = advance(train_state, self.data, totals, order, *span)
            jax.block_until_ready(totals.losses)
            bar.update(stop - done)
            pace.took(stop - done, time.perf_counter() - start, f"{stop} of {last} steps")
            done = stop
        totals = jax.device_get(totals)
        totals = totals._replace(losses=totals.losses[first:done], finite=totals.finite[first:done])
        position = position._replace(size=self.size, done=done, key=key)
        if done == self.steps:
            position = position._replace(epoch=position.epoch + 1, done=0, key=None)
        return train_state, totals, position


def _put_on_device(numbers: Any) -> Any:
    """Put numbers on the device, which users may forbid to happen by itself.

    In several processes they stay as they are, which is the same in all of them.
    """
    return numbers if jax.process_count() > 1 else jax.device_put(numbers)


class Batches:
    """Batches from an iterable; a short one is padded with its own examples and masked."""

    data = shuffle = None  # they are its own affair

    def __init__(self, trainer: Trainer, batches: Iterable[PyTree], size: int):
        self.trainer, self.batches, self.size = trainer, batches, size
        self.adapter = DataAdapter(
            "fit", objectives_of(trainer), data_name="fit: a batch", train=True, stream=True
        )
        length = len(batches) if isinstance(batches, Sized) else sys.maxsize
        self.steps = length if length < sys.maxsize else None  # grain says maxsize if it never ends
        self.iterator: Any = None  # iterator of the current pass
        self.first: dict[int, int] = {}  # checksum of the first batch, by pass
        self.step: Any = None  # the program, made for the first batch
        self.masked = False  # whether whole batches have a mask too, so that one program serves all
        self.explained = False  # whether a last batch of one example was checked
        self.masks: dict[int, Any] = {}  # mask of a batch on the device, by its examples

    def resume(self, position: Position) -> None:
        """Go to a position: by the state of the iterator, or past the batches that were used."""
        if position.key is not None:
            raise ValueError(
                "fit: position= was saved while training on arrays, but data is a stream. Pass the "
                "same arrays, or leave position= out"
            )
        if position.loader is not None and not position.done:  # of a Bucketed, after a pass
            self._at(position.loader)
            return
        for _ in range(position.epoch - (position.start // self.steps if self.steps else 0)):
            past = iter(self.batches)
            if past is self.batches:  # an iterator, which cannot start again
                break
            next(past, None)  # a loader may count the passes, to shuffle each differently
        if not position.done:
            return
        if position.loader is not None:
            self.iterator = self._at(position.loader)
            return
        self.iterator = iter(self.batches)
        for i in range(position.done):
            if next(self.iterator, None) is None:
                raise ValueError(
                    f"fit: the position is {position.done} batches into a pass, and these data "
                    f"yielded {i}; pass what the run was started with"
                )

    def _at(self, state: Any) -> Any:
        """Return an iterator in this state."""
        iterator: Any = iter(self.batches)
        if not hasattr(iterator, "set_state"):
            raise ValueError(
                "fit: the position has the state of a different kind of iterator from that "
                f"of a {type(self.batches).__name__}, which has no set_state"
            )
        iterator.set_state(state)
        return iterator

    def run(
        self, train_state: TrainState, position: Position, limit: int | None, bar: Any, pace: "Pace"
    ) -> tuple[TrainState, Totals | None, Position]:
        """Run at most `limit` steps, and no further than the end of the pass."""
        seen = []
        if self.iterator is None:
            self.iterator = iter(self.batches)
        batch = state = None
        # Several processes may stop after one of them has taken a batch that another has not.
        several = jax.process_count() > 1
        while not pace.stopped and (limit is None or len(seen) < limit):
            state = self._state() if several else None
            batch = placement.next_of("fit", self.iterator, train_state)
            if batch is placement.END or batch is placement.STOPPED:
                break
            train_state, batch, mask = self._prepared(train_state, batch, position.size)
            if not position.done and not seen:
                self._compare_first(position.epoch, batch)
            position = position._replace(size=rows_in(batch))
            train_state, results = self.step(train_state, batch, mask)
            seen.append(results)
            bar.update(1)
            pace.stopped = preemption.stops()
        stopped = batch is placement.STOPPED
        pace.stopped = pace.stopped or stopped
        if stopped and not seen:
            return train_state, None, position
        state = state if stopped else None
        position = self._moved(position, len(seen), batch is placement.END, state)
        totals = _summed(jax.device_get(seen)) if seen else None
        return train_state, totals, position

    def _state(self) -> Any:
        """Return the state of the iterator of a pass; None if it has none."""
        return getattr(self.iterator, "get_state", lambda: None)()

    def _moved(self, position: Position, count: int, ended: bool, state: Any) -> Position:
        """Return the position after `count` more steps, with the state of the iterator.

        Args:
          position: Position before these steps.
          count: Number of steps.
          ended: Whether the pass has ended.
          state: State of the iterator; by default its state now.
        """
        done = position.done + count
        if not done:
            raise Spent(
                "fit: the data yielded no batch; an iterator can be used once only, so pass "
                "a loader, or an object whose __iter__ starts over for each epoch"
            )
        if ended or done == self.steps:
            counts = getattr(self.iterator, "counts_passes", False)
            state = self.iterator.get_state() if counts else None
            self.iterator = None
            return position._replace(epoch=position.epoch + 1, done=0, loader=state)
        return position._replace(done=done, loader=self._state() if state is None else state)

    def _prepared(self, train_state: TrainState, batch: PyTree, size: int):
        """Return the train_state on the batch's mesh, the batch at its full size, and its mask."""
        batch = self.adapter.checked(train_state, batch)
        if self.step is None:
            train_state = self._begin(train_state, batch)
        count = rows_in(batch)
        size = size or count
        if count > size:
            raise ValueError(
                f"fit: the first batch had {size} examples, a later one {count}; only the last "
                "batch may be smaller, and no batch may be larger"
            )
        if count == 1 < size:
            self._explain_one_example(train_state, batch)
        if count < size:
            batch = jax.tree.map(lambda leaf: placement.repeated(leaf, size), batch)
        mask = self._mask(count, size)
        compile_first(self.trainer._cache, BATCHES, self.step, train_state, batch, mask)
        return train_state, batch, mask

    def _begin(self, train_state: TrainState, batch: PyTree) -> TrainState:
        """Make the program for the first batch, and return the train_state on the batch's mesh."""
        trainer = self.trainer
        batch_shardings = placement.check_batch("fit", batch, rows_in(batch))
        train_state, shardings = placement.onto_mesh("fit", train_state, batch_shardings)

        def run(train_state, batch, mask):
            train_state, *results = trainer.update(train_state, batch, mask)
            return train_state, tuple(results)

        self.step = driver(trainer._cache, (BATCHES, "batch"), run, shardings)
        if takes_mask(trainer):
            objectives = objectives_of(trainer)(train_state, batch)
            self.masked = bool(objectives) and all(
                trace_objective(*each, batch).per_row for each in objectives
            )
        return train_state

    def _mask(self, count: int, size: int) -> Any:
        """Return the mask of `count` examples in a batch of `size`; None if it needs no mask."""
        if count == size and not self.masked:
            return None
        if count not in self.masks:
            self.masks[count] = _put_on_device((np.arange(size) < count).astype(np.float32))
        return self.masks[count]

    def _explain_one_example(self, train_state: TrainState, batch: PyTree) -> None:
        """Warn if a layer cannot train on one example, whose copies fill the batch."""
        if self.explained:
            return
        self.explained = True
        try:
            for each in objectives_of(self.trainer)(train_state, batch):
                trace_objective(*each, batch, train=True)
        except ValueError as error:
            warn(
                "fit: the last batch has one example, which is repeated to fill it, so its "
                f"statistics are wrong. Drop it, or choose another batch size. {error}"
            )

    def _compare_first(self, epoch: int, batch: PyTree) -> None:
        """Warn if a loader that could shuffle begins two passes with the same batch."""
        counts = getattr(self.iterator, "counts_passes", False)  # and may repeat them on purpose
        if not hasattr(self.iterator, "get_state") or counts or len(self.first) > 1:
            return
        leaves = [leaf for leaf in jax.tree.leaves(batch) if leaf.is_fully_addressable]
        self.first[epoch] = hash(tuple([zlib.crc32(np.asarray(leaf).tobytes()) for leaf in leaves]))
        if len(self.first) == 2 and len(set(self.first.values())) == 1 and leaves:
            warn(
                "fit: two passes began with the same batch: the loader starts over in the same "
                "order. With grain, write dataset.seed(0).shuffle().repeat() before batch and "
                "to_iter_dataset, and fit(..., steps=...)"
            )


def _summed(steps: list[tuple[dict[str, Average], Any]]) -> Totals:
    """Return the totals of steps, each with its averages and whether its gradients are finite."""
    averages, finite = zip(*steps, strict=True)
    zeros = jax.tree.map(np.zeros_like, averages[0])
    sums = functools.reduce(added, averages, zeros)
    losses = np.array([each["loss"].mean for each in averages])
    return Totals(sums, losses, np.stack(finite))


class Pace:
    """Chooses the number of steps per dispatch from the duration of the last one."""

    def __init__(self, fixed: int | None):
        self.fixed, self.steps = fixed, fixed or 1
        self.seen = 0
        self.stopped = False  # by a request to stop, the same in all processes

    def took(self, steps: int, seconds: float, done: str = "") -> None:
        """Note the duration of a dispatch, and whether the run is to stop.

        Processes take the pace of the first, since each dispatch is a program of all of them.

        Args:
          steps: Number of steps of the dispatch.
          seconds: Its duration.
          done: What all processes have done of this pass, in words.
        """
        self.seen += 1
        if self.fixed is None and self.seen > 1:  # the first dispatch compiles
            # At most 8 times as many, since the duration of a short dispatch is inaccurate.
            rate = steps / max(seconds, 1e-6)
            self.steps = int(np.clip(rate * REFRESH, 1, 8 * self.steps))
        if jax.process_count() > 1:
            words = f"fit has done {done}"
            self.steps, *_ = peers.agree("fit", peers.everyone(), words, self.steps).numbers
        self.stopped = preemption.stops()
