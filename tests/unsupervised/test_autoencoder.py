"""Objectives by hand, and the mean activation learned."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.unsupervised import autoencoder
from jaxnet.unsupervised.autoencoder import fit_sparse_autoencoder, reconstruction, with_code
from tests.helpers import KEY, close, jit_apply, shapes

KEYS_MAY_REPEAT = True  # values are compared at equal keys
RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(size=(6, 7))
ENCODER = jn.serial(jn.dense(4), jnp.tanh, jn.dense(3), jax.nn.sigmoid)
NET = jn.models.autoencoder(ENCODER, jn.dense(7))


@pytest.fixture
def variables_and_x(x64):
    """(params, state, x) in float64."""
    x = jnp.asarray(X)
    return *NET.init(jax.random.key(1), x), x


def code_and_output(variables_and_x):
    (y, z), _ = with_code(NET).apply(*variables_and_x)
    return y, z


@pytest.mark.slow
def test_with_code(variables_and_x):
    y, z = code_and_output(variables_and_x)
    params, _, x = variables_and_x
    plain, _ = NET.apply(*variables_and_x)
    code, _ = ENCODER.apply(params["encoder"], {}, x)
    np.testing.assert_array_equal(y, plain)
    np.testing.assert_array_equal(z, code)
    for net in with_code(NET), reconstruction(NET):
        drawn = net.init(jax.random.key(1), variables_and_x[2])
        jax.tree.map(np.testing.assert_array_equal, drawn, variables_and_x[:2])
    jn.inspect.check_gradients(reconstruction(NET), variables_and_x[2])


@pytest.mark.slow
def test_losses_of_entries_are_summed_and_codes_are_active(variables_and_x):
    y, z = code_and_output(variables_and_x)
    (entropy, metrics), state = reconstruction(NET, lambda y, x: -x * y).apply(*variables_and_x)
    assert state == {}
    assert set(metrics) == {"error"}
    np.testing.assert_allclose(entropy, -(X * y).sum(1), rtol=1e-12)
    (loss, metrics), _ = autoencoder.sparse_reconstruction(NET).apply(*variables_and_x)
    assert loss.shape == ()
    np.testing.assert_allclose(metrics["activation"], np.asarray(z).mean(1), rtol=1e-12)


@pytest.mark.slow
def test_no_noise_in_evaluation(variables_and_x):
    seen = []

    def noise(key, x):
        seen.append(x)
        return x

    objective = autoencoder.denoising_reconstruction(NET, noise)
    objective.apply(*variables_and_x, key=KEY)
    assert not seen
    with pytest.raises(ValueError, match="denoising_reconstruction: needs a key in training"):
        objective.apply(*variables_and_x, train=True)


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: autoencoder.masking_noise(1.0), ValueError,
     r"masking_noise: rate .*\[0, 1\), got 1.0"),
    (lambda: autoencoder.sparse_reconstruction(NET, rho=1.0), ValueError,
     r"rho must be in \(0, 1\)"),
    (lambda: autoencoder.sparse_reconstruction(NET, beta=-1), ValueError,
     r"beta must be in \[0, inf\)"),
    (lambda: fit_sparse_autoencoder(KEY, np.zeros((3, 2, 2)), 3), ValueError,
     r"fit_sparse_autoencoder: x must have shape \(n, inputs\)"),
    (lambda: with_code(jn.dense(7)).init(KEY, jn.spec((6, 7))), ValueError,
     r"must call m\(jn.models.bottleneck, z\) once.*got 0 calls"),
    (lambda: reconstruction(NET).apply(*NET.init(KEY, X), (X, X)), TypeError,
     "the array x, its own target, got tuple"),
    (lambda: reconstruction(NET).init(KEY, (X, X)), TypeError, "its own target, got tuple"),
    (lambda: reconstruction(NET, lambda y, x: jnp.square(y - x).mean()).apply(*NET.init(KEY, X), X),
     ValueError, r"expected a reconstruction of shape \(6, 7\) and a loss"),
])  # fmt: skip
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.slow
def test_padding_does_not_count(variables_and_x):
    params, state, x = variables_and_x
    objective = reconstruction(NET)
    whole = jn.evaluate(objective, params, state, x, batch_size=6)
    padded = jn.evaluate(objective, params, state, x, batch_size=4)
    assert padded == pytest.approx(whole, rel=1e-12)
    trainer = jn.trainer(objective, optax.sgd(0.1))
    train_state = trainer.init(KEY, x)
    (epoch,) = jn.fit(trainer, train_state, x, epochs=1, batch_size=4, shuffle=False)
    params = train_state.params

    @jax.jit
    @jax.grad
    def slope(params, x):
        (values, _), _ = objective.apply(params, state, x)
        return values.mean()

    for rows in (x[:4], x[4:]):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, slope(params, rows))
    close(epoch.train_state.params, params, 1e-10, 0)


@pytest.mark.slow
def test_the_kl_of_a_padded_batch_is_refused(variables_and_x):
    trainer = jn.trainer(autoencoder.sparse_reconstruction(NET), optax.sgd(0.1))
    train_state = trainer.init(KEY, variables_and_x[2])
    with pytest.raises(ValueError, match="a batch_size that divides the number of examples"):
        next(jn.fit(trainer, train_state, variables_and_x[2], epochs=1, batch_size=4))


def test_masking_noise_keeps_or_zeroes():
    x = jnp.full((400, 50), 3.0)
    noisy = autoencoder.masking_noise(0.3)(KEY, x)
    assert set(np.unique(noisy)) == {0.0, 3.0}
    error = (0.3 * 0.7 / x.size) ** 0.5
    assert abs(float((noisy == 0).mean()) - 0.3) < 4 * error
    assert (autoencoder.masking_noise(0.0)(KEY, x) == x).all()


@pytest.fixture(scope="module")
def digits():
    (x, _), (held_out, _) = jn.data.digits()
    return x.reshape(len(x), -1), held_out.reshape(len(held_out), -1)


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.05, 0.2])
def test_mean_activations_land_on_rho(digits, rho):
    x, held_out = digits
    fit = partial(fit_sparse_autoencoder, rho=rho, output=jax.nn.sigmoid, progress=False)
    params = fit(KEY, x, 25, epochs=60)
    layer = jn.serial(jn.dense(25), jax.nn.sigmoid)
    for images in (x, held_out):
        z, _ = jit_apply(layer, {"dense": params}, {}, jnp.asarray(images))
        assert abs(float(z.mean()) - rho) < 0.02
    z, _ = jit_apply(layer, {"dense": params}, {}, jnp.asarray(x))
    assert np.abs(z.mean(0) - rho).max() < 0.02  # each unit, not their mean alone
    assert z.mean(0).std() > 1e-5  # a net that ignores x would sit on rho exactly
    assert z.std(0).min() > 0.02


@pytest.mark.slow
def test_one_step_of_a_fit_is_that_of_numpy(monkeypatch):
    """The gradient of half the squared error, of the divergence and of the penalty."""
    x = RANDOM.normal(size=(6, 3)).astype(np.float32)
    rho = 0.2
    beta = 1.5
    seen = []

    def see(grads, state, params):
        jax.debug.callback(lambda *trees: seen.append(trees), grads, params)
        return jax.tree.map(lambda g: -0.1 * g, grads), state

    plain = optax.GradientTransformation(lambda params: (), see)
    monkeypatch.setattr(optax, "adam", lambda rate: plain)
    options = {"penalty": jn.penalties.l2(0.01), "output": jnp.tanh, "epochs": 1}
    found = fit_sparse_autoencoder(KEY, x, 2, rho=rho, beta=beta, **options, progress=False)
    jax.effects_barrier()
    ((grads, params),) = jax.tree.map(partial(np.asarray, dtype=float), seen)
    e = params["encoder"]
    d = params["decoder"]
    np.testing.assert_allclose(e["bias"], math.log(0.2 / 0.8), rtol=1e-6)
    for kernel in (e["kernel"], d["kernel"]):  # uniform, with the variance of Glorot
        assert 0.1 < abs(kernel).max() < math.sqrt(6 / (2 + 3))
    z = 1 / (1 + np.exp(-(x @ e["kernel"] + e["bias"])))
    y = np.tanh(z @ d["kernel"] + d["bias"])
    out = (y - x) * (1 - y**2) / 6
    mean = z.mean(0)
    code = out @ d["kernel"].T + beta * ((1 - rho) / (1 - mean) - rho / mean) / 6
    code *= z * (1 - z)
    encoder = {"kernel": x.T @ code + 0.02 * e["kernel"], "bias": code.sum(0)}
    decoder = {"kernel": z.T @ out + 0.02 * d["kernel"], "bias": out.sum(0)}
    close(grads, {"encoder": encoder, "decoder": decoder}, 1e-4, 1e-6)
    close(found, jax.tree.map(lambda p, g: p - 0.1 * g, e, grads["encoder"]), 1e-4, 1e-6)


@pytest.mark.slow
def test_the_learning_rate_falls_as_a_cosine():
    """Adam's steps along a constant slope: two passes over three batches of two."""

    def steep(params):
        return 1e6 * params["encoder"]["bias"].sum()

    options = {"penalty": steep, "epochs": 2, "batch_size": 2, "learning_rate": 0.01}
    x = X[:5].astype(np.float32)
    found = fit_sparse_autoencoder(KEY, x, 1, rho=0.5, **options, progress=False)
    rates = [0.01 * (1 + math.cos(math.pi * i / 6)) / 2 for i in range(6)]
    np.testing.assert_allclose(found["bias"], -sum(rates), rtol=1e-4)


@pytest.mark.slow
def test_a_fit_is_a_function_of_the_key():
    x = RANDOM.normal(size=(50, 4)).astype(np.float32)

    def fit(seed):
        return fit_sparse_autoencoder(jax.random.key(seed), x, 3, epochs=2)

    params = fit(0)
    np.testing.assert_array_equal(params["kernel"], fit(0)["kernel"])
    assert (params["kernel"] != fit(1)["kernel"]).all()
    assert shapes(params) == {"kernel": (4, 3), "bias": (3,)}
