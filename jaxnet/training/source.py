"""Where the batches of `fit` come from: arrays on the device, or a stream; and how far they went.

Data in memory go to the device. Shuffling and batching happen inside the program, which runs many
steps per dispatch and sums up the metrics. The number of steps per dispatch is an argument of the
program, not part of it, so it is tuned while training runs, and nothing compiles twice.

Both kinds of source run a stretch of steps from a `Place` to a `Place`, and a stretch that starts
at one that was stored computes what the interrupted run would have computed.
"""

import functools
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Memo, PyTree, key_spec
from jaxnet.core.contract import shapes_of
from jaxnet.training import preemption
from jaxnet.training.epoch import Place
from jaxnet.training.evaluate import on_device, takes_mask
from jaxnet.training.objective import Average
from jaxnet.training.placement import (
    agreed,
    automatic,
    check_batch,
    check_places,
    check_processes,
    everywhere,
    join_mesh,
    stay,
)
from jaxnet.training.targets import check_targets
from jaxnet.training.trainer import Trainer, TrainState, key_of, next_key
from jaxnet.training.watch import Watcher
from jaxnet.warn import warn

REFRESH = 0.2  # seconds of work per dispatch, so that the progress bar moves


class Totals(NamedTuple):
    """Sums of a stretch of steps, on the device.

    Fields:
      sums: name -> Average of (sum of mean * weight, sum of weights).
      losses: (steps,), of a whole pass where the data are on the device.
      finite: (steps, leaves of the gradient).
    """

    sums: dict[str, Average]
    losses: Any
    finite: Any


