"""Requests to stop: SIGTERM, which clusters send before they reclaim a machine, and SIGHUP.

SIGHUP comes when a terminal is closed. Like the signals, a request belongs to the whole process. It
has no effect on the run unless a `jn.Checkpoints` is open.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ASKED: list[int] = []  # an Event has a lock, which Ctrl-C may leave locked
SIGNALS = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


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
    """Record a signal instead of ending the process; at the end, exit if there was one.

    Python handles signals in its main thread, so elsewhere nothing changes. A signal that is
    ignored, as SIGHUP is under `nohup`, stays so.

    Raises:
      SystemExit: If the process was asked to stop, with the status that a shell reports for a
        process ended by the signal: 143 for SIGTERM, 129 for SIGHUP.

    Example:
      >>> with listening():
      ...     asked()
      False
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {n: signal.signal(n, lambda number, frame: _ASKED.append(number)) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        received = list(_ASKED)
        _ASKED.clear()
    if received:
        raise SystemExit(128 + received[0])
