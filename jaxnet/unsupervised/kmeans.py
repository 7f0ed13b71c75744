"""Features from the data: centroids of k-means, or examples drawn at random.

`kmeans` returns vectors (features, inputs) that resemble examples. `fit_kmeans` turns them into
kernels of a dense layer, `fit_random_vectors` does so with examples, and `fit_rbf_centers` makes
the centers of an `rbf` layer.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import Layer, compose, product, tools
from jaxnet.initializers import normal
from jaxnet.ops import output_dtype, plus, wide
from jaxnet.typing import Params
from jaxnet.unsupervised.check import check_fit, drawn, scaled

Vectors = Callable[[jax.Array, Any, int], jax.Array]  # (key, x, features) -> (features, inputs)


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
    x = check_fit(key, x, features, "kmeans", limit=0, iterations=iterations)
    # Explicit, since x64 makes the default 64 bits.
    seed = int(jax.random.bits(key, dtype=jnp.uint32))
    cluster = tools.extra("sklearn.cluster", "scikit-learn", "kmeans")
    model = cluster.KMeans(
        features, n_init=1, max_iter=iterations, tol=tolerance, random_state=seed
    )
    # Several threads would add numbers in varying order, so that results would vary. On a loaded
    # machine they are also much slower, since they wait for each other.
    with tools.extra("threadpoolctl", "threadpoolctl", "kmeans").threadpool_limits(1):
        centroids = model.fit(np.asarray(x)).cluster_centers_
    return jnp.asarray(centroids, x.dtype)


def fit_kmeans(
    key: jax.Array, x: Any, features: int, *, scale: float | None = 1.0, iterations: int = 100
) -> Params:
    """Return centroids as params of `jn.dense(features)`.

    The largest output is the nearest centroid. ‖x − c‖² = ‖x‖² − 2 (x·c − ½‖c‖²), so with kernel c
    and bias −½‖c‖² the outputs are in the reverse order of the distances. The order stays the same
    if the mean of x is first subtracted from x and c, and if one factor and one shift are applied
    to all outputs. With `scale` the outputs get mean 0 and this standard deviation over x, so that
    fine-tuning after a sigmoid or relu starts without dead or saturated units.

    Args:
      key: Random key; the same key and data give the same params.
      x: Examples (n, inputs), without NaN.
      features: Number of centroids, 1 to n.
      scale: Standard deviation of the outputs over x, positive. None leaves the centroids as they
        are: the kernel's columns.
      iterations: Greatest number of passes over the data; see `kmeans`.

    Returns:
      {"kernel": (inputs, features), "bias": (features,)}.

    Raises:
      ValueError: As in `kmeans`.
      ValueError: If `scale` is not positive.
      ImportError: If scikit-learn is missing.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (50, 3))
      >>> params = fit_kmeans(jax.random.key(1), x, 4, scale=None)
      >>> y, _ = jn.dense(4).apply(params, {}, x)
      >>> distances = ((x[:, None] - params["kernel"].T) ** 2).sum(-1)
      >>> bool((y.argmax(1) == distances.argmin(1)).all())
      True

    Reference: Coates, Lee and Ng 2011, "An analysis of single-layer networks in unsupervised
    feature learning"; Coates and Ng 2012, "Learning feature representations with k-means".
    """
    tools.within("fit_kmeans", "scale", scale, "(0, inf)", optional=True)
    x = check_fit(key, x, features, "fit_kmeans", limit=0, iterations=iterations)
    centroids = kmeans(key, x, features, iterations=iterations)
    if scale is None:
        return {"kernel": centroids.T, "bias": -(centroids**2).sum(1) / 2}
    mean = x.mean(0)
    kernel = (centroids - mean[None]).T
    return scaled(kernel, -mean @ kernel - (kernel**2).sum(0) / 2, x, scale)


def fit_random_vectors(
    key: jax.Array, x: Any, features: int, *, scale: float | None = 1.0
) -> Params:
    """Return examples drawn at random, as params of `jn.dense(features)`.

    The mean of x is subtracted from each, and each is scaled to one length, so an output is the
    projection of x onto the direction of an example. Nothing is learned: this is the baseline for
    other methods.

    Args:
      key: Random key; the same key and data give the same examples.
      x: Examples (n, inputs), without NaN.
      features: Number of examples, 1 to n.
      scale: Standard deviation of the outputs over x, positive; their mean is 0. None leaves the
        examples as they are, neither centered nor of one length, with biases of 0.

    Returns:
      {"kernel": (inputs, features), "bias": (features,)}.

    Raises:
      ValueError: If `x` has the wrong shape, is empty, or contains NaN.
      ValueError: If `features` is above the number of examples.
      ValueError: If `scale` is not positive.

    Example:
      >>> x = jax.random.uniform(jax.random.key(0), (50, 3))
      >>> params = fit_random_vectors(jax.random.key(1), x, 7)
      >>> y, _ = jn.dense(7).apply(params, {}, x)
      >>> bool(jnp.allclose(y.std(), 1, atol=1e-4)), bool(jnp.allclose(y.mean(0), 0, atol=1e-4))
      (True, True)
    """
    tools.within("fit_random_vectors", "scale", scale, "(0, inf)", optional=True)
    x = check_fit(key, x, features, "fit_random_vectors", limit=0)
    rows = drawn(key, x, features)
    if scale is None:
        return {"kernel": rows.T, "bias": jnp.zeros(features, x.dtype)}
    mean = x.mean(0)
    kernel = (rows - mean[None]).T
    length = jnp.linalg.norm(kernel, axis=0)
    kernel = kernel / jnp.where(length > 0, length, 1)[None]
    return scaled(kernel, -mean @ kernel, x, scale)


def fit_rbf_centers(
    key: jax.Array, x: Any, features: int, *, method: Vectors = kmeans, overlap: float = 1.0
) -> Params:
    """Return centers and a common width: params of `jn.layers.rbf(features)`.

    The width is the mean distance of a center to its nearest neighbor, so neighboring units
    overlap, whatever the scale of the data.

    Args:
      key: Random key; the same key and data give the same params.
      x: Examples (n, inputs), without NaN.
      features: Number of centers, 1 to n.
      method: Function that chooses the centers: `kmeans`, or any function
        `(key, x, features) -> centers`; bind options by `functools.partial`.
      overlap: Factor of the width, positive.

    Returns:
      {"centers": (features, inputs), "width": ()}.

    Raises:
      ValueError: As in `kmeans`.
      ValueError: If `overlap` is not positive.
      ValueError: If all centers are equal and so do not define a width.
      ImportError: If scikit-learn is missing.

    Example:
      >>> x = np.array([[0.0, 0], [0, 0], [3, 4], [3, 4]])
      >>> params = fit_rbf_centers(jax.random.key(0), x, 2)
      >>> float(params["width"])
      5.0

    Reference: Moody and Darken 1989, "Fast learning in networks of locally-tuned processing units".
    """
    who = "fit_rbf_centers"
    tools.a_function(who, "method", method, "(key, x, features)")
    tools.within(who, "overlap", overlap, "(0, inf)")
    x = check_fit(key, x, features, who, limit=0)
    sizes = {"features": features, "inputs": x.shape[1]}
    try:
        centers = method(key, x, features)
    except TypeError as error:
        error.add_note(f"{who}: in method(key, x, features), for x {tools.describe(x)}")
        raise
    centers = tools.as_array(who, "method(...)", centers, "(features, inputs)", "floats", sizes)
    if features > 1:
        neighbors = tools.extra("sklearn.neighbors", "scikit-learn", "fit_rbf_centers")
        model = neighbors.NearestNeighbors(n_neighbors=1).fit(np.asarray(centers))
        distances, _ = model.kneighbors()  # leaves out the center itself
        width = distances.mean()
    else:  # for a single center, the root mean square distance of the examples
        width = jnp.sqrt(((x - centers) ** 2).sum(1).mean())
    if not width > 0:
        raise ValueError("fit_rbf_centers: all centers are equal; are the examples all equal?")
    return {"centers": centers, "width": jnp.asarray(overlap * width, x.dtype)}


def triangle(features: int, *, name: str = "triangle") -> Layer:
    """Make a layer of max(0, mean distance − distance) per center.

    The output is by how much a center is nearer than the average. The mean is over the centers, for
    each example, so about half of the outputs are 0. It is the soft assignment of Coates, Lee and
    Ng. With a linear readout it is better than the nearest center.

    Args:
      features: Number of centers, at least 1.
      name: Name of the layer.

    Params:
      centers (features, inputs), drawn from a standard normal distribution; `kmeans` learns them.

    Raises:
      ValueError: If `features` is below 1.
      ValueError: If the input does not have a feature axis.

    Example:
      >>> x = jnp.array([[0.0, 0]])
      >>> y, _ = triangle(3).apply({"centers": jnp.array([[3.0, 4], [0, 1], [3, 0]])}, {}, x)
      >>> y.tolist()  # distances 5, 1 and 3
      [[0.0, 2.0, 0.0]]

    Reference: Coates, Lee and Ng 2011, "An analysis of single-layer networks in unsupervised
    feature learning".
    """
    tools.at_least(name, "features", features)

    def forward(m, x):
        tools.check_rank(name, x, 2)
        centers = m.param("centers", normal(1.0), (features, x.shape[-1]))
        centers, dtype, x = wide(centers), output_dtype(x), wide(x)
        square = (x**2).sum(-1, keepdims=True) - 2 * product(x, centers.T)
        square = plus(square, (centers**2).sum(1))
        # The slope of the root at 0 is infinite, and 0 · inf would be NaN.
        distance = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        return jnp.maximum(distance.mean(-1, keepdims=True) - distance, 0).astype(dtype)

    return compose(forward, name=name, kind="triangle")
