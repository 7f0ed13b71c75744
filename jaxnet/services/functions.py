"""Facts about a function before it is called."""

import inspect
from collections.abc import Callable
from typing import Any


def takes(function: Callable, count: int) -> bool:
    """Return whether a function can be called with a number of arguments.

    Args:
      function: Function; a builtin without a signature counts as one that can.
      count: Number of arguments by position.

    Example:
      >>> takes(lambda m, x: x, 2), takes(lambda: 0, 1), takes(jnp.tanh, 1)
      (True, False, True)
    """
    try:
        inspect.signature(function).bind(*[None] * count)
    except (TypeError, ValueError) as error:
        return isinstance(error, ValueError)  # some builtins have no signature
    return True


def function_name(function: Any) -> str:
    """Return the name of a function, even inside `functools.partial`; "lambda" for a lambda."""
    while hasattr(function, "func"):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return "lambda" if name == "<lambda>" else name
