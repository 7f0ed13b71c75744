import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.unsupervised.check import standardized
from jaxnet.unsupervised.kmeans import fit_kmeans, fit_random_vectors, kmeans, random_vectors
from tests.compiled import jit_apply
from tests.helpers import refuses

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


test_messages = refuses([
    (lambda: kmeans(KEY, GROUPS, 101), "features must be 1 to 100, for 100 examples .*, got 101"),
    (lambda: kmeans(KEY, GROUPS, 5, iterations=0), "iterations must be at least 1, got 0"),
    (lambda: kmeans(KEY, GROUPS * np.nan, 5), "kmeans: 100 of 100 examples contain NaN"),
    (lambda: kmeans(KEY, GROUPS[:0], 5), "kmeans: x must hold at least one example"),
    (lambda: kmeans(KEY, GROUPS[0], 5), r"kmeans: x must have shape \(n, inputs\), got \(3,\)"),
])  # fmt: skip


X = (DRAW.normal(size=(100, 3)) + 100).astype(np.float32)  # far from 0: squares would lose digits


def outputs(params, x):
    return np.asarray(jit_apply(jn.dense(params["bias"].shape[0]), params, {}, jnp.asarray(x))[0])


def test_the_largest_output_is_the_nearest_centroid():
    x = DRAW.normal(size=(400, 6)).astype(np.float32) + 1
    params = fit_kmeans(KEY, x, 11)
    of = nearest(kmeans(KEY, x, 11), x)[0]
    y = np.asarray(outputs(params, x))
    assert (y.argmax(1) == of).mean() > 0.99  # but for ties
    assert len(set(of.tolist())) == 11
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
