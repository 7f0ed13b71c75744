"""Requests to stop: SIGTERM, which clusters send before they reclaim a machine, and SIGHUP.

SIGHUP comes when a terminal is closed. Like the signals, a request belongs to the whole process. It
has no effect on the run unless a `jn.Checkpoints` is open.

Several processes stop only when all of them know of the request, so that none makes a step more
than the others. `jaxnet.services.peers` carries the request with all that they say to each other.
"""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

SIGNALS = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
LATE = 1  # seconds by which a signal to a group of processes reaches one of them later than another
# Lists, not an Event, which has a lock that Ctrl-C may leave locked.
_ASKED: list[int] = []  # signals that this process got
_AGREED: list[int] = []  # an entry if all processes of the run know that one of them was asked
_LISTENS: list[bool] = []  # an entry for each `listening`


def asked() -> bool:
    """Return whether this process was asked to stop inside `listening`.

    Example:
      >>> asked()
      False
    """
    return bool(_ASKED)


def listens() -> bool:
    """Return whether a signal would be recorded now.

    Example:
      >>> listens()
      False
    """
    return bool(_LISTENS)


def stops() -> bool:
    """Return whether the run is to stop now: the same in all processes.

    Example:
      >>> stops()
      False
    """
    return bool(_AGREED or (_ASKED and jax.process_count() == 1))


def agree() -> None:
    """Note that all processes of this run know that one of them was asked to stop."""
    _AGREED.append(signal.SIGTERM)


def soon_asked() -> bool:
    """Return whether this process was asked to stop, or is so within a second.

    A signal to a whole group of processes ends the workers of a loader, too, and what they leave
    may be found before the signal is handled here.

    Example:
      >>> soon_asked()
      False
    """
    end = time.monotonic() + LATE
    while _LISTENS and not _ASKED and time.monotonic() < end:
        time.sleep(0.02)
    return asked()


def leave(who: str, lost: str, train_state: Any = None) -> None:
    """Exit if the run is to stop, after a line that says what is lost.

    Args:
      who: Name of the function.
      lost: What is lost, and what to write instead.
      train_state: What the exception takes along, for a caller that catches it.

    Raises:
      SystemExit: If the run is to stop, with the status of `listening`.

    Example:
      >>> leave("predict", "its outputs are lost")
    """
    if not stops():
        return
    number = (_ASKED or _AGREED)[0]
    name = signal.Signals(number).name
    print(f"{who}: {name} asked this run to stop; {lost}", file=sys.stderr, flush=True)
    error = SystemExit(128 + number)
    if train_state is not None:
        error.train_state = train_state  # type: ignore[attr-defined]
    raise error


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
    _LISTENS.append(True)
    try:
        yield
    finally:
        _LISTENS.pop()
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        received = [*_ASKED, *_AGREED]
        _ASKED.clear()
        _AGREED.clear()
    if received:
        raise SystemExit(128 + received[0])
