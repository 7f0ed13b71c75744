from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import autoencoder, edges
from experiments.tied_autoencoder import tied_autoencoder
from jaxnet.inspect import Gabor, GaborFit
from tests.helpers import jit_apply

pytest.importorskip("sklearn", reason="the photographs")
pytest.importorskip("PIL", reason="reads the photographs")


@pytest.mark.long
def test_the_claim_at_a_smaller_size(tmp_path):
    """More than half of the filters are Gabor functions; all of them would be suspicious."""
    sizes = {"size": 8, "components": 32, "patches": 12_000, "features": 36}
    config = edges.Config(**sizes, epochs=40, output=tmp_path)
    results = edges.run(config)
    assert 0.5 < results.shares["learned"][0] <= 1
    assert results.oriented[0] > 0.5
    assert results.oriented[0] <= results.shares["learned"][0]
    assert results.shares["random"][0] < 0.1
    low, high = results.activation[0]
    assert abs(low - config.rho) < 0.02
    assert abs(high - config.rho) < 0.02
    assert low < high


def test_what_counts_as_oriented():
    dot = Gabor(5.0, 5.0, 0.3, 0.05, 0.0, 1.0, 1.2, 1.0)
    bar = dot._replace(sigma_across=2.5)
    edge = dot._replace(frequency=0.2)
    fit = GaborFit(Gabor(*map(np.array, zip(dot, bar, edge, strict=True))), np.ones(3))
    assert edges.oriented(fit).tolist() == [False, True, True]


def test_patches_are_whitened_but_for_the_damping():
    x = np.random.default_rng(0).normal(size=(500, 64)) @ np.diag(np.linspace(0.1, 1, 64))
    whitened, directions = edges.prepare(x, 20)
    assert whitened.shape == (500, 20)
    assert directions.shape == (64, 20)
    np.testing.assert_allclose(directions.T @ directions, np.eye(20), atol=1e-4)
    covariance = np.cov(whitened.T)
    assert 0.8 < np.diag(covariance).min()
    assert np.diag(covariance).max() <= 1.001
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-3


def test_photographs_of_the_sample_are_those_of_scikit_learn():
    from sklearn.datasets import load_sample_images

    photos = edges.load(edges.Config())
    expected = [photo.astype(float).mean(-1) / 255 for photo in load_sample_images().images]
    assert len(photos) == 2
    for photo, image in zip(photos, expected, strict=True):
        np.testing.assert_allclose(photo, image, atol=1e-6)


@pytest.mark.parametrize("images", ["cifar10", "camvid"])
def test_photographs_of_tfds(images, monkeypatch):
    color = np.full((6, 40, 30, 3), 51, np.uint8)
    cifar = (color / 255, np.zeros(6)), None
    monkeypatch.setattr(edges.jn.data, "cifar10", lambda data_dir: cifar)
    monkeypatch.setattr(edges.jn.data.tfds, "load", lambda *a, data_dir: {"image": color})
    photos = edges.load(edges.Config(images=images))
    assert len(photos) == 6
    assert photos[0].shape == (40, 30)
    np.testing.assert_allclose(photos, 0.2, rtol=1e-6)


@pytest.mark.long
def test_the_claim_with_fewer_epochs(tmp_path):
    """Deep beats PCA on what is held out, denoising on what is masked; neither is perfect."""
    config = autoencoder.Config(kinds=("denoising", "deep"), epochs=35, output=tmp_path)
    errors, masked, manifold, _ = autoencoder.run(config)
    assert 0.4 < errors["deep"][0] / errors["PCA"][0] < 0.85
    assert 0.4 < masked["denoising"][0] / masked["PCA"][0] < 0.9
    assert 0.4 < manifold["deep autoencoder"][0] / manifold["PCA"][0] < 0.9
    assert manifold["PCA"][1] + 0.05 < manifold["deep autoencoder"][1] < 0.97


def test_the_first_output_is_the_mean_image():
    mean = np.linspace(0.02, 0.9, 64)
    net, _ = autoencoder.make("plain", mean, autoencoder.SIZES["digits"])
    params, _ = net.init(jax.random.key(0), np.zeros((1, 64), np.float32))
    bias = np.asarray(params["decoder"]["output"]["bias"])
    np.testing.assert_allclose(1 / (1 + np.exp(-bias)), mean, rtol=1e-5)


@pytest.mark.slow
def test_contraction_of_one_sigmoid_layer():
    """Σ_j (h_j (1 - h_j))² Σ_i W_ij², Rifai et al. 2011, equation 5; the estimate is unbiased."""
    x = np.random.default_rng(0).uniform(size=(6, 7)).astype(np.float32)
    net = tied_autoencoder(3)
    params, state = jax.device_get(net.init(jax.random.key(0), x))
    apply = autoencoder.contractive_reconstruction(net, 0.7).apply
    keys = jax.random.split(jax.random.key(1), 3000)
    (values, metrics), _ = jax.jit(jax.vmap(lambda key: apply(params, state, x, key=key)))(keys)
    values, metrics = jax.device_get((values, metrics))
    (plain, _), _ = jit_apply(autoencoder.autoencoder.reconstruction(net), params, state, x)
    np.testing.assert_allclose(values, plain + 0.7 * metrics["contraction"], rtol=1e-5)
    kernel = params["encoder"]["kernel"]
    h = 1 / (1 + np.exp(-x @ kernel - params["encoder"]["bias"]))
    exact = np.square(h * (1 - h)) @ np.square(kernel).sum(0)
    np.testing.assert_allclose(metrics["contraction"].mean(0), exact, rtol=0.1)
    assert metrics["contraction"].mean() == pytest.approx(exact.mean(), rel=0.03)


def test_mnist_is_cut_to_the_train_size(monkeypatch):
    images = np.zeros((9, 28, 28, 1)), np.arange(9)
    monkeypatch.setattr(autoencoder.jn.data, "mnist", lambda data_dir: (images, data_dir))
    config = autoencoder.Config(data="mnist", data_dir=Path("there"), train_size=5)
    (x, y), test = autoencoder.load(config)
    assert len(x) == len(y) == 5
    assert test == Path("there")


def test_sizes_of_the_data_set_where_no_option_is_given():
    sizes = autoencoder.Config(data="mnist", epochs=3).sizes()
    assert sizes == autoencoder.SIZES["mnist"]._replace(epochs=3)
