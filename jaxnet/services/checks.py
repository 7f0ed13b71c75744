"""Checks of arguments: errors say who, what was expected, what we got, what to write instead.

All such checks are in this module. Only public functions call them; internal functions trust their
arguments. Shapes and dtypes are known while tracing too; values are checked if they are known.
"""

import inspect
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from numbers import Number
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.functions import takes
from jaxnet.services.trees import PyTree, describe, flat, leaves_of


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
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    low, high = low - rounding, high + rounding
    above = values >= low if interval[0] == "[" else values > low
    return above & (values <= high if interval[-1] == "]" else values < high)


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
        needed, hint = f"{what} must be" if what else "expected", f"; {hint}" if hint else ""
        raise TypeError(f"{who}: {needed} {words}, got {type(value).__name__}{hint}")


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
    if not isinstance(value, tuple | list) or len(value) != len(_AXES.findall(form)):
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
    all_at_least(who, minimum, **dict(zip(_AXES.findall(form), value, strict=True)))


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


# What `as_array` accepts, by dtype, and the message for any other dtype.
_DTYPES = {
    "floats": (jnp.floating, "floats; write x.astype(jnp.float32)"),
    "integers": (jnp.integer, "integers; for one-hot rows or scores, write x.argmax(-1)"),
    "numbers": (jnp.number, "numbers; write x.astype(jnp.float32)"),
    "reals": (jnp.number, "real numbers"),
    "booleans or numbers": (jnp.number, "booleans or numbers"),
}
_AXES = re.compile(r"[^,\s()][^,()]*")  # "n", "...", "4" or "1 or 3 channels"


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
    # Lists of different lengths, tracers, and objects of other libraries fail.
    with suppress(Exception):
        array = np.asarray(value)
    if array is None or not (hasattr(value, "dtype") or array.dtype.kind in "biufc"):
        raise TypeError(
            f"{who}: {what} must be an array of shape {form}, got {type(value).__name__}"
        )
    if isinstance(value, list | tuple) and not array.size:
        array = array.astype(int)  # [] has no dtype
    _check_dtype(who, what, array.dtype, dtype)
    _check_form(who, what, array.shape, form, {} if sizes is None else sizes, empty)
    return array.astype(np.float64) if dtype == "reals" else array


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
        columns = [f"{n} {t}" for n, t in zip(value.columns, value.dtypes, strict=True)]
        raise TypeError(
            f"{who}: the columns of {what} differ in dtype: {', '.join(columns):.400}. Choose the "
            "numbers by table[[...]].to_numpy(np.float32), and give each other column as integers, "
            "such as names, ids = np.unique(column, return_inverse=True)"
        )
    loader = hasattr(value, "__iter__") and not hasattr(value, "__getitem__")
    for found, write in (
        (_is_sparse(value), "it is sparse: write x.toarray() or, in JAX, x.todense()"),
        (isinstance(value, Mapping), "write dict(x)"),
        (loader, "for a loader, pass one batch"),
    ):
        if found:
            raise TypeError(f"{who}: {what} must be an array, got {type(value).__name__}; {write}")
    try:
        found = np.asarray(value)
        if found.dtype == object and all(isinstance(each, Number) for each in found.flat):
            found = np.array(found.tolist())  # of columns that could have gaps
        return found
    except Exception as error:  # each library has its own errors
        raise TypeError(
            f"{who}: {what} must be an array, got {type(value).__name__}, which NumPy cannot read: "
            f"{error}. For a tensor, write x.detach().cpu().float().numpy()"
        ) from None


def _is_sparse(value: Any) -> bool:
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


def _check_dtype(who: str, what: str, given: Any, dtype: str) -> None:
    kind, words = _DTYPES[dtype]
    if given == np.bool_ and dtype in ("reals", "booleans or numbers"):
        return
    if not jnp.issubdtype(given, kind) or jnp.issubdtype(given, jnp.complexfloating):
        raise TypeError(f"{who}: {what} must hold {words}, got {given}")


