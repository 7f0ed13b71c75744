"""Weights of any library by a table of names: which of its arrays belongs to which of our entries.

    table = {
        "embedding/embedding": "wte.weight",
        "block_{i}/mlp_in/kernel": ("h.{i}.mlp.fc.weight", transposed),
        "block_{i}/attention/key/kernel": (
            "h.{i}.qkv.weight", take_part(1, 3), reshaped(768, 12, 64)
        ),
    }
    params, state = by_names(net, "model.safetensors", x, table, leave=["*.attn.mask"])

`from_torch` needs no table if the layers of both have the same order and kinds. For all other nets,
a table says what belongs together. `to_names` uses the same table in reverse.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State, as_layer
from jaxnet.core.errors import compare
from jaxnet.interop.weights import Files, Weights, numbers, open_weights
from jaxnet.services import checks
from jaxnet.services.paths import check_patterns, fits
from jaxnet.services.trees import PyTree, flat, key_spec

Change = Callable[..., Any]  # array -> array
Source = str | tuple[str | Change, ...]  # a name, or names followed by functions

PLACE = re.compile(r"\{([a-z]\w*)\}")
SHOWN = 20  # largest number of lines in an error message


def by_names(
    net: Layer,
    weights: Weights | Files,
    x: PyTree,
    table: Mapping[str, Source],
    *,
    leave: Sequence[str] = (),
    key: jax.Array | None = None,
    dtype: Any = None,
    put: Callable[[str, jax.Array], jax.Array] | None = None,
) -> tuple[Params, State]:
    """Return params and state of a net from named arrays, matched by a table of names.

    An entry is one array in the params or state of `net`. The table maps the path of each entry to
    the name of its array in `weights`, in one of three forms:
      "bias": "fc.bias"                            the array as it is
      "kernel": ("fc.weight", transposed)          the array after one or more functions
      "gru/bias": ("bias_ih", "bias_hh", jnp.add)  several arrays, joined by the first function
    `jn.interop` has the functions `transposed`, `take_part(0, 3)` and `reshaped(8, 2, 4)`. You can
    also write your own.

    `{i}` in a path matches any number. In the names of that row, `{i}` stands for the same number.
    A path without `{i}` takes precedence over one with it. An entry of `repeat` holds all layers in
    one array, so its path has no `{i}`: the arrays of the names for i = 0, 1, ... are stacked.

    Every entry needs an array of its shape, and every array must be used, except for what `leave`
    names. Shapes cannot show whether a square matrix is transposed, or which epsilon or activation
    the weights were trained with. So compare the outputs of both nets once.

    Args:
      net: Any layer.
      weights: Dict of name -> array or tensor. Or one or several paths of safetensors files, or a
        folder of such files, which are read array by array. For Keras, `{w.path: w.numpy() for w in
        model.weights}`.
      x: Input of the net, or its `jn.spec`.
      table: Table as above.
      leave: Patterns, such as "head/*", of entries that keep their initial values, and of names in
        `weights` to ignore.
      key: Key that initializes the entries in `leave`. Needed only if there are any.
      dtype: Dtype of the floats, such as jnp.bfloat16; None is the dtype of the net.
      put: Function of (path of the entry, array), called for each array as soon as it is read. It
        returns the array on its devices, such as sharded on a mesh.

    Returns:
      (params, state), as `net.init` returns them.

    Raises:
      OSError: If a file is missing or cannot be read.
      TypeError: If `weights` are not arrays of numbers, or `table` has the wrong form.
      ValueError: If an entry has no row, a name is missing or not used, or shapes differ. The
        message lists them all.
      ValueError: If entries are left out and `key` is missing.

    Example:
      >>> from jaxnet.interop import by_names, transposed
      >>> weights = {"fc.weight": np.ones((4, 3)), "fc.bias": np.arange(4.0), "step": np.array(7)}
      >>> table = {"kernel": ("fc.weight", transposed), "bias": "fc.bias"}
      >>> params, state = by_names(jn.dense(4), weights, jn.spec((2, 3)), table, leave=["step"])
      >>> params["kernel"].shape, params["bias"].tolist()
      ((3, 4), [0.0, 1.0, 2.0, 3.0])

      With an empty table the message lists the entries of both:

      >>> by_names(jn.dense(4), weights, jn.spec((2, 3)), {})
      Traceback (most recent call last):
      ...
      ValueError: by_names: weights do not fit dense:
        bias (4,): no row in the table
        kernel (3, 4): no row in the table
        not used: "fc.weight" (4, 3)
        not used: "fc.bias" (4,)
        not used: "step" ()
    """
    net = as_layer(net, "by_names", "net")
    x = checks.check_input("by_names", x)
    rows, leave = _rows(table), _patterns(leave)
    arrays = open_weights("by_names", weights)
    if dtype is not None:
        checks.check_dtype("by_names", dtype)
    specs = jax.eval_shape(net.init, key_spec(), x)
    entries = [entry for tree in specs for entry in flat(tree)]
    by_index: dict[int, jax.Array] = {}  # by index among the entries
    wrong: list[str] = []
    used: set[str] = set()
    for place, (path, spec) in enumerate(entries):
        if _fits_any(leave, path):
            continue
        try:
            array = _row_of(path, rows).array(path, spec.shape, arrays, used)
            ours = _as_spec(array, spec, dtype)
            by_index[place] = ours if put is None else put(path, ours)
        except (LookupError, ValueError) as error:
            wrong.append(f"{path} {spec.shape}: {error}")
    paths = [path for path, _ in entries]
    wrong += _without_use(rows, paths, arrays, used, leave)
    raise_lines(f"by_names: weights do not fit {net.name}:", wrong)
    leaves, structure = jax.tree.flatten(specs)
    if len(by_index) < len(leaves):
        if key is None:
            missing = [path for place, path in enumerate(paths) if place not in by_index]
            raise ValueError(
                f"by_names: needs a key to draw {', '.join(missing[:8])}, which are left out; "
                "write by_names(..., key=jax.random.key(0))"
            )
        checks.check_key(key, "by_names")
        leaves = jax.tree.leaves(net.init(key, x))
    leaves = [by_index.get(place, leaf) for place, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, leaves)


def _fits_any(patterns: Sequence[str], name: str) -> bool:
    return any(fits(pattern, name) for pattern in patterns)


def _as_spec(array: np.ndarray, spec: Any, dtype: Any) -> jax.Array:
    """Return an array in the dtype of an entry; floats in `dtype`, if that is not None."""
    if not jnp.issubdtype(spec.dtype, jnp.inexact) and array.dtype.kind == "f":
        raise ValueError(f"expected {spec.dtype}, got {array.dtype}")
    if dtype is None or not jnp.issubdtype(spec.dtype, jnp.floating):
        dtype = spec.dtype
    return numbers(array, dtype)


def _without_use(
    rows: "list[_Row]",
    paths: list[str],
    arrays: Mapping[str, Any],
    used: set[str],
    leave: list[str],
) -> list[str]:
    """Return lines for an error: rows, arrays and patterns that nothing needs."""
    lines = []
    for row in rows:
        if all(row.numbers(path) is None for path in paths):
            lines.append(f'no entry for the row "{row.path}"{_near(row.path, paths)}')
    for name in arrays:
        if name not in used and not _fits_any(leave, name):
            lines.append(f'not used: "{name}" {np.shape(arrays[name])}')
    for pattern in leave:
        if not any(fits(pattern, name) for name in (*paths, *arrays)):
            lines.append(f'nothing to leave out fits "{pattern}"')
    return lines


def to_names(
    net: Layer,
    params: Params,
    state: State,
    x: PyTree,
    table: Mapping[str, Source],
    *,
    leave: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Return params and state as arrays by name, by the table with which `by_names` reads them.

    `safetensors.numpy.save_file` writes the result. Functions of the table are undone in reverse
    order: functions of this module can be undone, `reshaped` if it has `given`, others with
    `invertible`.

    Args:
      net: Any layer.
      params, state: Params and state of the net.
      x: Input of the net, or its `jn.spec`.
      table: Table of `by_names`.
      leave: Patterns of our entries that have no name.

    Returns:
      A dict from names to NumPy arrays.

    Raises:
      TypeError: If the table has the wrong form.
      ValueError: If an entry has no row, a row has several names or a function that cannot be
        undone, or a part is missing. The message lists them all.

    Example:
      >>> net, x = jn.dense(4), jn.spec((2, 3))
      >>> table = {"kernel": ("fc.weight", transposed), "bias": "fc.bias"}
      >>> weights = {"fc.weight": np.arange(12.0).reshape(4, 3), "fc.bias": np.zeros(4)}
      >>> params, state = by_names(net, weights, x, table)
      >>> to_names(net, params, state, x, table)["fc.weight"]
      array([[ 0.,  1.,  2.],
             [ 3.,  4.,  5.],
             [ 6.,  7.,  8.],
             [ 9., 10., 11.]], dtype=float32)
    """
    net = as_layer(net, "to_names", "net")
    x = checks.check_input("to_names", x)
    rows, leave = _rows(table), _patterns(leave)
    specs = jax.eval_shape(net.init, key_spec(), x)
    compare("to_names: params", specs[0], params, x)
    compare("to_names: state", specs[1], state, x)
    params, state = checks.all_native((params, state), "to_names")
    weights: dict[str, np.ndarray] = {}
    parts: dict[str, list[_Piece]] = {}
    wrong: list[str] = []
    for path, leaf in [*flat(params), *flat(state)]:
        if _fits_any(leave, path):
            continue
        try:
            for name, array in _row_of(path, rows).undone(path, np.asarray(leaf)):
                if isinstance(array, _Piece):
                    parts.setdefault(name, []).append(array)
                elif name in weights and not np.array_equal(weights[name], array):
                    raise ValueError(f'"{name}" would get two values')
                else:
                    weights[name] = array
        except (LookupError, ValueError) as error:
            wrong.append(f"{path} {np.shape(leaf)}: {error}")
    for name, pieces in parts.items():
        try:
            weights[name] = _joined(pieces)
        except ValueError as error:
            wrong.append(f'"{name}": {error}')
    raise_lines(f"to_names: {net.name} does not fit the table:", wrong)
    return weights


