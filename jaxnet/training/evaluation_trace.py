"""The program of a net in evaluation, traced once for all that is read from it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, Params, State
from jaxnet.services.trees import PyTree, memo_of, shapes_of, signature
from jaxnet.training.objective_trace import trace_or_none

# Batch sizes for the trace. Small ones, since a net may have a loop over its examples.
PRIMES = (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61)


def read_from_trace(
    read: Callable[[Any, int], str], net: Layer, params: Params, state: State, x: PyTree
) -> str:
    """Return what a function reads from the trace of a net's outputs; each net is read once.

    Args:
      read: Function of the jaxpr of the outputs and of its batch size, which divides no other size
        of the net: so an axis of examples is known by its size.
      net: Any layer.
      params, state: Its params and state, or their shapes.
      x: Its input, batch axis first, or the shapes of it; the number of examples does not count.

    Returns:
      What `read` returns; "" if an input has no axis of examples, or the net raises.

    Example:
      >>> net, x = jn.dense(4), jn.spec((2, 3))
      >>> shapes = jax.eval_shape(net.init, jax.random.key(0), x)
      >>> read_from_trace(lambda program, examples: f"a batch of {examples}", net, *shapes, x)
      'a batch of 11'
    """
    inputs = shapes_of(x)
    if any(not leaf.shape for leaf in jax.tree.leaves(inputs)):
        return ""
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), inputs)
    memo, key = memo_of(net.apply), signature((params, state, one))

    def read_once() -> str:
        program, examples = memo.of(("trace", key), lambda: _traced(net, params, state, inputs))
        return "" if program is None else read(program, examples)

    return memo.of((read, key), read_once)


def _traced(net: Layer, params: Params, state: State, inputs: PyTree) -> tuple[Any, int]:
    """Return the jaxpr of a net's outputs, None if it raises, and its batch size."""
    examples = _batch_size(params, state, inputs)

    def resized(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct((examples, *leaf.shape[1:]), leaf.dtype)

    def outputs(params, state, x):
        y, _ = net.apply(params, state, x)
        return y

    shapes = *shapes_of((params, state)), jax.tree.map(resized, inputs)
    return trace_or_none(jax.make_jaxpr(outputs), *shapes), examples


def _batch_size(params: Params, state: State, x: PyTree) -> int:
    """Return a prime that divides no size of the net, apart from the batch size."""
    sizes = [size for leaf in jax.tree.leaves((params, state)) for size in jnp.shape(leaf)]
    sizes += [size for leaf in jax.tree.leaves(x) for size in leaf.shape[1:]]
    return next((p for p in PRIMES if all(size % p for size in sizes)), PRIMES[-1])
