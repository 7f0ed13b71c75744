"""Small machines, where every sum over states can be written out."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.unsupervised.rbm import (
    ais,
    bernoulli,
    contrastive_divergence,
    fit_rbm,
    free_energy,
    gaussian,
    gibbs,
    log_likelihood,
    log_partition,
    machine,
    rbm,
)

OPTIONS = {"epochs": 15, "learning_rate": 0.3, "batch_size": 50, "persistent": True}


def draw(inputs, features, scale=1.0, seed=0, dtype=np.float32):
    random = np.random.default_rng(seed)
    return {
        "kernel": jnp.asarray(scale * random.normal(size=(inputs, features)), dtype),
        "bias": jnp.asarray(scale * random.normal(size=features), dtype),
        "visible_bias": jnp.asarray(scale * random.normal(size=inputs), dtype),
    }


def states(n):
    return np.array(list(product([0.0, 1.0], repeat=n)))


def logsumexp(a, axis=None):
    top = a.max(axis, keepdims=True)
    return (np.log(np.exp(a - top).sum(axis, keepdims=True)) + top).squeeze(axis)


def energies(params, x, h):
    """E of every x (rows) with every h (columns), for units that are 0 or 1."""
    kernel, bias, visible_bias = (
        np.asarray(params[name]) for name in ("kernel", "bias", "visible_bias")
    )
    return -x @ kernel @ h.T - (x @ visible_bias)[:, None] - h @ bias


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def crops():
    """The 4 x 3 pixels in the middle of the digits, black or white."""
    (x, _), _ = jn.data.digits()
    return (x[:, 2:6, 2:5, 0] > 0.5).astype(np.float32).reshape(len(x), -1)


# What the machine computes


@pytest.mark.parametrize(("inputs", "features"), [(5, 3), (3, 5), (4, 13)])
def test_free_energy_and_likelihood_are_sums_over_all_states(x64, inputs, features):
    params = draw(inputs, features, dtype=np.float64)
    x = states(inputs)
    energy = energies(params, x, states(features))
    np.testing.assert_allclose(free_energy(params, x), -logsumexp(-energy, 1), rtol=1e-10)
    np.testing.assert_allclose(log_partition(params), logsumexp(-energy.ravel()), rtol=1e-10)
    p = np.exp(log_likelihood(params, x))
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-10)
    np.testing.assert_allclose(p, np.exp(-energy).sum(1) / np.exp(-energy).sum(), rtol=1e-10)


def test_more_states_than_a_block_holds(x64):
    params = draw(14, 14, 0.3, dtype=np.float64)
    hidden = states(14)
    kernel, visible_bias = np.asarray(params["kernel"]), np.asarray(params["visible_bias"])
    field = hidden @ kernel.T + visible_bias
    exact = logsumexp(hidden @ np.asarray(params["bias"]) + np.logaddexp(0, field).sum(1))
    np.testing.assert_allclose(log_partition(params), exact, rtol=1e-10)


def test_gaussian_units_by_hand(x64):
    params = {
        "kernel": jnp.array([[2.0], [-1.0]]),
        "bias": jnp.array([0.5]),
        "visible_bias": jnp.array([1.0, -3.0]),
    }
    x = jnp.array([[3.0, 1.0]])
    # ½((3 - 1)² + (1 + 3)²) - log(1 + e^(3·2 - 1 + 0.5))
    by_hand = (4 + 16) / 2 - np.log(1 + np.exp(5.5))
    np.testing.assert_allclose(free_energy(params, x, visible=gaussian), [by_hand], rtol=1e-12)
    # Given h the units are normal, with mean bias + h·kernel and variance 1.
    assert gaussian.mean(jnp.array([1.0 + 2.0])).tolist() == [3.0]
    draws = gaussian.sample(jax.random.key(0), jnp.full(10_000, 3.0))
    assert abs(draws.mean() - 3) < 0.04 and abs(draws.std() - 1) < 0.03


def test_gaussian_density_integrates_to_1(x64):
    params = draw(1, 3, dtype=np.float64)
    x, step = np.linspace(-15, 15, 3001, retstep=True)
    p = np.exp(log_likelihood(params, x[:, None], visible=gaussian))
    np.testing.assert_allclose(p.sum() * step, 1, rtol=1e-10)


@pytest.mark.parametrize("kind", [bernoulli, gaussian], ids=["0/1", "real"])
def test_mean_sample_and_bias_agree(x64, kind):
    """The mean is the derivative of log Z by the input, for every kind; bias is its inverse."""
    bias, input = jnp.array([0.3, -1.2, 0.7]), jnp.array([0.5, 0.8, -0.4])
    mean = kind.mean(bias + input)
    np.testing.assert_allclose(jax.grad(kind.log_partition)(input, bias), mean, rtol=1e-12)
    np.testing.assert_allclose(kind.mean(kind.bias(mean)), mean, rtol=1e-10)
    draws = kind.sample(jax.random.key(1), jnp.broadcast_to(bias + input, (40_000, 3)))
    np.testing.assert_allclose(draws.mean(0), mean, atol=4 / 200)  # deviation 1 at most
    if kind is not gaussian:
        assert set(np.unique(draws)) == {0.0, 1.0}


def test_gradient_of_the_likelihood_is_data_less_model(x64):
    """d log p / d kernel = E_data[x h] - E_model[x h], the model's by the sum over all states."""
    params, data = draw(5, 3, dtype=np.float64), states(5)[[3, 7, 7, 20]]
    grads = jax.grad(lambda p: log_likelihood(p, data).mean())(params)
    x, h = states(5), states(3)
    p = np.exp(-energies(params, x, h))
    p /= p.sum()
    up = sigmoid(data @ np.asarray(params["kernel"]) + np.asarray(params["bias"]))
    expected = {
        "kernel": data.T @ up / 4 - x.T @ p @ h,
        "bias": up.mean(0) - p.sum(0) @ h,
        "visible_bias": data.mean(0) - p.sum(1) @ x,
    }
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), grads, expected)


