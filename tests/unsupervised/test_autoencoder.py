"""Objectives by hand, and the mean activation learned."""

import math
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.unsupervised import autoencoder
from jaxnet.unsupervised.autoencoder import fit_sparse_autoencoder, reconstruction, with_code
from jaxnet.unsupervised.check import standardized
from jaxnet.unsupervised.kmeans import fit_kmeans, fit_random_vectors, kmeans, random_vectors
from tests.helpers import KEY, close, jit_apply, shapes

KEYS_MAY_REPEAT = True  # values are compared at equal keys
RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(size=(6, 7))
ENCODER = jn.serial(jn.dense(4), jnp.tanh, jn.dense(3), jax.nn.sigmoid)
NET = jn.models.autoencoder(ENCODER, jn.dense(7))


@pytest.fixture
def given(x64):
    """(params, state, x) in float64."""
    x = jnp.asarray(X)
    return *NET.init(jax.random.key(1), x), x


def code_and_output(given):
    (y, z), _ = with_code(NET).apply(*given)
    return y, z


@pytest.mark.slow
def test_with_code(given):
    y, z = code_and_output(given)
    params, _, x = given
    plain, _ = NET.apply(*given)
    code, _ = ENCODER.apply(params["encoder"], {}, x)
    np.testing.assert_array_equal(y, plain)
    np.testing.assert_array_equal(z, code)
    for net in with_code(NET), reconstruction(NET):
        drawn = net.init(jax.random.key(1), given[2])
        jax.tree.map(np.testing.assert_array_equal, drawn, given[:2])
    jn.inspect.check_gradients(reconstruction(NET), given[2])


def test_losses_of_entries_are_summed_and_codes_are_active(given):
    y, z = code_and_output(given)
    (entropy, metrics), state = reconstruction(NET, lambda y, x: -x * y).apply(*given)
    assert state == {}
    assert set(metrics) == {"error"}
    np.testing.assert_allclose(entropy, -(X * y).sum(1), rtol=1e-12)
    (loss, metrics), _ = autoencoder.sparse_reconstruction(NET).apply(*given)
    assert loss.shape == ()
    np.testing.assert_allclose(metrics["activation"], np.asarray(z).mean(1), rtol=1e-12)


def test_no_noise_in_evaluation(given):
    seen = []

    def noise(key, x):
        seen.append(x)
        return x

    objective = autoencoder.denoising_reconstruction(NET, noise)
    objective.apply(*given, key=KEY)
    assert not seen
    with pytest.raises(ValueError, match="denoising_reconstruction: needs a key in training"):
        objective.apply(*given, train=True)


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
def test_padding_does_not_count(given):
    params, state, x = given
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


def test_the_kl_of_a_padded_batch_is_refused(given):
    trainer = jn.trainer(autoencoder.sparse_reconstruction(NET), optax.sgd(0.1))
    train_state = trainer.init(KEY, given[2])
    with pytest.raises(ValueError, match="a batch_size that divides the number of examples"):
        next(jn.fit(trainer, train_state, given[2], epochs=1, batch_size=4))


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


DRAW = np.random.default_rng(0)
MIDDLES = np.array([[0, 0, 0], [20, 0, 0], [0, 20, 0], [0, 0, 20], [20, 20, 20.0]])
SIZES = [7, 30, 50, 9, 4]
OF = np.repeat(np.arange(5), SIZES)
# Far from 0, where squares would lose digits.
GROUPS = (MIDDLES[OF] + DRAW.normal(size=(100, 3)) + 100).astype(np.float32)


def nearest(centroids, x):
    """Number of the nearest centroid, and the squared distance to it."""
    away = np.asarray(x)[:, None] - np.asarray(centroids)
    squares = (away**2).sum(-1)
    return squares.argmin(1), squares.min(1)


def inertia(centroids, x):
    _, squares = nearest(centroids, x)
    return float(squares.sum())


def test_groups_are_found():
    """Each centroid is the mean of its group; in any order."""
    centroids = np.asarray(kmeans(KEY, GROUPS, 5))
    means = np.stack([GROUPS[OF == i].mean(0) for i in range(5)])
    order = ((centroids[:, None] - means) ** 2).sum(-1).argmin(0)
    np.testing.assert_allclose(centroids[order], means, atol=1e-4)
    index, squared = nearest(centroids, GROUPS)
    np.testing.assert_array_equal(index, order[OF])
    np.testing.assert_allclose(squared, ((GROUPS - means[OF]) ** 2).sum(1), rtol=1e-3, atol=1e-3)


def test_the_key_decides():
    x = DRAW.normal(size=(300, 4))
    one, two, other = (np.asarray(kmeans(jax.random.key(i), x, 12)) for i in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).max() > 0.01
    ratio = inertia(one, x) / inertia(other, x)
    assert abs(ratio - 1) < 0.1  # two local minima, neither of them bad


