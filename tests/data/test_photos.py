"""The photographs that the dependencies hold."""

import sys

import numpy as np
import pytest

import jaxnet as jn


def test_three_photos_in_color():
    found = jn.data.photos()
    assert list(found) == ["china", "flower", "hopper"]
    for photo in found.values():
        assert photo.dtype == np.float32 and photo.ndim == 3 and photo.shape[2] == 3
        assert photo.min() == 0 and 0.99 < photo.max() <= 1 and 0.1 < photo.std() < 0.4


def test_each_is_the_photo_of_its_name():
    """By what is in them: blue sky at the top left, a green ground, a face in the upper half."""
    found = jn.data.photos()
    assert found["china"][:40, :40].mean((0, 1)).argmax() == 2
    assert found["flower"][:40, :40].mean((0, 1)).argmax() == 1
    assert found["hopper"][150:250, 220:320].mean((0, 1)).argmax() == 0


def test_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"photos: needs scikit-learn.*\[data,viz\]"):
        jn.data.photos()