def test_gibbs_sampling_reaches_the_distribution():
    params = draw(3, 4, 1.5)
    p = np.exp(log_likelihood(params, states(3)))
    x, mean = gibbs(jax.random.key(0), params, jnp.zeros((20_000, 3)), 60)
    seen = np.bincount(np.asarray(x @ jnp.array([4.0, 2.0, 1.0]), int), minlength=8) / 20_000
    np.testing.assert_allclose(seen, p, atol=4 * np.sqrt(p.max() / 20_000))
    np.testing.assert_allclose(mean.mean(0), states(3).T @ p, atol=0.02)
    assert np.abs(p - 1 / 8).max() > 0.1  # and it is a distribution to be missed


# How it is trained


def by_numpy(key, params, x, start, k, kind):
    """CD written out, with the same uniform numbers."""
    kernel, bias, visible_bias = (
        np.asarray(params[name]) for name in ("kernel", "bias", "visible_bias")
    )
    samples = start
    for i in range(k):
        here = jax.random.fold_in(key, i)
        p = sigmoid(samples @ kernel + bias)
        h = np.asarray(jax.random.uniform(jn.child_key(here, "hidden"), p.shape)) < p
        field = h @ kernel.T + visible_bias
        if kind is gaussian:
            noise = jax.random.normal(jn.child_key(here, "visible"), field.shape)
            samples = field + np.asarray(noise)
        else:
            p = sigmoid(field)
            samples = 1.0 * (jax.random.uniform(jn.child_key(here, "visible"), p.shape) < p)
    up, down = sigmoid(x @ kernel + bias), sigmoid(samples @ kernel + bias)
    gradient = {
        "kernel": samples.T @ down / len(samples) - x.T @ up / len(x),
        "bias": down.mean(0) - up.mean(0),
        "visible_bias": samples.mean(0) - x.mean(0),
    }
    return gradient, samples


