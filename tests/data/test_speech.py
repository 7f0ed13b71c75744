import sys

import numpy as np
import pytest

import jaxnet as jn
from jaxnet.data import speech

RATE = 8000


def some(counts=(5, 4)):
    """Recordings of two speakers, each of one value, which is its row + 1."""
    rng, n = np.random.default_rng(0), sum(counts)
    waves = [np.full(rng.integers(300, 500), i + 1, np.int16) for i in range(n)]
    names = np.repeat(["ann", "bob"], counts)
    digits = np.arange(n, dtype=np.int32) % 10
    return speech.Recordings(waves, digits, names, np.zeros(n, int))


def test_rows_are_taken_by_number_and_by_mask():
    part = some().take([8, 0])
    assert part.digits.tolist() == [8, 0]
    assert part.speakers.tolist() == ["bob", "ann"]
    assert [wave[0] for wave in part.waves] == [9, 1]
    assert some().take(some().digits > 6).digits.tolist() == [7, 8]


def test_the_splits_share_no_recording(tfds_data_dir):
    pytest.importorskip("tensorflow_datasets", reason="needs the extra jaxnet-toolkit[data]")
    test = jn.data.spoken_digits("test", data_dir=tfds_data_dir)
    train = jn.data.spoken_digits("train[:500]", data_dir=tfds_data_dir)
    assert len(test.waves) == 300
    assert test.waves[0].dtype == np.int16
    assert set(test.numbers) == set(range(5))
    assert train.numbers.min() == 5
    kinds = set(zip(test.digits, test.speakers, test.numbers, strict=True))
    assert len(kinds) == 300
    assert len(set(test.speakers)) == 6
    assert set(test.digits) == set(range(10))
    in_train = {wave.tobytes() for wave in train.waves}
    in_test = {wave.tobytes() for wave in test.waves}
    assert not in_train & in_test


def test_strings_are_their_recordings_with_gaps():
    recordings = some()
    strings = speech.digit_strings(recordings, 30, seed=3, digits=(2, 4), gap=(0.01, 0.02))
    assert {len(d) for d in strings.digits} == {2, 3, 4}
    for wave, digits, speaker, rows, places in zip(*strings, strict=True):
        assert wave.dtype == np.int16
        assert set(recordings.speakers[rows]) == {speaker}
        np.testing.assert_array_equal(digits, recordings.digits[rows])
        gaps = np.diff([0, *places.ravel(), len(wave)])[::2]
        assert gaps.min() >= 80
        assert gaps.max() <= 160
        for row, (start, stop) in zip(rows, places, strict=True):
            np.testing.assert_array_equal(wave[start:stop], recordings.waves[row])
        # Waves of one value have no noise, so gaps are 0.
        assert (wave != 0).sum() == np.diff(places, axis=1).sum()


def test_each_recording_of_a_speaker_is_used_once_before_one_is_used_again():
    strings = speech.digit_strings(some((6, 1)), 40, seed=0, digits=(2, 2))
    of_ann = np.flatnonzero(strings.speakers == "ann")
    rows = np.concatenate([strings.rows[i] for i in of_ann])
    for start in range(0, len(rows) - 5, 6):
        assert sorted(rows[start : start + 6]) == list(range(6))


def test_a_seed_fixes_the_strings():

    def waves(seed):
        return [wave.tolist() for wave in speech.digit_strings(some(), 5, seed=seed).waves]

    assert waves(1) == waves(1)
    assert list(map(len, waves(1))) != list(map(len, waves(2)))


def test_a_gap_is_as_loud_as_the_quietest_part():
    rng = np.random.default_rng(0)
    loud, quiet = rng.normal(0, 1000, 4000), rng.normal(0, 50, 4000)
    wave = np.concatenate([loud, quiet])
    one = speech.Recordings([wave], np.array([3]), np.array(["a"]), np.array([0]))
    strings = speech.digit_strings(one, 1, seed=0, digits=(1, 1), gap=(0.5, 0.5))
    ((start, stop),) = strings.places[0]
    assert start == 4000
    assert stop == 12000
    for gap in (strings.waves[0][:start], strings.waves[0][stop:]):
        assert 40 < gap.std() < 52


