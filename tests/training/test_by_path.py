"""Optimizers by path change what they are named for, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn

KEY = jax.random.key(0)
X, Y = np.ones((4, 3), np.float32), np.zeros((4, 2), np.float32)
NET = jn.serial(jn.dense(5, name="old"), jnp.tanh, jn.dense(2, name="head"))
OBJECTIVE = jn.supervised(NET, optax.squared_error)


def trained(optimizer, steps=3):
    trainer = jn.trainer(OBJECTIVE, optimizer)
    before = jax.device_get(trainer.init(KEY, (X, Y)).params)
    train_state = trainer.init(KEY, (X, Y))
    for _ in range(steps):
        train_state, _ = trainer.step(train_state, (X, Y))
    return before, jax.device_get(train_state.params), train_state


def test_frozen_params_keep_their_bits():
    """`optax.adamw` alone moves them by its decay."""
    frozen = {"old/*": optax.set_to_zero(), "*": optax.adamw(0.1, weight_decay=0.1)}
    before, after, _ = trained(jn.by_path(frozen))
    jax.tree.map(np.testing.assert_array_equal, after["old"], before["old"])
    assert not np.array_equal(after["head"]["kernel"], before["head"]["kernel"])
    before, after, _ = trained(optax.chain(optax.adamw(0.1, weight_decay=0.1)))
    assert not np.array_equal(after["old"]["kernel"], before["old"]["kernel"])


def test_each_array_gets_its_own_optimizer():
    rates = {"*/bias": optax.sgd(0.0), "head/*": optax.sgd(0.5), "*": optax.sgd(0.25)}
    before, after, _ = trained(jn.by_path(rates), steps=1)
    grads = jax.grad(lambda p: OBJECTIVE.apply(p, {}, (X, Y))[0][0].mean())(before)
    for name, rate in (("head", 0.5), ("old", 0.25)):
        np.testing.assert_array_equal(after[name]["bias"], before[name]["bias"])
        moved = (before[name]["kernel"] - after[name]["kernel"]) / rate
        np.testing.assert_allclose(moved, grads[name]["kernel"], 1e-4, 1e-6)


@pytest.mark.slow
def test_in_fit_and_sweep():
    make = lambda rate: jn.by_path({"old/*": optax.set_to_zero(), "*": optax.sgd(rate)})  # noqa: E731
    found = jn.sweep(OBJECTIVE, make, (X, Y), epochs=2, seeds=2, grid={"rate": [0.1, 0.2]},
                     progress=False)  # fmt: skip
    assert found.train["loss"][0, 0, -1] > found.train["loss"][1, 0, -1]
    trainer = jn.trainer(OBJECTIVE, make(0.1))
    start = trainer.init(jax.random.key(0), (X, Y))
    *_, epoch = jn.fit(trainer, start, (X, Y), epochs=2, progress=False)
    np.testing.assert_allclose(epoch.train["loss"], found.train["loss"][0, 0, -1], 1e-5)


def test_a_run_is_saved_and_resumed(tmp_path):
    """Its state has no names with a "/", which no file of weights could hold."""

    def make():
        return jn.trainer(OBJECTIVE, jn.by_path({"old/*": optax.sgd(0.1), "*": optax.adam(0.1)}))

    start = make().init(jax.random.key(0), (X, Y))
    with jn.Checkpoints(tmp_path) as checkpoints:
        *_, last = jn.fit(make(), start, (X, Y), epochs=1, progress=False)
        checkpoints.save(last)
    found, _ = jn.Checkpoints(tmp_path).newest(start)
    jax.tree.map(np.testing.assert_array_equal, found, last.train_state)


@pytest.mark.parametrize(("optimizers", "error", "words"), [
    ({}, TypeError, "must be a dict from patterns"),
    (optax.sgd(0.1), TypeError, "must be a dict from patterns"),
    ({"*": optax.sgd}, TypeError, r"optimizer of '\*' must be an optax optimizer"),
    ({"(a": optax.sgd(1.0)}, ValueError, "optimizers must hold patterns like"),
    ({"old/*": optax.sgd(1.0)}, ValueError, r"no pattern fits head/bias; add .*\"\*\""),
    ({"new/*": optax.sgd(1.0), "*": optax.sgd(1.0)}, ValueError, r"no array needs .*'new/\*'"),
])  # fmt: skip
def test_messages(optimizers, error, words):
    with pytest.raises(error, match=f"^by_path: .*{words}"):
        jn.by_path(optimizers).init(NET.init(KEY, X)[0])