def invertible(change: Change, inverse: Change) -> Change:
    """Return a function for tables of names that `to_names` can undo.

    Args:
      change: Function from the other library's array to ours.
      inverse: Function from our array to the array there.

    Returns:
      A function like `change`, of which `to_names` finds the inverse.

    Example:
      >>> plus_one = invertible(lambda a: a + 1, lambda a: a - 1)
      >>> plus_one(np.zeros(2)).tolist()
      [1.0, 1.0]
    """
    for what, one in (("change", change), ("inverse", inverse)):
        checks.a_function("invertible", what, one, "an array")
    return _with_inverse(partial(change), inverse)


def _with_inverse(change: Change, inverse: Change) -> Change:
    setattr(change, "inverse", inverse)  # noqa: B010, which a type checker would not let pass
    return change


class _Piece(NamedTuple):
    """Parts of the array of a name, which other entries complete.

    Fields:
      places: Indices of the parts.
      number: Number of parts of the whole array.
      axis: Axis that is divided.
      array: The parts, joined in the order of `places`.
    """

    places: list[int]
    number: int
    axis: int
    array: np.ndarray


def _joined(pieces: list[_Piece]) -> np.ndarray:
    """Return the whole array of which these are parts."""
    count, axis = pieces[0].number, pieces[0].axis
    by_place: dict[int, np.ndarray] = {}
    for piece in pieces:
        parts = np.split(piece.array, len(piece.places), axis)
        by_place |= dict(zip(piece.places, parts, strict=True))
    missing = [str(i) for i in range(count) if i not in by_place]
    if missing:
        raise ValueError(f"no entry gives its parts {', '.join(missing)} of {count}")
    return np.concatenate([by_place[i] for i in range(count)], axis)


