"""Integers of a file of llama.cpp as params of a quantized net, with the file's own scales."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from jaxnet.core import made
from jaxnet.pretrained.config import Rows
from jaxnet.pretrained.gguf import KINDS, Tensors
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
    by_form: dict[tuple[int, int], list[str]] = {}
    for path, (name, *_) in table.items():
        if name in kinds and path.endswith(("/kernel", "/embedding")):
            by_form.setdefault(kinds[name][:2], []).append(path)
    for (bits, group), paths in by_form.items():
        pack = partial(_quantized(net, bits, group, paths).inside.options, net, x=x)
        found = jax.eval_shape(pack, specs[0])  # nothing is drawn again
        for path in paths:
            shape, scales = shapes[path], _scale(_at(found, path)).shape
            if math.prod(scales) * group != math.prod(shape):
                continue
            small.setdefault((bits, group), []).append(path)
            name, *changes = table.pop(path)
            kind = kinds[name]
            names += [f"{name}.{part}" for part in ("numbers", *kind.floats)]
            axis = next(a for a, count in enumerate(scales) if count != shape[a])
            key = min(_at(found, path))
            halves = [_packed] if key == "int4" else []
            table[f"{path}/{key}"] = (f"{name}.numbers", *changes, *halves)
            if "lowest" in kind.floats:
                least[path] = kind.least
            take = partial(_spread, group), *changes, partial(_every, axis, group)
            for part in kind.floats:
                entry = "scale16" if part == "scale" else part
                table[f"{path}/{entry}"] = (f"{name}.{part}", *take)
    if not small:
        raise missing
    names += {name for name, *_ in table.values() if name in kinds}
    return _mixed(net, small, least), table, weights.chosen(names)


def _mixed(
    net: jn.Layer, small: Mapping[tuple[int, int], list[str]], least: Mapping[str, int]
) -> jn.Layer:
    """Return a quantized net whose kernels have different bits, computed in float32."""
    made_by = {form: _quantized(net, *form, paths) for form, paths in small.items()}
    one = next(iter(made_by.values()))

    def init(run, key, x):
        params, state = run.init(key, x)
        new = {}
        for form, layer in made_by.items():
            whole = layer.inside.options(run.layer, params, x)
            for path in small[form]:
                entry = _at(whole, path)
                key = min(entry)
                new[path] = {key: entry[key], "scale16": _scale(entry).astype(jnp.float16)}
        for path, number in least.items():
            new[path]["lowest"] = number * new[path]["scale16"]
        return _replaced(params, new), state

    def apart(params):
        """Return the params without lowest values, and values of 0 in float32."""
        new, middle = {path: dict(_at(params, path)) for path in least}, {}
        for path, entry in new.items():
            value, scale = (a.astype(jnp.float32) for a in (entry.pop("lowest"), entry["scale16"]))
            middle[path] = value - least[path] * scale
        return _replaced(params, new), middle

    def apply(run, params, state, x):
        whole, middle = apart(params)

        def shifted(held, state, x):
            new = {path: Shifted(_at(held, path), value) for path, value in middle.items()}
            return run(_replaced(held, new), state, x)

        return one.inside.apply(shifted, whole, state, x)

    def join(params):
        whole, middle = apart(params)
        floats = one.inside.join(whole)
        new = {path: _plus(_at(floats, path), value) for path, value in middle.items()}
        return _replaced(floats, new)

    inside = one.inside._replace(init=init, apply=apply, join=join, options=None)
    return jn.cast(made(one.name, one.kind, inside), jnp.float32)


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
        last = slice(1, None) if transposed else slice(inputs)
        pairs = zip(self.middle.shape[last], self.shape[last], strict=True)
        cut = [size for groups, whole in pairs for size in (groups, whole // groups)]
        before = x.shape[: x.ndim - len(cut) // 2]
        sums = x.reshape(*before, *cut).sum(range(len(before) + 1, len(before) + len(cut), 2))
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
    return reduce(lambda entry, name: entry[name], path.split("/"), tree)


def _replaced(tree: Any, new: Mapping[str, Any], at: str = "") -> Any:
    """Return a tree of dicts with other entries at some paths."""
    if at[:-1] in new or not isinstance(tree, dict):
        return new.get(at[:-1], tree)
    return {name: _replaced(entry, new, f"{at}{name}/") for name, entry in tree.items()}


def _row(path: str, rows: Rows) -> tuple | None:
    """Return the row of an entry, (name, *functions) with the number of its layer."""
    for pattern, source in sorted(rows.items(), key=lambda row: "{i}" in row[0]):
        found = re.fullmatch(re.escape(pattern).replace(r"\{i\}", r"(\d+)", 1), path)
        if found:
            name, *changes = (source,) if isinstance(source, str) else source
            return (name.replace("{i}", found[1]) if found.groups() else name, *changes)
    return None


def _packed(numbers: np.ndarray) -> np.ndarray:
    """Return bytes of two numbers each."""
    low = (numbers & 15).astype(np.uint8)
    return low[..., ::2] | low[..., 1::2] << 4


def _spread(group: int, scale: np.ndarray) -> np.ndarray:
    return np.repeat(scale, group, -1)


def _every(axis: int, group: int, scales: np.ndarray) -> np.ndarray:
    """Return one scale of each group of equal ones along an axis."""
    kept = scales[(slice(None),) * axis + (slice(None, None, group),)]
    if not np.array_equal(np.repeat(kept, group, axis), scales):
        raise ValueError(f"the scales of {group} neighbors along axis {axis} differ")
    return kept
