"""Ranges that training does not complain about: probabilities for logits, pixels from 0 to 255."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State
from jaxnet.services.checks import concrete_values
from jaxnet.services.jaxprs import follow
from jaxnet.services.trees import PyTree, memo_of, shapes_of
from jaxnet.services.warn import warn
from jaxnet.training.evaluation_trace import read_from_trace
from jaxnet.training.objective import Supervised, supervised_in

# What leaves the numbers of an array as they are.
MOVES = {
    "broadcast_in_dim", "convert_element_type", "copy", "reshape", "rev", "slice", "squeeze",
    "transpose",
}  # fmt: skip
EXAMPLES = 8  # that show whether a loss takes logits
LEAST_OF_PIXELS, MOST_OF_PIXELS = 128, 255  # of the largest; a table may hold smaller counts
COLUMNS = 64  # of pictures as rows, at least
PIXELS = "pixels from 0 to 255"  # what a net notes of its first input
HIGH_LOSS = 10.0  # of a net that starts: a cross entropy of 1,000 classes starts at 7


def last_function(net: Layer, params: Params, state: State, x: PyTree) -> str:
    """Return "a sigmoid" or "a softmax" if the output of a net is one, otherwise "".

    Args:
      net: Any layer.
      params, state: Its params and state, or their shapes.
      x: Its input, or the shapes of it.

    Example:
      >>> net, x = jn.serial(jn.dense(4), jax.nn.softmax), jn.spec((2, 3))
      >>> last_function(net, *net.init(jax.random.key(0), x), x)
      'a softmax'
    """
    return read_from_trace(_last_function, net, params, state, x)


def _last_function(program: Any, examples: int) -> str:
    if len(program.jaxpr.outvars) != 1:
        return ""
    (fact,) = follow(program, [""] * len(program.jaxpr.invars), _rule, "")
    return fact if fact.startswith("a ") else ""


def _rule(eqn: Any, known: list[str], inside: list[list[str]]) -> Sequence[str]:
    """Return for each result the function whose values it has, or a part of a softmax."""
    count = len(eqn.outvars)
    name = eqn.primitive.name
    if name == "logistic":
        return ["a sigmoid"]
    if name == "exp":
        return ["exp"]
    if name == "reduce_sum" and known[0] == "exp":
        return ["sum of exp"]
    if name == "div" and known == ["exp", "sum of exp"]:
        return ["a softmax"]
    if name in MOVES:
        return [known[0]]
    bodies = [results for results in inside if len(results) == count]
    return bodies[0] if bodies and name not in ("scan", "while") else [""] * count


def takes_logits(loss: Layer, y: jax.Array, targets: PyTree) -> bool:
    """Return whether a loss takes logits: from the best corner of [0, 1] it falls further.

    Args:
      loss: Layer of (outputs, targets).
      y: Outputs in [0, 1].
      targets: Targets of these outputs.

    Example:
      >>> parts = supervised_in(jn.supervised(jn.dense(3), jn.losses.cross_entropy))
      >>> takes_logits(parts.loss, jnp.ones((2, 3)) / 3, jnp.array([0, 2]))
      True
    """

    def mean(y):
        return values_of(loss, y, targets).mean()

    slope = jax.grad(mean)(y)
    corner = (slope < 0).astype(y.dtype)
    near, far = float(mean(corner)), float(mean(3 * corner - 1))
    return far < near and near > 1e-3


def values_of(layer: Layer, y: jax.Array, targets: PyTree) -> jax.Array:
    """Return the values of a loss or of a metric.

    Example:
      >>> parts = supervised_in(jn.supervised(jn.dense(3), jn.losses.half_squared_error))
      >>> values_of(parts.loss, jnp.ones((2, 3)), jnp.zeros((2, 3))).tolist()
      [1.5, 1.5]
    """
    result, _ = layer.apply({}, {}, (y, targets))
    return jax.tree.leaves(result)[0]


def check_probabilities(
    who: str, parts: Supervised, params: Params, state: State, batch: PyTree
) -> None:
    """Warn once about a net that ends in a sigmoid or softmax under a loss that takes logits.

    Args:
      who: Name of the function.
      parts: Net and loss of an objective.
      params, state: Params and state of the net.
      batch: Examples with targets.
    """
    x, _ = parts.split(batch)
    function = last_function(parts.net, params, state, x)
    if not function:
        return

    def find() -> bool:
        some = jax.tree.map(lambda leaf: leaf[:EXAMPLES], batch)
        if any(concrete_values(leaf) is None for leaf in jax.tree.leaves(some)):
            return False
        x, targets = parts.split(some)
        shape = jax.eval_shape(parts.net.apply, *shapes_of((params, state, x)))[0]
        drawn = np.random.default_rng(0).uniform(0.1, 0.9, shape.shape)
        found = takes_logits(parts.loss, jnp.asarray(drawn, shape.dtype), targets)
        if found:
            warn(
                f"{who}: the net ends in {function}, but {parts.loss.kind} takes logits and "
                "applies its own, so the loss cannot fall far. Leave the function out of the net. "
                "For probabilities, apply it to the outputs of jn.predict"
            )
        return found

    memo_of(parts.net.apply).of(("logits", parts.loss.apply), find)


def pixel_hint(x: PyTree) -> str:
    """Return the range of an input that holds pixels from 0 to 255; otherwise "".

    Example:
      >>> pixel_hint(np.arange(256.0).reshape(4, 8, 8))
      'x holds whole numbers from 0 to 255, like pixels'
    """
    for leaf in jax.tree.leaves(x):
        values = concrete_values(leaf)
        if values is None or not values.size or values.dtype.kind not in "fu":
            continue
        if values.ndim < 2 or (values.ndim == 2 and values.shape[1] < COLUMNS):
            continue
        values = values[: 8 * EXAMPLES]
        least, most = values.min(), values.max()
        if least >= 0 and LEAST_OF_PIXELS <= most <= MOST_OF_PIXELS and (values % 1 == 0).all():
            return f"x holds whole numbers from {least:g} to {most:g}, like pixels"
    return ""


def note_pixels(net: Layer, x: PyTree) -> None:
    """Look at the first input of a net that a run has, for `warn_pixels`."""
    memo_of(net.apply).of(PIXELS, lambda: pixel_hint(x))


def warn_pixels(who: str, objective: Layer | None, loss: float) -> None:
    """Warn if a run starts with a high loss on pixels from 0 to 255.

    Args:
      who: Name of the function.
      objective: Objective that is trained.
      loss: First loss.
    """
    parts = supervised_in(objective)
    if parts is None or not loss > HIGH_LOSS:
        return
    if hint := memo_of(parts.net.apply).of(PIXELS, str):
        warn(f"{who}: {pixel_sentence(loss, hint)}")


def pixel_sentence(loss: float, hint: str) -> str:
    """Return what to say of a hint if the first loss is high.

    Example:
      >>> pixel_sentence(55.34, "x holds pixels")
      'the first loss is 55.34, and x holds pixels: write x / 255'
    """
    return f"the first loss is {loss:.4g}, and {hint}: write x / 255"
