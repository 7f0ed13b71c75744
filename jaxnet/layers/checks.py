"""Checks of inputs that several layers share."""

from typing import Any

import jax
import numpy as np

from jaxnet.checks import is_traced


def check_rank(who: str, x: Any, rank: int, form: str = "(batch, ..., features)") -> None:
    """Raises unless x has at least `rank` axes.

    Args:
      who: name of the layer.
      x: array or spec.
      rank: least number of axes.
      form: the expected shape in words.

    Example:
      >>> check_rank("dense", jn.spec((5,)), 2)
      Traceback (most recent call last):
      ...
      ValueError: dense: expected an input of shape (batch, ..., features), got (5,). Is the ...
    """
    if len(x.shape) < rank:
        raise ValueError(
            f"{who}: expected an input of shape {form}, got {tuple(x.shape)}. "
            "Is the batch axis missing? For a single example, pass x[None]"
        )


def check_range(ids: jax.Array, size: int, what: str) -> None:
    """Raises for known ids outside [0, size); inside `jit` ids are not known.

    Args:
      ids: integers of any shape.
      size: number of valid ids.
      what: the subject of the message.

    Example:
      >>> check_range(jnp.array([1, 7]), 5, "embedding: ids")
      Traceback (most recent call last):
      ...
      ValueError: embedding: ids must be in [0, 5), got 7
    """
    if is_traced(ids):
        return
    values = np.asarray(ids)
    wrong = values[(values < 0) | (values >= size)]
    if wrong.size:
        raise ValueError(f"{what} must be in [0, {size}), got {wrong.flat[0]}")


def check_rate(who: str, rate: float, what: str = "rate") -> None:
    """Raises unless a dropout rate is in [0, 1).

    Args:
      who: name of the layer.
      rate: the share to drop.
      what: name of the argument.

    Example:
      >>> check_rate("dropout", 1.0)
      Traceback (most recent call last):
      ...
      ValueError: dropout: rate is the share to drop, in [0, 1), got 1.0
    """
    if not 0 <= rate < 1:
        raise ValueError(f"{who}: {what} is the share to drop, in [0, 1), got {rate}")


def needs_key(key: jax.Array | None, who: str) -> jax.Array:
    """The key itself; raises for None.

    Args:
      key: as passed to `apply`.
      who: name of the layer.

    Example:
      >>> needs_key(None, "dropout")
      Traceback (most recent call last):
      ...
      ValueError: dropout: needs a key in training. Pass one, as in net.apply(params, state, x, ...
    """
    if key is None:
        raise ValueError(
            f"{who}: needs a key in training. Pass one, as in "
            "net.apply(params, state, x, key=jax.random.key(0), train=True)"
        )
    return key
