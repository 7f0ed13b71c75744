"""Weights from PyTorch and back, by the order in which layers are called.

PyTorch keeps weights by name, in the order in which a module defines its parts: for published
networks that is the order in which they are called, and so is that of a jaxnet model. So the two
are laid side by side, a layer with weights at a time, and kind and shape of each must agree. Where
an order differs, `names` says which belongs to which.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, PyTree, State, observe

Weights = Mapping[str, Any]  # names, as in a state_dict, -> arrays or tensors


def from_torch(
    net: Layer, weights: Weights | str | Path, x: PyTree, *, names: Mapping[str, str] | None = None
) -> tuple[Params, State]:
    """Params and state of a net from the weights of the same network in PyTorch.

    Kernels are turned from PyTorch's layout (features first) to ours (features last), and the
    kernel of a dense layer behind `flatten` from its order of pixels (channels first) to ours.
    Nothing is left over on either side, or it raises. Padding is the net's own affair: "SAME" at
    strides of 2 is not PyTorch's padding=1.

    Args:
      net: with dense, convolutional, embedding and normalization layers.
      weights: `module.state_dict()`, a mapping of arrays, or the path of a safetensors file. To
        leave parts out, hand over a dict without them.
      x: input of the net, or its `jn.spec`.
      names: path of a layer -> its name in PyTorch, such as {"output": "fc"}, for those that do not
        stand in their order.

    Returns:
      (params, state), as `net.init` gives them.

    Raises:
      ValueError: where a layer has no counterpart, or of another kind or shape; it says which.

    Example:
      >>> weights = {"0.weight": np.ones((4, 3, 5, 5)), "0.bias": np.arange(4.0),
      ...            "3.weight": np.ones((7, 64)), "3.bias": np.zeros(7)}
      >>> net = jn.serial(jn.conv(4, 5, padding="VALID"), jnp.tanh, jn.flatten(), jn.dense(7))
      >>> params, state = from_torch(net, weights, jn.spec((2, 8, 8, 3)))
      >>> jax.tree.map(jnp.shape, params["conv"])
      {'bias': (4,), 'kernel': (5, 5, 3, 4)}
    """
    weights = _read(weights)
    pairs = _pairs(net, weights, x, names or {})
    params, state = _specs(net, x)
    for part, theirs in pairs:
        for tree, entries in ((params, part.params), (state, part.state)):
            for entry, spec in entries.items():
                array = _theirs_to_ours(np.asarray(theirs[_NAMES[entry]]), entry, spec, part)
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
    """The other way: arrays under the names and in the layout of a state_dict.

    Args:
      net, x, names: as for `from_torch`.
      params, state: of the net.
      weights: any weights of the same network in PyTorch; only names and shapes matter, and entries
        that have no counterpart (num_batches_tracked) come back as they are.

    Returns:
      name -> array; `module.load_state_dict({name: torch.tensor(a) for name, a in ...})`.

    Example:
      >>> weights = {"weight": np.ones((4, 3)), "bias": np.zeros(4)}
      >>> params = {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.ones(4)}
      >>> to_torch(jn.dense(4), params, {}, weights, jn.spec((2, 3)))["weight"][1].tolist()
      [1.0, 5.0, 9.0]
    """
    weights = _read(weights)
    out = {name: np.asarray(array) for name, array in weights.items()}
    for part, theirs in _pairs(net, weights, x, names or {}):
        prefix = theirs["prefix"]
        for tree, entries in ((params, part.params), (state, part.state)):
            for entry in entries:
                name = f"{prefix}.{_NAMES[entry]}" if prefix else _NAMES[entry]
                ours = np.asarray(_at(tree, part.path)[entry])
                out[name] = _ours_to_theirs(ours, entry, part).astype(out[name].dtype)
    return out


class Difference(NamedTuple):
    """Where two networks part; prints as a sentence.

    Fields:
      path: of the first layer whose output differs; None where all agree.
      module: its name in PyTorch.
      error: the largest difference there, or of all layers, over the largest of PyTorch's values.
      layers: how many were compared.
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
            f"differs, by {self.error:.1e}; those before it agree, so look at its own options "
            "(padding, strides, epsilon) and at what stands between it and the one before"
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
      net, params, state: ours.
      module: the `torch.nn.Module`, in the mode that it is to be compared in; eval() mostly.
      x: (batch, ..., channels); PyTorch gets it with channels first.
      names: as for `from_torch`.
      tolerance: of the relative difference.

    Example:
      >>> import torch  # doctest: +SKIP
      >>> print(first_difference(net, params, state, module.eval(), x))  # doctest: +SKIP
      53 layers agree; the largest relative difference is 2.4e-06
    """
    import torch

    weights = _read(module.state_dict())
    pairs = _pairs(net, weights, jnp.asarray(x), names or {})
    outputs: dict[str, Any] = {}
    hooks = []
    for _, theirs in pairs:
        name = theirs["prefix"]

        def keep(_module, _inputs, output, name=name):
            # a copy, since what follows may work in place
            outputs.setdefault(name, output.detach().clone().numpy())

        hooks.append(module.get_submodule(name).register_forward_hook(keep))
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

    observe(net, see).apply(params, state, jnp.asarray(x))
    worst = 0.0
    for part, theirs in pairs:
        mine, other = np.asarray(ours[part.path]), outputs[theirs["prefix"]]
        other = np.moveaxis(other, 1, -1) if other.ndim > 2 else other
        if mine.shape != other.shape:
            return Difference(part.path, theirs["prefix"], float("inf"), len(pairs))
        error = float(np.abs(mine - other).max() / max(np.abs(other).max(), 1e-30))
        if not error <= tolerance:
            return Difference(part.path, theirs["prefix"], error, len(pairs))
        worst = max(worst, error)
    return Difference(None, None, worst, len(pairs))


# Our entry of a layer -> PyTorch's.
_NAMES = {
    "kernel": "weight", "scale": "weight", "embedding": "weight",
    "bias": "bias", "mean": "running_mean", "var": "running_var",
}  # fmt: skip


class _Part(NamedTuple):
    """A layer with weights: its path, specs of its entries, and what a `flatten` before it saw."""

    path: str
    params: dict[str, Any]
    state: dict[str, Any]
    flattened: tuple[int, ...] | None


def _read(weights: Weights | str | Path) -> dict[str, Any]:
    if isinstance(weights, str | Path):
        from safetensors.numpy import load_file

        return dict(load_file(weights))
    return {name: a.detach().numpy() if hasattr(a, "detach") else a for name, a in weights.items()}


def _specs(net: Layer, x: PyTree) -> tuple[Params, State]:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(net.init, key, x)


def _at(tree: PyTree, path: str) -> Any:
    for name in filter(None, path.split("/")):
        tree = tree.get(name, {}) if isinstance(tree, dict) else {}
    return tree


def _parts(net: Layer, x: PyTree) -> list[_Part]:
    """The layers with weights, in the order of their first calls."""
    params, state = _specs(net, x)
    found: dict[str, _Part] = {}
    flat: dict[int, tuple[int, ...]] = {}  # width after flatten -> shape before it

    def see(path, layer, x, y):
        name = "/".join(path)
        entry, kept = _at(params, name), _at(state, name)
        leaves = [*entry.values(), *kept.values()] if isinstance(entry, dict) else []
        if leaves and not any(isinstance(leaf, dict) for leaf in leaves) and name not in found:
            width = x.shape[-1] if getattr(x, "ndim", 0) == 2 else -1
            found[name] = _Part(name, entry, kept, flat.pop(width, None))
        elif getattr(x, "ndim", 0) > 2 and getattr(y, "ndim", 0) == 2:
            if np.prod(x.shape[1:]) == y.shape[1]:
                flat[y.shape[1]] = x.shape[1:]
        return y

    def run(params, state, x):
        return observe(net, see).apply(params, state, x)

    jax.eval_shape(run, params, state, x)
    return list(found.values())


def _pairs(
    net: Layer, weights: dict[str, Any], x: PyTree, names: Mapping[str, str]
) -> list[tuple[_Part, dict[str, Any]]]:
    """Each layer of ours with PyTorch's entries, "weight" and so on, and their "prefix"."""
    groups: dict[str, dict[str, Any]] = {}
    for name, array in weights.items():
        prefix, _, entry = name.rpartition(".")
        if entry != "num_batches_tracked":
            groups.setdefault(prefix, {"prefix": prefix})[entry] = array
    parts = _parts(net, x)
    unknown = [path for path in names if path not in {part.path for part in parts}]
    unknown += [name for name in names.values() if name not in groups]
    if unknown:
        raise ValueError(
            f"torch weights: names has {', '.join(unknown)}, which there is not; layers are "
            f"{', '.join(part.path for part in parts)}; in PyTorch {', '.join(groups)}"
        )
    rest = [group for name, group in groups.items() if name not in names.values()]
    pairs = []
    for part in parts:
        if part.path in names:
            group = groups[names[part.path]]
        elif rest:
            group = rest.pop(0)
        else:
            raise ValueError(
                f"torch weights: {net.name}/{part.path} has no counterpart; the weights end after "
                f"{len(pairs)} layers"
            )
        _check(net, part, group)
        pairs.append((part, group))
    if rest:
        raise ValueError(
            f"torch weights: {', '.join(group['prefix'] for group in rest[:8])} are left over; "
            f"{net.name} has {len(parts)} layers with weights. Leave them out of the dict, or take "
            "the model that has them"
        )
    return pairs


