"""The gradient of a batch that is computed in parts, in the memory of one part."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.core import State
from jaxnet.ops.precision import at_least_float32
from jaxnet.services.jaxprs import depends_on
from jaxnet.services.trees import PyTree, flat
from jaxnet.training.objective import Average, added, examples, mean_of


def accumulated(
    loss: Callable, state: State, batch: PyTree, mask: jax.Array | None, key: jax.Array, n: int
) -> Callable:
    """Return the function floats -> ((value, (state, averages)), gradient) of n parts of a batch.

    Each part counts with its weight, so that mean and gradient are those of the whole batch.

    Args:
      loss: Function (floats, state, batch, mask, key) -> (mean, (state, averages)).
      state: State before the batch; each part gets the state after the part before it.
      batch: Whole batch.
      mask: Array (batch,) of 0 and 1, 0 for padding; None if all examples count.
      key: Random key, of which each part gets one of its own.
      n: Number of parts.

    Raises:
      ValueError: If the weights of the loss depend on the floats, such as params.
    """
    parts = in_parts(batch, mask, n)
    gradient = jax.value_and_grad(loss, has_aux=True)

    def run(floats):
        def add_part(carry, numbered):
            state, sums, grads = carry
            i, (batch, mask) = numbered
            part_key = jax.random.fold_in(key, i)
            (_, (state, averages)), grad = gradient(floats, state, batch, mask, part_key)
            weight = averages["loss"].weight
            grads = jax.tree.map(lambda total, g: total + at_least_float32(g) * weight, grads, grad)
            return (state, added(sums, averages), grads), None

        def averages_of_first(floats):
            batch, mask = jax.tree.map(lambda leaf: leaf[0], parts)
            _, (_, averages) = loss(floats, state, batch, mask, key)
            return averages

        jaxpr, averages = jax.make_jaxpr(averages_of_first, return_shape=True)(floats)
        _check_weights(jaxpr, averages)
        start = state, _zeros(averages), _zeros(floats)
        (after, sums, grads), _ = jax.lax.scan(add_part, start, (jnp.arange(n), parts))
        means = {name: Average(mean_of(*s), s.weight) for name, s in sums.items()}
        scale = mean_of(1, means["loss"].weight)
        grads = jax.tree.map(lambda g, a: (g * scale).astype(a.dtype), grads, floats)
        return (means["loss"].mean, (after, means)), grads

    return run


def _check_weights(jaxpr: Any, averages: PyTree) -> None:
    """Raise if the weight of the loss, one of a program's results, depends on the arguments."""
    weight = [path for path, _ in flat(averages, None)].index("loss/weight")
    every = [True] * len(jaxpr.jaxpr.invars)
    if depends_on(jaxpr, every, gradient=True)[weight]:
        raise ValueError(
            "step: accumulate= needs a loss (totals, weights) whose weights do not depend on "
            "the params. Write jax.lax.stop_gradient(weights), or accumulate=1"
        )


def _zeros(tree: PyTree) -> PyTree:
    """Return zeros in which arrays of these shapes can be summed, at least in float32."""

    def zeros(leaf):
        return jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32))

    return jax.tree.map(zeros, tree)


def in_parts(batch: PyTree, mask: jax.Array | None, n: int) -> tuple[PyTree, jax.Array | None]:
    """Cut a batch into n parts by rows, as arrays (n, rows, ...); padding has a mask of 0.

    Part i has the rows i, i + n, ..., so that on a mesh each device has some rows of each part.

    Example:
      >>> (x,), mask = in_parts((jnp.arange(5.0),), None, 2)
      >>> x.tolist(), mask.tolist()
      ([[0.0, 2.0, 4.0], [1.0, 3.0, 0.0]], [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    """
    count = examples(batch, "step")
    rows = -(-count // n)
    padded = rows * n
    if padded > count:
        mask = jnp.ones(count) if mask is None else mask
        mask = jnp.pad(mask, (0, padded - count))
        batch = jax.tree.map(lambda a: jnp.resize(a, (padded, *a.shape[1:])), batch)

    def cut(leaf):
        parts_last = leaf.reshape(rows, n, *leaf.shape[1:])
        return jnp.moveaxis(parts_last, 1, 0)

    return jax.tree.map(cut, (batch, mask))
