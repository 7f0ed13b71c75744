import sys

import numpy as np
import pytest

import jaxnet as jn
from jaxnet.data import speech

RATE = 8000


def some(counts=(5, 4), seed=0, dtype=np.int16):
    """Recordings of two speakers, each of one value, which is its row + 1."""
    rng = np.random.default_rng(seed)
    n = sum(counts)
    waves = [np.full(rng.integers(300, 500), i + 1, dtype) for i in range(n)]
    names = np.repeat(["ann", "bob"], counts)
    return speech.Recordings(waves, np.arange(n, dtype=np.int32) % 10, names, np.zeros(n, int))


def test_rows_are_taken_by_number_and_by_mask():
    part = some().take([8, 0])
    assert part.digits.tolist() == [8, 0] and part.speakers.tolist() == ["bob", "ann"]
    assert [wave[0] for wave in part.waves] == [9, 1]
    assert some().take(some().digits > 6).digits.tolist() == [7, 8]


def test_the_splits_share_no_recording(tfds_data_dir):
    pytest.importorskip("tensorflow_datasets", reason="needs the extra jaxnet-toolkit[data]")
    test = jn.data.spoken_digits("test", data_dir=tfds_data_dir)
    train = jn.data.spoken_digits("train[:500]", data_dir=tfds_data_dir)
    assert len(test.waves) == 300 and test.waves[0].dtype == np.int16
    assert set(test.numbers) == set(range(5)) and train.numbers.min() == 5
    kinds = set(zip(test.digits, test.speakers, test.numbers, strict=True))
    assert len(kinds) == 300 and len(set(test.speakers)) == 6 and set(test.digits) == set(range(10))
    assert not {w.tobytes() for w in test.waves} & {w.tobytes() for w in train.waves}


def test_strings_are_their_recordings_with_gaps():
    recordings = some()
    strings = speech.digit_strings(recordings, 30, seed=3, digits=(2, 4), gap=(0.01, 0.02))
    assert {len(d) for d in strings.digits} == {2, 3, 4}
    for wave, digits, speaker, rows, places in zip(*strings, strict=True):
        assert wave.dtype == np.int16
        assert set(recordings.speakers[rows]) == {speaker}
        np.testing.assert_array_equal(digits, recordings.digits[rows])
        edges = [0, *places.ravel(), len(wave)]
        gaps = np.diff(edges)[::2]
        assert gaps.min() >= 80 and gaps.max() <= 160
        for row, (start, stop) in zip(rows, places, strict=True):
            np.testing.assert_array_equal(wave[start:stop], recordings.waves[row])
        # Waves of one value have no noise, so gaps are 0.
        assert (wave != 0).sum() == np.diff(places, axis=1).sum()


def test_each_recording_of_a_speaker_is_used_once_before_one_is_used_again():
    strings = speech.digit_strings(some((6, 1)), 40, seed=0, digits=(2, 2))
    rows = np.concatenate([strings.rows[i] for i in np.flatnonzero(strings.speakers == "ann")])
    for start in range(0, len(rows) - 5, 6):
        assert sorted(rows[start : start + 6]) == list(range(6))


def test_a_seed_fixes_the_strings():
    a, b, c = (speech.digit_strings(some(), 5, seed=seed) for seed in (1, 1, 2))
    assert all((x == y).all() for x, y in zip(a.waves, b.waves, strict=True))
    assert [len(w) for w in a.waves] != [len(w) for w in c.waves]


def test_a_gap_is_as_loud_as_the_quietest_part():
    rng = np.random.default_rng(0)
    wave = np.concatenate([rng.normal(0, 1000, 4000), rng.normal(0, 50, 4000)])
    one = speech.Recordings([wave], np.array([3]), np.array(["a"]), np.array([0]))
    strings = speech.digit_strings(one, 1, seed=0, digits=(1, 1), gap=(0.5, 0.5))
    ((start, stop),) = strings.places[0]
    assert start == 4000 and stop == 12000
    for gap in (strings.waves[0][:start], strings.waves[0][stop:]):
        assert 40 < gap.std() < 52


