"""Keys and values that a stream keeps between its chunks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.initializers import zeros
from jaxnet.layers.embedding import counted, stream_positions
from jaxnet.ops.blockwise import Ranges
from jaxnet.services.checks import check_range


class CachedKeys(NamedTuple):
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


def update_cache(m: Any, q, k, v, *, before: int | None, rotate: Any, name: str) -> CachedKeys:
    """Store the keys and values of a chunk after the keys and values of earlier chunks.

    Position p is kept in slot p % slots. There are slots for the whole length, or for the window
    if that is shorter; then older places are overwritten.

    Args:
      m: Scope of the layer, in a stream.
      q, k, v: Queries, keys and values of the chunk, (batch, time, heads or groups, size).
      before: Number of positions before its own that a query attends to; None is all.
      rotate: Function of (x, positions), or None. Steps that do not count have the position of the
        last one that does.
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
    keeps_all = slots == limit
    shape = batch, k.shape[2], slots  # heads before slots, since products read them in this order
    old = {}
    for entry, new in (("keys", k), ("values", v)):
        old[entry] = m.state(entry, zeros, (*shape, new.shape[-1]), dtype or new.dtype)
    at = stream_positions(m, batch, time)
    start = at[:, :1]
    if keeps_all:
        check_range(start, limit, f"{name}: the stream has {limit} steps; position")
    end = start + (time if steps is None else steps[:, None])
    if rotate is not None:
        counts = jnp.minimum(at, end - 1)  # a rotation may depend on the last step that counts
        q, k = rotate(q, counts), rotate(k, counts)
    stays = (at < end) & (at < limit if keeps_all else at >= end - slots)
    slot = jnp.where(stays, at % slots, slots)  # indices beyond the slots are dropped
    now = _written(m, old, {"keys": k, "values": v}, slot)
    if keeps_all:  # nothing was overwritten
        k, v = (_by_place(cached, q.dtype) for cached in now.values())
        places = jnp.broadcast_to(np.arange(slots), (batch, slots))
    else:  # a query may need a slot that a later step of this chunk overwrites
        k = jnp.concatenate([_by_place(old["keys"], q.dtype), k], 1)
        v = jnp.concatenate([_by_place(old["values"], q.dtype), v], 1)
        last = start - 1
        of_slots = last - (last - np.arange(slots)) % slots
        places = jnp.concatenate([of_slots, at], 1)
    place, query = places[:, None, None], at[:, None, :, None]
    seen = (place >= 0) & (place <= query)
    if before is not None:
        seen &= place >= query - before

    def in_order():
        steps_of_chunk = counted(time).astype(np.int32)[None]
        if not keeps_all:
            assert before is not None
            return _from_the_oldest(k, v, start, steps_of_chunk, slots, before)
        place = start + steps_of_chunk
        first = jnp.zeros_like(place) if before is None else place - before
        return k, v, Ranges(first, place + 1), 0

    fits = (at < limit) | (at >= end)
    return CachedKeys(q, k, v, seen, fits, at, places, in_order)


def _written(m: Any, old: dict[str, Any], new: dict[str, Any], slot: jax.Array) -> dict[str, Any]:
    """Return the kept arrays after this chunk is written into their slots, in the state too."""
    rows = counted(slot.shape[0])[:, None]
    now = {}
    for entry, cached in old.items():
        value = new[entry].astype(cached.dtype)
        now[entry] = cached.at[rows, :, slot].set(value, mode="drop")
        m.update(entry, now[entry])
    return now


def _by_place(cached: jax.Array, dtype: Any) -> jax.Array:
    """Return a kept array (batch, heads, slots, size) as (batch, slots, heads, size)."""
    return cached.swapaxes(1, 2).astype(dtype)


def _from_the_oldest(k, v, start, steps_of_chunk, slots: int, before: int):
    """Return `CachedKeys.in_order` if older places are overwritten: slots from the oldest place."""
    turn = ((start + np.arange(slots)) % slots)[:, :, None, None]

    def ordered(x):
        from_oldest = jnp.take_along_axis(x, turn, 1)
        return jnp.concatenate([from_oldest, x[:, slots:]], 1)

    place, empty = steps_of_chunk + slots, slots - start
    first = jnp.maximum(place - before, empty)
    ranges = Ranges(first, place + 1, (slots - before, slots))
    return ordered(k), ordered(v), ranges, empty