def _check_form(
    who: str, what: str, shape: tuple, form: str, sizes: dict[str, Any], empty: bool
) -> None:
    """Raise unless a shape fits its form; note the sizes of named axes."""
    axes = _AXES.findall(form)
    free = len(shape) - (len(axes) - 1) if "..." in axes else 0
    places: list[Any] = list(shape)
    if "..." in axes and free >= 0:
        at = axes.index("...")
        places[at : at + free] = [tuple(shape[at : at + free])]
    fits = len(places) == len(axes) and free >= 0
    known = {}
    for axis, size in zip(axes, places, strict=False):
        if axis[0].isdigit():
            fits &= str(size) in re.findall(r"\d+", axis)
        elif fits and sizes.setdefault(axis, size) != size:
            known[axis] = sizes[axis]
    if fits and not known:
        if not empty and 0 in shape:
            raise ValueError(
                f"{who}: {what} must have shape {form} with sizes of at least 1, got {shape}"
            )
        return
    having = ", ".join(f"{axis} = {size}" for axis, size in known.items())
    missing = not fits and "..." not in axes and len(shape) + 1 == len(axes)
    hint = ". Is the batch axis missing? For a single example, pass x[None]" if missing else ""
    raise ValueError(
        f"{who}: {what} must have shape {form}{f' with {having}' if having else ''}, "
        f"got {shape}{hint}"
    )


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
    if (values := known(ids)) is None:
        return
    wrong = values[(values < 0) | (values >= size)]
    if wrong.size:
        raise WrongValues(f"{what} must be in [0, {size}), got {wrong.flat[0]}")


# An array of the right shape and dtype has values that a function would misread. Tracebacks and
# notebooks show the name of its base, since only this library tells the two apart.
_SHOWN = {"__module__": "builtins", "__reduce__": lambda error: (ValueError, error.args)}
WrongValues = type("ValueError", (ValueError,), _SHOWN)


def known(array: Any) -> np.ndarray | None:
    """Return the values of an array on the host, or None if they are traced or on other hosts.

    Example:
      >>> known(jnp.arange(3))
      array([0, 1, 2], dtype=int32)
      >>> jax.eval_shape(lambda x: print(known(x)), jn.spec((3,)))
      None
    """
    if is_traced(array) or not getattr(array, "is_fully_addressable", True):
        return None
    return np.asarray(array)


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
    if not (named := [(path or "the array", leaf) for path, leaf in flat(data, _is_sparse)]):
        raise ValueError(
            f"{who}: expected an array or a tuple of arrays such as (x, y), got {data!r:.60}"
        )
    for i, (name, leaf) in enumerate(named):
        array = leaf if isinstance(leaf, jax.Array) else to_numpy(who, name, leaf)
        if not array.shape:
            raise TypeError(
                f"{who}: expected arrays with one example per row, got {leaf!r:.60} ({name}); "
                "for a list, pass np.asarray(list)"
            )
        named[i] = name, array
    lengths = {name: leaf.shape[0] for name, leaf in named}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{name}: {n}" for name, n in lengths.items())
        hint = f"; {LOADER}" if is_list_of_batches(data) else ""
        raise ValueError(f"{who}: all arrays must have the same leading dimension, got {got}{hint}")
    if 0 in lengths.values():
        shapes = ", ".join(str(tuple(leaf.shape)) for _, leaf in named)
        raise ValueError(f"{who}: expected at least one example, got arrays of shape {shapes}")
    for name, leaf in named:
        if finite and not isinstance(leaf, jax.Array):
            check_finite(who if name == "the array" else f"{who}/{name}", leaf, items)
    return jax.tree.unflatten(jax.tree.structure(data, _is_sparse), [leaf for _, leaf in named])


LOADER = "a list of batches is taken for arrays: wrap it in an object with __iter__"


def is_list_of_batches(data: Any) -> bool:
    """Return whether data is a list of tuples or dicts of one structure, as batches are.

    Example:
      >>> is_list_of_batches([(1, 2), (3, 4)]), is_list_of_batches([(1, 2), 3])
      (True, False)
    """
    nested = isinstance(data, list) and all(isinstance(part, tuple | list | dict) for part in data)
    return nested and len(set(map(jax.tree.structure, data))) == 1


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


