"""Metrics of text: bits per character, edit distance, word and character error rates."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxnet.services.checks import as_array


def bits_per_character(nats: Any) -> Any:
    """Convert a mean cross-entropy from nats, the unit of optax, to bits: nats / ln 2.

    Args:
      nats: Number or array.

    Returns:
      A number for a number, an array for an array.

    Raises:
      TypeError: If `nats` is neither a number nor an array.

    Example:
      >>> round(bits_per_character(math.log(27)), 3)  # uniform over 26 letters and a space
      4.755
    """
    if not isinstance(nats, int | float):
        nats = as_array("bits_per_character", "nats", nats, dtype="reals")
    return nats / math.log(2)


def edit_distance(predicted: Sequence[Any], true: Sequence[Any]) -> int:
    """Return the least number of edits that turn one sequence into another.

    An edit is an insertion, a deletion or a substitution. The function runs on the host, in NumPy.

    Args:
      predicted, true: Strings, lists of words, or arrays of labels.

    Returns:
      The number of edits, 0 if the sequences are equal.

    Raises:
      TypeError: If `predicted` or `true` is not a sequence.

    Example:
      >>> edit_distance("sitting", "kitten")
      3

    Reference: Levenshtein 1966, "Binary codes capable of correcting deletions, insertions, and
    reversals".
    """
    _check_sequence("edit_distance", "predicted", predicted)
    _check_sequence("edit_distance", "true", true)
    column = np.arange(len(true) + 1)
    row = column  # row[j]: distance between the entries of `predicted` read so far and true[:j]
    for i, entry in enumerate(predicted, start=1):
        differs = np.array([entry != other for other in true], dtype=int)
        best = np.minimum(row[1:] + 1, row[:-1] + differs)
        best = np.concatenate([[i], best])
        # An insertion adds 1 to the entry on the left: a running minimum after subtracting j.
        row = np.minimum.accumulate(best - column) + column
    return int(row[-1])


def edit_error_rate(predicted: Sequence[Sequence], true: Sequence[Sequence]) -> float:
    """Return the total edit distance over the total true length.

    This is the word, phone or character error rate. It exceeds 1 if predictions are much longer
    than the truth.

    Args:
      predicted: Sequences, such as strings, lists of words or arrays of labels.
      true: Sequences, one per prediction.

    Returns:
      A number of at least 0.

    Raises:
      TypeError: If `predicted` or `true` is a single string or not a sequence of sequences.
      ValueError: If the numbers of sequences differ.
      ValueError: If all true sequences are empty.

    Example:
      >>> edit_error_rate(["sitting", "ab"], ["kitten", "abcd"])
      0.5
    """
    for what, sequences in (("predicted", predicted), ("true", true)):
        array = isinstance(sequences, np.ndarray | jax.Array) and sequences.ndim
        if isinstance(sequences, str) or not (array or isinstance(sequences, Sequence)):
            raise TypeError(
                f"edit_error_rate: {what} must be a list of sequences, got {sequences!r:.60}; for "
                "a single one, write [x]"
            )
        for i, sequence in enumerate(sequences):
            _check_sequence("edit_error_rate", f"{what}[{i}]", sequence)
    if len(predicted) != len(true):
        raise ValueError(
            "edit_error_rate: expected one prediction per true sequence, got "
            f"{len(predicted)} and {len(true)}"
        )
    length = sum(len(sequence) for sequence in true)
    if not length:
        raise ValueError("edit_error_rate: all true sequences are empty, so no rate is defined")
    return sum(map(edit_distance, predicted, true)) / length


def _check_sequence(who: str, what: str, value: Any) -> None:
    if not isinstance(value, str | Sequence) and getattr(value, "ndim", None) != 1:
        raise TypeError(
            f"{who}: {what} must be a string, a list or an array (n,), got {value!r:.60}"
        )
