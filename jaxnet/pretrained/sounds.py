"""Recordings as a published net takes them: files of sound, other rates, features."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.pretrained.whisper import RATE, as_wave, features
from jaxnet.services.checks import at_least, check_options, within
from jaxnet.services.files import readable

WHO = "processor"
FASTEST = 1_000_000  # samples per second


class Sounds(NamedTuple):
    """What turns recordings into the features of Whisper, see `jaxnet.pretrained.processor`.

    Call it with a recording or a list of them: a WAV file, whose channels are averaged, or an array
    (samples,) of floats in [-1, 1] or of integers of 16 bits. What has another rate is resampled.

    Fields:
      bands: Number of features of a frame.

    Example:
      >>> sounds = Sounds()
      >>> wave = np.sin(2 * np.pi * 440 / 8000 * np.arange(8000))  # a second of 440 Hz
      >>> x, mask = sounds(wave, rate=8000, mask=True)
      >>> x.shape, int(mask.sum()), int(x[0, 50].argmax())
      ((1, 3000, 80), 100, 11)
    """

    bands: int = 80

    def __call__(self, recordings: Any, *, rate: int = RATE, mask: bool = False) -> Any:
        """Return the features of recordings, cut or padded to 30 seconds.

        Args:
          recordings: A file, an array, or a list of these.
          rate: Samples per second of arrays; a file says its own.
          mask: Whether the frames that are of the recordings are returned too.

        Returns:
          (recordings, 3000, bands) float32, or with `mask` the pair of it and of booleans
          (recordings, 3000).

        Raises:
          OSError: If a file is missing or cannot be read.
          ValueError: If a file is not a WAV file.
          ValueError: If an array has channels, or values that are NaN or infinite.
        """
        at_least(WHO, "rate", rate)
        within(WHO, "rate", rate, f"[1, {FASTEST}]")
        check_options(WHO, mask=mask)
        several = isinstance(recordings, list | tuple) or getattr(recordings, "ndim", 0) == 2
        waves = [_wave(one, rate) for one in (recordings if several else [recordings])]
        if not waves:
            raise ValueError(f"{WHO}: needs at least one recording, got none")
        return features(waves, self.bands, mask=mask)


def _wave(recording: Any, rate: int) -> np.ndarray:
    """Return a recording as floats (samples,) with 16,000 samples per second."""
    if isinstance(recording, str | Path):
        rate, recording = read_wav(WHO, recording)
    if getattr(recording, "dtype", None) == np.int16:
        recording = in_fractions(recording)
    wave = as_wave(WHO, recording)
    return wave if rate == RATE else resampled(wave, rate, RATE)


def read_wav(who: str, file: str | Path) -> tuple[int, np.ndarray]:
    """Return the rate of a WAV file, and the mean of its channels as floats (samples,).

    Raises:
      OSError: If the file is missing or cannot be read.
      ValueError: If it is not a WAV file.

    Example:
      >>> import tempfile
      >>> from scipy.io import wavfile
      >>> file = Path(tempfile.mkdtemp()) / "beep.wav"
      >>> wavfile.write(file, 8000, np.array([[0, 0], [16384, 0]], np.int16))
      >>> read_wav("read", file)
      (8000, array([0.  , 0.25]))
    """
    from scipy.io import wavfile  # slow to import, and JAX depends on scipy

    path = readable(who, file, "file")
    try:
        rate, samples = wavfile.read(path)
        samples = in_fractions(samples)
    except Exception as error:  # a broken file raises many kinds
        raise ValueError(
            f"{who}: {path} cannot be read as a WAV file ({error}). Read other files with another "
            "package, and pass the samples with rate="
        ) from None
    if not 1 <= rate <= FASTEST:
        raise ValueError(f"{who}: {path} says that it has {rate:,} samples per second")
    return rate, samples.reshape(len(samples), -1).mean(1)


def in_fractions(samples: np.ndarray) -> np.ndarray:
    """Return samples of integers as floats in [-1, 1]; floats stay as they are.

    Example:
      >>> in_fractions(np.array([-32768, 0, 16384], np.int16)), in_fractions(np.array([64], "u1"))
      (array([-1. ,  0. ,  0.5]), array([-0.5]))
    """
    if samples.dtype.kind == "f":
        return samples
    if samples.dtype == np.uint8:
        return samples / 128 - 1
    return samples / (np.iinfo(samples.dtype).max + 1)


def resampled(wave: np.ndarray, rate: int, to: int) -> np.ndarray:
    """Return a wave with another number of samples per second, without what is too high for it.

    Example:
      >>> wave = np.sin(2 * np.pi * np.arange(400) / 40)  # ten periods
      >>> resampled(wave, 8000, 16_000)[401:405].round(2)
      array([0.08, 0.16, 0.23, 0.31])
    """
    from scipy.signal import resample_poly  # slow to import, and JAX depends on scipy

    common = math.gcd(rate, to)
    return resample_poly(wave, to // common, rate // common)
