"""Batches of series, pictures and volumes, and pictures that look like series."""

import warnings

import jax
import numpy as np
import pytest

from jaxnet.data import random_flip, random_shift
from jaxnet.services.checks import as_spatial, form_of
from tests.helpers import refused


@pytest.mark.parametrize("shape", [(3, 9, 8), (3, 9, 8, 1), (2, 3, 4, 5, 1), (1, 2, 3, 4, 5, 6)])
def test_any_number_of_axes(shape):
    with warnings.catch_warnings(action="error"):
        assert as_spatial("flip", "x", np.zeros(shape)).shape == shape


@pytest.mark.parametrize(("axes", "form"), [
    (1, "(batch, time, channels)"), (2, "(batch, height, width, channels)"),
    (3, "(batch, depth, height, width, channels)"),
    (4, "(batch, side 1, side 2, side 3, side 4, channels)"),
])  # fmt: skip
def test_forms(axes, form):
    assert form_of(axes) == form


@pytest.mark.parametrize("augment", [random_flip(), random_shift(1)], ids=["flip", "shift"])
@pytest.mark.parametrize(("shape", "remedy"), [
    ((3, 28, 28), r"For pictures write x\[..., None\]"),
    ((28, 28, 3), r"For one picture write x\[None\]"),
])  # fmt: skip
def test_pictures_that_look_like_series(augment, shape, remedy):
    with pytest.warns(UserWarning, match=rf"changed as series \(batch, time, channels\). {remedy}"):
        augment(jax.random.key(0), np.zeros(shape, np.float32))


@refused([
    (np.zeros(3), r"x must have shape \(batch, height, width, channels\), or .* got \(3,\)"),
    (np.zeros((3, 4)), r"\(batch, time, channels\) for series and .* for volumes, got \(3, 4\)"),
    ([[[1]]], TypeError, "x must be a JAX or NumPy array, got list"),
    (np.zeros((2, 3, 4), str), TypeError, "x must hold"),
])  # fmt: skip
def test_refusals(x):
    as_spatial("flip", "x", x)
