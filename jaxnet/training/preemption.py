"""Requests to stop, as clusters send them before they take a machine away: the signal SIGTERM.

The request belongs to the whole process, since a signal does. Nothing listens unless a
`jn.Checkpoints` is open.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ASKED = threading.Event()
EXIT = 128 + signal.SIGTERM  # what a shell reports of a process that the signal ended


def asked() -> bool:
    """Return whether the process was asked to stop while somebody listened.

    Example:
      >>> asked()
      False
    """
    return _ASKED.is_set()


def pass_on() -> None:
    """Note that another process of this run was asked to stop."""
    _ASKED.set()


@contextmanager
def listening() -> Iterator[None]:
    """Note a SIGTERM instead of dying of it; at the end the process exits if there was one.

    Python handles signals in its main thread, so elsewhere nothing changes.

    Raises:
      SystemExit: With 143, if the process was asked to stop.

    Example:
      >>> with listening():
      ...     asked()
      False
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: _ASKED.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
        stop = asked()
        _ASKED.clear()
    if stop:
        raise SystemExit(EXIT)
