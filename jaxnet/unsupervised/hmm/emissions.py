"""Emissions of hidden Markov models: symbols, or vectors from mixtures of Gaussians.

An `Emission` is a set of functions: random params, params from data, the log-likelihood of a step
in each state, the M-step of expectation maximization. You can use your own emission in the same
way.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import child_key
from jaxnet.initializers import normal, zeros
from jaxnet.ops import add_bias, broadcast
from jaxnet.services.checks import at_least, check_range, on_host, within
from jaxnet.services.extras import extra
from jaxnet.typing import Params
from jaxnet.unsupervised.hmm.markov import log_probabilities, logsumexp, to_logits
from jaxnet.unsupervised.kmeans import kmeans

SOME = 1024  # number of steps of a state that initialize its Gaussians

# (key, x, mask, states) -> labels (batch, time), a first guess at the state of each step
Align = Callable[[jax.Array, np.ndarray, np.ndarray, int], np.ndarray]


class Emission(NamedTuple):
    """The emission of the states: `categorical`, `gaussian_mixture`, or one of your own.

    Fields:
      init: `(key, x, states) -> params`, drawn at random; only the shape and dtype of
        x (batch, time, ...) are used.
      check: `(x) -> None`, which raises if x (batch, time, ...) has a wrong shape or dtype, or
        known values that are wrong.
      score: `(params, x) -> (batch, time, states)`, log p(x | state) of each step.
      fit: `(params, x, posterior) -> params`, the params that maximize the likelihood of x. The
        posterior (batch, time, states) is the probability of each state at step (i, t), zero in
        padding. Entries that the data do not determine are taken from the old params.
      begin: `(key, params, x, labels) -> params`, the first params, from steps x (n, ...) whose
        states are labels (n,).
      align: Function with which `fit_hmm` guesses the first labels; None keeps the drawn params.
      name: Name shown by print.

    Example:
      >>> categorical(3)
      categorical(3)
    """

    init: Callable[[jax.Array, Any, int], Params]
    check: Callable[[Any], None]
    score: Callable[[Params, jax.Array], jax.Array]
    fit: Callable[[Params, jax.Array, jax.Array], Params]
    begin: Callable[[jax.Array, Params, np.ndarray, np.ndarray], Params]
    align: Align | None = None
    name: str = "emission"

    def __repr__(self) -> str:
        return self.name


def uniform_segments(key: jax.Array, x: np.ndarray, mask: np.ndarray, states: int) -> np.ndarray:
    """Label the first part of each sequence 0, the next 1, ...: for `left_to_right` transitions.

    Args:
      key: Key, not used.
      x: Observations (batch, time, ...), not used.
      mask: Booleans (batch, time), True at the steps that count.
      states: Number of parts, as equal in length as possible.

    Returns:
      Integers (batch, time).

    Example:
      >>> uniform_segments(jax.random.key(0), np.zeros((1, 7)), np.arange(7)[None] < 6, 3)
      array([[0, 0, 1, 1, 2, 2, 2]])
    """
    who = "uniform_segments"
    mask = on_host(who, "mask", mask, "(batch, time)", "booleans or numbers")
    if mask.dtype != np.bool_:
        raise TypeError(f"{who}: mask must hold booleans, got {mask.dtype}; write mask > 0")
    at_least(who, "states", states)
    lengths = np.maximum(mask.sum(1, keepdims=True), 1)
    times = np.arange(mask.shape[1])
    return np.minimum(times * states // lengths, states - 1)


def _clusters(key: jax.Array, x: np.ndarray, mask: np.ndarray, states: int) -> np.ndarray:
    """Label each step by its cluster under k-means, (batch, time), for states without an order."""
    labels = np.zeros(mask.shape, int)
    centroids = np.asarray(kmeans(key, x[mask], states))
    metrics = extra("sklearn.metrics", "scikit-learn", "fit_hmm")
    labels[mask] = metrics.pairwise_distances_argmin(x[mask], centroids)
    return labels


@cache  # returns the same object each time, so that nothing compiles twice
def categorical(symbols: int) -> Emission:
    """Emit one of n symbols per step: x (batch, time) of integers in [0, n).

    A symbol out of range raises an error if x holds known values; inside `jit` its score is NaN.

    Args:
      symbols: Number n of symbols, at least 2.

    Params:
      logits (states, symbols), drawn from a standard normal distribution.

    Returns:
      An `Emission`, for `hmm` and `baum_welch`.

    Raises:
      ValueError: If `symbols` is below 2.

    Example:
      >>> params = {"logits": jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]))}
      >>> jnp.exp(categorical(3).score(params, jnp.array([[0, 2]])))[0].tolist()
      [[0.5, 0.0], [0.25, 1.0]]
    """
    name = f"categorical({symbols})"
    at_least("categorical", "symbols", symbols, 2)

    def check_shape(x):
        if len(x.shape) != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(
                f"{name}: x must be (batch, time) integers, got {tuple(x.shape)} {x.dtype}"
            )

    def check(x):
        check_shape(x)
        check_range(x, symbols, f"{name}: symbols")

    def init(key, x, states):
        check_shape(x)
        dtype = jnp.result_type(jnp.float32, x)
        return {"logits": normal(1.0)(key, (states, symbols), dtype)}

    def score(params, x):
        check(x)
        return _symbol_scores(params["logits"], x)

    def fit(params, x, posterior):
        states = posterior.shape[-1]
        flat = posterior.reshape(-1, states)
        count = jnp.zeros((symbols, states), flat.dtype)
        count = count.at[x.reshape(-1)].add(flat)
        return {"logits": shares(count.T, params["logits"])}

    def begin(key, params, x, labels):
        old = params["logits"]
        count = np.ones(old.shape)  # counts start at 1, so that no symbol is impossible
        np.add.at(count, (labels, x), 1)
        logits = np.log(count / count.sum(1, keepdims=True))
        return {"logits": jnp.asarray(logits, old.dtype)}

    return Emission(init, check, score, fit, begin, None, name)


@cache
def gaussian_mixture(mixtures: int = 1, *, floor: float = 1e-3) -> Emission:
    """Emit vectors from mixtures of diagonal Gaussians: x (batch, time, features).

    Args:
      mixtures: Number of Gaussians per state, at least 1.
      floor: Smallest variance that Baum-Welch sets, as a fraction of the feature's variance over
        all data (a constant feature counts as having variance 1). At 0 the likelihood has no
        maximum: a Gaussian may shrink to one step. Training by gradients has no floor.

    Params:
      weight (states, mixtures), logits; mean and log_variance (states, mixtures, features). They
      start at 0, standard normal draws, and 0.

    Returns:
      An `Emission`, for `hmm` and `baum_welch`.

    Raises:
      ValueError: If `mixtures` is below 1 or `floor` is negative.

    Example:
      >>> emission = gaussian_mixture(2)
      >>> params = emission.init(jax.random.key(0), jn.spec((7, 5, 3)), 4)
      >>> jax.tree.map(jnp.shape, params)
      {'log_variance': (4, 2, 3), 'mean': (4, 2, 3), 'weight': (4, 2)}
      >>> emission.score(params, jnp.ones((7, 5, 3))).shape
      (7, 5, 4)

    Reference: Juang, Levinson and Sondhi 1986, "Maximum likelihood estimation for multivariate
    mixture observations of Markov chains".
    """
    name = f"gaussian_mixture({mixtures})"
    at_least("gaussian_mixture", "mixtures", mixtures)
    within("gaussian_mixture", "floor", floor, "[0, inf)")

    def check(x, features=None):
        wrong = len(x.shape) != 3 or features not in (None, x.shape[-1])
        if wrong or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"{name}: x must be (batch, time, {features or 'features'}) floats, "
                f"got {tuple(x.shape)} {x.dtype}"
            )

    def init(key, x, states):
        check(x)
        shape = states, mixtures, x.shape[-1]
        dtype = jnp.result_type(jnp.float32, x)
        return {
            "weight": zeros(key, shape[:2], dtype),
            "mean": normal(1.0)(child_key(key, "mean"), shape, dtype),
            "log_variance": zeros(key, shape, dtype),
        }

    def score(params, x):
        check(x, params["mean"].shape[-1])
        return _mixture_scores(params, x)

    def fit(params, x, posterior):
        return _fit_mixtures(params, x, posterior, floor)

    def begin(key, params, x, labels):
        return _begin_mixtures(key, params, x, labels, floor)

    return Emission(init, check, score, fit, begin, _clusters, name)


def _fit_mixtures(params: Params, x: jax.Array, posterior: jax.Array, floor: float) -> Params:
    """Return the most likely weights, means and variances, see `Emission.fit`."""
    x = x.reshape(-1, x.shape[-1])  # (batch, time, features) -> (n, features)
    posterior = posterior.reshape(len(x), -1)
    every = posterior.sum(1, keepdims=True)  # 1 at valid steps, 0 in padding
    steps = jnp.maximum(every.sum(), 1)
    middle = (every * x).sum(0) / steps
    x = jnp.where(every > 0, x - middle[None], 0)  # subtracting the mean keeps more digits
    square = (every * x**2).sum(0) / steps
    mean = add_bias(params["mean"], -middle)
    member = jax.nn.softmax(_components(params | {"mean": mean}, x))
    member = posterior.reshape(len(x), -1, 1) * member  # (n, states, mixtures)
    count = member.sum(0)[..., None]
    seen = count > 0
    count = jnp.where(seen, count, 1)
    total = jnp.einsum("nsm,nf->smf", member, x, precision=jax.lax.Precision.HIGHEST)
    mean = jnp.where(seen, total / count, mean)

    variance = _squares(member, mean, x) / count
    positive_spread = jnp.where(square > 0, square, 1)
    least = jnp.maximum(floor * positive_spread, jnp.finfo(x.dtype).tiny)
    least = jnp.broadcast_to(least, variance.shape)
    log_variance = jnp.log(jnp.maximum(variance, least))
    return {
        "weight": shares(member.sum(0), params["weight"]),
        "mean": add_bias(mean, middle),
        "log_variance": jnp.where(seen, log_variance, params["log_variance"]),
    }


def _squares(member: jax.Array, mean: jax.Array, x: jax.Array) -> jax.Array:
    """Return the squared distances from each mean, summed over its members."""
    n, features = x.shape

    # One Gaussian at a time, since (n, states, mixtures, features) would be large.
    def of_one(gaussian):
        member, mean = gaussian
        squares = (x - mean[None]) ** 2
        return (member[:, None] * squares).sum(0)

    gaussians = member.reshape(n, -1).T, mean.reshape(-1, features)
    return jax.lax.map(of_one, gaussians).reshape(mean.shape)


def _begin_mixtures(
    key: jax.Array, params: Params, x: np.ndarray, labels: np.ndarray, floor: float
) -> Params:
    """Return the first means and variances, from the steps of each state."""
    shape = params["mean"].shape
    states, mixtures, _ = shape
    mean = np.zeros(shape)
    variance = np.zeros(shape)
    all_variance = x.var(0)
    least = np.where(all_variance > 0, max(floor, 1e-3) * all_variance, 1)
    for state in range(states):
        of_state = x[labels == state]
        if len(of_state) < max(mixtures, 2):
            of_state = x
        mean[state] = of_state.mean(0)
        variance[state] = np.maximum(of_state.var(0), least)
        if mixtures > 1:
            some = of_state[:: math.ceil(len(of_state) / SOME)]
            mean[state] = kmeans(jax.random.fold_in(key, state), some, mixtures)
    dtype = params["mean"].dtype
    first = {
        "mean": jnp.asarray(mean, dtype),
        "log_variance": jnp.asarray(np.log(variance), dtype),
    }
    return params | first


# Jitted, since without fusion these operations would store arrays with all five axes.
@jax.jit
def _symbol_scores(logits, x):
    table = log_probabilities(logits).T  # (symbols, states)
    # JAX would count negative indices from the end.
    x = jnp.where(x < 0, len(table), x.astype(jnp.int32))
    return table.at[x].get(mode="fill", fill_value=jnp.nan)


@jax.jit
def _mixture_scores(params, x):
    return logsumexp(_components(params, x), -1)


def _components(params, x):  # (..., features) -> (..., states, mixtures)
    away = add_bias(x[..., None, None, :], -params["mean"])
    log_variance = broadcast(params["log_variance"], away.shape)
    squares = away**2 * jnp.exp(-log_variance) + log_variance
    terms = squares + math.log(2 * math.pi)
    log_density = -0.5 * terms.sum(-1)
    return add_bias(log_density, log_probabilities(params["weight"]))


def shares(count: jax.Array, old: jax.Array) -> jax.Array:
    """Return the logits of each row's relative counts; rows without counts keep the old logits.

    Example:
      >>> shares(jnp.array([[1.0, 1], [0, 0]]), jnp.array([[5.0, 6], [7, 8]])).tolist()
      [[-0.693..., -0.693...], [7.0, 8.0]]
    """
    total = count.sum(-1, keepdims=True)
    some = total > 0
    p = count / jnp.where(some, total, 1)
    return jnp.where(some, to_logits(p), old)
