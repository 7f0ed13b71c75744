"""Several inputs of a layer: the parts of a tuple in order, or of a dict by name."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxnet.core.contract import Layer
from jaxnet.core.errors import here
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

    def __call__(self, m: Any, given: PyTree) -> PyTree:
        parts = self._parts(given)
        known = inspect.signature(self.forward).parameters
        missing = [n for n in self.names if n not in parts and known[n].default is known[n].empty]
        if missing:
            form = ", ".join(self.names)
            raise TypeError(
                f"{here()}: needs the inputs ({form}), got {describe(given)} without "
                f"{' and '.join(missing)}. Write net.apply(params, state, ({form})), or "
                f"m(net, {form}) inside a model"
            )
        by_name = {n: parts.pop(n) for n in [*parts] if known[n].kind is known[n].KEYWORD_ONLY}
        return self.forward(m, *(parts.get(n) for n in self.names if n not in by_name), **by_name)

    def _parts(self, given: PyTree) -> dict[str, PyTree]:
        """Return the inputs by name; None is one that is not there."""
        if isinstance(given, dict):
            check_names(self.names, given, f"the dict {describe(given)}")
            parts = given
        else:
            parts = given if isinstance(given, tuple | list) else (given,)
            if len(parts) > len(self.names):
                raise TypeError(
                    f"{here()}: has the inputs ({', '.join(self.names)}), got {len(parts)}: "
                    f"{describe(given)}. An input that is a tuple itself goes into another one, "
                    f"as in ({self.names[0]},)"
                )
            parts = dict(zip(self.names, parts, strict=False))
        return {name: part for name, part in parts.items() if part is not None}


def check_names(names: tuple[str, ...], given: Any, what: str) -> None:
    """Raise unless all of these are names of inputs."""
    for name in [name for name in given if name not in names]:
        write = instead(name, list(names))
        raise TypeError(f"{here()}: {what} has no input of that name: {name}; {write}")


def gathered(layer: Layer, inputs: tuple[PyTree, ...], named: dict[str, Any]) -> PyTree:
    """Return what `m(layer, *inputs, **named)` gives the layer: one pytree."""
    if len(inputs) == 1 and not named:
        return inputs[0]
    names, given = layer.inputs, ", ".join([f"{len(inputs)} inputs", *named])
    if not (inputs or named) or len(inputs) > len(names) > 0:
        raise TypeError(f"{here()}: {layer.name} takes ({', '.join(names) or 'x'}), got {given}")
    if named and not names:
        raise TypeError(
            f"{here()}: {layer.name} has one input without a name, got {given}. Write "
            f"m({layer.name}, (x, y)), or make it by jn.compose from a function forward(m, x, y)"
        )
    if not names:
        return inputs
    check_names(names, named, f"m({layer.name}, ...)")
    parts = dict(zip(names, inputs, strict=False))
    if twice := [name for name in named if name in parts]:
        raise TypeError(f"{here()}: {layer.name} got its input {twice[0]} twice")
    return {name: part for name, part in (parts | named).items() if part is not None}


def spread(forward: Callable[..., PyTree]) -> tuple[Callable[..., PyTree], tuple[str, ...]]:
    """Return a function of `m` and one pytree, and the names of its parts if it has several."""
    names = inputs_of(forward)
    return (Several(forward, names), names) if len(names) > 1 else (forward, ())
