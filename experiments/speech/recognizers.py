"""The systems under one interface, trained one after another, and their errors."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxnet as jn
from experiments.speech.chains import (
    Chains,
    best_paths,
    digits_of,
    fit_chains,
    most_probable_digit,
    segments,
)
from experiments.speech.config import Config
from experiments.speech.nets import (
    STRIDE,
    Scores,
    ctc_trainer,
    frame_trainer,
    many_labels,
    one_label,
)
from experiments.speech.utterances import Utterances, padded
from jaxnet.unsupervised import hmm

GMM, PRETRAINED = "HMM, mixtures", "HMM, RBM net"
PLAIN, CTC = "HMM, plain net", "LSTM, CTC"
PENALTIES = (0.0, 10.0, 20.0, 40.0)  # word insertion penalties that --validation compares


class Recognizer(NamedTuple):
    """A trained system.

    Fields:
      digit: features of n utterances -> (n,), the digit, given that exactly one is spoken.
      string: features of n utterances -> n lists of digits.
      align: features of one utterance -> segments; empty for the LSTM.
      posterior: features of one utterance -> (steps, 11); None for the others.
    """

    digit: Callable[[list[np.ndarray]], np.ndarray]
    string: Callable[[list[np.ndarray]], list[list[int]]]
    align: Callable[[np.ndarray], list[tuple[str, float, float]]] = lambda one: []
    posterior: Callable[[np.ndarray], Any] = lambda one: None


def from_chains(chains: Chains, scores: Scores, penalty: float) -> Recognizer:
    """Viterbi search over the chains, with the scores of mixtures or of a net."""

    def paths(features):
        return best_paths(chains, *scores(features), penalty)

    return Recognizer(
        lambda features: most_probable_digit(chains, *scores(features)),
        lambda features: digits_of(chains, paths(features)),
        align=lambda one: segments(chains, paths([one])[0]),
    )


def from_labels(logits: Scores) -> Recognizer:
    """Connectionist temporal classification."""
    return Recognizer(
        lambda features: np.asarray(one_label(*logits(features))),
        lambda features: many_labels(*logits(features)),
        posterior=lambda one: np.asarray(jax.nn.softmax(logits([one])[0][0]))[: len(one) // STRIDE],
    )


class Systems:
    """Trains all systems; the networks of all runs share compiled programs."""

    def __init__(self, config: Config):
        self.config = config
        self.train_frames, self.train_ctc = frame_trainer(config), ctc_trainer(config)

    def train(
        self, seed: int, data: Utterances, *, plain: bool
    ) -> Iterator[tuple[str, Recognizer]]:
        """Each system by its name; `plain` includes the frame classifier without pretraining."""
        config = self.config
        emission = hmm.gaussian_mixture(config.mixtures)
        chains, alignment = fit_chains(jax.random.key(seed), data, config)

        def mixtures(features):
            x, lengths = padded(features)
            return emission.score(chains.emission, x), lengths

        yield from self._with_penalties(GMM, chains, mixtures, config.penalty)
        for name in (PRETRAINED, PLAIN) if plain else (PRETRAINED,):
            scores = self.train_frames(seed, data, alignment, name == PRETRAINED)
            yield from self._with_penalties(name, chains, scores, config.net_penalty)
        yield CTC, from_labels(self.train_ctc(seed, data))

    def _with_penalties(self, name: str, chains: Chains, scores: Scores, penalty: float):
        yield name, from_chains(chains, scores, penalty)
        for p in PENALTIES if self.config.validation else ():
            yield f"{name}, penalty {p:g}", from_chains(chains, scores, p)


def error_rates(
    recognizer: Recognizer, single: Utterances, strings: Utterances
) -> tuple[float, float]:
    """Share of single digits misrecognized, and edits per digit of strings."""
    wrong = recognizer.digit(single.features) != np.concatenate(single.digits)
    truth = [d.tolist() for d in strings.digits]
    return float(wrong.mean()), jn.metrics.edit_error_rate(
        recognizer.string(strings.features), truth
    )
