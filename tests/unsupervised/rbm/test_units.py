"""Visible units: means, samples and biases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.unsupervised.rbm import bernoulli, free_energy, gaussian


def test_gaussian_units_by_hand(x64):
    params = {
        "kernel": jnp.array([[2.0], [-1.0]]),
        "bias": jnp.array([0.5]),
        "visible_bias": jnp.array([1.0, -3.0]),
    }
    x = jnp.array([[3.0, 1.0]])
    # ½((3 - 1)² + (1 + 3)²) - log(1 + e^(3·2 - 1 + 0.5))
    by_hand = (4 + 16) / 2 - np.log(1 + np.exp(5.5))
    np.testing.assert_allclose(free_energy(params, x, visible=gaussian), [by_hand], rtol=1e-12)
    # Given h the units are normal, with mean bias + h·kernel and variance 1.
    assert gaussian.mean(jnp.array([1.0 + 2.0])).tolist() == [3.0]
    draws = gaussian.sample(jax.random.key(0), jnp.full(10_000, 3.0))
    assert abs(draws.mean() - 3) < 0.04 and abs(draws.std() - 1) < 0.03


def test_energies_and_sums_by_hand():
    x, field, bias = np.float32([2, -1]), np.float32([0.5, 0.8]), np.float32([0.3, -1.2])
    np.testing.assert_allclose(bernoulli.energy(x, bias), -(2 * 0.3 + 1.2), rtol=1e-6)
    np.testing.assert_allclose(gaussian.energy(x, bias), (1.7**2 + 0.2**2) / 2, rtol=1e-6)
    binary = np.log1p(np.exp(0.8)) + np.log1p(np.exp(-0.4))
    np.testing.assert_allclose(bernoulli.log_partition(field, bias), binary, rtol=1e-6)
    # The integral of exp(a x - (x - b)² / 2) is √(2π) exp(a b + a² / 2).
    real = np.log(2 * np.pi) + 0.5 * 0.3 + 0.125 - 0.8 * 1.2 + 0.32
    np.testing.assert_allclose(gaussian.log_partition(field, bias), real, rtol=1e-6)
    mean = np.float32([0.2, 0, 1])
    logits = np.log([0.2 / 0.8, 0.001 / 0.999, 999])
    np.testing.assert_allclose(bernoulli.bias(mean), logits, rtol=1e-4)
    assert gaussian.bias(mean) is mean


@pytest.mark.slow
@pytest.mark.parametrize("kind", [bernoulli, gaussian], ids=["0/1", "real"])
def test_mean_sample_and_bias_agree(x64, kind):
    """The mean is the derivative of log Z by the input, for every kind; bias is its inverse."""
    bias, input = jnp.array([0.3, -1.2, 0.7]), jnp.array([0.5, 0.8, -0.4])
    mean = kind.mean(bias + input)
    np.testing.assert_allclose(jax.jit(jax.grad(kind.log_partition))(input, bias), mean, rtol=1e-12)
    np.testing.assert_allclose(kind.mean(kind.bias(mean)), mean, rtol=1e-10)
    draws = kind.sample(jax.random.key(1), jnp.broadcast_to(bias + input, (40_000, 3)))
    np.testing.assert_allclose(draws.mean(0), mean, atol=4 / 200)  # deviation 1 at most
    if kind is not gaussian:
        assert set(np.unique(draws)) == {0.0, 1.0}
