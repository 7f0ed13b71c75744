import jax
import numpy as np
import pytest

from jaxnet.unsupervised.kmeans import kmeans

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


@pytest.mark.parametrize(("call", "words"), [
    (lambda: kmeans(KEY, GROUPS, 101), "kmeans: 100 examples .* at most 100 features, got 101"),
    (lambda: kmeans(KEY, GROUPS, 5, iterations=0), "iterations must be at least 1, got 0"),
    (lambda: kmeans(KEY, GROUPS * np.nan, 5), "kmeans: 100 of 100 examples contain NaN"),
    (lambda: kmeans(KEY, GROUPS[:0], 5), "kmeans: x must hold at least one example"),
    (lambda: kmeans(KEY, GROUPS[0], 5), r"kmeans: x must have shape \(n, inputs\), got \(3,\)"),
])  # fmt: skip
def test_messages(call, words):
    with pytest.raises(ValueError, match=words):
        call()
