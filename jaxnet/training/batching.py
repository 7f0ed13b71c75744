"""How the rows of data become batches of one size, in order or shuffled."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.services.trees import PyTree
from jaxnet.training.placement import Where, check_batch, constrain


class Batching(NamedTuple):
    """The size of batches and their shardings.

    It does not hold the number of rows, so a program that was compiled for a batching serves data
    of any length. If the size does not divide the number of rows, the last batch is padded with
    rows of the data, and `mask` leaves the padding out. In order, the padding repeats the last row.
    In a shuffled order, it repeats the first rows of that order.

    Fields:
      size: Number of rows in a batch.
      shardings: Shardings of the data, and so of each batch; None on one device.
    """

    size: int
    shardings: Where = None

    def steps(self, data: PyTree) -> int:
        """Return the number of batches.

        Example:
          >>> Batching(2).steps(jnp.ones(5))
          3
        """
        return -(-rows_in(data) // self.size)

    def needs_padding(self, data: PyTree) -> bool:
        """Return whether the last batch has fewer rows than the others.

        Example:
          >>> Batching(2).needs_padding(jnp.ones(5)), Batching(2).needs_padding(jnp.ones(4))
          (True, False)
        """
        return rows_in(data) % self.size != 0

    def full_batches_and_rest(self, data: PyTree) -> list[PyTree]:
        """Return the rows that fill whole batches, and the rows that are left.

        Example:
          >>> [part.tolist() for part in Batching(2).full_batches_and_rest(jnp.arange(5))]
          [[0, 1, 2, 3], [4]]
        """
        count = rows_in(data)
        full = count - count % self.size
        return [
            jax.tree.map(lambda leaf: leaf[:full], data),
            jax.tree.map(lambda leaf: leaf[full:], data),
        ]

    def mask(self, data: PyTree, i: Any) -> jax.Array | None:
        """Return the mask of batch i, 1 for a row and 0 for padding; None without padding.

        Example:
          >>> Batching(2).mask(jnp.ones(5), 2)
          Array([1., 0.], dtype=float32)
          >>> Batching(2).mask(jnp.ones(4), 1)
        """
        if not self.needs_padding(data):
            return None
        rows = i * self.size + jnp.arange(self.size)
        return (rows < rows_in(data)).astype(jnp.float32)

    def order(self, data: PyTree, key: jax.Array | None = None) -> jax.Array:
        """Return the rows of each batch, (steps, size), shuffled if there is a key.

        Example:
          >>> Batching(2).order(jnp.ones(5)).tolist()
          [[0, 1], [2, 3], [4, 0]]
        """
        count = rows_in(data)
        rows = jnp.arange(count) if key is None else jax.random.permutation(key, count)
        return jnp.resize(rows, (self.steps(data), self.size))

    def take(self, data: PyTree, rows: jax.Array) -> PyTree:
        """Return these rows as a batch, which is sharded as the data are.

        Example:
          >>> Batching(2).take(jnp.arange(0, 50, 10), jnp.array([4, 1])).tolist()
          [40, 10]
        """
        return constrain(jax.tree.map(lambda leaf: leaf[rows], data), self.shardings)

    def scan(self, step: Callable, carry: PyTree, data: PyTree) -> tuple[PyTree, PyTree]:
        """Scan a function (carry, i, batch) -> (carry, y) over the batches in order.

        On one device, each batch is read when its turn comes. On a mesh the data are reshaped into
        batches once, because an index of rows would collect them from all devices.

        Example:
          >>> _, batches = Batching(2).scan(lambda carry, i, x: (carry, x), None, jnp.arange(3))
          >>> batches.tolist()
          [[0, 1], [2, 2]]
        """
        numbers = jnp.arange(self.steps(data))
        if self.shardings is not None:
            numbered = numbers, self._reshaped(data)
            return jax.lax.scan(lambda carry, pair: step(carry, *pair), carry, numbered)

        def read(i):
            rows = jnp.minimum(i * self.size + jnp.arange(self.size), rows_in(data) - 1)
            return jax.tree.map(lambda leaf: leaf[rows], data)

        return jax.lax.scan(lambda carry, i: step(carry, i, read(i)), carry, numbers)

    def _reshaped(self, data: PyTree) -> PyTree:
        """Return data as arrays (steps, size, ...)."""
        steps = self.steps(data)

        def reshaped(leaf):
            count, *row = leaf.shape
            missing = steps * self.size - count
            padded = jnp.pad(leaf, [(0, missing)] + [(0, 0)] * len(row), mode="edge")
            return padded.reshape(steps, self.size, *row)

        return constrain(jax.tree.map(reshaped, data), self.shardings, axes=1)


def batching_of(who: str, data: PyTree, size: int) -> Batching:
    """Return the batching of data in batches of at most `size` rows.

    Raises:
      ValueError: If the devices of the data cannot share a batch equally.

    Example:
      >>> batching_of("fit", jnp.ones(5), 64)
      Batching(size=5, shardings=None)
    """
    size = min(size, rows_in(data))
    return Batching(size, check_batch(who, data, size))


def check_has_rows(who: str, batch: PyTree) -> None:
    """Raise for a batch without examples.

    Example:
      >>> check_has_rows("step", jnp.ones((0, 3)))
      Traceback (most recent call last):
      ...
      ValueError: step: expected at least one example, got arrays of shape (0, 3)
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
    if any(shape[:1] == (0,) for shape in shapes):
        words = ", ".join(map(str, shapes))
        raise ValueError(f"{who}: expected at least one example, got arrays of shape {words}")


def rows_in(data: PyTree) -> int:
    """Return the number of rows, in which all arrays of the data agree.

    Example:
      >>> rows_in((jnp.ones((5, 3)), jnp.ones(5)))
      5
    """
    return jax.tree.leaves(data)[0].shape[0]
