"""Layers that change only the shape."""

import math

from jaxnet.core import Layer, compose
from jaxnet.services.checks import check_rank


def flatten(*, name: str = "flatten") -> Layer:
    """Merge all axes but the first: (batch, ...) to (batch, features).

    Args:
      name: Name of the layer.

    Example:
      >>> y, _ = flatten().apply({}, {}, jnp.ones((2, 3, 5, 7)))
      >>> y.shape
      (2, 105)
    """

    def forward(m, x):
        m.not_in_stream("merges the axis of time")
        check_rank(name, x, 1, "(batch, ...)")
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))  # -1 would fail for an empty batch

    return compose(forward, name=name, kind="flatten")
