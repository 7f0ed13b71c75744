"""The program of a net in evaluation, traced once for all that is read from it."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple

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
    traced, key = _trace_once(net, params, state, x)
    if traced is None:
        return ""
    return memo_of(net.apply).of((read, key), lambda: read(traced.program, traced.examples))


def output_shapes(net: Layer, params: Params, state: State, x: PyTree) -> PyTree | None:
    """Return the shapes of a net's outputs in evaluation, by the same trace.

    Args:
      net, params, state, x: As for `read_from_trace`, but here the number of examples counts.

    Returns:
      The outputs as shapes; None if an input has no axis of examples, if the net raises, or if
      another axis than the first depends on their number.

    Example:
      >>> net, x = jn.dense(4), jn.spec((2, 3))
      >>> shapes = jax.eval_shape(net.init, jax.random.key(0), x)
      >>> output_shapes(net, *shapes, x).shape
      (2, 4)
    """
    traced, _ = _trace_once(net, params, state, x)
    if traced is None:
        return None
    leaves, structure = jax.tree.flatten(traced.outputs)
    if any(size % traced.examples == 0 for leaf in leaves for size in leaf.shape[1:]):
        return None
    if any(leaf.shape[:1] != (traced.examples,) for leaf in leaves):
        return None
    examples = len(jax.tree.leaves(x)[0])
    return jax.tree.unflatten(structure, [_resized(leaf, examples) for leaf in leaves])


class _Traced(NamedTuple):
    """The jaxpr of a net's outputs, their shapes, and the batch size of both."""

    program: Any
    outputs: PyTree
    examples: int


def _trace_once(
    net: Layer, params: Params, state: State, x: PyTree
) -> tuple[_Traced | None, Hashable]:
    """Return the trace of a net, None if there is none, and a key of all that it depends on."""
    inputs = shapes_of(x)
    if any(not leaf.shape for leaf in jax.tree.leaves(inputs)):
        return None, None
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), inputs)
    key = signature((params, state, one))
    make = partial(_traced, net, params, state, inputs)
    return memo_of(net.apply).of(("trace", key), make), key


def _traced(net: Layer, params: Params, state: State, inputs: PyTree) -> _Traced | None:
    examples = _batch_size(params, state, inputs)

    def outputs(params, state, x):
        y, _ = net.apply(params, state, x)
        return y

    resized = jax.tree.map(lambda leaf: _resized(leaf, examples), inputs)
    trace = jax.make_jaxpr(outputs, return_shape=True)
    found = trace_or_none(trace, *shapes_of((params, state)), resized)
    if found is None:
        return None
    program, shapes = found
    return _Traced(program, shapes, examples)


def _resized(leaf: Any, examples: int) -> jax.ShapeDtypeStruct:
    """Return a shape with another number of examples."""
    return jax.ShapeDtypeStruct((examples, *leaf.shape[1:]), leaf.dtype)


def _batch_size(params: Params, state: State, x: PyTree) -> int:
    """Return a prime that divides no size of the net, apart from the batch size."""
    sizes = [size for leaf in jax.tree.leaves((params, state)) for size in jnp.shape(leaf)]
    sizes += [size for leaf in jax.tree.leaves(x) for size in leaf.shape[1:]]
    return next((p for p in PRIMES if all(size % p for size in sizes)), PRIMES[-1])
