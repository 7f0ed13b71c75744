"""Warnings that point to the line of the user, however many functions are between."""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import FrameType

import jax

# JAX calls back into jaxnet while it traces, and a decorator of contextlib is between a function of
# ours and its caller.
_OURS = (
    *(f"{path.parent}{os.sep}" for path in (Path(__file__).parent, Path(jax.__file__))),
    contextlib.__file__,
)
# Whether `warn` does nothing. The filters of Python's warnings belong to the whole process: if two
# threads change them by `warnings.catch_warnings`, they stay changed.
_silent = ContextVar("_silent", default=False)


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Let `warn` do nothing in the block, in this thread alone.

    Example:
      >>> with without_warnings():
      ...     warn("nobody reads this")
    """
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def warn(message: str) -> None:
    """Warn at the innermost line of the stack that is not in jaxnet, JAX or contextlib.

    Args:
      message: Text that says who, what is wrong, and what to write instead.

    Example:
      >>> import warnings
      >>> with warnings.catch_warnings(record=True) as caught:
      ...     warnings.simplefilter("always")
      ...     warn("step: is compiled again")
      >>> caught[0].category.__name__, str(caught[0].message)
      ('UserWarning', 'step: is compiled again')
    """
    if _silent.get():
        return
    level, _ = _line_of_user()
    warnings.warn(message, stacklevel=level)


def later_warning(message: str) -> Callable[[], None]:
    """Return a function that warns at the line of the user that is running now.

    Args:
      message: Text, as of `warn`.

    Example:
      >>> import warnings
      >>> with warnings.catch_warnings(record=True) as caught:
      ...     warnings.simplefilter("always")
      ...     later_warning("fit was never iterated")()
      >>> str(caught[0].message)
      'fit was never iterated'
    """
    _, frame = _line_of_user()
    where = frame.f_code.co_filename, frame.f_lineno

    def give() -> None:
        warnings.warn_explicit(message, UserWarning, *where)

    return give


def _line_of_user() -> tuple[int, FrameType]:
    """Return the level of the stack, as the caller of this function counts it, and its frame."""
    level, frame = 2, sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        level, frame = level + 1, frame.f_back
    return level, frame