def _check(net: Layer, part: _Part, group: dict[str, Any]) -> None:
    entries = part.params | part.state
    where = f"torch weights: {net.name}/{part.path} against {group['prefix'] or 'the module'}"
    if not set(entries) <= set(_NAMES):
        raise ValueError(
            f"{where}: needs a dense, convolutional, embedding or normalization layer, got one "
            f"with {', '.join(entries)}"
        )
    needed, got = sorted(_NAMES[entry] for entry in entries), sorted(set(group) - {"prefix"})
    if needed != got:
        raise ValueError(
            f"{where}: needs {', '.join(needed)}, got {', '.join(got)}; the orders differ here, so "
            "say by names={path: name in PyTorch} which belong together"
        )
    for entry, spec in entries.items():
        wanted = _ours_to_theirs(np.broadcast_to(np.int8(0), spec.shape), entry, part).shape
        given = np.shape(group[_NAMES[entry]])
        if wanted != given:
            raise ValueError(f"{where}: {_NAMES[entry]} needs {wanted}, got {given}")


def _ours_to_theirs(a: np.ndarray, entry: str, part: _Part) -> np.ndarray:
    if entry != "kernel":
        return a
    if part.flattened and a.ndim == 2:  # (h * w * c, o) -> (c * h * w, o)
        a = np.moveaxis(a.reshape(*part.flattened, -1), -2, 0).reshape(len(a), -1)
    return np.moveaxis(a, (-1, -2), (0, 1))  # (*window, i, o) -> (o, i, *window)


def _theirs_to_ours(a: np.ndarray, entry: str, spec: Any, part: _Part) -> np.ndarray:
    if entry != "kernel":
        return a
    a = np.moveaxis(a, (0, 1), (-1, -2))  # (o, i, *window) -> (*window, i, o)
    if part.flattened and a.ndim == 2:
        *space, channels = part.flattened
        a = np.moveaxis(a.reshape(channels, *space, -1), 0, -2)  # (*space, c, o)
    return a.reshape(spec.shape)
