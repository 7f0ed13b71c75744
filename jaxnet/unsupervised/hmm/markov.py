"""Hidden Markov chains: forward, backward and Viterbi, as scans in log space.

A chain goes from state to state, and each state emits what is seen. Nothing here asks what that is:
it takes *scores* (batch, time, states), the log-likelihood of each step in each state, which an
emission gives (see `jaxnet.unsupervised.hmm.emissions`), or a network (`scaled_likelihoods`).

    params["start"] (states,)                logits of the first state
    params["transition"] (states, states)    logits of the next state; a row is where one comes from

Logits are free numbers, as those of a softmax, so `jax.grad` and optax work on them as on any
params. One below -1e20, -inf too, is a probability of exactly 0, and gets a gradient of exactly 0.
`NEVER`, -1e30, is how that is written here: a finite number, since -inf spoils penalties, weight
decay and every look for NaN.

With lengths, what lies beyond a sequence's own length has no influence on anything, NaN included.

References: Rabiner 1989, "A Tutorial on Hidden Markov Models and Selected Applications in Speech
Recognition".
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Params
from jaxnet.initializers import Initializer
from jaxnet.layers.sequence import read

NEVER = -1e30  # the logit of what has probability 0
_LOWEST = -1e20  # what lies below is 0 too: weight decay may have moved it


def log_probabilities(logits: jax.Array) -> jax.Array:
    """log softmax over the last axis, with exact zeros: -inf where a logit is below -1e20.

    A row of such logits alone is -inf throughout: from there nothing goes on.

    Example:
      >>> p = jnp.exp(log_probabilities(jnp.array([0.0, jnp.log(3.0), NEVER])))
      >>> bool(jnp.allclose(p, jnp.array([0.25, 0.75, 0.0])))
      True
    """
    logits = jnp.asarray(logits)
    possible = logits > _LOWEST
    # Without -inf, whose gradient would be NaN.
    return jnp.where(possible, jax.nn.log_softmax(jnp.maximum(logits, NEVER)), -jnp.inf)


def to_logits(p: jax.Array) -> jax.Array:
    """Logits of probabilities: their logarithms, and `NEVER` for 0.

    Example:
      >>> to_logits(jnp.array([1.0, 0.0])).tolist()
      [0.0, -1.0000000150474662e+30]
    """
    return jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1)), NEVER)


def first_state(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """An initializer for `start`: every sequence begins in state 0.

    Example:
      >>> jnp.exp(log_probabilities(first_state(jax.random.key(0), (3,)))).tolist()
      [1.0, 0.0, 0.0]
    """
    return jnp.asarray(np.where(np.arange(shape[0]) == 0, 0, NEVER), dtype)


def left_to_right(skips: int = 0) -> Initializer:
    """An initializer for `transition`: a state stays, goes to the next, or skips so many.

    What is allowed starts equally likely; the rest stays impossible in all training. The usual
    topology of speech, mostly with `first_state`.

    Args:
      skips: at most so many states are passed over at a time.

    Raises:
      ValueError: for skips below 0.

    Example:
      >>> jnp.exp(log_probabilities(left_to_right()(jax.random.key(0), (3, 3)))).tolist()
      [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]
    """
    if skips < 0:
        raise ValueError(f"left_to_right: skips must not be negative, got {skips}")

    def init(key, shape, dtype=jnp.float32):
        ahead = np.arange(shape[1]) - np.arange(shape[0])[:, None]
        allowed = (ahead >= 0) & (ahead <= 1 + skips)
        return jnp.asarray(np.where(allowed, 0, NEVER), dtype)

    return init


def logsumexp(a: jax.Array, axis: int) -> jax.Array:
    """As `jax.nn.logsumexp`, but where all is -inf the gradient is 0 and not NaN.

    Example:
      >>> jax.grad(lambda a: logsumexp(a, 0))(jnp.array([-jnp.inf, -jnp.inf])).tolist()
      [0.0, 0.0]
    """
    top = jax.lax.stop_gradient(a.max(axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0)
    total = jnp.exp(a - top).sum(axis)
    none = total == 0
    return jnp.where(none, -jnp.inf, jnp.log(jnp.where(none, 1, total)) + top.squeeze(axis))


def hmm_forward(params: Params, scores: Any, lengths: Any = None) -> tuple[jax.Array, jax.Array]:
    """Forward: log p(all that is seen up to step t, state at t), and log p(the whole sequence).

    Args:
      params: with "start" (states,) and "transition" (states, states); other entries are let be.
      scores: (batch, time, states), log p(x at t | state); -inf where that is impossible.
      lengths: (batch,) integers in [0, time], or None where every sequence has all steps.

    Returns:
      (batch, time, states), zero beyond the lengths, and (batch,): the log-likelihoods in nats. It
      is 0 for a sequence of no steps, -inf for an impossible one, NaN where a score is NaN.

    Raises:
      ValueError: where shapes do not fit, or lengths are out of range.
      TypeError: for lengths that are no integers.

    Example:
      >>> params = {"start": jnp.zeros(2), "transition": jnp.zeros((2, 2))}
      >>> scores = jnp.log(jnp.full((1, 3, 2), 0.5))  # a coin, whatever the state
      >>> jnp.exp(hmm_forward(params, scores, jnp.array([3]))[1])
      Array([0.125], dtype=float32)
    """
    return _forward(*_checked(params, scores, lengths, "hmm_forward"))


def hmm_backward(params: Params, scores: Any, lengths: Any = None) -> jax.Array:
    """Backward: log p(all that is seen after step t | state at t).

    Args:
      params, scores, lengths: as `hmm_forward`.

    Returns:
      (batch, time, states): 0 at each sequence's last step, and beyond.

    Raises:
      ValueError, TypeError: as `hmm_forward`.

    Example:
      >>> params = {"start": jnp.zeros(2), "transition": jnp.zeros((2, 2))}
      >>> scores = jnp.log(jnp.full((1, 3, 2), 0.5))
      >>> jnp.exp(hmm_backward(params, scores))[0, :, 0].tolist()
      [0.25, 0.5, 1.0]
    """
    return _backward(*_checked(params, scores, lengths, "hmm_backward"))


def hmm_posteriors(params: Params, scores: Any, lengths: Any = None) -> jax.Array:
    """p(state at t | the whole sequence), from forward and backward.

    Args:
      params, scores, lengths: as `hmm_forward`.

    Returns:
      (batch, time, states), which sum to 1; all zero beyond the lengths and for an impossible
      sequence.

    Raises:
      ValueError, TypeError: as `hmm_forward`.

    Example:
      A chain that stays where it is: its last step tells about its first.

      >>> params = {"start": jnp.zeros(2), "transition": 99 * jnp.eye(2)}
      >>> scores = jnp.log(jnp.array([[[0.5, 0.5], [0.5, 0.5], [0.2, 0.8]]]))
      >>> hmm_posteriors(params, scores)[0, 0].round(4).tolist()
      [0.199..., 0.799...]
    """
    return _posteriors(*_checked(params, scores, lengths, "hmm_posteriors"))


class Counts(NamedTuple):
    """What `hmm_counts` gives.

    Fields:
      log_likelihood: (batch,).
      start: (states,), how many sequences begin in each state.
      transition: (states, states), how many steps go from one to another.
      posterior: (batch, time, states), of each step.
    """

    log_likelihood: jax.Array
    start: jax.Array
    transition: jax.Array
    posterior: jax.Array


def hmm_counts(params: Params, scores: Any, lengths: Any = None) -> Counts:
    """How often states and transitions are expected to have occurred, given what was seen.

    They are the gradient of the log-likelihood by the log-probabilities (Fisher's identity), so one
    reverse pass through the forward scan gives all of them: the E-step of Baum-Welch. An impossible
    sequence counts for nothing.

    Args:
      params, scores, lengths: as `hmm_forward`.

    Raises:
      ValueError, TypeError: as `hmm_forward`.

    Example:
      >>> params = {"start": jnp.zeros(2), "transition": jnp.zeros((2, 2))}
      >>> counts = hmm_counts(params, jnp.zeros((5, 4, 2)), jnp.array([4, 4, 3, 1, 0]))
      >>> float(counts.start.sum()), float(counts.transition.sum().round(4))
      (4.0, 8.0)
    """
    return _counts(*_checked(params, scores, lengths, "hmm_counts"))


def viterbi(params: Params, scores: Any, lengths: Any = None) -> tuple[jax.Array, jax.Array]:
    """The most likely path of states, and log p(that path and what was seen).

    Args:
      params, scores, lengths: as `hmm_forward`.

    Returns:
      Paths (batch, time) int32, -1 beyond the lengths; of equally likely ones, that whose later
      states have the lower numbers. Log-probabilities (batch,), through which gradients flow: 0 for
      no steps. Where no path is possible, or a score is NaN, the path is -1 throughout and its
      log-probability -inf, or NaN.

    Raises:
      ValueError, TypeError: as `hmm_forward`.

    Example:
      >>> params = {"start": jnp.zeros(2), "transition": jnp.array([[2.0, 0], [0, 2]])}
      >>> scores = jnp.array([[[0.0, -3], [-0.5, 0], [0, -3], [-9, 0]]])
      >>> viterbi(params, scores, jnp.array([4]))[0]  # the second step is no reason to move
      Array([[0, 0, 0, 1]], dtype=int32)

    Reference: Viterbi 1967, "Error bounds for convolutional codes and an asymptotically optimum
    decoding algorithm".
    """
    return _viterbi(*_checked(params, scores, lengths, "viterbi"))


def scaled_likelihoods(logits: Any, log_prior: Any) -> jax.Array:
    """Scores from a network that tells states apart: log p(state | x) - log p(state).

    By Bayes these are log p(x | state) up to log p(x), the same for all states: so Viterbi paths
    and posteriors are right, and likelihoods are up to a number that depends on x alone.

    Args:
      logits: (batch, time, states), of a softmax over the states.
      log_prior: (states,), the log share of each state in the training steps; a state that never
        occurred (-inf) gets scores of -inf.

    Example:
      >>> scaled_likelihoods(jnp.zeros((1, 1, 2)), jnp.log(jnp.array([0.5, 0.25])))[0, 0].tolist()
      [0.0, 0.693...]

    Reference: Bourlard and Morgan 1994, "Connectionist Speech Recognition: A Hybrid Approach".
    """
    log_prior = jnp.asarray(log_prior)
    known = log_prior > _LOWEST
    scores = jax.nn.log_softmax(jnp.asarray(logits)) - jnp.where(known, log_prior, 0)
    return jnp.where(known, scores, -jnp.inf)


def _checked(params: Params, scores: Any, lengths: Any, who: str) -> tuple:
    """start, transition, scores, and the mask (batch, time) of the steps that count."""
    if not isinstance(params, dict) or not {"start", "transition"} <= set(params):
        raise ValueError(
            f"{who}: params must be a dict with 'start' (states,) and 'transition' (states, "
            f"states), got {sorted(params) if isinstance(params, dict) else type(params).__name__}"
        )
    start, transition = jnp.asarray(params["start"]), jnp.asarray(params["transition"])
    if start.ndim != 1 or transition.shape != 2 * start.shape:
        raise ValueError(
            f"{who}: params must have start (states,) and transition (states, states), got "
            f"{start.shape} and {transition.shape}"
        )
    scores = jnp.asarray(scores)
    if scores.ndim != 3 or scores.shape[2] != len(start):
        raise ValueError(
            f"{who}: scores must be (batch, time, states) with {len(start)} states, got "
            f"{scores.shape}; an emission gives them: emission.score(params['emission'], x)"
        )
    if lengths is None:
        lengths = jnp.full(scores.shape[0], scores.shape[1])
    mask = read((scores, jnp.asarray(lengths)), who).mask()
    return start, transition, scores, mask


def _by_time(a: jax.Array) -> jax.Array:
    return jnp.swapaxes(a, 0, 1)  # (batch, time, ...) <-> (time, batch, ...)


def _later(scores, mask):
    """Scores and mask of all steps but the first, by time: (time, batch, states), (time, batch, 1).

    Scores in padding are 0, whatever is there, NaN too.
    """
    scores = jnp.where(mask[..., None], scores, 0)
    return _by_time(scores)[1:], _by_time(mask)[1:, :, None]


# The (batch, states, states) of each step are computed again on the way back, not kept.
_light = partial(jax.checkpoint, prevent_cse=False)


def _shifted(log_p: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log_p less its largest entry, and that entry, a constant to gradients: (batch, 1).

    Logarithms that grow with time would lose their digits: float32 at -100,000 has steps of 0.008.
    """
    top = jax.lax.stop_gradient(log_p.max(1, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0)
    return log_p - top, top


def _alphas(log_start, log_transition, scores, mask):
    """Forward's logarithms and what they are less of, both by time, and the log-likelihoods."""

    def step(carry, now):
        alpha, shift = carry
        score, counts = now  # (batch, states), (batch, 1)
        moved = logsumexp(alpha[:, :, None] + log_transition, 1) + score
        moved, top = _shifted(moved)
        carry = jnp.where(counts, moved, alpha), jnp.where(counts, shift + top, shift)
        return carry, carry

    first = _shifted(log_start + jnp.where(mask[:, :1], scores[:, 0], 0))
    (alpha, shift), later = jax.lax.scan(_light(step), first, _later(scores, mask))
    log_likelihood = jnp.where(mask[:, 0], logsumexp(alpha, 1) + shift[:, 0], 0)
    alphas, shifts = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, later)
    return alphas, shifts, log_likelihood


def _betas(log_transition, scores, mask):
    """Backward's logarithms and what they are less of, both by time."""

    def step(carry, after):
        beta, shift = carry
        score, counts = after  # (batch, states), (batch, 1)
        moved, top = _shifted(logsumexp(log_transition + (score + beta)[:, None, :], 2))
        carry = jnp.where(counts, moved, 0), jnp.where(counts, shift + top, 0)
        return carry, carry

    last = jnp.zeros_like(scores[:, 0]), jnp.zeros_like(scores[:, 0, :1])
    _, earlier = jax.lax.scan(_light(step), last, _later(scores, mask), reverse=True)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), earlier, last)


