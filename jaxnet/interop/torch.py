"""Weights from PyTorch and back, matched by the order in which layers are called.

PyTorch keeps weights by name, in the order in which a module defines its parts: for published
networks that is the order in which they are called, and so is that of a jaxnet model. The two lists
are matched one by one, and kind and shape of each pair must agree. Where the orders differ, `names`
gives the pairs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.checks import a_layer, as_array, check_input, on_host, within
from jaxnet.core import Layer, Params, PyTree, State, key_spec
from jaxnet.core.messages import compare
from jaxnet.files import readable
from jaxnet.interop.layout import FIRST, LAST, LOST, SAME, Layout, flat_order, follow, mark
from jaxnet.look import observe
from jaxnet.training.checkpoint import read_tensors

Weights = Mapping[str, Any]  # names, as in a state_dict, -> arrays or tensors

CONVOLUTIONS = ("conv", "depthwise_conv", "conv_transpose")
NORMS = ("batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm")
KINDS = ("dense", "embedding", *CONVOLUTIONS, *NORMS)

# Transforms that leave the entries of their layer as they are.
TRANSPARENT = ("cast", "freeze", "remat", "time_distributed")

# The entry of a layer -> its name in PyTorch.
NAMES = {
    "kernel": "weight", "scale": "weight", "embedding": "weight",
    "bias": "bias", "mean": "running_mean", "var": "running_var",
}  # fmt: skip


def from_torch(
    net: Layer, weights: Weights | str | Path, x: PyTree, *, names: Mapping[str, str] | None = None
) -> tuple[Params, State]:
    """Params and state of a net from the weights of the same network in PyTorch.

    Kernels are transposed according to the kind of their layer. After a `flatten` the order of the
    features differs, since PyTorch has channels first; the norms and dense kernels there are
    permuted. Both sides must match completely. Padding is not part of the weights: "SAME" at
    strides of 2 is not PyTorch's padding=1.

    Args:
      net: with dense, convolutional, embedding and normalization layers.
      weights: `module.state_dict()`, a mapping of arrays, or the path of a safetensors file; of a
        .pt file, `torch.load(path)`. To leave parts out, pass a dict without them.
      x: input of the net, or its `jn.spec`; images and signals with channels last.
      names: path of a layer -> its name in PyTorch, such as {"output": "fc"}, for those that are
        not in their order.

    Returns:
      (params, state), as `net.init` returns them.

    Raises:
      OSError: for a file that is missing or cannot be read.
      TypeError: for weights that are not arrays of floats.
      ValueError: for a layer without a counterpart, or with one of another kind or shape; for a
        layer after a reshape inside a function, where the order of the features in PyTorch is
        unknown. The message names the layer.

    Example:
      >>> weights = {"0.weight": np.ones((4, 3, 5, 5)), "0.bias": np.arange(4.0),
      ...            "3.weight": np.ones((7, 64)), "3.bias": np.zeros(7)}
      >>> net = jn.serial(jn.conv(4, 5, padding="VALID"), jnp.tanh, jn.flatten(), jn.dense(7))
      >>> params, state = from_torch(net, weights, jn.spec((2, 8, 8, 3)))
      >>> jax.tree.map(jnp.shape, params["conv"])
      {'bias': (4,), 'kernel': (5, 5, 3, 4)}
    """
    net, weights, x, names = _checked("from_torch", net, weights, x, names)
    params, state, pairs = _match(net, weights, x, names)
    for part, group in pairs:
        for tree, entries in ((params, part.params), (state, part.state)):
            for entry, spec in entries.items():
                array = _to_ours(np.asarray(group.entries[NAMES[entry]]), entry, part)
                # a copy: PyTorch changes its tensors in place
                _at(tree, part.path)[entry] = jnp.array(array, spec.dtype, copy=True)
    return params, state


def to_torch(
    net: Layer,
    params: Params,
    state: State,
    weights: Weights | str | Path,
    x: PyTree,
    *,
    names: Mapping[str, str] | None = None,
) -> dict[str, np.ndarray]:
    """The reverse of `from_torch`: arrays under the names and in the layout of a state_dict.

    Args:
      net, x, names: as for `from_torch`.
      params, state: of the net.
      weights: any weights of the same network in PyTorch; only names and shapes are used, and
        entries without a counterpart (num_batches_tracked) are returned unchanged.

    Returns:
      name -> array; `module.load_state_dict({name: torch.tensor(a) for name, a in ...})`.

    Raises:
      OSError, TypeError, ValueError: as `from_torch`; for params or state that do not fit the net.

    Example:
      >>> weights = {"weight": np.ones((4, 3)), "bias": np.zeros(4)}
      >>> params = {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.ones(4)}
      >>> to_torch(jn.dense(4), params, {}, weights, jn.spec((2, 3)))["weight"][1].tolist()
      [1.0, 5.0, 9.0]
    """
    net, weights, x, names = _checked("to_torch", net, weights, x, names)
    out = {name: np.asarray(array) for name, array in weights.items()}
    *needed, pairs = _match(net, weights, x, names)
    compare((net.name,), tuple(needed), (params, state), x)
    for part, group in pairs:
        for tree, entries in ((params, part.params), (state, part.state)):
            for entry in entries:
                name = f"{group.prefix}.{NAMES[entry]}" if group.prefix else NAMES[entry]
                ours = np.asarray(_at(tree, part.path)[entry])
                out[name] = _to_theirs(ours, entry, part).astype(out[name].dtype)
    return out


class Difference(NamedTuple):
    """The first layer in which two networks differ; prints as a sentence.

    Fields:
      path: of the first layer whose output differs; None where all agree.
      module: its name in PyTorch.
      error: the largest difference there, or of all layers, divided by the largest of PyTorch's
        values.
      layers: number of layers compared.
    """

    path: str | None
    module: str | None
    error: float
    layers: int

    def __str__(self) -> str:
        if self.path is None:
            return (
                f"{self.layers} layers agree; the largest relative difference is {self.error:.1e}"
            )
        return (
            f"{self.path} ({self.module} in PyTorch) is the first of {self.layers} layers that "
            f"differs, by {self.error:.1e}. The layers before it agree: check its options "
            "(padding, strides, epsilon) and the operations between it and the layer before"
        )


def first_difference(
    net: Layer,
    params: Params,
    state: State,
    module: Any,
    x: Any,
    *,
    names: Mapping[str, str] | None = None,
    tolerance: float = 1e-4,
) -> Difference:
    """Runs both networks on one input and compares the output of each layer that has weights.

    Args:
      net, params, state: in jaxnet.
      module: the `torch.nn.Module`, in the mode to compare, usually eval().
      x: (batch, ..., channels); PyTorch gets it with channels first.
      names: as for `from_torch`.
      tolerance: of the relative difference.

    Raises:
      TypeError, ValueError: as `to_torch`; for another module, and a negative tolerance.

    Example:
      >>> import torch  # doctest: +SKIP
      >>> print(first_difference(net, params, state, module.eval(), x))  # doctest: +SKIP
      53 layers agree; the largest relative difference is 2.4e-06
    """
    import torch

    if not isinstance(module, torch.nn.Module):
        raise TypeError(
            f"first_difference: module must be a torch.nn.Module, got {type(module).__name__}"
        )
    within("first_difference", "tolerance", tolerance, "[0, inf)")
    x = as_array("first_difference", "x", x, dtype="booleans or numbers")
    weights = module.state_dict()
    net, weights, specs, names = _checked("first_difference", net, weights, x, names)
    *needed, pairs = _match(net, weights, specs, names)
    compare((net.name,), tuple(needed), (params, state), specs)
    theirs: dict[str, Any] = {}
    hooks = []
    for _, group in pairs:

        def keep(_module, _inputs, output, name=group.prefix):
            # a copy, since later modules may work in place
            theirs.setdefault(name, output.detach().clone().numpy())

        hooks.append(module.get_submodule(group.prefix).register_forward_hook(keep))
    try:
        with torch.no_grad():
            module(torch.tensor(np.moveaxis(np.asarray(x), -1, 1)))
    finally:
        for hook in hooks:
            hook.remove()
    ours: dict[str, Any] = {}

    def see(path, layer, x, y):
        ours.setdefault("/".join(path), y)
        return y

    observe(net, see).apply(params, state, x)
    worst = 0.0
    for part, group in pairs:
        mine, other = np.asarray(ours[part.path]), theirs[group.prefix]
        if part.kind in NORMS and part.order is not None:
            mine = mine[:, part.order]
        other = np.moveaxis(other, 1, -1) if other.ndim > 2 else other
        if mine.shape != other.shape:
            return Difference(part.path, group.prefix, float("inf"), len(pairs))
        error = float(np.abs(mine - other).max() / max(np.abs(other).max(), 1e-30))
        if not error <= tolerance:
            return Difference(part.path, group.prefix, error, len(pairs))
        worst = max(worst, error)
    return Difference(None, None, worst, len(pairs))


class _Part(NamedTuple):
    """A layer with weights.

    Fields:
      path, kind: of the layer.
      params, state: specs of its entries.
      order: after a flatten, our index of each of PyTorch's input features.
    """

    path: str
    kind: str
    params: dict[str, Any]
    state: dict[str, Any]
    order: np.ndarray | None = None


class _Group(NamedTuple):
    """The weights of one module in PyTorch: its name, and entries such as "weight"."""

    prefix: str
    entries: dict[str, Any]


def _checked(
    who: str, net: Any, weights: Any, x: Any, names: Any
) -> tuple[Layer, dict[str, Any], PyTree, dict[str, str]]:
    """The net as a layer, the weights as arrays by name, specs of x, and the pairs of names."""
    net, x = a_layer(who, "net", net), check_input(who, x)
    if not isinstance(names, Mapping | None):
        raise TypeError(
            f"{who}: names must map paths of layers to names in PyTorch, got {type(names).__name__}"
        )
    if isinstance(weights, str | Path):
        weights, _ = read_tensors(who, readable(who, weights))
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"{who}: weights must be a state_dict or the path of a safetensors file, got "
            f"{type(weights).__name__}"
        )
    arrays = {name: _array(who, name, a) for name, a in weights.items()}
    return net, arrays, x, dict(names or {})


def _array(who: str, name: Any, given: Any) -> np.ndarray:
    if not isinstance(name, str):
        raise TypeError(f"{who}: weights must have names, got {name!r:.60}")
    if hasattr(given, "detach"):
        given = given.detach().cpu()
        # NumPy lacks PyTorch's bfloat16 and floats of 8 bits
        given = (
            given.float() if given.is_floating_point() and given.itemsize < 4 else given
        ).numpy()
    if not isinstance(given, np.ndarray | np.generic | jax.Array):
        raise TypeError(
            f"{who}: weights must hold arrays or tensors, got {type(given).__name__} for {name}"
        )
    if name.rpartition(".")[2] in NAMES.values():
        return on_host(who, name, given, dtype="floats")
    return np.asarray(given)


def _at(tree: PyTree, path: str) -> Any:
    for name in filter(None, path.split("/")):
        tree = tree.get(name, {}) if isinstance(tree, dict) else {}
    return tree


def _own(tree: PyTree, path: str) -> dict[str, Any]:
    """The entries at a path that are arrays."""
    return {name: leaf for name, leaf in _at(tree, path).items() if not isinstance(leaf, dict)}


def _parts(net: Layer, params: Params, state: State, x: PyTree) -> list[_Part]:
    """The layers with weights, in the order of their first calls."""
    found: dict[str, _Part] = {}
    calls: list[tuple[str, str]] = []  # path and kind of each

    def see(path, layer, x, y):
        name = "/".join(path)
        while isinstance(layer.inside, tuple):
            if layer.kind not in TRANSPARENT and (_at(params, name) or _at(state, name)):
                raise ValueError(
                    f"torch weights: {net.name}/{name}: expected a layer of kind "
                    f"{', '.join(KINDS)}, got {layer.kind}, whose entries differ from those of "
                    "the layer inside; import into the net without it"
                )
            layer = layer.inside[0]
        own = _own(params, name), _own(state, name)
        if any(own):
            found.setdefault(name, _Part(name, layer.kind, *own))
        calls.append((name, layer.kind))
        return mark(len(calls) - 1, x, y)

    def run(params, state, x):
        watched = observe(net, see, transforms=True)
        return watched.apply(params, state, x, key=jax.random.key(0))

    program = jax.make_jaxpr(run)(params, state, x).jaxpr
    known = [None] * len(jax.tree.leaves((params, state)))
    given = [LAST if len(leaf.shape) > 2 else SAME for leaf in jax.tree.leaves(x)]
    inputs = follow(program, [*known, *given], [kind for _, kind in calls])
    layouts: dict[str, set[Layout]] = {}
    for call, (path, _) in enumerate(calls):
        layouts.setdefault(path, set()).add(inputs.get(call, LOST))
    return [part._replace(order=_order(net, part, layouts[part.path])) for part in found.values()]


def _order(net: Layer, part: _Part, layouts: set[Layout]) -> np.ndarray | None:
    """The order of the input's features in PyTorch; raises where it is not known."""
    flat = {layout if isinstance(layout, tuple) else None for layout in layouts}
    wrong = LOST in layouts or len(flat) > 1 or (FIRST in layouts and part.kind != "dense")
    if part.kind in KINDS and (wrong or (flat != {None} and part.kind == "group_norm")):
        raise ValueError(
            f"torch weights: {net.name}/{part.path}: the order of its input's features in PyTorch "
            "is not known, because of a reshape or similar inside a function. Flatten with "
            "m(jn.flatten(), x), or reshape with PyTorch's axes, channels first: "
            "jnp.moveaxis(x, -1, 1).reshape(...), and for maps x.reshape(batch, channels, height, "
            "width) followed by jnp.moveaxis(x, 1, -1)"
        )
    shape = flat.pop()
    return None if shape is None else flat_order(shape)


