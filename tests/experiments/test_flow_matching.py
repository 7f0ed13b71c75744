import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from experiments import flow_matching
from experiments.flow_matching import cut, frechet, gaussian, join, measure, sample, velocity

KEYS_MAY_REPEAT = True  # samples of the same noise are compared


def test_joining_undoes_cutting():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    assert cut(x).shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(cut(x)[0, 0, 0], x[0, :2, :2].ravel())
    np.testing.assert_array_equal(join(cut(x)), x)


def test_the_measures():
    labels = np.repeat(np.arange(10), 2)
    images = np.zeros((20, 2, 2, 1))
    images[1::2] = 0.5  # so two images of a label differ by 0.5 in each pixel
    features = np.random.default_rng(0).normal(size=(20, 3))
    found = measure(labels, features, images, labels, features)
    assert found["read"] == 1 and np.isclose(found["classes"], np.log2(10))
    assert np.isclose(found["spread"], 0.5) and abs(found["distance"]) < 1e-6
    found = measure(np.zeros(20, int), features, images, labels, features)
    assert found["read"] == 0.1 and found["classes"] == 0


def test_the_frechet_distance_is_that_of_the_square_root_of_a_matrix():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 4)), 1 + rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4))
    (mean, cov), (other, its) = ((x.mean(0), np.cov(x.T)) for x in (a, b))
    root = scipy.linalg.sqrtm(cov @ its).real
    wanted = ((mean - other) ** 2).sum() + np.trace(cov + its - 2 * root)
    assert np.isclose(frechet(a, b), wanted)


def test_the_baseline_has_the_moments_of_each_label():
    rng = np.random.default_rng(0)
    y = np.arange(4000) % 2
    x = 0.5 + 0.05 * rng.normal(size=(4000, 2, 2, 1)) + 0.1 * y[:, None, None, None]
    x[..., 1, 1, :] = x[..., 0, 0, :]
    labels = np.repeat([0, 1], 3000)
    drawn = gaussian((x, y), labels, 1).reshape(6000, -1)
    for label in (0, 1):
        own, real = drawn[labels == label], x[y == label].reshape(2000, -1)
        np.testing.assert_allclose(own.mean(0), real.mean(0), atol=0.01)
        np.testing.assert_allclose(np.cov(own.T), np.cov(real.T), atol=3e-4)


@pytest.mark.slow
def test_guidance_mixes_two_velocities(monkeypatch):
    """With a velocity that depends on the label alone, a sample moves by it from its noise."""
    monkeypatch.setattr(flow_matching, "FEATURES", 4)
    monkeypatch.setattr(flow_matching, "MIDDLE", 8)
    given = jnp.zeros((3, 28, 28, 1)), jnp.zeros(3), jnp.arange(3)
    params, state = velocity().init(jax.random.key(0), given)
    params = jax.tree.map(lambda a: a + 0.01 * jnp.cos(jnp.arange(a.size)).reshape(a.shape), params)
    key, labels = jax.random.key(1), jnp.arange(3)
    hidden = jnp.full(3, flow_matching.HIDDEN_LABEL)

    def image(labels, guidance):
        return sample(params, state, key, labels, guidance, 1)

    def by_hand(guidance):
        x = jax.random.normal(key, (3, 28, 28, 1))

        def slope(x, t):
            told, untold = (
                velocity().apply(params, state, (x, jnp.full(3, t), which))[0]
                for which in (labels, hidden)
            )
            return untold + guidance * (told - untold)

        return ((x + slope(x + slope(x, 0.0) / 2, 0.5) + 1) / 2).clip(0, 1)

    for guidance in (0.0, 1.0, 3.0):
        np.testing.assert_allclose(image(labels, guidance), by_hand(guidance), atol=1e-5)
    np.testing.assert_allclose(image(labels, 0.0), image(hidden, 1.0), atol=1e-5)
    assert np.abs(image(labels, 3.0) - image(labels, 1.0)).max() > 1e-4


@pytest.mark.long
def test_guided_digits_are_read_as_their_label(few_examples, tmp_path):
    config = flow_matching.Config(
        seeds=1, epochs=15, train_size=2500, guidance=(0.0, 3.0), steps=8, samples=10,
        data_dir=few_examples(4000, 1000), output=tmp_path,
    )  # fmt: skip
    results = flow_matching.run(config)
    read = {name: each["read"].item() for name, each in results.measures.items()}
    assert read["guidance 0"] < 0.3 < 0.6 < read["guidance 3"]
    assert read["real digits"] > 0.8 and results.losses[0, -1] < results.losses[0, 0]
