"""Hidden Markov chains: forward, posteriors and Viterbi, as scans in log space.

A chain moves from state to state, and each state emits an observation. The functions here take
*scores* (batch, time, states), the log-likelihood of each step in each state, from an emission (see
`jaxnet.unsupervised.hmm.emissions`) or from a network (see `scaled_likelihoods`).

    params["start"] (states,)                logits of the first state
    params["transition"] (states, states)    logits of the next state; one row per current state

Logits are unconstrained numbers, as in a softmax, so you can use `jax.grad` and optax as for any
params. A logit below -1e20, including -inf, is a probability of exactly 0 with a gradient of
exactly 0. It is stored as `LOG_ZERO`, -1e30: a finite number, because -inf breaks penalties, weight
decay and tests for NaN.

With lengths, values beyond a sequence's own length have no influence on any result, NaN included.

References: Rabiner 1989, "A Tutorial on Hidden Markov Models and Selected Applications in Speech
Recognition".
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.initializers import Initializer
from jaxnet.services.checks import as_array, at_least, check_dtype, check_shape
from jaxnet.services.meshes import on_auto_axes
from jaxnet.tools import read_sequence
from jaxnet.typing import Params

LOG_ZERO = -1e30
"""The logit of probability 0."""
_LOWEST = -1e20  # lower logits are probability 0, since weight decay may have changed LOG_ZERO


def log_probabilities(logits: jax.Array) -> jax.Array:
    """Return log softmax over the last axis, with exact zeros: -inf for logits below -1e20.

    A row with only such logits is -inf throughout: no transition leaves that state. A row with a
    NaN is NaN.

    Args:
      logits: Logits (..., states).

    Returns:
      Log-probabilities (..., states).

    Raises:
      TypeError, ValueError: If `logits` are not floats, or do not have an axis.

    Example:
      >>> p = jnp.exp(log_probabilities(jnp.array([0.0, jnp.log(3.0), LOG_ZERO])))
      >>> np.asarray(p).round(3).tolist()
      [0.25, 0.75, 0.0]
    """
    logits = as_array("log_probabilities", "logits", logits, "(..., states)", "reals")
    possible = ~(logits <= _LOWEST)  # NaN is not hidden
    # Avoids -inf, whose gradient would be NaN.
    log_p = jax.nn.log_softmax(jnp.maximum(logits, LOG_ZERO))
    return jnp.where(possible, log_p, -jnp.inf)


@jax.jit
def to_logits(p: jax.Array) -> jax.Array:
    """Return the logits of probabilities: their logarithms, and `LOG_ZERO` for 0.

    Example:
      >>> to_logits(jnp.array([1.0, 0.0])).tolist()
      [0.0, -1.0000000150474662e+30]
    """
    possible = p > 0
    log_p = jnp.log(jnp.where(possible, p, 1))
    return jnp.where(possible, log_p, LOG_ZERO)


def first_state(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Initialize `start`: every sequence begins in state 0.

    Returns:
      Logits of the given shape: 0 for state 0, and numbers that count as -inf for the others.

    Example:
      >>> jnp.exp(log_probabilities(first_state(jax.random.key(0), (3,)))).tolist()
      [1.0, 0.0, 0.0]
    """
    check_shape("first_state: shape", shape)
    if len(shape) != 1:
        raise ValueError(
            f"first_state: shape must be (states,), got {tuple(shape)}. Use it as the initializer "
            "of `start`"
        )
    at_least("first_state", "shape[0]", shape[0])
    check_dtype("first_state", dtype)
    logits = np.full(shape, LOG_ZERO)
    logits[0] = 0
    return jnp.asarray(logits, dtype)


def left_to_right(skips: int = 0) -> Initializer:
    """Initialize `transition` to the same state, the next, or past up to `skips` states.

    The allowed transitions start equally likely; all others stay impossible in training. This is
    the usual topology of speech, together with `first_state`.

    Args:
      skips: Largest number of states passed over in one step, at least 0.

    Returns:
      An initializer (key, shape, dtype=float32) -> logits (states, states).

    Raises:
      ValueError: If `skips` is below 0.

    Example:
      >>> jnp.exp(log_probabilities(left_to_right()(jax.random.key(0), (3, 3)))).tolist()
      [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]
    """
    at_least("left_to_right", "skips", skips, 0)

    def init(key, shape, dtype=jnp.float32):
        check_shape("left_to_right: shape", shape)
        if len(shape) != 2:
            raise ValueError(f"left_to_right: shape must be (states, states), got {tuple(shape)}")
        current, following = map(np.arange, shape)
        ahead = following - current[:, None]
        allowed = (ahead >= 0) & (ahead <= 1 + skips)
        return jnp.asarray(np.where(allowed, 0, LOG_ZERO), dtype)

    return init


