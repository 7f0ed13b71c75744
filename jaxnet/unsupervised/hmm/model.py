"""Hidden Markov models: a chain of states that emits sequences, learned by EM or by gradients.

`hmm` is the layer whose output is log p(sequence). `baum_welch` and `fit_hmm` learn its params by
expectation maximization; `jn.trainer` learns the same params by the gradient, alone or together
with other layers. The states of a sequence are inferred by the functions in
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

from jaxnet import Layer, child_key, compose, spec, stateless, tools
from jaxnet.initializers import Initializer, zeros
from jaxnet.ops import at_least_float32
from jaxnet.services import checks
from jaxnet.services.meshes import on_auto_axes
from jaxnet.services.progress import progress_bar
from jaxnet.typing import Params, Sequence
from jaxnet.unsupervised.hmm.emissions import Align, Emission, shares
from jaxnet.unsupervised.hmm.markov import expected_counts, forward


def hmm(
    states: int,
    emission: Emission,
    *,
    start_init: Initializer = zeros,
    transition_init: Initializer = zeros,
    name: str = "hmm",
) -> Layer:
    """Score sequences by log p(sequence), in nats: x or (x, lengths) to (batch,).

    A sequence without steps has log p = 0, an impossible sequence -inf, and a sequence with a NaN
    within its length NaN. Equal states stay equal in training, so the emissions are drawn at
    random.

    Args:
      states: Number of states, at least 1.
      emission: Emission of the states, such as `categorical(symbols)`, whose x is (batch, time) of
        integers, or `gaussian_mixture()`, whose x is (batch, time, features).
      start_init: Initializer of the logits of the first state; see `first_state`.
      transition_init: Initializer of the logits of the next state; see `left_to_right`.
      name: Name of the layer.

    Params:
      start (states,) and transition (states, states), logits, one row per current state;
      emission, the params of the emission.

    Returns:
      A layer from sequences to log-probabilities (batch,).

    Raises:
      ValueError: If `states` is below 1, or the emission does not accept the form of x.

    Example:
      >>> from jaxnet.unsupervised.hmm import categorical
      >>> net = hmm(2, categorical(3))
      >>> batch = jnp.array([[0, 0, 2, 1, 1], [0, 2, 2, 1, 0]]), jnp.array([5, 4])  # x and lengths
      >>> objective = jn.compose(lambda m, batch: (-m(net, batch), {}), name="likelihood")
      >>> trainer = jn.trainer(objective, optax.adam(0.1))
      >>> train_state = trainer.init(jax.random.key(0), batch)
      >>> for _ in range(50):
      ...     train_state, metrics = trainer.step(train_state, batch)
      >>> np.asarray(net.apply(train_state.params["hmm"], {}, batch)[0]).round(1)  # log p(x)
      array([-3.6, -2.5], dtype=float32)
    """
    tools.at_least(name, "states", states)
    _check_emission(name, emission)
    tools.check_options(name, start_init=start_init, transition_init=transition_init)

    def emission_params(key, x):
        return emission.init(key, x, states)

    emitted = stateless(emission_params, lambda params, x: params, name="emission")

    def score(m, inputs):
        sequence = tools.read_sequence(inputs, name, rank=2)
        m._not_in_stream("scores whole sequences")
        if sequence.initial is not None:
            raise ValueError(f"{name}: takes no 'initial'; the first state is in its params")
        params = {
            "emission": m(emitted, sequence.x),
            "start": m.param("start", start_init, (states,)),
            "transition": m.param("transition", transition_init, (states, states)),
        }
        # Scores are sums over features and time.
        dtype = params["start"].dtype
        params = jax.tree.map(at_least_float32, params)
        scores = emission.score(params["emission"], sequence.without_padding())
        _, log_likelihood = forward(params, scores, sequence.lengths)
        return log_likelihood.astype(dtype)

    return compose(score, name=name, kind="hmm")


class EMResult(NamedTuple):
    """Result of `baum_welch`.

    Fields:
      params: Params after the last round.
      log_likelihoods: Log-likelihoods (rounds,) of all sequences together before each round, in
        nats.
    """

    params: Params
    log_likelihoods: np.ndarray


@on_auto_axes
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
    """Fit by expectation maximization: each round increases the likelihood of all sequences.

    A round computes the expected counts of each state, transition and emission, and their relative
    frequencies are the new params. A probability of 0 stays 0; a state that is never visited keeps
    its params. All sequences are one batch.

    Args:
      params: Initial params, of `hmm` with this emission. Equal states stay equal.
      x: Sequences (batch, time) or (batch, time, features), as the emission needs; values in
        padding are ignored.
      emission: Emission of the layer.
      lengths: Integers (batch,) in [0, time], or None.
      iterations: Largest number of rounds, at least 1.
      tolerance: Gain of log-likelihood, in nats per step, below which the rounds stop.
      progress: Whether to show a progress bar.

    Returns:
      An `EMResult`: the params after the last round, and the log-likelihood before each round.

    Raises:
      ValueError: If `iterations` is below 1, or if there are no steps.
      ValueError: If x has NaN, Inf or a symbol out of range, or if a sequence has probability 0.

    Example:
      Two coins, each thrown for a while; one usually shows 0, the other 1:

      >>> from jaxnet.unsupervised.hmm import categorical
      >>> x = np.repeat([[0, 1, 0, 1, 1, 0]], 9, 1)
      >>> params = {
      ...     "start": jnp.zeros(2), "transition": jnp.zeros((2, 2)),
      ...     "emission": {"logits": jnp.array([[0.5, 0], [0, 0.5]])},
      ... }
      >>> learned = baum_welch(params, x, categorical(2))
      >>> jax.nn.softmax(learned.params["emission"]["logits"]).round(2).tolist()
      [[1.0, 0.0], [0.0, 1.0]]

    References: Baum et al. 1970; Dempster, Laird and Rubin 1977, "Maximum likelihood from
    incomplete data via the EM algorithm".
    """
    tools.at_least("baum_welch", "iterations", iterations)
    tools.within("baum_welch", "tolerance", tolerance, "(-inf, inf)")
    _check_emission("baum_welch", emission)
    params = checks.as_dict("baum_welch", "params", params)
    sequence, mask = _read(x, lengths, "baum_welch")
    emission.check(sequence.x)
    steps = int(mask.sum())
    history: list[float] = []
    with progress_bar(iterations, "Baum-Welch", progress) as bar:
        for _ in range(iterations):
            params, log_likelihood = em_round(params, sequence.x, jnp.asarray(mask), emission)
            each = np.asarray(log_likelihood, np.float64)
            if not np.isfinite(each).all():
                first = int(np.argmin(np.isfinite(each)))
                raise ValueError(
                    f"baum_welch: sequence {first} has log p = {each[first]} under the params, so "
                    "there is nothing to learn from it. Does it need a start, transition or symbol "
                    "of probability 0, or is it shorter than the path from left to right?"
                )
            history.append(float(each.sum()))
            bar.update(1)
            if len(history) > 1:
                gain = history[-1] - history[-2]
                if gain < tolerance * steps:
                    break
    return EMResult(params, np.array(history))


@on_auto_axes
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
    """Fit a hidden Markov model to sequences, with initial params from the data and Baum-Welch.

    EM ends in a local maximum, which depends on the key.

    Args:
      key: Random key; the same key and data give the same params.
      x: Sequences (batch, time) or (batch, time, features), as the emission needs; values in
        padding are ignored.
      states: Number of states, at least 1.
      emission: `categorical(symbols)`, `gaussian_mixture(mixtures)` or one of your own.
      lengths: Integers (batch,) in [0, time], or None.
      start_init, transition_init: Options of `hmm`.
      align: Function that labels each step with a state, such as `uniform_segments`. The first
        emissions are fitted to these labels. None uses the emission's default: clusters of k-means
        for Gaussians, and random params for symbols.
      restarts: Number of runs, each with its own key; the most likely result is returned.
      iterations, tolerance, progress: See `baum_welch`.

    Returns:
      Params of `hmm(states, emission)`.

    Raises:
      ValueError: As in `baum_welch` and `hmm`, or if `restarts` is below 1, or if there are fewer
        steps than states.
      ImportError: If scikit-learn, for k-means, is not installed.

    Example:
      >>> from jaxnet.unsupervised.hmm import gaussian_mixture
      >>> x = np.random.default_rng(0).normal(size=(4, 30, 2)) + 9 * (np.arange(30) > 15)[:, None]
      >>> params = fit_hmm(jax.random.key(0), x, 2, emission=gaussian_mixture())
      >>> sorted(abs(params["emission"]["mean"][:, 0, 0]).round().tolist())
      [0.0, 9.0]
    """
    checks.check_key(key, "fit_hmm")
    checks.all_at_least("fit_hmm", states=states, restarts=restarts)
    tools.check_options("fit_hmm", start_init=start_init, transition_init=transition_init)
    _check_emission("fit_hmm", emission)
    checks.a_function("fit_hmm", "align", align, "(key, x, mask, states)", optional=True)
    sequence, mask = _read(x, lengths, "fit_hmm")
    steps = int(mask.sum())
    if steps < states:
        raise ValueError(f"fit_hmm: {steps} steps are too few for {states} states")
    net = hmm(states, emission, start_init=start_init, transition_init=transition_init)
    values = np.asarray(sequence.x)
    if align is None:
        align = emission.align
    options = {"iterations": iterations, "tolerance": tolerance, "progress": progress}
    runs = []
    for i in range(restarts):
        run_key = jax.random.fold_in(key, i)
        init_key = child_key(run_key, "init")
        params, _ = net.init(init_key, spec(values.shape, values.dtype))
        if align:
            labels = align(child_key(run_key, "align"), values, mask, states)
            begin_key = child_key(run_key, "begin")
            first = emission.begin(begin_key, params["emission"], values[mask], labels[mask])
            params = params | {"emission": first}
        runs.append(baum_welch(params, sequence.x, emission, sequence.lengths, **options))
    return max(runs, key=lambda run: run.log_likelihoods[-1]).params


@partial(jax.jit, static_argnums=3)
def em_round(params, x, mask, emission):
    """Return better params, and the log-likelihood of each sequence before the round."""
    scores = emission.score(params["emission"], x)
    counts = expected_counts(params, scores, mask.sum(1))
    better = {
        "start": shares(counts.start, params["start"]),
        "transition": shares(counts.transition, params["transition"]),
        "emission": emission.fit(params["emission"], x, counts.posterior),
    }
    return better, counts.log_likelihood


def _check_emission(who: str, emission: Any) -> None:
    checks.check_type(who, "emission", emission, Emission, "an Emission, such as categorical(5)")


def _read(x: Any, lengths: Any, who: str) -> tuple[Sequence, np.ndarray]:
    """Return the checked sequences with zeros in padding, and their mask."""
    x = checks.to_device(who, "x", x)
    if lengths is None:
        sequence = tools.read_sequence(x, who, rank=2)
        mask = np.ones(x.shape[:2], bool)
    else:
        lengths = tools.as_array(who, "lengths", lengths, "(batch,)", "integers")
        sequence = tools.read_sequence((x, lengths), who, rank=2)
        mask = np.asarray(sequence.mask())
    sequence = sequence._replace(x=sequence.without_padding())
    if not mask.any():
        raise ValueError(f"{who}: x must hold at least one step, got {x.shape}, lengths {lengths}")
    checks.check_finite(who, sequence.x, "sequences")
    return sequence, mask
