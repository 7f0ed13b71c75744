"""Requests to stop: the signal SIGTERM, which clusters send before they reclaim a machine.

Like the signal, a request belongs to the whole process. It has no effect on the run unless a
`jn.Checkpoints` is open.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ASKED: list[int] = []  # an Event has a lock, which Ctrl-C may leave locked
# The exit status that a shell reports for a process ended by the signal.
EXIT = 128 + signal.SIGTERM


def asked() -> bool:
    """Return whether the process was asked to stop inside `listening`.

    Example:
      >>> asked()
      False
    """
    return bool(_ASKED)


def pass_on() -> None:
    """Note that another process of this run was asked to stop."""
    _ASKED.append(signal.SIGTERM)


@contextmanager
def listening() -> Iterator[None]:
    """Record a SIGTERM instead of ending the process; at the end, exit if there was one.

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
    before = signal.signal(signal.SIGTERM, lambda number, frame: _ASKED.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
        stop = asked()
        _ASKED.clear()
    if stop:
        raise SystemExit(EXIT)