class Programs(NamedTuple):
    """The two compiled programs of data on the device.

    Fields:
      begin: (train_state, data, key) -> (train_state, (key, order, totals)): the order of the
        examples of a pass, padded to whole batches, and empty totals. Without a key the train_state
        gives one.
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

    def begin(train_state, data, key=None):
        count = jax.tree.leaves(data)[0].shape[0]
        steps = -(-count // size)
        if key is None:
            train_state, order_key = next_key(train_state)
            key = jax.random.key_data(order_key)
        else:
            order_key = key_of(key, train_state)
        order = jax.random.permutation(order_key, count) if shuffle else jnp.arange(count)
        order = jnp.resize(order, (steps, size))  # starts over where the examples end
        _, found, finite = jax.eval_shape(one_step, train_state, jnp.int32(0), data, order)
        zeros = lambda leaf: jnp.zeros(leaf.shape, jnp.result_type(leaf.dtype, jnp.float32))  # noqa: E731
        totals = Totals(
            jax.tree.map(zeros, found),
            jnp.zeros(steps, found["loss"].mean.dtype),
            jnp.ones((steps, *finite.shape), bool),
        )
        return stay(train_state, where), everywhere((key, order, totals), where)

    def run(train_state, totals, data, order, start, stop):
        def body(i, carry):
            train_state, totals = carry
            train_state, found, finite = one_step(train_state, i, data, order)
            losses = totals.losses.at[i].set(found["loss"].mean)
            return train_state, Totals(
                added(totals.sums, found), losses, totals.finite.at[i].set(finite)
            )

        train_state, totals = jax.lax.fori_loop(start, stop, body, (train_state, totals))
        return stay(train_state, where), everywhere(totals, where)

    placed = automatic(run, where, keeps=True)

    def advance(train_state, totals, data, order, start, stop):
        watcher.traced("fit", train_state=train_state, data=data)
        return placed(train_state, totals, data, order, start, stop)

    memo[place] = Programs(
        jax.jit(automatic(begin, where, keeps=True)), jax.jit(advance, donate_argnums=(0, 1))
    )
    return memo[place]


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


def added(sums: dict[str, Average], found: dict[str, Average]) -> dict[str, Average]:
    return {
        name: Average(s.mean + found[name].mean * found[name].weight, s.weight + found[name].weight)
        for name, s in sums.items()
    }


def added_up(sums: dict[str, Average], more: dict[str, Average]) -> dict[str, Average]:
    """The sums of two stretches."""
    return jax.tree.map(np.add, sums, more)


class Resident:
    """Data on the device: a pass is one program with the first and last step as arguments."""

    def __init__(self, trainer: Trainer, train_state: Any, data: PyTree, size: int, shuffle: bool):
        check_processes("fit", train_state, data)
        self.data = data
        count = jax.tree.leaves(data)[0].shape[0]
        self.size = min(size, count)
        self.steps: int | None = -(-count // self.size)
        split = check_batch("fit", data, self.size)
        self.split = split
        where = check_places(join_mesh(train_state, split), split, "fit")
        self.programs = resident_programs(trainer, self.size, shuffle, where, split)

    def resume(self, place: Place) -> None:
        """Raises where a place is of other data or batches."""
        if place.loader is not None or place.size != self.size or place.done >= (self.steps or 0):
            raise ValueError(
                f"fit: the place is of a run with batches of {place.size} examples, {place.done} "
                f"steps into a pass; these data have {self.steps} batches of {self.size}"
            )

    def run(self, train_state: TrainState, place: Place, limit: int | None, bar: Any, pace: "Pace"):
        """At most `limit` steps, and no further than the end of the pass."""
        assert self.steps is not None
        key = None if place.key is None else np.asarray(place.key, np.uint32)
        train_state = join_mesh(train_state, self.split)
        train_state, (key, order, totals) = self.programs.begin(train_state, self.data, key)
        key = np.asarray(key)  # before advance, whose outputs come much later
        first = done = place.done
        last = self.steps if limit is None else min(self.steps, first + limit)
        while done < last:
            stop = min(done + pace.steps, last)
            start = time.perf_counter()
            span = np.int32(done), np.int32(stop)
            train_state, totals = self.programs.advance(
                train_state, totals, self.data, order, *span
            )
            jax.block_until_ready(totals.losses)
            bar.update(stop - done)
            pace.took(stop - done, time.perf_counter() - start)
            done = stop
            if pace.stopped:
                break
        rows = slice(first, done)
        sums, losses, finite = jax.device_get(totals)
        totals = Totals(sums, losses[rows], finite[rows])
        place = place._replace(size=self.size)
        if done == self.steps:
            return train_state, totals, place._replace(epoch=place.epoch + 1, done=0, key=None)
        return train_state, totals, place._replace(done=done, key=key)


_END = object()


class Stream:
    """Batches from an iterable; a short one is padded with its own examples and masked."""

    def __init__(self, trainer: Trainer, batches: Iterable[PyTree], size: int):
        self.batches, self.size = batches, size
        self.steps = _length(batches)
        self.trainer = trainer
        self.iterator: Any = None  # of the pass that is under way
        self.first: dict[int, int] = {}  # checksum of the first batch, by pass
        self.where: tuple | None = None
        self.checked = False  # whether the train_state and the batches lie well
        self.explained = False  # whether a last batch of one example was looked at
        self.accepted: list[frozenset[int]] = []  # integers found in the targets so far
        self.memo = memo = trainer.programs if trainer.programs is not None else Memo()
        if "stream" not in memo:
            update, watcher = update_of(trainer), trainer.watcher or Watcher()

            def step(train_state, batch, mask, where):
                watcher.traced("fit from batches", train_state=train_state, batch=batch)

                def run(train_state, batch, mask):
                    after, found, finite = update(train_state, batch, mask)
                    return stay(after, where), everywhere((found, finite), where)

                return automatic(run, where, keeps=True)(train_state, batch, mask)

            memo["stream"] = jax.jit(step, donate_argnums=0, static_argnums=3)
        self.step = memo["stream"]

    def resume(self, place: Place) -> None:
        """Goes to the place: by the state of the iterator, or past the batches that were used."""
        if place.key is not None:
            raise ValueError("fit: the place is of a run on arrays, and these data are a stream")
        for _ in range(place.epoch - (place.start // self.steps if self.steps else 0)):
            past = iter(self.batches)
            if past is self.batches:  # can be used once, and is not at its beginning
                break
            next(past, None)  # a loader may count the passes, to shuffle each in another way
        if not place.done:
            return
        self.iterator = iter(self.batches)
        if place.loader is not None:
            if not hasattr(self.iterator, "set_state"):
                raise ValueError(
                    "fit: the place has the state of another kind of iterator than that of a "
                    f"{type(self.batches).__name__}, which has no set_state"
                )
            self.iterator.set_state(place.loader)
            return
        for i in range(place.done):
            if next(self.iterator, None) is None:
                raise ValueError(
                    f"fit: the place is {place.done} batches into a pass, and these data yielded "
                    f"{i}; pass what the run was started with"
                )

    def run(self, train_state: TrainState, place: Place, limit: int | None, bar: Any, pace: "Pace"):
        """At most `limit` steps, and no further than the end of the pass."""
        seen, flags = [], []
        if self.iterator is None:
            self.iterator = iter(self.batches)
        several, look = jax.process_count() > 1, pace.steps  # they agree now and then
        ended = False
        while limit is None or len(seen) < limit:
            batch = next(self.iterator, _END)
            if ended := batch is _END:
                break
            train_state, batch, mask, size = self._prepared(train_state, batch, place)
            if not place.done and not seen:
                self._compare_first(place.epoch, batch)
            place = place._replace(size=size)
            start = time.perf_counter()
            train_state, (found, finite) = self.step(train_state, batch, mask, self.where)
            seen.append(found)
            flags.append(finite)
            bar.update(1)
            if several and len(seen) >= look:
                jax.block_until_ready(finite)
                pace.took(1, time.perf_counter() - start)
                look = len(seen) + pace.steps
            elif not several:
                pace.stopped = preemption.asked()
            if pace.stopped:
                break
        if not seen and not place.done:
            raise ValueError(
                "fit: the data yielded no batch; an iterator can be used once only, so pass "
                "a loader, or an object whose __iter__ starts over for each epoch"
            )
        done = place.done + len(seen)
        if ended or done == self.steps:
            self.iterator = None
            place = place._replace(epoch=place.epoch + 1, done=0, loader=None)
        else:
            state = getattr(self.iterator, "get_state", lambda: None)()
            place = place._replace(done=done, loader=state)
        if not seen:
            return train_state, None, place
        seen, flags = jax.device_get((seen, flags))
        sums = jax.tree.map(np.zeros_like, seen[0])
        for found in seen:
            sums = added(sums, found)
        losses = np.array([found["loss"].mean for found in seen])
        return train_state, Totals(sums, losses, np.stack(flags)), place

    def _prepared(self, train_state: TrainState, batch: PyTree, place: Place):
        """The train_state on the batch's mesh, the batch at its full size, its mask, that size."""
        batch = on_device(batch, "fit: a batch")
        check_processes("fit", train_state, batch)
        now = train_state.params, train_state.state
        check_targets(self.trainer.objective, *now, batch, "fit", self.accepted, train=True)
        count = jax.tree.leaves(batch)[0].shape[0]
        size = place.size or count
        if not self.checked:
            split = check_batch("fit", batch, count)
            train_state = join_mesh(train_state, split)
            self.where = check_places(train_state, split, "fit")
            self.checked = True
        if count > size:
            raise ValueError(
                f"fit: the first batch had {size} examples, a later one {count}; only the last "
                "batch may be smaller, and none larger"
            )
        if count == 1 < size:
            self._explain_one_example(train_state, batch)
        if count < size:
            batch = jax.tree.map(lambda leaf: jnp.resize(leaf, (size, *leaf.shape[1:])), batch)
        mask = None
        if count < size or self._masked(train_state, batch):  # one program for all batches
            mask = jnp.asarray(np.arange(size) < count, jnp.float32)
        return train_state, batch, mask, size

    def _masked(self, train_state: TrainState, batch: PyTree) -> bool:
        if (objective := self.trainer.objective) is None:
            return False
        return takes_mask(objective, self.memo, train_state.params, train_state.state, batch)

    def _explain_one_example(self, train_state: TrainState, batch: PyTree) -> None:
        """Warn if a layer cannot train on one example, whose copies fill the batch."""
        if (objective := self.trainer.objective) is None or self.explained:
            return
        self.explained = True
        apply = functools.partial(objective.apply, train=True)
        given = shapes_of((train_state.params, train_state.state, batch))
        try:
            jax.eval_shape(lambda *args, key: apply(*args, key=key)[0], *given, key=key_spec())
        except ValueError as error:
            warn(
                "fit: the last batch has one example, which is repeated to fill it, so its "
                f"statistics are wrong. Drop it, or choose another batch size. {error}"
            )

    def _compare_first(self, epoch: int, batch: PyTree) -> None:
        """Warns where a loader that could shuffle begins two passes with the same batch."""
        if not hasattr(self.iterator, "get_state") or len(self.first) > 1:
            return
        leaves = [leaf for leaf in jax.tree.leaves(batch) if leaf.is_fully_addressable]
        sums = [zlib.crc32(np.asarray(leaf).tobytes()) for leaf in leaves]
        self.first[epoch] = hash(tuple(sums))
        if len(self.first) == 2 and len(set(self.first.values())) == 1 and leaves:
            warn(
                "fit: two passes began with the same batch: the loader starts over in the same "
                "order. With grain, write dataset.seed(0).shuffle().repeat() before batch and "
                "to_iter_dataset, and fit(..., steps=...)"
            )


def _length(batches: Any) -> int | None:
    """The number of batches where it is known; grain gives one that never ends the largest."""
    length = len(batches) if hasattr(batches, "__len__") else None
    return None if length is None or length >= sys.maxsize else length


class Pace:
    """Chooses the number of steps per dispatch from the duration of the last one."""

    def __init__(self, fixed: int | None):
        self.fixed, self.steps = fixed, fixed or 1
        self.seen = 0
        self.stopped = False  # by a request, the same in all processes

    def took(self, steps: int, seconds: float) -> None:
        """Notes the duration of a dispatch, and whether the run is to stop.

        Processes take the pace of the first, since each dispatch is a program of all of them.
        """
        self.seen += 1
        if self.fixed is None and self.seen > 1:  # the first one compiles
            # At most 8 times more at once: a short dispatch is a poor clock.
            rate = steps / max(seconds, 1e-6)
            self.steps = int(np.clip(rate * REFRESH, 1, 8 * self.steps))
        self.steps, self.stopped = agreed(self.steps, preemption.asked())
        if self.stopped:
            preemption.pass_on()
