"""Ids with their labels, which a language model turns into losses without all logits."""

from typing import Any, NamedTuple

import jax


class Labeled(NamedTuple):
    """Ids and their labels, `jn.Labeled(x, labels)`, for which a language model returns losses.

    Fields:
      x: Input of the model: ids (batch, time), (ids, mask), or (ids, jn.Segments(numbers)).
      labels: The next ids (batch, time).

    Example:
      >>> net = jn.models.decoder(11, depth=1, width=8, heads=2)
      >>> ids, labels = jnp.array([[1, 5, 0]]), jnp.array([[5, 0, 2]])
      >>> params, state = net.init(jax.random.key(0), ids)
      >>> losses, _ = net.apply(params, state, jn.Labeled(ids, labels))
      >>> losses.shape
      (1, 3)
    """

    x: Any
    labels: jax.Array
