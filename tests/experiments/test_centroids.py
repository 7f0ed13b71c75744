import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra jaxnet-toolkit[data]")

import jaxnet as jn
from experiments.centroids import (
    fit_kmeans,
    fit_random_vectors,
    fit_rbf_centers,
    random_vectors,
    standardized,
    triangle,
)
from jaxnet.unsupervised.kmeans import kmeans
from tests.compiled import jit_apply

KEYS_MAY_REPEAT = True  # a fit is compared with the vectors that it drew
DRAW = np.random.default_rng(0)
X = (DRAW.normal(size=(100, 3)) + 100).astype(np.float32)  # far from 0: squares would lose digits
KEY = jax.random.key(0)


def distances(x, centers):
    return np.linalg.norm(np.asarray(x)[:, None] - np.asarray(centers), axis=-1)


def outputs(params, x):
    return np.asarray(jit_apply(jn.dense(params["bias"].shape[0]), params, {}, jnp.asarray(x))[0])


def test_the_largest_output_is_the_nearest_centroid():
    x = DRAW.normal(size=(400, 6)).astype(np.float32) + 1
    params = fit_kmeans(KEY, x, 11)
    nearest = distances(x, kmeans(KEY, x, 11)).argmin(1)
    y = np.asarray(outputs(params, x))
    assert (y.argmax(1) == nearest).mean() > 0.99  # but for ties
    assert len(set(nearest.tolist())) == 11
    np.testing.assert_allclose([y.mean(), y.std()], [0, 1], atol=1e-4)


def test_random_vectors_are_examples_and_none_twice():
    rows = np.asarray(random_vectors(KEY, X, 40))
    places = [np.flatnonzero((X == row).all(1)) for row in rows]
    assert len({int(place[0]) for place in places}) == 40
    assert (rows != random_vectors(jax.random.key(1), X, 40)).any()


def test_random_vectors_as_kernels():
    params = fit_random_vectors(KEY, X, 13)
    centered = np.asarray(random_vectors(KEY, X, 13)) - X.mean(0)
    kernel = np.asarray(params["kernel"])
    lengths = np.linalg.norm(kernel, axis=0)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-5)
    cosines = (kernel.T * centered).sum(1) / lengths / np.linalg.norm(centered, axis=1)
    np.testing.assert_allclose(cosines, 1, atol=1e-5)
    y = np.asarray(outputs(params, X))
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(y.std(), 1, rtol=1e-3)


@pytest.mark.slow
def test_equal_examples_give_finite_kernels():
    x = np.full((6, 2), 3.0, np.float32)
    for fit in (fit_random_vectors, partial(fit_kmeans, iterations=1)):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Number of distinct clusters")
            np.testing.assert_array_equal(outputs(fit(KEY, x, 2), x), 0)


@pytest.mark.slow
def test_the_scale_is_measured_on_some_rows():
    x = jnp.asarray(DRAW.normal(size=(30_001, 3)) + 5, jnp.float32)
    kernel, bias = jnp.asarray(DRAW.normal(size=(3, 4)), jnp.float32), jnp.arange(4.0)
    params = standardized(kernel, bias, x)
    y = np.asarray(x @ params["kernel"] + params["bias"])
    np.testing.assert_allclose([y.mean(), y.std()], [0, 1], atol=0.02)
    assert y[::4].std() == pytest.approx(1, abs=2e-4)
    ratio = params["kernel"] / kernel
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)
    shift = params["bias"] - ratio[0, 0] * bias
    np.testing.assert_allclose(shift, shift[0], rtol=1e-4)


def test_rbf_centers_and_width():
    params = fit_rbf_centers(KEY, X, 5, method=random_vectors)
    centers = np.asarray(random_vectors(KEY, X, 5))
    np.testing.assert_array_equal(params["centers"], centers)
    away = distances(centers, centers) + np.diag(np.full(5, np.inf))
    np.testing.assert_allclose(params["width"], away.min(1).mean(), rtol=1e-5)
    y, _ = jit_apply(jn.layers.rbf(5), params, {}, jnp.asarray(X))
    wanted = np.exp(-(distances(X, centers) ** 2) / 2 / params["width"] ** 2)
    np.testing.assert_allclose(y, wanted, atol=1e-4)


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
