"""Kernels by their paths, and their axes: copies, inputs and outputs in this order."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax

from jaxnet.core import Layer, Params, State, as_layer
from jaxnet.core.errors import compare
from jaxnet.ops.product import product, rows
from jaxnet.services.checks import abstract, check_dict
from jaxnet.services.nodes import Stored, is_stored
from jaxnet.services.paths import fits, is_kernel
from jaxnet.services.trees import PyTree, flat, key_spec, memo_of, path_name, shapes_of, signature

FACTORS = "_lora_a", "_lora_b"  # ends of the names of the factors of a kernel


class Axes(NamedTuple):
    """The axes of a kernel.

    Fields:
      copies: Number of leading axes that count copies, below `repeat` and `ensemble`.
      inputs: Number of axes after them that the layer sums over; the others are its outputs.
      table: Whether the layer picks rows instead, as an embedding does.
    """

    copies: int
    inputs: int
    table: bool = False

    def split(self, sizes: Sequence[int]) -> tuple[Any, Any, Any]:
        """Return the sizes of the copies, of the inputs and of the outputs."""
        last = self.copies + self.inputs
        return sizes[: self.copies], sizes[self.copies : last], sizes[last:]


def matching(who: str, where: str, params: Params, what: str = "where") -> dict[str, Any]:
    """Return the arrays whose paths fit a pattern, by path.

    Args:
      who: Name of the function that received the pattern.
      where: Pattern of the paths.
      params: Arrays, or their shapes.
      what: Name of the argument that holds the pattern; if it is "where", only kernels may fit.

    Raises:
      ValueError: If no path fits, or if a kernel has fewer than two axes.

    Example:
      >>> matching("lora", "*/kernal", {"dense": {"kernel": jnp.ones((2, 3))}})
      Traceback (most recent call last):
      ...
      ValueError: lora: no parameter fits where='*/kernal'. The nearest paths: dense/kernel
    """
    entries = dict(flat(params))
    matches = {path: leaf for path, leaf in entries.items() if fits(where, path)}
    if not matches:
        near = difflib.get_close_matches(where.removeprefix("*/"), entries, 5, cutoff=0.0)
        raise ValueError(
            f"{who}: no parameter fits {what}={where!r}. The nearest paths: "
            f"{', '.join(near) or 'none, the layer has no parameters'}"
        )
    flats = [f"{path} {leaf.shape}" for path, leaf in matches.items() if len(leaf.shape) < 2]
    if flats and what == "where":  # what trains besides may have any shape
        raise ValueError(
            f"{who}: where={where!r} must fit kernels and tables only, which have inputs and "
            f"outputs; it fits {', '.join(flats[:5])} too"
        )
    return matches


def axes_of(layer: Layer, kernels: dict[str, Any], x: PyTree) -> dict[str, Axes]:
    """Return the axes of each kernel, by path, as its product uses them in a run on shapes.

    At the product a kernel lacks the axes of the copies, one for each `repeat` or `ensemble` around
    its layer. Code that takes the array, such as a convolution, has one axis of outputs, the last.

    Args:
      layer: Layer that has these kernels.
      kernels: Arrays or shapes of the kernels by path.
      x: Input of the layer, or its spec.

    Example:
      >>> net = jn.repeat(jn.residual(jn.multi_head_attention(2, name="attention")), 3)
      >>> kernels = {"attention/query/kernel": jn.spec((3, 8, 2, 4))}
      >>> axes_of(net, kernels, jn.spec((2, 5, 8)))
      {'attention/query/kernel': Axes(copies=1, inputs=1, table=False)}
    """
    x = shapes_of(x)

    def run():
        params, state = jax.eval_shape(layer.init, key_spec(), x)
        uses = _uses(layer, kernels, params, state, x)
        axes = {}
        for path, leaf in kernels.items():
            usual = Axes(0, len(leaf.shape) - 1)
            axes[path] = uses[path].axes if path in uses else usual
        return axes

    question = ("axes", *kernels, signature(x))
    return memo_of(layer.apply).of(question, run)


def matrix_axes(net: Layer, params: Params, x: PyTree) -> PyTree:
    """Return the input and output axes of each kernel, for `optax.contrib.muon`.

    A kernel is what the net multiplies by: what a layer gives to `jn.product`, and each array named
    "kernel" or "*_kernel". Axes of copies, below `repeat`, `ensemble` and in `moe`, are neither
    inputs nor outputs, so that Muon treats each copy as its own matrix.

    Args:
      net: The net, or a layer with its params.
      params: Its params, or their shapes.
      x: Its input, or `jn.spec` of it.

    Returns:
      A tree like `params` of `optax.contrib.MuonDimensionNumbers`, and None for biases, norms,
      other vectors, and tables such as an embedding, for which Muon is not meant.

    Example:
      >>> net = jn.serial(jn.embedding(30, 8), jn.repeat(jn.transformer_block(2), 3), jn.dense(30))
      >>> x = jn.spec((4, 9), jnp.int32)
      >>> params, _ = net.init(jax.random.key(0), x)
      >>> axes = matrix_axes(net, params, x)
      >>> axes["dense"]["kernel"], axes["dense"]["bias"], axes["embedding"]["embedding"]
      (MuonDimensionNumbers(reduction_axis=0, output_axis=1), None, None)
      >>> axes["transformer_block"]["attention"]["query"]["kernel"]  # (3, 8, 2, 4)
      MuonDimensionNumbers(reduction_axis=1, output_axis=(2, 3))
      >>> optimizer = optax.contrib.muon(0.02, muon_weight_dimension_numbers=axes)

    Reference: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    """
    from optax.contrib import MuonDimensionNumbers

    net = as_layer(net, "matrix_axes", "net")
    needed, state = jax.eval_shape(net.init, key_spec(), abstract(x, "matrix_axes"))
    check_dict("matrix_axes", "params", params)
    for name, leaf in flat(params):
        if not hasattr(leaf, "shape"):
            raise TypeError(f"matrix_axes: params/{name} must be an array, got {leaf!r:.60}")
    compare("params", needed, params, x)
    uses = _uses(net, dict(flat(params)), needed, state, x)

    def one_or_all(axes: range) -> Any:
        return axes[0] if len(axes) == 1 else tuple(axes)

    def numbers(path: Any, leaf: Any) -> Any:
        name = path_name(path)
        if name not in uses:
            return None
        axes, multiplies = uses[name]
        is_matrix = (multiplies or is_kernel(name)) and axes.inputs > 0
        if axes.table or not is_matrix:
            return None
        _, inputs, outputs = axes.split(range(len(leaf.shape)))
        return MuonDimensionNumbers(one_or_all(inputs), one_or_all(outputs))

    return jax.tree_util.tree_map_with_path(numbers, params)


class _Use(NamedTuple):
    """How a run used a kernel: its axes, and whether it was multiplied or picked from."""

    axes: Axes
    multiplies: bool


def _uses(
    layer: Layer, kernels: dict[str, Any], params: Params, state: State, x: PyTree
) -> dict[str, _Use]:
    """Return how a run on shapes uses each kernel, by path."""
    uses: dict[str, _Use] = {}
    # JAX keeps `note`, so it holds no kernels, which may be traced.
    ranks = {path: len(leaf.shape) for path, leaf in kernels.items()}

    def note(path, kernel, inputs=None, table=False):
        """Return a kernel, after its first use has shown its axes."""
        rank = len(kernel.shape)
        copies = ranks[path] - rank
        multiplies = inputs is not None
        axes = Axes(copies, inputs if multiplies else rank - 1, table)
        uses.setdefault(path, _Use(axes, multiplies))
        return kernel

    def run(params, state, x, key):
        return layer.apply(params, state, x, key=key)

    marked = {}
    for path, leaf in flat(params):
        if path in kernels:
            marked[path] = Marked(leaf, partial(note, path))
    jax.eval_shape(run, replaced(params, marked), state, shapes_of(x), key=key_spec())
    return uses


@partial(jax.tree_util.register_dataclass, data_fields=["kernel"], meta_fields=["note"])
@dataclass(frozen=True, eq=False)
class Marked(Stored):
    """A kernel that notes how it is used."""

    kernel: Any
    note: Callable[..., jax.Array]

    shape = property(lambda self: self.kernel.shape)
    dtype = property(lambda self: self.kernel.dtype)

    def array(self) -> jax.Array:
        return self.note(self.kernel)

    def astype(self, dtype: Any) -> "Marked":
        return Marked(self.kernel.astype(dtype), self.note)

    def product(self, x: jax.Array, inputs: int, transposed: bool) -> jax.Array:
        kernel = self.note(self.kernel, inputs, transposed)
        return product(x, kernel, inputs, transposed=transposed)

    def rows(self, ids: jax.Array) -> jax.Array:
        return rows(self.note(self.kernel, 1, True), ids)


def replaced(params: Params, new: dict[str, Any]) -> Params:
    """Return the params with other entries at some paths.

    Example:
      >>> replaced({"a": {"b": 1, "c": [2, 3]}}, {"a/b": 4, "a/c/1": 5})
      {'a': {'b': 4, 'c': [2, 5]}}
    """

    def one(path, entry):
        return new.get(path_name(path), entry)

    def is_leaf(path, entry):
        return is_stored(entry) or path_name(path) in new

    return jax.tree_util.tree_map_with_path(one, params, is_leaf=is_leaf, is_leaf_takes_path=True)
