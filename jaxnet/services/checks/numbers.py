"""Checks of numbers: counts, intervals, values."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.checks.tracing import is_traced


def at_least(who: str, what: str, value: Any, minimum: int = 1, *, optional: bool = False) -> None:
    """Raise unless a count is an integer of at least `minimum`; None may pass as `optional`.

    Example:
      >>> at_least("dense", "features", 0)
      Traceback (most recent call last):
      ...
      ValueError: dense: features must be at least 1, got 0
    """
    if optional and value is None:
        return
    if is_traced(value):
        raise TypeError(f"{who}: {what} sets a shape, so it must be known before tracing")
    if not is_integer(value):
        raise TypeError(f"{who}: {what} must be an integer, got {value!r:.60}")
    number = operator.index(value)
    if number < minimum:
        raise ValueError(f"{who}: {what} must be at least {minimum}, got {value}")
    if number >= 2**31:  # JAX does not have such sizes, and drawing one would never end
        raise ValueError(f"{who}: {what} must be below 2**31, got {value}")


def is_integer(value: Any) -> bool:
    """Return whether a value is an integer, of Python or of NumPy.

    Example:
      >>> is_integer(np.int8(3)), is_integer(True), is_integer(3.0)
      (True, False, False)
    """
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool | np.bool_)


def all_at_least(who: str, minimum: int = 1, /, *, optional: bool = False, **counts: Any) -> None:
    """Check several counts by `at_least`, each with its name.

    Example:
      >>> all_at_least("windows", streams=2, steps=0)
      Traceback (most recent call last):
      ...
      ValueError: windows: steps must be at least 1, got 0
    """
    for what, value in counts.items():
        at_least(who, what, value, minimum, optional=optional)


def between(who: str, what: str, value: Any, low: int, high: int, meaning: str = "") -> None:
    """Raise unless an integer is in `low` to `high`, both included; `meaning` explains `high`.

    Example:
      >>> between("cutout", "size", 9, 1, 8, "the larger side of the images")
      Traceback (most recent call last):
      ...
      ValueError: cutout: size must be 1 to 8, the larger side of the images, got 9
    """
    at_least(who, what, value, low)
    if value > high:
        why = f", {meaning}" if meaning else ""
        raise ValueError(f"{who}: {what} must be {low} to {high}{why}, got {value}")


def within(
    who: str, what: str, value: Any, interval: str, meaning: str = "", *, optional: bool = False
) -> None:
    """Raise unless a number is in an interval; NaN is not in any interval.

    Args:
      who: Name of the function.
      what: Name of the argument.
      value: Number or scalar array; a traced array passes.
      interval: Interval in mathematical notation, such as "[0, 1)" or "(0, inf)".
      meaning: Meaning of the number, for the message.
      optional: Whether None passes.

    Example:
      >>> within("dropout", "rate", 1.0, "[0, 1)", "the fraction to drop")
      Traceback (most recent call last):
      ...
      ValueError: dropout: rate is the fraction to drop, in [0, 1), got 1.0
    """
    if optional and value is None:
        return
    real = isinstance(value, int | float)
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        real = any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.integer, jnp.floating))
    if not real or isinstance(value, bool) or np.ndim(value):
        raise TypeError(f"{who}: {what} must be a number in {interval}, got {value!r:.60}")
    if is_traced(value):
        return
    if not _inside(np.asarray(value), interval):  # inside jit, JAX would trace the comparison
        rule = f"is {meaning}, in" if meaning else "must be in"
        raise ValueError(f"{who}: {what} {rule} {interval}, got {value}")
    if isinstance(value, int) and abs(value) >= 2**31:  # int32 cannot hold it
        raise ValueError(f"{who}: {what} must be below 2**31 or a float, got {value}")


def all_within(who: str, interval: str, /, *, optional: bool = False, **numbers: Any) -> None:
    """Check several numbers by `within`, each with its name.

    Example:
      >>> all_within("elastic", "[0, inf)", shift=1.0, displacement=-1.0)
      Traceback (most recent call last):
      ...
      ValueError: elastic: displacement must be in [0, inf), got -1.0
    """
    for what, value in numbers.items():
        within(who, what, value, interval, optional=optional)


def check_values(
    who: str, what: str, values: np.ndarray, interval: str, rounding: float = 0.0
) -> None:
    """Raise unless all entries of an array are in an interval, up to a rounding error.

    Example:
      >>> check_values("posteriors", "posterior", np.array([0.5, 1.2]), "[0, 1]")
      Traceback (most recent call last):
      ...
      ValueError: posteriors: posterior must be in [0, 1], got 0.5 to 1.2
    """
    if not _inside(values, interval, rounding).all():
        rule = "finite" if interval == "(-inf, inf)" else f"in {interval}"
        got = f"{values.min():.5g} to {values.max():.5g}"
        raise ValueError(f"{who}: {what} must be {rule}, got {got}")


def _inside(values: Any, interval: str, rounding: float = 0.0) -> Any:
    """Return which values are in an interval, such as "(0, 1]"; NaN is in none."""
    low, high = map(float, interval[1:-1].split(","))
    low, high = low - rounding, high + rounding
    above = values >= low if interval[0] == "[" else values > low
    below = values <= high if interval[-1] == "]" else values < high
    return above & below
