import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra jaxnet-toolkit[data]")

import jaxnet as jn
from experiments.centroids import fit_rbf_centers, triangle
from jaxnet.unsupervised.kmeans import random_vectors
from tests.helpers import KEY, jit_apply

KEYS_MAY_REPEAT = True  # a fit is compared with the vectors that it drew
DRAW = np.random.default_rng(0)
X = (DRAW.normal(size=(100, 3)) + 100).astype(np.float32)  # far from 0: squares would lose digits


def distances(x, centers):
    return np.linalg.norm(np.asarray(x)[:, None] - np.asarray(centers), axis=-1)


@pytest.mark.slow
def test_rbf_centers_and_width():
    params = fit_rbf_centers(KEY, X, 5, method=random_vectors)
    centers = np.asarray(random_vectors(KEY, X, 5))
    np.testing.assert_array_equal(params["centers"], centers)
    away = distances(centers, centers) + np.diag(np.full(5, np.inf))
    np.testing.assert_allclose(params["width"], away.min(1).mean(), rtol=1e-5)
    y, _ = jit_apply(jn.layers.rbf(5), params, {}, jnp.asarray(X))
    wanted = np.exp(-(distances(X, centers) ** 2) / 2 / params["width"] ** 2)
    np.testing.assert_allclose(y, wanted, atol=1e-4)


@pytest.mark.slow
def test_one_rbf_center_has_the_width_of_the_data():
    params = fit_rbf_centers(KEY, np.float32([[0, 0], [6, 8]]), 1)
    np.testing.assert_allclose(params["centers"], [[3, 4]], atol=1e-6)
    np.testing.assert_allclose(params["width"], 5, rtol=1e-6)


def test_triangle_by_hand(x64):
    x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    params = {"centers": jnp.array([[3.0, 4.0], [0.0, 1.0], [3.0, 0.0]])}
    y, _ = jit_apply(triangle(3), params, {}, x)  # distances 5, 1, 3 and 0, √18, 4
    mean = (18**0.5 + 4) / 3
    np.testing.assert_allclose(y, [[0, 2, 0], [mean, 0, 0]], atol=1e-12)