def update(objective, params, state, x):
    """The gradient that the trainer takes, the next state, the value and the metrics."""

    def value(params):
        (value, metrics), after = objective.apply(
            params, state, x, key=jax.random.key(2), train=True
        )
        return value, (after, metrics)

    (value, (after, metrics)), tree = jax.value_and_grad(value, has_aux=True)(params)
    return tree, after, value, metrics


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("kind", [bernoulli, gaussian], ids=["0/1", "real"])
def test_update_is_that_of_numpy(x64, k, kind):
    params, x = draw(5, 3, 0.5, dtype=np.float64), states(5)[[3, 7, 7, 20]]
    objective = contrastive_divergence(rbm(3, visible=kind), k=k, visible=kind)
    tree, state, value, metrics = update(objective, params, {}, x)
    expected, _ = by_numpy(jax.random.key(2), params, x, x, k, kind)
    assert not state
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), tree, expected)
    field = sigmoid(x @ np.asarray(params["kernel"]) + np.asarray(params["bias"])) @ np.asarray(
        params["kernel"]
    ).T + np.asarray(params["visible_bias"])
    error = (np.asarray(kind.mean(jnp.asarray(field))) - x) ** 2
    np.testing.assert_allclose(value, error.mean(), rtol=1e-12)
    mean = free_energy(params, x, visible=kind).mean()
    np.testing.assert_allclose(metrics["free_energy"], mean, rtol=1e-12)


def test_persistent_update_is_that_of_numpy_and_moves_the_chain(x64):
    params, x = draw(5, 3, 0.5, dtype=np.float64), states(5)[[3, 7, 7, 20]]
    chain = states(5)[::5]  # seven chains, four examples
    objective = contrastive_divergence(rbm(3, chains=7), k=2)
    tree, state, _, _ = update(objective, params, {"chain": chain}, x)
    expected, samples = by_numpy(jax.random.key(2), params, x, chain, 2, bernoulli)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), tree, expected)
    np.testing.assert_array_equal(state["chain"], samples)
    _, still = objective.apply(params, {"chain": chain}, x)
    np.testing.assert_array_equal(still["chain"], chain)


@pytest.mark.parametrize("persistent", [False, True], ids=["CD-1", "PCD"])
def test_exact_likelihood_of_digits_rises(persistent):
    """12 x 8 units on crops of digits, between independent pixels and the data's entropy."""
    x = crops()[:1400]  # a multiple of the batches
    chains = 50 if persistent else 0
    optimizer = optax.sgd(optax.linear_schedule(0.3, 0, 28 * 20), 0.5)
    trainer = jn.trainer(contrastive_divergence(rbm(8, chains=chains)), optimizer)
    train_state = trainer.init(jax.random.key(0), x)
    curve = [float(log_likelihood(train_state.params, x).mean())]
    for epoch in jn.fit(trainer, train_state, x, epochs=20, batch_size=50):
        curve.append(float(log_likelihood(epoch.train_state.params, x).mean()))
        state = epoch.train_state.state
        assert state.keys() == ({"chain"} if persistent else set())
        assert epoch.train.keys() == {"loss", "free_energy"}
    if persistent:
        assert (np.asarray(state["chain"]) != np.asarray(train_state.state["chain"])).mean() > 0.2
    p = x.mean(0)
    independent = (p * np.log(p) + (1 - p) * np.log(1 - p)).sum()
    _, counts = np.unique(x, axis=0, return_counts=True)
    entropy = (counts * np.log(counts / len(x))).sum() / len(x)
    assert -8.4 < curve[0] < -8.2  # 12 log ½ = -8.32, nearly
    assert curve[0] < curve[5] < curve[10] < curve[20]
    assert independent + 0.7 < curve[20] < entropy


@pytest.fixture(scope="module")
def trained():
    params = fit_rbm(jax.random.key(3), crops(), 8, full=True, **OPTIONS)
    assert np.abs(params["kernel"]).max() > 1  # no easy machine
    return params