def test_rounds_of_lloyd_lower_the_inertia():
    x = DRAW.normal(size=(300, 4))
    rounds = [kmeans(KEY, x, 12, iterations=i, tolerance=0) for i in (1, 2, 4, 50)]
    inertias = [inertia(centroids, x) for centroids in rounds]
    assert (np.diff(inertias) < 0).all()


def test_float64_far_from_zero_is_not_rounded_before():
    """Rounded to float32 these examples are equal, of which scikit-learn warns."""
    kmeans(jax.random.key(0), np.array([[0.0], [1], [3], [4]]) + 2.0**27, 2)


def test_a_centroid_an_example():
    x = GROUPS[:9]
    centroids = kmeans(KEY, x, 9)
    np.testing.assert_allclose(np.sort(centroids, axis=0), np.sort(x, axis=0), atol=1e-4)


def test_fewer_distinct_examples_than_centroids():
    x = np.repeat([[1.0, 2.0], [5.0, 2.0]], 4, axis=0)
    with pytest.warns(match="distinct clusters"):  # of scikit-learn
        centroids = np.asarray(kmeans(KEY, x, 5))
    assert np.isfinite(centroids).all()
    np.testing.assert_allclose(nearest(centroids, x)[1], 0, atol=1e-9)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: kmeans(KEY, GROUPS, 101), "features must be 1 to 100, for 100 examples .*, got 101"),
    (lambda: kmeans(KEY, GROUPS, 5, iterations=0), "iterations must be at least 1, got 0"),
    (lambda: kmeans(KEY, GROUPS[0], 5), r"kmeans: x must have shape \(n, inputs\), got \(3,\)"),
])  # fmt: skip
def test_messages(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# Far from 0, where squares would lose digits.
VECTORS = (DRAW.normal(size=(100, 3)) + 100).astype(np.float32)


def outputs(params, x):
    layer = jn.dense(params["bias"].shape[0])
    y, _ = jit_apply(layer, params, {}, jnp.asarray(x))
    return np.asarray(y)


def test_the_largest_output_is_the_nearest_centroid():
    x = DRAW.normal(size=(400, 6)).astype(np.float32) + 1
    params = fit_kmeans(KEY, x, 11)
    of = nearest(kmeans(KEY, x, 11), x)[0]
    y = np.asarray(outputs(params, x))
    assert (y.argmax(1) == of).mean() > 0.99  # but for ties
    assert len(set(of.tolist())) == 11
    np.testing.assert_allclose([y.mean(), y.std()], [0, 1], atol=1e-4)


def test_random_vectors_are_examples_and_none_twice():
    rows = np.asarray(random_vectors(KEY, VECTORS, 40))
    places = [np.flatnonzero((VECTORS == row).all(1)) for row in rows]
    assert len({int(place[0]) for place in places}) == 40
    assert (rows != random_vectors(jax.random.key(1), VECTORS, 40)).any()


def test_random_vectors_as_kernels():
    params = fit_random_vectors(KEY, VECTORS, 13)
    centered = np.asarray(random_vectors(KEY, VECTORS, 13)) - VECTORS.mean(0)
    kernel = np.asarray(params["kernel"])
    lengths = np.linalg.norm(kernel, axis=0)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-5)
    cosines = (kernel.T * centered).sum(1) / lengths / np.linalg.norm(centered, axis=1)
    np.testing.assert_allclose(cosines, 1, atol=1e-5)
    y = np.asarray(outputs(params, VECTORS))
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(y.std(), 1, rtol=1e-3)


@pytest.mark.slow
def test_equal_examples_give_finite_kernels():
    x = np.full((6, 2), 3.0, np.float32)
    for fit in (fit_random_vectors, partial(fit_kmeans, iterations=1)):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Number of distinct clusters")
            np.testing.assert_array_equal(outputs(fit(KEY, x, 2), x), 0)


@pytest.mark.slow
def test_the_scale_is_measured_on_some_rows():
    x = jnp.asarray(DRAW.normal(size=(30_001, 3)) + 5, jnp.float32)
    kernel = jnp.asarray(DRAW.normal(size=(3, 4)), jnp.float32)
    bias = jnp.arange(4.0)
    params = standardized(kernel, bias, x)
    y = np.asarray(x @ params["kernel"] + params["bias"])
    np.testing.assert_allclose([y.mean(), y.std()], [0, 1], atol=0.02)
    assert y[::4].std() == pytest.approx(1, abs=2e-4)
    ratio = params["kernel"] / kernel
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)
    shift = params["bias"] - ratio[0, 0] * bias
    np.testing.assert_allclose(shift, shift[0], rtol=1e-4)
