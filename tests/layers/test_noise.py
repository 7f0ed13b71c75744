"""Gaussian noise: mean, deviation and independence, within 4 standard errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.compiled import jit_apply


def noisy(layer, x):
    y, _ = jit_apply(layer, {}, {}, x, key=jax.random.key(0), train=True)
    return np.asarray(y)


def check(values, mean, stddev):
    n = values.size
    assert abs(values.mean() - mean) < 4 * stddev / np.sqrt(n)
    assert abs(values.std() - stddev) < 4 * stddev / np.sqrt(2 * n)
    third = ((values - mean) ** 3).mean() / stddev**3
    fourth = ((values - mean) ** 4).mean() / stddev**4
    assert abs(third) < 4 * np.sqrt(15 / n) and abs(fourth - 3) < 4 * np.sqrt(96 / n)  # normal


def test_gaussian_noise_adds():
    check(noisy(jn.gaussian_noise(0.3), jnp.full((400, 50), 5.0)), 5.0, 0.3)


@pytest.mark.fast_cases("0.2")
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_gaussian_dropout_multiplies(rate):
    check(
        noisy(jn.gaussian_dropout(rate), jnp.full((400, 50), 2.0)),
        2,
        2 * (rate / (1 - rate)) ** 0.5,
    )
    assert not noisy(jn.gaussian_dropout(rate), jnp.zeros((3, 4))).any()


def test_identity_in_evaluation():
    x = jnp.arange(6.0).reshape(2, 3)
    for layer in (jn.gaussian_noise(0.5), jn.gaussian_dropout(0.5)):
        assert (jit_apply(layer, {}, {}, x)[0] == x).all()
    assert (jit_apply(jn.gaussian_noise(0.0), {}, {}, x, train=True)[0] == x).all()


def test_messages():
    with pytest.raises(ValueError, match=r"stddev must be in \[0, inf\), got -1"):
        jn.gaussian_noise(-1.0)
    with pytest.raises(ValueError, match="rate is the fraction to drop"):
        jn.gaussian_dropout(1.0)
    for layer in (jn.gaussian_noise(1.0), jn.gaussian_dropout(0.5)):
        with pytest.raises(ValueError, match="needs a key in training"):
            layer.apply({}, {}, jnp.ones((2, 3)), train=True)
        with pytest.raises(TypeError, match="expected an input of floats, got int32"):
            layer.apply({}, {}, jnp.ones((2, 3), jnp.int32))


@pytest.mark.parametrize("stddev", [float("nan"), float("inf")])
def test_a_deviation_that_is_no_number_raises(stddev):
    with pytest.raises(ValueError, match=f"stddev must be in .*, got {stddev}"):
        jn.gaussian_noise(stddev)
