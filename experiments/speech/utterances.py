"""Utterances as sequences of features: single digits, and strings of digits joined from them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from jaxnet.data import Recordings, Strings

RATE = 8000  # samples per second
HOP = 0.01  # seconds between frames
WINDOW = 0.025  # seconds per frame


class Utterances(NamedTuple):
    """Features of n utterances with their transcripts.

    Fields:
      features: List of n arrays (frames, 39).
      digits: List of n integer arrays, the spoken digits.
      places: List of n arrays (frames,), the index of the digit of each frame; -1 in a gap.
      speakers: Names (n,).
    """

    features: list[np.ndarray]
    digits: list[np.ndarray]
    places: list[np.ndarray]
    speakers: np.ndarray

    def take(self, rows: Any) -> "Utterances":
        chosen = np.arange(len(self.features))[rows]
        features, digits, places = ([part[i] for i in chosen] for part in self[:3])
        return Utterances(features, digits, places, self.speakers[chosen])


def concatenate(a: Utterances, b: Utterances) -> Utterances:
    features, digits, places = (x + y for x, y in zip(a[:3], b[:3], strict=True))
    return Utterances(features, digits, places, np.concatenate([a.speakers, b.speakers]))


def features(waves: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return MFCCs with first and second differences: 39 numbers every 10 ms."""
    return jn.data.mfcc(waves, rate=RATE, window=WINDOW, hop=HOP)


def isolated(recordings: Recordings) -> Utterances:
    """Return one digit per utterance, in all of its frames."""
    found = features(recordings.waves)
    places = [np.zeros(len(f), int) for f in found]
    return Utterances(found, list(recordings.digits[:, None]), places, recordings.speakers)


def connected(strings: Strings) -> Utterances:
    """Return utterances of several digits, with the place of each."""
    found = features(strings.waves)
    places = [piece_of_frames(p, len(f)) for p, f in zip(strings.places, found, strict=True)]
    return Utterances(found, strings.digits, places, strings.speakers)


def piece_of_frames(places: np.ndarray, frames: int) -> np.ndarray:
    """Return the recording at the center of each frame (frames,), of places (recordings, 2)."""
    middle = np.arange(frames) * round(HOP * RATE) + round(WINDOW * RATE) / 2
    out = np.full(frames, -1)
    for i, (start, stop) in enumerate(places):
        out[(middle >= start) & (middle < stop)] = i
    return out


def padded(arrays: list[np.ndarray], multiple: int = 64) -> tuple[jax.Array, jax.Array]:
    """Return one array (n, time, ...) and lengths (n,); time is a multiple, to have few shapes."""
    longest = max(map(len, arrays))
    x, lengths = jn.data.pad(arrays, length=-(-longest // multiple) * multiple)
    return jnp.asarray(x), jnp.asarray(lengths)
