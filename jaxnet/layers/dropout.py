"""Dropout: noise that switches units off in training."""

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, checked


def dropout(rate: float, *, name: str = "dropout") -> Layer:
    """In training, each entry is 0 with probability `rate`, else divided by 1 - rate.

    `rate` is the share that is dropped (stax counts the share that is kept). The division keeps the
    mean, so nothing is to be done at evaluation, where the layer is the identity.

    Args:
      rate: in [0, 1).
      name: of the layer.

    Raises:
      ValueError: for a rate outside [0, 1), or in training without a key.

    Example:
      >>> layer = dropout(0.25)
      >>> y, _ = layer.apply({}, {}, jnp.ones((3, 8)), key=jax.random.key(0), train=True)
      >>> sorted(set(y.ravel().tolist()))
      [0.0, 1.333...]

    Reference: Srivastava et al. 2014, "Dropout".
    """
    if not 0 <= rate < 1:
        raise ValueError(f"dropout: rate is the share that is dropped, in [0, 1), got {rate}")

    def init(key, x):
        return {}, {}

    def apply(params, state, x, *, key=None, train=False):
        if not train or rate == 0:
            return x, state
        keep = jax.random.bernoulli(needs_key(key, name), 1 - rate, x.shape)
        return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype), state

    return checked(Layer(init, apply, name))


def needs_key(key: jax.Array | None, name: str) -> jax.Array:
    """The key, or an error that shows the call to make."""
    if key is None:
        raise ValueError(
            f"{name}: needs a key in training; write "
            "net.apply(params, state, x, key=jax.random.key(0), train=True)"
        )
    return key
