"""`tap` returns what layers inside compute, and runs no others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.services.trees import flat
from tests.helpers import KEY, refused


def block(name):
    return jn.serial(jn.dense(3), jn.batch_norm(), jnp.tanh, name=name)


def trunk_and_net():
    shared = block("shared")
    net = jn.serial(block("a"), shared, jn.serial(block("b"), block("c"), name="deep"), shared)
    return net, jax.random.normal(jax.random.key(1), (5, 3))


@pytest.mark.fast_cases("paths2-layers2")
@pytest.mark.parametrize(
    "paths, layers",
    [
        (("a",), {"a"}),
        (("deep/b/dense", "shared"), {"a", "shared", "deep/b/dense"}),
        (("shared", "a", "shared"), {"a", "shared"}),
        (("deep",), {"a", "shared", "deep"}),
    ],
)
def test_tap_gives_what_the_net_computes_and_no_more(paths, layers):
    net, x = trunk_and_net()
    params, state = net.init(KEY, x)
    trunk = jn.tap(net, *paths)
    trunk_params, trunk_state = trunk.init(KEY, x)

    starts = tuple(layer + "/" for layer in layers)
    kept = {path: leaf for path, leaf in flat(params) if path.startswith(starts)}
    assert kept
    assert dict(flat(trunk_params)).keys() == kept.keys()
    jax.tree.map(np.testing.assert_array_equal, dict(flat(trunk_params)), kept)
    outputs, new = trunk.apply(trunk_params, trunk_state, x, train=True)
    whole, after = trunk.apply(params, state, x, train=True)  # of the whole network
    jax.tree.map(np.testing.assert_array_equal, outputs, whole)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    found = jn.inspect.activations(net, params, state, x, train=True)
    outputs = outputs if len(paths) > 1 else (outputs,)
    assert len(outputs) == len(paths)
    for path, y in zip(paths, outputs, strict=True):
        np.testing.assert_array_equal(y, found[path])
    # running statistics inside a layer that was left half-way are kept
    assert jax.tree.structure(new) == jax.tree.structure(trunk_state)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), trunk_state, new)
    assert all(jax.tree.leaves(changed))


def test_tap_keeps_the_state_of_a_layer_that_is_left_half_way():
    inner = jn.serial(jn.batch_norm(), jn.dense(4), jn.dense(2), name="inner")
    trunk = jn.tap(jn.serial(inner, jn.dense(7)), "inner/dense")
    x = jnp.arange(6.0).reshape(2, 3)
    params, state = trunk.init(KEY, x)
    _, new = trunk.apply(params, state, x, train=True)
    assert list(params["inner"]) == ["batch_norm", "dense"]
    assert (new["inner"]["batch_norm"]["mean"] != state["inner"]["batch_norm"]["mean"]).any()


@pytest.mark.slow
def test_tap_trains_behind_frozen_layers_and_under_jit():
    net, x = trunk_and_net()
    model = jn.serial(jn.freeze(jn.tap(net, "deep/b")), jn.dense(2))
    params, state = model.init(KEY, x)
    loss = jax.jit(lambda p: model.apply(p, state, x)[0].sum())
    trunk, head = [jax.grad(loss)(params)[name] for name in ("serial", "dense")]
    assert not any(leaf.any() for leaf in jax.tree.leaves(trunk))
    assert all(leaf.any() for leaf in jax.tree.leaves(head))


def test_what_is_skipped_is_neither_drawn_nor_run():
    """The forward goes on with zeros behind the last path, and its layers do not run."""
    ran = []

    def spy(params, state, x, *, key=None, train=False):
        ran.append(x.shape)
        return x, state

    late = jn.Layer(lambda key, x: ({"w": jnp.ones(3)}, {}), spy, "late")
    net = jn.serial(jn.dense(3), jn.serial(jnp.tanh, late, name="inner"), late)
    params, state = net.init(KEY, jn.spec((2, 3)))
    trunk = jn.tap(net, "inner/tanh")
    kept, _ = trunk.init(KEY, jn.spec((2, 3)))
    assert list(kept) == ["dense"]
    trunk.apply(kept, {}, jnp.ones((2, 3)))  # outlines what follows once
    ran.clear()
    y, _ = trunk.apply(kept, {}, jnp.ones((2, 3)))
    assert y.shape == (2, 3)
    assert not ran


def test_tap_of_an_objective_gives_what_is_inside():
    net = jn.serial(jn.dense(4, name="hidden"), jnp.tanh, jn.dense(1))
    objective = jn.supervised(net, optax.squared_error)
    batch = jnp.ones((5, 3)), jnp.ones((5, 1))
    y, _ = jn.tap(objective, "hidden").apply(*objective.init(KEY, batch), batch)
    assert y.shape == (5, 4)


def test_a_later_call_of_the_same_layer_is_tapped_by_its_number():
    """As `inspect.activations` names it; the layers behind it do not run."""
    net = jn.serial(jn.dense(4), jax.nn.relu, jn.dense(3), jax.nn.relu, jn.dense(2))
    x = jnp.ones((2, 5))
    params, state = net.init(KEY, x)
    trunk = jn.tap(net, "relu#2", "relu")
    (second, first), _ = trunk.apply(params, state, x)
    found = jn.inspect.activations(net, params, state, x)
    np.testing.assert_array_equal(second, found["relu#2"])
    np.testing.assert_array_equal(first, found["relu"])
    assert list(trunk.init(KEY, x)[0]) == ["dense", "dense_1"]


def test_what_is_skipped_neither_updates_nor_reports():
    def forward(m, x):
        z = m(jn.dense(3, name="b"), m(jn.dense(3, name="a"), x))
        mean = m.state("mean", jn.initializers.zeros, (3,))
        m.sow("share", z.mean())
        if m.train:
            m.update("mean", mean + 1)
        return z

    net = jn.compose(forward, name="net")
    x = jnp.ones((4, 3))
    params, _ = net.init(jax.random.key(0), x)
    state = {"mean": jnp.full(3, 5.0)}
    trunk = jn.tap(net, "a")
    _, after = trunk.apply(params, state, x, train=True)
    assert after["mean"].tolist() == [5, 5, 5]
    assert jn.collect(trunk).apply(params, state, x)[0][1] == {}
    own, state = trunk.init(jax.random.key(0), x)
    assert trunk.apply(own, state, x, train=True)[1] == state


RELUS = jn.serial(jn.dense(4), jax.nn.relu, jn.dense(3), jax.nn.relu)


@refused([
    (lambda net, x: jn.tap(net, "a", "deep/x").init(KEY, x),
     "no layer 'deep/x'; it has a/dense, a/batch_norm, a/tanh"),
    (lambda net, x: jn.tap(RELUS, "relu_1").init(KEY, x),
     "has no layer 'relu_1'; it has dense, relu, dense_1, relu#2"),
    (lambda net, x: jn.tap(net), "at least one path"),
    (lambda net, x: jn.tap(jn.freeze(net), "a"), TypeError, "tap the network first"),
    (lambda net, x: jn.tap(net, "a").apply(net.init(KEY, x)[0] | {"other": {}}, net.init(KEY, x)[1],
     x), "unused entries: params/other"),
])  # fmt: skip
def test_refusals(call):
    call(*trunk_and_net())
