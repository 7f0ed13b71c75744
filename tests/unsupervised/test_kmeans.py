import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.unsupervised.kmeans import (
    fit_kmeans,
    fit_random_vectors,
    fit_rbf_centers,
    kmeans,
    triangle,
)
from tests.compiled import jit_apply

KEYS_MAY_REPEAT = True  # a fit is compared with the vectors that it drew
DRAW = np.random.default_rng(0)
MIDDLES = np.array([[0, 0, 0], [20, 0, 0], [0, 20, 0], [0, 0, 20], [20, 20, 20.0]])
SIZES = [7, 30, 50, 9, 4]
GROUPS = np.concatenate([m + DRAW.normal(size=(n, 3)) for m, n in zip(MIDDLES, SIZES, strict=True)])
GROUPS = (GROUPS + 100).astype(np.float32)  # far from 0, where squares would lose digits
OF = np.repeat(np.arange(5), SIZES)
KEY = jax.random.key(0)


def nearest(centroids, x):
    """Number of the nearest centroid, and the squared distance to it."""
    squares = ((np.asarray(x)[:, None] - np.asarray(centroids)) ** 2).sum(-1)
    return squares.argmin(1), squares.min(1)


def outputs(params, x):
    return np.asarray(jit_apply(jn.dense(params["bias"].shape[0]), params, {}, jnp.asarray(x))[0])


def test_groups_are_found():
    """Each centroid is the mean of its group; in any order."""
    centroids = np.asarray(kmeans(KEY, GROUPS, 5))
    means = np.stack([GROUPS[OF == i].mean(0) for i in range(5)])
    order = ((centroids[:, None] - means) ** 2).sum(-1).argmin(0)
    np.testing.assert_allclose(centroids[order], means, atol=1e-4)
    index, squared = nearest(centroids, GROUPS)
    np.testing.assert_array_equal(index, order[OF])
    np.testing.assert_allclose(squared, ((GROUPS - means[OF]) ** 2).sum(1), rtol=1e-3, atol=1e-3)


def test_the_key_decides():
    x = DRAW.normal(size=(300, 4))
    one, two, other = (np.asarray(kmeans(jax.random.key(i), x, 12)) for i in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).max() > 0.01
    inertias = [nearest(c, x)[1].sum() for c in (one, other)]
    assert abs(inertias[0] / inertias[1] - 1) < 0.1  # two local minima, neither of them bad


def test_rounds_of_lloyd_lower_the_inertia():
    x = DRAW.normal(size=(300, 4))
    inertias = [
        float(nearest(kmeans(KEY, x, 12, iterations=i, tolerance=0), x)[1].sum())
        for i in (1, 2, 4, 50)
    ]
    assert (np.diff(inertias) < 0).all()
    centroids = kmeans(KEY, x, 12, tolerance=0)
    index, _ = nearest(centroids, x)
    means = np.stack([x[np.asarray(index) == i].mean(0) for i in range(12)])
    np.testing.assert_allclose(centroids, means, atol=1e-5)  # another round would change nothing


def test_a_centroid_an_example():
    x = GROUPS[:9]
    centroids = kmeans(KEY, x, 9)
    np.testing.assert_allclose(np.sort(centroids, axis=0), np.sort(x, axis=0), atol=1e-4)


def test_fewer_distinct_examples_than_centroids():
    x = np.repeat([[1.0, 2.0], [5.0, 2.0]], 4, axis=0)
    with pytest.warns(match="distinct clusters"):  # of scikit-learn
        centroids = np.asarray(kmeans(KEY, x, 5))
    assert np.isfinite(centroids).all()
    np.testing.assert_allclose(nearest(centroids, x)[1], 0, atol=1e-9)


@pytest.mark.fast_cases("None")
@pytest.mark.parametrize("scale", [None, 0.5, 2.0])
def test_the_largest_output_is_the_nearest_centroid(scale):
    x = DRAW.normal(size=(400, 6)).astype(np.float32) + 1
    params = fit_kmeans(KEY, x, 11, scale=scale)
    centroids = kmeans(KEY, x, 11)
    index, squared = nearest(centroids, x)
    y = outputs(params, x)
    assert (y.argmax(1) == index).mean() > 0.99  # but for ties
    assert len(set(np.asarray(index).tolist())) == 11
    if scale is None:
        np.testing.assert_array_equal(params["kernel"], centroids.T)
        np.testing.assert_allclose((x**2).sum(1) - 2 * y.max(1), squared, atol=1e-4)
    else:
        np.testing.assert_allclose([y.mean(), y.std()], [0, scale], atol=1e-4)


def random_vectors(key, x, features):
    return fit_random_vectors(key, x, features, scale=None)["kernel"].T


@pytest.mark.slow
def test_random_vectors_are_examples_and_none_twice():
    rows = np.asarray(random_vectors(KEY, GROUPS, 40))
    places = [np.flatnonzero((GROUPS == row).all(1)) for row in rows]
    assert len({int(place[0]) for place in places}) == 40
    np.testing.assert_array_equal(rows, random_vectors(jax.random.key(0), GROUPS, 40))
    assert (rows != random_vectors(jax.random.key(1), GROUPS, 40)).any()


