"""Layers that change only the shape."""

import math

from jaxnet.core import Layer, compose
from jaxnet.services.checks import check_rank


def flatten(*, name: str = "flatten") -> Layer:
    """Merge all axes but the first: (batch, ...) to (batch, features).

    Args:
      name: Name of the layer.

    Returns:
      A layer from (batch, ...) to (batch, features).

    Example:
      >>> flatten().apply({}, {}, jnp.arange(12.0).reshape(2, 3, 2))[0].tolist()
      [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]]
    """

    def forward(m, x):
        m._not_in_stream("merges the axis of time")
        check_rank(name, x, 1, "(batch, ...)")
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))  # -1 would fail for an empty batch

    return compose(forward, name=name, kind="flatten")
