"""Groups that k-means finds, and layers made of centroids or of examples."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.unsupervised.kmeans import fit_kmeans, fit_random_vectors, kmeans, random_vectors
from tests.helpers import KEY, jit_apply

KEYS_MAY_REPEAT = True  # values are compared at equal keys
DRAW = np.random.default_rng(0)
MIDDLES = np.array([[0, 0, 0], [20, 0, 0], [0, 20, 0], [0, 0, 20], [20, 20, 20.0]])
SIZES = [7, 30, 50, 9, 4]
OF = np.repeat(np.arange(5), SIZES)
# Far from 0, where squares would lose digits.
GROUPS = (MIDDLES[OF] + DRAW.normal(size=(100, 3)) + 100).astype(np.float32)


def nearest(centroids, x):
    """Number of the nearest centroid, and the squared distance to it."""
    away = np.asarray(x)[:, None] - np.asarray(centroids)
    squares = (away**2).sum(-1)
    return squares.argmin(1), squares.min(1)


def inertia(centroids, x):
    _, squares = nearest(centroids, x)
    return float(squares.sum())


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
    ratio = inertia(one, x) / inertia(other, x)
    assert abs(ratio - 1) < 0.1  # two local minima, neither of them bad


def test_rounds_of_lloyd_lower_the_inertia():
    x = DRAW.normal(size=(300, 4))
    rounds = [kmeans(KEY, x, 12, iterations=i, tolerance=0) for i in (1, 2, 4, 50)]
    inertias = [inertia(centroids, x) for centroids in rounds]
    assert (np.diff(inertias) < 0).all()


def test_float64_far_from_zero_is_not_rounded_before():
    """Rounded to float32 these examples are equal, of which scikit-learn warns."""
    kmeans(jax.random.key(0), np.array([[0.0], [1], [3], [4]]) + 2.0**27, 2)


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


@pytest.mark.parametrize(("call", "words"), [
    (lambda: kmeans(KEY, GROUPS, 101), "features must be 1 to 100, for 100 examples .*, got 101"),
    (lambda: kmeans(KEY, GROUPS, 5, iterations=0), "iterations must be at least 1, got 0"),
    (lambda: kmeans(KEY, GROUPS[0], 5), r"kmeans: x must have shape \(n, inputs\), got \(3,\)"),
])  # fmt: skip
def test_messages(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# Far from 0, where squares would lose digits.
VECTORS = (DRAW.normal(size=(100, 3)) + 100).astype(np.float32)


def outputs(params, x):
    layer = jn.dense(params["bias"].shape[0])
    y, _ = jit_apply(layer, params, {}, jnp.asarray(x))
    return np.asarray(y)


@pytest.mark.slow
def test_the_largest_output_is_the_nearest_centroid():
    x = DRAW.normal(size=(400, 6)).astype(np.float32) + 1
    params = fit_kmeans(KEY, x, 11)
    of = nearest(kmeans(KEY, x, 11), x)[0]
    y = np.asarray(outputs(params, x))
    assert (y.argmax(1) == of).mean() > 0.99  # but for ties
    assert len(set(of.tolist())) == 11
    np.testing.assert_allclose([y.mean(), y.std()], [0, 1], atol=1e-4)


@pytest.mark.slow
def test_random_vectors_are_examples_and_none_twice():
    rows = np.asarray(random_vectors(KEY, VECTORS, 40))
    places = [np.flatnonzero((VECTORS == row).all(1)) for row in rows]
    assert len({int(place[0]) for place in places}) == 40
    assert (rows != random_vectors(jax.random.key(1), VECTORS, 40)).any()


@pytest.mark.slow
def test_random_vectors_as_kernels():
    params = fit_random_vectors(KEY, VECTORS, 13)
    centered = np.asarray(random_vectors(KEY, VECTORS, 13)) - VECTORS.mean(0)
    kernel = np.asarray(params["kernel"])
    lengths = np.linalg.norm(kernel, axis=0)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-5)
    cosines = (kernel.T * centered).sum(1) / lengths / np.linalg.norm(centered, axis=1)
    np.testing.assert_allclose(cosines, 1, atol=1e-5)
    y = np.asarray(outputs(params, VECTORS))
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(y.std(), 1, rtol=1e-3)


@pytest.mark.slow
def test_equal_examples_give_finite_kernels():
    x = np.full((6, 2), 3.0, np.float32)
    for fit in (fit_random_vectors, partial(fit_kmeans, iterations=1)):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Number of distinct clusters")
            np.testing.assert_array_equal(outputs(fit(KEY, x, 2), x), 0)