def transposed(a: np.ndarray) -> np.ndarray:
    """Transpose a kernel of PyTorch, (outputs, inputs, *window), to (*window, inputs, outputs).

    Returns:
      Array (*window, inputs, outputs).

    Raises:
      ValueError: If `a` has fewer than two axes.

    Example:
      >>> transposed(np.ones((4, 3))).shape, transposed(np.ones((4, 3, 5, 6))).shape
      ((3, 4), (5, 6, 3, 4))
    """
    a = checks.on_host("transposed", "a", a, "(outputs, inputs, ...)", "booleans or numbers")
    return np.moveaxis(a, (0, 1), (-1, -2))


_with_inverse(transposed, lambda a: np.moveaxis(a, (-1, -2), (0, 1)))


def take_part(i: int | Sequence[int], n: int, *, axis: int = -1) -> Change:
    """Return a function that takes the i-th of n equal parts of an array, or several in order.

    Args:
      i: Index of the part, from 0, or several indices, such as (1, 0, 2) for gates; these parts are
        joined in that order.
      n: Number of parts, at least 1.
      axis: Axis that is divided.

    Returns:
      A function of an array, for a row of a table.

    Raises:
      ValueError: If `i` is not in [0, n), or `n` does not divide the axis.

    Example:
      >>> packed = np.arange(6)  # of query, key and value
      >>> take_part(1, 3)(packed).tolist(), take_part((1, 0, 2), 3)(packed).tolist()
      ([2, 3], [2, 3, 0, 1, 4, 5])
    """
    checks.at_least("take_part", "n", n)
    checks.at_least("take_part", "axis", axis, -32)
    places: list[Any] = list(i) if isinstance(i, Sequence) and i else [i]  # () raises below
    for place in places:
        checks.between("take_part", "i", place, 0, n - 1)

    def take(a: np.ndarray) -> np.ndarray:
        if a.ndim == 0 or a.shape[axis] % n:
            raise ValueError(
                f"take_part: expected axis {axis} to be a multiple of {n}, got {a.shape}"
            )
        parts = np.split(a, n, axis)
        return np.concatenate([parts[place] for place in places], axis)

    return _with_inverse(take, partial(_Piece, places, n, axis))