def sound(samples=1234, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / RATE
    tone = np.sin(2 * np.pi * (300 + 900 * t) * t) * np.sin(20 * t) ** 2
    return (8000 * tone + 20 * rng.normal(size=samples)).astype(np.int16)


class TestFeatures:
    @pytest.fixture(autouse=True)
    def librosa(self):
        pytest.importorskip("librosa", reason="needs the extra jaxnet-toolkit[speech]")  # 0.11.0

    @pytest.mark.slow
    def test_another_window_and_hop(self):
        options = {"window": 0.032, "hop": 0.015, "bands": 9, "normalize": False}
        (mel,) = jn.data.log_mel([sound()], rate=RATE, **options)
        assert mel.shape == (1 + (1234 - 256) // 120, 9)
        assert np.ptp(mel) == pytest.approx(60 * np.log(10) / 10, rel=1e-4)  # the whole range

    @pytest.mark.long
    def test_slopes_and_curvatures_of_a_parabola(self):
        # Polynomials of these degrees are fitted exactly, away from the edges.
        wave, options = sound(4000), {"rate": RATE, "normalize": False}
        (plain,) = jn.data.mfcc([wave], deltas=0, **options)
        (all_three,) = jn.data.mfcc([wave], deltas=2, **options)
        assert all_three.shape == (48, 39)
        np.testing.assert_array_equal(all_three[:, :13], plain)
        offsets = np.arange(-4, 5)
        for t in (10, 30):
            around = plain[t + offsets]
            slope = (offsets[:, None] * around).sum(0) / 60  # least squares: sum of squares 60
            curve = 2 * np.polyfit(offsets, around, 2)[0]
            np.testing.assert_allclose(all_three[t, 13:26], slope, atol=1e-3)
            np.testing.assert_allclose(all_three[t, 26:], curve, atol=1e-3)

    @pytest.mark.slow
    def test_normalised_features_know_no_loudness(self):
        wave = sound(3000).astype(np.float32)
        a, b = jn.data.log_mel([wave, wave * 1e-3], rate=RATE)
        np.testing.assert_allclose(a, b, atol=1e-3)
        np.testing.assert_allclose(a.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(a.std(0), 1, atol=1e-4)

    def test_waves_do_not_influence_each_other(self):
        waves = [sound(1500), sound(900, 1), sound(201, 2)]
        together = jn.data.mfcc(waves, rate=RATE)
        assert [len(f) for f in together] == [17, 9, 1]
        for wave, features in zip(waves, together, strict=True):
            (alone,) = jn.data.mfcc([wave], rate=RATE)
            np.testing.assert_array_equal(alone, features)
        assert jn.data.mfcc([], rate=RATE) == []

    def test_silence_gives_zeros_and_one_frame_too(self):
        for features in jn.data.mfcc([np.zeros(800, np.int16), sound(200)], rate=RATE):
            assert not features.any()

    @pytest.mark.parametrize("wave, options, error, words", [
        (np.zeros(199), {}, ValueError, "at least 200 samples, got 199 for wave 0; pad it"),
        (np.full(400, np.nan), {}, ValueError, "wave 0 contains NaN or Inf"),
        (np.zeros((400, 2)), {}, ValueError, r"must have shape \(samples,\), got \(400, 2\)"),
        (np.zeros(400, np.uint8), {}, TypeError, "signed integers or floats, got for wave 0 uint8"),
        (np.zeros(400, complex), {}, TypeError, "for wave 0 complex128"),
        (sound(), {"rate": np.nan}, ValueError, "rate is in samples per second, .*got nan"),
        (sound(), {"window": 25}, ValueError, "at least 200000 samples, got .*one window"),
        (sound(), {"window": 1e-5}, ValueError, "window and hop are in seconds"),
        (sound(), {"hop": 0}, ValueError, r"hop must be in \(0, inf\), got 0"),
        (sound(), {"bands": 300}, ValueError, "300 bands are too many for windows of 200"),
        (sound(), {"deltas": 3}, ValueError, "deltas must be 0, 1 or 2, got 3"),
        (sound(), {"bands": 9}, ValueError, "must be 1 to 9, the number of bands, got 13"),
    ])  # fmt: skip
    def test_refusals(self, wave, options, error, words):
        with pytest.raises(error, match=words):
            jn.data.mfcc([wave], **{"rate": RATE} | options)
        words = r"list of arrays .*, got ndarray; for a .* pass \[wave"
        with pytest.raises(TypeError, match=words):
            jn.data.mfcc(wave, rate=RATE)  # type: ignore


def test_without_librosa(monkeypatch):
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(ImportError, match=r"log_mel: needs librosa .*\[speech\]"):
        jn.data.log_mel([sound()], rate=RATE)


def with_wave(wave):
    recordings = some()
    recordings.waves[4] = wave
    return recordings


@pytest.mark.parametrize("options, words", [
    ({"digits": (0, 3)}, r"digits\[0\] must be at least 1, got 0"),
    ({"digits": (4, 3)}, r"got digits=\(4, 3\) and"),
    ({"gap": (-0.1, 0.1)}, r"gap\[0\] must be in \[0, inf\), got -0.1"),
    ({"rate": 0}, "rate is in samples per second"),
    ({"digits": 3}, r"digits must be \(smallest, largest\), got 3"),
    ({"recordings": with_wave(np.zeros(0))}, "must have at least 1 samples, got 0 for wave 4"),
    ({"recordings": with_wave(np.array([np.nan]))}, "wave 4 contains NaN"),
], ids=str)  # fmt: skip
def test_strings_that_cannot_be(options, words):
    with pytest.raises((TypeError, ValueError), match=f"digit_strings: .*{words}"):
        given = {"recordings": some(), "count": 3, "seed": 0}
        speech.digit_strings(**given | options)
