"""Facts about a function before it is called."""

import functools
import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from types import CodeType, FunctionType, MethodType
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


def codes_of(root: Any) -> list[tuple[FunctionType, CodeType]]:
    """Return the functions of the user that a function or a layer uses, with their code.

    It follows closures, layers, partials and containers, and global functions by their names.

    Example:
      >>> codes_of(jnp.tanh)
      []
    """
    found, seen, todo = [], {}, [root]
    while todo:
        it = todo.pop()
        if id(it) in seen:
            continue
        seen[id(it)] = it
        if isinstance(it, FunctionType):
            if (it.__module__ or "").split(".")[0] not in _OTHERS:
                found.append((it, it.__code__))
                values = [it.__globals__.get(name) for name in _names(it.__code__)]
                todo += [value for value in values if callable(value)]
            todo.append(it.__defaults__)
            for cell in it.__closure__ or ():
                with suppress(ValueError):  # it is empty
                    todo.append(cell.cell_contents)
        elif isinstance(it, tuple | list | dict) and len(it) < 1000:
            todo += it.values() if isinstance(it, dict) else it
        elif isinstance(it, MethodType | functools.partial):
            todo += [it.__func__] if isinstance(it, MethodType) else [it.func, it.args, it.keywords]
        elif callable(it) and not isinstance(it, type):  # an object that can be called
            todo += [type(it).__call__, getattr(it, "__dict__", None)]
        todo.append(getattr(it, "__wrapped__", None))
    return found


_OTHERS = {"jaxnet", "jax", "jaxlib", "numpy", "optax", *sys.stdlib_module_names} - {"__main__"}


def _names(code: CodeType) -> set[str]:
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*map(_names, inner))
