import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit as sigmoid

import jaxnet as jn
from jaxnet.unsupervised import dbn as dbn_module
from jaxnet.unsupervised.dbn import fit_dbn, generate, mlp_params
from jaxnet.unsupervised.rbm import bernoulli, gaussian, log_likelihood, rbm
from tests.helpers import jit_apply
from tests.unsupervised.rbm.machines import draw, states


def test_each_machine_learns_from_the_one_below(monkeypatch):
    seen = []

    def spy(key, x, features, **options):
        seen.append((key, np.asarray(x), options))
        return draw(x.shape[1], features, seed=len(seen))

    monkeypatch.setattr(dbn_module, "fit_rbm", spy)
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    key = jax.random.key(4)
    params = fit_dbn(key, x, (4, 3, 2), visible=gaussian, epochs=7)
    below = x
    kinds = (gaussian, bernoulli, bernoulli)
    for name, (child, given, options), kind in zip(params, seen, kinds, strict=True):
        assert child == jn.child_key(key, name)
        assert options == {"full": True, "visible": kind, "epochs": 7}
        np.testing.assert_allclose(given, below, rtol=1e-5)
        below = sigmoid(below @ np.asarray(params[name]["kernel"]) + params[name]["bias"])
    assert list(params) == ["rbm", "rbm_1", "rbm_2"]


@pytest.mark.slow
def test_samples_come_down_from_the_top():
    """The two machines above are certain: they give (1, 0), then (0, 1, 1)."""
    top = {"kernel": np.zeros((2, 1)), "bias": np.zeros(1), "visible_bias": np.array([90.0, -90])}
    kernel = np.array([[-90.0, 90], [90, 90], [90, -90]])
    middle = {"kernel": kernel, "bias": np.zeros(2), "visible_bias": np.array([0.0, 0, 0])}
    low = {"kernel": np.array([[5.0, 0.25, 0.5], [7, 1, -2]]), "bias": np.zeros(3)}
    params = {"rbm": low | {"visible_bias": np.array([-0.5, 1])}, "rbm_1": middle, "rbm_2": top}
    x, mean = generate(jax.random.key(0), params, 4000, 2)
    wanted = sigmoid(np.array([0.25 + 0.5 - 0.5, 1 - 2 + 1]))
    np.testing.assert_allclose(mean, np.tile(wanted, (4000, 1)), rtol=1e-5)
    assert np.isin(x, (0, 1)).all()
    np.testing.assert_allclose(np.mean(x, 0), wanted, atol=0.04)  # five standard errors


TWO = {"rbm": draw(3, 4, 2.0), "rbm_1": draw(4, 2, 2.0, seed=1)}


@pytest.mark.slow
def test_samples_have_the_distribution_of_the_net():
    """p(x) = Σ_h p_top(h) p(x | h), by the sum over all states of the hidden layer between."""
    params = TWO
    h = states(4)
    p_h = np.exp(log_likelihood(params["rbm_1"], h))
    mean = sigmoid(h @ params["rbm"]["kernel"].T + params["rbm"]["visible_bias"])
    x = states(3)
    p_x_given_h = np.prod(np.where(x[:, None] == 1, mean, 1 - mean), axis=-1)  # (8, 16)
    p = p_x_given_h @ p_h
    samples, means = generate(jax.random.key(0), params, 20_000, 80)
    index = samples @ jnp.array([4.0, 2.0, 1.0])
    seen = np.bincount(np.asarray(index, int), minlength=8) / 20_000
    np.testing.assert_allclose(seen, p, atol=4 * np.sqrt(p.max() / 20_000))
    np.testing.assert_allclose(means.mean(0), x.T @ p, atol=0.015)
    assert np.abs(p - 1 / 8).max() > 0.1
    assert p_h.max() > 0.2  # a distribution to be missed


@pytest.mark.slow
def test_real_units_at_the_bottom():
    samples, means = generate(jax.random.key(0), TWO, 4000, 20, visible=gaussian)
    difference = np.asarray(samples - means)
    assert abs(difference.std() - 1) < 0.04
    assert abs(difference.mean()) < 0.04
    # h is 0 or 1, so the means are among 16 vectors
    each = states(4) @ TWO["rbm"]["kernel"].T + TWO["rbm"]["visible_bias"]
    distance = np.abs(np.asarray(means)[:, None] - np.asarray(each)).max(-1).min(1)
    assert distance.max() < 1e-5


@pytest.mark.long
def test_a_perceptron_goes_on_from_it():
    """The params stand in the perceptron as they are, and can be trained further: 50 labels."""
    (x, y), test = jn.data.digits()
    x = x.reshape(len(x), -1)
    test = (test[0].reshape(-1, 64), test[1])
    options = {"epochs": 20, "learning_rate": 0.3, "persistent": True, "batch_size": 50}
    dbn = fit_dbn(jax.random.key(0), x, (48, 24), **options)
    net = jn.models.mlp([48, 24, 10], jax.nn.sigmoid)
    few = np.concatenate([np.flatnonzero(y == c)[:5] for c in range(10)])
    train = x[few], y[few]
    metrics = {"accuracy": jn.metrics.accuracy}
    objective = jn.supervised(net, jn.losses.cross_entropy, metrics=metrics)
    trainer = jn.trainer(objective, optax.adam(0.01))
    drawn = trainer.init(jax.random.key(1), train)
    tuned = trainer.init(jax.random.key(1), train, params=mlp_params(dbn))
    assert jax.tree.map(jnp.shape, tuned.params) == jax.tree.map(jnp.shape, drawn.params)

    hidden, _ = jit_apply(jn.serial(rbm(48), rbm(24)), dbn, {}, x[:3])
    output = tuned.params["output"]
    logits, _ = jit_apply(net, tuned.params, {}, x[:3])
    np.testing.assert_allclose(logits, hidden @ output["kernel"] + output["bias"], rtol=1e-5)

    *_, last = jn.fit(trainer, tuned, train, epochs=60, batch_size=25)

    def accuracy(state):
        return jn.evaluate(objective, state.params, state.state, test)["accuracy"]

    assert accuracy(tuned) < 0.3
    assert 0.55 < accuracy(last.train_state) < 0.9


RBM = {"rbm": draw(3, 4)}


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: fit_dbn(jax.random.key(0), np.zeros((4, 3)), 500), ValueError,
     "sizes must hold one size per machine, .* got 500"),
    (lambda: fit_dbn(jax.random.key(0), np.zeros((4, 3)), ()), ValueError, r"machine, .* got \(\)"),
    (lambda: generate(jax.random.key(0), RBM, 0, 5), ValueError, "n must be at least 1, got 0"),
    (lambda: mlp_params([]), TypeError, "params must be the result of fit_dbn, .*, got list"),
    (lambda: mlp_params({"rbm": {}, "head": {}}), TypeError, r"got \['head', 'rbm'\]"),
])  # fmt: skip
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()
