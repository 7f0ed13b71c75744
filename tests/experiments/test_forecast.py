import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs the extra jaxnet-toolkit[viz]")

from experiments import forecast
from experiments.forecast import Config, filled, persistence, ridge, rmse, seasonal, windows

SERIES = np.arange(200.0) ** 2


def test_a_missing_week_holds_the_last_value_known():
    assert filled(np.array([3, np.nan, np.nan, 5, 6, np.nan])).tolist() == [3, 3, 3, 5, 6, 6]


def test_windows_keep_their_future_inside_the_part():
    w = windows(SERIES, 100, 120, past=60, future=5)
    assert w.x.shape == (16, 60, 1)
    assert w.y.shape == (16, 5)
    assert not w.x[:, -1].any()
    assert w.last[0] == 99
    assert w.last[-1] + 5 == 119  # the first and the last week predicted
    np.testing.assert_allclose(w.x[3, :, 0], SERIES[43:103] - SERIES[102])
    np.testing.assert_allclose(w.y[3], SERIES[103:108] - SERIES[102])
    begin = windows(SERIES, 0, 100, past=60, future=5)  # nothing is before the first part
    assert begin.last[0] == 59
    assert begin.last[-1] + 5 == 99


def test_the_plain_forecasts_where_they_are_right():
    weeks = np.arange(300.0)
    wave = 3 * np.sin(2 * np.pi * weeks / 52) + 0.1 * weeks  # the same every year, and a trend
    w = windows(wave, 200, 300, past=60, future=52)
    assert rmse(seasonal(w), w).max() < 1e-5
    assert not persistence(w).any()
    assert rmse(persistence(w), w)[0] == pytest.approx(0.3, abs=0.1)


def test_linear_autoregression_finds_the_recursion():
    draw = np.random.default_rng(0)
    series = np.zeros(400)
    series[:2] = draw.normal(size=2)
    for t in range(2, 400):
        series[t] = 1.6 * series[t - 1] - series[t - 2] + 0.2
    train = windows(series, 0, 300, 60, 5)
    test = windows(series, 300, 400, 60, 5)
    assert rmse(ridge(train, 1e-4)(test), test).max() < 1e-2
    assert rmse(persistence(test), test)[0] > 0.1
    assert rmse(ridge(train, 1e9)(test), test)[0] > 0.1  # the penalty


@pytest.mark.slow
def test_convolutions_cover_the_whole_past_and_examples_are_independent():
    import jax
    import jax.numpy as jnp

    config = Config()
    net = forecast.conv_net(3, config.dilations, 4)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, config.past, 1)), jnp.float32)
    params, state = net.init(jax.random.key(0), x)
    params = jax.tree.map(jnp.ones_like, params)  # so that no unit is dead
    gradient = jax.jit(jax.grad(lambda x: net.apply(params, state, x)[0][0].sum()))(jnp.abs(x))
    assert (gradient[0] != 0).all()
    assert not gradient[1].any()


@pytest.mark.slow
def test_the_validation_part_is_measured_instead_of_the_test_part(monkeypatch, tmp_path):
    weeks = np.arange(52 * 14)
    dates = np.datetime64("1980-01-05") + 7 * weeks
    ppm = 330 + 0.03 * weeks + 3 * np.sin(2 * np.pi * weeks / 52)
    ppm += 0.2 * np.random.default_rng(0).normal(size=len(weeks))
    ppm[100:103] = np.nan
    monkeypatch.setattr(forecast, "co2", lambda: (dates, ppm))
    seen = []

    def learn(net, train, measured, *options):
        seen.append((train.last[-1], measured.last[0], measured.last[-1]))
        return [0 * measured.y, measured.y], 7

    monkeypatch.setattr(forecast, "learn", learn)
    options = {"past": 60, "future": 8, "validation_from": 1988, "test_from": 1991}
    results = forecast.run(Config(**options, validation=True, output=tmp_path))
    forecast.run(Config(**options, output=tmp_path))
    (train, begin, end), *_, (same, later, last) = seen
    assert train == same == begin - 8
    assert later == end + 8
    assert last == 52 * 14 - 9
    assert results.weights["LSTM"] == 7
    assert not results.errors["LSTM"][1].any()


def test_the_real_series():
    pytest.importorskip("statsmodels", reason="carries the measurements")
    dates, ppm = forecast.co2()
    assert len(dates) == len(ppm) == 2284
    assert np.isnan(ppm).sum() == 59
    assert str(dates[0]) == "1958-03-29"
    assert ppm[0] == 316.1
    assert ppm[-1] == 371.5
    assert (np.diff(dates).astype(int) == 7).all()
