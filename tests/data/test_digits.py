import sys

import numpy as np
import pytest

from jaxnet.data import digits


def test_shapes_dtypes_and_range():
    for (x, y), n in zip(digits(), (1438, 359), strict=True):
        assert x.shape == (n, 8, 8, 1) and x.dtype == np.float32
        assert y.shape == (n,) and y.dtype == np.int32
        assert x.min() == 0 and x.max() == 1
        assert sorted(set(y.tolist())) == list(range(10))


def test_the_parts_are_all_of_the_digits_and_disjoint():
    from sklearn.datasets import load_digits

    (a, ya), (b, yb) = digits()
    whole, labels = load_digits(return_X_y=True)
    rows = np.concatenate([a, b]).reshape(-1, 64) * 16
    theirs = sorted(map(tuple, np.column_stack([whole, labels])))
    assert theirs == sorted(map(tuple, np.column_stack([rows, np.concatenate([ya, yb])])))


def test_every_digit_is_held_out_by_a_fifth():
    (_, y), (_, held) = digits()
    share = np.bincount(held) / (np.bincount(y) + np.bincount(held))
    assert (np.abs(share - 0.2) < 0.003).all()
    (_, y), (_, held) = digits(share=0.5)
    assert abs(len(y) - len(held)) <= 10


def test_the_split_is_fixed():
    """A figure on the held-out part means nothing once the part changes: golden, by numpy 2.4.6."""
    (x, y), (_, held) = digits()
    assert held[:12].tolist() == [5, 9, 2, 4, 6, 7, 9, 3, 4, 6, 8, 5]
    assert float(x.sum()) == 28114.25
    assert (digits()[1][1] == held).all()
    assert (digits(seed=1)[1][1] != held).any()


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"digits: needs scikit-learn.*\[data\]"):
        digits()