def test_fit_gives_what_dense_takes(trained):
    x = crops()
    params = fit_rbm(jax.random.key(3), x, 8, progress=False, **OPTIONS)
    assert params.keys() == {"kernel", "bias"}
    np.testing.assert_array_equal(params["kernel"], trained["kernel"])  # the same again
    y, _ = jn.serial(jn.dense(8), jax.nn.sigmoid).apply({"dense": params}, {}, x)
    hidden, _ = rbm(8).apply(trained, {}, x)
    np.testing.assert_allclose(y, hidden, rtol=1e-6)
    stacked = jn.serial(rbm(8), jn.dense(2))
    drawn, _ = stacked.init(jax.random.key(0), x)
    assert drawn["rbm"].keys() == trained.keys() and drawn["dense"]["kernel"].shape == (8, 2)


def test_fit_begins_at_the_mean_of_the_data(monkeypatch):
    """Where no epoch follows, the params are the first ones."""
    monkeypatch.setattr(machine, "fit", lambda *args, **options: [])
    x = crops()[:250]  # not a multiple of the batches: the mean is that of the data alone
    params = fit_rbm(jax.random.key(0), x, 8, full=True)
    np.testing.assert_allclose(jax.nn.sigmoid(params["visible_bias"]), x.mean(0), rtol=1e-4)
    assert 0.007 < params["kernel"].std() < 0.013


def test_weight_decay_pulls_the_kernel_alone():
    x = crops()[:100]
    strong = fit_rbm(jax.random.key(0), x, 8, full=True, epochs=30, weight_decay=10.0)
    assert np.abs(strong["kernel"]).max() < 0.02
    np.testing.assert_allclose(jax.nn.sigmoid(strong["visible_bias"]), x.mean(0), atol=0.1)


def test_gaussian_units_learn_two_clusters():
    random = np.random.default_rng(0)
    x = np.where(random.random((600, 1)) < 0.5, 1.0, -1.0) * [1.5, -1.5, 0] + random.normal(
        size=(600, 3)
    )
    start = {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2), "visible_bias": x.mean(0)}
    params = fit_rbm(
        jax.random.key(0), x, 2, full=True, visible=gaussian, epochs=40, learning_rate=0.02,
        batch_size=50,
    )  # fmt: skip
    one_normal = float(log_likelihood(start, x, visible=gaussian).mean())
    likelihood = float(log_likelihood(params, x, visible=gaussian).mean())
    # the density that drew x: the mean of two normals
    centres = np.array([[1.5, -1.5, 0], [-1.5, 1.5, 0]])
    squares = ((x[:, None] - centres) ** 2).sum(-1)
    truth = (logsumexp(-squares / 2, 1) - np.log(2) - 1.5 * np.log(2 * np.pi)).mean()
    assert one_normal + 1 < likelihood < truth + 0.05


# Annealed importance sampling


@pytest.mark.parametrize("seed", range(4))
def test_ais_is_within_its_error(trained, seed):
    estimate = ais(jax.random.key(seed), trained, betas=np.linspace(0, 1, 201))
    error = float(estimate.log_partition - log_partition(trained))
    assert 0.002 < estimate.standard_error < 0.05
    assert abs(error) < 3 * estimate.standard_error
    assert estimate.log_weights.shape == (100,)


def test_ais_errors_are_spread_as_they_say(trained):
    """Over 60 seeds the error in units of its standard error has mean 0 and deviation 1, nearly."""
    betas = np.linspace(0, 1, 101)
    keys = jax.random.split(jax.random.key(9), 60)
    many = jax.vmap(lambda key: ais(key, trained, betas=betas, data=crops())[:2])(keys)
    scores = (many[0] - log_partition(trained)) / many[1]
    assert abs(scores.mean()) < 0.5 and 0.7 < scores.std() < 1.35


