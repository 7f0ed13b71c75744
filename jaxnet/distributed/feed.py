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
        iterator: Any = iter(self.loader)
        stateful = hasattr(iterator, "get_state") and hasattr(iterator, "set_state")
        return _Ahead(iterator if stateful else _Counting(iterator), self.place, self.ahead)


class _Counted(_Batches):
    def __len__(self) -> int:
        return len(self.loader)


class _Counting:
    """An iterator whose state is the number of batches it has yielded."""

    def __init__(self, iterator: Any):
        self.iterator, self.count = iterator, 0
        if hasattr(iterator, "close"):
            self.close = iterator.close

    def __next__(self) -> PyTree:
        batch = next(self.iterator)
        self.count += 1
        return batch

    def get_state(self) -> int:
        return self.count

    def set_state(self, state: int) -> None:
        while self.count < state:
            next(self)


class _Ahead:
    """An iterator whose thread starts with the first batch and ends with the iterator."""

    def __init__(self, iterator: Any, place: Callable[[PyTree], PyTree], ahead: int):
        self._iterator, self._place = iterator, place
        self._ready: queue.Queue = queue.Queue(ahead)
        self._stopped = threading.Event()
        self._started = False
        self._state = iterator.get_state()

    def __iter__(self) -> Iterator[PyTree]:
        return self

    def __next__(self) -> PyTree:
        if not self._started:
            self._started = True
            # The thread does not hold this iterator, whose end it waits for.
            args = self._iterator, self._place, self._ready, self._stopped
            threading.Thread(target=_fill, args=args, name="feed", daemon=True).start()
        batch, state, error = self._ready.get()
        if error is not None:
            self._ready.put((None, None, error))  # the next call raises the error again
            raise error
        self._state = state
        return batch

    def __del__(self) -> None:
        self._stopped.set()

    def get_state(self) -> Any:
        """Return the state after the batch that was handed out last."""
        return self._state

    def set_state(self, state: Any) -> None:
        """Go to a state; call it before the first batch is taken."""
        if self._started:
            raise RuntimeError("feed: set the state before the first batch is taken")
        self._iterator.set_state(state)
        self._state = state


def _fill(iterator, place, ready: queue.Queue, stopped: threading.Event) -> None:
    """Fill the queue with (batch, state after it, None), at last with the error or the end."""
    thread, error = threading.current_thread(), None

    def end():  # before Python takes down what the iterator needs
        stopped.set()
        thread.join(timeout=10)

    atexit.register(end)
    try:
        while error is None and not stopped.is_set():
            item: tuple
            try:
                item = place(next(iterator)), iterator.get_state(), None
            except BaseException as caught:  # includes StopIteration
                error = caught
                item = None, None, error
            while not stopped.is_set():
                try:
                    ready.put(item, timeout=0.2)
                    break
                except queue.Full:  # check whether the iterator still exists
                    continue
    finally:
        # An iterator of grain ends its own threads and processes.
        if hasattr(iterator, "close"):
            iterator.close()
        atexit.unregister(end)
