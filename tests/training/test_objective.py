"""Objectives: means that leave padding out, broadcasts that raise, rules without a loss."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.training import average

KEY = jax.random.key(0)
PARAMS = {"kernel": jnp.array([[2.0], [1.0]])}
NET = jn.dense(1, use_bias=False)


def run(objective, x, y, **kwargs):
    return objective(PARAMS, {}, (jnp.array(x), jnp.array(y)), key=None, train=True, **kwargs)


def test_loss_by_hand():
    objective = jn.supervised(
        NET,
        optax.squared_error,
        penalty=lambda params: 10 * (params["kernel"] ** 2).sum(),
        metrics={"error": lambda h, y: jnp.abs(h - y)},
    )
    # outputs 3, 2; errors 3 and 1; squares 9 and 1; penalty 10 (4 + 1)
    loss, (state, metrics) = run(objective, [[1.0, 1.0], [1.0, 0.0]], [[0.0], [1.0]])
    assert (float(loss), float(metrics["error"]), state) == (55.0, 2.0, {})


def test_mask_leaves_examples_out_even_nan():
    objective = jn.supervised(NET, optax.squared_error)
    x, y = [[1.0, 1.0], [1.0, 0.0], [np.nan, 7.0]], [[0.0], [1.0], [0.0]]
    mask = jnp.array([1.0, 1.0, 0.0])
    loss, _ = run(objective, x, y, mask=mask)
    assert float(loss) == 5.0


def test_average_of_sequences_is_a_mean_over_examples_that_count():
    values = jnp.array([[1.0, 3.0], [5.0, 7.0], [100.0, 100.0]])
    assert float(average(values, jnp.array([1, 1, 0]))) == 4.0
    assert float(average(values, jnp.zeros(3))) == 0.0  # no example: 0, not NaN


def test_outputs_against_targets_of_another_rank_raise():
    with pytest.raises(ValueError, match=r"outputs \(2, 1\) against targets \(2,\)"):
        run(jn.supervised(NET, lambda h, y: (h - y) ** 2), [[1.0, 1.0], [1.0, 0.0]], [0.0, 1.0])


def test_a_mean_cannot_be_masked():
    objective = jn.supervised(NET, lambda h, y: ((h - y) ** 2).mean())
    assert float(run(objective, [[1.0, 1.0]], [[0.0]])[0]) == 9.0
    with pytest.raises(ValueError, match="needs one value an example"):
        run(objective, [[1.0, 1.0]], [[0.0]], mask=jnp.ones(1))


@pytest.mark.parametrize("batch", [jnp.ones((2, 2)), (jnp.ones((2, 2)),)], ids=["array", "single"])
def test_a_batch_that_is_no_pair_is_answered(batch):
    with pytest.raises(TypeError, match=r"a batch is a pair \(inputs, targets\)"):
        jn.supervised(NET, optax.squared_error)(PARAMS, {}, batch, key=None, train=True)


def test_train_and_key_reach_the_net():
    objective = jn.supervised(jn.dropout(0.5), lambda h, y: h)
    batch = jnp.ones((50, 4)), jnp.ones((50, 4))
    assert float(objective({}, {}, batch, key=None, train=False)[0]) == 1.0
    a, b = (float(objective({}, {}, batch, key=jax.random.key(i), train=True)[0]) for i in (0, 1))
    assert a != b and 0.7 < a < 1.3


def test_gradient_of_a_rule_is_its_tree():
    def rule(params, state, batch, *, key, train):
        return {"kernel": 3 * params["kernel"]}, (state, {"loss": 7.0, "seen": jnp.ones(())})

    objective = jn.learning_rule(rule)
    (loss, (_, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(
        PARAMS, {}, (), key=None, train=True
    )
    assert float(loss) == 7.0 and list(metrics) == ["seen"]
    assert jnp.array_equal(grads["kernel"], 3 * PARAMS["kernel"])


def test_a_rule_trains_by_any_optimizer():
    def shrink(params, state, batch, *, key, train):
        return params, (state, {})

    optimizer = optax.sgd(0.25)
    step = jn.make_step(jn.learning_rule(shrink), optimizer)
    train_state = jn.init_training(NET, optimizer, KEY, jnp.ones((2, 2)))
    before = np.asarray(train_state.params["kernel"])
    train_state, _ = step(train_state, jnp.ones((2, 2)))
    np.testing.assert_allclose(train_state.params["kernel"], 0.75 * before, rtol=1e-6)


@pytest.mark.parametrize("layer", [jn.gru(4), jn.lstm(4)], ids=["array", "dict"])
def test_carried_goes_on_where_the_last_batch_stopped_and_learns_no_further_back(layer):
    """Loss and gradient of the second window: those of its net from the state after the first."""
    net = jn.serial(jn.time_distributed(jn.embedding(7, 3)), layer, jn.time_distributed(jn.dense(7)))
    tokens = np.random.default_rng(0).integers(0, 7, 22)
    cut = jn.data.windows(tokens, 3, 4)  # 7 targets a stream: windows of 4 and 3
    zero = jnp.zeros((3, 4))
    zeros = {"c": zero, "h": zero} if layer.name == "lstm" else zero
    params, _ = net.init(KEY, {"x": cut.x[:3], "initial": zeros})
    objective = jax.jit(partial(jn.carried(net, jn.losses.masked()), key=None, train=True))
    state = {"net": {}, "carry": jax.tree.map(lambda c: c + 5.0, zeros)}  # to be forgotten
    given = {"x": tokens[[[0, 1, 2, 3], [7, 8, 9, 10], [14, 15, 16, 17]]], "initial": zeros}
    before = jax.jit(net.apply)(params, {}, given)[0]["final"]

    batches = [
        ((cut.x[i], cut.start[i]), (cut.y[i], cut.counts[i])) for i in (slice(3), slice(3, 6))
    ]
    _, (state, metrics) = objective(params, state, batches[0])
    assert metrics == {}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state["carry"], before)

    def expected(params):
        rest = {"x": tokens[[[4, 5, 6], [11, 12, 13], [18, 19, 20]]], "initial": before}
        labels = tokens[[[5, 6, 7], [12, 13, 14], [19, 20, 21]]]
        logits = net.apply(params, {}, rest)[0]["x"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    (loss, _), slopes = jax.value_and_grad(objective, has_aux=True)(params, state, batches[1])
    value, right = jax.jit(jax.value_and_grad(expected))(params)
    np.testing.assert_allclose(loss, value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), slopes, right)


def test_what_the_loss_raises_says_what_was_compared():
    net = jn.dense(3)
    x = jnp.ones((4, 2))
    params, state = net.init(jax.random.key(0), x)
    objective = jn.supervised(net, optax.softmax_cross_entropy_with_integer_labels)
    with pytest.raises(TypeError) as raised:
        objective(params, state, (x, jnp.eye(4, 3)))
    assert raised.value.__notes__ == ["in loss, outputs (4, 3) float32, targets (4, 3) float32"]


def test_outputs_in_a_dict_do_not_broadcast():
    def loss(outputs, targets):
        return jnp.square(outputs["y"] - targets["y"])

    net = jn.compose(lambda m, x: {"y": m(jn.dense(1), x)}, name="net")
    x = jnp.ones((4, 2))
    params, state = net.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"give values of \(4, 4\)"):
        jn.supervised(net, loss)(params, state, (x, {"y": jnp.ones(4), "z": jnp.ones(4)}))
