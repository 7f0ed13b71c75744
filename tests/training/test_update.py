"""One update by hand, and as a pure function inside other transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import close
from tests.training.conftest import data, started


def build(net, optimizer=None):
    return started(net, data(6), optimizer=optimizer)


def test_an_update_by_hand():
    """Of the rows that count: the gradient of their mean loss, times the rate, is subtracted."""
    x = np.float32([[1, 2], [3, 4], [9, 9]])
    y = np.float32([[1], [2], [9]])
    objective = jn.supervised(jn.dense(1, use_bias=False), lambda z, y: (z - y) ** 2)
    trainer = jn.trainer(objective, optax.sgd(0.1))
    kernel = np.float32([[0.5], [-1]])
    start = trainer.init(jax.random.key(0), (x, y), params={"kernel": kernel})
    after, found, finite = trainer.update(start, (x, y), jnp.float32([1, 1, 0]))
    error = x[:2] @ kernel - y[:2]
    close(found["loss"].mean, (error**2).mean(), 1e-6)
    assert found["loss"].weight == 2
    assert finite.tolist() == [True]
    assert after.step == 1
    close(after.params["kernel"], kernel - 0.1 * x[:2].T @ error, 1e-6)


def test_the_optimizer_of_the_state_is_that_of_the_step():
    _, train_state = build(jn.dense(2), optax.adam(0.1))
    trainer, _ = build(jn.dense(2), optax.sgd(0.1))
    words = r"another optimizer.*\n  expected .*EmptyState.*\n  got .*ScaleByAdam"
    with pytest.raises(ValueError, match=words):
        trainer.step(train_state, data(6))
    with pytest.raises(ValueError, match="opt_state belongs to another optimizer"):
        list(jn.fit(trainer, train_state, data(6), epochs=1))


@pytest.mark.slow
def test_a_step_inside_other_transforms_is_a_pure_function():
    net = jn.serial(jn.dense(4), jn.batch_norm(), jn.dense(2))
    trainer, train_state = build(net, optax.adam(0.1))
    batch = tuple(map(jnp.asarray, data(6)))

    def loss(scale, train_state=train_state):
        scaled = jax.tree.map(lambda leaf: scale * leaf, train_state.params)
        _, metrics = trainer.step(train_state._replace(params=scaled), batch)
        return metrics["loss"]

    low, one, high = jax.jit(jax.vmap(loss))(jnp.array([0.99, 1.0, 1.01]))
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(1.0), (high - low) / 0.02, rtol=2e-2)

    def body(state, _):
        state, metrics = trainer.step(state, batch)
        return state, metrics["loss"]

    _, losses = jax.lax.scan(body, train_state, length=3)
    _, metrics = trainer.step(train_state, batch)  # nothing was donated before
    np.testing.assert_allclose([one, losses[0]], [metrics["loss"]] * 2, rtol=1e-5)
    assert losses[2] < losses[0]


def test_a_batch_without_rows_is_refused():
    trainer = jn.trainer(jn.supervised(jn.dense(1), optax.squared_error), optax.sgd(0.1))
    batch = jnp.ones((4, 3)), jnp.ones((4, 1))
    train_state = trainer.init(jax.random.key(0), batch)
    with pytest.raises(ValueError, match="step: expected at least one example, got"):
        trainer.step(train_state, jax.tree.map(lambda a: a[:0], batch))
    train_state, _ = trainer.step(train_state, batch)  # which is not lost
    assert int(train_state.step) == 1