def reference(wave, bands, coefficients=None, size=200, step=80, points=512):
    """Log mel power and its cosine transform, from their definitions, in float64."""
    from scipy.fft import dct  # scipy 1.17.1

    wave = wave.astype(float) / (32768 if wave.dtype == np.int16 else 1)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(size) / size)
    frames = 1 + (len(wave) - size) // step
    cut = np.stack([wave[i * step : i * step + size] * window for i in range(frames)])
    power = np.abs(np.fft.rfft(cut, points)) ** 2
    # Slaney's scale: 200/3 Hz a mel up to 1 kHz, then 27 mels for a factor of 6.4.
    top = 15 + 27 * np.log(RATE / 2 / 1000) / np.log(6.4)
    mels = np.linspace(0, top, bands + 2)
    hertz = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    at = np.arange(points // 2 + 1) * RATE / points
    triangles = np.zeros((bands, len(at)))
    for i, (low, middle, high) in enumerate(zip(hertz, hertz[1:], hertz[2:], strict=False)):
        up, down = (at - low) / (middle - low), (high - at) / (high - middle)
        triangles[i] = np.maximum(0, np.minimum(up, down)) * 2 / (high - low)
    energy = power @ triangles.T
    mel = np.log(np.maximum(energy, energy.max() * 1e-6))
    return mel if coefficients is None else dct(mel, norm="ortho")[:, :coefficients]


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
    def test_they_are_those_of_their_definitions(self):
        for wave in (sound(), sound(2001, 1).astype(np.float32)):
            (mel,) = jn.data.log_mel([wave], rate=RATE, bands=23, normalize=False)
            np.testing.assert_allclose(mel, reference(wave, 23), atol=2e-4)
            (cepstra,) = jn.data.mfcc([wave], rate=RATE, bands=30, deltas=0, normalize=False)
            assert cepstra.dtype == np.float32
            np.testing.assert_allclose(cepstra, reference(wave, 30, 13), atol=1e-3)

    def test_another_window_and_hop(self):
        (mel,) = jn.data.log_mel(
            [sound()], rate=RATE, window=0.032, hop=0.015, bands=9, normalize=False
        )
        expected = reference(sound(), 9, size=256, step=120, points=512)
        np.testing.assert_allclose(mel, expected, atol=2e-4)
        assert np.ptp(mel) == pytest.approx(60 * np.log(10) / 10, rel=1e-4)  # the whole range

    @pytest.mark.long
    def test_slopes_and_curvatures_of_a_parabola(self):
        # Polynomials of these degrees are fitted exactly, away from the edges.
        waves = [sound(4000)]
        plain, all_three = (
            jn.data.mfcc(waves, rate=RATE, deltas=d, normalize=False)[0] for d in (0, 2)
        )
        assert all_three.shape == (48, 39)
        np.testing.assert_array_equal(all_three[:, :13], plain)
        offsets = np.arange(-4, 5)
        for t in (10, 30):
            around = plain[t + offsets]
            slope = (offsets[:, None] * around).sum(0) / 60  # least squares: sum of squares 60
            curve = 2 * np.polyfit(offsets, around, 2)[0]
            np.testing.assert_allclose(all_three[t, 13:26], slope, atol=1e-3)
            np.testing.assert_allclose(all_three[t, 26:], curve, atol=1e-3)

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
            np.testing.assert_array_equal(jn.data.mfcc([wave], rate=RATE)[0], features)
        assert jn.data.mfcc([], rate=RATE) == []

    def test_silence_gives_zeros_and_one_frame_too(self):
        for wave in (np.zeros(800, np.int16), sound(200)):
            (features,) = jn.data.mfcc([wave], rate=RATE)
            assert not features.any()

    @pytest.mark.parametrize("features", [jn.data.log_mel, jn.data.mfcc])
    @pytest.mark.parametrize(
        ("wave", "options", "error", "words"),
        [
            (np.zeros(0, np.int16), {}, ValueError, "at least 200 samples, got 0 for wave 1"),
            (np.zeros(199), {}, ValueError, "200 samples, got 199 for wave 1; pad it"),
            (np.full(400, np.nan), {}, ValueError, "wave 1 contains NaN or Inf"),
            (
                np.zeros((400, 2)),
                {},
                ValueError,
                r"\(samples,\), got \(400, 2\) for wave 1; for several",
            ),
            (
                np.zeros(400, np.uint8),
                {},
                TypeError,
                "signed integers or floats, got for wave 1 uint8",
            ),
            (np.zeros(400, complex), {}, TypeError, "for wave 1 complex128"),
            (list(range(400)), {}, TypeError, "for wave 1 list"),
            (sound(), {"rate": 0}, ValueError, r"rate is in samples per second, in \(0, inf\)"),
            (sound(), {"rate": np.nan}, ValueError, "rate is in samples per second, .*got nan"),
            (sound(), {"window": 25}, ValueError, "at least 200000 samples, got .*one window"),
            (sound(), {"window": 1e-5}, ValueError, "window and hop are in seconds"),
            (sound(), {"hop": 0}, ValueError, r"hop must be in \(0, inf\), got 0"),
            (sound(), {"bands": 300}, ValueError, "300 bands are too many for windows of 200"),
            (sound(), {"deltas": 3}, ValueError, "deltas must be 0, 1 or 2, got 3"),
            (sound(), {"bands": 2.5}, TypeError, "bands must be an integer, got 2.5"),
            (sound(), {"rate": "8"}, TypeError, "rate must be a number in .*, got '8'"),
            (sound(), {"normalize": "no"}, TypeError, "normalize must be True or False, got 'no'"),
        ],
    )
    def test_what_does_not_fit(self, features, wave, options, error, words):
        with pytest.raises(error, match=words):
            features([sound(), wave], **({"rate": RATE} | options))

    def test_one_wave_alone_and_too_many_coefficients(self):
        with pytest.raises(
            TypeError, match=r"list of arrays .*, got ndarray; for a .* pass \[wave\]"
        ):
            jn.data.mfcc(sound(), rate=RATE)  # type: ignore
        with pytest.raises(
            ValueError, match=r"coefficients must be 1 to 9, the number of bands, got 13"
        ):
            jn.data.mfcc([sound()], rate=RATE, bands=9)


def test_without_librosa(monkeypatch):
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(ImportError, match=r"log_mel: needs librosa .*jaxnet-toolkit\[speech\]"):
        jn.data.log_mel([sound()], rate=RATE)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"digits": (0, 3)}, r"digits\[0\] must be at least 1, got 0"),
        ({"digits": (4, 3)}, r"got digits=\(4, 3\)"),
        ({"gap": (-0.1, 0.1)}, r"gap\[0\] must be in \[0, inf\), got -0.1"),
        ({"rate": 0}, "rate is in samples per second"),
    ],
)
def test_strings_that_cannot_be(options, words):
    with pytest.raises(ValueError, match=words):
        speech.digit_strings(some(), **({"count": 3, "seed": 0} | options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recordings": [1, 2]}, "recordings must be Recordings, got list"),
        ({"count": 2.5}, "count must be an integer, got 2.5"),
        ({"seed": None}, "seed must be an integer, got None"),
        ({"digits": 3}, r"digits must be \(smallest, largest\), got 3"),
        ({"gap": (0.1, "a")}, r"gap\[1\] must be a number"),
    ],
)
def test_options_of_strings_of_another_type(options, words):
    with pytest.raises(TypeError, match=f"digit_strings: {words}"):
        speech.digit_strings(**({"recordings": some(), "count": 3, "seed": 0} | options))


def test_strings_of_an_empty_wave_or_a_nan():
    recordings = some(dtype=np.float32)
    recordings.waves[4] = np.zeros(0)
    with pytest.raises(
        ValueError, match="digit_strings: a wave must have at least 1 samples, got 0 for wave 4"
    ):
        speech.digit_strings(recordings, 3, seed=0)
    recordings.waves[4] = np.array([np.nan])
    with pytest.raises(ValueError, match="digit_strings: wave 4 contains NaN"):
        speech.digit_strings(recordings, 3, seed=0)
