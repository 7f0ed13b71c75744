"""Objectives by hand, the contraction against jax.jacobian, and what sparsity learns."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.unsupervised import (
    additive_noise,
    contractive_reconstruction,
    denoising_reconstruction,
    fit_sparse_autoencoder,
    masking_noise,
    reconstruction,
    sparse_reconstruction,
    with_code,
)

KEYS_MAY_REPEAT = True  # values are compared at equal keys
KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(size=(6, 7))
NET = jn.models.autoencoder(
    jn.serial(jn.dense(4), jnp.tanh, jn.dense(3), jax.nn.sigmoid), jn.dense(7)
)


@pytest.fixture
def given(x64):
    """(params, state, x) in float64."""
    x = jnp.asarray(X)
    return *NET.init(jax.random.key(1), x), x


def code_and_output(given):
    (y, z), _ = with_code(NET).apply(*given)
    return y, z


def test_with_code(given):
    y, z = code_and_output(given)
    np.testing.assert_array_equal(y, NET.apply(*given)[0])
    encoder = jn.serial(jn.dense(4), jnp.tanh, jn.dense(3), jax.nn.sigmoid)
    np.testing.assert_array_equal(z, encoder.apply(given[0]["encoder"], {}, given[2])[0])
    assert jax.tree.map(jnp.shape, with_code(NET).init(KEY, X)) == jax.tree.map(
        jnp.shape, given[:2]
    )
    with pytest.raises(ValueError, match=r"must call m\(jn.models.code, z\) once.*got 0 calls"):
        with_code(jn.dense(7)).apply(*jn.dense(7).init(KEY, jn.spec((6, 7))), jnp.ones((6, 7)))


def test_reconstruction_sums_over_entries_and_averages_over_examples(given):
    y, _ = code_and_output(given)
    penalty = jn.penalties.l2(0.1)
    loss, (state, metrics) = reconstruction(NET, penalty=penalty)(*given, key=None, train=True)
    assert state == {} and set(metrics) == {"error"}
    half = 0.5 * np.square(y - X).sum(1).mean()
    np.testing.assert_allclose(loss, half + penalty(given[0]), rtol=1e-12)
    np.testing.assert_allclose(metrics["error"], np.square(y - X).mean(), rtol=1e-12)
    entropy, _ = reconstruction(NET, lambda y, x: -x * y)(*given)  # one value an entry
    np.testing.assert_allclose(entropy, -(X * y).sum(1).mean(), rtol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        reconstruction,
        partial(contractive_reconstruction, strength=0.3),
        partial(sparse_reconstruction, rho=0.2, beta=0.7),
    ],
)
def test_padding_does_not_count(given, make):
    params, state, x = given
    objective = make(NET)
    few, (_, metrics) = objective(params, state, x[:4], key=KEY)
    mask = jnp.array([1.0, 1, 1, 1, 0, 0])
    padded, (_, same) = objective(params, state, x.at[4:].set(9.0), key=KEY, mask=mask)
    np.testing.assert_allclose(padded, few, rtol=1e-12)
    np.testing.assert_allclose(same["error"], metrics["error"], rtol=1e-12)


def test_denoising_sees_noise_and_wants_the_truth(given):
    seen = []

    def corrupt(key, x):
        seen.append(2 * x)
        return seen[-1]

    objective = denoising_reconstruction(NET, corrupt)
    loss, (_, metrics) = objective(*given, key=KEY, train=True)
    y, _ = NET.apply(*given[:2], 2 * given[2])
    np.testing.assert_allclose(loss, 0.5 * np.square(y - X).sum(1).mean(), rtol=1e-12)
    clean, _ = objective(*given, key=KEY, train=False)
    np.testing.assert_allclose(clean, reconstruction(NET)(*given)[0], rtol=1e-12)
    assert len(seen) == 1  # none in evaluation
    with pytest.raises(ValueError, match="training needs a key"):
        objective(*given, train=True)


def test_masking_noise_keeps_or_zeroes():
    x = jnp.full((400, 50), 3.0)
    noisy = masking_noise(0.3)(KEY, x)
    assert set(np.unique(noisy)) == {0.0, 3.0}
    error = (0.3 * 0.7 / x.size) ** 0.5
    assert abs(float((noisy == 0).mean()) - 0.3) < 4 * error
    assert (masking_noise(0.0)(KEY, x) == x).all()


def test_additive_noise_has_its_deviation():
    noise = additive_noise(0.3)(KEY, jnp.full((400, 50), 3.0)) - 3
    assert abs(float(noise.mean())) < 4 * 0.3 / 20_000**0.5
    assert float(noise.std()) == pytest.approx(0.3, rel=4 / 40_000**0.5)


def jacobian_norm(given):
    params, state, x = given

    def code(row):
        return with_code(NET).apply(params, state, row[None])[0][1][0]

    return np.square(jax.vmap(jax.jacobian(code))(x)).sum((1, 2))  # (batch,)


def test_contraction_is_the_norm_of_the_jacobian(given):
    loss, (_, metrics) = contractive_reconstruction(NET, 0.3)(*given)
    exact = jacobian_norm(given).mean()
    np.testing.assert_allclose(metrics["contraction"], exact, rtol=1e-10)
    np.testing.assert_allclose(loss, reconstruction(NET)(*given)[0] + 0.3 * exact, rtol=1e-10)


def test_contraction_of_one_sigmoid_layer_by_hand(x64):
    """Σ_j (h_j (1 - h_j))² Σ_i W_ij², Rifai et al. 2011, equation 5; and its gradient."""
    net = jn.models.tied_autoencoder(3)
    params, state = net.init(KEY, jnp.asarray(X))

    def by_hand(params):
        w, b = params["encoder"]["kernel"], params["encoder"]["bias"]
        h = jax.nn.sigmoid(X @ w + b)
        return (jnp.square(h * (1 - h)) @ jnp.square(w).sum(0)).mean()

    def ours(params):
        return contractive_reconstruction(net, 1.0)(params, state, jnp.asarray(X))[1][1][
            "contraction"
        ]

    np.testing.assert_allclose(ours(params), by_hand(params), rtol=1e-10)
    jax.tree.map(
        partial(np.testing.assert_allclose, atol=1e-12),
        jax.grad(ours)(params),
        jax.grad(by_hand)(params),
    )


def test_probes_are_right_on_average(given):
    probes = 3000
    objective = contractive_reconstruction(NET, 1.0, probes=probes)
    _, (_, metrics) = objective(*given, key=KEY)
    exact = jacobian_norm(given).mean()
    assert metrics["contraction"] == pytest.approx(exact, rel=0.05)
    assert metrics["contraction"] != pytest.approx(exact, rel=1e-6)
    with pytest.raises(ValueError, match="probes need a key"):
        objective(*given)


def test_sparsity_is_beta_times_kl(given):
    _, z = code_and_output(given)
    loss, (_, metrics) = sparse_reconstruction(NET, rho=0.1, beta=2.0)(*given)
    r = np.asarray(z).mean(0)
    kl = (0.1 * np.log(0.1 / r) + 0.9 * np.log(0.9 / (1 - r))).sum()
    np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-10)
    np.testing.assert_allclose(metrics["activation"], r.mean(), rtol=1e-12)
    np.testing.assert_allclose(loss, reconstruction(NET)(*given)[0] + 2 * kl, rtol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: masking_noise(1.0), r"share that is lost, in \[0, 1\), got 1.0"),
        (lambda: additive_noise(-1.0), "stddev must be at least 0"),
        (lambda: contractive_reconstruction(NET, -1), "strength must be at least 0"),
        (lambda: contractive_reconstruction(NET, 1, probes=0), "probes must be at least 1"),
        (lambda: sparse_reconstruction(NET, rho=1.0), r"rho must be in \(0, 1\)"),
        (lambda: sparse_reconstruction(NET, beta=-1), "beta must be at least 0"),
        (
            lambda: fit_sparse_autoencoder(KEY, np.zeros((3, 2, 2)), 3),
            r"fit_sparse_autoencoder: x must be \(n, inputs\)",
        ),
        (lambda: fit_sparse_autoencoder(KEY, np.full((3, 2), np.nan), 3), "hold a NaN"),
        (lambda: fit_sparse_autoencoder(KEY, np.ones((3, 2)), 0), "features must be at least 1"),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_pair_is_no_batch(given):
    with pytest.raises(TypeError, match="batch is the array x, its own target, got tuple"):
        reconstruction(NET)(*given[:2], (X, X))


@pytest.fixture(scope="module")
def digits():
    (x, _), (held_out, _) = jn.data.digits()
    return x.reshape(len(x), -1), held_out.reshape(len(held_out), -1)


@pytest.mark.parametrize("rho", [0.05, 0.2])
def test_mean_activations_land_on_rho(digits, rho):
    x, held_out = digits
    fit = partial(fit_sparse_autoencoder, rho=rho, output=jax.nn.sigmoid, progress=False)
    params = fit(KEY, x, 25, epochs=60)
    layer = jn.serial(jn.dense(25), jax.nn.sigmoid)
    for images in (x, held_out):
        z, _ = layer.apply({"dense": params}, {}, jnp.asarray(images))
        assert abs(float(z.mean()) - rho) < 0.02
    z, _ = layer.apply({"dense": params}, {}, jnp.asarray(x))
    assert np.abs(z.mean(0) - rho).max() < 0.02  # each unit, not their mean alone
    assert z.mean(0).std() > 1e-5  # a net that ignores x would sit on rho exactly
    assert z.std(0).min() > 0.02


def test_a_fit_is_a_function_of_the_key():
    x = RANDOM.normal(size=(50, 4)).astype(np.float32)
    fits = [
        fit_sparse_autoencoder(jax.random.key(seed), x, 3, epochs=2, optimizer=optax.sgd(0.1))
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(fits[0]["kernel"], fits[1]["kernel"])
    assert (fits[0]["kernel"] != fits[2]["kernel"]).all()
    assert jax.tree.map(jnp.shape, fits[0]) == {"kernel": (4, 3), "bias": (3,)}


@pytest.mark.slow
def test_deep_beats_pca_of_the_same_width_on_held_out_digits(digits):
    decomposition = pytest.importorskip("sklearn.decomposition")
    x, held_out = digits
    pca = decomposition.PCA(8, random_state=0).fit(x)
    linear = np.square(pca.inverse_transform(pca.transform(held_out)) - held_out).mean()
    decoder = jn.serial(jn.models.mlp([32, 64, 64]), jax.nn.sigmoid)
    net = jn.models.autoencoder(jn.models.mlp([64, 32, 8]), decoder)
    optimizer = optax.adam(3e-3)
    step = jn.make_step(reconstruction(net), optimizer)
    train_state = jn.init_training(net, optimizer, KEY, x)
    for epoch in jn.fit(train_state, step, x, epochs=40, evaluate=held_out):
        train_state = epoch.train_state
    assert epoch.test is not None
    assert 0.3 * linear < epoch.test["error"] < 0.8 * linear
