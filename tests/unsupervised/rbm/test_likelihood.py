"""Sums over the states of small machines, and annealed importance sampling against them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.unsupervised import rbm
from tests import oracles
from tests.helpers import close
from tests.unsupervised.rbm.machines import OPTIONS, crops, draw, states


@pytest.mark.fast_cases("5-3")
@pytest.mark.parametrize(("inputs", "features"), [(5, 3), (4, 13), (14, 14)])
def test_free_energy_and_likelihood_are_sums_over_all_states(x64, inputs, features):
    """The largest has more states than a block."""
    params = draw(inputs, features, 0.5, dtype=np.float64)
    x = states(inputs)
    close(rbm.free_energy(params, x), oracles.free_energy(params, x), 1e-10)
    close(rbm.log_partition(params), oracles.log_partition(params), 1e-10)
    log_p = rbm.log_likelihood(params, x)
    close(log_p, oracles.log_likelihood(params, x), 1e-10)
    np.testing.assert_allclose(np.exp(log_p).sum(), 1, rtol=1e-10)


@pytest.mark.slow
def test_gaussian_density_integrates_to_1(x64):
    params = draw(1, 3, dtype=np.float64)
    x, step = np.linspace(-15, 15, 3001, retstep=True)
    p = np.exp(rbm.log_likelihood(params, x[:, None], visible=rbm.gaussian))
    np.testing.assert_allclose(p.sum() * step, 1, rtol=1e-10)


@pytest.fixture(scope="module")
def trained():
    params = rbm.fit_rbm(jax.random.key(3), crops(), 8, full=True, **OPTIONS)
    assert np.abs(params["kernel"]).max() > 1  # no easy machine
    return params


@pytest.mark.slow
def test_ais_errors_are_spread_as_they_say(trained):
    """Over 60 seeds the error in units of its standard error has mean 0 and deviation 1, nearly."""
    betas = np.linspace(0, 1, 101)
    keys = jax.random.split(jax.random.key(9), 60)
    estimate = partial(rbm.ais, params=trained, betas=betas, data=crops())
    many = jax.jit(jax.vmap(estimate))(keys)
    scores = (many.log_partition - rbm.log_partition(trained)) / many.standard_error
    assert abs(scores.mean()) < 0.5
    assert 0.7 < scores.std() < 1.35


@pytest.mark.slow
def test_ais_of_real_units():
    params = draw(6, 5, 0.7)
    data = np.tile(np.array([0.2, 0.3, 0.5]), (4, 2))
    exact = rbm.log_partition(params, visible=rbm.gaussian)
    for seed, given in enumerate((None, data)):
        key = jax.random.key(seed)
        options = {"betas": np.linspace(0, 1, 301), "visible": rbm.gaussian}
        estimate = rbm.ais(key, params, data=given, **options)
        assert abs(estimate.log_partition - exact) < 3.5 * estimate.standard_error
        assert 0.001 < estimate.standard_error < 0.3


@pytest.mark.slow
def test_ais_of_no_weights_is_exact():
    params = draw(6, 5) | {"kernel": jnp.zeros((6, 5)), "bias": jnp.zeros(5)}
    data = jax.nn.sigmoid(params["visible_bias"])[None]
    estimate = rbm.ais(jax.random.key(0), params, data=data)
    np.testing.assert_allclose(estimate.log_partition, rbm.log_partition(params), rtol=1e-5)
    assert estimate.standard_error < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("call", "words"), [
    (lambda p: rbm.log_partition(p), r"2\*\*21 states; .* limited to 20 units.* write ais"),
    (lambda p: rbm.log_likelihood(p, jnp.zeros((1, 21)), visible=rbm.gaussian), r"2\*\*22 states"),
    (lambda p: rbm.ais(jax.random.key(0), p, betas=[0, 0.5, 0.5, 1]),
     "betas must rise from 0 to 1"),
    (lambda p: rbm.ais(jax.random.key(0), p, runs=1), "runs must be at least 2, got 1"),
])  # fmt: skip
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call(draw(21, 22))
