"""The receptive field of the units of a network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, as_layer
from jaxnet.inspect.activations import run
from jaxnet.services.checks import check_input
from jaxnet.services.jax_versions import enable_x64
from jaxnet.services.table import Table, Tabular
from jaxnet.services.trees import PyTree, key_spec

CHUNK = 16  # inputs per forward pass


@dataclass(repr=False)
class ReceptiveFields(Tabular):
    """A table of layers; prints in a terminal and in a notebook.

    Fields:
      name: Name of the network.
      fields: Dict by path: the size of the receptive field along each axis.
      strides: Dict by path: the distance in the input between the fields of neighboring units;
        None for an axis with one unit.
      starts: Dict by path: the first input index in the field of the middle unit, along each axis;
        the middle of n units is n // 2.
      cut: Paths of layers whose middle unit has a field that reaches the border of the input, so
        that the field may be larger.
      units: Dict by path: the number of units along each axis.
    """

    name: str
    fields: dict[str, tuple[int, ...]]
    strides: dict[str, tuple[int | None, ...]]
    starts: dict[str, tuple[int, ...]]
    cut: set[str]
    units: dict[str, tuple[int, ...]]

    def table(self) -> Table:
        def words(sizes):
            return "×".join("–" if n is None else str(n) for n in sizes)

        rows = []
        for path, field in self.fields.items():
            size = f"≥ {words(field)}" if path in self.cut else words(field)
            rows.append((path, words(self.units[path]), words(self.strides[path]), size))
        notes = ["≥: reaches the border; pass a larger input"] if self.cut else []
        head = ("layer", "units", "stride", "receptive field")
        return Table(f"Receptive fields of {self.name}", head, rows, notes=notes)


def receptive_fields(net: Layer, x: PyTree) -> ReceptiveFields:
    """Measure the receptive field of the unit in the middle of each layer.

    Each row and column of the input is changed in turn to find the units that depend on it: one
    forward pass per index of each axis, in float64. The parameters are replaced by positive ones,
    so that nothing cancels and no ReLU is 0. The result is valid for layers that map 0 to 0, such
    as convolutions, pooling, ReLU, tanh and normalization.

    Args:
      net: Network.
      x: Input or its shape, (batch, *space, channels), larger than the fields.

    Returns:
      The `ReceptiveFields` of the layers whose output has the axes of x.

    Raises:
      TypeError: If `net` is not a layer or `x` is not an input.
      ValueError: If `x` has no spatial axes.

    Example:
      >>> net = jn.serial(*[jn.conv(2, 3) for _ in range(3)])
      >>> receptive_fields(net, jn.spec((1, 15, 15, 1)))
      Receptive fields of serial
      layer   units  stride  receptive field
      ──────────────────────────────────────
      conv    15×15  1×1     3×3
      conv_1  15×15  1×1     5×5
      conv_2  15×15  1×1     7×7
    """
    net = as_layer(net, "receptive_fields", "net")
    x = check_input("receptive_fields", x)
    shape: tuple[int, ...] = tuple(getattr(x, "shape", ()))
    if len(shape) < 3 or not all(shape[1:]):
        raise ValueError(
            f"receptive_fields: x must have shape (batch, *space, channels), got {shape}"
        )
    space = shape[1:-1]
    with enable_x64(True):
        seen, units = _dependencies(net, jax.ShapeDtypeStruct((CHUNK, *shape[1:]), jnp.float64))

    fields = {}
    strides = {}
    starts = {}
    cut = set()
    for name in units:
        sizes = []
        steps = []
        firsts = []
        for axis, length in enumerate(space):
            changed = seen[name][axis]
            field = set(np.flatnonzero(changed[0]).tolist())
            beside = set(np.flatnonzero(changed[axis + 1]).tolist())
            first = min(field, default=0)
            last = max(field, default=-1)
            sizes.append(last - first + 1)
            firsts.append(first)
            steps.append(stride_between(field, beside, length))
            if field and (first == 0 or last == length - 1):
                cut.add(name)
        fields[name] = tuple(sizes)
        starts[name] = tuple(firsts)
        strides[name] = tuple(steps)
    return ReceptiveFields(net.name, fields, strides, starts, cut, units)


def _dependencies(
    net: Layer, chunk: jax.ShapeDtypeStruct
) -> tuple[dict[str, list[np.ndarray]], dict[str, tuple[int, ...]]]:
    """Return which positions of the input change units of each layer, and the numbers of units.

    The first is by path and axis: booleans (units, positions) for the middle unit and its neighbor
    along each axis.
    """
    space = chunk.shape[1:-1]
    params, state = jax.eval_shape(net.init, key_spec(), chunk)
    params = jax.tree_util.tree_map_with_path(positive_params, params)
    if jax.tree.leaves(state):
        state = jax.jit(lambda key: net.init(key, chunk)[1])(jax.random.key(0))

    units: dict[str, tuple[int, ...]] = {}  # in the order of the calls
    middle = _middle(net, len(chunk.shape), units)
    rest = jax.device_get(middle(params, state, np.zeros(chunk.shape)))
    seen = {}
    for name, values in rest.items():
        seen[name] = [np.zeros((len(values), length), bool) for length in space]
    for axis, length in enumerate(space):
        for start in range(0, length, CHUNK):
            places = np.arange(start, min(start + CHUNK, length))
            x = np.zeros(chunk.shape)
            np.moveaxis(x, axis + 1, 1)[np.arange(len(places)), places] = 1
            for name, values in middle(params, state, x).items():
                moved = (np.asarray(values) != np.asarray(rest[name])).any(-1)
                seen[name][axis][:, places] = moved[:, : len(places)]
    return seen, units


def _middle(net: Layer, axes: int, units: dict[str, tuple[int, ...]]) -> Callable[..., Any]:
    """Return a function to each layer's middle unit and neighbors along each axis.

    The values of a unit are (batch, features). When it is traced, it adds the numbers of units.
    """

    @jax.jit
    def middle(params, state, x):
        outputs = {}

        def note(name, x, y):
            has_axes = hasattr(y, "ndim") and y.ndim == axes and y.shape[0] == CHUNK
            if has_axes and name and "#" not in name:
                units[name] = y.shape[1:-1]
                sizes = np.array(units[name])
                center = sizes // 2
                neighbors = np.minimum(center + np.eye(len(sizes), dtype=int), sizes - 1)
                outputs[name] = [y[:, *place] for place in (center, *neighbors)]
            return y

        run(net, params, state, x, None, False, note)
        return outputs

    return middle


def stride_between(field: set[int], beside: set[int], length: int) -> int | None:
    """Return the distance between two fields, measured at the end that the border does not cut."""
    if not field or not beside or field == beside:
        return None
    if max(beside) < length - 1:
        return max(beside) - max(field)
    if min(field) > 0:
        return min(beside) - min(field)
    return None


def positive_params(path, leaf) -> np.ndarray:
    """Return averages for kernels, 0 for biases, and 1 for everything else."""
    if "bias" in jax.tree_util.keystr(path[-1:], simple=True):
        return np.zeros(leaf.shape, leaf.dtype)
    if len(leaf.shape) < 2:
        return np.ones(leaf.shape, leaf.dtype)
    inputs = leaf.size // max(1, leaf.shape[-1])
    return np.full(leaf.shape, 1 / max(1, inputs), leaf.dtype)
