"""Language models that count: how well n - 1 letters of plays predict the next one.

Claim: interpolated counts come within half a bit of the LSTM, and longer contexts stop to help
where the text is too short to fill them.

The model of n letters mixes its counts with the model of n - 1 letters (Witten and Bell 1991). A
context that had many different successors trusts its counts less:

    p(c | context) = (count(context c) + successors(context) p(c | shorter context))
                     / (count(context) + successors(context))

There is nothing to choose, so the validation split is not used.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

import jaxnet as jn
from experiments.common import Data, Output, Short, main, save
from experiments.records import Command, Picture, Record, lower

RECORDS = (
    Record(
        topic="sequences",
        title="Counting four letters back predicts plays a quarter of a bit worse than an LSTM",
        verdict="Supported",
        sentence=(
            "A model that counts which letter follows the last four needs 2.550 bits per character "
            "of the test plays, and the "
            "[LSTM](#an-lstm-and-a-gru-predict-characters-better-than-a-plain-rnn) 2.298. With "
            "five letters back the counts fit their own plays better and the test plays worse."
        ),
        columns=(
            "letters in a count",
            *lower("test plays (bits per character)", "counted plays (bits)"),
            "different contexts",
        ),
        rows=(
            ("one", "4.850", "4.774", "1"),
            ("two", "3.604", "3.538", "65"),
            ("three", "3.037", "2.750", "1,380"),
            ("four", "2.680", "2.167", "11,228"),
            ("five", "2.550", "1.794", "48,539"),
            ("six", "2.605", "1.492", "133,293"),
        ),
        commands=(Command("", 10, "2.1 s of CPU"),),
        seeds=1,
        key="2.550 bits per character, LSTM 2.298",
        baseline="one",
        note="The LSTM's 2.298 bits are of `experiments.shakespeare`.",
        pictures=(Picture("ngrams.png", "Bits per character against the letters in a count"),),
        lesson=11,
    ),
)


@dataclass(frozen=True)
class Config(Data, Output):
    """Counts the letters of plays and predicts other plays."""

    output: Path = Path("runs/ngrams")
    longest: int = 6
    """largest number of letters that are counted together"""


class Results(NamedTuple):
    """Bits per character.

    Fields:
      bits: Bits per character of each split, split -> (longest,).
      pictures: Files written.
    """

    bits: dict[str, np.ndarray]
    pictures: list[Path]


def run(config: Config) -> Results:
    """Count, print bits per character, and draw them."""
    texts = {
        part: jn.data.tfds.load("tiny_shakespeare", part, data_dir=config.data_dir)["text"][0]
        for part in ("train", "test")
    }
    vocabulary = jn.data.characters(texts["train"])
    tokens = {part: vocabulary.encode(text) for part, text in texts.items()}
    tables = count(tokens["train"], config.longest, vocabulary.size)
    bits = {
        part: np.array([-np.log2(p).mean() for p in probabilities(tables, given, vocabulary.size)])
        for part, given in tokens.items()
    }
    rows = [
        (f"{n + 1}", f"{len(tables[n].contexts):,}", *(f"{bits[part][n]:.3f}" for part in bits))
        for n in range(config.longest)
    ]
    print(jn.Table("bits per character", ("letters", "contexts", *bits), rows))
    curves = {"test plays": bits["test"], "plays that were counted": bits["train"]}
    letters = np.arange(1, config.longest + 1)
    figure = jn.viz.curves({"bits per character": curves}, x=letters, xlabel="letters in a count")
    return Results(bits, save({"ngrams": figure}, config.output))


class Counts(NamedTuple):
    """Counts of n letters; letters are numbers in the base of the vocabulary's size.

    Fields:
      grams: Different strings of n letters, sorted, (grams,).
      times: How often each occurs, (grams,).
      contexts: Different strings of n - 1 letters that a letter follows, sorted, (contexts,).
      followed: How often a letter follows each, (contexts,).
      successors: Number of different letters that follow each, (contexts,).
    """

    grams: np.ndarray
    times: np.ndarray
    contexts: np.ndarray
    followed: np.ndarray
    successors: np.ndarray


def count(tokens: np.ndarray, longest: int, size: int) -> list[Counts]:
    """Return the counts of 1, 2, ... letters of a text, in a vocabulary of this size."""
    tables = []
    for n in range(1, longest + 1):
        grams, times = np.unique(strings(tokens, n, size), return_counts=True)
        contexts, first, successors = np.unique(
            grams // size, return_index=True, return_counts=True
        )
        tables.append(Counts(grams, times, contexts, np.add.reduceat(times, first), successors))
    return tables


def probabilities(tables: list[Counts], tokens: np.ndarray, size: int) -> list[np.ndarray]:
    """Return the probability of each letter of a text, (letters,), by each table's model.

    The first letters of a text, which have a shorter context, have the shorter model's probability.
    """
    models, p = [], np.full(len(tokens), 1 / size)
    for n, table in enumerate(tables, 1):
        grams, shorter = strings(tokens, n, size), p[n - 1 :]
        times = found(table.grams, table.times, grams)
        followed = found(table.contexts, table.followed, grams // size)
        # A context that never occurred has the shorter model alone.
        weight = np.maximum(found(table.contexts, table.successors, grams // size), 1)
        p = np.concatenate([p[: n - 1], (times + weight * shorter) / (followed + weight)])
        models.append(p)
    return models


def strings(tokens: np.ndarray, n: int, size: int) -> np.ndarray:
    """Return all strings of n letters of a text as numbers, (letters - n + 1,)."""
    numbers = np.zeros(len(tokens) - n + 1, np.int64)
    for i in range(n):
        numbers = size * numbers + tokens[i : i + len(numbers)]
    return numbers


def found(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the value of each wanted key; 0 for a key that is not there."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)


SHORT = Short({"longest": 3})


if __name__ == "__main__":
    main(Config, run)
