import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses
from tests.losses.common import check_torch, close

RNG = np.random.default_rng(7)


def test_kl_sparsity_is_zero_at_rho_and_grows_on_both_sides():
    at = lambda mean: float(losses.kl_sparsity(jnp.full((4, 1), mean), rho=0.05))  # noqa: E731
    assert abs(at(0.05)) < 1e-7
    assert at(0.02) > at(0.04) > 1e-4
    assert at(0.5) > at(0.1) > 1e-3
    # by hand: 0.05 log(0.05/0.2) + 0.95 log(0.95/0.8)
    close(at(0.2), 0.05 * math.log(0.25) + 0.95 * math.log(1.1875), 1e-5)


def test_kl_sparsity_is_of_the_mean_and_sums_over_units():
    """Activations 0 and 0.4 have the mean 0.2; a mean of KLs would be far from 0."""
    one = losses.kl_sparsity(jnp.array([[0.0], [0.4]]), rho=0.2)
    assert abs(one) < 1e-6
    a = jnp.array(RNG.uniform(size=(6, 3)))
    each = [losses.kl_sparsity(a[:, j : j + 1], rho=0.1) for j in range(3)]
    close(losses.kl_sparsity(a, rho=0.1), sum(each), 1e-5)
    # positions are averaged like the batch
    close(losses.kl_sparsity(a.reshape(2, 3, 3), rho=0.1), sum(each), 1e-5)


@pytest.mark.parametrize("end, sign", [(0.0, -1), (1.0, 1)])
def test_kl_sparsity_is_finite_at_dead_and_saturated_units(end, sign):
    a = jnp.full((4, 2), end)
    value, grad = jax.jit(jax.value_and_grad(partial(losses.kl_sparsity, rho=0.05)))(a)
    assert 0.5 < value < 50
    assert jnp.isfinite(grad).all() and (jnp.sign(grad) == sign).all()


def test_kl_sparsity_names_what_is_no_batch_of_activations():
    with pytest.raises(TypeError, match="kl_sparsity: activations must be a JAX or NumPy array"):
        losses.kl_sparsity(None, rho=0.1)
    with pytest.raises(ValueError, match=r"activations must have shape \(batch, ..., units\)"):
        losses.kl_sparsity(jnp.float32(0.5), rho=0.1)


def test_kl_sparsity_matches_pytorch():
    pytest.importorskip("torch", reason="PyTorch is the reference")

    def theirs(a, _, rho=0.05):
        m = a.mean(0)
        return (rho * (rho / m).log() + (1 - rho) * ((1 - rho) / (1 - m)).log()).sum()

    a = RNG.uniform(0.02, 0.98, size=(5, 4))
    check_torch(lambda a, _: losses.kl_sparsity(a, rho=0.05), theirs, a, np.zeros(1))
