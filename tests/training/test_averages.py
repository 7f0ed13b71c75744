"""The moving average of params: by hand, in a trainer, and through save and load."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn

DATA = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)), jnp.float32), jnp.ones((12, 2))


def run(decay, steps):
    trainer = jn.trainer(
        jn.supervised(jn.dense(2), optax.squared_error), optax.chain(optax.adam(0.1), jn.ema(decay))
    )
    train_state = trainer.init(jax.random.key(0), DATA)
    seen = []
    for _ in range(steps):
        train_state, _ = trainer.step(train_state, DATA)
        seen.append(jax.device_get(train_state.params["kernel"]))
    return train_state, seen


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_is_the_average_by_hand(decay):
    """Weights of at most (1 + t) / (10 + t); the params themselves train as without it."""
    train_state, seen = run(decay, 6)
    wanted = seen[0]
    for t, now in enumerate(seen[1:], start=1):
        rate = min(decay, (1 + t) / (10 + t))
        wanted = rate * wanted + (1 - rate) * now
    found = optax.tree.get(train_state.opt_state, "ema")
    np.testing.assert_allclose(found["kernel"], wanted, 1e-5)
    plain = jn.trainer(jn.supervised(jn.dense(2), optax.squared_error), optax.adam(0.1))
    other = plain.init(jax.random.key(0), DATA)
    for _ in range(6):
        other, _ = plain.step(other, DATA)
    np.testing.assert_allclose(seen[-1], other.params["kernel"], 1e-6)
    if decay == 0:
        np.testing.assert_allclose(found["kernel"], seen[-1], 1e-6)
    else:
        assert np.abs(found["kernel"] - seen[-1]).max() > 1e-3


def test_is_saved_with_the_train_state(tmp_path):
    train_state, _ = run(0.9, 2)
    jn.save(tmp_path / "a", train_state)
    again, _ = jn.load(tmp_path / "a", like=train_state)
    jax.tree.map(np.testing.assert_array_equal, again.opt_state, train_state.opt_state)


def test_messages():
    with pytest.raises(ValueError, match="ema: decay must be in"):
        jn.ema(1.0)
    with pytest.raises(ValueError, match="ema: needs the params"):
        jn.ema().update({"w": jnp.ones(2)}, jn.ema().init({"w": jnp.ones(2)}))


def test_must_be_last():
    """Before the optimizer it would average other numbers."""
    objective = jn.supervised(jn.dense(2), optax.squared_error)
    trainer = jn.trainer(objective, optax.chain(jn.ema(), optax.sgd(0.1)))
    train_state = trainer.init(jax.random.key(0), DATA)
    with pytest.raises(ValueError, match=r"ema: .* got the gradients; write optax.chain\(opt"):
        trainer.step(train_state, DATA)


def test_an_average_of_16_bits_is_kept_in_float32():
    """0.001 of a change of 2 ** -7 is far below the digits of bfloat16."""
    optimizer = optax.chain(optax.sgd(1.0), jn.ema(0.999))
    params = {"w": jnp.ones((), jnp.bfloat16)}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    wanted, now = None, 1.0
    for step in range(40):
        updates, state = update({"w": jnp.full((), -(2.0**-7), jnp.bfloat16)}, state, params)
        params = optax.apply_updates(params, updates)
        now += 2.0**-7
        rate = min(0.999, (1 + step) / (10 + step)) if step else 0
        wanted = now if wanted is None else rate * wanted + (1 - rate) * now
    found = optax.tree.get(state, "ema")["w"]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