# Each is jitted, since a scan outside of jit compiles at every call.
@jax.jit
def _forward(start, transition, scores, mask):
    logs = log_probabilities(start), log_probabilities(transition)
    alphas, shifts, log_likelihood = _alphas(*logs, scores, mask)
    return jnp.where(mask[..., None], _by_time(alphas + shifts), 0), log_likelihood


@jax.jit
def _backward(start, transition, scores, mask):
    betas, shifts = _betas(log_probabilities(transition), scores, mask)
    return _by_time(betas + shifts)  # (batch, time, states)


@jax.jit
def _posteriors(start, transition, scores, mask):
    log_transition = log_probabilities(transition)
    alphas, _, _ = _alphas(log_probabilities(start), log_transition, scores, mask)
    betas, _ = _betas(log_transition, scores, mask)
    joint = _by_time(alphas + betas)  # up to a number, the same for all states
    total = logsumexp(joint, 2)[..., None]
    posterior = jnp.exp(joint - jnp.where(jnp.isneginf(total), 0, total))
    return jnp.where(mask[..., None], posterior, 0)


@jax.jit
def _counts(start, transition, scores, mask):
    def total(log_start, log_transition, scores):
        log_likelihood = _alphas(log_start, log_transition, scores, mask)[2]
        return log_likelihood.sum(), log_likelihood

    logs = log_probabilities(start), log_probabilities(transition)
    gradient = jax.value_and_grad(total, (0, 1, 2), has_aux=True)
    (_, log_likelihood), (first, moves, posterior) = gradient(*logs, scores)
    return Counts(log_likelihood, first, moves, posterior)


@jax.jit
def _viterbi(start, transition, scores, mask):
    log_transition = log_probabilities(transition)
    here = jnp.arange(len(start), dtype=jnp.int32)

    def step(delta, now):
        score, counts = now  # (batch, states), (batch, 1)
        ways = delta[:, :, None] + log_transition  # (batch, from, to)
        came_from = jnp.where(counts, ways.argmax(1).astype(jnp.int32), here)
        return jnp.where(counts, ways.max(1) + score, delta), came_from

    first = log_probabilities(start) + jnp.where(mask[:, :1], scores[:, 0], 0)
    delta, came_from = jax.lax.scan(step, first, _later(scores, mask))
    last = delta.argmax(1).astype(jnp.int32)  # (batch,)

    def back(state, came_from):
        before = jnp.take_along_axis(came_from, state[:, None], 1)[:, 0]
        return before, before

    _, earlier = jax.lax.scan(back, last, came_from, reverse=True)
    path = _by_time(jnp.concatenate([earlier, last[None]]))  # (batch, time)
    score = jnp.where(mask[:, 0], delta.max(1), 0)
    return jnp.where(mask & (score > -jnp.inf)[:, None], path, -1), score
