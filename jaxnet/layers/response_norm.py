"""Local response normalization: neighbouring features inhibit one another."""

import functools

import jax.numpy as jnp

from jaxnet.core import Layer, stateless
from jaxnet.ops.window import taps


def local_response_norm(
    size: int = 5,
    *,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
    name: str = "local_response_norm",
) -> Layer:
    """y = x / (k + alpha * sum of x² over `size` neighbouring features) ** beta.

    Two formulas go by this name. This is that of the paper and of TensorFlow, where alpha
    multiplies the sum. PyTorch and Caffe multiply the mean: their alpha is `size` times ours, so
    write `alpha=their_alpha / size`; PyTorch's k is 1 by default.

    Args:
      size: how many features a sum spans: size // 2 before and (size - 1) // 2 after each, fewer
        at the ends.
      alpha: strength.
      beta: exponent.
      k: added to the sum, positive.
      name: of the layer.

    Raises:
      ValueError: where size is below 1 or k is not positive.

    Example:
      >>> layer = local_response_norm(3, alpha=1.0, beta=1.0, k=1.0)
      >>> y, _ = layer.apply({}, {}, jnp.array([[1.0, 2.0, 0.0]]))
      >>> y
      Array([[0.16666667, 0.33333334, 0.        ]], dtype=float32)

    Paper: Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural
    networks", 3.3, with the constants that are the defaults here.
    """
    if size < 1 or k <= 0:
        raise ValueError(f"{name}: size must be at least 1 and k positive, got {size} and {k}")

    def apply(params, x):
        dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32
        x = x.astype(jnp.promote_types(dtype, jnp.float32))
        squares = (x**2).reshape(-1, x.shape[-1], 1)  # features as the one axis that is slid over
        seen = taps(squares, (size,), (1,), ((size // 2, (size - 1) // 2),))
        total = functools.reduce(jnp.add, seen)
        return (x * (k + alpha * total.reshape(x.shape)) ** -beta).astype(dtype)

    return stateless(lambda key, x: {}, apply, name=name)
