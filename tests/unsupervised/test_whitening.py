import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.unsupervised.whitening import fit_pca, fit_whitening
from tests.helpers import KEY, jit_apply

MIX = np.random.default_rng(1).normal(size=(7, 7)) * np.linspace(3, 0.3, 7)
X = np.random.default_rng(0).normal(size=(60, 7)) @ MIX + np.arange(7.0)


def outputs(params, x):
    layer = jn.dense(params["bias"].shape[0])
    y, _ = jit_apply(layer, params, {}, jnp.asarray(x))
    return np.asarray(y)


@pytest.mark.parametrize("zca, epsilon", [(False, 0), (True, 1e-3)])
def test_directions_without_variance_give_zeros(zca, epsilon):
    x = np.concatenate([X, np.full((60, 2), 5.0)], 1)[:4]  # rank 3, and two constant columns
    params = fit_whitening(KEY, x, zca=zca, epsilon=epsilon)
    np.testing.assert_allclose(params["kernel"][7:] if zca else params["kernel"][:, 3:], 0)
    elsewhere = outputs(params, (x + 100).astype(np.float32))
    assert np.isfinite(elsewhere).all()
    variances = np.cov(outputs(params, x.astype(np.float32)).T)
    np.testing.assert_allclose(np.trace(variances), 3, rtol=1e-6 if epsilon == 0 else 0.02)
    np.testing.assert_array_equal(fit_whitening(KEY, X[:1])["kernel"], 0)  # of one example


def test_rounding_of_a_constant_is_no_variance(x64):
    x = np.full((7, 3), 0.1)
    np.testing.assert_array_equal(fit_whitening(KEY, x)["kernel"], 0)


def test_small_directions_survive_float32_data():
    """Standard deviations of 1 and 1e-4: float32 sums of squares would lose the small one."""
    x = np.random.default_rng(2).normal(size=(9000, 2)) @ np.diag([1.0, 1e-4]) @ ROTATION
    x = x.astype(np.float32)
    white = outputs(fit_whitening(KEY, x, epsilon=0), x)
    np.testing.assert_allclose(np.cov(white.T), np.eye(2), atol=0.01)


@pytest.mark.parametrize("fit", [fit_pca, fit_whitening])
def test_float64_far_from_zero_is_not_rounded_before(fit):
    far, near = (fit(KEY, X + offset)["kernel"] for offset in (2.0**27, 0))
    np.testing.assert_allclose(far, near, atol=1e-5)


ROTATION = np.array([[0.8, 0.6], [-0.6, 0.8]])


@pytest.mark.parametrize(("call", "words"), [
    (lambda: fit_pca(KEY, X, 8), "must be 1 to 7, for 60 examples of 7 inputs, got 8"),
    (lambda: fit_whitening(KEY, X, epsilon=-1), r"epsilon must be in \[0, inf\), got -1"),
    (lambda: fit_whitening(KEY, X, 3, zca=True), "one feature per input, 7, got 3"),
    (lambda: fit_pca(KEY, X, 0), "fit_pca: features must be at least 1, got 0"),
    (lambda: fit_whitening(KEY, X[0]), r"fit_whitening: x must have shape .* got \(7,\)"),
])  # fmt: skip
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
