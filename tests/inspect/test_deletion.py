import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.inspect import deletion

NET = jn.serial(lambda x: x.sum((1, 3)))  # the class is the brightest column
X = np.random.default_rng(0).uniform(0.1, 0.2, (7, 3, 4, 1))
LABELS = np.arange(7) % 4
X[np.arange(7), :, LABELS] += 0.5


def test_the_pixels_that_count_and_those_that_do_not():
    shares = [0, 1 / 12, 2 / 12, 3 / 12, 1]
    best = deletion(NET, {}, {}, X, LABELS, X[..., 0], shares)
    # The three pixels of the bright column go first, the brightest of them before the others.
    column = X[np.arange(7), :, LABELS, 0]
    left = [np.sort(column, 1)[:, : 3 - k].sum(1) for k in range(3)]
    sums = X.sum((1, 3))
    sums[np.arange(7), LABELS] = 0
    other = sums.max(1)
    needed = [np.mean(part > other) for part in left]
    np.testing.assert_allclose(best[:3], needed)
    assert best[0] == 1 and best[3] == 0
    worst = deletion(NET, {}, {}, X, LABELS, -X[..., 0], shares)
    np.testing.assert_array_equal(worst[:4], 1)
    assert worst[-1] == best[-1] == 2 / 7  # all black: class 0, which is right for 2 of 7


@pytest.mark.slow
def test_value_and_chunks(monkeypatch):
    importance = np.random.default_rng(1).normal(size=X.shape[:3])
    shares = [0.3, 0.6]
    whole = deletion(NET, {}, {}, X, LABELS, importance, shares, value=0.4)
    order = np.argsort(-importance.reshape(7, -1), 1)
    for share, found in zip(shares, whole, strict=True):
        x = X.reshape(7, -1).copy()
        np.put_along_axis(x, order[:, : round(share * 12)], 0.4, 1)
        np.testing.assert_allclose(found, (x.reshape(7, 3, 4).sum(1).argmax(1) == LABELS).mean())
    monkeypatch.setitem(deletion.__globals__, "CHUNK", 3)
    np.testing.assert_allclose(
        deletion(NET, {}, {}, X, LABELS, importance, shares, value=0.4), whole
    )


def test_of_equal_pixels_the_upper_left_go_first_and_shares_are_rounded():
    first = jn.serial(lambda x: x.reshape(len(x), -1))  # the class is the first pixel that is left
    x = np.ones((1, 2, 5, 1))
    found = deletion(first, {}, {}, x, [3], 0 * x[..., 0], [0.2, 0.26, 0.34, 0.44])
    assert found.tolist() == [0, 1, 1, 0]  # 2, 2.6, 3.4 and 4.4 pixels


def test_one_value_a_channel():
    brightest = jn.serial(lambda x: x.sum((1, 2)))
    x = np.zeros((1, 2, 3, 3))
    for channel in range(3):
        value = np.eye(3)[channel]
        found = deletion(brightest, {}, {}, x, [channel], x[..., 0], [1], value=value)
        assert found.tolist() == [1]


def test_messages():
    with pytest.raises(ValueError, match=r"for x \(7, 3, 4, 1\), got \(7, 3\)"):
        deletion(NET, {}, {}, X, LABELS, jnp.zeros((7, 3)), [0])
    with pytest.raises(ValueError, match=r"shares must be in \[0, 1\], got 2 to 2"):
        deletion(NET, {}, {}, X, LABELS, X[..., 0], [2])


@pytest.mark.parametrize(("change", "error", "words"), [
    ({"x": np.asarray(X)[..., 0].tolist()}, TypeError, "the input must be an array"),
    ({"x": np.zeros(X.shape, int)}, TypeError, "x must hold floats"),
    ({"labels": np.asarray(LABELS) - 9}, ValueError, r"labels must be in \[0, .*\), got -"),
    ({"labels": "a"}, TypeError, "labels must be an array"),
    ({"labels": np.asarray(LABELS) + 0.5}, TypeError, "labels must hold integers"),
    ({"importance": np.full(X.shape[:3], np.nan)}, ValueError, "importance has NaN"),
    ({"shares": 0.5}, ValueError, r"shares must have shape \(shares,\)"),
    ({"shares": []}, ValueError, "shares must .* sizes of at least 1"),
    ({"shares": [np.nan]}, ValueError, r"shares must be in \[0, 1\], got nan"),
    ({"value": [1, 2]}, ValueError, r"value must have shape \(channels,\) with channels = 1"),
], ids=[str(i) for i in range(10)])  # fmt: skip
def test_arguments_of_another_type(change, error, words):
    given = {"x": X, "labels": LABELS, "importance": X[..., 0], "shares": [0]}
    with pytest.raises(error, match=f"deletion: {words}"):
        deletion(NET, {}, {}, **given | change)
