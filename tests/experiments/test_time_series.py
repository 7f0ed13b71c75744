import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import time_series

KEYS_MAY_REPEAT = True


@pytest.mark.slow
def test_a_delay_shifts_a_signal_and_pads_with_zeros():
    x = jnp.arange(1.0, 6.0).reshape(1, 5, 1).repeat(40, 0)
    y = np.asarray(time_series.random_delay(2)(jax.random.key(0), x))[..., 0].tolist()
    assert sorted(set(map(tuple, y))) == [(0, 0, 1, 2, 3), (0, 1, 2, 3, 4), (1, 2, 3, 4, 5)]
    np.testing.assert_array_equal(time_series.random_delay(0)(jax.random.key(0), x), x)


def test_a_filter_is_drawn_at_its_pitch():
    time = np.arange(80) / time_series.RATE
    kernel = np.stack([np.sin(2 * np.pi * f * time) for f in (2000, 500)], -1)
    figure = time_series.draw_filters(kernel)
    titles = [axes.get_title() for part in figure.subfigs for axes in part.axes]
    assert titles[:2] == ["500 Hz", "2000 Hz"]


@pytest.mark.long
def test_validation_holds_out_recordings_of_the_training_part(few_examples, tmp_path, capsys):
    config = time_series.Config(
        features=2, epochs=1, seeds=2, validation=True, output=tmp_path,
        data_dir=few_examples(90, 1),
    )  # fmt: skip
    (_, _), recording = time_series.waveforms("train", config.data_dir)
    assert time_series.run(config).accuracies.shape == (2,)
    held = (recording < 10).sum()
    assert 0 < held < 90
    assert f"{90 - held} recordings to train on, {held} to test with" in capsys.readouterr().out


def test_waveforms_are_cut_padded_and_normalized(few_examples):
    (x, y), recording = time_series.waveforms("train", few_examples(30, 1))
    assert x.shape == (30, 6000, 1) and x.dtype == np.float32 and y.shape == recording.shape
    for wave in x[..., 0]:
        recorded = wave[: np.flatnonzero(wave)[-1] + 1]
        np.testing.assert_allclose([recorded.mean(), recorded.std()], [0, 1], atol=1e-2)
