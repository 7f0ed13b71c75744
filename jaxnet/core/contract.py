"""The contract: a layer is a pair of pure functions, with its structure as data.

    layer = dense(10)
    params, state = layer.init(jax.random.key(0), spec((32, 784)))
    y, state = layer.apply(params, state, x)

Parameters and state are nested dicts of arrays, keyed by the names of the layers. A path such as
"resnet/block_3/conv" names a layer in messages, and the same words index its entries.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.services.checks import check_dtype, check_key, check_shape
from jaxnet.services.table import html_line
from jaxnet.services.threefry import fold_paths
from jaxnet.services.trees import PyTree

Params = dict[str, Any]
State = dict[str, Any]


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False, repr=False)
class Layer:
    """A pair of pure functions, a name, and the structure of the layer as data.

    Layers of this library and of `jn.compose` check their arguments and name themselves in
    errors. For a pair of functions of your own, the caller does this (`m(layer, x)`, `jn.serial`
    and so on). It compares params and state with what `init` returns for this input, and the
    returned state with the given state. Under `jit` all of this happens while tracing and costs
    nothing later.

    A layer is a static part of a pytree: it goes through `jit`, `jax.tree.map` and dataclasses as
    it is. Two layers are equal if they are one object.

    Fields:
      init: `(key, x) -> (params, state)`. `x` is an array, a `jax.ShapeDtypeStruct` (see `spec`)
        or a pytree of either, batch axis first; only shapes and dtypes count.
      apply: `(params, state, x, *, key=None, train=False) -> (y, state)`. The returned
        state has the structure, shapes and dtypes of the given state.
      name: Name of the layer's entry inside a parent, such as "c5".
      kind: Name of the function that made the layer, such as "dense".
      inside: The `forward(m, x)` of a composed layer; what a transform is made of
        (`LayerTransform`); None for a pair of your own.
      inputs: Names of its inputs, for `m(layer, x, t, label=label)`; none for a single input.

    Example:
      A layer that counts how often it was applied in training:

      >>> def init(key, x):
      ...     return {}, {"count": jnp.zeros((), jnp.int32)}
      >>> def apply(params, state, x, *, key=None, train=False):
      ...     return x, {"count": state["count"] + train}
      >>> net = jn.serial(jn.Layer(init, apply, "counter"), jn.dense(4))
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 3)))
      >>> y, state = net.apply(params, state, jnp.ones((2, 3)), train=True)
      >>> int(state["counter"]["count"])
      1
    """

    init: Callable[[jax.Array, PyTree], tuple[Params, State]]
    apply: Callable[..., tuple[PyTree, State]]
    name: str
    kind: str = ""
    # `dataclasses.replace` leaves these out: they belong to functions that it may replace.
    inside: Any = field(default=None, init=False)
    inputs: tuple[str, ...] = field(default=(), init=False)

    if not TYPE_CHECKING:  # for a type checker a layer is not a function

        def __call__(self, *args, **kwargs):
            raise TypeError(
                f"{self.name}: a layer is not a function; write net.apply(params, state, x), or "
                "m(layer, x) in the function of jn.compose"
            )

    @property
    def layers(self) -> tuple[tuple[str, "Layer"], ...]:
        """The layers that it calls, as pairs (name, layer) in the order of their calls.

        A transform has the layer inside it. A layer made by `jn.compose` has none, since only its
        function knows what it calls.

        Example:
          >>> net = jn.serial(jn.dense(4), jax.nn.relu, jn.dense(2))
          >>> net.layers
          (('dense', Layer('dense', kind='dense')), ('relu', Layer('relu', kind='function')), ...)
          >>> other = jn.serial(*[layer for _, layer in net.layers[:-1]], jn.dense(3, name="head"))
          >>> params, state = other.init(jax.random.key(0), jn.spec((5, 3)))
          >>> list(params)
          ['dense', 'head']
        """
        if isinstance(self.inside, LayerTransform):
            inner = self.inside.layer
            return () if inner is None else ((inner.name, inner),)
        return getattr(self.inside, "layers", ())

    def replace(self, **fields: Any) -> "Layer":
        """Return a layer with other fields; with another init or apply it is a pair of these."""
        pair = not fields.keys().isdisjoint(("init", "apply"))
        structure = {} if pair else {"inside": self.inside, "inputs": self.inputs}
        structure |= {name: fields.pop(name) for name in ("inside", "inputs") if name in fields}
        layer = replace(self, **fields)
        for name, value in structure.items():
            object.__setattr__(layer, name, value)
        return layer

    __replace__ = replace  # for `copy.replace`

    def __copy__(self) -> "Layer":
        return self  # nothing of it can change

    def __deepcopy__(self, memo: Any) -> "Layer":
        return self

    def __repr__(self) -> str:
        return f"Layer({self.name!r}, kind={self.kind or self.name!r})"

    def _repr_html_(self) -> str:
        return html_line(repr(self))


class LayerTransform(NamedTuple):
    """A transform of a layer, as data: no field but `layer` knows the layer.

    Fields:
      layer: The layer inside; None for a pair of functions.
      apply: `(run, params, state, x) -> (y, state)`, where `run` is the layer inside as a function.
      init: `(run, key, x) -> (params, state)`.
      new_entries: Whether its entries differ from those of the layer, so that it compares them.
      clear: Whether every watch sees the calls inside, since only params change.
      copies: Number of copies that each entry holds along its first axis; 0 if it has no such axis.
      join: Own params -> params of the layer inside, for `jn.merge`; None if they are alike.
      options: What the function that made it wants to know of it later.
    """

    layer: Any
    apply: Callable[..., tuple[PyTree, State]]
    init: Callable[..., tuple[Params, State]]
    new_entries: bool = False
    clear: bool = False
    copies: int = 0
    join: Callable[[Params], Params] | None = None
    options: Any = None


def spec(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """Return a shape and a dtype to pass to `init` instead of data.

    Args:
      shape: Whole shape, batch axis first.
      dtype: Dtype of the data; float32 by default.

    Returns:
      A shape and a dtype, without values.

    Raises:
      TypeError: If `shape` is not a tuple of integers, or if `dtype` is not a dtype.

    Example:
      >>> spec((32, 28, 28, 1))
      ShapeDtypeStruct(shape=(32, 28, 28, 1), dtype=float32)
    """
    check_shape("spec: the shape", shape)
    check_dtype("spec", dtype)
    return jax.ShapeDtypeStruct(tuple(shape), jax.dtypes.canonicalize_dtype(dtype))


def child_key(key: jax.Array, name: str) -> jax.Array:
    """Return the random key of the child called `name`: `fold_in(key, crc32(name))`.

    A key depends on the names above it and on nothing else. So another layer does not change the
    values of a layer with a name of its own; default names are counted, "dense", "dense_1", and
    behind a new layer of the same kind they move on. A layer that draws several parameters uses it
    for them too.

    Returns:
      A random key of the same kind as `key`.

    Example:
      >>> for name in ("a", "b"):
      ...     print(name, f"{jax.random.uniform(child_key(jax.random.key(0), name)):.3f}")
      a 0.072
      b 0.830
    """
    (derived,) = child_keys(key, [(name,)])
    return derived


def child_keys(key: jax.Array, paths: Sequence[tuple[str, ...]]) -> list[jax.Array]:
    """Return what `child_key` gives along each path of names, with one transfer to the device.

    Example:
      >>> (found,) = child_keys(jax.random.key(0), [("block", "dense")])
      >>> bool(found == child_key(child_key(jax.random.key(0), "block"), "dense"))
      True
    """
    check_key(key, "child_key")
    for path in paths:
        for name in path:
            if not isinstance(name, str):
                raise TypeError(f"child_key: name must be a word, got {name!r:.60}")
    hashes = [tuple(zlib.crc32(name.encode()) for name in path) for path in paths]
    return fold_paths(key, hashes)


def param_dtype(x: PyTree) -> Any:
    """Return the dtype of parameters for this input: float64 or complex as in x, else float32.

    Narrow floats (bfloat16) and integers (pixels, tokens) get float32 parameters.

    Example:
      >>> param_dtype(spec((2, 3), jnp.uint8))
      dtype('float32')
    """
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(x) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.result_type(jnp.float32, *dtypes)
