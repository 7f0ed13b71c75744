"""Layers from Haiku against Haiku's own functions."""

import jax
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.interop.haiku import from_haiku

KEYS_MAY_REPEAT = True  # equal draws are compared
KEY = jax.random.key(0)
X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(8, 3)


def test_a_pair_is_needed():
    with pytest.raises(TypeError, match="from_haiku: init must be a function of .*hk.transform"):
        from_haiku(3)


@pytest.fixture
def hk():
    return pytest.importorskip("haiku")


@pytest.mark.slow
def test_a_net_without_state(hk):
    theirs = hk.transform(lambda x: hk.nets.MLP([5, 2])(x))
    params = theirs.init(KEY, X)
    for pair, key in ((theirs, KEY), (hk.without_apply_rng(theirs), None)):
        ours, state = from_haiku(pair).init(KEY, X)
        assert ours.keys() == {"mlp.~.linear_0", "mlp.~.linear_1"}
        assert state == {}
        jax.tree.map(np.testing.assert_array_equal, [*ours.values()], [*params.values()])
        y, _ = from_haiku(pair).apply(ours, {}, X, key=key)
        np.testing.assert_array_equal(y, theirs.apply(params, KEY, X))


@pytest.mark.slow
def test_mode_state_and_key(hk, tmp_path):
    def forward(x, is_training):
        x = hk.BatchNorm(True, True, 0.9)(x, is_training)
        return hk.dropout(hk.next_rng_key(), 0.5, x) if is_training else x

    theirs = hk.transform_with_state(forward)
    params, state = theirs.init(KEY, 0 * X, True)
    net = from_haiku(theirs)
    ours = net.init(KEY, X)
    for train, key in ((True, KEY), (False, None)):
        y, after = theirs.apply(params, state, key, X, train)
        made, new = net.apply(*ours, X, key=key, train=train)
        np.testing.assert_array_equal(made, y)
        jax.tree.map(np.testing.assert_array_equal, [*new.values()], [*after.values()])
    jn.save(tmp_path / "net.safetensors", ours)
    loaded, _ = jn.load(tmp_path / "net.safetensors", ours)
    jax.tree.map(np.testing.assert_array_equal, loaded, ours)
    with pytest.raises(ValueError, match="PRNGKey"):
        net.apply(*ours, X, train=True)


def test_several_inputs(hk):
    net = from_haiku(hk.transform(lambda x, y, scale=2.0: hk.Linear(2)(x) + scale * y))
    params, _ = net.init(KEY, (X, X[:, :2]))
    expected = X @ params["linear"]["w"] + params["linear"]["b"] + 2 * X[:, :2]
    np.testing.assert_allclose(net.apply(params, {}, (X, X[:, :2]))[0], expected, rtol=1e-5)


@pytest.mark.slow
def test_it_trains_inside_a_net(hk):
    net = jn.serial(from_haiku(hk.transform(lambda x: hk.Linear(8)(x))), jax.nn.relu, jn.dense(1))
    trainer = jn.trainer(jn.supervised(net, optax.l2_loss), optax.adam(0.05))
    data = X, np.abs(X.sum(1, keepdims=True))
    train_state, losses = trainer.init(KEY, data), []
    for _ in range(100):
        train_state, metrics = trainer.step(train_state, data)
        losses.append(metrics["loss"])
    assert 0 <= losses[-1] < 0.02 * losses[0]
