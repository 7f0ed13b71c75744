"""Objects of Flax NNX, which functions change in place: inside a trace they are values."""

import sys
from collections.abc import Callable
from typing import Any

import jax

from jaxnet.services.trees import among, joined, without


def with_values(function: Callable, args: Any, apply: Callable) -> Any:
    """Return apply(function, args), where the function sees objects of NNX, and JAX their values.

    What the function changes in an object is written back into it.

    Args:
      function: Function of one argument.
      args: Its argument, a pytree that may contain modules, optimizers or metrics of NNX.
      apply: Function (function, its argument) -> result, in which the function is traced.

    Example:
      >>> with_values(lambda args: args["x"] + 1, {"x": 2}, lambda f, args: f(args))
      3
    """
    nnx: Any = sys.modules.get("flax.nnx")  # an object of NNX exists only if it is imported
    names = [name for name in ("Pytree", "Object") if hasattr(nnx, name)]
    kinds = tuple(getattr(nnx, name) for name in names)

    def is_object(leaf: Any) -> bool:
        return isinstance(leaf, kinds)

    leaves, structure = jax.tree.flatten(args, is_leaf=is_object)
    are_objects = [is_object(leaf) for leaf in leaves]
    objects = among(are_objects, leaves)
    if not objects:
        return apply(function, args)
    graph, values = nnx.split(objects)  # one graph, since objects may share others

    def of_values(values_and_leaves: Any) -> tuple:
        values, others = values_and_leaves
        inside = nnx.merge(graph, values)
        every = joined(are_objects, inside, others)
        result = function(jax.tree.unflatten(structure, every))
        return result, nnx.state(inside)

    result, values = apply(of_values, (values, without(are_objects, leaves)))
    nnx.update(objects, values)
    return result
