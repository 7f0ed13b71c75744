"""Attention in C in blocks of queries and places, and its gradient."""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np

from jaxnet.ops.native import compute, countable, instructions
from jaxnet.ops.native.call import Kernel

FEW = 8  # queries are the lanes of vectors
DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)


def supports(q, k, v, *rest) -> bool:
    """Return whether the library computes this attention, and faster than XLA.

    Args:
      q, k, v: Queries (batch, time, heads, size), keys and values (batch, places, groups, size or
        width).
      *rest: The other operands.

    Example:
      >>> q = jnp.ones((1, 1, 2, 4))
      >>> supports(q, q, q)  # one query
      False
    """
    fits = countable(q, k, v) and all(a.dtype == jnp.float32 for a in (q, k, v))
    return fits and q.shape[1] >= FEW and instructions() is not None


def run(q, k, v, first, last, *, form: tuple[float, float]):
    """Return the values and the logarithm of the sum of exp(scores), as `blockwise_attention`.

    Args:
      q, k, v: Queries, keys and values.
      first, last: Ranges of places that each query sees, integers (batch or 1, time).
      form: Scale, and the softcap or 0.

    Example:
      >>> y, total = run(q, k, v, first, last, form=(0.125, 0.0))  # doctest: +SKIP
    """
    rows = (q.shape[0], q.shape[2], q.shape[1])
    shapes = [(*q.shape[:3], v.shape[3]), rows, rows]
    y, top, sums = _call("jaxnet_attention", shapes, q, k, v, first, last, form=form)
    logarithm = top * np.float32(np.log(2)) + jnp.log(jnp.where(sums == 0, 1, sums))
    return [y, jnp.where(sums == 0, -jnp.inf, logarithm)]


def run_back(q, k, v, first, last, *rest, form: tuple[float, float], wanted: Sequence[int]):
    """Return some of the gradients by q, k and v.

    Args:
      q, k, v, first, last, form: Arguments of `run`.
      *rest: Results of `run`, and the gradients by them.
      wanted: Which gradients to return, by numbers 0 to 2.

    Example:
      >>> d_q, d_v = run_back(*operands, form=form, wanted=(0, 2))  # doctest: +SKIP
    """
    shapes = [a.shape for a in (q, k, v)]
    found = _call("jaxnet_attention_back", shapes, q, k, v, first, last, *rest, form=form)
    return [found[i] for i in wanted]


def _call(target, shapes, q, k, v, first, last, *rest, form):
    edges = (jnp.broadcast_to(a, q.shape[:2]).astype(jnp.int32) for a in (first, last))
    return compute(target, shapes, q, k, v, *edges, *rest, form=np.array(form, np.float32))


def values(form: tuple[float, float]) -> Kernel:
    """Return the kernel of values.

    Example:
      >>> values((0.125, 0.0)).linear
      0
    """
    return Kernel(partial(run, form=form), supports)


def tangents(form: tuple[float, float], wanted: Sequence[int]) -> Kernel:
    """Return the kernel of tangents, which run in JAX; their transpose, the gradient, runs in C.

    Args:
      form: Scale, and the softcap or 0.
      wanted: Which of q, k and v have tangents, by numbers 0 to 2.

    Example:
      >>> tangents((0.125, 0.0), (0, 2)).linear
      2
    """
    back = Kernel(partial(run_back, form=form, wanted=wanted), supports)
    return Kernel(linear=len(wanted), transpose=back)


def one(form: tuple[float, float]) -> Kernel:
    """Return the kernel of values and weights of one query, the only one of each sequence.

    Args:
      form: Scale, and the softcap or 0.

    Example:
      >>> one((0.125, 0.0)).linear
      0
    """
    return Kernel(partial(_run_one, form=form), _supports_one)


def _supports_one(q, k, v, *rest):
    fits = countable(q, k, v) and q.shape[1] == 1 and k.dtype == v.dtype and k.dtype in DTYPES[:2]
    return fits and q.dtype in DTYPES and instructions() is not None


def _run_one(q, k, v, *rest, form):
    batch, _, heads, _ = q.shape
    scores = batch, heads, k.shape[1]
    rest = [jnp.broadcast_to(a, (batch, heads, 1, k.shape[1])).reshape(scores) for a in rest]
    if not rest or rest[0].dtype != bool:
        rest = [jnp.ones(scores, bool), *rest]
    operands = q[:, 0].astype(jnp.float32), k.swapaxes(1, 2), v.swapaxes(1, 2), rest[0]
    operands += tuple(a.astype(jnp.float32) for a in rest[1:])
    shapes = [(batch, heads, v.shape[3]), scores]
    y, weights = compute("jaxnet_attention_one", shapes, *operands, form=np.array(form, np.float32))
    return [y[:, None], weights[:, :, None]]
