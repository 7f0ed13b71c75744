"""The form of losses and metrics: functions of (outputs, targets, *, options)."""

import functools
import inspect
from collections.abc import Callable
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
        hint = ""
        if hasattr(function, "shape"):  # an array that a loss returned
            hint = ". Pass the function itself, such as optax.squared_error, without calling it"
        raise TypeError(f"{needed}, got {describe(function)}{hint}")
    inner, args, options = unwrapped(function)
    args = (*args, None, None)
    if isinstance(inner, type(check_form)) and inner in _RULES:
        _bound(inner, args, options)
        return
    try:
        signature = inspect.signature(inner)
    except ValueError:  # a function that is not written in Python may have no signature
        return
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        name = function_name(inner)
        raise TypeError(
            f"{needed}, but {name} takes ({', '.join(signature.parameters)}): {error}. If it makes "
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
    parameters = signature.parameters.values()
    defaults = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    try:
        bound = signature.bind(*args, **options)
    except TypeError:
        for option in options:
            if option not in signature.parameters:
                hint = instead(option, list(defaults))
                raise TypeError(f"{name}: unknown option {option}; {hint}") from None
        raise _wrong_call(function, args, options, defaults) from None
    for what, rule in _RULES[function].items():
        value = options.get(what, defaults[what])
        if value is not defaults[what]:
            check = functools.partial(within, interval=rule) if isinstance(rule, str) else rule
            check(name, what, value)
    return bound


def _wrong_call(
    function: Any, args: tuple, options: dict[str, Any], defaults: dict[str, Any]
) -> TypeError:
    """Return the error of a loss or metric that is called with other things than two arrays."""
    numbers = [each for each in args if isinstance(each, int | float)]
    passed = options | dict(zip(defaults, numbers, strict=False))
    words = []
    for option, default in defaults.items():
        if option in passed:
            words.append(f"{option}={passed[option]!r:.30}")
        elif default is inspect.Parameter.empty:
            words.append(f"{option}=...")
    name, room = function.__name__, function.__module__.split(".")[1]
    write = f"jn.{room}.{name}"
    if words:
        write = f"functools.partial({write}, {', '.join(words)})"
    expected = ["outputs", "targets"]
    if defaults:
        expected += ["*", *defaults]
    got = describe(args) if args else "no arrays"
    return TypeError(
        f"{name}: expected ({', '.join(expected)}), got {got}. As a loss or metric, pass {write}"
    )