def logsumexp(a: jax.Array, axis: int) -> jax.Array:
    """Return `jax.nn.logsumexp`, with gradient 0 instead of NaN if all entries are -inf.

    Example:
      >>> jax.grad(lambda a: logsumexp(a, 0))(jnp.array([-jnp.inf, -jnp.inf])).tolist()
      [0.0, 0.0]
    """
    shifted, top = _shifted(a, axis)
    total = jnp.exp(shifted).sum(axis)
    none = total == 0
    log_total = jnp.log(jnp.where(none, 1, total)) + top.squeeze(axis)
    return jnp.where(none, -jnp.inf, log_total)


def forward(params: Params, scores: Any, lengths: Any = None) -> tuple[jax.Array, jax.Array]:
    """Return log p(observations up to step t, state at t), and log p(whole sequence).

    Args:
      params: Params with "start" (states,) and "transition" (states, states); other entries are
        ignored.
      scores: Scores (batch, time, states), log p(x at t | state); -inf if that is impossible.
      lengths: Integers (batch,) in [0, time], or None if every sequence has all steps.

    Returns:
      The log-probabilities (batch, time, states), zero beyond the lengths, and the log-likelihoods
      (batch,), in nats. A log-likelihood is 0 for a sequence without steps, -inf for an impossible
      sequence, and NaN if a score or a param is NaN.

    Raises:
      ValueError: If shapes do not fit, or lengths are out of range.
      TypeError: If an argument is not an array, or lengths are not integers.

    Example:
      >>> params = {"start": jnp.zeros(2), "transition": jnp.zeros((2, 2))}
      >>> scores = jnp.log(jnp.full((1, 3, 2), 0.5))  # a coin, whatever the state
      >>> jnp.exp(forward(params, scores, jnp.array([3]))[1])
      Array([0.125], dtype=float32)
    """
    return _forward(*_read(params, scores, lengths, "forward"))


class Counts(NamedTuple):
    """Result of `expected_counts`.

    Fields:
      log_likelihood: Log-likelihoods (batch,).
      start: Number of sequences that begin in each state, (states,).
      transition: Number of steps from one state to another, (states, states).
      posterior: Probabilities p(state at t | whole sequence), (batch, time, states).
    """

    log_likelihood: jax.Array
    start: jax.Array
    transition: jax.Array
    posterior: jax.Array


def expected_counts(params: Params, scores: Any, lengths: Any = None) -> Counts:
    """Return expected numbers of starts and transitions: the E-step of Baum-Welch.

    They are the gradient of the log-likelihood with respect to the log-probabilities (Fisher's
    identity), so one reverse pass through the forward scan gives all of them. An impossible
    sequence does not count.

    Args:
      params, scores, lengths: As in `forward`.

    Raises:
      ValueError, TypeError: As in `forward`.

    Example:
      >>> params = {"start": jnp.zeros(2), "transition": jnp.zeros((2, 2))}
      >>> counts = expected_counts(params, jnp.zeros((5, 4, 2)), jnp.array([4, 4, 3, 1, 0]))
      >>> float(counts.start.sum()), float(counts.transition.sum().round(4))
      (4.0, 8.0)
    """
    return _counts(*_read(params, scores, lengths, "expected_counts"))


def posteriors(params: Params, scores: Any, lengths: Any = None) -> jax.Array:
    """Return p(state at t | whole sequence).

    Args:
      params, scores, lengths: As in `forward`.

    Returns:
      Probabilities (batch, time, states), which sum to 1 over states; all zero beyond the lengths
      and for an impossible sequence.

    Raises:
      ValueError, TypeError: As in `forward`.

    Example:
      In a chain that never changes its state the last step determines the posterior of the first:

      >>> params = {"start": jnp.zeros(2), "transition": 99 * jnp.eye(2)}
      >>> scores = jnp.log(jnp.array([[[0.5, 0.5], [0.5, 0.5], [0.2, 0.8]]]))
      >>> posteriors(params, scores)[0, 0].round(4).tolist()
      [0.199..., 0.799...]
    """
    return _counts(*_read(params, scores, lengths, "posteriors")).posterior


