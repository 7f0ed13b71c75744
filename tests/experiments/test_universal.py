import numpy as np
import pytest

from experiments import universal


@pytest.mark.slow
def test_the_error_falls_with_units_and_is_drawn(tmp_path):
    config = universal.Config(widths=(2, 30), seeds=2, steps=300, points=60, output=tmp_path)
    results = universal.run(config)
    assert results.errors.shape == results.largest.shape == (2, 2)
    few, many = results.errors
    assert 0.3 < few.min() < 1.3 and 0.005 < many.max() < 0.5 * few.min()
    assert (results.largest > results.errors).all()


def test_the_function_is_continuous_and_has_two_kinks():
    x = np.linspace(-1, 1, 20_001)
    y = universal.function(x)
    slopes = np.diff(y) / np.diff(x)
    assert np.abs(np.diff(y)).max() < 0.003
    jumps = np.flatnonzero(np.abs(np.diff(slopes)) > 0.5)
    np.testing.assert_allclose(x[jumps + 1], [-0.5, 0.3], atol=2e-4)


@pytest.mark.slow
def test_units_rise_in_different_places():
    import jax

    import jaxnet as jn

    params, _ = universal.net(100).init(jax.random.key(0), jn.spec((2, 1)))
    places = -params["dense"]["bias"] / params["dense"]["kernel"][0]
    assert 0.3 < (np.abs(places) < 1).mean() < 0.7
    assert np.ptp(np.asarray(places)[np.abs(places) < 1]) > 1.6
