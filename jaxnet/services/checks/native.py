"""Arrays of other libraries as JAX has them, and what JAX cannot have."""

from collections.abc import Mapping
from contextlib import suppress
from numbers import Number
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.trees import PyTree, leaves_of


def check_input(who: str, x: PyTree) -> PyTree:
    """Return an input's shapes and dtypes; raise unless it is an array, a spec or a tree of them.

    Raises:
      TypeError: If a leaf is anything else, or if there are no arrays.

    Example:
      >>> check_input("summary", np.ones((2, 3)))
      ShapeDtypeStruct(shape=(2, 3), dtype=float32)
    """
    if not jax.tree.leaves(x):
        raise TypeError(
            f"{who}: the input must be an array, jn.spec(shape) or a pytree of them, got {x!r:.60}"
        )
    return abstract(x, who)


def to_numpy(who: str, what: str, value: Any) -> np.ndarray:
    """Return an array of another library, such as a column, a data frame or a tensor, as NumPy's.

    Its rows are then indexed by position: a Series would be indexed by its labels.

    Raises:
      TypeError: If it is a table whose columns differ in dtype, a sparse matrix, a masked array, a
        dict that JAX does not know, a loader, or not an array.

    Example:
      >>> from types import SimpleNamespace
      >>> table = SimpleNamespace(columns=["age", "city"], dtypes=["int64", "str"])
      >>> to_numpy("fit", "data/0", table)
      Traceback (most recent call last):
      ...
      TypeError: fit: the columns of data/0 differ in dtype: age int64, city str. ...
    """
    check_mask(who, what, value)
    if isinstance(value, np.ndarray):
        return value
    table = hasattr(value, "columns") and hasattr(value, "dtypes")  # of pandas or polars
    if table and len(set(value.dtypes)) > 1:
        pairs = zip(value.columns, value.dtypes, strict=True)
        columns = [f"{name} {dtype}" for name, dtype in pairs]
        raise TypeError(
            f"{who}: the columns of {what} differ in dtype: {', '.join(columns):.400}. Choose the "
            "numbers by table[[...]].to_numpy(np.float32), and give each other column as integers, "
            "such as names, ids = np.unique(column, return_inverse=True)"
        )
    if isinstance(value, Mapping):
        got = type(value).__name__
        raise TypeError(f"{who}: {what} must be a dict or an array, got {got}; write dict({what})")
    hint = _instead_of(value)
    if hint:
        raise TypeError(f"{who}: {what} must be an array, got {type(value).__name__}; {hint}")
    try:
        array = np.asarray(value)
        if array.dtype == object and all(isinstance(each, Number) for each in array.flat):
            array = np.array(array.tolist())  # of columns that could have gaps
        return array
    except Exception as error:  # each library has its own errors
        raise TypeError(
            f"{who}: {what} must be an array, got {type(value).__name__}, which NumPy cannot read: "
            f"{error}. For a tensor, write x.detach().cpu().float().numpy()"
        ) from None


def _instead_of(value: Any) -> str:
    """Return what to write instead of an object that is no array; "" if it may be one."""
    if is_sparse(value):
        return "it is sparse: write x.toarray() or, in JAX, x.todense()"
    if hasattr(value, "__iter__") and not hasattr(value, "__getitem__"):
        return "for a loader, pass one batch"
    return ""


def is_sparse(value: Any) -> bool:
    """Return whether a value is a sparse matrix or array.

    Example:
      >>> is_sparse(np.ones(3))
      False
    """
    return hasattr(value, "toarray") or hasattr(value, "todense")


def to_device(who: str, what: str, value: Any) -> jax.Array:
    """Return a host array as a JAX array, in native byte order, with the numbers that it holds.

    Raises:
      TypeError: If `value` holds words, objects or dates, or is a masked array.
      ValueError: If the device's dtype cannot hold the numbers.

    Example:
      >>> to_device("fit", "labels", np.array([2**32 + 1]))
      Traceback (most recent call last):
      ...
      ValueError: fit: labels hold 4294967297, which int32 cannot hold; JAX has 32 bits unless ...
    """
    if isinstance(value, jax.Array):
        return value
    return on_device(np.array(native(who, what, value)))


def on_device(array: Any) -> jax.Array:
    """Return a NumPy array that nobody changes later as a JAX array, which may share its memory.

    `jnp.asarray` would compile a program for each new shape.

    Example:
      >>> on_device(np.zeros(3, np.float32))
      Array([0., 0., 0.], dtype=float32)
    """
    return array if isinstance(array, jax.Array) else jax.device_put(array)


def check_dtype(who: str, dtype: Any) -> None:
    """Raise unless JAX has this dtype."""
    canonical = np.dtype(object)
    with suppress(TypeError):
        canonical = jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)
    if dtype is None or not _has_numbers(canonical):
        raise TypeError(f"{who}: dtype must be one of JAX, such as jnp.float32, got {dtype!r:.60}")


