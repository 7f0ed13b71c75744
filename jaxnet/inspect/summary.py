"""The layers of a network with their outputs and sizes, without computing anything."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, as_layer, transforms_of
from jaxnet.inspect.cost import flops
from jaxnet.services.checks import check_input
from jaxnet.services.table import Table, Tabular, size_of
from jaxnet.services.trees import Path, PyTree, describe, entry_at, key_spec, nested, shapes_of
from jaxnet.training.axes import axes_hint
from jaxnet.transforms.observing import observe


class Row(NamedTuple):
    """A layer of a network.

    Fields:
      path: Names of the layer, which index its params, "block/conv"; "" for the network.
      kind: Function that made it, "dense" for `dense(120, name="c5")`; "function" for a plain
        function.
      calls: Number of calls; more than one for a shared layer, and for a layer inside a `repeat` or
        `ensemble` of several copies.
      output: Shapes and dtypes of its output at its first call.
      params: Number of parameters, including the parameters of the layers inside.
      state: Number of entries of its state.
      flops: Operations of matrix products and convolutions in all its calls; see `flops`.
      bytes: Bytes of its outputs in all its calls.
    """

    path: str
    kind: str
    calls: int
    output: PyTree
    params: int
    state: int
    flops: int
    bytes: int


@dataclass(repr=False)
class Summary(Tabular):
    """A table of a network; prints in a terminal and in a notebook.

    Fields:
      name: Name of the network.
      input: Shapes and dtypes of the input.
      rows: List of one `Row` per layer, before the rows of the layers inside it; the first is the
      network.
      params, state: Shapes and dtypes of what `init` returns.
      hint: What to write if the net takes the axes of pictures for others; otherwise "".
    """

    name: str
    input: PyTree
    rows: list[Row]
    params: PyTree
    state: PyTree
    hint: str = ""

    def table(self) -> Table:
        rows = []
        for row in self.rows:
            output = describe(row.output).replace(" float32", "")  # any other dtype stays
            kind = row.kind if row.calls == 1 else f"{row.kind} ×{row.calls}"
            work = size_of(row.flops, "") if row.flops else None
            layer = self._indented(row.path)
            rows.append((layer, kind, output, row.params or None, row.state or None, work))
        net_row = self.rows[0]
        total = (_count(self.params), _count(self.state), size_of(net_row.flops, ""))
        note = (
            f"{size_of(_bytes(self.params))} of parameters, {size_of(_bytes(self.state))} of "
            f"state, {size_of(self.activations)} of activations"
        )
        notes = [note, self.hint] if self.hint else [note]
        title = f"{self.name} for an input of {describe(self.input)}"
        head = ("layer", "kind", "output", "parameters", "state", "FLOPs")
        return Table(title, head, rows, [("total", None, None, *total)], notes)

    def _indented(self, path: str) -> str:
        """Return the name of a layer, indented by the number of layers around it."""
        if not path:
            return self.name
        depth = 1 + path.count("/")
        return "  " * depth + path.rpartition("/")[2]

    @property
    def activations(self) -> int:
        """Bytes of the outputs of all innermost layers, as kept for the backward pass."""
        above = {row.path.rpartition("/")[0] for row in self.rows if row.path}
        inner = [row for row in self.rows if row.path not in above and row.path]
        inner = inner or self.rows[:1]
        return sum(row.bytes for row in inner)


def summary(net: Layer, x: PyTree) -> Summary:
    """Return a table of the layers of a network, with their outputs and sizes.

    Only shapes are used: nothing is drawn or computed, so the network may have any size. The row of
    a composed layer includes the layers inside it. A layer that runs n times, because it is shared
    or inside a `repeat` or `ensemble` of n copies, is marked "×n": its row shows the output of one
    run, and the parameters, state and FLOPs of all runs. FLOPs count matrix products and
    convolutions in a forward pass of the whole batch, two per multiply-add. An objective is a layer
    too: its summary for a batch shows the network, the loss and the metrics.

    Args:
      net: Network or objective.
      x: Input or batch, or its shape, such as `jn.spec((32, 28, 28, 1))`.

    Returns:
      A `Summary`, which prints; its `rows` hold the figures.

    Raises:
      TypeError: If `net` is not a layer or `x` is not an input.

    Example:
      >>> net = jn.serial(jn.dense(7, name="hidden"), jnp.tanh, jn.dense(3), name="mlp")
      >>> summary(net, jn.spec((32, 5)))
      mlp for an input of (32, 5) float32
      layer     kind      output   parameters  state  FLOPs
      ─────────────────────────────────────────────────────
      mlp       serial    (32, 3)          66         3.6 k
        hidden  dense     (32, 7)          42         2.2 k
        tanh    function  (32, 7)
        dense   dense     (32, 3)          24         1.3 k
      ─────────────────────────────────────────────────────
      total                                66      0  3.6 k
      264 B of parameters, 0 B of state, 2.2 kB of activations
    """
    net = as_layer(net, "summary", "net")
    x = check_input("summary", x)
    calls_by_path: dict[Path, list[tuple[Layer, PyTree, PyTree]]] = {}

    def see(path, layer, x, y):
        calls_by_path.setdefault(path, []).append((layer, shapes_of(x), shapes_of(y)))
        return y

    key = key_spec()
    params, state = jax.eval_shape(lambda key: net.init(key, x), key)
    run = observe(net, see, transforms=True).apply
    jax.eval_shape(lambda p, s, x, key: run(p, s, x, key=key), params, state, x, key)

    def row(path):
        calls = calls_by_path[path]
        name = "/".join(path)
        above = [calls_by_path[path[:i]] for i in range(len(path))]
        copies = math.prod(_copies(layer) for (layer, _, _), *_ in above)
        outputs = [y for _, _, y in calls]
        layer = calls[0][0]
        return Row(
            name,
            layer.kind,
            calls=copies * len(calls),
            output=outputs[0],
            params=_count(entry_at(params, name)),
            state=_count(entry_at(state, name)),
            flops=copies * sum(_work(layer, x, key) for layer, x, _ in calls),
            bytes=copies * _bytes(outputs),
        )

    rows = [row(path) for path in nested(calls_by_path)]
    return Summary(net.name, x, rows, params, state, axes_hint(net, params, state, x))


def _work(layer: Layer, x: PyTree, key: Any) -> int:
    # Uses the layer's own init, since inside a `repeat` the tree has the entries of all n copies,
    # and float32, since without a `cast` around it a layer need not keep 16 bits.
    x = jax.tree.map(_wide, x)
    params, state = jax.eval_shape(lambda key: layer.init(key, x), key)
    return flops(lambda p, s, x, key: layer.apply(p, s, x, key=key), params, state, x, key)


def _wide(a: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Return a spec with floats of at least 32 bits."""
    if not jnp.issubdtype(a.dtype, jnp.floating):
        return a
    return jax.ShapeDtypeStruct(a.shape, jnp.promote_types(a.dtype, jnp.float32))


def _copies(layer: Layer) -> int:
    """Return how often the layers inside a layer run in one call of it."""
    return math.prod(each.inside.copies or 1 for each in transforms_of(layer))


def _count(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
