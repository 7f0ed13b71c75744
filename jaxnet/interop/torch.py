"""Weights from PyTorch and back, matched by the order in which layers are called.

PyTorch keeps weights by name, in the order in which a module defines its parts: for published
networks that is the order in which they are called, as in a jaxnet model. The two lists are matched
one by one, and kind and shape of each pair must agree. If the orders differ, `names` gives the
pairs.

Parameters outside of such layers (layer scale, class tokens, tables of positions) are matched by
their own order: the order of `m.param` here, and of the state_dict there.
"""

import re
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet.core import Layer, LayerTransform, Params, State, as_layer
from jaxnet.core.errors import call, compare
from jaxnet.interop import torch_weights
from jaxnet.interop.layout import FIRST, LAST, LOST, SAME, Layout, flat_order, follow, mark
from jaxnet.interop.torch_weights import CONVERSIONS, KINDS, NORMS, PARAMETER, THEIRS, Entries
from jaxnet.interop.weights import Weights, numbers, read_array, read_weights
from jaxnet.services.checks import as_array, check_input, check_type, on_host, within
from jaxnet.services.extras import extra
from jaxnet.services.trees import PyTree, entry_at, flat, key_spec
from jaxnet.services.warn import warn
from jaxnet.transforms.observing import observe

# Largest differences, relative to the largest value: by rounding as a rule, and in very deep nets.
USUAL_ROUNDING, SAME_OUTPUTS = 5e-5, 1e-3

# Names of arrays that must hold floats.
NUMBERS = re.compile(r"(^|\.|_)(weight|bias|running_mean|running_var)(_|$)")

# An entry of a recurrent module, with the layer and the direction.
RECURRENT_ENTRY = re.compile(r"((?:weight|bias)_(?:ih|hh|hr))(?:_(l\d+(?:_reverse)?))?")
WRAPPERS = {"module", "_orig_mod"}  # what DataParallel and torch.compile add to names
COUNTER = "num_batches_tracked"  # of batch norms, which have no counterpart here


def from_torch(
    net: Layer,
    weights: Weights | str | Path,
    x: PyTree,
    *,
    outputs: PyTree = None,
    names: Mapping[str, str] | None = None,
) -> tuple[Params, State]:
    """Return params and state of a net from the weights of the same network in PyTorch.

    Kernels are transposed according to the kind of their layer. After a `flatten` the order of the
    features differs, since PyTorch has channels first; the norms and dense kernels there are
    permuted. The two biases of a recurrent layer are summed. Both sides must match completely.
    Weights do not determine the padding: "SAME" with strides of 2 differs from PyTorch's padding=1.

    Two layers of equal shapes that PyTorch declares in another order than the net calls them would
    be exchanged. So pass the outputs of PyTorch for an x of numbers, in evaluation mode: they are
    compared with the outputs of the net. Without outputs, the names of such layers must show which
    is which: they are equal on both sides, or in the same module, or numbered in order.

    A recurrent module with several layers or directions has one jaxnet layer for each, such as
    `stack_rnn(bidirectional(lstm(8)), bidirectional(lstm(8)))`.

    Parameters of composed layers, made by `m.param`, and parameters of your own pairs of functions
    are matched with the parameters of PyTorch's modules that are not layers, in their order. Axes
    of length 1 may differ: (C, 1, 1) fits (C,).

    Args:
      net: Net with dense, convolutional, embedding, recurrent, attention and normalization layers.
      weights: Result of `module.state_dict()`, a mapping of arrays, or the path of a safetensors
        file; for a .pt file, `torch.load(path)`. To leave parts out, pass a dict without them.
      x: Input of the net, or its `jn.spec`; images and signals with channels last.
      outputs: Outputs of PyTorch's module for x, tensors or arrays, in its layout; None compares
        nothing.
      names: Dict of path of a layer, as in the params, -> its name in PyTorch, such as {"output":
        "fc"}, for layers that are not in their order; one layer of a recurrent module is "rnn.l0"
        or "rnn.l0_reverse". Path of a parameter -> its name in the state_dict, such as
        {"block/scale": "block.weight"}.

    Returns:
      (params, state), as `net.init` returns them.

    Raises:
      OSError: If a file is missing or cannot be read.
      TypeError: If `weights` are not arrays of floats.
      ValueError: If a layer does not have a counterpart of the same kind and shape.
      ValueError: If the outputs differ, or are left out though layers may be exchanged. The message
        names them.
      ValueError: If a layer comes after a reshape inside a function, so that the order of its input
        features in PyTorch is unknown.

    Example:
      >>> weights = {"0.weight": np.ones((4, 3)), "0.bias": np.arange(4.0)}
      >>> x, outputs = np.ones((2, 3), np.float32), np.array([[3.0, 4, 5, 6]] * 2)  # of PyTorch
      >>> params, state = from_torch(jn.dense(4), weights, x, outputs=outputs)
      >>> params["bias"]
      Array([0., 1., 2., 3.], dtype=float32)

      With a convolution, whose kernel is transposed, and without the comparison:

      >>> weights = {"0.weight": np.ones((4, 3, 5, 5)), "0.bias": np.arange(4.0),
      ...            "3.weight": np.ones((7, 64)), "3.bias": np.zeros(7)}
      >>> net = jn.serial(jn.conv(4, 5, padding="VALID"), jnp.tanh, jn.flatten(), jn.dense(7))
      >>> params, state = from_torch(net, weights, jn.spec((2, 8, 8, 3)))
      >>> jax.tree.map(jnp.shape, params["conv"])
      {'bias': (4,), 'kernel': (5, 5, 3, 4)}
    """
    net, _, params, state, pairs = _match("from_torch", net, weights, x, names)
    for part, group in pairs:
        ours = _to_ours(group.entries, part)
        for entry, spec in part.entries.items():
            holder, name = _holder(f"{part.path}/{entry}", params, state)
            try:
                # a copy: PyTorch changes its tensors in place
                holder[name] = numbers(ours[entry], spec.dtype)
            except ValueError as error:
                raise ValueError(
                    f"torch weights: {group.prefix or 'the module'}, for {net.name}/"
                    f"{part.name}: {entry} {error}"
                ) from None
    if outputs is not None:
        _compare(net, params, state, x, outputs, pairs)
    else:
        by_order = [(part, group) for part, group in pairs if part.name not in (names or {})]
        _check_decided(net, by_order)
    return params, state


