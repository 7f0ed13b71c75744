import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.services.jax_versions import enable_x64
from jaxnet.unsupervised import hmm
from jaxnet.unsupervised.hmm.markov import expected_counts, to_logits
from tests import oracles
from tests.helpers import close

KEYS_MAY_REPEAT = True
LENGTHS = np.array([5, 3, 1, 0, 4])
ZERO = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1]], bool)  # allowed from left to right


def model(left=False, batch=5, time=5, states=3, seed=0):
    """Probabilities, the params that stand for them, and scores."""
    draw = np.random.default_rng(seed)
    start = draw.uniform(0.1, 1, states)
    transition = draw.uniform(0.1, 1, (states, states))
    if left:
        start = np.eye(states)[0]
        transition = transition * ZERO
    start = start / start.sum()
    transition = transition / transition.sum(1, keepdims=True)
    params = {"start": to_logits(start) + 2, "transition": to_logits(transition) - 1}
    return start, transition, params, draw.normal(size=(batch, time, states)) - 1


@pytest.mark.slow
@pytest.mark.parametrize("left", [False, True])
def test_everything_is_what_enumeration_gives(x64, left):
    """The counts follow, since they are gradients."""
    _, _, params, scores = model(left)
    given = params, scores[LENGTHS > 0], LENGTHS[LENGTHS > 0]
    for function in (hmm.forward, hmm.posteriors, hmm.viterbi):
        close(function(*given), getattr(oracles, function.__name__)(*given), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("left", [False, True])
def test_the_gradient_is_the_posterior_counts(x64, left):
    """Fisher's identity: by scores the posterior, by logits counts less what was expected."""
    start, transition, params, scores = model(left)

    def total(params, scores):
        return hmm.forward(params, scores, LENGTHS)[1].sum()

    by_params, by_scores = jax.jit(jax.grad(total, (0, 1)))(params, jnp.asarray(scores))
    posterior = np.asarray(hmm.posteriors(params, scores, LENGTHS))
    counts = expected_counts(params, scores, LENGTHS)
    first = posterior[:, 0].sum(0)
    found = by_scores, counts.posterior, counts.start
    close(found, (posterior, posterior, first), 1e-7, 1e-12)
    log_p = hmm.forward(params, scores, LENGTHS)[1]
    np.testing.assert_allclose(counts.log_likelihood, log_p, rtol=1e-14)
    moves = np.asarray(counts.transition)
    leaving = moves.sum(1, keepdims=True)
    slopes = {"start": first - first.sum() * start, "transition": moves - leaving * transition}
    close(by_params, slopes, 1e-7, 1e-12)
    if left:
        assert (np.asarray(by_params["transition"])[~ZERO] == 0).all()
    # forward mode and second derivatives are there too
    h = 1e-6 * np.random.default_rng(1).normal(size=scores.shape)
    numerical = (total(params, scores + h) - total(params, scores - h)) / 2
    _, tangent = jax.jvp(lambda s: total(params, s), (jnp.asarray(scores),), (h,))
    np.testing.assert_allclose(tangent, numerical, rtol=1e-6)
    slope = jax.jit(jax.grad(lambda s: total(params, s)))
    _, second = jax.jvp(slope, (jnp.asarray(scores),), (h,))
    numerical = slope(jnp.asarray(scores + h)) - by_scores
    np.testing.assert_allclose(second, numerical, atol=2e-10)
    assert np.abs(second).max() > 1e-8


@pytest.mark.slow
def test_gradients_of_posterior_and_viterbi_are_right_and_finite(x64):
    _, _, params, scores = model(left=True)
    weight = np.random.default_rng(2).normal(size=scores.shape)

    def by_posterior(params, scores):
        return (weight * hmm.posteriors(params, scores, LENGTHS)).sum()

    def by_path(params, scores):
        _, log_p = hmm.viterbi(params, scores, LENGTHS)
        return log_p.sum()

    for function in (by_posterior, by_path):
        gradient = jax.jit(jax.grad(function, (0, 1)))(params, jnp.asarray(scores))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        h = 1e-6 * weight
        numerical = (function(params, scores + h) - function(params, scores - h)) / 2
        np.testing.assert_allclose((gradient[1] * h).sum(), numerical, rtol=1e-6)


def functions(params, scores, lengths):
    """Everything of the same sequences; the sums of transitions have no axis of time."""
    counts = expected_counts(params, scores, lengths)
    found = [f(params, scores, lengths) for f in (hmm.forward, hmm.posteriors, hmm.viterbi)]
    return found, (counts.log_likelihood, counts.posterior, counts.start, counts.transition)


@pytest.mark.slow
def test_padding_changes_nothing():
    """Exactly, whatever stands there and however much of it."""
    _, _, params, scores = model()
    scores = scores.astype(np.float32)
    rubbish = np.array([np.nan, np.inf, -np.inf, 1e30], np.float32)
    padded = np.resize(rubbish, (5, 9, 3))
    for i, n in enumerate(LENGTHS):
        padded[i, :n] = scores[i, :n]

    plain = jax.device_get(functions(params, scores, LENGTHS))
    long = jax.device_get(functions(params, padded, LENGTHS))

    def cut(a):
        return a[:, :5] if a.ndim > 1 and a.shape[:2] == (5, 9) else a

    jax.tree.map(np.testing.assert_array_equal, plain, jax.tree.map(cut, long))


@pytest.mark.slow
def test_many_steps_and_unlikely_ones_do_not_underflow():
    params = {"start": jnp.zeros(2), "transition": jnp.zeros((2, 2))}
    scores = jnp.full((1, 2000, 2), -50.0)  # exp(-100000) is 0 in any float
    np.testing.assert_allclose(hmm.forward(params, scores)[1], [-100000], rtol=1e-6)
    scores = scores - 1e-3 * jnp.arange(2)  # 100,000 alone has no such digits in float32
    share = 1 / (1 + np.exp(-1e-3))
    posterior = hmm.posteriors(params, scores)
    counts = expected_counts(params, scores)
    np.testing.assert_allclose(posterior[..., 0], share, rtol=1e-5)
    np.testing.assert_allclose(counts.posterior[..., 0], share, rtol=1e-5)


@pytest.mark.slow
def test_the_path_of_many_steps_is_that_of_float64():
    """Near -500,000 float32 has steps of 0.03: 600 states were wrong, the score by 491."""
    draw = np.random.default_rng(0)
    params = {"start": draw.normal(size=4), "transition": draw.normal(size=(4, 4))}
    given = params, draw.normal(-5, 1, size=(1, 100_000, 4))
    path, score = hmm.viterbi(*jax.tree.map(np.float32, given))
    with enable_x64(True):
        exact_path, exact = hmm.viterbi(*given)
    np.testing.assert_array_equal(path, exact_path)
    np.testing.assert_allclose(score, exact, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["start", "transition"])
def test_nan_in_params_is_nan_in_every_result(name):
    _, _, params, scores = model()
    params[name] = params[name].at[..., 0].set(jnp.nan)
    long = LENGTHS > (1 if name == "transition" else 0)
    assert np.isnan(hmm.forward(params, scores, LENGTHS)[1]).tolist() == long.tolist()
    path, score = hmm.viterbi(params, scores, LENGTHS)
    assert np.isnan(score).tolist() == long.tolist()
    assert (path[long] == -1).all()
    posterior = hmm.posteriors(params, scores, LENGTHS)
    assert np.isnan(posterior[long]).any((1, 2)).all()


@pytest.mark.slow
def test_nan_and_impossible_states_in_logits():
    _, _, _, scores = model()
    assert jnp.isnan(hmm.log_probabilities(jnp.array([0.0, jnp.nan]))).all()
    broken = hmm.scaled_likelihoods(scores, jnp.array([0.0, jnp.nan, 0]))
    assert jnp.isnan(broken[..., 1]).all()
    never = hmm.scaled_likelihoods(scores, jnp.array([0.0, -jnp.inf, 0]))
    assert (never[..., 1] == -jnp.inf).all()


def test_a_sequence_that_no_path_can_emit_has_no_path():
    _, _, params, scores = model()
    scores[1, 2, :] = -np.inf
    path, score = hmm.viterbi(params, scores, LENGTHS)
    assert score[1] == -np.inf
    assert (path[1] == -1).all()
    assert (path[2, : LENGTHS[2]] >= 0).all()


@pytest.mark.slow
def test_impossible_and_nan_sequences_are_alone_with_it():
    _, _, params, scores = model(left=True)
    scores[1, 2, :] = -np.inf  # a step that no state can emit
    scores[4, 0, 0] = -np.inf  # the only first state cannot be
    scores[0, 3, 1] = np.nan
    _, log_p = hmm.forward(params, scores, LENGTHS)
    log_p = np.asarray(log_p)
    assert np.isnan(log_p[0])
    assert log_p[1] == log_p[4] == -np.inf
    assert np.isfinite(log_p[2])
    path, score = map(np.asarray, hmm.viterbi(params, scores, LENGTHS))
    assert np.isnan(score[0])
    assert score[1] == score[4] == -np.inf
    assert (np.asarray(path)[[0, 1, 4]] == -1).all()
    assert path[2, 0] == 0
    posterior = np.asarray(hmm.posteriors(params, scores, LENGTHS))
    assert (posterior[[1, 4]] == 0).all()
    assert np.isnan(posterior[0]).any()
    few = np.array([1, 2, 4])
    counts = expected_counts(params, scores[few], LENGTHS[few])
    alone = expected_counts(params, scores[[2]], LENGTHS[[2]])
    np.testing.assert_array_equal(counts.start, alone.start)
    np.testing.assert_array_equal(counts.transition, alone.transition)
    gradient = jax.grad(lambda p: hmm.forward(p, scores[few], LENGTHS[few])[1][1])(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_log_probabilities():
    logits = jnp.array(
        [[0.0, 1, 2], [-jnp.inf, 0, hmm.LOG_ZERO], [hmm.LOG_ZERO, hmm.LOG_ZERO, -jnp.inf]]
    )
    p = jnp.exp(hmm.log_probabilities(logits))
    e = np.exp([0, 1, 2])
    np.testing.assert_allclose(p, [e / e.sum(), [0, 1, 0], [0, 0, 0]], rtol=1e-6)
    weight = jnp.arange(9.0).reshape(3, 3)

    @jax.jit
    @jax.grad
    def slope(logits):
        p = jnp.exp(hmm.log_probabilities(logits))
        return (weight * p).sum()

    gradient = slope(logits)
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient[1:]) == 0).all()
    decayed = hmm.LOG_ZERO * 0.99  # as by weight decay
    assert hmm.log_probabilities(jnp.array([0.0, decayed]))[1] == -jnp.inf
    np.testing.assert_array_equal(to_logits(jnp.array([0.0, 1.0])), np.float32([hmm.LOG_ZERO, 0]))


