"""Checks of one array: its axes, its dtype, its range."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.checks.native import check_mask, to_device
from jaxnet.services.checks.options import AXES
from jaxnet.services.checks.tracing import concrete_values, is_traced
from jaxnet.services.trees import PyTree, describe

# What `as_array` accepts, by dtype, and the message for any other dtype.
_DTYPES = {
    "floats": (jnp.floating, "floats; write x.astype(jnp.float32)"),
    "integers": (jnp.integer, "integers; for one-hot rows or scores, write x.argmax(-1)"),
    "numbers": (jnp.number, "numbers; write x.astype(jnp.float32)"),
    "reals": (jnp.number, "real numbers"),
    "booleans or numbers": (jnp.number, "booleans or numbers"),
}


def as_array(
    who: str,
    what: str,
    value: Any,
    form: str = "(...)",
    dtype: str = "numbers",
    sizes: dict[str, Any] | None = None,
    *,
    empty: bool = True,
) -> jax.Array:
    """Check an array's shape and dtype, and return it as a JAX array.

    Args:
      who: Name of the function.
      what: Name of the argument.
      value: JAX or NumPy array.
      form: Axes of the array, such as "(..., n, 4)" or "(n, 1 or 3 channels)"; "..." is any
        number of axes.
      dtype: Kind of dtype: "floats", "integers", "numbers" (both as they are), "reals" (integers
        and booleans become float32) or "booleans or numbers" (as they are).
      sizes: Sizes of the named axes of the arrays checked before with the same dict, which this
        array must have too.
      empty: Whether the array may have no entries.

    Returns:
      The array, as a JAX array of its own dtype, or of float32 for "reals".

    Raises:
      TypeError: If `value` is not an array, or does not fit `dtype`.
      ValueError: If the shape does not fit `form`.
      ValueError: If the device's dtype cannot hold the numbers.

    Example:
      >>> sizes = {}
      >>> boxes = as_array("nms", "boxes", np.ones((5, 4), np.uint8), "(n, 4)", "reals", sizes)
      >>> boxes.dtype
      dtype('float32')
      >>> as_array("nms", "scores", np.ones(3), "(n,)", "floats", sizes)
      Traceback (most recent call last):
      ...
      ValueError: nms: scores must have shape (n,) with n = 5, got (3,)
    """
    if not isinstance(value, np.ndarray | np.generic | jax.Array):
        hint = "; write jnp.asarray(x)" if isinstance(value, list | tuple | int | float) else ""
        hint = "; write x.numpy()" if type(value).__module__.startswith("torch") else hint
        raise TypeError(
            f"{who}: {what} must be a JAX or NumPy array, got {type(value).__name__}{hint}"
        )
    _check_dtype(who, what, value.dtype, dtype)
    _check_form(who, what, tuple(value.shape), form, {} if sizes is None else sizes, empty)
    array = to_device(who, what, value)
    if dtype == "reals" and not jnp.issubdtype(array.dtype, jnp.floating):
        return array.astype(jnp.promote_types(array.dtype, jnp.float32))
    return array


def on_host(
    who: str,
    what: str,
    value: Any,
    form: str = "(...)",
    dtype: str = "reals",
    sizes: dict[str, Any] | None = None,
    *,
    empty: bool = True,
) -> np.ndarray:
    """Check an array's shape and dtype, and return it as a NumPy array; lists of numbers will do.

    Args:
      who: Name of the function.
      what: Name of the argument.
      value: Array, or nested lists of numbers.
      form, sizes, empty: Options of `as_array`.
      dtype: Option of `as_array`; "reals" become float64.

    Returns:
      The array, as a NumPy array.

    Raises:
      TypeError: If `value` is not an array, or does not fit `dtype`.
      ValueError: If the shape does not fit `form`.

    Example:
      >>> on_host("confusion", "matrix", [[5, 1], [0, 7]], "(n, n)", "integers").shape
      (2, 2)
      >>> on_host("confusion", "matrix", [[5, 1], [0]], "(n, n)", "integers")
      Traceback (most recent call last):
      ...
      TypeError: confusion: matrix must be an array of shape (n, n), got list
    """
    check_mask(who, what, value)
    array = None
    # Lists of different lengths, tracers and objects of other libraries fail.
    with suppress(Exception):
        array = np.asarray(value)
    check_not_traced(who, what, value)
    if array is None or not (hasattr(value, "dtype") or array.dtype.kind in "biufc"):
        raise TypeError(
            f"{who}: {what} must be an array of shape {form}, got {type(value).__name__}"
        )
    if isinstance(value, list | tuple) and not array.size:
        array = array.astype(int)  # [] has no dtype
    _check_dtype(who, what, array.dtype, dtype)
    _check_form(who, what, array.shape, form, {} if sizes is None else sizes, empty)
    return array.astype(np.float64) if dtype == "reals" else array


def check_not_traced(who: str, what: str, value: Any) -> None:
    """Raise if the values of an array are not known, as inside `jax.jit` or `jax.grad`.

    Raises:
      TypeError: If they are not.

    Example:
      >>> check_not_traced("fit_pca", "x", jnp.ones((5, 3)))
    """
    if is_traced(value):
        raise TypeError(
            f"{who}: {what} is traced by JAX, but {who} computes in NumPy and has no derivatives; "
            "call it outside of jax.jit, jax.vmap and jax.grad"
        )


def _check_dtype(who: str, what: str, got: Any, dtype: str) -> None:
    kind, words = _DTYPES[dtype]
    if got == np.bool_ and dtype in ("reals", "booleans or numbers"):
        return
    if not jnp.issubdtype(got, kind) or jnp.issubdtype(got, jnp.complexfloating):
        raise TypeError(f"{who}: {what} must hold {words}, got {got}")


def _check_form(
    who: str, what: str, shape: tuple, form: str, sizes: dict[str, Any], empty: bool
) -> None:
    """Raise unless a shape fits its form; note the sizes of named axes."""
    axes = AXES.findall(form)
    has_ellipsis = "..." in axes
    free = len(shape) - (len(axes) - 1) if has_ellipsis else 0  # number of its axes
    places: list[Any] = list(shape)
    if has_ellipsis and free >= 0:
        first = axes.index("...")
        places[first : first + free] = [tuple(shape[first : first + free])]
    fits = len(places) == len(axes) and free >= 0
    expected_sizes = {}
    for axis, size in zip(axes, places, strict=False):
        if axis[0].isdigit():
            fits &= str(size) in re.findall(r"\d+", axis)
        elif fits and sizes.setdefault(axis, size) != size:
            expected_sizes[axis] = sizes[axis]
    if fits and not expected_sizes:
        if not empty and 0 in shape:
            raise ValueError(
                f"{who}: {what} must have shape {form} with sizes of at least 1, got {shape}"
            )
        return
    having = ", ".join(f"{axis} = {size}" for axis, size in expected_sizes.items())
    wanted = f"{form} with {having}" if having else form
    one_less = not fits and not has_ellipsis and len(shape) + 1 == len(axes)
    hint = ". Is the batch axis missing? For a single example, pass x[None]" if one_less else ""
    raise ValueError(f"{who}: {what} must have shape {wanted}, got {shape}{hint}")


def check_rank(who: str, x: Any, rank: int, form: str = "(batch, ..., features)") -> None:
    """Raise unless x has at least `rank` axes.

    Args:
      who: Name of the layer.
      x: Array or spec of the input.
      rank: Smallest number of axes.
      form: Expected shape in words.

    Example:
      >>> check_rank("dense", jn.spec((5,)), 2)
      Traceback (most recent call last):
      ...
      ValueError: dense: expected an input of shape (batch, ..., features), got (5,). Is the ...
    """
    if not hasattr(x, "shape") or jnp.issubdtype(x.dtype, jax.dtypes.extended):
        hint = "; write np.stack(x)" if isinstance(x, list) else ""
        if isinstance(x, dict) and "x" in x:
            hint = "; jn.layers.time_distributed(layer) takes the dict of a sequence"
        raise TypeError(f"{who}: expected an input of shape {form}, got {describe(x)}{hint}")
    if len(x.shape) < rank:
        raise ValueError(
            f"{who}: expected an input of shape {form}, got {tuple(x.shape)}. "
            "Is the batch axis missing? For a single example, pass x[None]"
        )


def check_floats(who: str, x: Any) -> None:
    """Raise if a layer that computes with fractions gets integers: uint8 200 would become 255.

    Args:
      who: Name of the layer.
      x: Array or spec of the input.

    Example:
      >>> check_floats("dropout", jn.spec((5, 3), jnp.uint8))
      Traceback (most recent call last):
      ...
      TypeError: dropout: expected an input of floats, got uint8; write x.astype(jnp.float32)
    """
    check_rank(who, x, 0, "(...)")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{who}: expected an input of floats, got {x.dtype}; write x.astype(jnp.float32)"
        )


def check_range(ids: Any, size: int, what: str) -> None:
    """Raise if known ids are outside [0, size); inside `jit` ids are not known.

    Args:
      ids: Integers of any shape.
      size: Number of valid ids.
      what: Subject of the message.

    Example:
      >>> check_range(jnp.array([1, 7]), 5, "embedding: ids")
      Traceback (most recent call last):
      ...
      ValueError: embedding: ids must be in [0, 5), got 7
    """
    values = concrete_values(ids)
    if values is None:
        return
    wrong = values[(values < 0) | (values >= size)]
    if wrong.size:
        raise WrongValues(f"{what} must be in [0, {size}), got {wrong.flat[0]}")


_at_data: ContextVar[bool] = ContextVar("at_data", default=False)


@contextmanager
def at_data() -> Iterator[None]:
    """Let functions that give NaN for a wrong value raise, while data are looked at."""
    token = _at_data.set(True)
    try:
        yield
    finally:
        _at_data.reset(token)


def looks_at_data() -> bool:
    """Return whether data are looked at, before anything is computed with them.

    Example:
      >>> looks_at_data()
      False
    """
    return _at_data.get()


# An array of the right shape and dtype has values that a function would misread. Tracebacks and
# notebooks show the name of its base, since only this library tells the two apart.
_SHOWN = {"__module__": "builtins", "__reduce__": lambda error: (ValueError, error.args)}


WrongValues = type("ValueError", (ValueError,), _SHOWN)


def check_arrays(what: str, tree: PyTree) -> None:
    """Raise unless all leaves are arrays.

    Example:
      >>> check_arrays("fit: params", {"dense": {"bias": 0.0}})
      Traceback (most recent call last):
      ...
      TypeError: fit: params['dense']['bias'] must be a JAX or NumPy array, got float
    """
    arrays = np.ndarray | np.generic | jax.Array
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        place = f"{what}{jax.tree_util.keystr(path)}"
        if not isinstance(leaf, arrays) or isinstance(leaf, np.ma.MaskedArray):
            raise TypeError(f"{place} must be a JAX or NumPy array, got {type(leaf).__name__}")
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "OSUMm":
            raise TypeError(f"{place} must hold numbers, got {leaf.dtype}")
