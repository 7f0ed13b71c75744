"""Recordings of spoken digits, strings of digits, and acoustic features.

A wave is an array (samples,) of signed integers or floats; waves of different lengths are a list.
The features of a wave are an array (frames, features); `pad` and `bucketed` make batches of a list
of such arrays.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.data import tfds
from jaxnet.services import checks
from jaxnet.services.extras import extra

_RATE = 8000
"""Samples per second of `spoken_digits`."""
QUIET = 0.02  # seconds per block in the estimate of a recording's noise
DELTA_FRAMES = 9  # frames per slope
RANGE = 60  # decibels from the largest to the smallest power of a wave


class Recordings(NamedTuple):
    """Recordings of single digits.

    Fields:
      waves: List of n arrays (samples,) of different lengths.
      digits: Spoken digits (n,), int32.
      speakers: Names of the speakers (n,).
      numbers: Numbers (n,) of the recordings of a digit and speaker.
    """

    waves: list[np.ndarray]
    digits: np.ndarray
    speakers: np.ndarray
    numbers: np.ndarray

    def take(self, rows: Any) -> "Recordings":
        """Return a subset of the recordings.

        Args:
          rows: Integers, or n booleans.

        Example:
          >>> waves = [np.zeros(3), np.zeros(5)]
          >>> both = Recordings(waves, np.array([7, 1]), np.array(["a", "b"]), np.array([0, 0]))
          >>> both.take(both.speakers == "b").digits.tolist()
          [1]
        """
        places = np.arange(len(self.waves))[rows]
        waves = [self.waves[i] for i in places]
        return Recordings(waves, self.digits[places], self.speakers[places], self.numbers[places])


def spoken_digits(
    split: str, *, data_dir: str | Path | None = None, download: bool = False
) -> Recordings:
    """Load the Free Spoken Digit Dataset: ten digits, six speakers, 16-bit samples at 8 kHz.

    The test split has recordings 0 to 4 of each digit and speaker, the training split recordings 5
    to 49 of the same six speakers. The loudness of recordings varies by a factor of ten; there is
    no silence before or after the word.

    Args:
      split: Name of the split, "train" (2,700) or "test" (300), or a part of one, see `tfds.load`.
      data_dir: Folder of the datasets, see `tfds.load`.
      download: Whether to download missing data (16 MB, CC BY-SA 4.0), see `tfds.load`.

    Returns:
      `Recordings`: waves, digits, speakers and numbers.

    Raises:
      ImportError, FileNotFoundError, ValueError: As in `tfds.load`.

    Example:
      >>> train = spoken_digits("train")  # doctest: +SKIP
      >>> len(train.waves), train.waves[0].dtype  # doctest: +SKIP
      (2700, dtype('int16'))
    """
    data = tfds.load("free_spoken_digits", split, data_dir=data_dir, download=download)
    digits = data["label"].astype(np.int32)
    speakers = np.array(data["speaker"])
    return Recordings(data["audio"], digits, speakers, np.asarray(data["recording"]))


class Strings(NamedTuple):
    """Strings of digits, concatenated from recordings.

    Fields:
      waves: List of n arrays (samples,).
      digits: List of n arrays of the spoken digits, int32.
      speakers: Names of the speakers (n,).
      rows: List of n arrays of indices of the recordings.
      places: List of n arrays (digits, 2): the first sample of each recording, and the sample after
        its last.
    """

    waves: list[np.ndarray]
    digits: list[np.ndarray]
    speakers: np.ndarray
    rows: list[np.ndarray]
    places: list[np.ndarray]


def digit_strings(
    recordings: Recordings,
    count: int,
    *,
    seed: int,
    digits: tuple[int, int] = (3, 7),
    gap: tuple[float, float] = (0.02, 0.1),
    rate: float = _RATE,
) -> Strings:
    """Concatenate recordings into strings of digits, with short gaps around each recording.

    A string has one speaker. A gap contains noise at the level of the quietest part of the previous
    recording, or of the first recording at the beginning. All recordings of a speaker are used once
    before one is used again. For test strings pass recordings of the test split.

    Args:
      recordings: Recordings to concatenate.
      count: Number of strings, at least 1.
      seed: Seed of the draw; the same seed gives the same strings.
      digits: Smallest and largest number of digits per string, drawn uniformly.
      gap: Shortest and longest gap, in seconds.
      rate: Number of samples per second.

    Returns:
      `Strings`: the waves, their digits and speakers, and where each digit begins and ends.

    Raises:
      TypeError: If `recordings` are not `Recordings`, or if an option has the wrong type.
      ValueError: If `recordings` are empty, or if `count` is below 1.
      ValueError: If a range is empty.

    Example:
      >>> waves = [np.arange(3, dtype=np.int16), np.full(5, 7, np.int16)]
      >>> two = Recordings(waves, np.array([4, 2]), np.array(["a", "a"]), np.array([0, 0]))
      >>> strings = digit_strings(two, 1, seed=0, digits=(2, 2), gap=(0, 0))
      >>> sorted(strings.digits[0].tolist()), len(strings.waves[0])
      ([2, 4], 8)
    """
    checks.check_type("digit_strings", "recordings", recordings, Recordings, "Recordings")
    checks.at_least("digit_strings", "count", count)
    checks.at_least("digit_strings", "seed", seed, 0)
    if not len(recordings.waves):
        raise ValueError("digit_strings: expected recordings, got none")
    checks.check_tuple("digit_strings", "digits", digits, "(smallest, largest)")
    checks.check_tuple("digit_strings", "gap", gap, "(smallest, largest)")
    for i in (0, 1):
        checks.at_least("digit_strings", f"digits[{i}]", digits[i])
        checks.within("digit_strings", f"gap[{i}]", gap[i], "[0, inf)")
    fewest, most = digits
    shortest, longest = gap
    if fewest > most or shortest > longest:
        raise ValueError(
            f"digit_strings: digits and gap must be (smallest, largest), got digits={digits} "
            f"and gap={gap}"
        )
    _check_frames("digit_strings", rate, 1.0, 1.0)
    for i, wave in enumerate(recordings.waves):
        _check_wave("digit_strings", i, wave, 1)
    spoken = checks.on_host("digit_strings", "the digits", recordings.digits, "(n,)", "integers")
    rng = np.random.default_rng(seed)
    names = np.unique(recordings.speakers)
    recorded = {name: np.flatnonzero(recordings.speakers == name) for name in names}
    left: dict[Any, list[int]] = {name: [] for name in names}  # not yet used in this round
    out = Strings([], [], rng.choice(names, count), [], [])
    for speaker in out.speakers:
        rows = []
        for _ in range(rng.integers(fewest, most + 1)):
            if not left[speaker]:
                left[speaker] = rng.permutation(recorded[speaker]).tolist()
            rows.append(left[speaker].pop())
        waves = [recordings.waves[row] for row in rows]
        wave, places = _joined(rng, waves, gap, rate)
        out.waves.append(wave)
        out.digits.append(spoken[rows])
        out.rows.append(np.array(rows))
        out.places.append(places)
    return out


def _joined(
    rng: np.random.Generator, waves: list[np.ndarray], gap: tuple[float, float], rate: float
) -> tuple[np.ndarray, np.ndarray]:
    """Join recordings with gaps around them, and return where each begins and ends."""
    pieces = [_silence(rng, waves[0], gap, rate)]
    for wave in waves:
        pieces += [wave, _silence(rng, wave, gap, rate)]
    ends = np.cumsum([len(piece) for piece in pieces])
    places = np.stack([ends[:-1:2], ends[1::2]], 1)
    return np.concatenate(pieces), places


def _silence(
    rng: np.random.Generator, wave: np.ndarray, gap: tuple[float, float], rate: float
) -> np.ndarray:
    """Draw a gap, with noise as in the quietest part of a wave."""
    noise = _noise(wave, rate)
    samples = int(rate * rng.uniform(*gap))
    silence = rng.normal(0, noise, samples)
    if np.issubdtype(wave.dtype, np.integer):
        silence = np.rint(silence)
    return silence.astype(wave.dtype)


def _noise(wave: np.ndarray, rate: float) -> float:
    """Return the standard deviation of the quietest 20 ms."""
    size = min(len(wave), max(1, int(QUIET * rate)))
    used = len(wave) // size * size
    blocks = wave[:used].astype(float).reshape(-1, size)
    return float(blocks.std(1).min())


def log_mel(
    waves: Sequence[Any],
    *,
    rate: float,
    window: float = 0.025,
    hop: float = 0.01,
    bands: int = 40,
    deltas: int = 0,
    normalize: bool = True,
) -> list[np.ndarray]:
    """Return log-mel features: the logarithm of the power in mel bands, per frame.

    There are 1 + (samples - window) // hop frames, each a Hamming window inside the wave. Power
    that is more than 60 dB below the maximum of the wave is raised to that level. Normalized
    features do not depend on the volume of the wave. A silent wave has constant features, which are
    0 after normalization. They are computed in NumPy, so they have no derivatives. The first call
    after an installation takes 10 to 20 seconds, because librosa compiles its functions once.

    Args:
      waves: Arrays (samples,) of signed integers or floats; for a single wave pass [wave].
      rate: Number of samples per second, which the waves do not contain; a wrong rate gives wrong
        bands.
      window: Length of a frame in seconds.
      hop: Distance between frames in seconds.
      bands: Number of triangular filters on Slaney's mel scale, from 0 to half the rate.
      deltas: Order of the derivatives, from 0 to 2: 1 appends first derivatives over time, 2 second
        derivatives as well, each from a polynomial fit over 9 frames.
      normalize: Whether each feature has mean 0 and variance 1 over the frames of each wave.

    Returns:
      For each wave a float32 array (frames, bands * (1 + deltas)).

    Raises:
      ImportError: If librosa is not installed.
      TypeError: If `waves` is not a list of arrays of signed integers or floats.
      ValueError: If a wave has channels, is shorter than a window, or has NaN or Inf.
      ValueError: If an option is out of range.

    Example:
      >>> wave = np.random.default_rng(0).normal(size=4000)  # half a second
      >>> features = log_mel([wave, wave[:1500]], rate=8000, bands=20)
      >>> [f.shape for f in features]
      [(48, 20), (17, 20)]

    Reference: Davis and Mermelstein 1980, "Comparison of parametric representations for
    monosyllabic word recognition".
    """
    return _features("log_mel", waves, rate, window, hop, bands, deltas, normalize)


def mfcc(
    waves: Sequence[Any],
    *,
    rate: float,
    window: float = 0.025,
    hop: float = 0.01,
    bands: int = 40,
    coefficients: int = 13,
    deltas: int = 2,
    normalize: bool = True,
) -> list[np.ndarray]:
    """Return mel-frequency cepstral coefficients, the first of a DCT of `log_mel`.

    They are nearly uncorrelated, as Gaussians with diagonal covariances assume. As `log_mel`, they
    have no derivatives.

    Args:
      waves, rate, window, hop, bands, normalize: As in `log_mel`.
      coefficients: Number of coefficients of the orthonormal DCT-II to keep, at most `bands`.
      deltas: As in `log_mel`; the default 2 and 13 coefficients give the usual 39 features.

    Returns:
      For each wave a float32 array (frames, coefficients * (1 + deltas)).

    Raises:
      ImportError, TypeError, ValueError: As in `log_mel`.

    Example:
      >>> wave = np.random.default_rng(0).normal(size=4000)
      >>> [f.shape for f in mfcc([wave, wave[:1500]], rate=8000)]
      [(48, 39), (17, 39)]

    Reference: Davis and Mermelstein 1980, "Comparison of parametric representations for
    monosyllabic word recognition".
    """
    checks.at_least("mfcc", "bands", bands)
    checks.between("mfcc", "coefficients", coefficients, 1, bands, "the number of bands")
    return _features("mfcc", waves, rate, window, hop, bands, deltas, normalize, coefficients)


def _features(
    who: str, waves, rate, window, hop, bands, deltas, normalize, coefficients: int | None = None
) -> list[np.ndarray]:
    size, step = _check_frames(who, rate, window, hop)
    checks.at_least(who, "bands", bands)
    checks.one_of(who, "deltas", deltas, [0, 1, 2])
    checks.check_options(who, normalize=normalize)
    hint = "for a single wave pass [wave]"
    checks.check_not_traced(who, "waves", waves)
    checks.check_type(who, "waves", waves, list | tuple, "a list of arrays (samples,)", hint)
    waves = [_check_wave(who, i, wave, size) for i, wave in enumerate(waves)]
    librosa = extra("librosa", "librosa", who, "speech")
    points = 2 ** (2 * size - 1).bit_length()  # fine enough to resolve the lowest bands
    # librosa would warn of an empty band. A band reaches from the middle of the one below to the
    # middle of the one above.
    edges = librosa.mel_frequencies(bands + 2, fmax=rate / 2)  # (bands + 2,)
    known = librosa.fft_frequencies(sr=rate, n_fft=points)  # (frequencies,)
    inside = (edges[:-2, None] < known) & (known < edges[2:, None])  # (bands, frequencies)
    if not inside.any(1).all():
        raise ValueError(
            f"{who}: {bands} bands are too many for windows of {size} samples: some contain no "
            "frequency; use fewer bands or a longer window"
        )
    triangles = librosa.filters.mel(sr=rate, n_fft=points, n_mels=bands)

    def of_wave(wave: np.ndarray) -> np.ndarray:
        before = (points - size) // 2  # librosa centers the window
        wave = np.pad(wave, (before, points - size - before))
        sizes = {"n_fft": points, "hop_length": step, "win_length": size}
        spectrum = librosa.stft(wave, window="hamming", center=False, **sizes)  # (bins, frames)
        power = triangles @ (spectrum.real**2 + spectrum.imag**2)  # (bands, frames)
        least = max(float(power.max()) * 10 ** (-RANGE / 10), np.finfo(np.float32).tiny)
        out = np.log(np.maximum(power, least))
        if coefficients is not None:
            out = librosa.feature.mfcc(S=out, n_mfcc=coefficients)  # (coefficients, frames)
        options = {"width": DELTA_FRAMES, "mode": "nearest"}
        slopes = [librosa.feature.delta(out, order=i + 1, **options) for i in range(deltas)]
        out = np.concatenate([out, *slopes]).T.astype(np.float64)  # (frames, features)
        if normalize:
            out = out - out.mean(0)
            spread = out.std(0)
            out = out / np.where(spread > 1e-6, spread, 1)
        return out.astype(np.float32)

    return [of_wave(wave) for wave in waves]


def _check_frames(who: str, rate: Any, window: float, hop: float) -> tuple[int, int]:
    """Return the numbers of samples of a window and of a hop."""
    checks.within(who, "rate", rate, "(0, inf)", "in samples per second")
    checks.all_within(who, "(0, inf)", window=window, hop=hop)
    if not (window * rate >= 2 and hop * rate >= 1 and max(window, hop) < np.inf):
        raise ValueError(
            f"{who}: window and hop are in seconds. The window must cover at least 2 samples and "
            f"the hop at least 1, got {window} and {hop} at {rate} samples per second"
        )
    return round(window * rate), round(hop * rate)


def _check_wave(who: str, i: int, wave: Any, size: int) -> np.ndarray:
    """Return the wave as float32, with integers scaled to [-1, 1]."""
    kind = getattr(wave, "dtype", None)
    if not (isinstance(kind, np.dtype) and kind.kind in "fi"):
        raise TypeError(
            f"{who}: a wave must be an array of signed integers or floats, got for wave {i} "
            f"{type(wave).__name__ if kind is None else kind}"
        )
    checks.check_not_traced(who, f"wave {i}", wave)
    checks.check_mask(who, f"wave {i}", wave)
    wave = np.asarray(wave)
    if wave.ndim != 1:
        raise ValueError(
            f"{who}: a wave must have shape (samples,), got {wave.shape} for wave {i}; for several "
            "channels pass their mean"
        )
    if len(wave) < size:
        hint = "" if size == 1 else "; pad it with silence to one window, or drop it"
        raise ValueError(
            f"{who}: a wave must have at least {size} samples, got {len(wave)} for wave {i}{hint}"
        )
    if not np.isfinite(wave).all():
        raise ValueError(f"{who}: wave {i} contains NaN or Inf. Leave it out, or repair its file")
    if kind.kind == "i":
        largest = -float(np.iinfo(kind).min)
        return (wave / largest).astype(np.float32)
    return wave.astype(np.float32)
