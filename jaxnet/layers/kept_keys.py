"""Keys and values that a stream keeps between its chunks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.initializers import zeros
from jaxnet.layers.embedding import stream_positions
from jaxnet.ops.blockwise import Ranges
from jaxnet.services.checks import check_range


class Kept(NamedTuple):
    """The keys and values that the queries of a chunk attend to.

    Fields:
      q: Queries (batch, time, heads, size), rotated by their positions.
      k, v: Keys and values of all kept positions, (batch, places, groups, size).
      seen: Booleans (batch, 1, time, places), True if a query may attend to a position.
      fits: Whether each step is within the length of the stream, (batch, time).
      at, places: Positions of the queries (batch, time) and of the keys (batch, places); those of
        slots without a key are negative.
      in_order: Function that returns keys and values in the order of their positions, the ranges of
        the queries, and how many of the keys come before position 0, 0 or (batch, 1).
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    seen: jax.Array
    fits: jax.Array
    at: jax.Array
    places: jax.Array
    in_order: Callable[[], tuple[jax.Array, jax.Array, Ranges, Any]]


def keep(m: Any, q, k, v, *, before: int | None, rotate: Any, name: str) -> Kept:
    """Store the keys and values of a chunk after the keys and values of earlier chunks.

    Position p is kept in slot p % slots. There are slots for the whole length, or for the window
    if that is shorter; then older places are overwritten.

    Args:
      m: Scope of the layer, in a stream.
      q, k, v: Queries, keys and values of the chunk, (batch, time, heads or groups, size).
      before: Number of positions before its own that a query attends to; None is all.
      rotate: Function of (x, positions), or None.
      name: Name of the layer, for messages.

    Raises:
      ValueError: If neither the stream has a length nor the layer a window.
      ValueError: If the stream is full. Inside `jit`, where that is not known, `fits` is False.
    """
    batch, time = q.shape[:2]
    length, dtype, steps, _ = m.stream
    if length is None and before is None:
        raise ValueError(
            f"{name}: attends to all earlier positions, so the stream needs the largest number of "
            "steps; write jn.stream(net, length)"
        )
    limit: int = np.iinfo(np.int32).max if length is None else length
    slots = limit if before is None else min(limit, max(before, 1))
    shape = batch, k.shape[2], slots  # heads before slots, since products read them in this order
    new = {"keys": k, "values": v}.items()
    old = {n: m.state(n, zeros, (*shape, a.shape[-1]), dtype or a.dtype) for n, a in new}
    at = stream_positions(m, batch, time)
    if slots == limit:
        check_range(at[:, :1], limit, f"{name}: the stream has {limit} steps; position")
    if rotate is not None:
        q, k = rotate(q, at), rotate(k, at)
    end = at[:, :1] + (time if steps is None else steps[:, None])
    stays = (at < end) & (at >= end - slots) if slots < limit else (at < end) & (at < limit)
    slot = jnp.where(stays, at % slots, slots)  # indices beyond the slots are dropped
    rows = np.arange(batch)[:, None]
    now = {}
    for (name, kept), new in zip(old.items(), (k, v), strict=True):
        now[name] = kept.at[rows, :, slot].set(new.astype(kept.dtype), mode="drop")
        m.update(name, now[name])
    read = now if slots == limit else old
    read = [kept.swapaxes(1, 2).astype(q.dtype) for kept in read.values()]
    if slots == limit:  # nothing was overwritten
        k, v = read
        places = jnp.broadcast_to(np.arange(slots), (batch, slots))
    else:  # a query may need a slot that a later step of this chunk overwrites
        k, v = (jnp.concatenate(both, 1) for both in zip(read, (k, v), strict=True))
        last = at[:, :1] - 1
        places = jnp.concatenate([last - (last - np.arange(slots)) % slots, at], 1)
    place, query = places[:, None, None], at[:, None, :, None]
    seen = (place >= 0) & (place <= query)
    if before is not None:
        seen &= place >= query - before

    def in_order():
        start, own = at[:, :1], np.arange(time, dtype=np.int32)[None]
        if slots == limit:
            place = start + own
            first = jnp.zeros_like(place) if before is None else place - before
            return k, v, Ranges(first, place + 1), 0
        assert before is not None
        turn = ((start + np.arange(slots)) % slots)[:, :, None, None]
        parts = ((jnp.take_along_axis(x, turn, 1), x[:, slots:]) for x in (k, v))
        all_k, all_v = (jnp.concatenate(both, 1) for both in parts)
        place, empty = own + slots, slots - start
        first = jnp.maximum(place - before, empty)
        return all_k, all_v, Ranges(first, place + 1, (slots - before, slots)), empty

    return Kept(q, k, v, seen, (at < limit) | (at >= end), at, places, in_order)
