"""Nets whose outputs for an example depend on the other examples of its batch, in evaluation.

Their predictions and metrics change with the batch size. A trace shows it.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxnet.core import Layer, Params, State
from jaxnet.services.jaxprs import follow
from jaxnet.services.trees import PyTree
from jaxnet.services.warn import warn
from jaxnet.training.evaluation_trace import read_from_trace
from jaxnet.training.objective import supervised_in

# What combines numbers along an axis, in words, and where its equation says which axes.
ALONG = {
    "reduce_sum": ("a sum", "axes"),
    "reduce_max": ("a maximum", "axes"),
    "reduce_min": ("a minimum", "axes"),
    "reduce_prod": ("a product", "axes"),
    "argmax": ("an argmax", "axes"),
    "argmin": ("an argmin", "axes"),
    "cumsum": ("a running sum", "axis"),
    "cumprod": ("a running product", "axis"),
    "cummax": ("a running maximum", "axis"),
    "cummin": ("a running minimum", "axis"),
    "cumlogsumexp": ("a running sum", "axis"),
    "sort": ("a sort", "dimension"),
}


def mixing_hint(net: Layer, params: Params, state: State, x: PyTree) -> str:
    """Return what along the axis of the examples an output depends on; "" if nothing is found.

    Args:
      net: Any layer.
      params, state: Its params and state, or their shapes.
      x: Its input, batch axis first, or the shapes of it.

    Example:
      >>> net, x = jn.serial(jn.dense(4), lambda z: z - z.mean(0)), jn.spec((2, 3))
      >>> mixing_hint(net, *net.init(jax.random.key(0), x), x)
      'a sum over axis 0 of (batch, 4)'
    """
    return read_from_trace(_first_mixing, net, params, state, x)


def _first_mixing(program: Any, examples: int) -> str:
    """Return in words the first operation along examples on which a result of each depends."""

    def rule(eqn: Any, known: list[str], inside: list[list[str]]) -> Sequence[str]:
        count = len(eqn.outvars)
        if words := _mixes(eqn, examples):
            return [words] * count
        bodies = [results for results in inside if len(results) == count]
        is_loop = eqn.primitive.name in ("scan", "while")  # carries one result to the others
        if bodies and not is_loop:
            return [next(filter(None, each), "") for each in zip(*bodies, strict=True)]
        of_bodies = [words for results in inside for words in results]
        return [next(filter(None, [*known, *of_bodies]), "")] * count

    inputs = [""] * len(program.jaxpr.invars)
    results = zip(program.jaxpr.outvars, follow(program, inputs, rule, ""), strict=True)
    # A mean of all examples is meant as one.
    return next((words for y, words in results if words and y.aval.shape[:1] == (examples,)), "")


def _mixes(eqn: Any, examples: int) -> str:
    """Return in words what an equation combines along examples; "" if it does not."""
    name = eqn.primitive.name
    if name == "dot_general":
        (left, right), _ = eqn.params["dimension_numbers"]
        for variable, axes in zip(eqn.invars, (left, right), strict=True):
            if words := _along(variable, axes, examples):
                return f"a product over {words}"
    if name in ALONG:
        what, parameter = ALONG[name]
        axes = eqn.params[parameter]
        axes = axes if isinstance(axes, Sequence) else [axes]
        if words := _along(eqn.invars[0], axes, examples):
            return f"{what} over {words}"
    return ""


def _along(variable: Any, axes: Sequence[int], examples: int) -> str:
    """Return the first of these axes that has examples, in words."""
    shape = variable.aval.shape
    if not jnp.issubdtype(variable.aval.dtype, jnp.inexact):
        return ""  # counts and orders, as of experts
    for axis in axes:
        if shape[axis] and shape[axis] % examples == 0:
            words = ["batch" if size == examples else str(size) for size in shape]
            return f"axis {axis} of ({', '.join(words)})"
    return ""


def check_mixing(who: str, net: Layer, params: Params, state: State, x: PyTree) -> None:
    """Warn if outputs depend on the other examples of a batch, and so on the batch size."""
    if hint := mixing_hint(net, params, state, x):
        warn(
            f"{who}: in evaluation, the outputs of an example depend on the other examples of its "
            f"batch, by {hint}. So they change with batch_size. Reduce the other axes alone, as in "
            "z.mean(-1); jn.inspect.doctor names the layer"
        )


def check_mixing_of(
    who: str, objective: Layer, params: Params, state: State, batch: PyTree
) -> None:
    """Do the same for the net of an objective."""
    parts = supervised_in(objective)
    if parts is not None:
        x, _ = parts.split(batch)
        check_mixing(who, parts.net, params, state, x)
