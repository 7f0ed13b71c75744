"""Batches of a loader on a mesh, read and moved ahead of their use."""

import atexit
import sys
import time
from _thread import get_ident, start_new_thread  # a Thread waits, with locks, for its start
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxnet.distributed.rules import put_silently
from jaxnet.services import peers
from jaxnet.services.checks import at_least
from jaxnet.services.peers import agree, events, heard, shapes, told
from jaxnet.services.preemption import soon_asked
from jaxnet.services.trees import PyTree


def feed(loader: Iterable[PyTree], mesh: Mesh, spec: P, *, ahead: int = 2) -> Iterable[PyTree]:
    """Return the batches of a loader on a mesh, read and moved ahead of their use in a thread.

    Each process gives the batches of a loader that yields its slices of the whole batches. Before a
    batch is taken, the processes compare what they have next, while the step before it runs. With
    other loaders, `fit` and `evaluate` compare between two steps, which takes longer. The
    iterators have `get_state` and `set_state`, as grain's iterators have. The state is the loader's
    state after the batch that was handed out last, however far the thread has read. So a run
    resumes from `Epoch.position` with the next batch. For a loader without a state it is the number
    of batches, which are then read again and dropped.

    Args:
      loader: Iterable of pytrees of arrays, such as a dataset of grain.
      mesh: Mesh created by `jax.make_mesh`.
      spec: How the batches are split, such as `P("data")`.
      ahead: Number of batches to read ahead, at least 1.

    Returns:
      An iterable of the batches, arrays on the mesh. Each iteration starts the loader
      again.

    Raises:
      TypeError: If the loader cannot be iterated, or if `ahead` is not an integer.
      ValueError: If `ahead` is below 1, or if `put` raises it. What the loader raises is raised
        when its batch is taken.

    Example:
      >>> mesh = jax.make_mesh((1,), ("data",))
      >>> batches = feed([np.ones((4, 3)), np.zeros((4, 3))], mesh, jax.P("data"))
      >>> [float(batch.sum()) for batch in batches]
      [12.0, 0.0]
    """
    if not hasattr(loader, "__iter__"):
        raise TypeError(f"feed: loader must yield batches, got {type(loader).__name__}")
    at_least("feed", "ahead", ahead)
    kind = _Counted if hasattr(loader, "__len__") else _Batches
    return kind(loader, partial(put_silently, mesh=mesh, rules=spec, local=True), ahead)


class _Batches:
    def __init__(self, loader: Any, place: Any, ahead: int):
        self.loader = loader
        self.place = place
        self.ahead = ahead

    def __iter__(self) -> "_Ahead":
        iterator: Any = iter(self.loader)
        length = len(self) if isinstance(self, _Counted) else "any number of"
        agree("feed", self.place.keywords["mesh"], f"begins a loader of {length} batches")
        stateful = hasattr(iterator, "get_state") and hasattr(iterator, "set_state")
        if not stateful:
            iterator = _Counting(iterator)
        return _Ahead(iterator, self.place, self.ahead)


class _Counted(_Batches):
    def __len__(self) -> int:
        return len(self.loader)


class _Counting:
    """An iterator whose state is the number of batches it has yielded."""

    def __init__(self, iterator: Any):
        self.iterator = iterator
        self.count = 0
        if hasattr(iterator, "close"):
            self.close = iterator.close

    def __next__(self) -> PyTree:
        batch = next(self.iterator)
        self.count += 1
        return batch

    def get_state(self) -> int:
        return self.count

    def set_state(self, state: int) -> None:
        try:
            while self.count < state:
                next(self)
        except (StopIteration, TypeError):
            raise ValueError(
                f"feed: the position is {state!r:.60} batches into a pass, and the loader yielded "
                f"{self.count}; pass what the run was started with"
            ) from None


