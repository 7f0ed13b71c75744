"""One step: equal to the update written out, keys that move on, warnings with paths."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn

KEY = jax.random.key(0)
LOSS = optax.softmax_cross_entropy_with_integer_labels


def data(n=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)).astype(np.float32), rng.integers(0, 2, n).astype(np.int32)


def build(net, optimizer=None, loss=LOSS):
    optimizer = optimizer or optax.sgd(0.1)
    step = jn.make_step(jn.supervised(net, loss), optimizer)
    return step, jn.init_training(net, optimizer, KEY, data())


@pytest.mark.parametrize("optimizer", [
    optax.sgd(0.1), optax.sgd(0.1, momentum=0.9), optax.adam(0.01), optax.chain(
        optax.clip_by_global_norm(0.1), optax.rmsprop(0.01)),
], ids=["sgd", "momentum", "adam", "chain"])  # fmt: skip
def test_step_is_the_update_written_out(optimizer):
    net = jn.serial(jn.dense(4), jnp.tanh, jn.dense(2))
    step, train_state = build(net, optimizer)
    params, opt_state = train_state.params, optimizer.init(train_state.params)
    params = jax.tree.map(jnp.array, params)
    x, y = data()
    for _ in range(5):
        train_state, metrics = step(train_state, (x, y))
        loss, grads = jax.value_and_grad(lambda p: LOSS(net.apply(p, {}, x)[0], y).mean())(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), train_state.params, params
    )
    assert int(train_state.step) == 5


def test_line_search_gets_value_and_function():
    optimizer = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15))
    step, train_state = build(jn.dense(2), optimizer)
    losses = []
    for _ in range(10):
        train_state, metrics = step(train_state, data())
        losses.append(float(metrics["loss"]))
    assert all(b < a for a, b in zip(losses, losses[1:], strict=False)) and losses[-1] > 0


def test_the_new_key_was_never_handed_out():
    """A key that was already split or given to apply must not come back."""
    handed = []

    def apply(params, state, x, *, key=None, train=False):
        jax.debug.callback(lambda k: handed.append(tuple(k.tolist())), jax.random.key_data(key))
        return x @ params["w"], state

    net = jn.Layer(lambda key, x: ({"w": jnp.ones((3, 2))}, {}), apply, "spy")
    step, train_state = build(net)
    keys = [tuple(jax.random.key_data(train_state.key).tolist())]
    for _ in range(4):
        train_state, _ = step(train_state, data())
        keys.append(tuple(jax.random.key_data(train_state.key).tolist()))
    jax.effects_barrier()
    assert len(set(keys)) == 5 and len(set(handed)) == 4
    assert not set(keys) & set(handed)


def test_init_and_training_keys_differ():
    _, train_state = build(jn.dense(2))
    key_data = jax.random.key_data
    assert not jnp.array_equal(key_data(train_state.key), key_data(jn.child_key(KEY, "init")))
    assert not jnp.array_equal(key_data(train_state.key), key_data(KEY))


def test_state_moves_on():
    step, train_state = build(jn.serial(jn.batch_norm(), jn.dense(2)))
    x, y = data()
    train_state, _ = step(train_state, (x, y))
    np.testing.assert_allclose(
        train_state.state["batch_norm"]["mean"], 0.1 * x.mean(0), rtol=1e-5, atol=1e-7
    )


def test_state_that_never_changes_is_told_with_its_path():
    net = jn.serial(jn.batch_norm(), jn.dense(2))

    def forgetful(params, state, batch, *, key, train):
        y, state = net.apply(params, state, batch[0])  # train=train is missing
        return LOSS(y, batch[1]).mean(), (state, {})

    optimizer = optax.sgd(0.1)
    step = jn.make_step(forgetful, optimizer)
    with pytest.warns(
        UserWarning, match="does not change in training: batch_norm/mean, batch_norm"
    ):
        step(jn.init_training(net, optimizer, KEY, data()), data())


def test_gradient_that_is_not_finite_is_told_with_path_and_step():
    step, train_state = build(jn.serial(jn.dense(4), jn.dense(2)))
    train_state, _ = step(train_state, data())
    x, y = data()
    with pytest.warns(
        UserWarning, match="not finite at step 2: dense/bias, dense/kernel, dense_1/"
    ):
        for _ in range(3):
            train_state, _ = step(train_state, (x * np.inf, y))


def test_only_the_bad_leaf_is_named():
    def objective(params, state, batch, *, key, train):
        return jnp.sqrt(params["bias"]).sum() + params["kernel"].sum(), (state, {})  # d sqrt(0)

    optimizer = optax.sgd(0.0)
    step = jn.make_step(objective, optimizer)
    with pytest.warns(UserWarning, match="not finite at step 1: bias;"):
        step(jn.init_training(jn.dense(2), optimizer, KEY, data()), data())


def test_compiled_once_and_a_second_time_told_with_the_leaf():
    step, train_state = build(jn.dense(2))
    for seed in range(4):
        train_state, _ = step(train_state, data(seed=seed))
    assert len(step.traces["step"]) == 1
    with pytest.warns(
        UserWarning, match=r"batch/0: float32\[6,3\] -> float32\[5,3\]; batch/1: int32"
    ):
        step(train_state, data(5))
    assert len(step.traces["step"]) == 2


def test_shapes_that_are_meant_are_not_told():
    optimizer = optax.sgd(0.1)
    step = jn.make_step(jn.supervised(jn.dense(2), LOSS), optimizer, shapes=3)
    train_state = jn.init_training(jn.dense(2), optimizer, KEY, data())
    for n in (6, 5, 4, 6, 5):  # warnings are errors here
        train_state, _ = step(train_state, data(n))
    assert len(step.traces["step"]) == 3
    with pytest.warns(UserWarning, match=r"time 4.*float32\[3,3\].*shapes=n"):
        train_state, _ = step(train_state, data(3))
    with pytest.raises(ValueError, match="shapes must be at least 1, got 0"):
        jn.make_step(jn.supervised(jn.dense(2), LOSS), optimizer, shapes=0)


def test_a_change_that_is_not_of_the_batch_is_told_even_among_the_shapes_meant():
    optimizer = optax.sgd(0.1)
    step = jn.make_step(jn.supervised(jn.dense(2), LOSS), optimizer, shapes=3)
    train_state = jn.init_training(jn.dense(2), optimizer, KEY, data())
    train_state, _ = step(train_state, data())
    train_state = train_state._replace(step=train_state.step.astype(jnp.uint8))
    with pytest.warns(UserWarning, match="train_state/step: int32.* -> uint8"):
        step(train_state, data())


def test_a_used_train_state_is_answered():
    step, train_state = build(jn.dense(2))
    with jax.debug_key_reuse(False):  # it would see the used key first
        step(train_state, data())
        with pytest.raises((RuntimeError, ValueError), match="deleted") as error:
            step(train_state, data())
    assert "go on with the one that came back" in "\n".join(error.value.__notes__)


@pytest.mark.parametrize(("objective", "optimizer", "words"), [
    (jn.dense(2), optax.sgd(0.1), "the objective must be a function"),
    (jn.supervised(jn.dense(2), LOSS), 0.1, "must be one of optax"),
    (jn.supervised(jn.dense(2), LOSS), optax.sgd, "must be one of optax"),
    (
        jn.supervised(jn.dense(2), LOSS),
        optax.MultiSteps(optax.sgd(0.1), 2),
        r"got MultiSteps; write \.gradient_transformation\(\)",
    ),
], ids=["layer", "number", "uncalled", "MultiSteps"])  # fmt: skip
def test_wrong_parts_are_answered(objective, optimizer, words):
    with pytest.raises(TypeError, match=words):
        jn.make_step(objective, optimizer)


def test_a_loss_that_is_no_scalar_is_answered():
    def objective(params, state, batch, *, key, train):
        return params["bias"], (state, {})

    step = jn.make_step(objective, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"must be a scalar, got shape \(2,\)"):
        step(jn.init_training(jn.dense(2), optax.sgd(0.1), KEY, data()), data())


def test_init_training_takes_specs_arrays_and_trees():
    net = jn.compose(lambda m, x: m(jn.dense(2), x["a"]))
    for inputs in ({"a": jn.spec((50, 3))}, {"a": np.ones((50, 3), np.float32)}):
        train_state = jn.init_training(net, optax.adam(0.1), KEY, (inputs, jn.spec((50,))))
        assert train_state.params["dense"]["kernel"].shape == (3, 2)
    with pytest.raises(TypeError, match="batch axis first"):
        jn.init_training(net, optax.adam(0.1), KEY, ([1, 2], [3]))


def test_steps_are_quiet():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        step, train_state = build(jn.serial(jn.batch_norm(), jn.dense(2)), optax.adam(0.1))
        for _ in range(5):
            train_state, _ = step(train_state, data())
    assert not seen


def test_a_loss_that_is_nan_while_its_gradient_is_not():
    net, optimizer = jn.dense(3), optax.sgd(0.1)
    x, labels = jnp.ones((4, 2)), jnp.array([0, 1, 2, 3])  # 3 is no class
    step = jn.make_step(
        jn.supervised(net, optax.softmax_cross_entropy_with_integer_labels), optimizer
    )
    train_state = jn.init_training(net, optimizer, jax.random.key(0), x)
    epochs = jn.fit(train_state, step, (x, labels), epochs=3, batch_size=4)
    with pytest.warns(
        UserWarning, match="the loss is not finite at step 1, though its grad"
    ) as seen:
        list(epochs)
    assert len(seen) == 1
    with pytest.warns(UserWarning, match="the loss is not finite at step 1, though its grad"):
        step(train_state, (x, labels))


def test_a_torch_tensor_is_named():
    torch = pytest.importorskip("torch", reason="the message is about its tensors")
    with pytest.raises(TypeError, match=r"init_training: .* torch.Tensor: x.numpy\(\)"):
        jn.init_training(jn.dense(3), optax.sgd(0.1), jax.random.key(0), torch.ones(4, 2))


def test_the_optimizer_of_the_state_is_that_of_the_step():
    net = jn.dense(3)
    objective = jn.supervised(net, optax.softmax_cross_entropy_with_integer_labels)
    batch = jnp.ones((4, 2)), jnp.array([0, 1, 2, 0])
    train_state = jn.init_training(net, optax.adam(0.1), jax.random.key(0), batch)
    step = jn.make_step(objective, optax.sgd(0.1))
    with pytest.raises(
        ValueError, match=r"the same one\n  needs .*EmptyState.*\n  got .*ScaleByAdam"
    ):
        step(train_state, batch)
    with pytest.raises(ValueError, match="give init_training and make_step the same one"):
        list(jn.fit(train_state, step, batch, epochs=1))
