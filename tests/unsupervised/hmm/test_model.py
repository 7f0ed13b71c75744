from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.unsupervised import hmm as of
from jaxnet.unsupervised.hmm.markov import to_logits
from tests.helpers import close, jit_apply

KEYS_MAY_REPEAT = True
LENGTHS = np.array([12, 7, 1, 9])
VALID = np.arange(12) < LENGTHS[:, None]


def rows(draw, *shape):
    p = draw.uniform(0.1, 1, shape)
    return p / p.sum(-1, keepdims=True)


def model(kind, states=3, features=2, mixtures=2, symbols=4):
    """Params, their emission, and sequences that are padded with NaN or -1."""
    draw = np.random.default_rng(0)
    start = rows(draw, states)
    transition = rows(draw, states, states)
    params = {"start": to_logits(start), "transition": to_logits(transition)}
    if kind == "categorical":
        p = rows(draw, states, symbols)
        x = np.where(VALID, draw.integers(0, symbols, VALID.shape), -1)
        emission = of.categorical(symbols)
        params["emission"] = {"logits": to_logits(p)}
    else:
        mixtures = mixtures if kind == "mixture" else 1
        shape = states, mixtures, features
        mean = 1.5 * draw.normal(size=shape)
        variance = draw.uniform(0.5, 2, shape)
        weight = rows(draw, states, mixtures)
        steps = 3 + draw.normal(size=(*VALID.shape, features)) * 2
        x = np.where(VALID[..., None], steps, np.nan)
        emission = of.gaussian_mixture(mixtures, floor=0)
        params["emission"] = {
            "weight": to_logits(weight),
            "mean": jnp.asarray(mean + 3),
            "log_variance": jnp.log(variance),
        }
    return params, emission, x


@pytest.mark.parametrize(("totals", "rounds"), [
    ([-100, -60, -58, -50, -48.1, -40], 5),  # a gain of exactly 0.2 per step is enough
    ([-100, -98.1, -40], 2),
    (range(-400, 0, 3), 100),
])  # fmt: skip
def test_rounds_end_with_a_small_gain(monkeypatch, totals, rounds):
    left = iter(totals)

    def one(params, x, mask, emission):
        return {"rounds": params["rounds"] + 1}, np.array([0.25, 0.75]) * next(left)

    monkeypatch.setattr("jaxnet.unsupervised.hmm.model.em_round", one)
    lengths = np.array([6, 4])  # 10 steps
    given = {"rounds": jnp.zeros(())}, np.zeros((2, 6), int), of.categorical(2), lengths
    found = of.baum_welch(*given, tolerance=0.2, progress=False)
    assert found.params["rounds"] == rounds
    assert found.log_likelihoods.tolist() == list(totals)[:rounds]


def test_the_best_of_several_starts_is_kept(monkeypatch):
    seen = []

    def one(params, x, mask, emission):
        seen.append(params)
        return params, np.array([-9.0, -3.0, -5.0])[[len(seen) - 1]]

    monkeypatch.setattr("jaxnet.unsupervised.hmm.model.em_round", one)
    x = np.array([[0, 1, 1, 0]])
    options = {"restarts": 3, "iterations": 1, "progress": False}
    found = of.fit_hmm(jax.random.key(0), x, 2, emission=of.categorical(2), **options)
    assert len(seen) == 3
    assert found is seen[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["categorical", "mixture"])
def test_each_round_is_likelier_and_padding_changes_nothing(x64, kind):
    params, emission, x = model(kind)
    learn = partial(of.baum_welch, params, emission=emission, iterations=12, tolerance=-1)
    learned = learn(x, lengths=LENGTHS)
    assert (np.diff(learned.log_likelihoods) > 0).all()
    assert len(learned.log_likelihoods) == 12
    wider = np.concatenate([x, np.full_like(x, 99)], 1)
    close(learned.params, learn(wider, lengths=LENGTHS).params, 1e-9, 0)
    order = np.array([2, 0, 3, 1])
    close(learned.params, learn(x[order], lengths=LENGTHS[order]).params, 1e-8, 0)
    early = of.baum_welch(params, x, emission, LENGTHS, iterations=500, tolerance=1e-2)
    gains = np.diff(early.log_likelihoods) / LENGTHS.sum()
    assert 2 < len(early.log_likelihoods) < 500
    assert gains[-1] < 1e-2
    assert (gains[:-1] >= 1e-2).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["categorical", "mixture"])
