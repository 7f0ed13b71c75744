"""Recordings as a net takes them: files, rates, masks, wrong waves."""

import numpy as np
import pytest
from scipy.io import wavfile

from jaxnet.pretrained.sounds import Sounds, in_fractions, read_wav, resampled
from jaxnet.pretrained.whisper import features

SECOND = np.sin(2 * np.pi * 440 / 16_000 * np.arange(16_000))


def tone(rate, seconds=1):
    return np.sin(2 * np.pi * 440 / rate * np.arange(seconds * rate))


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_a_tone_is_the_same_at_every_rate(rate):
    wave = resampled(tone(rate), rate, 16_000)
    assert len(wave) == 16_000
    np.testing.assert_allclose(wave[500:-500], SECOND[500:-500], atol=3e-3)
    x = Sounds()(tone(rate), rate=rate)
    assert (x[0, 2:98].argmax(-1) == 11).all()  # the band of 440 Hz


def test_what_is_too_high_is_left_out():
    high = np.sin(2 * np.pi * 12_000 / 48_000 * np.arange(48_000))  # 12 kHz would fold to 4 kHz
    assert abs(resampled(high, 48_000, 16_000)[100:-100]).max() < 2e-3


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_files_are_waves(tmp_path, dtype):
    file = tmp_path / "tone.wav"
    wave = 0.5 * SECOND
    if dtype == np.uint8:
        samples = np.uint8(np.rint(128 * wave + 128))
    elif dtype in (np.int16, np.int32):
        samples = dtype(np.rint(wave * np.iinfo(dtype).max))
    else:
        samples = dtype(wave)
    wavfile.write(file, 16_000, samples)
    rate, found = read_wav("read", file)
    assert rate == 16_000
    np.testing.assert_allclose(found, wave, atol=1 / 128 if dtype == np.uint8 else 1e-4)
    np.testing.assert_array_equal(Sounds()(str(file)), features([found]))


def test_a_file_has_its_own_rate_and_its_channels_are_averaged(tmp_path):
    file = tmp_path / "stereo.wav"
    both = np.stack([tone(8000), 0 * tone(8000)], 1).astype(np.float32)
    wavfile.write(file, 8000, both)
    expected = Sounds()(0.5 * tone(8000), rate=8000)
    np.testing.assert_allclose(Sounds()(file), expected, atol=1e-4)


def test_integers_of_16_bits_are_floats():
    wave = np.int16(np.rint(32_767 * SECOND))
    np.testing.assert_array_equal(Sounds()(wave), Sounds()(in_fractions(wave)))


def test_a_mask_says_what_is_recorded():
    x, mask = Sounds(128)([SECOND, SECOND[:161], np.tile(SECOND, 40)], mask=True)
    assert x.shape == (3, 3000, 128)
    assert mask.sum(1).tolist() == [100, 2, 3000]
    assert mask[0, :100].all()
    np.testing.assert_array_equal(Sounds(128)(SECOND)[0], x[0])


@pytest.mark.parametrize(("waves", "words"), [
    (np.float32([0, np.nan, 0]), "a wave must be finite, got nan at sample 1"),
    ([SECOND, np.float32([0, 0, -np.inf])], "a wave must be finite, got -inf at sample 2"),
    (np.ma.masked_less(SECOND, 0), r"got masked float64 \(16000,\); write wave.filled\(0\)"),
    (np.zeros((2, 3, 4)), r"got float64 \(2, 3, 4\)"),
    (np.zeros(5, int), r"got int64 \(5,\)"),
    ([], "needs at least one recording"),
])  # fmt: skip
def test_wrong_waves(waves, words):
    with pytest.raises(ValueError, match=f"processor: .*{words}"):
        Sounds()(waves, rate=8000)


def test_wrong_files_and_rates(tmp_path):
    with pytest.raises(FileNotFoundError, match="processor: there is no file"):
        Sounds()(tmp_path / "none.wav")
    for text in ("", "no sound", "RIFF" + "x" * 50):
        (tmp_path / "text.wav").write_text(text)
        with pytest.raises(ValueError, match=r"text\.wav cannot be read as a WAV file"):
            Sounds()(tmp_path / "text.wav")
    for rate in (0, 2_000_000):
        with pytest.raises(ValueError, match="processor: rate must be"):
            Sounds()(SECOND, rate=rate)
