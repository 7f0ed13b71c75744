"""What tests of many rooms share: laws of files, arrays of random numbers, comparisons of trees."""

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@cache
def read(path: Path) -> str:
    """The text of a file, which each run reads once."""
    return path.read_text()


@cache
def notebook(path: Path) -> dict:
    return json.loads(read(path))


def each(values: Iterable) -> Callable:
    """Makes a test of a law: one case for all values, such as pages; an error names its value."""

    def of(law: Callable) -> Callable:
        def test():
            for value in values:
                try:
                    law(value)
                except Exception as error:
                    error.add_note(f"for {value}")
                    raise

        test.__doc__ = law.__doc__
        return test

    return of


def refused(cases: Iterable[tuple], error: type = ValueError) -> Callable:
    """Makes a test of what a function refuses: a case has its arguments and the words of the error.

    The class of an error that is not `error` is between them.
    """

    def of(call: Callable) -> Callable:
        def test():
            for *given, words in cases:
                other = isinstance(given[-1], type) and issubclass(given[-1], Exception)
                kind = given.pop() if other else error
                try:
                    with pytest.raises(kind, match=words):
                        call(*given)
                except (Exception, pytest.fail.Exception) as wrong:
                    wrong.add_note(f"for {words}")
                    raise

        test.__doc__ = call.__doc__
        return test

    return of


def refuses(cases: Iterable[tuple], error: type = ValueError) -> Callable:
    """Makes a test of calls that raise: a case has a call, the error and its words as above."""
    return refused(cases, error)(lambda call: call())


def draw(*shape: int, seed: int = 0, dtype: Any = None) -> np.ndarray:
    """Normal numbers, of which NumPy compiles nothing."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype or float)


def drawn(net: Any, x: Any, scale: float = 0.25) -> Any:
    """Params and state, no entry as `init` gives it: 0 and 1 would hide a mistake."""
    rng = np.random.default_rng(6)
    given = jax.device_get(net.init(jax.random.key(5), x))
    return jax.tree.map(lambda a: jnp.asarray(a + scale * rng.random(a.shape), a.dtype), given)


def close(a: Any, b: Any, rtol: float = 1e-5, atol: float | None = None) -> None:
    """Two trees are equal, up to a relative and an absolute tolerance, by default the same."""
    atol = rtol if atol is None else atol
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), a, b)
