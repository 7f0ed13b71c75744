"""Hidden Markov models: a chain of states that emits sequences, learned by EM or by gradients.

`hmm` is the layer whose output is log p(sequence). `baum_welch` and `fit_hmm` learn its params by
expectation maximization; `jn.make_step` learns the same params by the gradient, alone or with what
stands around the layer. What the states were is asked of the functions in
`jaxnet.unsupervised.hmm.markov`, which take the emission's scores:

    scores = emission.score(params["emission"], x)    # (batch, time, states)
    path, log_probability = viterbi(params, scores, lengths)

References: Baum, Petrie, Soules and Weiss 1970, "A maximization technique occurring in the
statistical analysis of probabilistic functions of Markov chains"; Rabiner 1989, "A Tutorial on
Hidden Markov Models and Selected Applications in Speech Recognition".
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, child_key, spec, stateless
from jaxnet.initializers import Initializer, zeros
from jaxnet.layers.sequence import Sequence, read
from jaxnet.progress import progress_bar
from jaxnet.unsupervised.hmm.emissions import Align, Emission, shares
from jaxnet.unsupervised.hmm.markov import hmm_counts, hmm_forward, log_probabilities


def hmm(
    states: int,
    emission: Emission,
    *,
    start_init: Initializer = zeros,
    transition_init: Initializer = zeros,
    name: str = "hmm",
) -> Layer:
    """log p(sequence) of each sequence of a batch, in nats: x or (x, lengths) to (batch,).

    Trained by its gradient, states must not begin alike: the emissions are drawn. A sequence of no
    steps has log p = 0, an impossible one -inf, and one with a NaN within its length NaN.

    Args:
      states: at least 1.
      emission: what the states emit, such as `categorical(symbols)`, whose x is (batch, time) of
        integers, or `gaussian_mixture()`, whose x is (batch, time, features).
      start_init: draws the logits of the first state; see `first_state`.
      transition_init: draws the logits of the next state; see `left_to_right`.
      name: of the layer.

    Params:
      start (states,) and transition (states, states), logits, a row where one comes from;
      emission, those of the emission.

    Raises:
      ValueError: for states below 1, or x that the emission cannot take.

    Example:
      >>> net, optimizer = hmm(2, jn.unsupervised.categorical(3)), optax.adam(0.1)
      >>> x, lengths = jnp.array([[0, 0, 2, 1, 1], [0, 2, 2, 1, 0]]), jnp.array([5, 4])
      >>> def objective(params, state, batch, *, key, train):
      ...     log_p, state = net.apply(params, state, batch)
      ...     return -log_p.mean(), (state, {})
      >>> step = jn.make_step(objective, optimizer)
      >>> params, state = net.init(jax.random.key(0), (x, lengths))
      >>> train_state = jn.init_training(net, optimizer, jax.random.key(0), x)
      >>> for _ in range(50):
      ...     train_state, metrics = step(train_state, (x, lengths))
      >>> net.apply(train_state.params, {}, (x, lengths))[0].sum() > -8
      Array(True, dtype=bool)
    """
    if states < 1:
        raise ValueError(f"{name}: states must be at least 1, got {states}")

    def init(key, given):
        sequence = read(given, name, rank=2)
        if sequence.initial is not None:
            raise ValueError(f"{name}: takes no 'initial', the first state has params of its own")
        drawn = emission.init(child_key(key, "emission"), sequence.x, states)
        dtype = jnp.result_type(*jax.tree.leaves(drawn))
        return {
            "start": start_init(child_key(key, "start"), (states,), dtype),
            "transition": transition_init(child_key(key, "transition"), (states, states), dtype),
            "emission": drawn,
        }

    def apply(params, given):
        sequence = read(given, name, rank=2)
        scores = emission.score(params["emission"], _blanked(sequence))
        return hmm_forward(params, scores, sequence.lengths)[1]

    return stateless(init, apply, name=name)


class EMResult(NamedTuple):
    """What `baum_welch` gives.

    Fields:
      params: after the last round.
      log_likelihoods: (rounds,), of all sequences together, in nats, before each round.
    """

    params: Params
    log_likelihoods: np.ndarray


def baum_welch(
    params: Params,
    x: Any,
    emission: Emission,
    lengths: Any = None,
    *,
    iterations: int = 100,
    tolerance: float = 1e-4,
    progress: bool = True,
) -> EMResult:
    """Expectation maximization: each round makes all sequences together likelier.

    A round counts how often each state, transition and emission is expected to have occurred, and
    takes their shares for the new params. What had probability 0 keeps it; a state that is never
    visited keeps its params. All sequences are one batch.

    Args:
      params: of `hmm` with this emission, where to start. States that are alike stay alike.
      x: (batch, time) or (batch, time, features), by the emission; padding may be anything.
      emission: as that of the layer.
      lengths: (batch,) integers in [0, time], or None.
      iterations: at most so many rounds, at least 1.
      tolerance: ends after a round that gained less than this many nats a step.
      progress: whether a bar runs.

    Raises:
      ValueError: for iterations below 1, no steps at all, a NaN or Inf, a symbol out of range, or a
        sequence that has probability 0.

    Example:
      Two coins, of which one is mostly 0 and the other mostly 1, each thrown for a while:

      >>> x = np.repeat([[0, 1, 0, 1, 1, 0]], 9, 1)
      >>> emission = jn.unsupervised.categorical(2)
      >>> params = {
      ...     "start": jnp.zeros(2), "transition": jnp.zeros((2, 2)),
      ...     "emission": {"logits": jnp.array([[0.5, 0], [0, 0.5]])},
      ... }
      >>> learned = baum_welch(params, x, emission)
      >>> jax.nn.softmax(learned.params["emission"]["logits"]).round(2).tolist()
      [[1.0, 0.0], [0.0, 1.0]]

    References: Baum et al. 1970; Dempster, Laird and Rubin 1977, "Maximum likelihood from
    incomplete data via the EM algorithm".
    """
    if iterations < 1:
        raise ValueError(f"baum_welch: iterations must be at least 1, got {iterations}")
    sequence, mask = _checked(x, lengths, "baum_welch")
    emission.check(sequence.x)
    steps = int(mask.sum())
    history: list[float] = []
    with progress_bar(iterations, "Baum-Welch", progress) as bar:
        for _ in range(iterations):
            params, log_likelihood = _round(params, sequence.x, jnp.asarray(mask), emission)
            each = np.asarray(log_likelihood, np.float64)
            if not np.isfinite(each).all():
                first = int(np.argmin(np.isfinite(each)))
                raise ValueError(
                    f"baum_welch: sequence {first} has log p = {each[first]} under the params, "
                    "nothing can be learned from it; are a start, a transition or a symbol that it "
                    "needs impossible, or is it shorter than the way from left to right?"
                )
            history.append(float(each.sum()))
            bar.update(1)
            if len(history) > 1 and history[-1] - history[-2] < tolerance * steps:
                break
    return EMResult(params, np.array(history))


def fit_hmm(
    key: jax.Array,
    x: Any,
    states: int,
    *,
    emission: Emission,
    lengths: Any = None,
    start_init: Initializer = zeros,
    transition_init: Initializer = zeros,
    align: Align | None = None,
    restarts: int = 1,
    iterations: int = 100,
    tolerance: float = 1e-4,
    progress: bool = True,
) -> Params:
    """A hidden Markov model from sequences alone: first params from the data, then Baum-Welch.

    EM ends in a local maximum, and another key may end in another.

    Args:
      key: the same key and data give the same params.
      x: (batch, time) or (batch, time, features), by the emission; padding may be anything.
      states: at least 1.
      emission: `categorical(symbols)`, `gaussian_mixture(mixtures)` or one of your own.
      lengths: (batch,) integers in [0, time], or None.
      start_init, transition_init: as for `hmm`.
      align: guesses the state of each step, on which the first emissions are fitted: `kmeans_init`,
        by k-means or random vectors, or `uniform_segments`. None takes the emission's own way: clusters
        by k-means for Gaussians, and for symbols none, their params are drawn.
      restarts: so many runs with keys of their own, of which the likeliest is kept.
      iterations, tolerance, progress: see `baum_welch`.

    Returns:
      Params of `hmm(states, emission)`.

    Raises:
      ValueError: as `baum_welch` and `hmm`, for restarts below 1, or fewer steps than states.

    Example:
      >>> x = np.random.default_rng(0).normal(size=(4, 30, 2)) + 9 * (np.arange(30) > 15)[:, None]
      >>> emission = jn.unsupervised.gaussian_mixture()
      >>> params = fit_hmm(jax.random.key(0), x, 2, emission=emission)
      >>> sorted(abs(params["emission"]["mean"][:, 0, 0]).round().tolist())
      [0.0, 9.0]
    """
    if restarts < 1:
        raise ValueError(f"fit_hmm: restarts must be at least 1, got {restarts}")
    sequence, mask = _checked(x, lengths, "fit_hmm")
    steps = int(mask.sum())
    if steps < states:
        raise ValueError(f"fit_hmm: {steps} steps are too few for {states} states")
    net = hmm(states, emission, start_init=start_init, transition_init=transition_init)
    values = np.asarray(sequence.x)
    align = align or emission.align
    best = None
    for i in range(restarts):
        here = jax.random.fold_in(key, i)
        params, _ = net.init(child_key(here, "init"), spec(values.shape, values.dtype))
        if align:
            labels = align(child_key(here, "align"), values, mask, states)
            first = emission.begin(
                child_key(here, "begin"), params["emission"], values[mask], labels[mask]
            )
            params = params | {"emission": first}
        learned = baum_welch(
            params, sequence.x, emission, sequence.lengths,
            iterations=iterations, tolerance=tolerance, progress=progress,
        )  # fmt: skip
        if best is None or learned.log_likelihoods[-1] > best.log_likelihoods[-1]:
            best = learned
    assert best is not None
    return best.params


def sample_hmm(
    key: jax.Array, params: Params, emission: Emission, batch: int, time: int
) -> tuple[jax.Array, jax.Array]:
    """Sequences drawn from the model, and the states they came from.

    Args:
      key: the same key gives the same sequences.
      params: of `hmm` with this emission.
      emission: as that of the layer.
      batch: how many, at least 1.
      time: steps of each, at least 1.

    Returns:
      x (batch, time) or (batch, time, features), by the emission, and states (batch, time) int32.

    Raises:
      ValueError: for batch or time below 1.

    Example:
      >>> emission = jn.unsupervised.gaussian_mixture(2)
      >>> params, _ = hmm(4, emission).init(jax.random.key(0), jn.spec((1, 1, 3)))
      >>> x, states = sample_hmm(jax.random.key(1), params, emission, 5, 7)
      >>> x.shape, states.shape
      ((5, 7, 3), (5, 7))
    """
    if batch < 1 or time < 1:
        raise ValueError(f"sample_hmm: batch and time must be at least 1, got {batch}, {time}")
    return _sample(key, params, emission, batch, time)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _sample(key, params, emission, batch, time):
    log_transition = log_probabilities(params["transition"])

    def step(state, key):
        state = jax.random.categorical(key, log_transition[state])
        return state, state

    log_start = log_probabilities(params["start"])
    first = jax.random.categorical(child_key(key, "start"), log_start, shape=(batch,))
    keys = jax.random.split(child_key(key, "transition"), time - 1)
    _, later = jax.lax.scan(step, first, keys)
    states = jnp.concatenate([first[None], later]).T.astype(jnp.int32)  # (batch, time)
    return emission.sample(child_key(key, "emission"), params["emission"], states), states


@partial(jax.jit, static_argnums=3)
def _round(params, x, mask, emission):
    """Better params, and the log-likelihood of each sequence before."""
    scores = emission.score(params["emission"], x)
    counts = hmm_counts(params, scores, mask.sum(1))
    better = {
        "start": shares(counts.start, params["start"]),
        "transition": shares(counts.transition, params["transition"]),
        "emission": emission.fit(params["emission"], x, counts.posterior),
    }
    return better, counts.log_likelihood


def _blanked(sequence: Sequence) -> jax.Array:
    """x with zeros in padding: a NaN or a strange symbol there would reach the gradients."""
    mask = sequence.mask()
    if mask is None:
        return sequence.x
    return jnp.where(mask.reshape(mask.shape + (1,) * (sequence.x.ndim - 2)), sequence.x, 0)


def _checked(x: Any, lengths: Any, who: str) -> tuple[Sequence, np.ndarray]:
    """The sequences with blank padding, and their mask, after a look at the values."""
    x = jnp.asarray(x)
    sequence = read(x if lengths is None else (x, jnp.asarray(lengths)), who, rank=2)
    sequence = sequence._replace(x=_blanked(sequence))
    mask = np.ones(x.shape[:2], bool) if lengths is None else np.asarray(sequence.mask())
    if not mask.any():
        raise ValueError(f"{who}: x must hold at least one step, got {x.shape}, lengths {lengths}")
    finite = np.asarray(jnp.isfinite(sequence.x).reshape(len(x), -1).all(1))
    if not finite.all():
        raise ValueError(
            f"{who}: {(~finite).sum()} of {len(x)} sequences hold a NaN or Inf, the first is "
            f"number {int(np.argmin(finite))}"
        )
    return sequence, mask