def check_finite(who: str, x: Any, items: str = "examples") -> None:
    """Raise if rows contain NaN or Inf.

    Args:
      who: Name of the function.
      x: Array (n, ...) with known values.
      items: Plural noun for the rows, for the message.

    Example:
      >>> check_finite("fit_pca", jnp.array([[1.0], [jnp.nan]]))
      Traceback (most recent call last):
      ...
      ValueError: fit_pca: 1 of 2 examples contain NaN or Inf, the first at index 1. Replace ...
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return
    where = jnp if isinstance(x, jax.Array) else np
    finite = np.asarray(where.isfinite(x).all(axis=tuple(range(1, x.ndim))))
    if not finite.all():
        raise ValueError(
            f"{who}: {(~finite).sum()} of {len(x)} {items} contain NaN or Inf, "
            f"the first at index {int(np.argmin(finite))}. Replace what is missing by a number, "
            "np.nan_to_num(x), and add the mask np.isnan(x) as an input"
        )


_CONCRETE: set[type] = set()  # types that have a value


def is_traced(tree: PyTree) -> bool:
    """Return whether `jit`, `grad`, `vmap` or `scan` traces a leaf, so that its value is not known.

    Example:
      >>> is_traced({"x": jnp.ones(3)})
      False
    """
    leaves = leaves_of(tree)
    if _CONCRETE.issuperset(map(type, leaves)):
        return False
    for leaf in leaves:
        try:
            getattr(leaf, "devices", list)()
        except jax.errors.ConcretizationTypeError:
            return True
        _CONCRETE.add(type(leaf))
    return False


def explain_spent(error: BaseException | None) -> None:
    """Add to JAX's error about a deleted array, once, what to write instead.

    Example:
      >>> explain_spent(RuntimeError("Array has been deleted with shape=float32[3]."))
    """
    note = (
        "a train_state goes into one step only, which reuses its memory; continue with the "
        "train_state that it returned: train_state, metrics = trainer.step(train_state, ...). If "
        "an error or a signal came before this assignment, both are lost: jn.fit yields "
        "train_states that stay valid, and jn.trainer(..., donate=False) keeps the one that a step "
        "was given"
    )
    if error and "has been deleted" in str(error) and note not in getattr(error, "__notes__", ()):
        error.add_note(note)


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
    # A layer is a tuple, which can be called for its message alone.
    if not callable(value) or isinstance(value, tuple):
        raise TypeError(f"{who}: {what} must be a function of {form}, got {type(value).__name__}")
    given, _, named = form.partition("*, ")
    keywords = [each.partition("=")[0] for each in _AXES.findall(named)]
    if form[0] == "(" and not takes(value, len(_AXES.findall(given)), *keywords):
        got = f"one of {inspect.signature(value)}"
        raise TypeError(f"{who}: {what} must be a function of {form}, got {got}")


def is_key(value: Any) -> bool:
    """Return whether this holds typed random keys, not the uint32 of older ones.

    Example:
      >>> is_key(jax.random.key(0)), is_key(jax.random.PRNGKey(0)), is_key(None)
      (True, False, False)
    """
    return jnp.issubdtype(getattr(value, "dtype", object), jax.dtypes.prng_key)


def check_key(key: Any, who: str) -> None:
    """Raise unless this is a single random key."""
    array = isinstance(key, jax.Array | np.ndarray | jax.ShapeDtypeStruct)
    typed = array and is_key(key)
    raw = jax.eval_shape(jax.random.PRNGKey, 0)
    if typed and key.shape == () or array and (key.shape, key.dtype) == (raw.shape, raw.dtype):
        return
    got = f"an array {key.shape} {key.dtype}" if array else type(key).__name__
    if typed:
        got = f"keys of shape {key.shape}; use jax.vmap over them"
    raise TypeError(f"{who}: expected a single key, such as jax.random.key(0), got {got}")


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


def check_dtype(who: str, dtype: Any) -> None:
    """Raise unless JAX has this dtype."""
    known = np.dtype(object)
    with suppress(TypeError):
        known = jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)
    if dtype is None or not _has_numbers(known):
        raise TypeError(f"{who}: dtype must be one of JAX, such as jnp.float32, got {dtype!r:.60}")


def _has_numbers(dtype: Any) -> bool:
    """Return whether this dtype can hold the input of a layer: numbers, booleans or keys."""
    if any(jnp.issubdtype(dtype, kind) for kind in (np.bool_, jax.dtypes.extended)):
        return True
    widest = 16 if jnp.issubdtype(dtype, np.complexfloating) else 8  # JAX has no long doubles
    number = jnp.issubdtype(dtype, np.number) and not jnp.issubdtype(dtype, np.timedelta64)
    return number and dtype.itemsize <= widest


def check_call(who: str, params: PyTree, state: PyTree, x: PyTree, key: Any, train: Any) -> PyTree:
    """Return params, state and input of a call of `apply`, with host arrays converted by `native`.

    Raises:
      TypeError: If x is left out (`...` marks that), or if one of them has the wrong type.
    """
    if x is ...:
        write = "write y, state = net.apply(params, state, x)"
        raise TypeError(f"{who}: apply needs params, state and x; {write}")
    if key is not None:
        check_key(key, who)
    check_options(who, train=train)
    return all_native(params, who, "params"), all_native(state, who, "state"), all_native(x, who)


def check_dict(who: str, kind: str, tree: PyTree) -> None:
    """Raise unless params or state are a dict."""
    hint = "write params, state = net.init(key, x), then net.apply(params, state, x)"
    check_type(who, kind, tree, dict, "the dict that init returns", hint)


def as_dict(who: str, kind: str, tree: PyTree) -> Any:
    """Return params or state with host arrays as JAX has them; raise unless they are a dict."""
    check_dict(who, kind, tree)
    return all_native(tree, who, kind)


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
        raise TypeError(
            f"{who}: {what} must hold numbers that JAX has, got dtype {value.dtype}; {write}"
        )


_WORDS = "for labels that are words, write names, labels = np.unique(words, return_inverse=True)"
_TIMES = "for times, write numbers such as (times - times.min()) / np.timedelta64(1, 'D')"
_GAPS = f"{_WORDS}; for numbers with gaps, write column.astype(float) and fill the NaN"
_FIELDS = "for records, write one array per field, {name: x[name] for name in x.dtype.names}"
# What to write instead, by the kind of a dtype.
_INSTEAD = {**dict.fromkeys("UST", _WORDS), **dict.fromkeys("Mm", _TIMES), "O": _GAPS, "V": _FIELDS}


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
    kept = jax.dtypes.canonicalize_dtype(value.dtype).newbyteorder("=")
    if kept.itemsize == value.dtype.itemsize:
        return value.astype(kept, copy=False)
    with np.errstate(over="ignore"):
        found = value.astype(kept)
    lost = found != value if value.dtype.kind in "iu" else np.isinf(found) & np.isfinite(value)
    if lost.any():
        raise ValueError(
            f"{who}: {what} hold {value[lost][0]}, which {kept} cannot hold; JAX has 32 bits "
            "unless jax.enable_x64 is set"
        )
    return found


def all_native(x: PyTree, who: str, what: str = "the input") -> PyTree:
    """Return the same tree with its arrays of other libraries converted by `native`."""
    if not any(map(_is_foreign, leaves_of(x))):
        return x
    words = str | bytes if what == "the input" else ()  # `abstract` says more of them
    foreign = lambda a: _is_foreign(a) and not isinstance(a, words)  # noqa: E731
    return jax.tree.map(lambda a: native(who, what, a) if foreign(a) else a, x)


_FOREIGN: dict[type, bool] = {}


def _is_foreign(leaf: Any) -> bool:
    """Return whether a leaf is an array that JAX has to convert, or neither array nor number."""
    if (known := _FOREIGN.get(type(leaf))) is not None:
        return known
    ready = isinstance(leaf, jax.Array | np.generic | Number)
    spec = hasattr(leaf, "dtype") and not (hasattr(leaf, "__array__") or _is_sparse(leaf))
    return _FOREIGN.setdefault(type(leaf), not (ready or spec))


def initialized(
    who: str, name: str, initializer: Callable, key: jax.Array, needed: Any
) -> jax.Array:
    """Return the array of an initializer; raise if it has the wrong shape.

    Example:
      >>> needed = jax.ShapeDtypeStruct((3,), jnp.float32)
      >>> initialized("dense", "bias", lambda key, shape, dtype: 0.0, None, needed)
      Traceback (most recent call last):
      ...
      ValueError: dense: the initializer of 'bias' must return an array of shape (3,), got float
    """
    try:
        value = initializer(key, needed.shape, needed.dtype)
    except Exception as error:
        if isinstance(error, jax.errors.UnexpectedTracerError) or "Tracer" in str(error):
            raise ValueError(
                f"{who}: the initializer of {name!r} uses an array from the function around it, "
                "such as another parameter. It may only use key, shape and dtype. If one parameter "
                "starts from another, write both in one init: jn.stateless(init, apply)"
            ) from None
        error.add_note(f"in the initializer of {name!r} of {who}, which gets (key, shape, dtype)")
        raise
    if getattr(value, "shape", None) != needed.shape:
        got = describe(value) if jax.tree.leaves(value) else type(value).__name__
        raise ValueError(
            f"{who}: the initializer of {name!r} must return an array of shape {needed.shape}, "
            f"got {got}"
        )
    return value
