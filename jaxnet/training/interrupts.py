"""Signals in a loop of steps, which must not lose the train_state.

A step donates the train_state that it was given, and the caller has the next one only after the
assignment. Python calls handlers of signals at any place in between, and if one raises, as that of
Ctrl-C does, then both are gone. So in this span a signal is noted, and sent again before the next
step, or soon after if none follows.
"""

import signal
import sys
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
# As plain integers, since those of `signal` are enums.
OTHERS = [int(number) for number in signal.valid_signals() - {signal.SIGINT}]
LOOK = 32  # steps after which new handlers are looked for
KEPT = (
    "the train_state of step {step} is not lost; write train_state = jn.training.recover(error), "
    "or, in a notebook, train_state = jn.training.recover()"
)
_MAIN = threading.main_thread().ident  # Python runs handlers of signals there
_noted: dict[int, object] = {}  # signals that are to be sent again


class Handled:
    """The other signals that have a handler in Python, which may raise."""

    def __init__(self) -> None:
        self._numbers: tuple[int, ...] = ()
        self.calls = 0

    def others(self) -> tuple[int, ...]:
        """Return the numbers of these signals, as they were at one of the last calls.

        Example:
          >>> signal.SIGINT in Handled().others()
          False
        """
        if self.calls % LOOK == 0:
            self._numbers = tuple([number for number in OTHERS if callable(getsignal(number))])
        self.calls += 1
        return self._numbers


_handled = Handled()


def uninterrupted(step: Callable[[Any, PyTree], Any], train_state: Any, batch: PyTree) -> Any:
    """Return `step(train_state, batch)`, which no signal ends once it has donated.

    Until then, for example while it compiles, signals are handled at once; but an `Exception` that
    a handler raises, which JAX could handle, comes before the next step. A handler of the user is
    called as late as Python's own. What it raises takes the train_state along. In other threads,
    and with handlers that are not in Python, nothing changes.

    Example:
      >>> uninterrupted(lambda train_state, batch: train_state + batch, 1, 2)
      3
    """
    if get_ident() != _MAIN:
        return step(train_state, batch)
    if _noted:
        _send_all(train_state)
    # Ctrl-C alone, the usual case, takes half as long as the signals in one loop.
    handles_ctrl_c = callable(on_ctrl_c := getsignal(signal.SIGINT))
    handlers = tuple(map(getsignal, others)) if (others := _handled.others()) else ()

    def note(number, frame):  # annotations would be evaluated at each step
        at = frame
        while at is not None and not (
            # An exception in the last line may have left this handler behind.
            at.f_code is uninterrupted.__code__ and at.f_locals["train_state"] is train_state
        ):
            at = at.f_back
        if at is not None and is_spent(train_state):
            _send_later(number)
            return
        try:
            handler = on_ctrl_c if number == signal.SIGINT else handlers[others.index(number)]
            handler(number, frame)
        except Exception as error:
            if at is None:
                raise
            _send_later(number, error)  # JAX handles some, and calls its program twice
        except BaseException as error:
            if at is not None:
                give(error, train_state)
            raise

    try:
        if handles_ctrl_c:
            handle(signal.SIGINT, note)
        for number in others:
            handle(number, note)
        return step(train_state, batch)
    finally:  # Python looks for signals after every call, but not after unpacking
        if others:
            (*_,) = map(handle, others, handlers)
        if handles_ctrl_c:
            (_,) = map(handle, (signal.SIGINT,), (on_ctrl_c,))


def recover(error: BaseException | None = None) -> Any:
    """Return the newest train_state among the variables of the functions that an error ended.

    A step uses up the train_state that it was given. If Ctrl-C or another error ends a function of
    yours, such as `train_epoch(train_state)`, then the one that the caller holds is used up, and
    the newest is a variable of the function. The traceback of the error still has it.

    Args:
      error: Error that was caught. By default the one that is handled now or, if there is none, the
        last one that ended a cell of a notebook or a line of the interpreter.

    Returns:
      A TrainState that no step has used up, or None if there is none.

    Example:
      >>> data = jnp.ones((8, 3)), jnp.ones((8, 2))
      >>> trainer = jn.trainer(jn.supervised(jn.dense(2), optax.squared_error), optax.sgd(0.1))
      >>> def train_epoch(train_state):
      ...     for number in range(5):
      ...         train_state, metrics = trainer.step(train_state, data)
      ...     raise KeyboardInterrupt  # or Ctrl-C
      >>> train_state = trainer.init(jax.random.key(0), data)
      >>> try:
      ...     train_state = train_epoch(train_state)
      ... except KeyboardInterrupt as error:
      ...     train_state = jn.training.recover(error)
      >>> int(train_state.step)
      5
    """
    if error is None:
        error = sys.exc_info()[1] or getattr(sys, "last_value", None)
    found: list[Any] = []
    while error is not None:
        found.append(getattr(error, "train_state", None))
        at = error.__traceback__
        while at is not None:
            found += at.tb_frame.f_locals.values()
            at = at.tb_next
        error = error.__context__
    # By names, since the module of TrainState imports this one.
    states = [each for each in found if hasattr(each, "opt_state") and hasattr(each, "step")]
    whole = [each for each in states if not is_traced(each.step) and not is_spent(each)]
    return max(whole, key=lambda each: int(each.step), default=None)


def give(error: BaseException, train_state: Any) -> None:
    """Give an error a train_state that is still whole, and say so.

    Example:
      >>> error = KeyboardInterrupt()
      >>> give(error, (jnp.ones(3),))
      >>> len(error.train_state)
      1
    """
    if train_state is None or is_spent(train_state) or hasattr(error, "train_state"):
        return
    error.train_state = train_state  # type: ignore[attr-defined]
    error.add_note(KEPT.format(step=getattr(train_state, "step", "")))


def is_spent(tree: PyTree) -> bool:
    """Return whether a step has used up any array of a tree.

    Example:
      >>> is_spent({"kernel": jnp.ones(3)})
      False
    """
    leaves = [] if is_traced(tree) else jax.tree.leaves(tree)
    return any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in leaves)


def _send_all(train_state: Any) -> None:
    """Send the noted signals, with the train_state in hand that the next step would use up."""
    noted = dict(_noted)
    _noted.clear()
    try:
        for number, error in noted.items():
            if isinstance(error, Exception):
                raise error
            signal.raise_signal(number)
    except BaseException as error:
        give(error, train_state)
        raise


def _send_later(number: int, noted: object = None) -> None:
    """Note a signal, and what its handler has raised, if it was called."""
    _noted[number] = noted = noted or object()
    threading.Timer(LATE, _send, (number, noted)).start()


def _send(number: int, noted: object) -> None:
    if _noted.get(number) is noted:  # no step has sent it
        del _noted[number]
        if hasattr(signal, "pthread_kill") and _MAIN is not None:
            signal.pthread_kill(_MAIN, number)  # also wakes it up
        else:
            signal.raise_signal(number)