def test_ais_of_real_units():
    params = draw(6, 5, 0.7)
    data = np.tile(np.array([0.2, 0.3, 0.5]), (4, 2))
    exact = log_partition(params, visible=gaussian)
    for seed, given in enumerate((None, data)):
        key = jax.random.key(seed)
        estimate = ais(key, params, data=given, betas=np.linspace(0, 1, 301), visible=gaussian)
        assert abs(estimate.log_partition - exact) < 3.5 * estimate.standard_error
        assert 0.001 < estimate.standard_error < 0.3


def test_ais_of_no_weights_is_exact():
    params = draw(6, 5) | {"kernel": jnp.zeros((6, 5)), "bias": jnp.zeros(5)}
    estimate = ais(jax.random.key(0), params, data=jax.nn.sigmoid(params["visible_bias"])[None])
    np.testing.assert_allclose(estimate.log_partition, log_partition(params), rtol=1e-5)
    assert estimate.standard_error < 1e-4


@pytest.mark.parametrize("n", [1, 20])
@pytest.mark.parametrize("persistent", [False, True], ids=["CD-1", "PCD"])
def test_any_number_of_examples(n, persistent):
    params = fit_rbm(
        jax.random.key(0), crops()[:n], 3, full=True, epochs=2, batch_size=9, persistent=persistent
    )
    assert jax.tree.map(jnp.shape, params) == {
        "kernel": (12, 3), "bias": (3,), "visible_bias": (12,)
    }  # fmt: skip
    assert all(np.isfinite(leaf).all() for leaf in params.values())


# Messages


def test_layer_messages():
    with pytest.raises(ValueError, match="rbm: features must be at least 1, got 0"):
        rbm(0)
    with pytest.raises(ValueError, match="rbm: chains must be at least 0, got -1"):
        rbm(2, chains=-1)
    with pytest.raises(
        ValueError, match=r"expected an input of shape \(batch, ..., inputs\), got \(3,\)"
    ):
        rbm(2).init(jax.random.key(0), jn.spec((3,)))


def test_sampling_messages():
    params = draw(21, 22)
    with pytest.raises(ValueError, match=r"2\*\*21 states; .* limited to 20 units.* write ais"):
        log_partition(params)
    with pytest.raises(ValueError, match=r"2\*\*22 states"):
        log_likelihood(params, jnp.zeros((1, 21)), visible=gaussian)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        gibbs(jax.random.key(0), params, jnp.zeros((1, 21)), 0)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        contrastive_divergence(rbm(22), k=0)
    with pytest.raises(ValueError, match="betas must rise from 0 to 1"):
        ais(jax.random.key(0), params, betas=[0, 0.5, 0.5, 1])
    with pytest.raises(ValueError, match="runs must be at least 2, got 1"):
        ais(jax.random.key(0), params, runs=1)
    with pytest.raises(TypeError, match="the inputs alone, .* got tuple; leave the labels out"):
        batch = jnp.zeros((2, 21)), jnp.zeros(2)
        contrastive_divergence(rbm(22)).apply(params, {}, batch)
    with pytest.raises(TypeError, match=r"made by rbm\(features\), got serial; .* dbn.fit_dbn"):
        contrastive_divergence(jn.serial(rbm(3), rbm(2)))


@pytest.mark.parametrize(
    ("x", "features", "message"),
    [
        (np.zeros((0, 3)), 2, "at least one example"),
        (np.zeros((4, 3, 2)), 2, r"\(n, inputs\)"),
        (np.full((4, 3), np.nan), 2, "NaN"),
        (np.zeros((4, 3)), 0, "features must be at least 1, got 0"),
        (np.full((4, 3), -0.5), 2, r"in \[0, 1\], got -0.5 to -0.5; .* visible=gaussian"),
        (np.full((4, 3), 255), 2, r"in \[0, 1\], got 255 to 255"),
    ],
)
def test_fit_messages(x, features, message):
    with pytest.raises(ValueError, match=message):
        fit_rbm(jax.random.key(0), x, features)
