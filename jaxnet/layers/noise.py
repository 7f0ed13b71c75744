"""Gaussian noise in training, added or multiplied."""

import math

import jax

from jaxnet.core import Layer, compose
from jaxnet.services.checks import check_floats, within


def gaussian_noise(stddev: float, *, name: str = "gaussian_noise") -> Layer:
    """Add independent noise of mean 0 to each entry in training; evaluation is the identity.

    Args:
      stddev: Standard deviation of the noise, at least 0, in the units of x.
      name: Name of the layer.

    Raises:
      ValueError: If `stddev` is negative.
      ValueError: If a key is missing in training.
      TypeError: If the input is not float.

    Example:
      >>> layer = gaussian_noise(0.1)
      >>> y, _ = layer.apply({}, {}, jnp.zeros((500, 30)), key=jax.random.key(0), train=True)
      >>> 0.098 < float(y.std()) < 0.102
      True

    Reference: Bishop 1995, "Training with Noise is Equivalent to Tikhonov Regularization".
    """
    within(name, "stddev", stddev, "[0, inf)")
    return _noisy(name, "gaussian_noise", stddev, lambda x, noise: x + noise)


def gaussian_dropout(rate: float, *, name: str = "gaussian_dropout") -> Layer:
    """Multiply each entry in training by noise of mean 1 and variance rate / (1 - rate).

    Mean and variance are the same as with `dropout(rate)`, but entries do not become 0.

    Args:
      rate: Rate, as in `dropout`, in [0, 1).
      name: Name of the layer.

    Raises:
      ValueError: If `rate` is outside [0, 1).
      ValueError: If a key is missing in training.
      TypeError: If the input is not float.

    Example:
      >>> layer = gaussian_dropout(0.2)
      >>> y, _ = layer.apply({}, {}, jnp.ones((500, 30)), key=jax.random.key(0), train=True)
      >>> 0.98 < float(y.mean()) < 1.02, 0.48 < float(y.std()) < 0.52
      (True, True)

    Reference: Srivastava et al. 2014, "Dropout", section 10.
    """
    within(name, "rate", rate, "[0, 1)", "the fraction to drop")
    stddev = math.sqrt(rate / (1 - rate))
    return _noisy(name, "gaussian_dropout", stddev, lambda x, noise: x * (1 + noise))


def _noisy(name: str, kind: str, stddev: float, join) -> Layer:
    def forward(m, x):
        check_floats(name, x)
        if not m.train or stddev == 0:
            return x
        return join(x, stddev * jax.random.normal(m.key(), x.shape, x.dtype))

    return compose(forward, name=name, kind=kind)
