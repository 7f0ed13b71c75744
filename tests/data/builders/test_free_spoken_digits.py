import io
import itertools
import re

import numpy as np
import pytest
from scipy.io import wavfile

from jaxnet.data import prepare, spoken_digits
from jaxnet.data.builders import free_spoken_digits
from jaxnet.data.builders.free_spoken_digits import samples


def wav(wave, rate=8000):
    out = io.BytesIO()
    wavfile.write(out, rate, wave)
    return out.getvalue()


def test_prepared_and_read_back(site, tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    keys = itertools.product((0, 7), ("anna", "ben"), (0, 4, 5, 49))  # digit, speaker, number
    waves = {}
    files = {}
    for digit, speaker, number in keys:
        wave = draw.integers(-(2**15), 2**15, 100 + number, np.int16)
        waves[digit, speaker, number] = wave
        files[f"recordings/{digit}_{speaker}_{number}.wav"] = wav(wave)
    sha256 = site.archive("digits.tar.gz", files)
    site.archive("digits.tar.gz", files | {"recordings/README.md": b"", "utils/0_a_0.wav": b""})
    address = f"{site.address}/digits.tar.gz"
    archive = free_spoken_digits.ARCHIVE._replace(address=address, sha256=sha256)
    monkeypatch.setattr(free_spoken_digits, "ARCHIVE", archive)
    prepare.prepare("test", "free_spoken_digits", tmp_path)
    for part, numbers in (("test", {0, 4}), ("train", {5, 49})):
        found = spoken_digits(part, data_dir=tmp_path)
        columns = found.digits.tolist(), found.speakers.tolist(), found.numbers.tolist()
        places = list(zip(*columns, strict=True))
        assert sorted(places) == sorted(key for key in waves if key[2] in numbers)
        for place, wave in zip(places, found.waves, strict=True):
            assert wave.dtype == np.int16
            np.testing.assert_array_equal(wave, waves[place])


@pytest.mark.parametrize(("data", "words"), [
    (wav(np.zeros((5, 2), np.int16)), "(2, 2, 8000)"),
    (wav(np.zeros(5, np.int16), 16000), "(1, 2, 16000)"),
    (wav(np.zeros(5, np.float32)), "unknown format: 3"),
    (b"", "EOFError"),
], ids=["stereo", "16 kHz", "floats", "empty"])  # fmt: skip
def test_another_format(data, words):
    with pytest.raises(ValueError, match=f"a.wav is not a WAV file of 16.*{re.escape(words)}"):
        samples("a.wav", data)
