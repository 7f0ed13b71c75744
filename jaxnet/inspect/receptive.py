"""How much of the input a unit sees."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, PyTree
from jaxnet.inspect.activations import run
from jaxnet.inspect.table import Table

CHUNK = 16  # inputs at a time


class ReceptiveFields:
    """A table of layers: prints in a terminal and in a notebook.

    Fields:
      name: of the network.
      fields: by path, the size of the receptive field along each axis.
      strides: by path, how far apart in the input the fields of neighbouring units are; None for an
        axis along which there is one unit.
      starts: by path, the first place that the unit in the middle sees, along each axis; the
        middle of n units is n // 2.
      cut: paths of layers whose field, for the unit in the middle, reaches the border of the input,
        so that it may be larger.
    """

    def __init__(
        self, name: str, fields: dict, strides: dict, starts: dict, cut: set[str], units: dict
    ):
        self.name, self.fields, self.strides, self.starts = name, fields, strides, starts
        self.cut, self._units = cut, units

    def table(self) -> Table:
        """The table that is printed."""

        def words(sizes):
            return "×".join("–" if n is None else str(n) for n in sizes)

        rows = [
            (
                path,
                words(self._units[path]),
                words(self.strides[path]),
                ("≥ " if path in self.cut else "") + words(field),
            )
            for path, field in self.fields.items()
        ]
        notes = ["≥: reaches the border; a larger input shows the whole"] if self.cut else []
        head = ("layer", "units", "stride", "receptive field")
        return Table(f"Receptive fields of {self.name}", head, rows, notes=notes)

    def __str__(self) -> str:
        return str(self.table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def receptive_fields(net: Layer, x: PyTree) -> ReceptiveFields:
    """The receptive field of the unit in the middle of each layer, found by trying.

    One line of the input after the other is changed, and it is seen which units change: a forward
    pass for every index of every axis, in float64. The parameters are positive ones made up for
    it, so that nothing cancels and no ReLU is shut; those of training play no part. Holds for
    layers that keep 0 at 0, as convolutions, pooling, ReLU, tanh and normalization do.

    Args:
      net: the network.
      x: an input or its shape, (batch, *space, channels); make it larger than the fields.

    Returns:
      A `ReceptiveFields` of those layers whose output has the axes of x.

    Raises:
      ValueError: for an input without axes of space.

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
    shape: tuple[int, ...] = tuple(getattr(x, "shape", ()))
    if len(shape) < 3:
        raise ValueError(f"receptive_fields: x must be (batch, *space, channels), got {shape}")
    space = shape[1:-1]
    with jax.enable_x64(True):
        one = jax.ShapeDtypeStruct((CHUNK, *shape[1:]), jnp.float64)
        key = jax.eval_shape(lambda: jax.random.key(0))
        params, state = jax.eval_shape(lambda key: net.init(key, one), key)
        params = jax.tree_util.tree_map_with_path(_positive, params)
        state = net.init(jax.random.key(0), one)[1] if jax.tree.leaves(state) else {}

        @jax.jit
        def middle(params, state, x):
            """Of each layer, along each axis, the middle unit and the next: (batch, features)."""
            found = {}

            def note(name, x, y):
                shaped = hasattr(y, "ndim") and y.ndim == len(shape) and y.shape[0] == CHUNK
                if shaped and name and "#" not in name:
                    centre = [n // 2 for n in y.shape[1:-1]]
                    units[name] = y.shape[1:-1]
                    found[name] = [y[(slice(None), *centre)]]
                    for axis, n in enumerate(y.shape[1:-1]):
                        beside = list(centre)
                        beside[axis] = min(centre[axis] + 1, n - 1)
                        found[name].append(y[(slice(None), *beside)])
                return y

            units: dict[str, tuple[int, ...]] = {}
            run(net, params, state, x, None, False, note)
            order.update(units)
            return found

        order: dict[str, tuple[int, ...]] = {}
        rest = middle(params, state, jnp.zeros(one.shape))
        seen: dict[str, list[list[set[int]]]] = {
            name: [[set() for _ in values] for _ in space] for name, values in rest.items()
        }
        for axis, length in enumerate(space):
            for start in range(0, length, CHUNK):
                places = range(start, min(start + CHUNK, length))
                x = np.zeros(one.shape)
                for i, place in enumerate(places):
                    np.moveaxis(x[i], axis, 0)[place] = 1
                for name, values in middle(params, state, jnp.asarray(x)).items():
                    for which, value in enumerate(values):
                        moved = np.asarray(value != rest[name][which]).any(-1)
                        seen[name][axis][which] |= {p for i, p in enumerate(places) if moved[i]}

    fields, strides, starts, cut = {}, {}, {}, set()
    for name in order:
        here = [seen[name][axis][0] for axis in range(len(space))]
        beside = [seen[name][axis][axis + 1] for axis in range(len(space))]
        fields[name] = tuple(max(s) - min(s) + 1 if s else 0 for s in here)
        starts[name] = tuple(min(s) if s else 0 for s in here)
        strides[name] = tuple(map(_stride, here, beside, space))
        if any(s and (min(s) == 0 or max(s) == n - 1) for s, n in zip(here, space, strict=True)):
            cut.add(name)
    return ReceptiveFields(net.name, fields, strides, starts, cut, order)


def _stride(here: set[int], beside: set[int], length: int) -> int | None:
    """How far a field moves, by the end of it that is not cut by the border."""
    if not here or not beside or here == beside:
        return None
    if max(beside) < length - 1:
        return max(beside) - max(here)
    return min(beside) - min(here) if min(here) > 0 else None


def _positive(path, leaf) -> jax.Array:
    """Averages for kernels, no biases, all else one."""
    if "bias" in jax.tree_util.keystr(path[-1:], simple=True):
        return jnp.zeros(leaf.shape, leaf.dtype)
    if len(leaf.shape) < 2:
        return jnp.ones(leaf.shape, leaf.dtype)
    inputs = leaf.size // max(1, leaf.shape[-1])
    return jnp.full(leaf.shape, 1 / max(1, inputs), leaf.dtype)
