import jax
import numpy as np
import pytest

from experiments import rbm


@pytest.mark.slow
def test_the_small_example_becomes_likelier_and_ais_says_so():
    curve, estimates = rbm.exact_example(jax.random.key(0), 12, "PCD")
    assert curve.shape == (13,) and estimates.shape == (12, 3)
    assert -8.4 < curve[0] < -8.2 and curve[0] + 0.5 < curve[-1] < -6.4
    epochs, likelihood, error = estimates.T
    assert epochs.tolist() == list(range(1, 13))
    off = np.abs(likelihood - curve[1:]) / error
    assert off.max() < 3.5 and off.mean() > 0.2  # not closer than they may be


def test_temperatures_are_those_of_the_paper():
    betas = rbm.temperatures(14_500)
    assert len(betas) == 14_501
    np.testing.assert_allclose(betas[[0, 500, 4500, -1]], [0, 0.5, 0.9, 1])
    assert (np.diff(betas) > 0).all() and (np.diff(rbm.temperatures(5)) > 0).all()


def test_pixels_are_drawn_by_their_grey_value():
    x = np.tile(np.array([0.0, 0.3, 1.0], np.float32), (5000, 1))
    drawn = np.asarray(rbm.binarize(jax.random.key(0), x))
    assert set(np.unique(drawn)) == {0.0, 1.0}
    np.testing.assert_allclose(drawn.mean(0), [0, 0.3, 1], atol=0.03)
