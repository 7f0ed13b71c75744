"""Gibbs sampling, contrastive divergence against NumPy, and the likelihood that it reaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit as sigmoid

import jaxnet as jn
from jaxnet.unsupervised.rbm import bernoulli, fit_rbm, free_energy, gaussian, gibbs, machine, rbm
from tests.helpers import close, jit_apply, shapes
from tests.unsupervised.rbm.machines import OPTIONS, crops, draw, states

contrastive_divergence = jn.unsupervised.rbm.contrastive_divergence


def arrays(params):
    return [np.asarray(params[name]) for name in ("kernel", "bias", "visible_bias")]


def by_numpy(key, params, x, start, k, kind):
    """CD written out, with the same uniform numbers."""
    kernel, bias, visible_bias = arrays(params)
    samples = start
    for i in range(k):
        here = jax.random.fold_in(key, i)
        p = sigmoid(samples @ kernel + bias)
        uniform = jax.random.uniform(jn.child_key(here, "hidden"), p.shape)
        h = np.asarray(uniform) < p
        field = h @ kernel.T + visible_bias
        visible_key = jn.child_key(here, "visible")
        if kind is gaussian:
            noise = jax.random.normal(visible_key, field.shape)
            samples = field + np.asarray(noise)
        else:
            uniform = jax.random.uniform(visible_key, field.shape)
            samples = 1.0 * (uniform < sigmoid(field))
    up = sigmoid(x @ kernel + bias)
    down = sigmoid(samples @ kernel + bias)
    gradient = {
        "kernel": samples.T @ down / len(samples) - x.T @ up / len(x),
        "bias": down.mean(0) - up.mean(0),
        "visible_bias": samples.mean(0) - x.mean(0),
    }
    return gradient, samples


def update(objective, params, state, x):
    """The gradient that the trainer takes, the next state, the value and the metrics."""

    def value(params):
        options = {"key": jax.random.key(2), "train": True}
        (value, metrics), after = jit_apply(objective, params, state, x, **options)
        return value, (after, metrics)

    (value, (after, metrics)), tree = jax.jit(jax.value_and_grad(value, has_aux=True))(params)
    return tree, after, value, metrics


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("kind", [bernoulli, gaussian], ids=["0/1", "real"])
def test_update_is_that_of_numpy(x64, k, kind):
    params = draw(5, 3, 0.5, dtype=np.float64)
    x = states(5)[[3, 7, 7, 20]]
    objective = contrastive_divergence(rbm(3, visible=kind), k=k, visible=kind)
    tree, state, value, metrics = update(objective, params, {}, x)
    expected, _ = by_numpy(jax.random.key(2), params, x, x, k, kind)
    assert not state
    close(tree, expected, 1e-7, 1e-12)
    assert_watched(value, metrics, params, x, kind)


def assert_watched(value, metrics, params, x, kind):
    """The value is the error of the reconstruction, the metric the free energy."""
    kernel, bias, visible_bias = arrays(params)
    field = sigmoid(x @ kernel + bias) @ kernel.T + visible_bias
    error = (np.asarray(kind.mean(jnp.asarray(field))) - x) ** 2
    np.testing.assert_allclose(value, error.mean(), rtol=1e-12)
    mean = free_energy(params, x, visible=kind).mean()
    np.testing.assert_allclose(metrics["free_energy"], mean, rtol=1e-12)


@pytest.mark.slow
def test_persistent_update_is_that_of_numpy_and_moves_the_chain(x64):
    params = draw(5, 3, 0.5, dtype=np.float64)
    x = states(5)[[3, 7, 7, 20]]
    chain = states(5)[::5]  # seven chains, four examples
    objective = contrastive_divergence(rbm(3, chains=7), k=2)
    tree, state, value, metrics = update(objective, params, {"chain": chain}, x)
    expected, samples = by_numpy(jax.random.key(2), params, x, chain, 2, bernoulli)
    close(tree, expected, 1e-7, 1e-12)
    np.testing.assert_array_equal(state["chain"], samples)
    assert_watched(value, metrics, params, x, bernoulli)


def test_evaluation_leaves_the_chain():
    params = draw(5, 3, 0.5)
    x = states(5)[:4]
    chain = jnp.asarray(states(5)[::5])
    objective = contrastive_divergence(rbm(3, chains=7), k=2)
    _, still = jit_apply(objective, params, {"chain": chain}, x)
    np.testing.assert_array_equal(still["chain"], chain)


@pytest.mark.slow
def test_fit_gives_what_dense_takes():
    x = crops()[:300]
    trained = fit_rbm(jax.random.key(3), x, 8, full=True, **OPTIONS)
    params = fit_rbm(jax.random.key(3), x, 8, progress=False, **OPTIONS)
    assert params.keys() == {"kernel", "bias"}
    np.testing.assert_array_equal(params["kernel"], trained["kernel"])  # the same again
    y, _ = jit_apply(jn.serial(jn.dense(8), jax.nn.sigmoid), {"dense": params}, {}, x)
    hidden, _ = jit_apply(rbm(8), trained, {}, x)
    np.testing.assert_allclose(y, hidden, rtol=1e-6)
    stacked = jn.serial(rbm(8), jn.dense(2))
    drawn, _ = stacked.init(jax.random.key(0), x)
    assert drawn["rbm"].keys() == trained.keys()
    assert drawn["dense"]["kernel"].shape == (8, 2)


@pytest.mark.slow
def test_rates_fall_in_a_line_with_momentum_and_decay_of_the_kernel(monkeypatch):
    """Two passes over 25 examples in batches of ten are six steps."""
    seen = []

    def spy(objective, optimizer):
        seen.append(optimizer)
        return trainer(objective, optimizer)

    trainer = machine.trainer
    monkeypatch.setattr(machine, "trainer", spy)
    monkeypatch.setattr("jaxnet.unsupervised.check.fit", lambda *args, **options: [])
    options = {"learning_rate": 0.3, "momentum": 0.9, "weight_decay": 0.25, "batch_size": 10}
    fit_rbm(jax.random.key(0), np.zeros((25, 2)), 3, epochs=2, progress=False, **options)
    params = dict.fromkeys(("kernel", "bias", "visible_bias"), np.float32(8))
    state = seen[0].init(params)
    update = jax.jit(seen[0].update)
    speed = dict.fromkeys(params, 0.0)
    for step in range(7):
        moves, state = update(dict.fromkeys(params, np.float32(1)), state, params)
        rate = 0.3 * max(1 - step / 6, 0)
        for name, move in moves.items():
            decay = 0.25 * params[name] if name == "kernel" else 0
            speed[name] = 1 + decay + 0.9 * speed[name]
            np.testing.assert_allclose(move, -rate * speed[name], rtol=1e-5, atol=1e-7)
        params = {name: params[name] + np.float32(move) for name, move in moves.items()}


@pytest.mark.slow
@pytest.mark.parametrize("n, persistent", [(1, False), (1, True), (20, False)])
def test_any_number_of_examples(n, persistent):
    options = {"full": True, "epochs": 2, "batch_size": 9, "persistent": persistent}
    params = fit_rbm(jax.random.key(0), crops()[:n], 3, **options)
    assert shapes(params) == {"kernel": (12, 3), "bias": (3,), "visible_bias": (12,)}
    assert all(np.isfinite(leaf).all() for leaf in params.values())


@pytest.mark.slow
def test_visible_units_of_your_own_take_any_numbers():
    own = gaussian._replace(name="mine")
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    options = {"epochs": 1, "learning_rate": 1e-3, "progress": False}
    params = fit_rbm(jax.random.key(0), x, 2, visible=own, **options)
    same = fit_rbm(jax.random.key(0), x, 2, visible=gaussian, **options)
    np.testing.assert_array_equal(params["kernel"], same["kernel"])


def fit(x, features=2):
    return lambda: fit_rbm(jax.random.key(0), x, features)


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: rbm(0), ValueError, "rbm: features must be at least 1, got 0"),
    (lambda: rbm(2, chains=-1), ValueError, "rbm: chains must be at least 0, got -1"),
    (lambda: rbm(2).init(jax.random.key(0), jn.spec((3,))), ValueError,
     r"expected an input of shape \(batch, ..., inputs\), got \(3,\)"),
    (lambda: gibbs(jax.random.key(0), draw(3, 2), jnp.zeros((1, 3)), 0), ValueError,
     "steps must be at least 1, got 0"),
    (lambda: contrastive_divergence(rbm(22), k=0), ValueError, "k must be at least 1, got 0"),
    (lambda: contrastive_divergence(rbm(2)).apply(draw(3, 2), {}, (np.ones((2, 3)), np.ones(2))),
     TypeError, "the inputs alone, .* got tuple; leave the labels out"),
    (lambda: contrastive_divergence(jn.serial(rbm(3), rbm(2))), TypeError,
     r"made by rbm\(features\), got serial; .* dbn.fit_dbn"),
    (fit(np.full((4, 3), np.nan)), ValueError, "NaN"),
    (fit(np.full((4, 3), -0.5)), ValueError, r"in \[0, 1\], got -0.5 to -0.5; .* visible=gaussian"),
    (fit(np.full((4, 3), 255)), ValueError, r"in \[0, 1\], got 255 to 255"),
])  # fmt: skip
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.slow
def test_gaussian_units_by_hand(x64):
    kernel = jnp.array([[2.0], [-1.0]])
    visible_bias = jnp.array([1.0, -3.0])
    params = {"kernel": kernel, "bias": jnp.array([0.5]), "visible_bias": visible_bias}
    x = jnp.array([[3.0, 1.0]])
    # ½((3 - 1)² + (1 + 3)²) - log(1 + e^(3·2 - 1 + 0.5))
    by_hand = (4 + 16) / 2 - np.log(1 + np.exp(5.5))
    np.testing.assert_allclose(free_energy(params, x, visible=gaussian), [by_hand], rtol=1e-12)
    # Given h the units are normal, with mean bias + h·kernel and variance 1.
    assert gaussian.mean(jnp.array([1.0 + 2.0])).tolist() == [3.0]
    draws = gaussian.sample(jax.random.key(0), jnp.full(10_000, 3.0))
    assert abs(draws.mean() - 3) < 0.04
    assert abs(draws.std() - 1) < 0.03


def test_energies_and_sums_by_hand():
    x = np.float32([2, -1])
    field = np.float32([0.5, 0.8])
    bias = np.float32([0.3, -1.2])
    np.testing.assert_allclose(bernoulli.energy(x, bias), -(2 * 0.3 + 1.2), rtol=1e-6)
    np.testing.assert_allclose(gaussian.energy(x, bias), (1.7**2 + 0.2**2) / 2, rtol=1e-6)
    binary = np.log1p(np.exp(0.8)) + np.log1p(np.exp(-0.4))
    np.testing.assert_allclose(bernoulli.log_partition(field, bias), binary, rtol=1e-6)
    # The integral of exp(a x - (x - b)² / 2) is √(2π) exp(a b + a² / 2).
    real = np.log(2 * np.pi) + 0.5 * 0.3 + 0.125 - 0.8 * 1.2 + 0.32
    np.testing.assert_allclose(gaussian.log_partition(field, bias), real, rtol=1e-6)
    mean = np.float32([0.2, 0, 1])
    logits = np.log([0.2 / 0.8, 0.001 / 0.999, 999])
    np.testing.assert_allclose(bernoulli.bias(mean), logits, rtol=1e-4)
    assert gaussian.bias(mean) is mean


@pytest.mark.slow
@pytest.mark.parametrize("kind", [bernoulli, gaussian], ids=["0/1", "real"])
def test_mean_sample_and_bias_agree(x64, kind):
    """The mean is the derivative of log Z by the input, for every kind; bias is its inverse."""
    bias = jnp.array([0.3, -1.2, 0.7])
    input = jnp.array([0.5, 0.8, -0.4])
    mean = kind.mean(bias + input)
    np.testing.assert_allclose(jax.jit(jax.grad(kind.log_partition))(input, bias), mean, rtol=1e-12)
    np.testing.assert_allclose(kind.mean(kind.bias(mean)), mean, rtol=1e-10)
    draws = kind.sample(jax.random.key(1), jnp.broadcast_to(bias + input, (40_000, 3)))
    np.testing.assert_allclose(draws.mean(0), mean, atol=4 / 200)  # deviation 1 at most
    if kind is not gaussian:
        assert set(np.unique(draws)) == {0.0, 1.0}
