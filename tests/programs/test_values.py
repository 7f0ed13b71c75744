"""Nets as values of JAX: arguments of `jit`, leaves of trees, fields of dataclasses."""

import copy
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn

KEY = jax.random.key(0)
X = jnp.ones((4, 3))


def test_a_net_is_an_argument_of_jit():
    net = jn.serial(jn.dense(4), jax.nn.relu, jn.dense(2))
    params, state = net.init(KEY, X)

    @jax.jit
    def run(net, params, x):
        return net.apply(params, state, x)[0]

    np.testing.assert_allclose(run(net, params, X), net.apply(params, state, X)[0], rtol=1e-6)


@jax.tree_util.register_dataclass
@dataclass
class Agent:
    net: jn.Layer
    params: dict
    steps: jax.Array


def test_a_dataclass_with_a_net_goes_through_jit():
    net = jn.dense(2)
    params, _ = net.init(KEY, X)
    agent = Agent(net, params, jnp.int32(0))

    @jax.jit
    def act(agent, x):
        y, _ = agent.net.apply(agent.params, {}, x)
        return y, Agent(agent.net, agent.params, agent.steps + 1)

    y, after = act(agent, X)
    assert y.shape == (4, 2)
    assert after.net is net and int(after.steps) == 1


def test_tree_map_leaves_a_net_as_it_is():
    net = jn.dense(2)
    tree = {"net": net, "weight": jnp.ones(3)}
    doubled = jax.tree.map(lambda a: 2 * a, tree)
    assert doubled["net"] is net
    assert doubled["weight"].tolist() == [2, 2, 2]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_the_net_itself(copied):
    net = jn.dense(2)
    assert copied(net) is net


def test_a_net_holds_what_it_was_made_of():
    net = jn.dense(2)
    with pytest.raises(AttributeError):
        net.name = "other"


def test_a_trainer_goes_through_jit():
    trainer = jn.trainer(jn.supervised(jn.dense(1), optax.squared_error), optax.sgd(0.1))
    batch = X, jnp.ones((4, 1))
    train_state = trainer.init(KEY, batch)

    @jax.jit
    def steps(trainer, train_state):
        for _ in range(3):
            train_state = trainer.update(train_state, batch)[0]
        return train_state

    after = steps(trainer, train_state)
    assert int(after.step) == 3


def test_a_new_head_on_the_layers_of_a_net():
    net = jn.serial(jn.dense(4, name="body"), jax.nn.relu, jn.dense(2, name="head"))
    trunk = [layer for name, layer in net.layers if name != "head"]
    other = jn.serial(*trunk, jn.dense(5, name="classes"))
    params, _ = net.init(KEY, X)
    fresh, state = other.init(KEY, X)
    y, _ = other.apply(fresh | {"body": params["body"]}, state, X)
    assert y.shape == (4, 5)


@pytest.mark.parametrize(("net", "names"), [
    (jn.serial(jn.dense(4), jn.dense(2)), ["dense", "dense_1"]),
    (jn.parallel(jnp.sin, jn.dense(3)), ["sin", "dense"]),
    (jn.residual(jn.dense(3), jn.dense(3)), ["dense", "dense_1"]),
    (jn.repeat(jn.dense(3), 2), ["dense"]),
    (jn.remat(jn.serial(jn.dense(3))), ["serial"]),
    (jn.compose(lambda m, x: m(jn.dense(3), x)), []),
], ids=["serial", "parallel", "residual", "repeat", "remat", "compose"])  # fmt: skip
def test_the_layers_have_the_names_of_their_entries(net, names):
    assert [name for name, _ in net.layers] == names
    params, _ = net.init(KEY, X)
    if net.kind in ("serial", "parallel", "residual"):
        assert set(params) <= set(names)


def test_a_layer_that_repeats_has_one_name():
    tied = jn.dense(3)
    net = jn.serial(tied, jnp.tanh, tied)
    assert [name for name, _ in net.layers] == ["dense", "tanh", "dense"]
    assert list(net.init(KEY, X)[0]) == ["dense"]


def test_train_under_jit_says_what_to_write():
    net = jn.dense(2)
    params, state = net.init(KEY, X)
    with pytest.raises(TypeError, match='jax.jit\\(net.apply, static_argnames="train"\\)'):
        jax.jit(net.apply)(params, state, X, train=True)
    run = jax.jit(net.apply, static_argnames="train")
    assert run(params, state, X, train=True)[0].shape == (4, 2)


def test_params_in_16_bits_from_the_start_take_half_the_memory():
    net, ids = jn.models.decoder(100, depth=2, width=64, heads=4), jn.spec((1, 8), jnp.int32)

    def wide(key):
        params, _ = net.init(key, ids)
        return params

    def narrow(key):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), wide(key))

    def bytes_kept(init):
        analysis = jax.jit(init).lower(jax.random.key(0)).compile().memory_analysis()
        return analysis.output_size_in_bytes

    assert 0.5 <= bytes_kept(narrow) / bytes_kept(wide) < 0.51
