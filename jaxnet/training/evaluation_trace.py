"""The program of a net in evaluation, traced once for all that is read from it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, Params, State
from jaxnet.services.trees import PyTree, memo_of, shapes_of, signature
from jaxnet.training.objective_trace import trace_or_none

# Batch sizes for the trace. Small ones, since a net may have a loop over its examples.
PRIMES = (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61)


class EvaluationTrace(NamedTuple):
    """A traced net.

    Fields:
      program: Jaxpr of its outputs; None if the net has inputs without an axis of examples, or
        raises.
      examples: Batch size, which divides no other size of the net: so an axis of examples is known
        by its size.
    """

    program: Any
    examples: int


def evaluation_trace(net: Layer, params: Params, state: State, x: PyTree) -> EvaluationTrace:
    """Return the trace of a net's outputs, made once for each net and shapes.

    Args:
      net: Any layer.
      params, state: Its params and state, or their shapes.
      x: Its input, batch axis first, or the shapes of it; the number of examples does not count.

    Example:
      >>> net, x = jn.dense(4), jn.spec((2, 3))
      >>> evaluation_trace(net, *net.init(jax.random.key(0), x), x).examples
      11
    """
    one_batch = shapes_of(x)
    if any(not leaf.shape for leaf in jax.tree.leaves(one_batch)):
        return EvaluationTrace(None, 0)
    examples = _batch_size(params, state, one_batch)

    def resized(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct((examples, *leaf.shape[1:]), leaf.dtype)

    def outputs(params, state, x):
        y, _ = net.apply(params, state, x)
        return y

    shapes = *shapes_of((params, state)), jax.tree.map(resized, one_batch)

    def trace() -> EvaluationTrace:
        return EvaluationTrace(trace_or_none(jax.make_jaxpr(outputs), *shapes), examples)

    return memo_of(net.apply).of(("evaluation", signature(shapes)), trace)


def _batch_size(params: Params, state: State, x: PyTree) -> int:
    """Return a prime that divides no size of the net, apart from the batch size."""
    sizes = [size for leaf in jax.tree.leaves((params, state)) for size in jnp.shape(leaf)]
    sizes += [size for leaf in jax.tree.leaves(x) for size in leaf.shape[1:]]
    return next((p for p in PRIMES if all(size % p for size in sizes)), PRIMES[-1])
