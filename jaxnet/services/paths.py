"""Patterns of paths, the only way to address parameters.

    "encoder/block_1/mlp_in/kernel"        one entry
    "encoder/*"                            everything below the encoder
    "*/kernel"                             every kernel, at any depth
    "*/attention/(query|value)/kernel"     one of several names

`*` matches any characters, "/" included, and a leading "*/" for zero parents too.
"""

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

KERNEL = "*/(kernel|*_kernel)"  # what a layer multiplies by, not a bias, a gain or a table
KERNEL_OR_TABLE = "*/(kernel|*_kernel|embedding)"


def is_kernel(path: str) -> bool:
    """Return whether a path names a kernel.

    Example:
      >>> is_kernel("gru/recurrent_kernel"), is_kernel("gru/bias"), is_kernel("mykernel")
      (True, False, False)
    """
    return fits(KERNEL, path)


def fits(pattern: str, path: str) -> bool:
    """Return whether a path fits a pattern.

    Example:
      >>> fits("*/(query|value)/kernel", "block/attention/query/kernel")
      True
      >>> fits("*/kernel", "kernel"), fits("head/*", "my_head/kernel")
      (True, False)
    """
    return _expression(pattern).fullmatch(path) is not None


@cache
def _expression(pattern: str) -> re.Pattern:
    """Return the pattern as a regular expression."""
    expression = "(?:.*/)?" if pattern.startswith("*/") else ""
    for word in re.split(r"([*()|])", pattern.removeprefix("*/")):
        expression += _WORDS.get(word, re.escape(word))
    return re.compile(expression)


_WORDS = {"*": ".*", "(": "(?:", ")": ")", "|": "|"}


def check_patterns(who: str, what: str, patterns: Any) -> None:
    """Raise unless these are strings that can be read as patterns.

    Example:
      >>> check_patterns("by_path", "rules", ["*/(query|value"])
      Traceback (most recent call last):
      ...
      ValueError: by_path: rules must hold patterns like '*/(query|value)/kernel', got ...
    """
    for pattern in patterns:
        try:
            _expression(pattern)
        except (re.error, AttributeError, TypeError):
            kind = ValueError if isinstance(pattern, str) else TypeError
            raise kind(
                f"{who}: {what} must hold patterns like '*/(query|value)/kernel', got "
                f"{pattern!r:.60}"
            ) from None


def first_fits(who: str, patterns: Iterable[str], paths: Iterable[str]) -> list[str | None]:
    """Return for each path the first pattern that fits, or None.

    Raises:
      ValueError: If a pattern is not the first match of any path.

    Example:
      >>> first_fits("by_path", ["*/bias", "head/*"], ["head/kernel", "head/bias", "conv/kernel"])
      ['head/*', '*/bias', None]
    """
    patterns, paths = list(patterns), list(paths)
    check_patterns(who, "rules", patterns)
    matches = [next((p for p in patterns if fits(p, path)), None) for path in paths]
    left = [pattern for pattern in patterns if pattern not in matches]
    if left:
        some = ", ".join(paths[:8]) + (", ..." if len(paths) > 8 else "")
        pattern = left[0]
        if any(fits(pattern, path) for path in paths):
            why = "since an earlier pattern fits all arrays that it fits"
        else:
            why = "since it fits no path"
        raise ValueError(f"{who}: no array needs the pattern {pattern!r}, {why}; paths: {some}")
    return matches
