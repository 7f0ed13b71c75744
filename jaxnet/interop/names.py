"""Weights of any library by a table of names: which of its arrays belongs to which of our entries.

    table = {
        "embedding/embedding": "wte.weight",
        "block_{i}/mlp_in/kernel": ("h.{i}.mlp.fc.weight", transposed),
        "block_{i}/attention/key/kernel": ("h.{i}.qkv.weight", part(1, 3), shaped(768, 12, 64)),
    }
    params, state = by_names(net, "model.safetensors", x, table, leave=["*.attn.mask"])

`from_torch` needs no table where the layers of both have the same order and kinds. For all other
nets, a table says what belongs together.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State, as_layer
from jaxnet.interop.weights import Weights, read_weights
from jaxnet.services.checks import at_least, check_input, check_key, on_host
from jaxnet.services.paths import check_patterns, fits
from jaxnet.services.trees import PyTree, flat, key_spec

Change = Callable[..., Any]  # array -> array
Source = str | tuple[str | Change, ...]  # a name, or names followed by functions

PLACE = re.compile(r"\{([a-z]\w*)\}")
SHOWN = 20  # lines of an error


def by_names(
    net: Layer,
    weights: Weights | str | Path,
    x: PyTree,
    table: Mapping[str, Source],
    *,
    leave: Sequence[str] = (),
    key: jax.Array | None = None,
) -> tuple[Params, State]:
    """Params and state of a net from arrays by name, by a table of which belongs to which entry.

    A row of the table is `path of our entry: name there`, or `path: (name, function, ...)`, where
    the functions are applied to the array one after another, such as `transposed`, `part(0, 3)`,
    `shaped(8, 2, 4)` or any of the user's. Of several names, `(name, name, function)`, the first
    function gets all the arrays: `("bias_ih", "bias_hh", jnp.add)`.

    `{i}` in a path is any number, and in the names of that row the same one. A path without `{i}`
    takes precedence over one with it. An entry of `repeat` holds all layers in one array, so its
    path has no `{i}`: the arrays of the names for i = 0, 1, ... are stacked.

    Both sides must match completely, except for `leave`, and so must the shapes. No shape shows
    whether a square matrix is transposed, nor which epsilon or activation belongs to the weights:
    compare outputs.

    Args:
      net: any layer.
      weights: name -> array or tensor, or the path of a safetensors file; of Keras,
        `{w.path: w.numpy() for w in model.weights}`.
      x: input of the net, or its `jn.spec`.
      table: as above.
      leave: patterns, such as "head/*", of our entries that keep their initial values, and of
        names that are not used.
      key: draws our entries that are left out; needed only with such.

    Returns:
      (params, state), as `net.init` returns them.

    Raises:
      OSError: for a file that is missing or cannot be read.
      TypeError: for weights that are not arrays of numbers, and a table of another form.
      ValueError: for entries without a row, names that are missing or not used, and other shapes;
        the message lists them all.

    Example:
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
    net, x = as_layer(net, "by_names", "net"), check_input("by_names", x)
    rows, leave = _rows(table), _patterns(leave)
    arrays = read_weights("by_names", weights)
    specs = jax.eval_shape(net.init, key_spec(), x)
    entries = [entry for tree in specs for entry in flat(tree)]
    found: dict[int, jax.Array] = {}  # by place among the entries
    wrong: list[str] = []
    used: set[str] = set()

    def left(name):
        return any(fits(pattern, name) for pattern in leave)

    for place, (path, spec) in enumerate(entries):
        if left(path):
            continue
        row = next((row for row in rows if row.numbers(path) is not None), None)
        try:
            if row is None:
                raise LookupError("no row in the table")
            array = row.array(path, spec.shape, arrays, used)
            if not jnp.issubdtype(spec.dtype, jnp.inexact) and array.dtype.kind == "f":
                raise ValueError(f"expected {spec.dtype}, got {array.dtype}")
            found[place] = jnp.array(array, spec.dtype)
        except (LookupError, ValueError) as error:
            wrong.append(f"{path} {spec.shape}: {error}")
    paths = [path for path, _ in entries]
    for row in rows:
        if not any(row.numbers(path) is not None for path in paths):
            wrong.append(f'no entry for the row "{row.path}"{_near(row.path, paths)}')
    for name, array in arrays.items():
        if name not in used and not left(name):
            wrong.append(f'not used: "{name}" {array.shape}')
    for pattern in leave:
        if not any(fits(pattern, name) for name in (*paths, *arrays)):
            wrong.append(f'nothing to leave out fits "{pattern}"')
    if wrong:
        more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        lines = [f"by_names: weights do not fit {net.name}:", *wrong[:SHOWN], *more]
        raise ValueError("\n  ".join(lines))
    leaves, structure = jax.tree.flatten(specs)
    if len(found) < len(leaves):
        if key is None:
            kept = [path for place, path in enumerate(paths) if place not in found]
            raise ValueError(
                f"by_names: needs a key to draw {', '.join(kept[:8])}, which are left out; write "
                "by_names(..., key=jax.random.key(0))"
            )
        check_key(key, "by_names")
        leaves = jax.tree.leaves(net.init(key, x))
    return jax.tree.unflatten(structure, [found.get(i, leaf) for i, leaf in enumerate(leaves)])


