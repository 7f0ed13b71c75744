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
def around(ring: Ring) -> Iterator[None]:
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
    time, count = q.shape[1], ring.mesh.shape[ring.axis]
    if time % count:
        raise ValueError(
            f"context_parallel: a sequence of {time} steps cannot be divided among the {count} "
            f"devices along {ring.axis!r}; choose a multiple of {count}"
        )
    split, whole, bias = P(None, ring.axis), P(), scoring.bias
    if bias is not None:
        parts = (jax.eval_shape(lambda x: x[:, : time // count], x) for x in (q, k))
        bias, read = bias.hoisted(*sizes_of_blocks(*parts))
        bias = Partial(lambda *given, of=bias.func: of(*given, read), *bias.args)
    context = jax.sharding.get_abstract_mesh()
    run = jax.shard_map(
        partial(_around, (ring.axis, scoring._replace(key=None, bias=None, sinks=None))),
        mesh=ring.mesh if context.empty else None,
        axis_names={ring.axis},
        in_specs=(split, split, split, whole, split, split, whole),
        out_specs=(split, P(None, None, ring.axis)),
        check_vma=bias is None,  # a hoisted function does not know that positions vary
    )
    return jax.jit(run)(q, k, v, bias, *map(jnp.asarray, ranges[:2]), scoring.key)


def _part(how, q, k, v, bias, first, last, key, n):
    """Return attention to the part that arrives in round n."""
    axis, scoring = how
    here, count = lax.axis_index(axis), lax.axis_size(axis)
    owner = (here - n) % count
    start = owner * k.shape[1]
    key = key if key is None else jax.random.fold_in(key, here * count + owner)
    ranges = Ranges(first - start, last - start)
    if bias is not None:
        at = jnp.arange(k.shape[1])
        bias = Placed(bias, here * k.shape[1] + at, start + at)
    return blockwise_attention(q, k, v, ranges, None, scoring._replace(key=key, bias=bias))


def _send(axis, tree):
    count = lax.axis_size(axis)
    return lax.ppermute(tree, axis, [(i, (i + 1) % count) for i in range(count)])


def _rounds(how, step, start):
    """Return the last of the carries of all rounds."""
    return lax.scan(step, start, jnp.arange(lax.axis_size(how[0])))[0]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _around(how, q, k, v, bias, first, last, key):
    def step(carry, n):
        y, total, k, v = carry
        new, more = _part(how, q, k, v, bias, first, last, key, n)
        both = jnp.logaddexp(total, more)
        y = _weight(total, both) * y + _weight(more, both) * new
        return (y, both, *_send(how[0], (k, v))), None

    wide = jnp.promote_types(q.dtype, jnp.float32)
    y = jnp.zeros((*q.shape[:3], v.shape[-1]), wide)
    total = jnp.full((q.shape[0], q.shape[2], q.shape[1]), -jnp.inf, wide)
    y, total, *_ = _rounds(how, step, varying((y, total, k, v), q, k, v, first, last))
    return y.astype(v.dtype), total


def _forward(how, *given):
    y, total = _around(how, *given)
    return (y, total), (*given, y, total)


def _backward(how, kept, cotangents):
    q, k, v, bias, first, last, key, y, total = kept
    d_y, d_total = cotangents

    def step(carry, n):
        d_q, d_bias, k, v, d_k, d_v = carry
        run = lambda q, k, v, bias: _part(how, q, k, v, bias, first, last, key, n)  # noqa: E731
        (new, more), pull = jax.vjp(run, q, k, v, bias)
        weight = _weight(more, total)
        through = (d_y * (new - y).astype(total.dtype)).sum(-1).mT + d_total
        of = pull(((weight * d_y).astype(v.dtype), weight[..., 0].mT * through))
        d_q, d_k, d_v, d_bias = jax.tree.map(jnp.add, (d_q, d_k, d_v, d_bias), of)
        return (d_q, d_bias, *_send(how[0], (k, v, d_k, d_v))), None

    moving = q, k, v, bias
    d_q, d_k, d_v, d_bias = jax.tree.map(lambda a: jnp.zeros(a.shape, total.dtype), moving)
    start = varying((d_q, d_bias, k, v, d_k, d_v), q, k, v, first, last)
    d_q, d_bias, _, _, d_k, d_v = _rounds(how, step, start)
    found = jax.tree.map(lambda d, a: d.astype(a.dtype), (d_q, d_k, d_v, d_bias), moving)
    return *found, None, None, None


def _weight(total, both):
    """Return exp(total - both) as (batch, time, heads, 1), 0 if nothing is seen."""
    return jnp.where(total == -jnp.inf, 0, jnp.exp(total - both)).mT[..., None]


_around.defvjp(_forward, _backward)