def test_topologies():
    key = jax.random.key(0)
    logits = hmm.left_to_right(skips=1)(key, (4, 4))
    skipping = jnp.exp(hmm.log_probabilities(logits))
    np.testing.assert_allclose(skipping[0], [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(skipping[2:], [[0, 0, 0.5, 0.5], [0, 0, 0, 1]])
    assert (
        hmm.first_state(key, (3,)).tolist() == np.float32([0, hmm.LOG_ZERO, hmm.LOG_ZERO]).tolist()
    )


@pytest.mark.parametrize(("call", "words"), [
    (lambda: hmm.left_to_right(-1), "skips must be at least 0, got -1"),
    (lambda: hmm.left_to_right()(None, (3,)), r"shape must be \(states, states\), got \(3"),
    (lambda: hmm.first_state(None, (2, 3)), r"first_state: shape must be \(states,\), got \(2"),
    (lambda: hmm.scaled_likelihoods(jnp.zeros((2, 4, 3)), jnp.zeros(4)), "log_prior must .*= 3"),
])  # fmt: skip
def test_messages(call, words):
    with pytest.raises(ValueError, match=words):
        call()


GOOD = {"start": jnp.zeros(3), "transition": jnp.zeros((3, 3))}


@pytest.mark.parametrize(("params", "shape", "lengths", "error", "words"), [
    ({"start": 0}, (2, 4, 3), None, ValueError, r"a dict with 'start'.* got \['start'\]"),
    (GOOD | {"start": None}, (2, 4, 3), None, TypeError, r"params\['start'\] must be a JAX or"),
    (GOOD | {"transition": jnp.zeros((3, 2))}, (2, 4, 3), None, ValueError, r"\(3, 2\)"),
    (GOOD, (2, 4, 5), None, ValueError, r"scores must have .* with states = 3, got \(2, 4, 5"),
    (GOOD, (4, 3), None, ValueError, r"scores must have shape \(batch, time, states\)"),
    (GOOD, (2, 4, 3), np.array([5, 1]), ValueError, r"lengths, in steps of x, must be in \[0, 4\]"),
    (GOOD, (2, 4, 3), np.array([4.0, 1]), TypeError, "must be an array of integers"),
    (GOOD, (2, 4, 3), np.array([4]), ValueError, r"lengths must be \(batch,\) = \(2,\)"),
    (GOOD, (2, 0, 3), None, ValueError, "at least one time step"),
])  # fmt: skip
def test_what_does_not_fit(params, shape, lengths, error, words):
    for function in (hmm.forward, hmm.posteriors, hmm.viterbi, expected_counts):
        with pytest.raises(error, match=words):
            function(params, jnp.zeros(shape), lengths)