def test_padding_changes_no_likelihood_and_no_gradient(kind):
    """Exactly, whatever stands there."""
    params, emission, x = model(kind)
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
    x = jnp.asarray(x, jnp.int32 if kind == "categorical" else jnp.float32)
    net = of.hmm(3, emission)
    lengths = jnp.asarray(LENGTHS)

    @jax.jit
    def both(x):
        def total(params):
            log_p, _ = net.apply(params, {}, (x, lengths))
            return log_p.sum(), log_p

        gradient, log_p = jax.grad(total, has_aux=True)(params)
        return log_p, gradient

    log_p, gradient = both(x)
    valid = VALID if x.ndim == 2 else VALID[..., None]
    again, same = both(jnp.where(valid, x, 7))
    assert np.isfinite(log_p).all()
    np.testing.assert_array_equal(log_p, again)
    jax.tree.map(np.testing.assert_array_equal, gradient, same)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def walk(key):
    """Sequences from left to right through three states far apart, and their states."""
    mean = np.array([[0.0, 0], [9, 0], [0, 9]])
    params = {
        "start": of.first_state(key, (3,)),
        "transition": of.left_to_right()(key, (3, 3)),
        "emission": {
            "weight": jnp.zeros((3, 1)),
            "log_variance": jnp.zeros((3, 1, 2)),
            "mean": jnp.array(mean[:, None]),
        },
    }
    draw = np.random.default_rng(0)
    moves = np.pad(draw.random((40, 10)) < 0.5, ((0, 0), (1, 0)))
    states = np.minimum(np.cumsum(moves, 1), 2)
    x = mean[states] + draw.normal(size=(40, 11, 2))
    return params, of.gaussian_mixture(), x.astype(np.float32), states


@pytest.mark.long
def test_what_cannot_be_stays_so():
    """From left to right, through Baum-Welch and through steps of an optimizer."""
    params, emission, x, states = walk(jax.random.key(0))
    assert set(np.diff(states).ravel()) == {0, 1}
    assert (states[:, 0] == 0).all()
    allowed = of.log_probabilities(params["transition"]) > -jnp.inf
    lengths = np.random.default_rng(0).integers(8, 12, 40)
    options = dict(start_init=of.first_state, transition_init=of.left_to_right())
    found = {"emission": emission, "lengths": lengths, "align": of.uniform_segments}
    fitted = of.fit_hmm(jax.random.key(1), x, 3, **found, **options)
    net = of.hmm(3, emission, **options)
    batch = (x, jnp.asarray(lengths))
    objective = jn.compose(lambda m, batch: (-m(net, batch), {}), name="likelihood")
    trainer = jn.trainer(objective, optax.adamw(0.05, weight_decay=1e-2))
    trained = trainer.init(jax.random.key(2), batch)
    first = trained.params["hmm"]
    near = first["emission"] | {"mean": params["emission"]["mean"] + 1}
    trained = trained._replace(params={"hmm": first | {"emission": near}})
    for _ in range(60):
        trained, metrics = trainer.step(trained, batch)
    for p in (fitted, trained.params["hmm"]):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(p))
        transition = np.exp(of.log_probabilities(p["transition"]))
        assert (transition[~allowed] == 0).all()
        assert (transition[allowed] > 0).all()
        np.testing.assert_array_equal(np.exp(of.log_probabilities(p["start"])), [1, 0, 0])
    log_p, _ = jit_apply(net, fitted, {}, (x, jnp.asarray(lengths)))
    truth, _ = jit_apply(net, params, {}, (x, jnp.asarray(lengths)))
    assert 0 < float(log_p.mean() - truth.mean()) < 1  # 14 numbers were fitted to 380 steps
    assert 0 < float(metrics["loss"] + log_p.mean()) < 0.5  # EM is at the maximum
    np.testing.assert_allclose(fitted["emission"]["mean"], params["emission"]["mean"], atol=0.4)
    path, _ = of.viterbi(fitted, emission.score(fitted["emission"], x), lengths)
    mask = np.arange(11) < lengths[:, None]
    assert (np.asarray(path == states)[mask]).mean() > 0.99


