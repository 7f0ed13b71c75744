"""Checks of options: types, choices, switches, functions, names, shapes."""

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxnet.services.checks.numbers import all_at_least, at_least
from jaxnet.services.functions import takes


def check_type(who: str, what: str, value: Any, kind: Any, words: str, hint: str = "") -> None:
    """Raise unless a value is an instance of a type.

    Args:
      who: Name of the function.
      what: Name of the argument; "" for the first one, whose place says which it is.
      value: Value that was passed.
      kind: Type, or a union of types.
      words: What is expected.
      hint: What to write instead.

    Example:
      >>> check_type("tfds.load", "split", 3, str, "a str")
      Traceback (most recent call last):
      ...
      TypeError: tfds.load: split must be a str, got int
    """
    if not isinstance(value, kind):
        needed = f"{what} must be" if what else "expected"
        instead = f"; {hint}" if hint else ""
        raise TypeError(f"{who}: {needed} {words}, got {type(value).__name__}{instead}")


def check_text(who: str, what: str, text: Any) -> None:
    """Raise unless a text is a str that UTF-8 can write.

    Example:
      >>> check_text("encode", "text", 3)
      Traceback (most recent call last):
      ...
      TypeError: encode: text must be a str, got int
    """
    check_type(who, what, text, str, "a str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{who}: {what} has half of a surrogate pair at {error.start}, which UTF-8 lacks; "
            'write text.encode("utf-8", "replace").decode()'
        ) from None


def check_list(who: str, what: str, value: Any, of: str) -> list[Any]:
    """Return the entries of an iterable; raise for a text, a dict or anything without entries.

    Example:
      >>> check_list("subwords", "sentences", "a text", "str")
      Traceback (most recent call last):
      ...
      TypeError: subwords: sentences must be a list of str, got str
    """
    single = isinstance(value, str | bytes | Mapping) or getattr(value, "shape", None) == ()
    if single or not isinstance(value, Iterable):
        raise TypeError(f"{who}: {what} must be a list of {of}, got {type(value).__name__}")
    return list(value)


def check_tuple(who: str, what: str, value: Any, form: str) -> None:
    """Raise unless a value has one entry for each name in `form`.

    Example:
      >>> check_tuple("elastic", "scale", 1.5, "(low, high)")
      Traceback (most recent call last):
      ...
      TypeError: elastic: scale must be (low, high), got 1.5
    """
    if not isinstance(value, tuple | list) or len(value) != len(AXES.findall(form)):
        raise TypeError(f"{who}: {what} must be {form}, got {value!r:.60}")


def a_pair(
    who: str, what: str, value: Any, form: str, minimum: int = 1, *, optional: bool = False
) -> Any:
    """Return a pair of integers of at least `minimum`, of which a single number is both.

    Args:
      form: Words for a pair, in messages.
      optional: Whether the value may be None, which is returned.

    Example:
      >>> a_pair("occlusion", "size", 3, "(rows, columns)")
      (3, 3)
    """
    if optional and value is None:
        return None
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{who}: {what} must be a number or {form}, got {value}")
    for number in pair:
        at_least(who, what, number, minimum)
    return pair


def check_sizes(who: str, what: str, value: Any, form: str, minimum: int = 1) -> None:
    """Raise unless a value has one size of at least `minimum` for each name in `form`.

    Example:
      >>> check_sizes("bccd", "size", (240, 0), "(height, width)")
      Traceback (most recent call last):
      ...
      ValueError: bccd: width must be at least 1, got 0
    """
    check_tuple(who, what, value, form)
    sizes = dict(zip(AXES.findall(form), value, strict=True))
    all_at_least(who, minimum, **sizes)


def one_of(who: str, what: str, value: Any, options: Iterable[Any]) -> None:
    """Raise unless a value is one of the options.

    Example:
      >>> one_of("max_pool", "padding", "EVEN", ["SAME", "VALID"])
      Traceback (most recent call last):
      ...
      ValueError: max_pool: padding must be 'SAME' or 'VALID', got 'EVEN'
    """
    options = list(options)
    if not any(type(value) is type(option) and value == option for option in options):
        *most, last = map(repr, options)
        words = f"{', '.join(most)} or {last}" if most else last
        raise ValueError(f"{who}: {what} must be {words}, got {value!r:.60}")


def check_options(who: str, **options: Any) -> None:
    """Raise unless switches are booleans and initializers (names ending in `_init`) functions.

    Example:
      >>> check_options("dense", use_bias=True, kernel_init=0.1)
      Traceback (most recent call last):
      ...
      TypeError: dense: kernel_init must be a function of (key, shape, dtype), got float
    """
    for what, value in options.items():
        if what.endswith("_init"):
            a_function(who, what, value, "(key, shape, dtype)")
        elif not isinstance(value, bool | np.bool_):
            raise TypeError(f"{who}: {what} must be True or False, got {value!r:.60}")


AXES = re.compile(r"[^,\s()][^,()]*")  # "n", "...", "4" or "1 or 3 channels"


def a_function(who: str, what: str, value: Any, form: str, *, optional: bool = False) -> None:
    """Raise unless a value can be called.

    Args:
      who: Name of the function.
      what: Name of the argument.
      value: Value that was passed.
      form: Arguments of the call, such as "(outputs, targets)".
      optional: Whether None passes.

    Example:
      >>> a_function("masked", "loss", 3, "(outputs, targets)")
      Traceback (most recent call last):
      ...
      TypeError: masked: loss must be a function of (outputs, targets), got int
    """
    if optional and value is None:
        return
    # A layer can be called for its message alone.
    if not callable(value) or hasattr(value, "apply"):
        raise TypeError(f"{who}: {what} must be a function of {form}, got {type(value).__name__}")
    positional, _, named = form.partition("*, ")
    keywords = [each.partition("=")[0] for each in AXES.findall(named)]
    if form[0] == "(" and not takes(value, len(AXES.findall(positional)), *keywords):
        got = f"one of {inspect.signature(value)}"
        raise TypeError(f"{who}: {what} must be a function of {form}, got {got}")


def check_name(who: str, name: Any) -> str:
    """Return the name; raise unless it can name an entry of params."""
    if not isinstance(name, str) or not name or "/" in name:
        kind = ValueError if isinstance(name, str) else TypeError
        raise kind(f"{who}: name must be a word without '/', got {name!r:.60}")
    return name


def check_shape(what: str, shape: Any) -> None:
    """Raise unless this is a shape: sizes of at least 0."""
    if not (isinstance(shape, tuple | list) and all(map(_is_size, shape))):
        raise TypeError(f"{what} must be a tuple of integers, got {shape!r:.60}")
    if any(size < 0 for size in shape):
        raise ValueError(f"{what} must be a tuple of integers of at least 0, got {shape!r:.60}")


def _is_size(size: Any) -> bool:
    if isinstance(size, bool | np.ndarray):
        return False
    return hasattr(size, "__index__") or hasattr(size, "__jax_array__")  # the last type is symbolic