@on_auto_axes
def viterbi(params: Params, scores: Any, lengths: Any = None) -> tuple[jax.Array, jax.Array]:
    """Return the most likely path of states, and log p(path and observations).

    Args:
      params, scores, lengths: As in `forward`.

    Returns:
      Paths (batch, time) int32, -1 beyond the lengths; among equally likely paths, the path whose
      later states have lower numbers. Log-probabilities (batch,), which are differentiable, and 0
      for a sequence without steps. If no path is possible, or a number is NaN, the path is -1
      throughout and its log-probability -inf, or NaN.

    Raises:
      ValueError, TypeError: As in `forward`.

    Example:
      >>> params = {"start": jnp.zeros(2), "transition": jnp.array([[2.0, 0], [0, 2]])}
      >>> scores = jnp.array([[[0.0, -3], [-0.5, 0], [0, -3], [-9, 0]]])
      >>> viterbi(params, scores, jnp.array([4]))[0]  # the second step is no reason to move
      Array([[0, 0, 0, 1]], dtype=int32)

    Reference: Viterbi 1967, "Error bounds for convolutional codes and an asymptotically optimum
    decoding algorithm".
    """
    return _viterbi(*_read(params, scores, lengths, "viterbi"))


def scaled_likelihoods(logits: Any, log_prior: Any) -> jax.Array:
    """Score states by a network that classifies them: log p(state | x) - log p(state).

    By Bayes' rule, these scores are log p(x | state) minus log p(x), which is the same for all
    states. So Viterbi paths and posteriors are correct. Likelihoods are correct up to a factor that
    depends only on x.

    Args:
      logits: Logits (batch, time, states) of a softmax over the states.
      log_prior: Log frequency of each state in the training steps, (states,). A state that never
        occurred (-inf) gets scores of -inf.

    Returns:
      Scores (batch, time, states), for `viterbi` and `posteriors`.

    Raises:
      TypeError, ValueError: If shapes or dtypes do not fit.

    Example:
      >>> scaled_likelihoods(jnp.zeros((1, 1, 2)), jnp.log(jnp.array([0.5, 0.25])))[0, 0].tolist()
      [0.0, 0.693...]

    Reference: Bourlard and Morgan 1994, "Connectionist Speech Recognition: A Hybrid Approach".
    """
    who = "scaled_likelihoods"
    sizes: dict[str, Any] = {}
    logits = as_array(who, "logits", logits, "(batch, time, states)", "reals", sizes)
    log_prior = as_array(who, "log_prior", log_prior, "(states,)", "reals", sizes)
    return _scaled(logits, log_prior)


@jax.jit
def _scaled(logits: jax.Array, log_prior: jax.Array) -> jax.Array:
    log_prior = log_prior[None, None]
    is_possible = ~(log_prior <= _LOWEST)
    scores = jax.nn.log_softmax(logits) - jnp.where(is_possible, log_prior, 0)
    return jnp.where(is_possible, scores, -jnp.inf)


def _read(params: Params, scores: Any, lengths: Any, who: str) -> tuple:
    """Return start, transition, scores, and the mask (batch, time) of the steps that count."""
    if not isinstance(params, dict) or not {"start", "transition"} <= set(params):
        got = sorted(params) if isinstance(params, dict) else type(params).__name__
        raise ValueError(
            f"{who}: params must be a dict with 'start' (states,) and 'transition' (states, "
            f"states), got {got}"
        )
    sizes: dict[str, Any] = {}
    start = as_array(who, "params['start']", params["start"], "(states,)", "reals", sizes)
    what, transition = "params['transition']", params["transition"]
    transition = as_array(who, what, transition, "(states, states)", "reals", sizes)
    # For an emission, scores = emission.score(params["emission"], x).
    scores = as_array(who, "scores", scores, "(batch, time, states)", "reals", sizes)
    if lengths is None:
        batch, time, _ = scores.shape
        lengths = jnp.full(batch, time)
    sequence = read_sequence((scores, lengths), who)
    return start, transition, scores, sequence.mask()


def _by_time(a: jax.Array) -> jax.Array:
    return jnp.swapaxes(a, 0, 1)  # (batch, time, ...) <-> (time, batch, ...)


