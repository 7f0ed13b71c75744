import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the photographs")
pytest.importorskip("PIL", reason="reads the photographs")

from experiments import edges
from jaxnet.inspect import Gabor, GaborFit


@pytest.mark.long
def test_the_claim_at_a_smaller_size(tmp_path):
    """More than half of the filters are Gabor functions; all of them would be suspicious."""
    config = edges.Config(
        size=8, components=32, patches=12_000, features=36, epochs=40, output=tmp_path
    )
    results = edges.run(config)
    assert 0.5 < results.shares["learned"][0] <= 1 and results.oriented[0] > 0.5
    assert results.oriented[0] <= results.shares["learned"][0]
    assert results.shares["random"][0] < 0.1
    low, high = results.activation[0]
    assert abs(low - config.rho) < 0.02 and abs(high - config.rho) < 0.02 and low < high


def test_what_counts_as_oriented():
    dot = Gabor(5.0, 5.0, 0.3, 0.05, 0.0, 1.0, 1.2, 1.0)
    bar = dot._replace(sigma_across=2.5)
    edge = dot._replace(frequency=0.2)
    fit = GaborFit(Gabor(*map(np.array, zip(dot, bar, edge, strict=True))), np.ones(3))
    assert edges.oriented(fit).tolist() == [False, True, True]


def test_patches_are_whitened_but_for_the_damping():
    x = np.random.default_rng(0).normal(size=(500, 64)) @ np.diag(np.linspace(0.1, 1, 64))
    whitened, directions = edges.prepare(x, 20)
    assert whitened.shape == (500, 20) and directions.shape == (64, 20)
    np.testing.assert_allclose(directions.T @ directions, np.eye(20), atol=1e-4)
    covariance = np.cov(whitened.T)
    assert 0.8 < np.diag(covariance).min() and np.diag(covariance).max() <= 1.001
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
    assert len(photos) == 6 and photos[0].shape == (40, 30)
    np.testing.assert_allclose(photos, 0.2, rtol=1e-6)
