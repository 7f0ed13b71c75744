"""Decompositions that cannot hang: one matrix per call of LAPACK, on any number of cores.

On CPU, XLA runs independent operations on a pool of threads, one per core. A LAPACK call over a
batch of matrices divides the batch among the same pool and waits (`jax::ParallelBatchMap` →
`absl::BlockingCounter::Wait`). If as many such calls are ready at once as there are threads, each
thread waits for another: on the two cores of a free notebook, two calls are enough, and the program
never ends. Seen with jaxlib 0.10.2, in `lapack_strsm_ffi` and `lapack_sorgqr_ffi`.

So `jit`ted code decomposes one matrix per call, whatever `vmap` is around it, or makes a second
call depend on the first. `one_by_one` does not have gradients in reverse mode.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap


def one_by_one(decompose: Callable[[jax.Array], Any]) -> Callable[[jax.Array], Any]:
    """Make a function of one matrix apply to many, in a loop over them.

    Args:
      decompose: Function of a matrix (m, n).

    Returns:
      A function of (..., m, n), whose outputs have the same leading axes, even under `vmap`.

    Example:
      >>> qr = one_by_one(jnp.linalg.qr)
      >>> [part.shape for part in qr(jnp.ones((5, 4, 3)))]
      [(5, 4, 3), (5, 3, 3)]
    """
    # A lambda, since sequential_vmap would take the options of `decompose` for arrays.
    single = sequential_vmap(lambda a: decompose(a))

    def map_over_batch(a: jax.Array) -> Any:
        if a.ndim == 2:
            return single(a)
        return jax.vmap(map_over_batch)(a)

    return map_over_batch


qr = one_by_one(jnp.linalg.qr)


def small_inverse(a: jax.Array) -> jax.Array:
    """Return the inverses of small matrices (..., n, n) by Cramer's rule, without LAPACK.

    The number of products grows with the factorial of n, so n is at most 4 or so.

    Example:
      >>> small_inverse(jnp.array([[2.0, 2.0], [1.0, 3.0]])).tolist()
      [[0.75, -0.5], [-0.25, 0.5]]
    """
    n = a.shape[-1]
    # Unpacked, since on an explicit mesh indices with ... would lose the sharding of the batch.
    rows = [list(row) for row in jnp.moveaxis(a, (-2, -1), (0, 1))]
    adjugate = jnp.array([[_cofactor(rows, j, i) for j in range(n)] for i in range(n)])
    inverse = adjugate / _determinant(rows)[None, None]
    return jnp.moveaxis(inverse, (0, 1), (-2, -1))


def _determinant(rows: list[list[jax.Array]]) -> jax.Array:
    """Return the determinant by expansion along the first row, whose signs alternate."""
    total = rows[0][0] * _minor(rows, 0, 0)
    for j, entry in enumerate(rows[0][1:], 1):
        product = entry * _minor(rows, 0, j)
        total = total - product if j % 2 else total + product
    return total


def _cofactor(rows: list[list[jax.Array]], i: int, j: int) -> jax.Array:
    minor = _minor(rows, i, j)
    return -minor if (i + j) % 2 else minor


def _minor(rows: list[list[jax.Array]], i: int, j: int) -> jax.Array:
    """Return the determinant without row i and column j; without any rows, it is 1."""
    left = [row[:j] + row[j + 1 :] for k, row in enumerate(rows) if k != i]
    return _determinant(left) if left else jnp.ones_like(rows[0][0])