def _compare(net: Layer, params: Params, state: State, x: Any, outputs: Any, pairs: list) -> None:
    """Raise if the outputs of the net are not those of PyTorch."""
    x = jax.tree.map(lambda leaf: read_array("from_torch", "x", leaf), x)
    ours = jax.tree.leaves(net.apply(params, state, x)[0])
    wanted = [read_array("from_torch", "outputs", leaf) for leaf in jax.tree.leaves(outputs)]
    if len(ours) != len(wanted):
        raise ValueError(
            f"from_torch: outputs must be the {len(ours)} arrays that {net.name} returns, got "
            f"{len(wanted)}"
        )
    compared = list(zip(map(np.asarray, ours), wanted, strict=True))
    errors = [_distance(mine, theirs) for mine, theirs in compared]
    error = np.max(errors, initial=0)  # NaN if one is
    if error <= USUAL_ROUNDING:
        return
    if error <= SAME_OUTPUTS:
        warn(
            f"from_torch: {net.name} differs from PyTorch's outputs by {error:.1e} of their "
            "largest value. Rounding may explain it in a deep net; so does GELU's other form, "
            "jax.nn.gelu(x, approximate=False), or another epsilon of a norm. "
            "jaxnet.interop.torch.first_difference finds the first layer that differs"
        )
        return
    shapes = " ".join(f"{mine.shape} and {theirs.shape}" for mine, theirs in compared)
    raise ValueError(
        f"from_torch: with these weights {net.name} differs from PyTorch's outputs by {error:.1e} "
        f"of their largest value (shapes {shapes}). {_hint_of_exchange(pairs)}"
        "jaxnet.interop.torch.first_difference finds the first layer that differs"
    )


def _hint_of_exchange(pairs: list) -> str:
    """Return a sentence about layers that may have each other's weights, if there are any."""
    alike: dict[Any, list[str]] = {}
    for part, _ in pairs:
        shapes = sorted((entry, spec.shape) for entry, spec in part.entries.items())
        alike.setdefault((part.kind, tuple(shapes)), []).append(part.name)
    several = "; ".join(", ".join(names) for names in alike.values() if len(names) > 1)
    if not several:
        return ""
    return (
        f"These layers have equal kinds and shapes, so some may be exchanged: {several}. If so, "
        "pass names={path: name in PyTorch}. "
    )


