"""Checks of arguments: what passes, and the words of what does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.checks import at_least, check_data, is_traced


@pytest.mark.parametrize("value", [1, np.int32(3), jnp.int32(2)], ids=repr)
def test_counts_pass(value):
    at_least("dense", "features", value)


@pytest.mark.parametrize(("value", "error", "words"), [
    (0, ValueError, "dense: features must be at least 1, got 0"),
    (2.5, TypeError, "dense: features must be an integer, got 2.5"),
    (True, TypeError, "an integer, got True"),
    ("3", TypeError, "an integer, got '3'"),
    (None, TypeError, "an integer, got None"),
], ids=repr)  # fmt: skip
def test_what_is_no_count_is_answered(value, error, words):
    with pytest.raises(error, match=words):
        at_least("dense", "features", value)


@pytest.mark.parametrize(("data", "error", "words"), [
    ((), ValueError, "expected an array or a tuple of arrays"),
    ([1.0, 2.0], TypeError, r"one example per row, got 1.0 \(0\); for a list, pass np.asarray"),
    ((np.ones(3), np.ones(4)), ValueError, "the same leading dimension, got 0: 3, 1: 4"),
    ({"x": np.ones((0, 3))}, ValueError, r"at least one example, got arrays of shape \(0, 3\)"),
    ((np.array([1, np.nan, np.inf]),), ValueError, "fit/0: 2 of 3 .* the first at index 1"),
    (np.full((2, 3), np.nan), ValueError, "fit: 2 of 2 examples contain NaN or Inf"),
], ids=str)  # fmt: skip
def test_data_that_cannot_be_used_are_answered(data, error, words):
    with pytest.raises(error, match=words):
        check_data(data, "fit")


def test_data_are_counted():
    assert check_data({"x": np.ones((7, 2)), "y": (np.arange(7), jnp.ones((7, 3)))}, "fit") == 7


def test_tracers_are_recognized():
    seen = []

    def run(x):
        seen.append(is_traced({"a": x, "b": 1.0}))
        return x

    x = jnp.ones(3)
    jax.jit(run)(x), jax.vmap(run)(x), jax.grad(lambda x: run(x).sum())(x)
    jax.lax.scan(lambda c, x: (c, run(x)), 0, x)
    assert all(seen) and len(seen) >= 4
    assert not is_traced({"a": x, "b": np.ones(2), "c": 1.0, "d": jax.random.key(0)})
