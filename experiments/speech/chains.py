"""Hidden Markov models of ten digits and a silence, and the loop that recognizes strings."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from experiments.speech.config import Config
from experiments.speech.utterances import Utterances
from jaxnet.unsupervised import hmm

FRAMES = 80  # longer digits are left out of the training of hidden Markov models
SILENCE_FRAMES = 2048  # that train the silence


class Chains(NamedTuple):
    """Ten digits and a silence; states are numbered digit by digit, the silence is the last.

    Fields:
      chains: Logits "start" and "transition" of each digit, from left to right.
      emission: Gaussian mixtures of all states.
      stay: Probability of staying in the last state of each digit, and in the silence, (11,).
    """

    chains: list[dict[str, jax.Array]]
    emission: dict[str, jax.Array]
    stay: np.ndarray

    @property
    def states(self) -> int:
        """Number of states per digit."""
        return len(self.chains[0]["start"])

    @property
    def silence(self) -> int:
        return 10 * self.states

    def block(self, digit: int) -> slice:
        return slice(digit * self.states, (digit + 1) * self.states)


def fit_chains(key: jax.Array, data: Utterances, config: Config) -> tuple[Chains, list[np.ndarray]]:
    """Fit ten digits and a silence by Baum-Welch, and align frames with their states.

    Returns:
      the chains, and n arrays (frames,) with the most probable state of each frame; -1 if a frame
      was not used.
    """
    emission = hmm.gaussian_mixture(config.mixtures)
    fit = partial(
        hmm.fit_hmm,
        emission=emission,
        align=hmm.uniform_segments,
        iterations=config.iterations,
        progress=False,
    )
    alignment = [np.full(len(f), -1) for f in data.features]
    segments = [segments_of(data, digit, config.pieces) for digit in range(10)]
    rows = max(map(len, segments))  # one shape for all digits compiles once
    empty = np.zeros((0, data.features[0].shape[1]), np.float32)
    chains, emissions, stay = [], [], []
    for digit, own in enumerate(segments):
        cut = [data.features[i][frames] for i, frames in own]
        x, lengths = jn.data.pad(cut + [empty] * (rows - len(own)), length=FRAMES)
        params = fit(
            jax.random.fold_in(key, digit),
            x,
            config.states,
            lengths=lengths,
            start_init=hmm.first_state,
            transition_init=hmm.left_to_right(),
        )
        scores = emission.score(params["emission"], jnp.asarray(x))
        path = np.asarray(hmm.viterbi(params, scores, lengths)[0])
        for (i, frames), states in zip(own, path, strict=False):
            alignment[i][frames] = digit * config.states + states[: len(frames)]
        visits = (path == config.states - 1).sum(1)
        stay.append(_stay(visits[visits > 0].mean()))
        chains.append({"start": params["start"], "transition": params["transition"]})
        emissions.append(params["emission"])

    gaps = [f[places < 0] for f, places in zip(data.features, data.places, strict=True)]
    quiet = np.concatenate(gaps)
    some = quiet[np.linspace(0, len(quiet) - 1, SILENCE_FRAMES).astype(int)]
    emissions.append(fit(jax.random.fold_in(key, 10), some[None], 1)["emission"])
    for own, places in zip(alignment, data.places, strict=True):
        own[places < 0] = 10 * config.states
    count = sum(len(d) + 1 for d, g in zip(data.digits, gaps, strict=True) if len(g))
    stay.append(_stay(len(quiet) / count))
    every = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *emissions)
    return Chains(chains, every, np.array(stay)), alignment


def segments_of(data: Utterances, digit: int, most: int) -> list[tuple[int, np.ndarray]]:
    """Return utterance and frames of at most `most` occurrences of a digit, evenly chosen."""
    found = [
        (i, np.flatnonzero(places == j))
        for i, (places, digits) in enumerate(zip(data.places, data.digits, strict=True))
        for j in np.flatnonzero(digits == digit)
    ]
    found = [(i, frames) for i, frames in found if 1 <= len(frames) <= FRAMES]
    chosen = np.linspace(0, len(found) - 1, min(most, len(found))).astype(int)
    return [found[i] for i in chosen]


def _stay(frames: float) -> float:
    """Return the probability of staying in a state whose visits last so many frames on average."""
    return 1 - 1 / max(frames, 1.01)


def loop(chains: Chains, penalty: float) -> dict[str, jax.Array]:
    """Return one chain of all digits, which may follow one another with or without silence."""
    states, silence = chains.states, chains.silence
    start = np.full(silence + 1, hmm.LOG_ZERO)
    transition = np.full((silence + 1, silence + 1), hmm.LOG_ZERO)
    first = np.arange(10) * states
    start[first], start[silence] = np.log(0.05), np.log(0.5)
    for digit, chain in enumerate(chains.chains):
        here = chains.block(digit)
        transition[here, here] = chain["transition"]
        last, stay = here.stop - 1, chains.stay[digit]
        transition[last, last] = np.log(stay)
        transition[last, first] = np.log((1 - stay) / 20) - penalty
        transition[last, silence] = np.log((1 - stay) / 2)
    stay = chains.stay[10]
    transition[silence, silence] = np.log(stay)
    transition[silence, first] = np.log((1 - stay) / 10) - penalty
    arrays = {"start": start, "transition": transition}
    return {name: jnp.asarray(a, jnp.float32) for name, a in arrays.items()}


def complete(chains: Chains, scores: jax.Array, lengths: jax.Array) -> jax.Array:
    """Return scores that only let an utterance end with a digit's last state or the silence."""
    ends = np.zeros(chains.silence + 1, bool)
    ends[[*(np.arange(10) * chains.states + chains.states - 1), chains.silence]] = True
    last = np.arange(scores.shape[1]) == np.asarray(lengths)[:, None] - 1
    return jnp.asarray(np.where(last[..., None] & ~ends, -np.inf, scores))


def most_probable_digit(chains: Chains, scores: jax.Array, lengths: jax.Array) -> np.ndarray:
    """Return the digit whose chain gives each utterance the largest likelihood: (n,)."""
    scores = complete(chains, scores, lengths)
    each = [
        hmm.forward(chain, scores[..., chains.block(digit)], lengths)[1]
        for digit, chain in enumerate(chains.chains)
    ]
    return np.asarray(jnp.stack(each)).argmax(0)


def best_paths(chains: Chains, scores: jax.Array, lengths: jax.Array, penalty: float) -> np.ndarray:
    """Return the most probable states of strings, (n, time); -1 after their ends."""
    scores = complete(chains, scores, lengths)
    return np.asarray(hmm.viterbi(loop(chains, penalty), scores, lengths)[0])


def segments(chains: Chains, path: np.ndarray) -> list[tuple[str, float, float]]:
    """Return the digits of a path with their first frame and the frame after their last."""
    found = []
    for t, state in enumerate(path):
        if not 0 <= state < chains.silence:
            continue
        begins = state % chains.states == 0 and (t == 0 or path[t - 1] != state)
        if begins or not found:
            found.append((str(state // chains.states), t, t + 1))
        found[-1] = (*found[-1][:2], t + 1)
    return found


def digits_of(chains: Chains, paths: np.ndarray) -> list[list[int]]:
    """Return the digits of each path of states."""
    return [[int(name) for name, _, _ in segments(chains, states)] for states in paths]
