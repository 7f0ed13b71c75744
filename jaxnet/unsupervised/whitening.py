"""Principal components and whitening: the data turned, and stretched to variance 1.

The eigenvectors of the covariance are the directions of the data. Their sums run in float64 on the
host, whatever the dtype of x: in float32 the directions of small variance, which whitening
stretches most, would be rounding errors.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Params
from jaxnet.unsupervised.check import check_examples

BLOCK = 4096  # examples in float64 at a time
NO_VARIANCE = 1e-12  # of the largest variance: below, a direction holds rounding errors alone


def fit_pca(key: jax.Array | None, x: Any, features: int | None = None) -> Params:
    """The directions of largest variance: params of `jn.dense(features)`.

    The outputs have mean 0, are uncorrelated, and come in the order of their variance; the columns
    of the kernel are orthonormal, each with its largest entry positive. So `y @ kernel.T + mean`
    is the best reconstruction of x from so many numbers.

    Args:
      key: is not used, since nothing is drawn; every fit takes one.
      x: (n, inputs), not NaN; n may be below inputs.
      features: directions to keep, 1 to inputs; all by default.

    Returns:
      {"kernel": (inputs, features), "bias": (features,)}.

    Raises:
      ValueError: for another shape, no data, a NaN, or more features than inputs.

    Example:
      >>> x = np.random.default_rng(0).normal(size=(50, 3)) * [1, 5, 2]
      >>> params = fit_pca(None, x, 2)
      >>> y, _ = jn.dense(2).apply(params, {}, jnp.asarray(x, jnp.float32))
      >>> int(jnp.abs(params["kernel"][:, 0]).argmax()), bool((jnp.abs(y.mean(0)) < 1e-5).all())
      (1, True)

    Reference: Pearson 1901, "On lines and planes of closest fit to systems of points in space".
    """
    x, mean, _, directions = _directions(x, features, "fit_pca")
    return _dense(mean, directions[:, :features], x.dtype)


def fit_whitening(
    key: jax.Array | None,
    x: Any,
    features: int | None = None,
    *,
    zca: bool = False,
    epsilon: float = 1e-3,
) -> Params:
    """Uncorrelated outputs of mean 0 and variance 1: params of `jn.dense(features)`.

    Directions without variance (constant inputs, or fewer examples than inputs) give outputs of 0:
    there is nothing to stretch.

    Args:
      key: is not used, since nothing is drawn; every fit takes one.
      x: (n, inputs), not NaN; n may be below inputs.
      features: directions to keep, those of largest variance, 1 to inputs; all by default.
      zca: turns back after stretching, so that outputs look like inputs (an image stays an image).
        Then features must be inputs.
      epsilon: at least 0, added to each variance as a share of their mean. Directions of much less
        variance than that, noise mostly, are damped rather than stretched; with 0 the covariance of
        the outputs is the identity. Patches of photographs take 0.01 to 0.1.

    Returns:
      {"kernel": (inputs, features), "bias": (features,)}.

    Raises:
      ValueError: for another shape, no data, a NaN, a negative epsilon, more features than inputs,
        or zca with fewer.

    Example:
      >>> x = np.random.default_rng(0).normal(size=(50, 3)) @ [[1, 0, 0], [2, 3, 0], [4, 5, 6]]
      >>> params = fit_whitening(None, x, zca=True, epsilon=0)
      >>> y, _ = jn.dense(3).apply(params, {}, jnp.asarray(x, jnp.float32))
      >>> bool(jnp.allclose(jnp.cov(y.T), jnp.eye(3), atol=1e-4))
      True

    Reference: Bell and Sejnowski 1997, "The independent components of natural scenes are edge
    filters"; Kessy et al. 2018, "Optimal whitening and decorrelation".
    """
    if epsilon < 0:
        raise ValueError(f"fit_whitening: epsilon must be at least 0, got {epsilon}")
    x, mean, variances, directions = _directions(x, features, "fit_whitening")
    if zca and features not in (None, x.shape[1]):
        raise ValueError(
            f"fit_whitening: zca gives as many features as inputs, {x.shape[1]}, got {features}"
        )
    known = variances > NO_VARIANCE * max(variances[0], np.finfo(np.float64).tiny)
    stretched = np.sqrt(np.where(known, variances + epsilon * variances.mean(), 1))
    kernel = directions * np.where(known, 1 / stretched, 0)
    return _dense(mean, kernel @ directions.T if zca else kernel[:, :features], x.dtype)


def _directions(x: Any, features: int | None, who: str):
    """x, its mean (inputs,), variances in falling order, directions as columns (inputs, inputs)."""
    x = check_examples(x, 1 if features is None else features, who, limit=1)
    blocks = range(0, len(x), BLOCK)
    total = np.zeros(x.shape[1])
    for i in blocks:
        total += np.asarray(x[i : i + BLOCK], np.float64).sum(0)
    mean = total / len(x)
    scatter = np.zeros((len(mean), len(mean)))
    for i in blocks:
        centred = np.asarray(x[i : i + BLOCK], np.float64) - mean
        scatter += centred.T @ centred
    # From smallest to largest, in NumPy; n - 1 since the mean is that of the data.
    variances, directions = np.linalg.eigh(scatter / max(len(x) - 1, 1))
    variances, directions = np.maximum(variances[::-1], 0), directions[:, ::-1]
    largest = directions[np.abs(directions).argmax(0), np.arange(len(mean))]
    return x, mean, variances, directions * np.where(largest < 0, -1, 1)


def _dense(mean: np.ndarray, kernel: np.ndarray, dtype: Any) -> Params:
    return {"kernel": jnp.asarray(kernel, dtype), "bias": jnp.asarray(-mean @ kernel, dtype)}
