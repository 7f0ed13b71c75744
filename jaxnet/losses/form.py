"""The form of losses and metrics: functions of (outputs, targets, *, options)."""

import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from jaxnet.core import Layer
from jaxnet.services.checks import within
from jaxnet.services.checks.keywords import instead
from jaxnet.services.functions import function_name
from jaxnet.services.trees import describe

F = TypeVar("F", bound=Callable[..., Any])
Read = Callable[[str, Any, Any], tuple[Any, Any]]  # (who, outputs, targets) -> the same, checked
Rule = str | Callable[[str, str, Any], Any]  # an interval, or a function of (who, what, value)

_RULES: dict[Callable, dict[str, Rule]] = {}
_signature = functools.cache(inspect.signature)  # cached, since each call of a loss needs it


def comparison(read: Read | None = None, **rules: Rule) -> Callable[[F], F]:
    """Return a decorator that checks the arguments of a loss or metric before it runs.

    Args:
      read: Function that checks outputs and targets. It gets the name of the loss first.
      rules: Rule for each option: an interval such as "[0, 1)", or a function of
        (who, what, value) that raises. Defaults are not checked.

    Example:
      >>> @comparison(gamma="[0, inf)")
      ... def power(outputs, targets, *, gamma=2.0):
      ...     return abs(outputs - targets) ** gamma
      >>> power(jnp.array([3.0]), jnp.array([1.0]), gamma=-1)
      Traceback (most recent call last):
      ...
      ValueError: power: gamma must be in [0, inf), got -1
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def compare(*args: Any, **options: Any) -> Any:
            bound = _bound(compare, args, options)
            outputs, targets = bound.args
            if read is not None:
                outputs, targets = read(function.__name__, outputs, targets)
            return function(outputs, targets, **bound.kwargs)

        _RULES[compare] = rules
        return compare  # type: ignore[return-value]

    return decorate


def check_form(who: str, what: str, function: Any) -> None:
    """Raise unless a loss or metric can be called with (outputs, targets).

    Args:
      who: Function that takes it.
      what: Name of the argument.
      function: Value that was passed. Options set by `functools.partial` are checked as well.

    Example:
      >>> check_form("supervised", "loss", optax.squared_error(jnp.ones(3)))
      Traceback (most recent call last):
      ...
      TypeError: supervised: loss must be a function of (outputs, targets), got (3,) float32. ...
    """
    needed = f"{who}: {what} must be a function of (outputs, targets)"
    if isinstance(function, Layer):
        raise TypeError(f"{needed}, got a layer. The net comes first: jn.supervised(net, loss)")
    if not callable(function):
        called = ". Pass the function itself, such as optax.squared_error, without calling it"
        got = describe(function) + called * hasattr(function, "shape")
        raise TypeError(f"{needed}, got {got}")
    inner, args, options = unwrapped(function)
    args, name = (*args, None, None), function_name(inner)
    if isinstance(inner, type(check_form)) and inner in _RULES:
        _bound(inner, args, options)
        return
    with suppress(ValueError):  # a function that is not written in Python may have no signature
        known = inspect.signature(inner)
        try:
            known.bind(*args, **options)
        except TypeError as error:
            raise TypeError(
                f"{needed}, but {name} takes ({', '.join(known.parameters)}): {error}. If it makes "
                f"one, pass what it returns: {name}(...). Other arguments are set by "
                f"functools.partial({name}, ...)"
            ) from None


def unwrapped(function: Any) -> tuple[Any, tuple, dict[str, Any]]:
    """Return the function inside `functools.partial`, its arguments and its options."""
    if isinstance(function, functools.partial):
        return function.func, function.args, function.keywords
    return function, (), {}


def _bound(function: Any, args: tuple, options: dict[str, Any]) -> inspect.BoundArguments:
    """Return the arguments of a loss or metric of this library, after checking its options."""
    name, signature = function.__name__, _signature(function)
    free = {o: p.default for o, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}
    try:
        bound = signature.bind(*args, **options)
    except TypeError:
        if wrong := [o for o in options if o not in signature.parameters]:
            write = f"unknown option {wrong[0]}; {instead(wrong[0], list(free))}"
            raise TypeError(f"{name}: {write}") from None
        numbers = [a for a in args if isinstance(a, int | float)]
        given = options | dict(zip(free, numbers, strict=False))
        needed = [o for o in free if o in given or free[o] is inspect.Parameter.empty]
        words = [f"{o}={given[o]!r:.30}" if o in given else f"{o}=..." for o in needed]
        path = f"jn.{function.__module__.split('.')[1]}.{name}"
        write = f"functools.partial({path}, {', '.join(words)})" if words else path
        raise TypeError(
            f"{name}: expected (outputs, targets{', '.join([', *'[: 3 * len(free)], *free])}), got "
            f"{describe(args) if args else 'no arrays'}. As a loss or metric, pass {write}"
        ) from None
    for what, rule in _RULES[function].items():
        value = options.get(what, free[what])
        if value is not free[what]:
            check = functools.partial(within, interval=rule) if isinstance(rule, str) else rule
            check(name, what, value)
    return bound
