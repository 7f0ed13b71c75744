"""Attention in C in blocks of queries and places, and its gradient."""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np

from jaxnet.ops.native import compute, countable, instructions
from jaxnet.ops.native.call import Kernel

FEW = 8  # queries are the lanes of vectors
QUERIES = (jnp.float32, jnp.bfloat16, jnp.float16)  # dtypes of one query
KEYS = (jnp.float32, jnp.bfloat16)  # dtypes of the keys and values of one query


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
    floats = all(array.dtype == jnp.float32 for array in (q, k, v))
    if not floats or not countable(q, k, v) or q.shape[1] < FEW:
        return False
    return instructions() is not None


def run(q, k, v, first, last, *, form: tuple[float, float]):
    """Return the values and the logarithm of the sum of exp(scores), as `blockwise_attention`.

    Args:
      q, k, v: Queries, keys and values.
      first, last: Ranges of places that each query sees, integers (batch or 1, time).
      form: Scale, and the softcap or 0.

    Example:
      >>> y, total = run(q, k, v, first, last, form=(0.125, 0.0))  # doctest: +SKIP
    """
    batch, time, heads, _ = q.shape
    rows = batch, heads, time
    shapes = [(batch, time, heads, v.shape[3]), rows, rows]
    y, top, sums = _call("jaxnet_attention", shapes, q, k, v, first, last, form=form)
    log2 = np.float32(np.log(2))
    some = jnp.where(sums == 0, 1, sums)
    logarithm = top * log2 + jnp.log(some)
    total = jnp.where(sums == 0, -jnp.inf, logarithm)
    return [y, total]


def run_back(q, k, v, first, last, *rest, form: tuple[float, float], wanted: Sequence[int]):
    """Return some of the gradients by q, k and v.

    Args:
      q, k, v, first, last, form: Arguments of `run`.
      *rest: Results of `run`, and the gradients by them.
      wanted: Which gradients to return, by numbers 0 to 2.

    Example:
      >>> d_q, d_v = run_back(*operands, form=form, wanted=(0, 2))  # doctest: +SKIP
    """
    shapes = [q.shape, k.shape, v.shape]
    gradients = _call("jaxnet_attention_back", shapes, q, k, v, first, last, *rest, form=form)
    return [gradients[number] for number in wanted]


def _call(target, shapes, q, k, v, first, last, *rest, form):
    rows = q.shape[:2]
    first = jnp.broadcast_to(first, rows).astype(jnp.int32)
    last = jnp.broadcast_to(last, rows).astype(jnp.int32)
    operands = q, k, v, first, last, *rest
    return compute(target, shapes, *operands, form=np.array(form, np.float32))


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
    if not countable(q, k, v) or q.shape[1] != 1:
        return False
    if k.dtype != v.dtype or k.dtype not in KEYS or q.dtype not in QUERIES:
        return False
    return instructions() is not None


def _run_one(q, k, v, *rest, form):
    """Return values and weights; `rest` is a mask, numbers to add, both or nothing."""
    batch, _, heads, _ = q.shape
    scores = batch, heads, k.shape[1]

    def of_scores(array):
        expanded = jnp.broadcast_to(array, (batch, heads, 1, k.shape[1]))
        return expanded.reshape(scores)

    rest = [of_scores(array) for array in rest]
    if rest and rest[0].dtype == bool:
        mask, *bias = rest
    else:
        mask, bias = jnp.ones(scores, bool), rest
    operands = [
        q[:, 0].astype(jnp.float32),
        k.swapaxes(1, 2),
        v.swapaxes(1, 2),
        mask,
        *(numbers.astype(jnp.float32) for numbers in bias),
    ]
    shapes = [(batch, heads, v.shape[3]), scores]
    numbers = np.array(form, np.float32)
    y, weights = compute("jaxnet_attention_one", shapes, *operands, form=numbers)
    return [y[:, None], weights[:, :, None]]
