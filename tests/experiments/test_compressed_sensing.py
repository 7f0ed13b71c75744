import jax
import numpy as np
import pytest

from experiments import compressed_sensing as cs


def test_theory_at_known_points():
    """Weak threshold at half as many measurements: 0.385 of them [Donoho and Tanner 2009]."""
    shares = np.array([0.0, 0.5 * 0.3848, 1.0])
    np.testing.assert_allclose(cs.theory(shares), [0, 0.5, 1], atol=1e-3)
    assert (np.diff(cs.theory(np.linspace(0, 1, 50))) > 0).all()


def test_half_way():
    recovered = np.array([[0, 0.25, 0.75, 1], [0, 0, 0, 0.4], [0.6, 1, 1, 1]])
    np.testing.assert_allclose(cs.half_way(recovered, np.array([1, 3, 5, 7])), [4, np.nan, np.nan])


@pytest.mark.slow
def test_phase_plot_is_black_and_white_on_the_two_sides_of_theory():
    config = cs.Config(unknowns=60, cells=4, trials=5, steps=150)
    recovered, sparse, counts = cs.phase(config)
    assert sparse.tolist() == [12, 24, 36, 48] and counts.tolist() == [15, 30, 45, 60]
    needed = cs.theory(sparse / 60)[:, None]
    measured = counts / 60
    assert (recovered[measured > needed + 0.2] > 0.7).all()
    assert (recovered[measured < needed - 0.2] < 0.3).all()
    assert 0.2 < recovered.mean() < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", [1, 3])
def test_entries_of_a_projection_have_three_values_and_variance_1_over_features(sparsity):
    kernel = np.asarray(cs.signs(sparsity)(jax.random.key(0), (400, 50)))
    size = np.sqrt(sparsity / 50)
    expected = [-size, size] if sparsity == 1 else [-size, 0, size]
    np.testing.assert_allclose(np.unique(kernel), expected, rtol=1e-6)
    assert abs((kernel == 0).mean() - (1 - 1 / sparsity)) < 0.02
    assert abs(kernel.mean()) < 4 * (1 / 50 / kernel.size) ** 0.5  # 4 standard errors
    np.testing.assert_allclose(50 * kernel.var(), 1, rtol=0.05)


@pytest.mark.slow
def test_a_digit_is_recovered():
    """A small image with an eighth of the pixels inked."""
    image = np.zeros((2, 10, 10), np.float32)
    image[0, 2:9, 5] = image[1, 3, 2:8] = 0.8
    image[0, 5, 2:5] = image[1, 4:8, 6] = 0.3
    found = cs.reconstruct(cs.Config(steps=150, fractions=(0.1, 0.5)), image.reshape(2, 100))
    assert found.shape == (2, 3, 2, 100)
    errors = np.linalg.norm(found - image.reshape(2, 100), axis=-1)
    assert (errors[0, 1] > 0.1).all()  # from 10 numbers
    assert (errors[1, 0] > 0.5).all() and (errors[1, 1:] < 1e-4).all()
