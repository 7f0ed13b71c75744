"""The systems under one interface, trained one after another, and their errors."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxnet as jn
from experiments.speech import chains, nets
from experiments.speech.config import Config
from experiments.speech.utterances import Utterances, padded
from jaxnet.unsupervised import hmm

GMM, PRETRAINED = "HMM, mixtures", "HMM, RBM net"
PLAIN, CTC = "HMM, plain net", "LSTM, CTC"
PENALTIES = (0.0, 10.0, 20.0, 40.0)  # word insertion penalties that --validation compares


class Recognizer(NamedTuple):
    """A trained system.

    Fields:
      digit: Function from features of n utterances to digits (n,), given that each has exactly one
        digit.
      string: Function from features of n utterances to n lists of digits.
      align: Function from features of one utterance to segments; empty for the LSTM.
      posterior: Function from features of one utterance to probabilities (steps, 11); None for the
        other recognizers.
    """

    digit: Callable[[list[np.ndarray]], np.ndarray]
    string: Callable[[list[np.ndarray]], list[list[int]]]
    align: Callable[[np.ndarray], list[tuple[str, float, float]]] = lambda one: []
    posterior: Callable[[np.ndarray], Any] = lambda one: None


def from_chains(digits: chains.Chains, scores: nets.Scores, penalty: float) -> Recognizer:
    """Return Viterbi search over the chains, with the scores of mixtures or of a net."""

    def paths(features):
        return chains.best_paths(digits, *scores(features), penalty)

    return Recognizer(
        lambda features: chains.most_probable_digit(digits, *scores(features)),
        lambda features: chains.digits_of(digits, paths(features)),
        align=lambda one: chains.segments(digits, paths([one])[0]),
    )


def from_labels(logits: nets.Scores) -> Recognizer:
    """Return the recognizer by connectionist temporal classification."""

    def posterior(one):
        return np.asarray(jax.nn.softmax(logits([one])[0][0]))[: len(one) // nets.STRIDE]

    return Recognizer(
        lambda features: np.asarray(nets.one_label(*logits(features))),
        lambda features: nets.many_labels(*logits(features)),
        posterior=posterior,
    )


Train = Callable[..., Iterator[tuple[str, Recognizer]]]


def make_systems(config: Config) -> Train:
    """Return (seed, data, plain=...) -> the trained systems, one by one, with their names.

    `plain` includes the frame classifier without pretraining. The networks of all calls share
    compiled programs.
    """
    train_frames, train_ctc = nets.frame_trainer(config), nets.ctc_trainer(config)
    emission = hmm.gaussian_mixture(config.mixtures)

    def with_penalties(name, digits, scores, penalty):
        yield name, from_chains(digits, scores, penalty)
        for p in PENALTIES if config.validation else ():
            yield f"{name}, penalty {p:g}", from_chains(digits, scores, p)

    def train(seed: int, data: Utterances, *, plain: bool) -> Iterator[tuple[str, Recognizer]]:
        digits, alignment = chains.fit_chains(jax.random.key(seed), data, config)

        def mixtures(features):
            x, lengths = padded(features)
            return emission.score(digits.emission, x), lengths

        yield from with_penalties(GMM, digits, mixtures, config.penalty)
        for name in (PRETRAINED, PLAIN) if plain else (PRETRAINED,):
            scores = train_frames(seed, data, alignment, name == PRETRAINED)
            yield from with_penalties(name, digits, scores, config.net_penalty)
        yield CTC, from_labels(train_ctc(seed, data))

    return train


def error_rates(
    recognizer: Recognizer, single: Utterances, strings: Utterances
) -> tuple[float, float]:
    """Return the fraction of single digits misrecognized, and edits per digit of strings."""
    wrong = recognizer.digit(single.features) != np.concatenate(single.digits)
    truth = [d.tolist() for d in strings.digits]
    return float(wrong.mean()), jn.metrics.edit_error_rate(
        recognizer.string(strings.features), truth
    )