def _match(
    net: Layer, weights: dict[str, Any], x: PyTree, names: Mapping[str, str]
) -> tuple[Params, State, list[tuple[_Part, _Group]]]:
    """Specs of params and state, and each layer with its weights in PyTorch."""
    groups: dict[str, _Group] = {}
    for name, array in weights.items():
        prefix, _, entry = name.rpartition(".")
        if entry != "num_batches_tracked":
            groups.setdefault(prefix, _Group(prefix, {})).entries[entry] = array
    params, state = jax.eval_shape(net.init, key_spec(), x)
    parts = _parts(net, params, state, x)
    unknown = [path for path in names if path not in {part.path for part in parts}]
    unknown += [name for name in names.values() if name not in groups]
    if unknown:
        raise ValueError(
            f"torch weights: names has unknown entries: {', '.join(map(str, unknown))}; layers: "
            f"{', '.join(part.path for part in parts)}; in PyTorch: {', '.join(groups)}"
        )
    rest = [group for name, group in groups.items() if name not in names.values()]
    pairs = []
    for part in parts:
        if part.path not in names and not rest:
            raise ValueError(
                f"torch weights: {net.name}/{part.path} has no counterpart; the weights end after "
                f"{len(pairs)} layers"
            )
        group = groups[names[part.path]] if part.path in names else rest.pop(0)
        _check(net, part, group)
        pairs.append((part, group))
    if rest:
        raise ValueError(
            f"torch weights: unused: {', '.join(group.prefix for group in rest[:8])}; {net.name} "
            f"has {len(parts)} layers with weights. Remove them from the dict, or use the model "
            "that has them"
        )
    return params, state, pairs


