"""What the states of a hidden Markov model emit: symbols, or vectors from mixtures of Gaussians.

An `Emission` is a few functions: how params are drawn or taken from data, how likely a step is in
each state, how params are fitted to steps that belong to states in shares (the M-step of EM), and
how steps are drawn. One of your own stands wherever these stand.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Params, child_key, param_dtype
from jaxnet.initializers import normal, zeros
from jaxnet.layers.embedding import check_range
from jaxnet.unsupervised.kmeans import Vectors, kmeans, nearest
from jaxnet.unsupervised.hmm.markov import log_probabilities, logsumexp, to_logits

SOME = 1024  # steps of a state from which its Gaussians start
_kmeans = partial(kmeans, progress=False)  # a bar of its own would flicker

# (key, x, mask, states) -> labels (batch, time), a first guess at the state of each step
Align = Callable[[jax.Array, np.ndarray, np.ndarray, int], np.ndarray]


class Emission(NamedTuple):
    """What states emit: `categorical`, `gaussian_mixture`, or one of your own.

    Fields:
      init: `(key, x, states) -> params`, drawn at random; only the shape and dtype of
        x (batch, time, ...) are looked at.
      check: `(x) -> None`, raises where the emission cannot take x (batch, time, ...): by its shape
        and dtype, and by its values where these are known.
      score: `(params, x) -> (batch, time, states)`, log p(x | state) of each step.
      fit: `(params, x, posterior) -> params`, those that make x likeliest where step (i, t) is in
        the states by the shares posterior (batch, time, states), zero in padding; from the old
        params comes what the data say nothing about.
      begin: `(key, params, x, labels) -> params`, first params from steps x (n, ...) whose states
        are labels (n,).
      sample: `(key, params, states) -> x`, one draw for each state of an array of any shape.
      align: how `fit_hmm` guesses the first labels; None where params start as drawn.
      name: what it prints as.
    """

    init: Callable[[jax.Array, Any, int], Params]
    check: Callable[[Any], None]
    score: Callable[[Params, jax.Array], jax.Array]
    fit: Callable[[Params, jax.Array, jax.Array], Params]
    begin: Callable[[jax.Array, Params, np.ndarray, np.ndarray], Params]
    sample: Callable[[jax.Array, Params, jax.Array], jax.Array]
    align: Align | None = None
    name: str = "emission"

    def __repr__(self) -> str:
        return self.name


def kmeans_init(
    key: jax.Array, x: np.ndarray, mask: np.ndarray, states: int, *, method: Vectors = _kmeans
) -> np.ndarray:
    """Labels each step by the centre that is nearest: for states in no order.

    Args:
      key: of the method.
      x: (batch, time, features).
      mask: (batch, time), True at the steps that count.
      states: how many.
      method: `kmeans`, or `random_vectors` for a random start; options by `functools.partial`.

    Returns:
      (batch, time) integers, 0 in padding.

    Example:
      >>> x = np.array([[[0.0], [0.1], [9.0]], [[9.1], [0.0], [7e7]]])
      >>> labels = kmeans_init(jax.random.key(0), x, np.array([[1, 1, 1], [1, 1, 0]], bool), 2)
      >>> bool(labels[0, 0] == labels[0, 1] == labels[1, 1] != labels[0, 2] == labels[1, 0])
      True
    """
    labels = np.zeros(mask.shape, int)
    labels[mask] = np.asarray(nearest(method(key, x[mask], states), x[mask])[0])
    return labels


def uniform_segments(key: jax.Array, x: np.ndarray, mask: np.ndarray, states: int) -> np.ndarray:
    """Labels each sequence's first part 0, its next 1, ...: for `left_to_right` transitions.

    Args:
      key: not used.
      x: (batch, time, ...), not looked at.
      mask: (batch, time), True at the steps that count.
      states: how many parts, as equal as can be.

    Returns:
      (batch, time) integers.

    Example:
      >>> uniform_segments(jax.random.key(0), np.zeros((1, 7)), np.arange(7)[None] < 6, 3)
      array([[0, 0, 1, 1, 2, 2, 2]])
    """
    lengths = np.maximum(mask.sum(1, keepdims=True), 1)
    return np.minimum(np.arange(mask.shape[1]) * states // lengths, states - 1)


@cache  # the same value each time, so that nothing compiles twice
def categorical(symbols: int) -> Emission:
    """One of so many symbols a step: x (batch, time) of integers in [0, symbols).

    A symbol out of range raises an error as long as x is values; inside `jit` its score is NaN.

    Args:
      symbols: at least 2.

    Params:
      logits (states, symbols), drawn from a standard normal distribution.

    Raises:
      ValueError: for fewer symbols.

    Example:
      >>> params = {"logits": jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]))}
      >>> jnp.exp(categorical(3).score(params, jnp.array([[0, 2]])))[0].tolist()
      [[0.5, 0.0], [0.25, 1.0]]
    """
    name = f"categorical({symbols})"
    if symbols < 2:
        raise ValueError(f"categorical: symbols must be at least 2, got {symbols}")

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
        return {"logits": normal(1.0)(key, (states, symbols), param_dtype(x))}

    def score(params, x):
        check(x)
        return _symbol_scores(params["logits"], x)

    def fit(params, x, posterior):
        states = posterior.shape[-1]
        flat = posterior.reshape(-1, states)
        count = jnp.zeros((symbols, states), flat.dtype).at[x.reshape(-1)].add(flat).T
        return {"logits": shares(count, params["logits"])}

    def begin(key, params, x, labels):
        old = params["logits"]
        count = np.ones(old.shape)  # one more of each, so that none is impossible
        np.add.at(count, (labels, x), 1)
        return {"logits": jnp.asarray(np.log(count / count.sum(1, keepdims=True)), old.dtype)}

    def sample(key, params, states):
        return jax.random.categorical(key, log_probabilities(params["logits"])[states])

    return Emission(init, check, score, fit, begin, sample, None, name)


@cache
def gaussian_mixture(mixtures: int = 1, *, floor: float = 1e-3) -> Emission:
    """Vectors from so many Gaussians a state, with diagonal covariances: x (batch, time, features).

    Args:
      mixtures: Gaussians a state, at least 1.
      floor: least variance that Baum-Welch gives, as a share of the feature's variance in all of
        the data (a feature that never varies counts as one of variance 1). At 0 the likelihood has
        no maximum: a Gaussian may shrink to one step. Training by gradients knows no floor.

    Params:
      weight (states, mixtures), logits; mean and log_variance (states, mixtures, features). They
      start at 0, standard normal draws, and 0.

    Raises:
      ValueError: for mixtures below 1 or a negative floor.

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
    if mixtures < 1:
        raise ValueError(f"gaussian_mixture: mixtures must be at least 1, got {mixtures}")
    if not floor >= 0:
        raise ValueError(f"gaussian_mixture: floor must not be negative, got {floor}")

    def check(x, features=None):
        wrong = len(x.shape) != 3 or features not in (None, x.shape[-1])
        if wrong or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"{name}: x must be (batch, time, {features or 'features'}) floats, "
                f"got {tuple(x.shape)} {x.dtype}"
            )

    def init(key, x, states):
        check(x)
        shape, dtype = (states, mixtures, x.shape[-1]), param_dtype(x)
        return {
            "weight": zeros(key, shape[:2], dtype),
            "mean": normal(1.0)(child_key(key, "mean"), shape, dtype),
            "log_variance": zeros(key, shape, dtype),
        }

    def score(params, x):
        check(x, params["mean"].shape[-1])
        return _mixture_scores(params, x)

    def fit(params, x, posterior):
        x = x.reshape(-1, x.shape[-1])  # (batch, time, features) -> (n, features)
        posterior = posterior.reshape(len(x), -1)
        every = posterior.sum(1, keepdims=True)  # 1, and 0 in padding
        steps = jnp.maximum(every.sum(), 1)
        middle = (every * x).sum(0) / steps
        x = jnp.where(every > 0, x - middle, 0)  # small numbers keep more of their digits
        spread = (every * x**2).sum(0) / steps
        mean = params["mean"] - middle
        member = jax.nn.softmax(_components(params | {"mean": mean}, x))
        member = posterior[..., None] * member  # (n, states, mixtures)
        count = member.sum(0)[..., None]
        seen, count = count > 0, jnp.where(count > 0, count, 1)
        total = jnp.einsum("nsm,nf->smf", member, x, precision=jax.lax.Precision.HIGHEST)
        mean = jnp.where(seen, total / count, mean)

        def squares(one):  # a Gaussian at a time: (n, states, mixtures, features) would be large
            member, mean = one
            return (member[:, None] * (x - mean) ** 2).sum(0)

        flat = member.reshape(len(x), -1).T, mean.reshape(-1, x.shape[1])
        variance = jax.lax.map(squares, flat).reshape(mean.shape) / count
        least = jnp.maximum(floor * jnp.where(spread > 0, spread, 1), jnp.finfo(x.dtype).tiny)
        log_variance = jnp.log(jnp.maximum(variance, least))
        return {
            "weight": shares(member.sum(0), params["weight"]),
            "mean": mean + middle,
            "log_variance": jnp.where(seen, log_variance, params["log_variance"]),
        }

    def begin(key, params, x, labels):
        mean, spread = np.zeros(params["mean"].shape), np.zeros(params["mean"].shape)
        all_variance = x.var(0)
        least = np.where(all_variance > 0, max(floor, 1e-3) * all_variance, 1)
        for state in range(len(mean)):
            own = x[labels == state]
            own = own if len(own) >= max(mixtures, 2) else x
            mean[state], spread[state] = own.mean(0), np.maximum(own.var(0), least)
            if mixtures > 1:  # of as many steps for each state, so that k-means compiles once
                some = own[np.linspace(0, len(own) - 1, SOME).astype(int)]
                mean[state] = _kmeans(jax.random.fold_in(key, state), some, mixtures)
        first = {"mean": mean, "log_variance": np.log(spread)}
        dtype = params["mean"].dtype
        return params | jax.tree.map(lambda a: jnp.asarray(a, dtype), first)

    def sample(key, params, states):
        weights = log_probabilities(params["weight"])[states]
        which = jax.random.categorical(child_key(key, "mixture"), weights)
        mean, log_variance = (params[part][states, which] for part in ("mean", "log_variance"))
        noise = jax.random.normal(child_key(key, "noise"), mean.shape, mean.dtype)
        return mean + jnp.exp(log_variance / 2) * noise

    return Emission(init, check, score, fit, begin, sample, kmeans_init, name)