def transposed(a: np.ndarray) -> np.ndarray:
    """A kernel of PyTorch, (outputs, inputs, *window), in our order, (*window, inputs, outputs).

    Raises:
      ValueError: If `a` has fewer than two axes.

    Example:
      >>> transposed(np.ones((4, 3))).shape, transposed(np.ones((4, 3, 5, 6))).shape
      ((3, 4), (5, 6, 3, 4))
    """
    a = on_host("transposed", "a", a, "(outputs, inputs, ...)", "booleans or numbers")
    return np.moveaxis(a, (0, 1), (-1, -2))


def part(i: int | Sequence[int], n: int, *, axis: int = -1) -> Change:
    """A function that takes the i-th of n equal parts of an array, or several parts in their order.

    Args:
      i: from 0; the parts of a list are joined in its order, such as (1, 0, 2) for gates.
      n: number of parts, at least 1.
      axis: that is divided.

    Raises:
      ValueError: for an i that is not in [0, n), and an axis that n does not divide.

    Example:
      >>> packed = np.arange(6)  # of query, key and value
      >>> part(1, 3)(packed).tolist(), part((1, 0, 2), 3)(packed).tolist()
      ([2, 3], [2, 3, 0, 1, 4, 5])
    """
    at_least("part", "n", n)
    at_least("part", "axis", axis, -32)
    places = list(i) if isinstance(i, Sequence) else [i]
    for place in places:
        at_least("part", "i", place, 0)
        if place >= n:
            raise ValueError(f"part: i must be in [0, {n}), got {place}")

    def take(a: np.ndarray) -> np.ndarray:
        if a.ndim == 0 or a.shape[axis] % n:
            raise ValueError(f"part: expected axis {axis} to be a multiple of {n}, got {a.shape}")
        parts = np.split(a, n, axis)
        return np.concatenate([parts[place] for place in places], axis)

    return take


def shaped(*shape: int) -> Change:
    """A function that reshapes an array, such as the heads of an attention: shaped(8, 2, 4).

    Args:
      shape: one size may be -1, for the rest.

    Example:
      >>> shaped(8, 2, -1)(np.ones((8, 8))).shape
      (8, 2, 4)
    """
    return lambda a: np.reshape(a, shape)


