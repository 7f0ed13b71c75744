"""Layers of distances to centers, such as the centroids of `jn.unsupervised.kmeans`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from jaxnet.typing import Params
from jaxnet.unsupervised import kmeans


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

    Reference: Coates, Lee and Ng 2011, see `jn.unsupervised.kmeans.fit_kmeans`.
    """

    def forward(m, x):
        centers = m.param("centers", jn.initializers.normal(1.0), (features, x.shape[-1]))
        square = (x**2).sum(-1, keepdims=True) - 2 * (x @ centers.T) + (centers**2).sum(1)
        distance = jnp.sqrt(jnp.maximum(square, 0))
        return jnp.maximum(distance.mean(-1, keepdims=True) - distance, 0)

    return jn.compose(forward, name="triangle")