def test_random_vectors_as_kernels():
    params = fit_random_vectors(KEY, GROUPS, 13, scale=0.7)
    centered = np.asarray(random_vectors(KEY, GROUPS, 13)) - GROUPS.mean(0)
    kernel = np.asarray(params["kernel"])
    lengths = np.linalg.norm(kernel, axis=0)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-5)
    cosines = (kernel.T * centered).sum(1) / lengths / np.linalg.norm(centered, axis=1)
    np.testing.assert_allclose(cosines, 1, atol=1e-5)
    y = outputs(params, GROUPS)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(y.std(), 0.7, rtol=1e-3)
    small = fit_random_vectors(KEY, 1e-3 * GROUPS, 13, scale=0.7)
    np.testing.assert_allclose(outputs(small, 1e-3 * GROUPS), y, atol=1e-3)
    plain = fit_random_vectors(KEY, GROUPS, 13, scale=None)
    np.testing.assert_array_equal(plain["bias"], 0)


@pytest.mark.slow
def test_equal_examples_give_finite_kernels():
    for fit in (fit_random_vectors, partial(fit_kmeans, iterations=1)):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Number of distinct clusters")
            params = fit(KEY, np.full((6, 2), 3.0), 2)
        assert np.isfinite(np.concatenate(jax.tree.leaves(jax.tree.map(np.ravel, params)))).all()
        np.testing.assert_array_equal(outputs(params, np.full((6, 2), 3.0, np.float32)), 0)


@pytest.mark.slow
@pytest.mark.parametrize("features", [5, 70])  # all pairs at once, or one by one
def test_rbf_centers_and_width(features):
    params = fit_rbf_centers(KEY, GROUPS, features, method=random_vectors, overlap=1.5)
    centers = np.asarray(random_vectors(KEY, GROUPS, features), np.float64)
    np.testing.assert_array_equal(params["centers"], centers)
    away = np.linalg.norm(centers[:, None] - centers, axis=-1) + np.diag(np.full(features, np.inf))
    np.testing.assert_allclose(params["width"], 1.5 * away.min(1).mean(), rtol=1e-5)
    y, _ = jit_apply(jn.layers.rbf(features), params, {}, jnp.asarray(GROUPS))
    index, squared = nearest(params["centers"], GROUPS)
    at = np.asarray(y)[np.arange(len(GROUPS)), np.asarray(index)]
    np.testing.assert_allclose(at, np.exp(-squared / 2 / params["width"] ** 2), atol=1e-4)


def test_one_rbf_center_has_the_width_of_the_data():
    params = fit_rbf_centers(
        KEY, np.array([[0.0, 0], [6, 8]]), 1, method=partial(kmeans, iterations=2)
    )
    np.testing.assert_allclose(params["centers"], [[3, 4]], atol=1e-6)
    np.testing.assert_allclose(params["width"], 5, rtol=1e-6)


def test_triangle_by_hand(x64):
    x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    params = {"centers": jnp.array([[3.0, 4.0], [0.0, 1.0], [3.0, 0.0]])}
    y, _ = jit_apply(triangle(3), params, {}, x)  # distances 5, 1, 3 and 0, √18, 4
    mean = (18**0.5 + 4) / 3
    np.testing.assert_allclose(y, [[0, 2, 0], [mean, 0, 0]], atol=1e-12)
    slope = jax.jit(jax.grad(lambda x: triangle(3).apply(params, {}, x)[0].sum()))(x)
    assert np.isfinite(slope).all()  # at a distance of 0 too


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kmeans(KEY, GROUPS, 101), "kmeans: 100 examples .* at most 100 features, got 101"),
        (lambda: kmeans(KEY, GROUPS, 5, iterations=0), "iterations must be at least 1, got 0"),
        (lambda: kmeans(KEY, GROUPS * np.nan, 5), "kmeans: 100 of 100 examples contain NaN"),
        (lambda: kmeans(KEY, GROUPS[:0], 5), "kmeans: x must hold at least one example"),
        (lambda: kmeans(KEY, GROUPS[0], 5), r"kmeans: x must have shape \(n, inputs\), got \(3,\)"),
        (lambda: fit_kmeans(KEY, GROUPS, 0), "fit_kmeans: features must be at least 1, got 0"),
        (lambda: fit_kmeans(KEY, GROUPS, 2, scale=0), r"scale must be in \(0, inf\), got 0"),
        (lambda: fit_random_vectors(KEY, GROUPS, 101), "fit_random_vectors: .* at most 100"),
        (lambda: fit_random_vectors(KEY, GROUPS, 2, scale=-1), "fit_random_vectors: scale must be"),
        (lambda: fit_rbf_centers(KEY, GROUPS, 101), "fit_rbf_centers: .* at most 100 features"),
        (
            lambda: fit_rbf_centers(KEY, GROUPS, 2, overlap=0),
            "overlap must be in .*, got 0",
        ),
        (
            lambda: fit_rbf_centers(KEY, np.ones((4, 2)), 2, method=random_vectors),
            "all centers are equal",
        ),
        (lambda: triangle(0), "triangle: features must be at least 1, got 0"),
    ],
)
def test_messages(call, words):
    with pytest.raises(ValueError, match=words):
        call()
