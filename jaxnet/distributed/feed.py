"""Batches of a loader on a mesh, read and moved ahead of their use."""

import atexit
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxnet.distributed.rules import put
from jaxnet.services.checks import at_least
from jaxnet.services.trees import PyTree


def feed(loader: Iterable[PyTree], mesh: Mesh, spec: P, *, ahead: int = 2) -> Iterable[PyTree]:
    """Return the batches of a loader on a mesh, read and moved ahead of their use in a thread.

    Each process gives the batches of a loader that yields its slices of the whole batches. The
    iterators have `get_state` and `set_state`, as grain's iterators have. The state is the loader's
    state after the batch that was handed out last, however far the thread has read. So a run
    resumes from `Epoch.position` with the next batch. For a loader without a state it is the number
    of batches, which are then read again and dropped.

    Args:
      loader: Iterable of pytrees of arrays, such as a dataset of grain.
      mesh: Mesh created by `jax.make_mesh`.
      spec: How the batches are split, such as `P("data")`.
      ahead: Number of batches to read ahead, at least 1.

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
    return kind(loader, partial(put, mesh=mesh, rules=spec, local=True), ahead)


class _Batches:
    def __init__(self, loader: Any, place: Callable[[PyTree], PyTree], ahead: int):
        self.loader, self.place, self.ahead = loader, place, ahead

    def __iter__(self) -> "_Ahead":
        return _Ahead(iter(self.loader), self.place, self.ahead)


class _Counted(_Batches):
    def __len__(self) -> int:
        return len(self.loader)


class _Ahead:
    """An iterator whose thread starts with the first batch and ends with the iterator."""

    def __init__(self, iterator: Any, place: Callable[[PyTree], PyTree], ahead: int):
        self._reader = _Reader(iterator, place, ahead)
        self._state = self._reader.state()
        self._started = False

    def __iter__(self) -> Iterator[PyTree]:
        return self

    def __next__(self) -> PyTree:
        if not self._started:
            self._started = True
            self._reader.start()
        batch, state, error = self._reader.ready.get()
        if error is not None:
            self._reader.ready.put((None, None, error))  # the next call raises the error again
            raise error
        self._state = state
        return batch

    def __del__(self) -> None:
        self._reader.stopped.set()

    def get_state(self) -> Any:
        """Return the state after the batch that was handed out last."""
        return self._state

    def set_state(self, state: Any) -> None:
        """Go to a state; call it before the first batch is taken."""
        if self._started:
            raise RuntimeError("feed: set the state before the first batch is taken")
        self._reader.go_to(state)
        self._state = state


class _Reader:
    """The work of the thread; it does not hold the iterator whose end it waits for."""

    def __init__(self, iterator: Any, place: Callable[[PyTree], PyTree], ahead: int):
        self.iterator, self.place = iterator, place
        self.ready: queue.Queue = queue.Queue(ahead)
        self.stopped = threading.Event()
        self.count = 0
        self.keeps_state = hasattr(iterator, "get_state") and hasattr(iterator, "set_state")
        self.thread = threading.Thread(target=self.run, name="feed", daemon=True)

    def start(self) -> None:
        """Start the thread, and end it before Python takes down what the iterator needs."""
        atexit.register(self.end)
        self.thread.start()

    def end(self) -> None:
        self.stopped.set()
        self.thread.join(timeout=10)

    def state(self) -> Any:
        return self.iterator.get_state() if self.keeps_state else self.count

    def go_to(self, state: Any) -> None:
        if self.keeps_state:
            self.iterator.set_state(state)
            return
        while self.count < state:
            next(self.iterator)
            self.count += 1

    def run(self) -> None:
        """Fill the queue with (batch, state after it, None), at last with the error or the end."""
        try:
            self._fill()
        finally:
            # An iterator of grain ends its own threads and processes.
            if hasattr(self.iterator, "close"):
                self.iterator.close()
            atexit.unregister(self.end)

    def _fill(self) -> None:
        error = None
        while error is None and not self.stopped.is_set():
            item: tuple
            try:
                batch = next(self.iterator)
                self.count += 1
                item = self.place(batch), self.state(), None
            except BaseException as caught:  # includes StopIteration
                error = caught
                item = None, None, error
            while not self.stopped.is_set():
                try:
                    self.ready.put(item, timeout=0.2)
                    break
                except queue.Full:  # check whether the iterator still exists
                    continue
