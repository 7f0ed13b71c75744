"""Attention over a time axis that is divided over a mesh: keys and values go around a ring.

Each device has the queries, keys and values of its part of the time. In each of n rounds it attends
to the part that has arrived and sends it on, so no device ever holds the keys of the whole time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.tree_util import Partial

from jaxnet.ops.attention import Placed, Scoring
from jaxnet.ops.blockwise import Ranges, blockwise_attention, sizes_of_blocks
from jaxnet.ops.varying import varying


class Ring(NamedTuple):
    """The devices among which the time axis is divided.

    Fields:
      mesh: Mesh of the devices.
      axis: Name of its axis.
    """

    mesh: Mesh
    axis: str


_ring: ContextVar[Ring | None] = ContextVar("ring", default=None)


@contextmanager
def use_ring(ring: Ring) -> Iterator[None]:
    """Let attention of a sequence to itself go around a ring."""
    token = _ring.set(ring)
    try:
        yield
    finally:
        _ring.reset(token)


def ring() -> Ring | None:
    """Return the ring of the layer that runs now, None on a time axis that is not divided.

    Example:
      >>> ring() is None
      True
    """
    return _ring.get()


def ring_attention(
    ring: Ring, q: jax.Array, k: jax.Array, v: jax.Array, ranges: Ranges, scoring: Scoring
) -> tuple[jax.Array, jax.Array]:
    """Return `blockwise_attention` of a sequence to itself, with its time axis on a ring.

    The batch and the heads may be divided over other axes of the mesh. The gradient goes around the
    ring again.

    Args:
      ring: Devices among which the time axis is divided.
      q, k, v, ranges: As in `blockwise_attention`, with as many places as queries.
      scoring: How scores are made; a bias is a function of the positions 0, 1, ...

    Raises:
      ValueError: If the time cannot be divided among the devices.

    Example:
      >>> q = jax.random.normal(jax.random.key(0), (2, 6, 4, 8))
      >>> one = Ring(Mesh(jax.devices()[:1], ("time",)), "time")
      >>> every = Ranges(jnp.zeros((1, 6), int), jnp.full((1, 6), 6))
      >>> y, _ = ring_attention(one, q, q, q, every, Scoring())
      >>> bool(jnp.allclose(y, blockwise_attention(q, q, q)[0], atol=1e-6))
      True

    Reference: Liu et al. 2023, "Ring Attention with Blockwise Transformers for Near-Infinite
    Context".
    """
    time = q.shape[1]
    count = ring.mesh.shape[ring.axis]
    if time % count:
        raise ValueError(
            f"context_parallel: a sequence of {time} steps cannot be divided among the {count} "
            f"devices along {ring.axis!r}; choose a multiple of {count}"
        )
    bias = scoring.bias
    if bias is not None:
        bias = _hoisted_of_part(bias, q, k, time // count)
    split, replicated = P(None, ring.axis), P()
    context = jax.sharding.get_abstract_mesh()
    without_arrays = scoring._replace(key=None, bias=None, sinks=None)
    run = jax.shard_map(
        partial(attend_ring, (ring.axis, without_arrays)),
        mesh=ring.mesh if context.empty else None,
        axis_names={ring.axis},
        in_specs=(split, split, split, replicated, split, split, replicated),
        out_specs=(split, P(None, None, ring.axis)),
        check_vma=bias is None,  # a hoisted function does not know that positions vary
    )
    first = jnp.asarray(ranges.first)
    last = jnp.asarray(ranges.last)
    return jax.jit(run)(q, k, v, bias, first, last, scoring.key)


def _hoisted_of_part(bias, q, k, time):
    """Return a bias as a function of the positions of blocks, with its floats as leaves."""

    def part(x):
        return jax.eval_shape(lambda x: x[:, :time], x)

    hoisted, read = bias.hoisted(*sizes_of_blocks(part(q), part(k)))

    def of_positions(*arguments):
        return hoisted.func(*arguments, read)

    return Partial(of_positions, *hoisted.args)


def _part(how, q, k, v, bias, first, last, key, n):
    """Return attention to the part that arrives in round n."""
    axis, scoring = how
    device = lax.axis_index(axis)
    count = lax.axis_size(axis)
    owner = (device - n) % count
    start = owner * k.shape[1]
    if key is not None:
        key = jax.random.fold_in(key, device * count + owner)
    ranges = Ranges(first - start, last - start)
    if bias is not None:
        at = jnp.arange(k.shape[1])
        bias = Placed(bias, device * k.shape[1] + at, start + at)
    scoring = scoring._replace(key=key, bias=bias)
    return blockwise_attention(q, k, v, ranges, None, scoring)


def _send(axis, tree):
    count = lax.axis_size(axis)
    to_next = [(device, (device + 1) % count) for device in range(count)]
    return lax.ppermute(tree, axis, to_next)


def _rounds(how, step, start):
    """Return the last of the carries of all rounds."""
    axis, _ = how
    final, _ = lax.scan(step, start, jnp.arange(lax.axis_size(axis)))
    return final


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_ring(how, q, k, v, bias, first, last, key):
    """Return one device's part of `ring_attention`; the others are along a named axis of devices.

    Args:
      how: Name of the axis, and the scoring without its arrays.
      q, k, v: Parts of queries, keys and values.
      bias: Function of positions, see `Placed.hoisted`, or None.
      first, last: Ranges of places that each query sees, as positions in the whole sequence.
      key: Random key for dropout, or None.

    Example:
      >>> def part(q, first, last):
      ...     return attend_ring(("time", Scoring()), q, q, q, None, first, last, None)[0]
      >>> q = jnp.ones((2, 1, 3, 4, 8))  # two parts of three steps
      >>> first, last = jnp.zeros((2, 1, 3), int), jnp.full((2, 1, 3), 6)
      >>> jax.vmap(part, axis_name="time")(q, first, last).shape
      (2, 1, 3, 4, 8)
    """
    axis, _ = how

    def step(carry, n):
        y, total, k, v = carry
        new, more = _part(how, q, k, v, bias, first, last, key, n)
        both = jnp.logaddexp(total, more)
        y = _weight(total, both) * y + _weight(more, both) * new
        return (y, both, *_send(axis, (k, v))), None

    batch, time, heads, _ = q.shape
    wide = jnp.promote_types(q.dtype, jnp.float32)
    y = jnp.zeros((batch, time, heads, v.shape[-1]), wide)
    total = jnp.full((batch, heads, time), -jnp.inf, wide)
    start = varying((y, total, k, v), q, k, v, first, last)
    y, total, *_ = _rounds(how, step, start)
    return y.astype(v.dtype), total


def _forward(how, *operands):
    y, total = attend_ring(how, *operands)
    return (y, total), (*operands, y, total)


def _backward(how, residuals, cotangents):
    q, k, v, bias, first, last, key, y, total = residuals
    axis, _ = how
    d_y, d_total = cotangents

    def step(carry, n):
        d_q, d_bias, k, v, d_k, d_v = carry

        def run(q, k, v, bias):
            return _part(how, q, k, v, bias, first, last, key, n)

        (new, more), pull = jax.vjp(run, q, k, v, bias)
        weight = _weight(more, total)
        along = d_y * (new - y).astype(total.dtype)
        through = along.sum(-1).mT + d_total
        d_new = (weight * d_y).astype(v.dtype)
        d_more = weight[..., 0].mT * through
        added = pull((d_new, d_more))
        d_q, d_k, d_v, d_bias = jax.tree.map(jnp.add, (d_q, d_k, d_v, d_bias), added)
        return (d_q, d_bias, *_send(axis, (k, v, d_k, d_v))), None

    moving = q, k, v, bias
    d_q, d_k, d_v, d_bias = jax.tree.map(lambda a: jnp.zeros(a.shape, total.dtype), moving)
    start = varying((d_q, d_bias, k, v, d_k, d_v), q, k, v, first, last)
    d_q, d_bias, _, _, d_k, d_v = _rounds(how, step, start)
    gradients = jax.tree.map(lambda d, a: d.astype(a.dtype), (d_q, d_k, d_v, d_bias), moving)
    return *gradients, None, None, None


def _weight(total, both):
    """Return exp(total - both) as (batch, time, heads, 1), 0 if nothing is seen."""
    weight = jnp.where(total == -jnp.inf, 0, jnp.exp(total - both))
    return weight.mT[..., None]


attend_ring.defvjp(_forward, _backward)
