"""Local response normalization: neighboring features inhibit one another."""

import functools

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, compose
from jaxnet.ops.precision import at_least_float32, output_dtype
from jaxnet.ops.scaling import bound, powers
from jaxnet.ops.window import taps
from jaxnet.services.checks import at_least, check_rank, within


def local_response_norm(
    size: int = 5,
    *,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
    name: str = "local_response_norm",
) -> Layer:
    """Divide x by (k + alpha * sum of x² over `size` neighboring features) ** beta.

    Two formulas have this name. Here, as in the paper and TensorFlow, alpha multiplies the sum. In
    PyTorch and Caffe it multiplies the mean, so their alpha is `size` times ours: write
    `alpha=their_alpha / size`. PyTorch's k is 1 by default.

    Args:
      size: Number of features in a sum: size // 2 before and (size - 1) // 2 after each, fewer at
        the ends.
      alpha: Factor of the sum, at least 0.
      beta: Exponent of the divisor.
      k: Number added to the sum; positive.
      name: Name of the layer.

    Returns:
      A layer from (..., features) to the same shape.

    Raises:
      ValueError: If `size` is below 1, `k` is not positive or `alpha` is negative.

    Example:
      >>> layer = local_response_norm(3, alpha=1.0, beta=1.0, k=1.0)
      >>> y, _ = layer.apply({}, {}, jnp.array([[1.0, 2.0, 0.0]]))
      >>> y
      Array([[0.16666667, 0.33333334, 0.        ]], dtype=float32)

    Reference: Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural
    networks", 3.3, whose constants are the defaults.
    """
    at_least(name, "size", size)
    within(name, "k", k, "(0, inf)")
    # With a negative alpha, the base of the power could be negative.
    within(name, "alpha", alpha, "[0, inf)")
    within(name, "beta", beta, "(-inf, inf)")

    def windows(y):
        """Return for each tap of a window the entries of y, (entries, features, 1)."""
        padding = (size // 2, (size - 1) // 2)
        # The window slides over the features.
        return taps(y.reshape(-1, y.shape[-1], 1), (size,), (1,), (padding,))

    def of_usual(y):
        total = functools.reduce(jnp.add, windows(powers(y)))
        return y * (k + alpha * total.reshape(y.shape)) ** -beta

    def of_all(y):
        """Divide the numbers of a window by their largest, if its square is no float."""
        entries = list(windows(jnp.abs(y)))
        largest = functools.reduce(jnp.maximum, entries)
        divisor = jax.lax.stop_gradient(jnp.where(largest > usual(y), largest, 1))
        inverse = 1 / divisor
        total = functools.reduce(jnp.add, (powers(entry * inverse) for entry in entries))
        base = (k * inverse * inverse + alpha * total).reshape(y.shape)
        divisor = divisor.reshape(y.shape)
        return y * inverse.reshape(y.shape) * base**-beta * divisor ** (1 - 2 * beta)

    def usual(y):
        return 2.0 ** bound(y.dtype)

    def forward(m, x):
        check_rank(name, x, 1)
        y = at_least_float32(x)
        is_usual = jnp.abs(y).max(initial=0) <= usual(y)
        return jax.lax.cond(is_usual, of_usual, jax.checkpoint(of_all), y).astype(output_dtype(x))

    return compose(forward, name=name, kind="local_response_norm")