class _Row(NamedTuple):
    """A row of the table: the path, the names and the functions."""

    path: str
    names: tuple[str, ...]
    changes: tuple[Change, ...]

    def numbers(self, path: str) -> dict[str, str] | None:
        """The numbers of a path in the places of the row's, or None where it does not fit."""
        found = re.fullmatch(_expression(self.path), path)
        return None if found is None else found.groupdict()

    def array(self, path: str, shape: tuple[int, ...], arrays: dict, used: set[str]) -> np.ndarray:
        """The array of an entry; notes the names that it uses.

        Raises:
          LookupError, ValueError: for a name that is missing, and another shape.
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
        layers = [[_filled(name, {place: str(i)}) for name in names] for i in range(shape[0])]
        return np.stack([self._one(layer, shape[1:], arrays, used) for layer in layers])

    def _one(self, names: list[str], shape: tuple, arrays: dict, used: set[str]) -> np.ndarray:
        for name in names:
            if name not in arrays:
                raise LookupError(f'the weights have no "{name}"{_near(name, arrays)}')
        used.update(names)
        given = [arrays[name] for name in names]
        words = " and ".join(f'"{name}"' for name in names)
        for change in self.changes:
            try:
                given = [change(*given)]
            except Exception as error:
                sizes = " and ".join(str(np.shape(a)) for a in given)
                called = getattr(change, "__name__", "a function")
                raise ValueError(f"{called} fails for {words} {sizes}: {error}") from error
        if np.shape(given[0]) != shape:
            raise ValueError(
                f"got {np.shape(given[0])} from {words}{_advice(np.shape(given[0]), shape)}"
            )
        return on_host("by_names", words, given[0], dtype="numbers")


def _filled(name: str, numbers: Mapping[str, str]) -> str:
    return PLACE.sub(lambda place: numbers.get(place[1], place[0]), name)


@lru_cache(maxsize=4096)
def _expression(path: str) -> str:
    """A regular expression for the paths that fit a row."""
    seen: set[str] = set()
    words = PLACE.split(path)
    for k, word in enumerate(words):
        if k % 2 == 0:
            words[k] = re.escape(word)
        else:
            words[k] = f"(?P={word})" if word in seen else rf"(?P<{word}>\d+)"
            seen.add(word)
    return "".join(words)


def _rows(table: Any) -> list[_Row]:
    """The rows, those without places first."""
    if not isinstance(table, Mapping):
        raise TypeError(
            f"by_names: table must map paths of entries to names, got {type(table).__name__}"
        )
    rows = []
    for path, source in table.items():
        given = (source,) if isinstance(source, str) else source
        parts: tuple[Any, ...] = tuple(given) if isinstance(given, tuple | list) else ()
        count = sum(isinstance(part, str) for part in parts)
        names, changes = parts[:count], parts[count:]
        fine = count and all(isinstance(name, str) for name in names)
        if not isinstance(path, str) or not fine or not all(map(callable, changes)):
            raise TypeError(
                f"by_names: the row {path!r:.60} must be a name, or a tuple of names followed by "
                f'functions, such as ("fc.weight", transposed), got {source!r:.60}'
            )
        if count > 1 and not changes:
            raise TypeError(
                f"by_names: the row {path!r:.60} has {count} names and no function that joins "
                'them, as in ("bias_ih", "bias_hh", jnp.add)'
            )
        rows.append(_Row(path, names, changes))
    return sorted(rows, key=lambda row: bool(PLACE.search(row.path)))


def _patterns(leave: Any) -> list[str]:
    if isinstance(leave, str) or not isinstance(leave, Sequence):
        raise TypeError(
            f'by_names: leave must be a list of patterns, ["head/*"], got {leave!r:.60}'
        )
    check_patterns("by_names", "leave", leave)
    return list(leave)


def _advice(given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """A function that would give the wanted shape."""
    if len(given) > 1 and (*given[2:], given[1], given[0]) == wanted:
        return "; write (name, transposed)"
    if given[::-1] == wanted:
        return "; the reversed shape fits: write (name, np.transpose)"
    if math.prod(given) == math.prod(wanted):
        sizes = ", ".join(map(str, wanted))
        return (
            f"; shaped({sizes}) would fit, after `transposed` for a kernel with its outputs first"
        )
    return ""


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), 1)
    return f'; there is "{near[0]}"' if near else ""