def _check(net: Layer, part: _Part, group: _Group) -> None:
    entries = part.params | part.state
    where = f"torch weights: {net.name}/{part.path} and {group.prefix or 'the module'}"
    if part.kind not in KINDS or not set(entries) <= set(NAMES):
        raise ValueError(
            f"{where}: expected a layer of kind {', '.join(KINDS)}, got one of kind {part.kind} "
            f"with {', '.join(entries)}"
        )
    expected, got = sorted(NAMES[entry] for entry in entries), sorted(group.entries)
    if expected != got:
        raise ValueError(
            f"{where}: expected {', '.join(expected)}, got {', '.join(got)}. Where the orders "
            "differ, pass names={path: name in PyTorch}"
        )
    for entry, spec in entries.items():
        wanted, given = _their_shape(spec.shape, entry, part), np.shape(group.entries[NAMES[entry]])
        if wanted != given:
            raise ValueError(f"{where}: {NAMES[entry]} must have shape {wanted}, got {given}")


def _permutation(entry: str, part: _Part) -> np.ndarray | None:
    """The order of the first axis of an entry, where a flatten has changed it."""
    return part.order if entry == "kernel" or part.kind in NORMS else None


def _front(part: _Part) -> tuple[int, int]:
    """The axes of our kernel (*window, inputs, features) that are first in PyTorch."""
    return (-2, -1) if part.kind == "conv_transpose" else (-1, -2)


def _reversed(a: np.ndarray, part: _Part) -> np.ndarray:
    """A kernel; that of a transposed convolution reversed, as PyTorch's is a gradient."""
    return np.flip(a, tuple(range(a.ndim - 2))) if part.kind == "conv_transpose" else a


def _their_shape(shape: tuple[int, ...], entry: str, part: _Part) -> tuple[int, ...]:
    return (*(shape[axis] for axis in _front(part)), *shape[:-2]) if entry == "kernel" else shape


def _to_theirs(a: np.ndarray, entry: str, part: _Part) -> np.ndarray:
    if (order := _permutation(entry, part)) is not None:
        a = a[order]
    return np.moveaxis(_reversed(a, part), _front(part), (0, 1)) if entry == "kernel" else a


def _to_ours(a: np.ndarray, entry: str, part: _Part) -> np.ndarray:
    a = _reversed(np.moveaxis(a, (0, 1), _front(part)), part) if entry == "kernel" else a
    order = _permutation(entry, part)
    return a if order is None else a[np.argsort(order)]
