from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="PCA and the digits")

from experiments import autoencoder
from experiments.tied_autoencoder import tied_autoencoder
from tests.compiled import jit_apply


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
    import jax

    mean = np.linspace(0.02, 0.9, 64)
    net, _ = autoencoder.make("plain", mean, autoencoder.SIZES["digits"])
    params, _ = net.init(jax.random.key(0), np.zeros((1, 64), np.float32))
    bias = np.asarray(params["decoder"]["output"]["bias"])
    np.testing.assert_allclose(1 / (1 + np.exp(-bias)), mean, rtol=1e-5)


def test_contraction_of_one_sigmoid_layer():
    """Σ_j (h_j (1 - h_j))² Σ_i W_ij², Rifai et al. 2011, equation 5; the estimate is unbiased."""
    import jax

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
    assert len(x) == len(y) == 5 and test == Path("there")


def test_sizes_of_the_data_set_where_no_option_is_given():
    sizes = autoencoder.Config(data="mnist", epochs=3).sizes()
    assert sizes == autoencoder.SIZES["mnist"]._replace(epochs=3)