def to_torch(
    net: Layer,
    params: Params,
    state: State,
    weights: Weights | str | Path,
    x: PyTree,
    *,
    names: Mapping[str, str] | None = None,
) -> dict[str, np.ndarray]:
    """Return arrays under the names and in the layout of a state_dict: the reverse of `from_torch`.

    A recurrent layer has two biases in PyTorch: `bias_ih` gets the sum and `bias_hh` zeros. The
    GRU's candidate keeps both.

    Args:
      net, x, names: Arguments of `from_torch`.
      params, state: Params and state of the net.
      weights: Any weights of the same network in PyTorch; only names and shapes are used, and
        entries without a counterpart (num_batches_tracked) are returned unchanged.

    Returns:
      A dict of name -> array; `module.load_state_dict({name: torch.tensor(a) for name, a in ...})`.

    Raises:
      OSError, TypeError, ValueError: As in `from_torch`, or if `params` or `state` do not fit the
        net.

    Example:
      >>> weights = {"weight": np.ones((4, 3)), "bias": np.zeros(4)}
      >>> params = {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.ones(4)}
      >>> to_torch(jn.dense(4), params, {}, weights, jn.spec((2, 3)))["weight"][1].tolist()
      [1.0, 5.0, 9.0]
    """
    net, arrays, *_, pairs = _match("to_torch", net, weights, x, names, (params, state))
    out = {name: np.asarray(array) for name, array in arrays.items()}
    for part, group in pairs:
        ours = {}
        for entry in part.entries:
            holder, name = _holder(f"{part.path}/{entry}", params, state)
            ours[entry] = np.asarray(holder[name])
        for entry, array in _to_theirs(ours, part).items():
            for name in group.names[entry]:
                out[name] = array.reshape(out[name].shape).astype(out[name].dtype)
    return out


