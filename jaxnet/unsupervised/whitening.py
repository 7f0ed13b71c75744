"""Principal components and whitening: data rotated to their axes, and scaled to variance 1.

The axes are the eigenvectors of the covariance, computed on the host in float64, whatever the dtype
of x: in float32 the directions of small variance, which whitening scales up most, would be rounding
errors. The layer computes in its own dtype: if the mean of the data is large next to their spread,
subtract it in float64 first.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.checks import check_not_traced, check_options, within
from jaxnet.typing import Params
from jaxnet.unsupervised.check import check_examples

# Fraction of the largest variance, below which a direction consists of rounding errors.
_NO_VARIANCE = 1e-12


def fit_pca(key: jax.Array | None, x: Any, features: int | None = None) -> Params:
    """Return the directions of largest variance: params of `jn.dense(features)`.

    The outputs have mean 0, are uncorrelated, and are sorted by decreasing variance. The columns of
    the kernel are orthonormal, each with its largest entry positive. So `y @ kernel.T + mean` is
    the best linear reconstruction of x from this number of features. It is computed in NumPy, so it
    has no derivatives.

    Args:
      key: Not used, as nothing is random; every fit takes a key.
      x: Examples (n, inputs), without NaN; n may be below inputs.
      features: Number of directions to keep, 1 to inputs; all by default.

    Returns:
      {"kernel": (inputs, features), "bias": (features,)}.

    Raises:
      ValueError: If `x` has the wrong shape, is empty, or contains NaN.
      ValueError: If `features` is above the number of inputs.

    Example:
      >>> x = np.random.default_rng(0).normal(size=(50, 3)) * [1, 5, 2]
      >>> params = fit_pca(None, x, 2)
      >>> y, _ = jn.dense(2).apply(params, {}, jnp.asarray(x, jnp.float32))
      >>> np.asarray(y).std(0).round(1)  # of the two directions of largest variance
      array([4.2, 1.7], dtype=float32)

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
    """Return params of `jn.dense(features)` for uncorrelated outputs of mean 0 and variance 1.

    Directions without variance (constant inputs, or fewer examples than inputs) give outputs of 0.
    It is computed in NumPy, so it has no derivatives.

    Args:
      key: Not used, as nothing is random; every fit takes a key.
      x: Examples (n, inputs), without NaN; n may be below inputs.
      features: Number of directions of largest variance to keep, 1 to inputs; all by default.
      zca: Whether to rotate back after scaling, so that outputs resemble inputs (an image stays an
        image). Then features must be inputs.
      epsilon: Fraction of the mean variance that is added to each variance, at least 0. It damps
        directions of much less variance than that, which are usually noise; with 0 the covariance
        of the outputs is the identity. For patches of photographs use 0.01 to 0.1.

    Returns:
      {"kernel": (inputs, features), "bias": (features,)}.

    Raises:
      ValueError: If `x` has the wrong shape, is empty, or contains NaN.
      ValueError: If `epsilon` is negative.
      ValueError: If `features` is above the number of inputs.
      ValueError: If `zca` is given with fewer features than inputs.

    Example:
      >>> x = np.random.default_rng(0).normal(size=(50, 3)) @ [[1, 0, 0], [2, 3, 0], [4, 5, 6]]
      >>> params = fit_whitening(None, x, zca=True, epsilon=0)
      >>> y, _ = jn.dense(3).apply(params, {}, jnp.asarray(x, jnp.float32))
      >>> print(abs(np.cov(y.T)).round(3))
      [[1. 0. 0.]
       [0. 1. 0.]
       [0. 0. 1.]]

    Reference: Bell and Sejnowski 1997, "The independent components of natural scenes are edge
    filters"; Kessy et al. 2018, "Optimal whitening and decorrelation".
    """
    check_options("fit_whitening", zca=zca)
    within("fit_whitening", "epsilon", epsilon, "[0, inf)")
    x, mean, variances, directions = _directions(x, features, "fit_whitening")
    if zca and features not in (None, x.shape[1]):
        raise ValueError(
            f"fit_whitening: zca returns one feature per input, {x.shape[1]}, got {features}"
        )
    rounding = 1e-18 * float(mean @ mean)  # of constant inputs
    largest = max(variances[0], rounding, np.finfo(np.float64).tiny)
    varies = variances > _NO_VARIANCE * largest
    damped = variances + epsilon * variances.mean()
    deviations = np.sqrt(np.where(varies, damped, 1))
    kernel = directions * np.where(varies, 1 / deviations, 0)
    kernel = kernel @ directions.T if zca else kernel[:, :features]
    return _dense(mean, kernel, x.dtype)


def _directions(x: Any, features: int | None, who: str):
    """Return the checked x, its mean (inputs,), decreasing variances, and directions as columns
    (inputs, inputs)."""
    check_not_traced(who, "x", x)
    checked = check_examples(x, 1 if features is None else features, who, limit=1)
    exact = np.asarray(x, np.float64)  # the checked x is rounded to float32
    mean = exact.mean(0)
    centered = exact - mean
    # n - 1, since the mean is estimated from the data
    covariance = centered.T @ centered / max(len(checked) - 1, 1)
    variances, directions = np.linalg.eigh(covariance)
    variances = np.maximum(variances[::-1], 0)
    directions = directions[:, ::-1]
    place = np.abs(directions).argmax(0)
    largest = directions[place, np.arange(len(mean))]
    signs = np.where(largest < 0, -1, 1)
    return checked, mean, variances, directions * signs


def _dense(mean: np.ndarray, kernel: np.ndarray, dtype: Any) -> Params:
    bias = -mean @ kernel
    return {"kernel": jnp.asarray(kernel, dtype), "bias": jnp.asarray(bias, dtype)}
