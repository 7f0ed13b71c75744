"""The receptive field of the units of a network."""

from dataclasses import dataclass

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
    net, x = as_layer(net, "receptive_fields", "net"), check_input("receptive_fields", x)
    shape: tuple[int, ...] = tuple(getattr(x, "shape", ()))
    if len(shape) < 3 or not all(shape[1:]):
        raise ValueError(
            f"receptive_fields: x must have shape (batch, *space, channels), got {shape}"
        )
    space = shape[1:-1]
    with enable_x64(True):
        one = jax.ShapeDtypeStruct((CHUNK, *shape[1:]), jnp.float64)
        params, state = jax.eval_shape(net.init, key_spec(), one)
        params = jax.tree_util.tree_map_with_path(_positive, params)
        if jax.tree.leaves(state):
            state = jax.jit(lambda key: net.init(key, one)[1])(jax.random.key(0))

        @jax.jit
        def middle(params, state, x):
            """Return each layer's middle unit and neighbors along each axis, (batch, features)."""
            found = {}

            def note(name, x, y):
                shaped = hasattr(y, "ndim") and y.ndim == len(shape) and y.shape[0] == CHUNK
                if shaped and name and "#" not in name:
                    units[name] = y.shape[1:-1]
                    sizes = np.array(units[name])
                    beside = np.minimum(sizes // 2 + np.eye(len(sizes), dtype=int), sizes - 1)
                    found[name] = [y[:, *place] for place in (sizes // 2, *beside)]
                return y

            run(net, params, state, x, None, False, note)
            return found

        units: dict[str, tuple[int, ...]] = {}  # in the order of the calls
        rest = jax.device_get(middle(params, state, np.zeros(one.shape)))
        # Per axis, which positions change the middle unit and its neighbors: (units, positions).
        seen = {k: [np.zeros((len(v), n), bool) for n in space] for k, v in rest.items()}
        for axis, length in enumerate(space):
            for start in range(0, length, CHUNK):
                places = np.arange(start, min(start + CHUNK, length))
                x = np.zeros(one.shape)
                np.moveaxis(x, axis + 1, 1)[np.arange(len(places)), places] = 1
                for name, values in middle(params, state, x).items():
                    moved = (np.asarray(values) != np.asarray(rest[name])).any(-1)
                    seen[name][axis][:, places] = moved[:, : len(places)]

    fields, strides, starts, cut = {}, {}, {}, set()
    for name in units:
        found = [[set(np.flatnonzero(a).tolist()) for a in each] for each in seen[name]]
        here = [each[0] for each in found]
        beside = [each[axis + 1] for axis, each in enumerate(found)]
        fields[name] = tuple(max(s) - min(s) + 1 if s else 0 for s in here)
        starts[name] = tuple(min(s) if s else 0 for s in here)
        strides[name] = tuple(map(_stride, here, beside, space))
        if any(s and (min(s) == 0 or max(s) == n - 1) for s, n in zip(here, space, strict=True)):
            cut.add(name)
    return ReceptiveFields(net.name, fields, strides, starts, cut, units)


def _stride(here: set[int], beside: set[int], length: int) -> int | None:
    """Return the distance between two fields, measured at the end that the border does not cut."""
    if not here or not beside or here == beside:
        return None
    if max(beside) < length - 1:
        return max(beside) - max(here)
    return min(beside) - min(here) if min(here) > 0 else None


def _positive(path, leaf) -> np.ndarray:
    """Return averages for kernels, 0 for biases, and 1 for everything else."""
    if "bias" in jax.tree_util.keystr(path[-1:], simple=True):
        return np.zeros(leaf.shape, leaf.dtype)
    if len(leaf.shape) < 2:
        return np.ones(leaf.shape, leaf.dtype)
    inputs = leaf.size // max(1, leaf.shape[-1])
    return np.full(leaf.shape, 1 / max(1, inputs), leaf.dtype)
