"""`moving_average` against targets that are kept by hand, and through training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import KEY, close, jit_apply, refused

X = jax.random.normal(jax.random.key(1), (6, 3))
LATER = jax.random.normal(jax.random.key(2), (6, 3))


def values(m, batch):
    """Q-learning without actions: the largest value of the target is to be predicted."""
    q, later = m(jn.transforms.moving_average(jn.dense(4), 0.9), batch)
    return jnp.square(q.max(-1) - later.max(-1).mean() - 1), {}


@pytest.mark.slow
def test_the_target_is_the_average_of_the_params_after_each_update():
    trainer = jn.trainer(jn.compose(values), optax.sgd(0.1))
    given = {"dense": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)}}
    train_state = trainer.init(KEY, (X, LATER), params=given)
    wanted = target = given["dense"]
    for step in range(4):
        now = jax.tree.map(jnp.copy, train_state.params["dense"])
        target = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, target, now) if step else now
        train_state, _ = trainer.step(train_state, (X, LATER))
        state = train_state.state["dense"]["target"]
        close(state["params"], target, 1e-5, 0)
        assert int(state["step"]) == step + 1

    def loss(params):  # the gradient of the last step, with the target held constant
        q = X @ params["kernel"] + params["bias"]
        later = (LATER @ target["kernel"] + target["bias"]).max(-1).mean()
        return jnp.square(q.max(-1) - later - 1).mean()

    wanted = jax.tree.map(lambda p, g: p - 0.1 * g, now, jax.grad(loss)(now))
    close(train_state.params["dense"], wanted, 1e-4, 1e-6)


def test_a_schedule_of_copies():
    net = jn.transforms.moving_average(jn.dense(4), lambda step: jnp.where(step % 3 == 0, 0.0, 1.0))
    params, state = net.init(KEY, (X, X))
    seen = []
    for step in range(7):
        params = jax.tree.map(lambda leaf, n=step: jnp.full_like(leaf, n), params)
        _, state = jit_apply(net, params, state, (X, X), train=True)
        seen.append(float(state["target"]["params"]["kernel"][0, 0]))
    assert seen == [0, 0, 0, 3, 3, 3, 6]


@pytest.mark.slow
def test_outputs_in_both_modes():
    layer = jn.serial(jn.dense(4), jn.batch_norm())
    net = jn.transforms.moving_average(layer, 0.5)
    params, state = net.init(KEY, (X, LATER))
    own = {name: state[name] for name in state if name != "target"}
    jax.tree.map(np.testing.assert_array_equal, state["target"]["params"], params)
    (_, _), state = jit_apply(net, params, state, (X, LATER), train=True)
    moved = jax.tree.map(lambda leaf: leaf + 1, params)
    mixed = jax.tree.map(lambda a, b: (a + b) / 2, params, moved)
    (y, target), after = jit_apply(net, moved, state, (X, LATER), train=True)
    _, own = jit_apply(layer, params, own, X, train=True)
    expected, own = jit_apply(layer, moved, own, X, train=True)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    ahead, _ = jit_apply(layer, mixed, own, LATER, train=True)
    np.testing.assert_allclose(target, ahead, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after["batch_norm"]["mean"], own["batch_norm"]["mean"], rtol=1e-5)
    # Its own statistics, of its own inputs.
    first = 0.1 * (LATER @ params["dense"]["kernel"] + params["dense"]["bias"]).mean(0)
    statistics = state["target"]["state"]["batch_norm"]["mean"]
    np.testing.assert_allclose(statistics, first, rtol=1e-4, atol=1e-6)

    (_, target), same = jit_apply(net, jax.tree.map(jnp.zeros_like, moved), after, (X, LATER))
    jax.tree.map(np.testing.assert_array_equal, same, after)
    wanted, _ = jit_apply(layer, mixed, after["target"]["state"], LATER)
    np.testing.assert_allclose(target, wanted, rtol=1e-4, atol=1e-5)
    assert not jax.grad(lambda x: net.apply(moved, after, (X, x))[0][1].sum())(LATER).any()


def test_randomness_and_reported_values():
    def noisy(m, x):
        m.sow("size", jnp.abs(x).sum())
        return m(jn.dropout(0.5), m(jn.dense(40), x))

    net = jn.transforms.moving_average(jn.compose(noisy))
    params, state = net.init(KEY, (X, X))
    options = {"key": KEY, "train": True}
    ((y, target), sown), after = jit_apply(jn.collect(net), params, state, (X, 2 * X), **options)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    np.testing.assert_allclose(sown["size"], np.abs(X).sum(), rtol=1e-5)
    assert ((y == 0) != (target == 0)).any()


@pytest.mark.slow
def test_a_run_resumes_to_the_bit(tmp_path):
    data = np.asarray(jax.random.normal(jax.random.key(1), (24, 3))), np.ones((24, 3), np.float32)
    trainer = jn.trainer(jn.compose(values), optax.adam(0.1))

    def last(start, epochs, **options):
        *_, epoch = jn.fit(trainer, start, data, epochs=epochs, batch_size=6, **options)
        return epoch

    whole, half = (last(trainer.init(jax.random.key(3), data), epochs) for epochs in (3, 2))
    jn.save(tmp_path / "run", half.train_state)
    resumed, _ = jn.load(tmp_path / "run", trainer.init(jax.random.key(4), data))
    rest = last(resumed, 3, position=half.position)
    jax.tree.map(np.testing.assert_array_equal, rest.train_state.state, whole.train_state.state)


@refused([
    (lambda net: jn.transforms.moving_average(net, 1.5), r"decay must be in \[0, 1\], got 1.5"),
    (lambda net: jn.transforms.moving_average(net).init(KEY, X),
     r"moving_average: expected \(x, given\)"),
    (lambda net: jn.transforms.moving_average(jn.transforms.moving_average(net)).init(
        KEY, ((X, X), X)), "already has an entry 'target' in its state"),
])  # fmt: skip
def test_refusals(call):
    call(jn.dense(3))


def test_the_count_of_steps_does_not_wrap():
    """A count of -2147483648 made the rate negative, and the average anything."""
    average = jn.ema(0.9)
    state = average.init({"w": jnp.ones(2)})._replace(step=jnp.int32(2**31 - 1))
    _, state = average.update({"w": jnp.ones(2)}, state, {"w": jnp.ones(2)})
    assert state.step == 2**31 - 1
    layer = jn.transforms.moving_average(jn.dense(2), 0.9)
    pair = jnp.ones((3, 2)), jnp.ones((3, 2))
    params, state = layer.init(jax.random.key(0), pair)
    last = jax.tree_util.tree_map_with_path(
        lambda path, a: jnp.int32(2**31 - 1) if "step" in str(path[-1]) else a, state
    )
    _, after = layer.apply(params, last, pair, train=True)
    steps = [a for path, a in jax.tree_util.tree_leaves_with_path(after) if "step" in str(path[-1])]
    assert steps == [2**31 - 1]
