"""Centroids of k-means: vectors (features, inputs) that resemble examples."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import tools
from jaxnet.services.extras import extra
from jaxnet.unsupervised.check import check_fit


def kmeans(
    key: jax.Array, x: Any, features: int, *, iterations: int = 100, tolerance: float = 1e-4
) -> jax.Array:
    """Return centroids from scikit-learn's `KMeans`, each the mean of its nearest examples.

    The result is a local minimum of the sum of squared distances; another key gives another.

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
    tools.within("kmeans", "tolerance", tolerance, "[0, inf)")
    given, x = x, check_fit(key, x, features, "kmeans", limit=0, iterations=iterations)
    # Explicit, since x64 makes the default 64 bits.
    seed = int(jax.random.bits(key, dtype=jnp.uint32))
    cluster = extra("sklearn.cluster", "scikit-learn", "kmeans")
    options = {"max_iter": iterations, "tol": tolerance, "random_state": seed}
    model = cluster.KMeans(features, n_init=1, **options)
    # Several threads would add numbers in varying order, so that results would vary. On a loaded
    # machine they are also much slower, since they wait for each other.
    with extra("threadpoolctl", "threadpoolctl", "kmeans").threadpool_limits(1):
        data = np.asarray(given, np.promote_types(given.dtype, x.dtype))  # float64 stays float64
        centroids = model.fit(data).cluster_centers_
    return jnp.asarray(centroids, x.dtype)