def reshaped(*shape: int, given: tuple[int, ...] | None = None) -> Change:
    """Return a function that reshapes an array, such as the heads of attention: reshaped(8, 2, 4).

    Args:
      shape: Shape after; one size may be -1, for the rest.
      given: Shape before, which `to_names` needs for the reverse; one size may be -1.

    Returns:
      A function of an array, for a row of a table.

    Example:
      >>> reshaped(8, 2, -1)(np.ones((8, 8))).shape
      (8, 2, 4)
    """

    def change(a: np.ndarray) -> np.ndarray:
        return np.reshape(a, shape)

    if given is None:
        return change
    return _with_inverse(change, lambda a: np.reshape(a, given))


class _Row(NamedTuple):
    """A row of the table: the path, the names and the functions."""

    path: str
    names: tuple[str, ...]
    changes: tuple[Change, ...]

    def numbers(self, path: str) -> dict[str, str] | None:
        """Return the numbers of a path at the row's placeholders, or None if it does not fit."""
        match = _expression(self.path).fullmatch(path)
        return None if match is None else match.groupdict()

    def array(self, path: str, shape: tuple, arrays: Mapping, used: set[str]) -> np.ndarray:
        """Return the array of an entry, and note the names that it uses.

        Raises:
          LookupError, ValueError: If a name is missing, or the shape differs.
        """
        numbers = self.numbers(path) or {}
        names = [_filled(name, numbers) for name in self.names]
        over = {place for name in names for place in PLACE.findall(name)}
        if not over:
            return self._one(names, shape, arrays, used)
        if len(over) > 1 or not shape:
            raise ValueError(
                f"{', '.join(sorted(over))} of its names are not in the path; one stands for the "
                "layers of a repeat, whose arrays are stacked"
            )
        (place,) = over
        layers = []
        for i in range(shape[0]):
            names_of_layer = [_filled(name, {place: str(i)}) for name in names]
            layers.append(self._one(names_of_layer, shape[1:], arrays, used))
        return np.stack(layers)

    def undone(self, path: str, array: np.ndarray) -> list[tuple[str, Any]]:
        """Return the names of an entry with their arrays or parts of arrays.

        Raises:
          ValueError: If the row has several names, or a function that cannot be undone.
        """
        name, *rest = self.names
        if rest:
            raise ValueError(f"its row joins {len(self.names)} names, which cannot be undone")
        name = _filled(name, self.numbers(path) or {})
        place = PLACE.search(name)
        if place is None:
            return [(name, self._undo(array))]
        named_arrays = []
        for i, layer in enumerate(array):
            name_of_layer = _filled(name, {place[1]: str(i)})
            named_arrays.append((name_of_layer, self._undo(layer)))
        return named_arrays

    def _undo(self, array: np.ndarray) -> Any:
        result: Any = array
        for change in reversed(self.changes):
            inverse = getattr(change, "inverse", None)
            if inverse is None or isinstance(result, _Piece):
                called = getattr(change, "__name__", "a function")
                raise ValueError(
                    f"{called} cannot be undone; write invertible(change, inverse), for reshaped "
                    "given=, and take_part before the others"
                )
            result = inverse(result)
        return result if isinstance(result, _Piece) else np.asarray(result, order="C")

    def _one(self, names: list[str], shape: tuple, arrays: Mapping, used: set[str]) -> np.ndarray:
        for name in names:
            if name not in arrays:
                raise LookupError(f'the weights have no "{name}"{_near(name, arrays)}')
        used.update(names)
        results = [arrays[name] for name in names]
        words = " and ".join(f'"{name}"' for name in names)
        for change in self.changes:
            try:
                results = [change(*results)]
            except Exception as error:
                sizes = " and ".join(str(np.shape(a)) for a in results)
                called = getattr(change, "__name__", "a function")
                raise ValueError(f"{called} fails for {words} {sizes}: {error}") from error
        got = np.shape(results[0])
        if got != shape:
            raise ValueError(f"got {got} from {words}{_advice(got, shape)}")
        return checks.on_host("by_names", words, results[0], dtype="numbers")


