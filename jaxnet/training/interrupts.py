"""Ctrl-C in a loop of steps, which must not lose the train_state.

A step donates the train_state that it was given, and the caller has the next one only after the
assignment. Python raises KeyboardInterrupt at any place in between, and then both are gone. So in
this span the signal is noted, and sent again before the next step, or soon after if none follows.
"""

import signal
import threading
from _signal import getsignal  # those of `signal` make enums, which takes 5 to 16 microseconds
from _signal import signal as handle
from collections.abc import Callable
from threading import get_ident
from typing import Any

import jax

from jaxnet.services.checks import is_traced
from jaxnet.services.trees import PyTree

LATE = 0.02  # seconds after which a noted signal is sent again
_MAIN = threading.main_thread().ident  # Python runs handlers of signals there
_noted: list[object] = []


def uninterrupted(step: Callable[[Any, PyTree], Any], train_state: Any, batch: PyTree) -> Any:
    """Return `step(train_state, batch)`, which no signal ends once it has donated.

    Until then, for example while it compiles, signals are handled at once. A handler of the user is
    called as late as Python's own. In other threads, and with handlers that are not in Python,
    nothing changes.

    Example:
      >>> uninterrupted(lambda train_state, batch: train_state + batch, 1, 2)
      3
    """
    if get_ident() != _MAIN or not callable(before := getsignal(signal.SIGINT)):
        return step(train_state, batch)
    if _noted:
        _noted.clear()
        signal.raise_signal(signal.SIGINT)

    def note(number, frame):  # annotations would be evaluated at each step
        at = frame
        while at is not None and not (
            # An exception in the last line may have left this handler behind.
            at.f_code is uninterrupted.__code__ and at.f_locals["train_state"] is train_state
        ):
            at = at.f_back
        if at is not None and is_spent(train_state):
            _noted.append(mine := object())
            threading.Timer(LATE, _send, (mine,)).start()
        else:
            before(number, frame)

    try:
        handle(signal.SIGINT, note)
        return step(train_state, batch)
    finally:  # Python looks for signals after every call, but not after unpacking
        (_,) = map(handle, (signal.SIGINT,), (before,))


def is_spent(tree: PyTree) -> bool:
    """Return whether a step has used up any array of a tree.

    Example:
      >>> is_spent({"kernel": jnp.ones(3)})
      False
    """
    leaves = [] if is_traced(tree) else jax.tree.leaves(tree)
    return any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in leaves)


def _send(noted: object) -> None:
    if noted in _noted:  # no step has sent it
        _noted.clear()
        if hasattr(signal, "pthread_kill") and _MAIN is not None:
            signal.pthread_kill(_MAIN, signal.SIGINT)  # also wakes it up
        else:
            signal.raise_signal(signal.SIGINT)
