"""A check that a net gives the same outputs in chunks as from the whole sequence."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State
from jaxnet.services.checks import within
from jaxnet.services.meshes import on_auto_axes
from jaxnet.services.trees import PyTree
from jaxnet.transforms.observing import observe
from jaxnet.transforms.stream import start_stream, stream

Calls = list[tuple[str, Any]]  # (path, output) of each call, in the order in which calls end


@on_auto_axes
def check_stream(
    net: Layer,
    params: Params,
    state: State,
    x: PyTree,
    *,
    length: int | None = None,
    tolerance: float = 1e-4,
) -> None:
    """Raise an error if chunks of a sequence give different outputs from the whole sequence.

    `jn.stream` applies functions of your own to each chunk as they are. This check finds functions
    that need more than one step, such as a sum over time.

    Args:
      net: Layer for `jn.stream`.
      params, state: Params and state of the net.
      x: Batch of sequences of at least two steps, (batch, time, ...); the first of several inputs.
      length: Length of `jn.stream`; the number of steps of x by default.
      tolerance: Largest difference, relative to the largest output of each layer.

    Raises:
      ValueError: If the outputs of a layer differ; the message names the first layer, in the order
        in which calls end.

    Example:
      >>> net = jn.serial(jn.dense(3), lambda x: jnp.cumsum(x, 1))
      >>> x = jnp.ones((2, 5, 4))
      >>> params, state = net.init(jax.random.key(0), x)
      >>> jn.inspect.check_stream(net, params, state, x)
      Traceback (most recent call last):
      ...
      ValueError: check_stream: the outputs of serial/lambda differ in a stream by ...
    """
    within("check_stream", "tolerance", tolerance, "(0, inf)")
    leaves, structure = jax.tree.flatten(x)
    if not leaves or jnp.ndim(leaves[0]) < 2 or leaves[0].shape[1] < 2:
        raise ValueError("check_stream: x must be sequences of two steps or more, (batch, time)")
    time = leaves[0].shape[1]

    def part(start: int, stop: int) -> PyTree:
        return jax.tree.unflatten(structure, [leaves[0][:, start:stop], *leaves[1:]])

    calls: list[tuple[str, Any]] = []

    def see(path, layer, x, y):
        calls.append(("/".join((net.name, *path)), y))
        return y

    watched = observe(net, see)
    watched.apply(params, state, x)
    full_sequence = calls.copy()
    streamed = stream(watched, time if length is None else length)
    stream_state = start_stream(streamed, part(0, 1), state)
    calls.clear()
    _, stream_state = streamed.apply(params, stream_state, part(0, time // 2))
    first = calls.copy()
    calls.clear()
    streamed.apply(params, stream_state, part(time // 2, time))
    _compare(full_sequence, first, calls, leaves[0].shape[:2], tolerance)


def _compare(
    full_sequence: Calls,
    first: Calls,
    second: Calls,
    batch_and_time: tuple[int, ...],
    tolerance: float,
) -> None:
    """Raise an error if the outputs of a call differ between the whole sequence and its chunks."""
    last, _ = full_sequence[-1]
    timeless = ""
    for (path, y), (_, y_first), (_, y_second) in zip(full_sequence, first, second, strict=True):
        outputs = map(jax.tree.leaves, (y, y_first, y_second))
        for all_steps, *parts in zip(*outputs, strict=True):
            far = _distance(np.asarray(all_steps) + 0.0, [np.asarray(a) + 0.0 for a in parts])
            if far <= tolerance * max(1e-30, np.abs(all_steps).max(initial=0)):
                continue
            if path != last and np.shape(all_steps)[:2] != batch_and_time:
                timeless = timeless or path  # fine if the whole is, as with the tokens of moe
                continue
            where = path
            if path == last and timeless:
                where = timeless
            raise ValueError(
                f"check_stream: the outputs of {where} differ in a stream by {far:.2g}, so it "
                "needs more than one step at a time"
            )


def _distance(sequence: np.ndarray, parts: list[np.ndarray]) -> float:
    """Largest difference; infinite if the parts do not make up the whole."""
    if all(part.shape == sequence.shape for part in parts):  # outside the stream, or a final carry
        return np.abs(parts[-1] - sequence).max(initial=0)
    joins = all(_without_time(part) == _without_time(sequence) for part in parts)
    if sequence.ndim < 2 or not joins:
        return np.inf
    joined = np.concatenate(parts, 1)
    if joined.shape != sequence.shape:
        return np.inf
    return np.abs(joined - sequence).max(initial=0)


def _without_time(a: np.ndarray) -> tuple:
    """Return the sizes that parts have in common with the whole."""
    return a.ndim, a.shape[:1], a.shape[2:]
