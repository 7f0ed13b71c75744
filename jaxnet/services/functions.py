"""Facts about a function before it is called."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import CodeType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp


def takes(function: Callable, count: int, *keywords: str) -> bool:
    """Return whether a function can be called with a number of arguments.

    Args:
      function: Function; a builtin without a signature counts as one that can.
      count: Number of arguments by position.
      keywords: Names of further arguments.

    Example:
      >>> takes(lambda m, x: x, 2), takes(lambda: 0, 1), takes(jnp.tanh, 1)
      (True, False, True)
    """
    try:
        inspect.signature(function).bind(*[None] * count, **dict.fromkeys(keywords))
    except (TypeError, ValueError) as error:
        return isinstance(error, ValueError)  # some builtins have no signature
    return True


def inputs_of(forward: Callable) -> tuple[str, ...]:
    """Return the names of what a function takes after its first argument.

    An argument with a default other than None is an option, such as `i=i` in a lambda.

    Example:
      >>> inputs_of(lambda m, x, t, label=None, scale=2.0: x)
      ('x', 't', 'label')
    """
    try:
        _, *rest = inspect.signature(forward).parameters.values()
    except ValueError:
        return ()
    named = [each for each in rest if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return tuple(each.name for each in named if each.default in (each.empty, None))


def function_name(function: Any) -> str:
    """Return the name of a function, even inside `functools.partial`; "lambda" for a lambda."""
    while hasattr(function, "func"):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return "lambda" if name == "<lambda>" else name


# Their gradients need only know between which kinks x is, so no copy of it is kept.
_PIECEWISE = jax.nn.relu, jax.nn.relu6, jax.nn.leaky_relu, jax.nn.hard_tanh, jax.nn.hard_sigmoid


def activated(function: Callable, x: Any) -> Any:
    """Return function(x); JAX's piecewise linear activations compute 16 bits in float32.

    On some CPUs a comparison of bfloat16 takes eight times as long.

    Args:
      function: Any function of one argument, also a `partial`.
      x: Its argument.

    Example:
      >>> activated(jax.nn.relu, jnp.array([-1, 2], jnp.bfloat16))
      Array([0, 2], dtype=bfloat16)
    """
    inner = getattr(function, "func", function)
    narrow = getattr(x, "dtype", None) in (jnp.bfloat16, jnp.float16)
    if narrow and any(inner is piecewise for piecewise in _PIECEWISE):
        return function(x.astype(jnp.float32)).astype(x.dtype)
    return function(x)


def used_by(root: Any, unless: str = "") -> Iterator[Any]:
    """Yield what a function or a layer is and uses, each object once.

    It follows closures, defaults, layers, partials, containers, and globals by their names.

    Args:
      root: Function, layer or container of them.
      unless: Name; what is used by a function that names it is left out.

    Example:
      >>> def outer(inner):
      ...     return lambda x: inner(x)
      >>> [function_name(each) for each in used_by(outer(max)) if callable(each)]
      ['lambda', 'max']
    """
    seen: dict[int, Any] = {}
    todo = [root]
    while todo:
        it = todo.pop()
        foreign = isinstance(it, type) and not _is_users_class(it)
        if it is None or id(it) in seen or foreign:
            continue
        seen[id(it)] = it
        yield it
        if isinstance(it, FunctionType):
            names = _names(it.__code__)
            if unless in names:
                continue
            todo += _used_by_function(it, names)
        else:
            todo += _parts_of(it)
        todo.append(getattr(it, "__wrapped__", None))
        if isinstance(it, property):
            todo.append(it.fget)


def _used_by_function(function: FunctionType, names: set[str]) -> list[Any]:
    """Return what a function has: globals by their names, defaults, and its closure."""
    used = [function.__globals__.get(name) for name in names] if of_the_user(function) else []
    used += [function.__defaults__, function.__kwdefaults__]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # it is empty
            used.append(cell.cell_contents)
    return used


def _parts_of(it: Any) -> list[Any]:
    """Return the parts of a container, a method, a partial, a class or any other object."""
    if isinstance(it, tuple | list | dict) and len(it) < 1000:
        return list(it.values() if isinstance(it, dict) else it)
    if isinstance(it, MethodType):
        return [it.__func__, it.__self__]
    if isinstance(it, functools.partial):
        return [it.func, it.args, it.keywords]
    if isinstance(it, type):
        return [*vars(it).values(), *it.__bases__]
    if not (callable(it) or isinstance(it, SimpleNamespace) or _is_users_class(type(it))):
        return []
    parts: list[Any] = [type(it)]
    if callable(it) and isinstance(type(it).__call__, FunctionType):
        parts.append(type(it).__call__)
    slots = getattr(type(it), "__slots__", ())
    return parts + [getattr(it, name, None) for name in ("__dict__", *slots)]


def codes_of(root: Any) -> list[tuple[FunctionType, CodeType]]:
    """Return the functions of the user that a function or a layer uses, with their code.

    Example:
      >>> codes_of(jnp.tanh)
      []
    """
    functions = [it for it in used_by(root) if isinstance(it, FunctionType) and of_the_user(it)]
    return [(function, function.__code__) for function in functions]


def of_the_user(function: FunctionType | type) -> bool:
    """Return whether a function is of neither jaxnet nor a library that it is made of.

    Example:
      >>> of_the_user(takes)
      False
    """
    return (function.__module__ or "").split(".")[0] not in _OTHERS


_OTHERS = {"jaxnet", "jax", "jaxlib", "numpy", "optax", *sys.stdlib_module_names} - {"__main__"}


def _is_users_class(kind: type) -> bool:
    """Return whether a class is the user's own, not of an installed package, which may be large."""
    file = getattr(sys.modules.get(kind.__module__ or ""), "__file__", None) or ""
    return of_the_user(kind) and kind.__module__ != "builtins" and "site-packages" not in file


def _names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            names |= _names(const)
    return names
