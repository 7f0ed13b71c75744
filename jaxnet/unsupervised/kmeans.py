"""Layers made of examples: centroids of k-means, or examples drawn at random."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.checks import check_not_traced, to_device, within
from jaxnet.services.extras import extra
from jaxnet.typing import Params
from jaxnet.unsupervised.check import check_fit, standardized


def kmeans(
    key: jax.Array, x: Any, features: int, *, iterations: int = 100, tolerance: float = 1e-4
) -> jax.Array:
    """Return centroids from scikit-learn's `KMeans`, each the mean of its nearest examples.

    The result is a local minimum of the sum of squared distances; another key gives another. It is
    computed in NumPy, so it has no derivatives.

    Args:
      key: Random key; the same key and data give the same centroids.
      x: Examples (n, inputs), without NaN.
      features: Number of centroids, 1 to n.
      iterations: Greatest number of passes over the data, at least 1.
      tolerance: Fraction of the mean variance of the inputs, at least 0. The search stops if the
        squared moves of all centroids sum to less.

    Returns:
      (features, inputs).

    Raises:
      ValueError: If `x` has the wrong shape, is empty, or contains NaN.
      ValueError: If `features` is above the number of examples.
      ValueError: If `iterations` is below 1.
      ImportError: If scikit-learn, the extra jaxnet-toolkit[data], is missing.

    Example:
      >>> x = np.array([[0.0, 0], [0, 2], [9, 9], [9, 7], [9, 8]])
      >>> sorted(kmeans(jax.random.key(0), x, 2).tolist())
      [[0.0, 1.0], [9.0, 8.0]]

    Reference: Lloyd 1982, "Least squares quantization in PCM"; Arthur and Vassilvitskii 2007,
    "k-means++: the advantages of careful seeding".
    """
    within("kmeans", "tolerance", tolerance, "[0, inf)")
    check_not_traced("kmeans", "x", x)
    checked = check_fit(key, x, features, "kmeans", limit=0, iterations=iterations)
    # Explicit, since x64 makes the default 64 bits.
    seed = int(jax.random.bits(key, dtype=jnp.uint32))
    cluster = extra("sklearn.cluster", "scikit-learn", "kmeans")
    options = {"max_iter": iterations, "tol": tolerance, "random_state": seed}
    model = cluster.KMeans(features, n_init=1, **options)
    # Several threads would add numbers in varying order, so that results would vary. On a loaded
    # machine they are also much slower, since they wait for each other.
    with extra("threadpoolctl", "threadpoolctl", "kmeans").threadpool_limits(1):
        dtype = np.promote_types(x.dtype, checked.dtype)  # float64 stays float64
        model.fit(np.asarray(x, dtype))
    return jnp.asarray(model.cluster_centers_, checked.dtype)


def fit_kmeans(key: jax.Array, x: Any, features: int, *, iterations: int = 100) -> Params:
    """Return centroids as params of `jn.dense(features)`: the nearest has the largest output.

    ‖x − c‖² = ‖x‖² − 2 (x·c − ½‖c‖²), also if the mean of x is subtracted from x and c. All outputs
    together have mean 0 and standard deviation 1 over x. As `kmeans`, it has no derivatives.

    Args:
      key, x, features, iterations: As in `kmeans`.

    Returns:
      {"kernel": (inputs, features), "bias": (features,)}.

    Raises:
      ImportError, TypeError, ValueError: As in `kmeans`.

    Example:
      >>> x = np.array([[0.0, 0], [0, 2], [9, 9], [9, 7], [9, 8]], np.float32)
      >>> params = fit_kmeans(jax.random.key(0), x, 2)
      >>> y, _ = jn.dense(2).apply(params, {}, x)
      >>> y.argmax(1).tolist()
      [0, 0, 1, 1, 1]

    Reference: Coates, Lee and Ng 2011, "An analysis of single-layer networks in unsupervised
    feature learning"; Coates and Ng 2012, "Learning feature representations with k-means".
    """
    centroids = kmeans(key, x, features, iterations=iterations)
    x = to_device("fit_kmeans", "x", x)
    mean = x.mean(0)
    kernel = (centroids - mean[None]).T
    bias = -mean @ kernel - (kernel**2).sum(0) / 2
    return standardized(kernel, bias, x)


def random_vectors(key: jax.Array, x: Any, features: int) -> jax.Array:
    """Return different examples drawn at random.

    Args:
      key: Random key.
      x: Examples (n, inputs), without NaN.
      features: Number of examples to draw, 1 to n.

    Returns:
      (features, inputs).

    Raises:
      ValueError: If `x` has the wrong shape, is empty, or contains NaN.
      ValueError: If `features` is above the number of examples.

    Example:
      >>> random_vectors(jax.random.key(0), np.array([[1.0, 2.0], [3.0, 4.0]]), 2).sum(0).tolist()
      [4.0, 6.0]
    """
    x = check_fit(key, x, features, "random_vectors", limit=0)
    chosen = jax.random.choice(key, len(x), (features,), replace=False)
    return x[chosen]


def fit_random_vectors(key: jax.Array, x: Any, features: int) -> Params:
    """Return `random_vectors`, centered and of one length, as params of `jn.dense(features)`.

    All outputs together have mean 0 and standard deviation 1 over x.

    Args:
      key, x, features: As in `random_vectors`.

    Returns:
      {"kernel": (inputs, features), "bias": (features,)}.

    Raises:
      TypeError, ValueError: As in `random_vectors`.

    Example:
      >>> x = np.array([[0.0, 0], [0, 2], [9, 9], [9, 7]], np.float32)
      >>> params = fit_random_vectors(jax.random.key(0), x, 3)
      >>> params["kernel"].shape, params["bias"].shape
      ((2, 3), (3,))

    Reference: Coates and Ng 2011, "The importance of encoding versus training with sparse coding
    and vector quantization".
    """
    rows = random_vectors(key, x, features)
    x = to_device("fit_random_vectors", "x", x)
    mean = x.mean(0)
    kernel = (rows - mean[None]).T
    length = jnp.linalg.norm(kernel, axis=0)
    kernel = kernel / jnp.where(length > 0, length, 1)[None]
    bias = -mean @ kernel
    return standardized(kernel, bias, x)