def _later(scores, mask):
    """Return scores (time, batch, states) and mask (time, batch, 1) of all steps but the first.

    Scores in padding are 0, even if they were NaN.
    """
    scores = jnp.where(mask[..., None], scores, 0)
    return _by_time(scores)[1:], _by_time(mask)[1:, :, None]


def _first(log_start, scores, mask):
    """Return the shifted scores of the first step."""
    first = jnp.where(mask[:, :1], scores[:, 0], 0)
    return _shifted(log_start[None] + first)


def _shifted(log_p: jax.Array, axis: int = 1) -> tuple[jax.Array, jax.Array]:
    """Return log_p minus its largest entry along an axis, and that entry, without a gradient.

    Logarithms that grow with time would lose digits: float32 near -100,000 has steps of 0.008.
    """
    top = jax.lax.stop_gradient(log_p.max(axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0)
    return log_p - top, top


def _alphas(log_start, log_transition, scores, mask):
    """Return shifted forward logarithms and their shifts, both by time, and the log-likelihoods."""

    # The (batch, states, states) of each step are recomputed in the backward pass, not kept.
    @partial(jax.checkpoint, prevent_cse=False)
    def step(carry, now):
        alpha, shift = carry
        score, counts = now  # (batch, states), (batch, 1)
        ways = alpha[:, :, None] + log_transition[None]  # (batch, from, to)
        moved, top = _shifted(logsumexp(ways, 1) + score)
        alpha = jnp.where(counts, moved, alpha)
        shift = jnp.where(counts, shift + top, shift)
        return (alpha, shift), (alpha, shift)

    first = _first(log_start, scores, mask)
    (alpha, shift), later = jax.lax.scan(step, first, _later(scores, mask))
    last = logsumexp(alpha, 1) + shift[:, 0]
    log_likelihood = jnp.where(mask[:, 0], last, 0)
    alphas, shifts = jax.tree.map(_all_steps, first, later)
    return alphas, shifts, log_likelihood


def _all_steps(first: jax.Array, later: jax.Array) -> jax.Array:
    return jnp.concatenate([first[None], later])


# Each is jitted, since a scan outside of jit compiles at every call.
@jax.jit
def _forward(start, transition, scores, mask):
    log_start = log_probabilities(start)
    log_transition = log_probabilities(transition)
    alphas, shifts, log_likelihood = _alphas(log_start, log_transition, scores, mask)
    log_p = _by_time(alphas + shifts)
    return jnp.where(mask[..., None], log_p, 0), log_likelihood


@jax.jit
def _counts(start, transition, scores, mask):
    def total(log_start, log_transition, scores):
        _, _, log_likelihood = _alphas(log_start, log_transition, scores, mask)
        return log_likelihood.sum(), log_likelihood

    log_start = log_probabilities(start)
    log_transition = log_probabilities(transition)
    gradient = jax.value_and_grad(total, (0, 1, 2), has_aux=True)
    (_, log_likelihood), counts = gradient(log_start, log_transition, scores)
    return Counts(log_likelihood, *counts)


@jax.jit
def _viterbi(start, transition, scores, mask):
    log_transition = log_probabilities(transition)
    same_state = jnp.arange(len(start), dtype=jnp.int32)

    def step(delta, now):
        score, counts = now  # (batch, states), (batch, 1)
        ways = delta[:, :, None] + log_transition[None]  # (batch, from, to)
        best = ways.argmax(1).astype(jnp.int32)
        came_from = jnp.where(counts, best, same_state[None])
        moved, top = _shifted(ways.max(1) + score)
        delta = jnp.where(counts, moved, delta)
        return delta, (came_from, jnp.where(counts, top, 0))

    first, shift = _first(log_probabilities(start), scores, mask)
    delta, (came_from, tops) = jax.lax.scan(step, first, _later(scores, mask))
    last = delta.argmax(1).astype(jnp.int32)  # (batch,)

    def back(state, came_from):
        before = jnp.take_along_axis(came_from, state[:, None], 1)[:, 0]
        return before, before

    _, earlier = jax.lax.scan(back, last, came_from, reverse=True)
    path = _by_time(jnp.concatenate([earlier, last[None]]))  # (batch, time)
    shift = shift + tops.sum(0)
    score = jnp.where(mask[:, 0], delta.max(1) + shift[:, 0], 0)
    possible = score > -jnp.inf
    return jnp.where(mask & possible[:, None], path, -1), score
