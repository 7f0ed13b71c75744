"""Params of layers made of examples: centroids of k-means, or examples drawn at random.

A fit takes (key, x, features), with examples x of shape (n, inputs).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from jaxnet.typing import Params
from jaxnet.unsupervised import kmeans

MEASURED = 10_000  # number of examples used to measure the scale of outputs


def fit_kmeans(key: jax.Array, x: Any, features: int, *, iterations: int = 100) -> Params:
    """Return centroids as params of `jn.dense(features)`: the nearest has the largest output.

    ‖x − c‖² = ‖x‖² − 2 (x·c − ½‖c‖²), also if the mean of x is subtracted from x and c.

    Reference: Coates, Lee and Ng 2011, "An analysis of single-layer networks in unsupervised
    feature learning"; Coates and Ng 2012, "Learning feature representations with k-means".
    """
    x = jnp.asarray(x)
    mean = x.mean(0)
    kernel = (kmeans.kmeans(key, x, features, iterations=iterations) - mean).T
    return standardized(kernel, -mean @ kernel - (kernel**2).sum(0) / 2, x)


def random_vectors(key: jax.Array, x: Any, features: int) -> jax.Array:
    """Return different examples drawn at random, (features, inputs)."""
    return jnp.asarray(x)[jax.random.choice(key, len(x), (features,), replace=False)]


def fit_random_vectors(key: jax.Array, x: Any, features: int) -> Params:
    """Return `random_vectors`, centered and of one length, as params of `jn.dense(features)`."""
    x = jnp.asarray(x)
    mean = x.mean(0)
    kernel = (random_vectors(key, x, features) - mean).T
    length = jnp.linalg.norm(kernel, axis=0)
    kernel = kernel / jnp.where(length > 0, length, 1)
    return standardized(kernel, -mean @ kernel, x)


@jax.jit
def standardized(kernel: jax.Array, bias: jax.Array, x: jax.Array) -> Params:
    """Return params of `jn.dense` whose outputs have mean 0 and standard deviation 1 over x.

    All units share one factor and one shift, so the order of the outputs stays the same. On other
    scales, units with a ReLU would be always on or always off, and sigmoids would saturate.
    """
    outputs = x[:: -(-len(x) // MEASURED)] @ kernel + bias
    spread = outputs.std()
    factor = 1 / jnp.where(spread > 0, spread, 1)
    return {"kernel": factor * kernel, "bias": factor * (bias - outputs.mean())}


def fit_rbf_centers(
    key: jax.Array, x: Any, features: int, *, method: Callable[..., jax.Array] = kmeans.kmeans
) -> Params:
    """Return centers chosen by a method, and a common width: params of `jn.layers.rbf(features)`.

    The width is the mean distance of a center to its nearest neighbor. For a single center it is
    the root mean square distance of the examples.

    Reference: Moody and Darken 1989, "Fast learning in networks of locally-tuned processing units".
    """
    from sklearn.neighbors import NearestNeighbors

    centers = method(key, x, features)
    if features > 1:
        distances, _ = NearestNeighbors(n_neighbors=1).fit(np.asarray(centers)).kneighbors()
        width = distances.mean()
    else:
        width = jnp.sqrt(((x - centers) ** 2).sum(1).mean())
    return {"centers": centers, "width": jnp.asarray(width, centers.dtype)}


def triangle(features: int) -> jn.Layer:
    """Make a layer of max(0, mean distance − distance) to each center.

    The mean is over the centers, for each example, so about half of the outputs are 0. The params
    are {"centers": (features, inputs)}, such as the centroids of `kmeans`.

    Reference: Coates, Lee and Ng 2011, see `fit_kmeans`.
    """

    def forward(m, x):
        centers = m.param("centers", jn.initializers.normal(1.0), (features, x.shape[-1]))
        square = (x**2).sum(-1, keepdims=True) - 2 * (x @ centers.T) + (centers**2).sum(1)
        distance = jnp.sqrt(jnp.maximum(square, 0))
        return jnp.maximum(distance.mean(-1, keepdims=True) - distance, 0)

    return jn.compose(forward, name="triangle")