class _Ahead:
    """An iterator whose thread starts with the first batch and ends with the iterator."""

    def __init__(self, iterator: Any, place: Any, ahead: int):
        self._iterator, self._place = iterator, place
        self._shared = _Shared(ahead)
        self._started = False
        self._state = iterator.get_state()
        self._mesh = place.keywords["mesh"]
        self._sent: Any = None  # what the other processes were told
        self._next: Any = None  # the next batch and the state after it, if it was taken
        self._count = 0

    def __iter__(self) -> Iterator[PyTree]:
        return self

    def __next__(self) -> PyTree:
        if not self._started:
            # The thread does not hold this iterator, whose end it waits for.
            start_new_thread(_fill, (self._iterator, self._place, self._shared))
            self._started = True
        sent, self._sent = self._sent, None
        if sent is None:
            sent = self._tell(WAITING)
        since = time.monotonic()
        while sent is not None and not self._heard(sent):
            if since and time.monotonic() > since + peers.SAID:
                print("feed: some process still waits for its loader", file=sys.stderr, flush=True)
                since = 0
            sent = self._tell(WAITING)
        batch, state = self._next or self._take(None)
        self._next = None
        if state is _END:
            raise self._shared.ended[0]  # again in each call
        events.append("batch")
        self._state = state
        self._count += 1
        self._sent = self._tell(0)  # is heard at the next call, while the step runs
        return batch

    def _take(self, timeout: float | None) -> Any:
        shared = self._shared
        if shared.ended and shared.ready.empty():
            return None, _END
        item = shared.ready.get(timeout=timeout)
        if shared.consumed.empty():
            shared.consumed.put(None)
        return item

    def _heard(self, sent: Any) -> bool:
        at_end = self._next is not None and self._next[1] is _END
        raised = at_end and _why(self._shared) != ENDED
        try:
            answer = heard(f"feed, batch {self._count + 1}", sent)
        except RuntimeError:
            if raised:
                return True  # the loader's own error, which follows, says why
            raise
        if answer.stops and not raised:
            raise peers.Stopped
        return answer.same or answer.stops

    def _tell(self, timeout: float) -> Any:
        """Tell the other processes of the next batch; None if there are none."""
        if len({device.process_index for device in self._mesh.devices.flat}) == 1:
            return None
        if self._next is None:
            with suppress(Empty):
                self._next = self._take(timeout)
        if self._next is None:
            return told(self._mesh, peers.WAITS)
        batch, state = self._next
        if state is _END:
            why = _why(self._shared)
            words = f"has no further batch, its loader {why}"
            if why != ENDED and soon_asked():  # the signal may have ended the loader's workers too
                words = peers.STOPS
        else:
            words = f"takes {shapes(batch)}"
        return told(self._mesh, words)

    def __del__(self) -> None:
        self._shared.stopped = True

    def get_state(self) -> Any:
        """Return the state after the batch that was handed out last."""
        return self._state

    def set_state(self, state: Any) -> None:
        """Go to a state; call it before the first batch is taken."""
        if self._started:
            raise RuntimeError("feed: set the state before the first batch is taken")
        self._iterator.set_state(state)
        self._state = state


_END = object()
ENDED = "ended"
WAITING = 5  # seconds in which a process with a slow loader says that it waits


class _Shared:
    """What the thread and the iterator share, without locks that Ctrl-C could leave locked."""

    def __init__(self, ahead: int):
        self.ready: SimpleQueue = SimpleQueue()  # (batch, state after it)
        self.consumed: SimpleQueue = SimpleQueue()  # an entry if batches were taken
        self.finished: SimpleQueue = SimpleQueue()  # an entry at the end of the thread
        self.ahead = ahead
        self.stopped = False
        self.begun: list[int] = []
        self.ended: list[BaseException] = []


def _why(shared: _Shared) -> str:
    error = shared.ended[0]
    return ENDED if isinstance(error, StopIteration) else f"raised {error!r}"


def _fill(iterator: Any, place: Callable, shared: _Shared) -> None:
    """Fill the queue with (batch, state after it), at last with the end; `ended` has the error."""
    shared.begun.append(get_ident())
    if shared.begun[0] != get_ident():  # Ctrl-C came while an earlier thread was started
        return

    def end():  # before Python takes down what the iterator needs
        shared.stopped = True
        with suppress(Empty):
            shared.finished.get(timeout=10)

    atexit.register(end)
    try:
        while not shared.ended and not shared.stopped:
            try:
                item = place(next(iterator)), iterator.get_state()
            except BaseException as caught:  # includes StopIteration
                shared.ended.append(caught)
                item = None, _END
            while not shared.stopped and shared.ready.qsize() >= shared.ahead:
                with suppress(Empty):  # check whether the iterator still exists
                    shared.consumed.get(timeout=0.2)
            shared.ready.put(item)
    finally:
        # An iterator of grain ends its own threads and processes.
        if hasattr(iterator, "close"):
            iterator.close()
        atexit.unregister(end)
        shared.finished.put(None)
