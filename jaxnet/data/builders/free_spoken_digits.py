"""The Free Spoken Digit Dataset, version 1.0.10: recordings of ten digits by six speakers."""

import io
import wave
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from jaxnet.data.builders.remote import Origin, Remote, builder_class, contents

ORIGIN = Origin(
    what="3,000 recordings of spoken digits by six speakers, 8 kHz",
    home="https://github.com/Jakobovski/free-spoken-digit-dataset",
    terms="CC BY-SA 4.0",
    size=15_608_098,
)
ARCHIVE = Remote(
    f"{ORIGIN.home}/archive/d6938f9bf1545aa66d8489fc9f1385a7abd64282.tar.gz",
    sha256="04e1baae96c6a26e39c623f2b01d0182ddae627ba0ac02a3cdc17ba2af99fd9b",
    inside=r"recordings/\d_\w+_\d+\.wav",
)
RATE = 8000  # samples per second
HELD_OUT = 5  # recordings 0 to 4 of each digit and speaker are the test


def builder() -> type:
    """Return the class of builders, with features audio, label, speaker and recording.

    Raises:
      ImportError: If tensorflow-datasets is not installed.

    Example:
      >>> digits = builder()  # doctest: +SKIP
      >>> digits(data_dir="datasets", file_format="array_record").download_and_prepare()
      ... # doctest: +SKIP

    Source: Jackson et al., "Free Spoken Digit Dataset".
    """
    who = "free_spoken_digits"

    def examples(files: dict[str, bytes], part: str) -> Iterator:
        for path, data in files.items():
            name = PurePosixPath(path).stem  # digit_speaker_number
            digit, speaker, number = name.split("_")
            if (int(number) < HELD_OUT) == (part == "test"):
                labels = {"label": int(digit), "speaker": speaker, "recording": int(number)}
                yield name, {"audio": samples(path, data), **labels}

    def splits(downloads: Path) -> dict[str, Iterator]:
        files = contents(who, ARCHIVE, downloads, ORIGIN.size)
        return {part: examples(files, part) for part in ("train", "test")}

    def features(of):
        return {
            "audio": of.Tensor(shape=(None,), dtype=np.int16),
            "label": of.ClassLabel(num_classes=10),
            "speaker": of.Text(),
            "recording": of.Scalar(dtype=np.int64),
        }

    title, keys = "Free Spoken Digit Dataset,", ("audio", "label")
    return builder_class(who, ORIGIN, title, features, keys, splits, sample_rate=RATE)


def samples(path: str, data: bytes) -> np.ndarray:
    """Return the samples (samples,) of a WAV file of one channel, 16 bits and 8 kHz, as int16.

    Raises:
      ValueError: If the file has a different format; the message names the path.

    Example:
      >>> samples("0_anna_0.wav", b"RIFF")
      Traceback (most recent call last):
      ...
      ValueError: free_spoken_digits: 0_anna_0.wav is not a WAV file of 16 bits, 8000 Hz and ...
    """
    try:
        with wave.open(io.BytesIO(data)) as file:
            form = file.getparams()[:3]
            frames = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        form = repr(error)
        frames = b""
    if form != (1, 2, RATE):
        raise ValueError(
            f"free_spoken_digits: {path} is not a WAV file of 16 bits, {RATE} Hz and one channel: "
            f"{form}"
        )
    return np.frombuffer(frames, "<i2").astype(np.int16)
