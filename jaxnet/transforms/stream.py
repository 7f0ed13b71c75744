"""A causal net over a sequence that arrives in chunks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, State, as_layer, transformed
from jaxnet.core.mode import Stream
from jaxnet.services.checks import abstract, at_least, check_dict, check_dtype, check_options
from jaxnet.services.trees import (
    PyTree,
    as_lines,
    describe,
    differences,
    flat,
    key_spec,
    with_entries,
)


def stream(
    net: Layer | Callable[..., Any],
    length: int | None = None,
    *,
    ragged: bool = False,
    dtype: Any = None,
) -> Layer:
    """Return a causal net that takes its sequence in chunks of any length.

    The params are the params of `net`. The state also holds what later chunks need: keys and values
    of attention, carries of recurrent layers, the last inputs of causal convolutions, and
    positions. Make the first state with `start_stream`. However you divide a sequence into chunks,
    the concatenated outputs equal the outputs for the whole sequence in evaluation.

    A layer whose outputs depend on later inputs raises an error. A function of your own is applied
    to each chunk as it is, so it must treat each step by itself. `jn.inspect.check_stream` finds
    functions that do not. Write `m.whole(layer, x)` for a part that gets its whole input at each
    call, such as an encoder. In a forward function, call a layer that keeps something for later
    chunks only once.

    Args:
      net: Any layer with inputs (batch, time, ...).
      length: Largest total number of steps. Needed only for attention without a window.
      ragged: Whether the input is (x, steps). The integers `steps`, of shape (batch,), give the
        number of valid steps of each example in this chunk. Later steps do not change the state,
        and their outputs are meaningless.
      dtype: Dtype of kept keys and values, such as jnp.bfloat16; None is that of the computation.

    Returns:
      A layer with inputs (batch, steps, ...), for any number of steps.

    Raises:
      ValueError: If a layer is not causal.
      ValueError: If `length` is missing and attention has no window.
      ValueError: If the sequence is longer than `length`. Inside `jit` the outputs beyond it are
        NaN.

    Example:
      >>> net = jn.serial(jn.multi_head_attention(2, causal=True, rotary=True), jn.gru(4))
      >>> x = jax.random.normal(jax.random.key(1), (3, 7, 8))
      >>> params, state = net.init(jax.random.key(0), x)
      >>> whole, _ = net.apply(params, state, x)
      >>> stream = jn.stream(net, length=7)
      >>> state = jn.start_stream(stream, x, state)
      >>> first, state = stream.apply(params, state, x[:, :5])
      >>> rest, state = stream.apply(params, state, x[:, 5:])
      >>> for part in (whole, first, rest):
      ...     print(np.asarray(part[0, :, 0]).round(3))
      [-0.382 -0.414 -0.361 -0.33  -0.381 -0.675 -0.56 ]
      [-0.382 -0.414 -0.361 -0.33  -0.381]
      [-0.675 -0.56 ]
    """
    net = as_layer(net, "stream", "net")
    at_least("stream", "length", length, optional=True)
    check_options("stream", ragged=ragged)
    if dtype is not None:
        check_dtype("stream", dtype)

    def in_stream(inputs):
        x, steps = _ragged(inputs) if ragged else (inputs, None)
        chunk = next((leaf.shape[:2] for leaf in jax.tree.leaves(x)), ())
        return x, Stream(length, dtype, steps, chunk)

    def init(run, key, inputs):
        x, stream = in_stream(inputs)
        return run.init(key, x, stream=stream)

    def apply(run, params, state, inputs):
        x, stream = in_stream(inputs)
        return run(params, state, x, stream=stream)

    return transformed(net, apply, kind="stream", init=init, clear=True, inputs=())


def start_stream(stream: Layer, x: PyTree, state: State | None = None) -> State:
    """Return the state of a stream before its first chunk.

    Args:
      stream: Layer made by `jn.stream`.
      x: Chunk or its spec, of any number of steps.
      state: State of the trained net, such as the statistics of batch norm; without it, the state
        of a fresh net.

    Returns:
      The entries of `state`, and zeros for what the stream keeps.

    Raises:
      ValueError: If `state` has an entry that the stream does not have, or whose shape differs.

    Example:
      >>> stream = jn.stream(jn.lstm(4))
      >>> jax.tree.map(jnp.shape, jn.start_stream(stream, jn.spec((2, 1, 3))))
      {'c': (2, 4), 'h': (2, 4)}
    """
    stream = as_layer(stream, "start_stream", "stream")
    old_state = {} if state is None else state
    check_dict("start_stream", "state", old_state)
    x = abstract(x, "start_stream")

    @jax.jit
    def first_state(key):
        _, state = stream.init(key, x)
        return state  # the compiled program holds no params: nothing depends on them

    fresh = first_state(jax.random.key(0))
    entries = dict(flat(old_state))
    expected = {path: np.shape(leaf) for path, leaf in flat(fresh) if path in entries}
    got = {path: np.shape(value) for path, value in entries.items()}
    wrong = differences(expected, got)
    if wrong:
        head = "start_stream: the state does not fit the stream:"
        raise ValueError("\n".join([head, *as_lines(wrong)]))
    return with_entries(fresh, entries)


def batch_axes(stream: Layer, x: PyTree) -> PyTree:
    """Return the batch axis of each entry of a stream's state.

    It is 0 in most layers, and 1 inside `repeat`, whose entries begin with the axis of layers. Use
    it to reorder, reset or replace the rows of a batch.

    Args:
      stream: Layer made by `jn.stream`.
      x: Chunk or its spec, with the batch axis first in every array.

    Returns:
      Integers in the structure of the state; -1 for an entry without a batch axis, such as running
      statistics.

    Example:
      Restart the second sequence of the batch:

      >>> stream = jn.stream(jn.repeat(jn.gru(4), 3))
      >>> x = jnp.ones((2, 5, 4))
      >>> params, state = stream.init(jax.random.key(0), x)
      >>> _, state = stream.apply(params, state, x)
      >>> axes = jn.transforms.batch_axes(stream, x)
      >>> axes
      {'h': 1}
      >>> def reset(leaf, axis):
      ...     return leaf if axis < 0 else leaf.swapaxes(0, axis).at[1].set(0).swapaxes(0, axis)
      >>> np.asarray(abs(jax.tree.map(reset, state, axes)["h"]).sum((0, 2))).round(2)
      array([3.34, 0.  ], dtype=float32)
    """
    x = abstract(x, "batch_axes")
    batch = next((leaf.shape[0] for leaf in jax.tree.leaves(x) if leaf.shape), 0)

    def grown(leaf):
        if leaf.shape[:1] != (batch,):
            return leaf
        return jax.ShapeDtypeStruct((batch + 1, *leaf.shape[1:]), leaf.dtype)

    def state_of(x):
        _, state = jax.eval_shape(stream.init, key_spec(), x)
        return state

    def axis(one, other):
        for axis, (size, larger) in enumerate(zip(one.shape, other.shape, strict=True)):
            if size != larger:
                return axis
        return -1

    return jax.tree.map(axis, state_of(x), state_of(jax.tree.map(grown, x)))


def _ragged(inputs: PyTree) -> tuple[PyTree, jax.Array]:
    """Return x and its steps; raise unless the input is such a pair."""
    if isinstance(inputs, tuple | list) and len(inputs) == 2:
        x, steps = inputs
        dtype = getattr(steps, "dtype", None)
        if dtype is not None and jnp.issubdtype(dtype, jnp.integer) and len(steps.shape) == 1:
            return x, steps
    raise ValueError(
        "stream: with ragged=True the input is (x, steps), with integers (batch,), got "
        f"{describe(inputs)}"
    )