# Jitted, since one by one these operations would keep what has all five axes in memory.
@jax.jit
def _symbol_scores(logits, x):
    table = log_probabilities(logits).T  # (symbols, states)
    x = jnp.where(x < 0, len(table), x)  # JAX alone would count from the end
    return table.at[x].get(mode="fill", fill_value=jnp.nan)


@jax.jit
def _mixture_scores(params, x):
    return logsumexp(_components(params, x), -1)


def _components(params, x):  # (..., features) -> (..., states, mixtures)
    away = x[..., None, None, :] - params["mean"]
    squares = away**2 * jnp.exp(-params["log_variance"]) + params["log_variance"]
    log_density = -0.5 * (squares + math.log(2 * math.pi)).sum(-1)
    return log_density + log_probabilities(params["weight"])


def shares(count: jax.Array, old: jax.Array) -> jax.Array:
    """Logits of the shares in each row of counts; rows without any keep the old logits.

    Example:
      >>> shares(jnp.array([[1.0, 1], [0, 0]]), jnp.array([[5.0, 6], [7, 8]])).tolist()
      [[-0.693..., -0.693...], [7.0, 8.0]]
    """
    total = count.sum(-1, keepdims=True)
    return jnp.where(total > 0, to_logits(count / jnp.where(total > 0, total, 1)), old)
