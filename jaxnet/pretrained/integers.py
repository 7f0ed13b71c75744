"""Integers of a file of llama.cpp as params of a quantized net, with the file's own scales."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from jaxnet.core import make_layer
from jaxnet.pretrained.config import Rows
from jaxnet.pretrained.gguf import KINDS, Kind, Tensors
from jaxnet.services.nodes import Stored
from jaxnet.services.trees import flat


def with_integers(
    net: jn.Layer, x: Any, rows: Rows, weights: Mapping[str, Any]
) -> tuple[jn.Layer, Rows, Tensors]:
    """Return a net with integers, and its rows and weights, for `by_names`.

    Kernels and tables of `KINDS` stay integers, with a scale in float16 for each group and, if the
    file has them, also its lowest value. The others become floats, as do those with groups that
    span two heads of attention.

    Raises:
      ValueError: If no weights are integers.
    """
    missing = ValueError(
        f"load: integers=True needs a .gguf file with one of {', '.join(sorted(KINDS))}"
    )
    if not isinstance(weights, Tensors):
        raise missing
    kinds = weights.kinds
    specs = jax.eval_shape(net.init, jax.random.key(0), x)
    shapes = {path: leaf.shape for tree in specs for path, leaf in flat(tree)}
    table = {path: row for path in shapes if (row := _row(path, rows))}
    small: dict[tuple[int, int], list[str]] = {}  # (bits, group) -> paths
    least: dict[str, int] = {}  # path -> what stands for a lowest value
    names = [name for name in weights if name not in kinds]
    for (bits, group), paths in _by_form(table, kinds).items():
        pack = partial(_quantized(net, bits, group, paths).inside.options.pack, net, x=x)
        shapes_of_packed = jax.eval_shape(pack, specs[0])  # nothing is drawn again
        for path in paths:
            entry = _at(shapes_of_packed, path)
            if math.prod(_scale(entry).shape) * group != math.prod(shapes[path]):
                continue
            small.setdefault((bits, group), []).append(path)
            row = table.pop(path)
            name = row[0]
            kind = kinds[name]
            names += [f"{name}.{part}" for part in ("numbers", *kind.floats)]
            table |= _integer_rows(path, row, kind, shapes[path], entry)
            if "lowest" in kind.floats:
                least[path] = kind.least
    if not small:
        raise missing
    names += {name for name, *_ in table.values() if name in kinds}
    return _mixed(net, small, least), table, weights.chosen(names)


def _by_form(table: Rows, kinds: Mapping[str, Kind]) -> dict[tuple[int, int], list[str]]:
    """Return the paths of kernels and tables that are stored as integers, by (bits, group)."""
    paths_by_form: dict[tuple[int, int], list[str]] = {}
    for path, (name, *_) in table.items():
        if name in kinds and path.endswith(("/kernel", "/embedding")):
            kind = kinds[name]
            paths_by_form.setdefault((kind.bits, kind.group), []).append(path)
    return paths_by_form


def _integer_rows(
    path: str, row: tuple, kind: Kind, shape: tuple[int, ...], entry: Mapping[str, Any]
) -> Rows:
    """Return the rows of the integers and the floats of a kernel.

    Args:
      path, row: Path of the kernel and its row, (name, *functions).
      kind: How it is stored.
      shape: Shape of the kernel.
      entry: Specs of its entries in params.
    """
    name, *changes = row
    numbers = _key_of_numbers(entry)
    halves = [_packed] if numbers == "int4" else []
    rows: Rows = {f"{path}/{numbers}": (f"{name}.numbers", *changes, *halves)}
    counts = _scale(entry).shape
    axis = next(a for a, count in enumerate(counts) if count != shape[a])
    # The functions are those of the kernel, so the floats are spread to its shape for them.
    spread, every = partial(_spread, kind.group), partial(_every, axis, kind.group)
    for part in kind.floats:
        entry_name = "scale16" if part == "scale" else part
        rows[f"{path}/{entry_name}"] = (f"{name}.{part}", spread, *changes, every)
    return rows


def _mixed(
    net: jn.Layer, small: Mapping[tuple[int, int], list[str]], least: Mapping[str, int]
) -> jn.Layer:
    """Return a quantized net whose kernels have different bits, computed in float32."""
    layers_by_form = {form: _quantized(net, *form, paths) for form, paths in small.items()}
    one = next(iter(layers_by_form.values()))
    options = one.inside.options

    def init(run, key, x):
        params, state = run.init(key, x)
        new = {}
        for form, layer in layers_by_form.items():
            packed = layer.inside.options.pack(run.layer, params, x)
            for path in small[form]:
                entry = _at(packed, path)
                numbers = _key_of_numbers(entry)
                scale = _scale(entry).astype(jnp.float16)
                new[path] = {numbers: entry[numbers], "scale16": scale}
        for path, number in least.items():
            new[path]["lowest"] = number * new[path]["scale16"]
        return _replaced(params, new), state

    def apart(params):
        """Return the params without lowest values, and values of 0 in float32."""
        new, middle = {}, {}
        for path, number in least.items():
            entry = dict(_at(params, path))
            lowest = entry.pop("lowest").astype(jnp.float32)
            scale = entry["scale16"].astype(jnp.float32)
            middle[path] = lowest - number * scale
            new[path] = entry
        return _replaced(params, new), middle

    def apply(run, params, state, x):
        packed, middle = apart(params)
        held = options.hold(packed, x)
        new = {path: Shifted(_at(held, path), value) for path, value in middle.items()}
        return run(_replaced(held, new), state, x)

    def join(params):
        packed, middle = apart(params)
        floats = one.inside.join(packed)
        new = {path: _plus(_at(floats, path), value) for path, value in middle.items()}
        return _replaced(floats, new)

    inside = one.inside._replace(
        init=init, apply=apply, join=join, options=options._replace(pack=None)
    )
    return jn.cast(make_layer(one.name, one.kind, inside), jnp.float32)


def _key_of_numbers(entry: Mapping[str, Any]) -> str:
    """Return "int4" or "int8", which comes first in an entry of params; its scale comes last."""
    return min(entry)


def _scale(entry: Mapping[str, Any]) -> Any:
    return entry[max(entry)]


@partial(jax.tree_util.register_dataclass, data_fields=["numbers", "middle"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class Shifted(Stored):
    """A kernel as integers and scales, with another value than 0 for the integer 0 of a group.

    Fields:
      numbers: The kernel as if that value were 0.
      middle: That value, of the shape of the scales.
    """

    numbers: Stored
    middle: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.numbers.shape

    @property
    def dtype(self) -> Any:
        return self.numbers.dtype

    def array(self) -> jax.Array:
        return _plus(self.numbers.array(), self.middle)

    def astype(self, dtype: Any) -> "Shifted":
        return replace(self, numbers=self.numbers.astype(dtype))

    def product(self, x: jax.Array, inputs: int, transposed: bool) -> jax.Array:
        # A group's inputs times one value are their sum times it.
        axes = slice(1, None) if transposed else slice(inputs)
        groups, sizes = self.middle.shape[axes], self.shape[axes]
        split: list[int] = []
        for count, size in zip(groups, sizes, strict=True):
            split += [count, size // count]
        before = x.shape[: x.ndim - len(groups)]
        inside = range(len(before) + 1, len(before) + len(split), 2)  # axes within a group
        sums = x.reshape(*before, *split).sum(inside)
        shift = jn.product(sums, self.middle.astype(x.dtype), inputs, transposed=transposed)
        return self.numbers.product(x, inputs, transposed) + shift

    def rows(self, ids: jax.Array) -> jax.Array:
        return _plus(self.numbers.rows(ids), jn.rows(self.middle, ids))


def _plus(array: jax.Array, groups: jax.Array) -> jax.Array:
    """Return an array plus one value for each group along an axis."""
    for axis, size in enumerate(array.shape):
        groups = jnp.repeat(groups, size // groups.shape[axis], axis)
    return array + groups.astype(array.dtype)


def _quantized(net: jn.Layer, bits: int, group: int, paths: list[str]) -> jn.Layer:
    return jn.quantized(net, bits, where=f"({'|'.join(paths)})", group=group)


def _at(tree: Any, path: str) -> Any:
    for name in path.split("/"):
        tree = tree[name]
    return tree


def _replaced(tree: Any, new: Mapping[str, Any], above: str = "") -> Any:
    """Return a tree of dicts with other entries at some paths."""
    path = above.removesuffix("/")
    if path in new:
        return new[path]
    if not isinstance(tree, dict):
        return tree
    return {name: _replaced(entry, new, f"{above}{name}/") for name, entry in tree.items()}


def _row(path: str, rows: Rows) -> tuple | None:
    """Return the row of an entry, (name, *functions) with the number of its layer."""
    for pattern, source in sorted(rows.items(), key=lambda row: "{i}" in row[0]):
        expression = re.escape(pattern).replace(r"\{i\}", r"(\d+)", 1)
        match = re.fullmatch(expression, path)
        if match is None:
            continue
        name, *changes = (source,) if isinstance(source, str) else source
        if match.groups():
            name = name.replace("{i}", match[1])
        return (name, *changes)
    return None


def _packed(numbers: np.ndarray) -> np.ndarray:
    """Return bytes of two numbers each."""
    low = (numbers & 15).astype(np.uint8)
    return low[..., ::2] | low[..., 1::2] << 4


def _spread(group: int, scale: np.ndarray) -> np.ndarray:
    return np.repeat(scale, group, -1)


def _every(axis: int, group: int, scales: np.ndarray) -> np.ndarray:
    """Return one scale of each group of equal ones along an axis."""
    before = (slice(None),) * axis
    one_per_group = scales[(*before, slice(None, None, group))]
    if not np.array_equal(np.repeat(one_per_group, group, axis), scales):
        raise ValueError(f"the scales of {group} neighbors along axis {axis} differ")
    return one_per_group