@pytest.mark.long
def test_fit_finds_states_of_two_gaussians_each():
    draw = np.random.default_rng(0)
    states = np.repeat(draw.integers(0, 2, (8, 10)), 10, 1)  # (8, 100)
    side = draw.integers(0, 2, states.shape) * 8 - 4
    x = np.stack([side, 20 * states], -1) + draw.normal(size=(8, 100, 2))
    emission = of.gaussian_mixture(2)
    fit = partial(of.fit_hmm, jax.random.key(0), x, 2, emission=emission)
    first = fit(restarts=1)
    second = fit(restarts=2)
    order = np.argsort(first["emission"]["mean"][:, 0, 1])
    scores = emission.score(first["emission"], jnp.asarray(x, jnp.float32))
    path, _ = of.viterbi(first, scores)
    np.testing.assert_array_equal(order[path], states)  # of two states the order is its own inverse
    mean = np.sort(np.asarray(first["emission"]["mean"])[order], 1)
    np.testing.assert_allclose(mean, [[[-4, 0], [4, 0]], [[-4, 20], [4, 20]]], atol=0.3)
    np.testing.assert_allclose(np.exp(first["emission"]["log_variance"]), 1, atol=0.3)
    jax.tree.map(np.testing.assert_array_equal, first, fit())

    def log_p(params):
        found, _ = jit_apply(of.hmm(2, emission), params, {}, jnp.asarray(x, jnp.float32))
        return float(found.sum())

    assert log_p(second) >= log_p(first) - 0.1


@pytest.mark.slow
def test_fit_of_symbols():
    """A cycle of three states, each with its own two symbols."""
    draw = np.random.default_rng(0)
    states = np.cumsum(draw.random((20, 60)) < 0.5, 1) % 3
    x = 2 * states + draw.integers(0, 2, states.shape)
    options = {"emission": of.categorical(6), "restarts": 2, "tolerance": 1e-5}
    params = of.fit_hmm(jax.random.key(0), x, 3, **options)
    p = np.exp(of.log_probabilities(params["emission"]["logits"]))
    p = p.reshape(3, 3, 2).sum(2)
    np.testing.assert_allclose(np.sort(p, 1), [[0, 0, 1]] * 3, atol=0.02)
    transition = np.exp(of.log_probabilities(params["transition"]))
    np.testing.assert_allclose(np.diag(transition), 0.5, atol=0.05)


@pytest.mark.slow
def test_states_without_visits_keep_their_params(x64):
    params, emission, x = model("gaussian")
    params["start"] = to_logits(jnp.array([0.5, 0.5, 0]))
    params["transition"] = to_logits(jnp.array([[0.5, 0.5, 0], [0.3, 0.7, 0], [0.2, 0.3, 0.5]]))
    learned = of.baum_welch(params, x, emission, LENGTHS, iterations=3, tolerance=-1)
    np.testing.assert_array_equal(learned.params["transition"][2], params["transition"][2])
    for part in ("mean", "log_variance"):
        new = learned.params["emission"][part]
        old = params["emission"][part]
        np.testing.assert_allclose(new[2], old[2], rtol=1e-14)
        assert (new[:2] != old[:2]).all()


X = np.zeros((2, 4), int)
V = np.zeros((2, 4, 3), np.float32)
PARAMS = {"start": jnp.zeros(2), "transition": jnp.zeros((2, 2))}
SYMBOLS = PARAMS | {"emission": {"logits": jnp.array([[0.0, -jnp.inf], [0, -jnp.inf]])}}


@pytest.mark.parametrize(("call", "words"), [
    (lambda: of.hmm(0, of.categorical(2)), "states must be at least 1, got 0"),
    (lambda: of.hmm(2, of.categorical(3)).init(
        jax.random.key(0), {"x": jn.spec((2, 4), jnp.int32), "initial": jn.spec((2, 2))}),
     "takes no 'initial'"),
    (lambda: of.baum_welch(SYMBOLS, X, of.categorical(2), iterations=0), "iterations must be"),
    (lambda: of.baum_welch(SYMBOLS, X, of.categorical(2), np.zeros(2, int)), "at least one step"),
    (lambda: of.baum_welch(SYMBOLS, X + [[0], [2]], of.categorical(2)),
     r"symbols must be in \[0, 2\), got 2"),
    (lambda: of.baum_welch(SYMBOLS, X + [[0], [1]], of.categorical(2)),
     "sequence 1 has log p = -inf under the params.* of probability 0"),
    (lambda: of.fit_hmm(jax.random.key(0), V * np.nan, 2, emission=of.gaussian_mixture()),
     "2 of 2 sequences contain NaN or Inf, the first at index 0"),
    (lambda: of.fit_hmm(jax.random.key(0), V, 9, emission=of.gaussian_mixture()),
     "8 steps are too few for 9 states"),
    (lambda: of.fit_hmm(jax.random.key(0), V, 2, emission=of.gaussian_mixture(), restarts=0),
     "restarts must be at least 1"),
])  # fmt: skip
def test_what_does_not_fit(call, words):
    with pytest.raises(ValueError, match=words):
        call()