class Difference(NamedTuple):
    """The first layer in which two networks differ; prints as a sentence.

    Fields:
      path: Path of the first layer whose output differs; None if all agree.
      module: Name of the layer in PyTorch.
      error: Largest difference of this layer, or of all layers, divided by the largest of PyTorch's
        values.
      layers: Number of layers compared.
    """

    path: str | None
    module: str | None
    error: float
    layers: int

    def __str__(self) -> str:
        path, module, error, layers = self
        if path is None:
            return f"{layers} layers agree; the largest relative difference is {error:.1e}"
        return (
            f"{path} ({module} in PyTorch) is the first of {layers} layers that differs, by "
            f"{error:.1e}. The layers before it agree: check its options "
            "(padding, strides, epsilon), the operations between it and the layer before, and "
            "whether PyTorch declares its layers in this order (else pass names=)"
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
    """Run both networks on one input and compare the output of each layer that has weights.

    The layers inside a recurrent module with several layers or directions are not compared, since
    PyTorch shows only its output; the layers after it are.

    Args:
      net, params, state: Network of jaxnet, its params and its state.
      module: Module of PyTorch, `torch.nn.Module`, in the mode to compare, usually eval().
      x: Input, (batch, ..., channels). PyTorch gets it with channels first, unless the first layer
        takes sequences: (batch, time, features), for modules with batch_first=True.
      names: Argument of `from_torch`.
      tolerance: Largest relative difference that is allowed.

    Raises:
      TypeError, ValueError: As in `to_torch`, or if `module` is not a module of PyTorch or
        `tolerance` is negative.

    Example:
      >>> import torch  # doctest: +SKIP
      >>> print(first_difference(net, params, state, module.eval(), x))  # doctest: +SKIP
      53 layers agree; the largest relative difference is 2.4e-06
    """
    torch = extra("torch", "torch", "first_difference", "parity")
    check_type("first_difference", "module", module, torch.nn.Module, "a torch.nn.Module")
    within("first_difference", "tolerance", tolerance, "[0, inf)")
    x = as_array("first_difference", "x", x, dtype="booleans or numbers")
    net, *_, pairs = _match("first_difference", net, module.state_dict(), x, names, (params, state))
    channels_last = x.ndim > 2 and pairs[0][0].input_layout == LAST
    layers = [(part, group) for part, group in pairs if part.kind != PARAMETER]
    modules = [group.module for _, group in layers]
    pairs = [(part, group) for part, group in layers if modules.count(group.module) == 1]
    if not pairs:
        raise ValueError("first_difference: no layer belongs to one module, so none is compared")
    images = np.moveaxis(x, -1, 1) if channels_last else np.asarray(x)
    theirs = _outputs_of_modules(torch, module, [group.module for _, group in pairs], images)
    ours = _outputs_of_layers(net, params, state, x)
    worst = 0.0
    for part, group in pairs:
        if group.module not in theirs:
            raise ValueError(
                f"first_difference: {group.module} was not called as a module, so its output is "
                "not known; PyTorch's fast path of transformers does so: "
                "torch.backends.mha.set_fastpath_enabled(False)"
            )
        mine = np.asarray(ours[part.path])
        if part.kind in NORMS and part.order is not None:
            mine = mine[:, part.order]
        error = _distance(mine, theirs[group.module])
        if not error <= tolerance:
            return Difference(part.path or "the net", group.prefix, error, len(pairs))
        worst = max(worst, error)
    return Difference(None, None, worst, len(pairs))


def _outputs_of_modules(torch: Any, module: Any, names: list[str], x: Any) -> dict[str, Any]:
    """Run a module and return the first output of each of its modules with these names."""
    outputs: dict[str, Any] = {}

    def keep(name, _module, _inputs, output):
        # Recurrent layers and attention return tuples.
        output = output[0] if isinstance(output, tuple) else output
        # a copy, since later modules may work in place
        outputs.setdefault(name, output.detach().clone().numpy())

    with ExitStack() as hooks, torch.no_grad():
        for name in names:
            inner = module.get_submodule(name)
            hooks.enter_context(inner.register_forward_hook(partial(keep, name)))
        module(torch.tensor(x))
    return outputs


def _outputs_of_layers(net: Layer, params: Params, state: State, x: Any) -> dict[str, Any]:
    """Run a net and return the first output of each of its layers, by path."""
    outputs: dict[str, Any] = {}

    def see(path, layer, x, y):
        output = y["x"] if isinstance(y, dict) else jax.tree.leaves(y)[0]
        outputs.setdefault("/".join(path), output)
        return y

    observe(net, see).apply(params, state, x)
    return outputs


class _Part(NamedTuple):
    """A layer with weights, or one parameter of a layer whose kind PyTorch lacks.

    Fields:
      path, kind: Path and kind of the layer; the kind of a parameter is "parameter".
      entries: Specs of its params and state.
      inputs: Number of its input's features.
      input_layout: Layout of the net's input.
      order: Our index of each of PyTorch's input features, after a flatten.
    """

    path: str
    kind: str
    entries: dict[str, Any]
    inputs: int = 0
    input_layout: Layout = LAST
    order: np.ndarray | None = None

    @property
    def name(self) -> str:
        """The path of the layer, or of the parameter."""
        if self.kind != PARAMETER:
            return self.path
        return "/".join(filter(None, (self.path, *self.entries)))


class _Group(NamedTuple):
    """The weights that belong to one layer: a module in PyTorch, or a part of a recurrent one.

    Fields:
      prefix: Name of the group, such as "conv" or "rnn.l0_reverse", or the name of a parameter.
      module: Name of the module, such as "conv" or "rnn".
      entries: Names of the entries, such as "weight", without the prefix.
      names: Names of each entry in the state_dict, several if it is shared.
    """

    prefix: str
    module: str
    entries: Entries
    names: dict[str, list[str]]


_Groups = dict[str, _Group]  # by prefix


def _holder(path: str, *trees: PyTree) -> tuple[dict[str, Any], str]:
    """Return the dict that has the entry at a path of one of the trees, and the entry's name."""
    where, _, name = path.rpartition("/")
    holders = [entry_at(tree, where) for tree in trees]
    return next(holder for holder in holders if name in holder), name


def _entries_of(tree: PyTree, path: str, kind: str) -> dict[str, Any]:
    """Return the entries of a layer at a path."""
    entries = entry_at(tree, path)
    if kind == "multi_head_attention":
        return dict(flat(entries))
    return {name: leaf for name, leaf in entries.items() if not isinstance(leaf, dict)}


class _Call(NamedTuple):
    """A call of a layer.

    Fields:
      path, kind: Path and kind of the layer.
      axes: Number of axes of its input.
    """

    path: str
    kind: str
    axes: int


def _parts(net: Layer, params: Params, state: State, x: PyTree) -> list[_Part]:
    """Return the layers with weights, in the order of their first calls."""
    parts_by_name: dict[str, _Part] = {}
    calls: list[_Call] = []
    # The path of the layer around a flatten, and the number of features.
    flattened: set[tuple[str, int]] = set()

    def see(path, layer, x, y):
        name = "/".join(path)
        if layer.kind == "projection":  # its weights belong to the enclosing attention layer
            return y
        layer = _unwrapped(net, name, layer, params, state)
        if layer.kind == "flatten":
            flattened.add(("/".join(path[:-1]), y.shape[-1]))
        shapes = [leaf.shape for leaf in jax.tree.leaves(x)]
        inputs = shapes[0][-1] if shapes and shapes[0] else 0
        for part in _parts_of(name, layer, params, state, inputs):
            parts_by_name.setdefault(part.name, part)
        calls.append(_Call(name, layer.kind, max(map(len, shapes), default=0)))
        return mark(len(calls) - 1, x, y)

    run = partial(observe(net, see, transforms=True).apply, key=jax.random.key(0))
    program = jax.make_jaxpr(run)(params, state, x).jaxpr
    weights = [None] * len(jax.tree.leaves((params, state)))
    input_layouts = [_input_layout(leaf, calls) for leaf in jax.tree.leaves(x)]
    inputs = follow(program, [*weights, *input_layouts], [call.kind for call in calls])
    layouts: dict[str, set[Layout]] = {}
    for i, (path, *_) in enumerate(calls):
        layouts.setdefault(path, set()).add(inputs.get(i, LOST))
    parts = []
    for part in parts_by_name.values():
        order = _order(net, part, layouts[part.path], flattened)
        parts.append(part._replace(order=order, input_layout=input_layouts[0]))
    return parts


def _unwrapped(net: Layer, name: str, layer: Layer, params: Params, state: State) -> Layer:
    """Return the layer inside transforms; raise if its entries are not that layer's."""
    while isinstance(record := layer.inside, LayerTransform) and record.layer is not None:
        other_kind = layer.kind in KINDS and layer.kind != record.layer.kind  # another gate, say
        other_entries = other_kind or record.new_entries or record.copies
        if other_entries and (entry_at(params, name) or entry_at(state, name)):
            raise ValueError(
                f"torch weights: {net.name}/{name}: expected a layer of kind "
                f"{', '.join(KINDS)}, got {layer.kind}, whose entries differ from the entries "
                "of the layer inside; import into the net without it"
            )
        layer = record.layer
    return layer


def _parts_of(name: str, layer: Layer, params: Params, state: State, inputs: int) -> list[_Part]:
    """Return a layer as one part if PyTorch has its kind, or else each of its parameters."""
    entries = _entries_of(params, name, layer.kind) | _entries_of(state, name, layer.kind)
    if entries and layer.kind in KINDS:
        return [_Part(name, layer.kind, entries, inputs=inputs)]
    return [_Part(name, PARAMETER, {entry: spec}, inputs=inputs) for entry, spec in entries.items()]


def _input_layout(leaf: Any, calls: list[_Call]) -> Layout:
    """Return the layout of an input: a sequence if the first layer takes sequences, else maps.

    Three axes that are flattened first, as images without channels, are the same in PyTorch.
    """
    if len(leaf.shape) < 3:
        return SAME
    kinds = {*KINDS, "flatten"} - {*NORMS}
    first = next((call for call in calls if call.kind in kinds), None)
    if len(leaf.shape) > 3 or first is None:
        return LAST
    takes_sequences = first.axes == 3 and first.kind in torch_weights.FEATURES_LAST
    return SAME if first.kind == "flatten" or takes_sequences else LAST


def _check_features(net: Layer, part: _Part, layouts: set, flattened: set) -> None:
    """Raise for a parameter with one entry per flattened feature, whose order differs."""
    (spec,) = part.entries.values()
    flat_input = any(layout == LOST or isinstance(layout, tuple) for layout in layouts)
    per_input = flat_input and part.inputs in spec.shape
    per_flattened = any((part.path, size) in flattened for size in spec.shape)
    if per_input or per_flattened:
        raise ValueError(
            f"torch weights: {net.name}/{part.name} has an entry per flattened feature, whose "
            "order differs in PyTorch. Use a layer, such as a norm, or give names, with "
            "jn.interop.by_names"
        )


def _order(net: Layer, part: _Part, layouts: set[Layout], flattened: set) -> np.ndarray | None:
    """Return the order of the input's features in PyTorch; raise if it is unknown."""
    if part.kind == PARAMETER:
        _check_features(net, part, layouts, flattened)
        return None
    shapes = {layout if isinstance(layout, tuple) else None for layout in layouts}  # before it
    unknown = LOST in layouts or len(shapes) > 1
    flat_groups = part.kind == "group_norm" and shapes != {None}
    other_axes = FIRST in layouts and part.kind not in torch_weights.FEATURES_LAST
    if unknown or flat_groups or other_axes:
        raise ValueError(
            f"torch weights: {net.name}/{part.path}: the order of its input's features in PyTorch "
            "is not known, because of a reshape or similar inside a function. Flatten with "
            "m(jn.flatten(), x), or reshape with PyTorch's axes, channels first: "
            "jnp.moveaxis(x, -1, 1).reshape(...), and for maps x.reshape(batch, channels, height, "
            "width) followed by jnp.moveaxis(x, 1, -1). Or give names, with jn.interop.by_names"
        )
    shape = shapes.pop()
    return None if shape is None else flat_order(shape)


def _match(
    who: str,
    net: Any,
    weights: Any,
    x: Any,
    names: Any,
    params_and_state: tuple[Params, State] | None = None,
) -> tuple[Layer, dict[str, Any], Params, State, list[tuple[_Part, _Group]]]:
    """Return the net as a layer, the weights as arrays by name, specs of params and state, which
    those given must fit, and each layer with its weights in PyTorch."""
    net, x = as_layer(net, who, "net"), check_input(who, x)
    check_type(who, "names", names, Mapping | None, "a dict of paths of layers to PyTorch's names")
    names = dict(names or {})
    weights = read_weights(who, weights)
    for name, array in weights.items():
        if NUMBERS.search(name):
            weights[name] = on_host(who, name, array, dtype="floats")
    params, state, declared = _specs(net, x)
    parts = _parts(net, params, state, x)
    layers = [part for part in parts if part.kind != PARAMETER]
    single = [part for part in parts if part.kind == PARAMETER]
    single.sort(key=lambda part: declared.index(part.name))
    groups, alone = _groups(weights, {names.get(part.name) for part in single})
    _check_names(names, parts, list(groups | alone))
    groups = _joined(groups, len(layers), set(names.values()))
    outside = f"parameters outside of layers of kind {', '.join(KINDS)}"
    others = _paired(net, single, alone, names, outside)
    pairs = _paired(net, layers, groups, names, "layers with weights") + others
    if params_and_state is not None:
        with call(net.name, x):
            compare("params", params, params_and_state[0], x)
            compare("state", state, params_and_state[1], x)
    return net, weights, params, state, pairs


def _specs(net: Layer, x: PyTree) -> tuple[Params, State, list[str]]:
    """Return specs of params and state, and the paths of their leaves as they were declared."""
    declared: list[str] = []

    def init(key):
        params, state = net.init(key, x)
        declared.extend([*_leaves(params), *_leaves(state)])
        return params, state

    params, state = jax.eval_shape(init, key_spec())
    return params, state, declared


def _check_names(names: Mapping[str, str], parts: list[_Part], theirs: list[str]) -> None:
    """Raise if a name of ours, or of PyTorch, does not exist."""
    ours = [part.name for part in parts]
    unknown = [path for path in names if path not in ours]
    unknown += [name for name in names.values() if name not in theirs]
    if unknown:
        raise ValueError(
            f"torch weights: names has unknown entries: {', '.join(map(str, unknown))}; layers: "
            f"{', '.join(ours)}; in PyTorch: {', '.join(theirs)}"
        )


def _leaves(tree: PyTree, path: str = "") -> list[str]:
    """Return the paths of the leaves of nested dicts, in the order in which they were declared."""
    if not isinstance(tree, dict):
        return [path]
    leaves = []
    for name, below in tree.items():
        leaves += _leaves(below, f"{path}/{name}".strip("/"))
    return leaves


def _paired(
    net: Layer, parts: list[_Part], groups: _Groups, names: Mapping[str, str], what: str
) -> list[tuple[_Part, _Group]]:
    """Return each part with its weights: the weights of its name, or the next ones."""
    rest = [group for name, group in groups.items() if name not in names.values()]
    pairs = []
    for part in parts:
        if part.name not in names and not rest:
            raise ValueError(
                f"torch weights: {net.name}/{part.name} has no counterpart; the weights end after "
                f"{len(pairs)} {what}"
            )
        group = groups[names[part.name]] if part.name in names else rest.pop(0)
        if part.kind == PARAMETER:
            # under the name that it has here
            (entry,), (array,) = part.entries, group.entries.values()
            array = on_host("torch weights", group.prefix, array, dtype="floats")
            group = group._replace(entries={entry: array}, names={entry: [group.prefix]})
        _check(net, part, group)
        pairs.append((part, group))
    _check_swapped(net, [(part, group) for part, group in pairs if part.name not in names])
    if rest:
        unused = ", ".join(group.prefix or "the module" for group in rest[:8])
        raise ValueError(
            f"torch weights: unused: {unused}; {net.name} has {len(parts)} {what}. Remove them "
            "from the dict, or use the model that has them"
        )
    return pairs


def _check_swapped(net: Layer, pairs: list[tuple[_Part, _Group]]) -> None:
    """Raise if equal names on both sides are matched crosswise, though their shapes agree."""
    ours, theirs = _short_names(pairs)
    for name, other, (part, group) in zip(ours, theirs, pairs, strict=True):
        if other != name and other in ours and name in theirs:
            swapped, _ = pairs[ours.index(other)]
            right = pairs[theirs.index(name)][1].prefix
            raise ValueError(
                f"torch weights: {net.name}/{part.name} would get the weights of {group.prefix}, "
                f"although there are weights named {right}: layers are matched by their order. "
                f'Pass names={{"{part.name}": "{right}", "{swapped.name}": "{group.prefix}"}}, or, '
                "if the order is right, names with the pairs in order"
            )


def _check_decided(net: Layer, pairs: list[tuple[_Part, _Group]]) -> None:
    """Raise if weights could be exchanged and no name or number shows that they are not."""
    alike: dict[Any, list[_Named]] = {}
    for ours, theirs, (part, group) in zip(*_short_names(pairs), pairs, strict=True):
        if ours == theirs:
            continue
        outer = ours.rpartition(".")[0]
        same_module = outer == theirs.rpartition(".")[0]
        key = (*_shapes(part, group), outer if same_module else None)
        alike.setdefault(key, []).append(_Named(ours, theirs, part, group))
    unclear = []
    for same in alike.values():
        for first, second in pairwise(same):
            if not _in_order(first, second):
                unclear.append((first, second, same))
    if unclear:
        first, second, _ = unclear[0]
        pairs_in_order = {one.part.name: one.group.prefix for *_, same in unclear for one in same}
        raise ValueError(
            f"from_torch: {net.name}/{first.part.name} and {net.name}/{second.part.name} have "
            f"equal shapes, and the names {first.group.prefix} and {second.group.prefix} do not "
            "say which is which: PyTorch lists modules as they are declared, not as they are "
            "called. Pass outputs=module(x), in evaluation mode and for an x of numbers, which are "
            "compared. Or pass the right pairs; in order of declaration they are "
            f"names={pairs_in_order}"
        )


class _Named(NamedTuple):
    """A pair with the names of both sides, without what is the same in all names."""

    ours: str
    theirs: str
    part: _Part
    group: _Group


def _shapes(part: _Part, group: _Group) -> list[tuple[str, tuple[int, ...]]]:
    """Return the shape of each entry, by name; a parameter has any name and no axes of length 1."""
    if part.kind == PARAMETER:
        return [("", np.squeeze(array).shape) for array in group.entries.values()]
    return [(entry, np.shape(array)) for entry, array in sorted(group.entries.items())]


def _in_order(first: _Named, second: _Named) -> bool:
    """Return whether numbers in the names show that two pairs are in order."""
    crossed = _numbered(second.ours, first.ours)
    return _numbered(first.theirs, second.theirs) and not crossed


def _short_names(pairs: list[tuple[_Part, _Group]]) -> list[list[str]]:
    """Return our names and PyTorch's, without wrappers and without the modules around all."""
    modules = [group.module for _, group in pairs]
    ours = [part.name.replace("/", ".") for part, _ in pairs]
    theirs = []
    for _, group in pairs:
        is_only_one = modules.count(group.module) == 1
        theirs.append(group.module if is_only_one else group.prefix)
    return [_shortened(ours), _shortened(theirs)]


def _shortened(names: list[str]) -> list[str]:
    """Return names without wrappers and without the modules around all."""
    paths = [[word for word in name.split(".") if word not in WRAPPERS] for name in names]
    while paths and all(len(path) > 1 and path[0] == paths[0][0] for path in paths):
        paths = [path[1:] for path in paths]
    return [".".join(path) for path in paths]


def _numbered(name: str, after: str) -> bool:
    """Return whether numbers order two names, as "blocks.2.conv" and "blocks.10.norm"."""
    for word, other in zip(_words(name), _words(after), strict=False):
        if word != other:
            return word.isdecimal() and other.isdecimal() and int(word) < int(other)
    return False


def _words(name: str) -> list[str]:
    """Return a name divided at its numbers; the second direction of a recurrent layer is one."""
    back = "_reverse"
    return re.split(r"(\d+)", f"{name.removesuffix(back)}.{int(name.endswith(back))}")


def _groups(weights: dict[str, Any], named: set[str | None]) -> tuple[_Groups, _Groups]:
    """Return the arrays by their layers, and the arrays that are parameters by themselves.

    Args:
      named: Names of arrays that are parameters by themselves.
    """
    groups: _Groups = {}
    for name, array in weights.items():
        module, _, entry = name.rpartition(".")
        if name in named or entry == COUNTER:
            continue
        prefix, outer = module, module.rpartition(".")[0]
        if match := RECURRENT_ENTRY.fullmatch(entry):
            entry, layer = match.groups()
            prefix = ".".join(filter(None, (module, layer)))
        elif module.endswith("out_proj") and _is_attention(outer, weights):
            prefix, module, entry = outer, outer, f"out_proj.{entry}"
        group = groups.setdefault(prefix, _Group(prefix, module, {}, {}))
        group.entries[entry] = array
        group.names[entry] = [name]
    layers = {name: group for name, group in groups.items() if THEIRS & group.entries.keys()}
    used: set[str] = set()
    for group in layers.values():
        used.update(*group.names.values())
    alone = {}
    for name, array in weights.items():
        if name not in used and not name.endswith(COUNTER):
            alone[name] = _Group(name, name, {name: array}, {name: [name]})
    return layers, alone


def _is_attention(module: str, weights: dict[str, Any]) -> bool:
    """Return whether a module has the projections of attention."""
    names = [f"{module}.{which}_proj_weight".removeprefix(".") for which in ("in", "q")]
    return any(name in weights for name in names)


def _joined(groups: _Groups, count: int, protected: set[str]) -> _Groups:
    """Return the groups, joining groups that share all their arrays if there are too many."""
    if len(groups) <= count:
        return groups
    joined: _Groups = {}
    first: dict[frozenset, _Group] = {}  # by the addresses of the arrays
    for name, group in groups.items():
        addresses = frozenset((entry, id(array)) for entry, array in group.entries.items())
        other = first.setdefault(addresses, group)
        if other is group or name in protected:
            joined[name] = group
        else:
            for entry, places in group.names.items():
                other.names[entry].extend(places)
    return joined


def _check(net: Layer, part: _Part, group: _Group) -> None:
    where = f"torch weights: {net.name}/{part.name} and {group.prefix or 'the module'}"
    if part.kind != PARAMETER and not set(part.entries) <= torch_weights.ENTRIES[part.kind]:
        raise ValueError(
            f"{where}: expected a layer of kind {', '.join(KINDS)}, got one of kind {part.kind} "
            f"with {', '.join(part.entries)}"
        )
    theirs = _to_theirs(_blank(part.entries), part._replace(order=None))
    expected = sorted(theirs)
    got = sorted(group.entries)
    if expected != got:
        raise ValueError(
            f"{where}: expected {', '.join(expected)}, got {', '.join(got)}. If the orders "
            "differ, pass names={path: name in PyTorch}"
        )
    for entry, array in theirs.items():
        shape = np.shape(group.entries[entry])
        if part.kind == PARAMETER:  # axes of length 1 may differ
            fits = np.squeeze(array).shape == np.squeeze(group.entries[entry]).shape
        else:
            fits = array.shape == shape
        if not fits:
            raise ValueError(
                f"{where}: {entry} must have shape {array.shape}, got {shape}. If the orders "
                "differ, pass names={path: name in PyTorch}"
            )


def _blank(entries: dict[str, Any]) -> Entries:
    """Return zeros in the shapes of specs."""
    return {name: np.zeros(spec.shape, np.float32) for name, spec in entries.items()}


def _ordered(entries: Entries, part: _Part, order: np.ndarray | None) -> Entries:
    """Return the entries with the first axis reordered if a flatten has changed the order."""
    if order is None:
        return entries
    permuted = set(entries) if part.kind in NORMS else {"kernel"}
    ordered = dict(entries)
    for name in permuted & entries.keys():
        ordered[name] = entries[name][order]
    return ordered


def _grouped(entries: Entries, part: _Part, *, back: bool = False) -> Entries:
    """Return a transposed convolution's kernel; in PyTorch its groups are along the inputs."""
    if part.kind != "conv_transpose":
        return entries
    groups = part.inputs // part.entries["kernel"].shape[-2]
    if groups == 1:
        return entries
    # ours (*window, inputs / groups, features), theirs (*window, inputs, features / groups)
    divided, joined = (-2, -1) if back else (-1, -2)
    parts = np.split(entries["kernel"], groups, divided)
    return {**entries, "kernel": np.concatenate(parts, joined)}


def _to_theirs(ours: Entries, part: _Part) -> Entries:
    ordered = _ordered(ours, part, part.order)
    grouped = _grouped(ordered, part)
    return CONVERSIONS[part.kind].to_theirs(grouped)


def _to_ours(theirs: Entries, part: _Part) -> Entries:
    ours = CONVERSIONS[part.kind].to_ours(theirs, _blank(part.entries))
    grouped = _grouped(ours, part, back=True)
    order = None if part.order is None else np.argsort(part.order)
    return _ordered(grouped, part, order)


def _distance(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference, relative to their largest value; inf if the shapes differ.

    Their axes may be channels first or time first.
    """
    mine, theirs = mine + 0.0, theirs + 0.0  # booleans have no difference
    forms = [theirs]
    if theirs.ndim > 2:
        forms += [np.moveaxis(theirs, 1, -1), theirs.swapaxes(0, 1)]
    scale = max(np.abs(theirs).max(), 1e-30)
    errors = []
    for form in forms:
        if form.shape == mine.shape:
            errors.append(float(np.abs(mine - form).max() / scale))
    return min(errors, default=float("inf"))
