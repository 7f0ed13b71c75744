import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.unsupervised.check import check_examples, fill_last_batch, standardized

X = np.ones((5, 3), np.float32)
HOLED = X.copy()
HOLED[3, 1] = np.nan


@pytest.mark.parametrize(("x", "features", "words"), [
    (np.ones((5, 3, 2)), 1, r"fit: x must .* got \(5, 3, 2\); write x.reshape"),
    (np.ones(5), 1, r"fit: x must have shape \(n, inputs\), got \(5,\)"),
    (np.ones((0, 3)), 1, r"at least one example and one input, got \(0, 3\)"),
    (HOLED, 1, "fit: 1 of 5 examples contain NaN or Inf, the first at index 3"),
    (jnp.asarray(HOLED), 1, "1 of 5 examples contain NaN"),
    (X, 0, "features must be at least 1, got 0"),
    (X, 6, "features must be 1 to 5, for 5 examples of 3 inputs, got 6"),
    (None, 1, "fit: x must be a JAX or NumPy array, got NoneType"),
    (X.tolist(), 1, r"fit: x must be .* got list; write jnp.asarray\(x\)"),
    (X + 0j, 1, "fit: x must hold real numbers, got complex64"),
])  # fmt: skip
def test_what_is_refused(x, features, words):
    with pytest.raises((ValueError, TypeError), match=words):
        check_examples(x, features, "fit", limit=0)


def test_no_more_features_than_inputs():
    with pytest.raises(ValueError, match="features must be 1 to 3, .*, got 4"):
        check_examples(X, 4, "fit", limit=1)


def test_what_comes_back():
    assert check_examples(X, 4, "fit", limit=0).shape == (5, 3)
    assert check_examples(X.astype(np.uint8), 400, "fit").dtype == jnp.float32


def test_float64_stays(x64):
    assert check_examples(X.astype(np.float64), 1, "fit").dtype == jnp.float64


@pytest.mark.parametrize("n, batch_size, total, size", [(7, 3, 9, 3), (6, 3, 6, 3), (5, 9, 5, 5)])
def test_whole_batches_hold_each_example_once_or_twice(n, batch_size, total, size):
    x = jnp.arange(2.0 * n).reshape(n, 2)
    filled, found = fill_last_batch(jax.random.key(0), x, batch_size)
    assert filled.shape == (total, 2)
    assert found == size
    rows, counts = np.unique(filled, axis=0, return_counts=True)
    np.testing.assert_array_equal(rows, x)
    assert counts.max() <= 2
    assert counts.sum() == total


@pytest.mark.slow
def test_the_scale_is_measured_on_some_rows():
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(30_001, 3)) + 5, jnp.float32)
    kernel = jnp.asarray(draw.normal(size=(3, 4)), jnp.float32)
    bias = jnp.arange(4.0)
    params = standardized(kernel, bias, x)
    y = np.asarray(x @ params["kernel"] + params["bias"])
    np.testing.assert_allclose([y.mean(), y.std()], [0, 1], atol=0.02)
    assert y[::4].std() == pytest.approx(1, abs=2e-4)
    ratio = params["kernel"] / kernel
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)
    shift = params["bias"] - ratio[0, 0] * bias
    np.testing.assert_allclose(shift, shift[0], rtol=1e-4)