def _has_numbers(dtype: Any) -> bool:
    """Return whether this dtype can hold the input of a layer: numbers, booleans or keys."""
    if any(jnp.issubdtype(dtype, kind) for kind in (np.bool_, jax.dtypes.extended)):
        return True
    widest = 16 if jnp.issubdtype(dtype, np.complexfloating) else 8  # JAX has no long doubles
    number = jnp.issubdtype(dtype, np.number) and not jnp.issubdtype(dtype, np.timedelta64)
    return number and dtype.itemsize <= widest


def abstract(x: PyTree, who: str) -> PyTree:
    """Return shapes and dtypes instead of data."""

    def leaf(value: Any) -> Any:
        foreign = _is_foreign(value) and type(value) not in (str, bytes)
        value = to_numpy(who, "the input", value) if foreign else value
        if not (hasattr(value, "shape") and hasattr(value, "dtype")):
            shape = isinstance(x, tuple | list) and all(isinstance(n, int) for n in x)
            raise TypeError(
                f"{who}: the input must be an array, jn.spec(shape) or a pytree of them, "
                f"got {type(value).__name__} in it; for a shape write "
                f"jn.spec({tuple(x) if shape else (32, 784)})"
            )
        check_numbers(who, "the input", value)
        dtype = value.dtype
        if not jnp.issubdtype(dtype, jax.dtypes.extended):
            dtype = jax.dtypes.canonicalize_dtype(dtype).newbyteorder("=")
        return jax.ShapeDtypeStruct(value.shape, dtype)

    leaves_of(x)  # its error says more than that of tree.map
    return jax.tree.map(leaf, x)


def check_numbers(who: str, what: str, value: Any) -> None:
    """Raise unless an array or spec holds numbers, booleans or keys."""
    if not _has_numbers(value.dtype):
        write = _INSTEAD.get(getattr(value.dtype, "kind", ""), "write x.astype(np.float32)")
        if isinstance(value, np.ndarray) and value.size and hasattr(value.flat[0], "tzinfo"):
            write = _TIMES_IN_ZONES
        raise TypeError(
            f"{who}: {what} must hold numbers that JAX has, got dtype {value.dtype}; {write}"
        )


_WORDS = "for labels that are words, write names, labels = np.unique(words, return_inverse=True)"


_TIMES = "for times, write numbers such as (times - times.min()) / np.timedelta64(1, 'D')"


_TIMES_IN_ZONES = (
    "for times with a zone, write times = pd.DatetimeIndex(times).tz_convert(None).to_numpy(), "
    "then numbers such as (times - times.min()) / np.timedelta64(1, 'D')"
)


_GAPS = f"{_WORDS}; for numbers with gaps, write column.astype(float) and fill the NaN"


_FIELDS = "for records, write one array per field, {name: x[name] for name in x.dtype.names}"


# What to write instead, by the kind of a dtype.
_INSTEAD = {
    "U": _WORDS,
    "S": _WORDS,
    "T": _WORDS,
    "M": _TIMES,
    "m": _TIMES,
    "O": _GAPS,
    "V": _FIELDS,
}


def check_mask(who: str, what: str, value: Any) -> None:
    """Raise for a masked array, which would lose its mask."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{who}: {what} must be a plain array, got a masked one, whose mask would be lost; "
            "pass x.data and x.mask separately"
        )


def native(who: str, what: str, value: Any) -> np.ndarray:
    """Return a host array in JAX's dtype for it, in native byte order, with the same numbers.

    Integers do not wrap, and floats are rounded but do not become infinite.

    Raises:
      TypeError: If `value` does not hold numbers, or is a masked array.
      ValueError: If the device's dtype cannot hold the numbers.
    """
    value = to_numpy(who, what, value)
    check_numbers(who, what, value)
    dtype = jax.dtypes.canonicalize_dtype(value.dtype).newbyteorder("=")
    if dtype.itemsize == value.dtype.itemsize:
        return value.astype(dtype, copy=False)
    with np.errstate(over="ignore"):
        converted = value.astype(dtype)
    lost = (
        converted != value if value.dtype.kind in "iu" else np.isinf(converted) & np.isfinite(value)
    )
    if lost.any():
        raise ValueError(
            f"{who}: {what} hold {value[lost][0]}, which {dtype} cannot hold; JAX has 32 bits "
            "unless jax.enable_x64 is set"
        )
    return converted


def all_native(x: PyTree, who: str, what: str = "the input") -> PyTree:
    """Return the same tree with its arrays of other libraries converted by `native`."""
    if not any(map(_is_foreign, leaves_of(x))):
        return x
    words = str | bytes if what == "the input" else ()  # `abstract` says more of them

    def leaf(a: Any) -> Any:
        if _is_foreign(a) and not isinstance(a, words):
            return native(who, what, a)
        return a

    return jax.tree.map(leaf, x)


_FOREIGN: dict[type, bool] = {}


def _is_foreign(leaf: Any) -> bool:
    """Return whether a leaf is an array that JAX has to convert, or neither array nor number."""
    cached = _FOREIGN.get(type(leaf))
    if cached is not None:
        return cached
    ready = isinstance(leaf, jax.Array | np.generic | Number)
    spec = hasattr(leaf, "dtype") and not (hasattr(leaf, "__array__") or is_sparse(leaf))
    return _FOREIGN.setdefault(type(leaf), not (ready or spec))