def _filled(name: str, numbers: Mapping[str, str]) -> str:
    return PLACE.sub(lambda place: numbers.get(place[1], place[0]), name)


@lru_cache(maxsize=4096)
def _expression(path: str) -> re.Pattern[str]:
    """Return a regular expression for the paths that fit a row."""
    first, *rest = PLACE.split(path)
    places, texts = rest[::2], rest[1::2]
    expression = re.escape(first)
    for place, text in zip(places, texts, strict=True):
        is_repeated = f"(?P<{place}>" in expression
        expression += f"(?P={place})" if is_repeated else rf"(?P<{place}>\d+)"
        expression += re.escape(text)
    return re.compile(expression)


def _rows(table: Any) -> list[_Row]:
    """Return the rows; rows without placeholders come first."""
    checks.check_type("by_names", "table", table, Mapping, "a dict of paths of entries to names")
    rows = [_read_row(path, source) for path, source in table.items()]
    return sorted(rows, key=lambda row: bool(PLACE.search(row.path)))


def _read_row(path: Any, source: Any) -> _Row:
    row = (source,) if isinstance(source, str) else source
    parts: tuple[Any, ...] = tuple(row) if isinstance(row, tuple | list) else ()
    count = sum(isinstance(part, str) for part in parts)
    names, changes = parts[:count], parts[count:]
    names_first = count > 0 and all(isinstance(name, str) for name in names)
    if not isinstance(path, str) or not names_first or not all(map(callable, changes)):
        raise TypeError(
            f"by_names: the row {path!r:.60} must be a name, or a tuple of names followed by "
            f'functions, such as ("fc.weight", transposed), got {source!r:.60}'
        )
    if count > 1 and not changes:
        raise TypeError(
            f"by_names: the row {path!r:.60} has {count} names and no function that joins "
            'them, as in ("bias_ih", "bias_hh", jnp.add)'
        )
    return _Row(path, names, changes)


def _row_of(path: str, rows: list[_Row]) -> _Row:
    """Return the first row that fits the path of an entry."""
    for row in rows:
        if row.numbers(path) is not None:
            return row
    raise LookupError("no row in the table")


def raise_lines(head: str, wrong: list[str]) -> None:
    """Raise an error of several lines, if there are any."""
    if not wrong:
        return
    lines = [head, *wrong[:SHOWN]]
    if len(wrong) > SHOWN:
        lines.append(f"and {len(wrong) - SHOWN} more")
    raise ValueError("\n  ".join(lines))


def _patterns(leave: Any) -> list[str]:
    leave = checks.check_list("by_names", "leave", leave, 'patterns, ["head/*"]')
    check_patterns("by_names", "leave", leave)
    return leave


def _advice(got: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Return a function that would give the wanted shape."""
    is_transposed = len(got) > 1 and (*got[2:], got[1], got[0]) == wanted
    if is_transposed:
        return "; write (name, transposed)"
    if got[::-1] == wanted:
        return "; the reversed shape fits: write (name, np.transpose)"
    if math.prod(got) == math.prod(wanted):
        sizes = ", ".join(map(str, wanted))
        return f"; reshaped({sizes}) would fit, after `transposed` if its outputs are first"
    return ""


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), 1)
    return f'; there is "{near[0]}"' if near else ""
