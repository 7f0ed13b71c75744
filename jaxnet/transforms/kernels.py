"""Kernels by their paths, and their axes: copies, inputs and outputs in this order."""

import difflib
from typing import Any, NamedTuple

import jax

from jaxnet.core import Layer, Params
from jaxnet.services.paths import check_patterns, fits
from jaxnet.services.trees import PyTree, flat, key_spec, shapes_of
from jaxnet.transforms.observing import observe

SAME_INPUT = (
    "repeat",
    "ensemble",
    "cast",
    "remat",
    "freeze",
    "lora",
)  # the layer inside also has the entry


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
    check_patterns(who, "where", [where])
    entries = dict(flat(params))
    found = {path: leaf for path, leaf in entries.items() if fits(where, path)}
    if not found:
        near = difflib.get_close_matches(where.removeprefix("*/"), entries, 5, cutoff=0.0)
        raise ValueError(
            f"{who}: no parameter fits {what}={where!r}. The nearest paths: "
            f"{', '.join(near) or 'none, the layer has no parameters'}"
        )
    flats = [f"{path} {leaf.shape}" for path, leaf in found.items() if len(leaf.shape) < 2]
    if flats and what == "where":
        raise ValueError(
            f"{who}: where={where!r} must fit kernels and tables only, which have inputs and "
            f"outputs; it fits {', '.join(flats[:5])} too"
        )
    return found


def axes_of(layer: Layer, kernels: dict[str, Any], x: PyTree) -> dict[str, Axes]:
    """Return the axes of each kernel, by path.

    A watch over shapes alone finds the layer that owns the kernel. Compared with that layer's own
    kernel, the net's kernel has one more axis for each `repeat` or `ensemble` around it.

    Args:
      layer: Layer that has these kernels, without watches.
      kernels: Arrays or shapes of the kernels by path.
      x: Input of the layer, or its spec.

    Example:
      >>> net = jn.repeat(jn.residual(jn.multi_head_attention(2, name="attention")), 3)
      >>> kernels = {"attention/query/kernel": jn.spec((3, 8, 2, 4))}
      >>> axes_of(net, kernels, jn.spec((2, 5, 8)))
      {'attention/query/kernel': Axes(copies=1, inputs=1, table=False)}
    """
    seen: dict[str, tuple[Layer, PyTree, PyTree]] = {}

    def see(path, layer, x, y):
        seen.setdefault("/".join(path), (layer, shapes_of(x), shapes_of(y)))
        return y

    key, x = key_spec(), shapes_of(x)
    params, state = jax.eval_shape(layer.init, key, x)
    run = observe(layer, see, transforms=True).apply
    jax.eval_shape(lambda *args, key: run(*args, key=key), params, state, x, key=key)

    def axes(path: str, kernel: Any) -> Axes:
        rank = len(kernel.shape)
        above, _, name = path.rpartition("/")
        if above not in seen:  # inside a user's pair of functions
            return Axes(0, rank - 1)
        owner, given, returned = seen[above]
        while owner.kind in SAME_INPUT and isinstance(owner.inside, tuple):
            owner = owner.inside[0]  # watches do not see a single layer inside a transform
        own, _ = jax.eval_shape(owner.init, key_spec(), given)
        own_rank = len(own[name].shape) if name in own else rank
        inputs = own_rank - 1
        if owner.kind == "projection":  # input and output have the same number of batch axes
            inputs = (own_rank + len(given.shape) - len(returned.shape)) // 2
        return Axes(rank - own_rank, inputs, owner.kind in ("embedding", "learned_positions"))

    return {path: axes(path, leaf) for path, leaf in kernels.items()}


def replaced(params: Params, new: dict[str, Any]) -> Params:
    """Return the params with other entries at some paths.

    Example:
      >>> replaced({"a": {"b": 1, "c": 2}}, {"a/b": 3})
      {'a': {'b': 3, 'c': 2}}
    """

    def walk(path: str, tree: Params) -> Params:
        return {
            name: new[path + name]
            if path + name in new
            else walk(f"{path}{name}/", entry)
            if isinstance(entry, dict)
            else entry
            for name, entry in tree.items()
        }

    return walk("", params)
