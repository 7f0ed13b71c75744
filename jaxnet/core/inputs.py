"""Several inputs of a layer: the parts of a tuple in order, or of a dict by name."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxnet.core.contract import Layer
from jaxnet.core.errors import current_path
from jaxnet.services.checks.keywords import instead
from jaxnet.services.functions import inputs_of
from jaxnet.services.trees import PyTree, describe


class Several(NamedTuple):
    """A forward function of several inputs, as a function of `m` and one pytree.

    Fields:
      forward: Function of `m` and the inputs.
      names: Their names.
    """

    forward: Callable[..., PyTree]
    names: tuple[str, ...]

    def __call__(self, m: Any, inputs: PyTree) -> PyTree:
        parts = parts_by_name(self.names, inputs)
        parameters = inspect.signature(self.forward).parameters
        missing = [
            n for n in self.names if n not in parts and parameters[n].default is parameters[n].empty
        ]
        if missing:
            form = ", ".join(self.names)
            raise TypeError(
                f"{current_path()}: needs the inputs ({form}), got {describe(inputs)} without "
                f"{' and '.join(missing)}. Write net.apply(params, state, ({form})), or "
                f"m(net, {form}) inside a model"
            )
        by_name = {
            n: parts.pop(n) for n in [*parts] if parameters[n].kind is parameters[n].KEYWORD_ONLY
        }
        return self.forward(m, *(parts.get(n) for n in self.names if n not in by_name), **by_name)


def parts_by_name(names: tuple[str, ...], inputs: PyTree) -> dict[str, PyTree]:
    """Return the inputs of a layer by name; an input that is None is left out.

    Args:
      names: Names of the inputs.
      inputs: A tuple or list in the order of the names, a dict by name, or the first input alone,
        which may be a record (a NamedTuple).

    Raises:
      TypeError: If there are more inputs than names, or one of another name.

    Example:
      >>> parts_by_name(("x", "mask"), (1, None)), parts_by_name(("x", "mask"), {"mask": 2, "x": 1})
      ({'x': 1}, {'mask': 2, 'x': 1})
    """
    if isinstance(inputs, dict):
        alone = f". An input that is a dict itself goes into a tuple, as in ({names[0]},)"
        check_names(names, inputs, f"the dict {describe(inputs)}", alone)
        parts = inputs
    else:
        is_record = hasattr(inputs, "_fields")
        are_parts = isinstance(inputs, tuple | list) and not is_record
        parts = inputs if are_parts else (inputs,)
        if len(parts) > len(names):
            raise TypeError(
                f"{current_path()}: has the inputs ({', '.join(names)}), got {len(parts)}: "
                f"{describe(inputs)}. An input that is a tuple itself goes into another one, "
                f"as in ({names[0]},)"
            )
        parts = dict(zip(names, parts, strict=False))
    return {name: part for name, part in parts.items() if part is not None}


def check_names(names: tuple[str, ...], candidates: Any, what: str, hint: str = "") -> None:
    """Raise unless all of these are names of inputs."""
    for name in [name for name in candidates if name not in names]:
        write = f"{instead(name, list(names))}{hint}"
        raise TypeError(f"{current_path()}: {what} has no input of that name: {name}; {write}")


def gathered(layer: Layer, inputs: tuple[PyTree, ...], named: dict[str, Any]) -> PyTree:
    """Return what `m(layer, *inputs, **named)` gives the layer: one pytree."""
    if len(inputs) == 1 and not named:
        return inputs[0]
    names, arguments = layer.inputs, ", ".join([f"{len(inputs)} inputs", *named])
    if not (inputs or named) or len(inputs) > len(names) > 0:
        raise TypeError(
            f"{current_path()}: {layer.name} takes ({', '.join(names) or 'x'}), got {arguments}"
        )
    if named and not names:
        raise TypeError(
            f"{current_path()}: {layer.name} has one input without a name, got {arguments}. Write "
            f"m({layer.name}, (x, y)), or make it by jn.compose from a function forward(m, x, y)"
        )
    if not names:
        return inputs
    check_names(names, named, f"m({layer.name}, ...)")
    parts = dict(zip(names, inputs, strict=False))
    if twice := [name for name in named if name in parts]:
        raise TypeError(f"{current_path()}: {layer.name} got its input {twice[0]} twice")
    return _as_input(names, parts | named)


# Layers of sequences take (x, lengths) as one input, and return (y, lengths) or y.
OF_SEQUENCES = {
    "bidirectional", "gru", "hmm", "last_step", "lstm", "recurrent", "rnn", "stack_rnn",
    "time_distributed",
}  # fmt: skip


def inputs_of_all(layers: Sequence[Layer | Callable[..., PyTree]]) -> tuple[str, ...]:
    """Return the inputs of a chain of layers: the first one, and all further ones of its layers."""
    all_names = [getattr(layer, "inputs", ()) for layer in layers]
    further = dict.fromkeys(name for names in all_names for name in names[1:])
    if not further:
        return all_names[0] if all_names else ()
    first = all_names[0][0] if all_names[0] else "x"
    return (first, *(name for name in further if name != first))


def first_and_further(names: tuple[str, ...], inputs: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
    """Return the input that is passed on from layer to layer, and the further ones by name."""
    if len(names) < 2:
        return inputs, {}
    parts = parts_by_name(names, inputs)
    if names[0] not in parts:
        raise TypeError(f"{current_path()}: needs the input {names[0]}, got {describe(inputs)}")
    return parts.pop(names[0]), parts


def _as_input(names: tuple[str, ...], parts: dict[str, PyTree]) -> PyTree:
    """Return the input of a layer: a dict of its parts, or the first one if it is alone."""
    parts = {name: part for name, part in parts.items() if part is not None}
    first = parts.get(names[0])
    is_alone = len(parts) == 1 and first is not None
    return first if is_alone and not isinstance(first, tuple | list | dict) else parts


def with_further(names: tuple[str, ...], x: PyTree, further: dict[str, PyTree]) -> PyTree:
    """Return the whole input of a layer: x, and the further inputs that it has a name for."""
    accepted = {name: part for name, part in further.items() if name in names[1:]}
    return _as_input(names, {names[0]: x, **accepted}) if accepted else x


def call_with(m: Any, layer: Any, x: PyTree, further: dict[str, PyTree]) -> PyTree:
    """Return `m(layer, x)`, where a layer of a chain gets the further inputs that it has."""
    if not isinstance(layer, Layer):
        return m(layer, x)
    if layer.kind in OF_SEQUENCES and "mask" in further:
        y = m(layer, (x, further["mask"]))
        return y[0] if isinstance(y, tuple) else y
    return m(layer, with_further(layer.inputs, x, further))


def spread(forward: Callable[..., PyTree]) -> tuple[Callable[..., PyTree], tuple[str, ...]]:
    """Return a function of `m` and one pytree, and the names of its parts if it has several."""
    names = inputs_of(forward)
    return (Several(forward, names), names) if len(names) > 1 else (forward, ())
