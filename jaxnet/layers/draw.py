"""Parameters from initializers, checked: the one place where a layer calls one."""

from typing import Any

import jax

from jaxnet.core import describe
from jaxnet.initializers import Initializer


def draw(
    who: str, what: str, initializer: Initializer, key: jax.Array, shape: tuple, dtype: Any
) -> jax.Array:
    """The array of an initializer; raises where it has another shape.

    Args:
      who: the layer, for the message.
      what: the argument that is the initializer.
      initializer: a function `(key, shape, dtype) -> array`.
      key, shape, dtype: what it gets.

    Example:
      >>> draw("dense", "bias_init", lambda key, shape, dtype: 0.0, None, (3,), jnp.float32)
      Traceback (most recent call last):
      ...
      ValueError: dense: bias_init must return an array of shape (3,), got float
    """
    try:
        drawn = initializer(key, shape, dtype)
    except Exception as error:
        error.add_note(f"in {what} of {who}, which gets (key, shape, dtype)")
        raise
    if getattr(drawn, "shape", None) != tuple(shape):
        got = describe(drawn) if jax.tree.leaves(drawn) else type(drawn).__name__
        raise ValueError(f"{who}: {what} must return an array of shape {shape}, got {got}")
    return drawn
