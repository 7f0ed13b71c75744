"""Checks of data: arrays with one row per example."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.checks.native import is_sparse, to_numpy
from jaxnet.services.checks.tracing import is_traced
from jaxnet.services.trees import PyTree, flat


def check_data(data: PyTree, who: str, items: str = "examples") -> int:
    """Check arrays that hold one example per row, and return the number of examples.

    Raises:
      TypeError: If a leaf is not an array.
      ValueError: If there are no arrays or examples, or if lengths differ.
      ValueError: If the data contain NaN or Inf.

    Example:
      >>> check_data((np.ones((7, 2)), np.arange(7)), "fit")
      7
      >>> check_data((np.ones((3, 2)), np.ones(4)), "fit")
      Traceback (most recent call last):
      ...
      ValueError: fit: all arrays must have the same leading dimension, got 0: 3, 1: 4
    """
    return jax.tree.leaves(as_rows(data, who, items))[0].shape[0]


def as_rows(data: PyTree, who: str, items: str = "examples", *, finite: bool = True) -> PyTree:
    """Return data as arrays of NumPy or JAX that hold one example per row, as `check_data` says.

    Values are checked if they are on the host; arrays on the device have been computed, or checked
    before.

    Args:
      data: Array or pytree of arrays, also of columns, data frames and tensors.
      who: Name of the function.
      items: Plural noun for the rows, for messages.
      finite: Whether NaN and Inf raise.

    Example:
      >>> as_rows(np.ma.masked_array([1.0, 2.0], [True, False]), "fit")
      Traceback (most recent call last):
      ...
      TypeError: fit: the array must be a plain array, got a masked one, ...
    """
    leaves = flat(data, is_sparse)
    if not leaves:
        raise ValueError(
            f"{who}: expected an array or a tuple of arrays such as (x, y), got {data!r:.60}"
        )
    named = []
    for path, leaf in leaves:
        name = path or "the array"
        array = leaf if isinstance(leaf, jax.Array) else to_numpy(who, name, leaf)
        if not array.shape:
            raise TypeError(
                f"{who}: expected arrays with one example per row, got {leaf!r:.60} ({name}); "
                "for a list, pass np.asarray(list)"
            )
        named.append((name, array))
    lengths = {name: array.shape[0] for name, array in named}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{name}: {n}" for name, n in lengths.items())
        hint = f"; {LOADER}" if is_list_of_batches(data) else ""
        raise ValueError(f"{who}: all arrays must have the same leading dimension, got {got}{hint}")
    if 0 in lengths.values():
        shapes = ", ".join(str(tuple(leaf.shape)) for _, leaf in named)
        raise ValueError(f"{who}: expected at least one example, got arrays of shape {shapes}")
    for name, array in named:
        if finite and not isinstance(array, jax.Array):
            where = who if name == "the array" else f"{who}/{name}"
            check_finite(where, array, items)
    structure = jax.tree.structure(data, is_sparse)
    return jax.tree.unflatten(structure, [array for _, array in named])


LOADER = "a list of batches is taken for arrays: wrap it in an object with __iter__"


def is_list_of_batches(data: Any) -> bool:
    """Return whether data is a list of tuples or dicts of one structure, as batches are.

    Example:
      >>> is_list_of_batches([(1, 2), (3, 4)]), is_list_of_batches([(1, 2), 3])
      (True, False)
    """
    nested = isinstance(data, list) and all(isinstance(part, tuple | list | dict) for part in data)
    return nested and len(set(map(jax.tree.structure, data))) == 1


def rows_not_finite(data: PyTree, *, on_device: bool = True) -> np.ndarray | None:
    """Return which rows of arrays contain NaN or Inf; None if all are finite.

    Args:
      data: Arrays with one example per row, also of other libraries.
      on_device: Whether JAX's arrays are looked at too; not if other processes hold parts of them.

    Example:
      >>> rows_not_finite((np.array([[1.0], [np.nan]]), np.array([1, 2]))).tolist()
      [False, True]
    """
    wrong_rows = None
    for _, leaf in flat(data, is_sparse):
        if isinstance(leaf, jax.Array) and not (on_device and leaf.is_fully_addressable):
            continue
        array = leaf if isinstance(leaf, jax.Array) else to_numpy("data", "the array", leaf)
        finite = _finite_rows(array)
        if finite is not None and not finite.all():
            wrong_rows = ~finite if wrong_rows is None else wrong_rows | ~finite
    return wrong_rows


def _finite_rows(x: Any) -> np.ndarray | None:
    """Return whether each row of an array is finite; None for integers."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return None
    library = jnp if isinstance(x, jax.Array) else np
    return np.asarray(library.isfinite(x).all(axis=tuple(range(1, x.ndim))))


def check_finite(who: str, x: Any, items: str = "examples") -> None:
    """Raise if rows contain NaN or Inf.

    Args:
      who: Name of the function.
      x: Array (n, ...); inside `jax.jit`, where values are not known, nothing is checked.
      items: Plural noun for the rows, for the message.

    Example:
      >>> check_finite("fit_pca", jnp.array([[1.0], [jnp.nan]]))
      Traceback (most recent call last):
      ...
      ValueError: fit_pca: 1 of 2 examples contain NaN or Inf, the first at index 1. Replace ...
    """
    finite = None if is_traced(x) else _finite_rows(x)
    if finite is not None and not finite.all():
        raise ValueError(
            f"{who}: {(~finite).sum()} of {len(x)} {items} contain NaN or Inf, "
            f"the first at index {int(np.argmin(finite))}. Replace what is missing by a number, "
            "np.nan_to_num(x), and add the mask np.isnan(x) as an input; leave out rows without a "
            "target, as in x[np.isfinite(y)], y[np.isfinite(y)]"
        )
