"""Checks of arguments that several modules share."""

from typing import Any

import jax
import numpy as np

from jaxnet.core import PyTree, path_name


def at_least(who: str, what: str, value: Any, minimum: int = 1) -> None:
    """Raises unless a count is an integer of at least `minimum`.

    Example:
      >>> at_least("dense", "features", 0)
      Traceback (most recent call last):
      ...
      ValueError: dense: features must be at least 1, got 0
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{who}: {what} must be an integer, got {value!r:.60}")
    if value < minimum:
        raise ValueError(f"{who}: {what} must be at least {minimum}, got {value}")


def check_data(data: PyTree, who: str) -> int:
    """Validates arrays that hold one example per row and returns the number of examples.

    Values are checked where they come from the host; arrays on the device have been computed, or
    checked before.

    Raises:
      TypeError: for a leaf that is not an array.
      ValueError: for no arrays, no examples, different lengths, or NaN or Inf in the data.

    Example:
      >>> check_data((np.ones((7, 2)), np.arange(7)), "fit")
      7
      >>> check_data((np.ones((3, 2)), np.ones(4)), "fit")
      Traceback (most recent call last):
      ...
      ValueError: fit: all arrays must have the same leading dimension, got 0: 3, 1: 4
    """
    found, _ = jax.tree_util.tree_flatten_with_path(data)
    named = [(path_name(path) or "the array", leaf) for path, leaf in found]
    if not named:
        raise ValueError(
            f"{who}: expected an array or a tuple of arrays such as (x, y), got {data!r:.60}"
        )
    for name, leaf in named:
        if not getattr(leaf, "shape", ()):
            raise TypeError(
                f"{who}: expected arrays with one example per row, got {leaf!r:.60} ({name}); "
                "for a list, pass np.asarray(list)"
            )
    lengths = {name: leaf.shape[0] for name, leaf in named}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{name}: {n}" for name, n in lengths.items())
        raise ValueError(f"{who}: all arrays must have the same leading dimension, got {got}")
    n = next(iter(lengths.values()))
    if n == 0:
        shapes = ", ".join(str(tuple(leaf.shape)) for _, leaf in named)
        raise ValueError(f"{who}: expected at least one example, got arrays of shape {shapes}")
    for name, leaf in named:
        if not isinstance(leaf, jax.Array):
            _check_finite(np.asarray(leaf), who if name == "the array" else f"{who}/{name}")
    return n


def _check_finite(leaf: np.ndarray, who: str) -> None:
    if not np.issubdtype(leaf.dtype, np.inexact):
        return
    finite = np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{who}: {(~finite).sum()} of {len(leaf)} examples contain NaN or Inf, "
            f"the first at index {int(np.argmin(finite))}"
        )


_CONCRETE: set[type] = set()  # types that have a value


def is_traced(tree: PyTree) -> bool:
    """Whether a leaf is being traced by `jit`, `grad`, `vmap` or `scan` and has no value.

    Example:
      >>> is_traced({"x": jnp.ones(3)})
      False
    """
    leaves = jax.tree.leaves(tree)
    if _CONCRETE.issuperset(map(type, leaves)):
        return False
    for leaf in leaves:
        try:
            getattr(leaf, "devices", list)()
        except jax.errors.ConcretizationTypeError:
            return True
        _CONCRETE.add(type(leaf))
    return False
