"""A train_state: its keys are never drawn twice, and it prints in one line."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxnet as jn
from jaxnet.training.train_state import next_key, step_key
from tests.training.conftest import LOSS, data, started


@pytest.mark.fast_cases("threefry2x32")
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_no_key_is_handed_out_twice(impl):
    """Neither by steps nor between them."""
    handed = []

    def apply(params, state, x, *, key=None, train=False):
        jax.debug.callback(lambda k: handed.append(tuple(k.tolist())), jax.random.key_data(key))
        return x @ params["w"], state

    spy = jn.Layer(lambda key, batch: ({"w": jnp.ones((3, 2))}, {}), apply, "spy")
    trainer = jn.trainer(jn.supervised(spy, LOSS), optax.sgd(0.1))
    train_state = trainer.init(jax.random.key(0, impl=impl), data(6))
    drawn = []
    for i in range(4):
        drawn.append(step_key(train_state))
        train_state, _ = trainer.step(train_state, data(6))
        if i % 2:
            train_state, key = next_key(train_state)
            drawn.append(key)
    jax.effects_barrier()
    assert len({tuple(jax.random.key_data(key).tolist()) for key in drawn}) == 6
    assert len(set(handed)) == 4


def test_a_train_state_prints_in_one_line():
    _, train_state = started(jn.dense(2, name="a"), data(6), optimizer=optax.adam(0.1))
    text = (
        "TrainState(step=0, params: 8 in 2 arrays, state: 0 in 0 arrays, opt_state: 17 in 5 arrays)"
    )
    assert repr(train_state) == text and text in train_state._repr_html_()
    seen = []
    jax.jit(lambda t: seen.append(repr(t)) or t)(train_state)
    assert seen[0].startswith("TrainState(step=") and "\n" not in seen[0]
    empty = jax.tree.map(lambda leaf: None, train_state)
    assert "step=None" in repr(empty).replace("NoneType", "None")
