from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from experiments import self_supervised
from experiments.self_supervised import Config
from tests.helpers import close


@pytest.mark.slow
def test_the_contrastive_loss_is_that_of_optax():
    y = jax.random.normal(jax.random.key(0), (10, 4))
    pairs = jnp.tile(jnp.arange(5), 2)
    found = jax.value_and_grad(lambda y: self_supervised.contrastive(y, 0.1).mean())(y)
    wanted = jax.value_and_grad(lambda y: optax.ntxent(y, pairs, 0.1))(y)
    close(found, wanted, 1e-4, 1e-6)


def test_the_losses_of_the_two_views_of_an_image_are_averaged():
    losses = jnp.array([1.0, 2, 3, 5, 6, 7])  # the views of three images, then the other views
    np.testing.assert_allclose(self_supervised.per_image(losses), [3, 4, 5])


@pytest.mark.slow
def test_dino_centers_and_sharpens_the_assignments_of_the_target(monkeypatch):
    def plain(m, x):  # the images are their own views
        return jnp.concatenate([x, x]), jnp.concatenate([x, x])

    monkeypatch.setattr(self_supervised, "two_views", plain)
    objective = self_supervised.dino(Config())
    x = jax.random.uniform(jax.random.key(1), (6, 28, 28, 1))
    params, state = objective.init(jax.random.key(0), x)
    assert not state["center"].any()
    tap = jn.tap(objective, "online")
    (y, target), _ = jax.jit(partial(tap.apply, train=True))(params, state, x)
    center = 0.001 * jnp.arange(256.0)
    wanted = jax.nn.softmax((target - center) / 0.04)
    expected = -(wanted * jax.nn.log_softmax(y / 0.1)).sum(-1)[:6]
    state = {"online": state["online"], "center": center}
    (values, _), after = jax.jit(partial(objective.apply, train=True))(params, state, x)
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    np.testing.assert_allclose(after["center"], 0.9 * center + 0.1 * target.mean(0), rtol=1e-5)


@pytest.mark.slow
def test_the_regression_is_that_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    x = np.random.default_rng(0).normal(size=(120, 5)).astype(np.float32)
    y = (x @ np.random.default_rng(1).normal(size=(5, 10))).argmax(-1)
    weights, bias = self_supervised.regression(x, y, 1e-2)
    wanted = linear.LogisticRegression(C=1 / (2 * 1e-2 * 120), tol=1e-8, max_iter=1000).fit(x, y)
    found = np.asarray(jax.nn.softmax(x @ weights + bias))[:, wanted.classes_]
    np.testing.assert_allclose(found, wanted.predict_proba(x), atol=0.03)
