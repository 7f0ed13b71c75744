"""Epochs: every example once, padding left out, resuming, and learning bounded on both sides."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
LOSS = optax.softmax_cross_entropy_with_integer_labels


def data(n=50, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    return x, (x[:, 0] + 0.5 * rng.normal(size=n) > 0).astype(np.int32)


def build(net=None, optimizer=None, loss=LOSS, **kwargs):
    net, optimizer = net or jn.dense(2), optimizer or optax.sgd(0.1)
    step = jn.make_step(jn.supervised(net, loss, **kwargs), optimizer)
    return step, jn.init_training(net, optimizer, KEY, data())


def recorder():
    """A net and objective that only add up which examples were seen, with the mask."""
    net = jn.Layer(lambda key, x: ({"w": jnp.zeros(())}, {"seen": jnp.zeros(11)}),
                   lambda p, s, x, *, key=None, train=False: (x, s), "recorder")  # fmt: skip

    def objective(params, state, batch, *, key, train, mask=None):
        mask = jnp.ones(batch.shape) if mask is None else mask
        seen = state["seen"].at[batch].add(mask)
        return 0.0 * params["w"], ({"seen": seen}, {"mean": (mask * batch).sum() / mask.sum()})

    optimizer = optax.sgd(0.1)
    examples = jnp.arange(11)
    return (
        jn.make_step(objective, optimizer),
        jn.init_training(net, optimizer, KEY, examples),
        examples,
    )


@pytest.mark.parametrize("size", [1, 4, 11, 64])
@pytest.mark.parametrize("chunk", [None, 1, 2, 100])
def test_every_example_once_an_epoch(size, chunk):
    step, train_state, examples = recorder()
    epochs = list(
        jn.fit(train_state, step, examples, epochs=3, batch_size=size, steps_per_dispatch=chunk)
    )
    for epoch in epochs:
        assert (epoch.train_state.state["seen"] == epoch.number).all()
        np.testing.assert_allclose(epoch.train["mean"], 5.0, rtol=1e-6)  # weighted by the mask
        assert epoch.losses.shape == (-(-11 // size),)
    assert len(step.traces["fit"]) == 1


def test_order_is_drawn_anew_each_epoch():
    orders = []
    step, train_state, examples = recorder()

    def spy(key, batch):
        jax.debug.callback(lambda b: orders.append(b.tolist()), batch)
        return batch

    for _ in jn.fit(train_state, step, examples, epochs=2, batch_size=11, augment=spy):
        pass
    jax.effects_barrier()
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(11))
    assert orders[0] != orders[1] != list(range(11))


def test_unshuffled_fit_is_the_loop_of_steps():
    x, y = data(24)
    step, train_state = build(optimizer=optax.adam(0.1))
    *_, epoch = jn.fit(train_state, step, (x, y), epochs=2, batch_size=8, shuffle=False)
    for _ in range(2):
        losses = []
        for i in range(0, 24, 8):
            train_state, metrics = step(train_state, (x[i : i + 8], y[i : i + 8]))
            losses.append(float(metrics["loss"]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6),
        epoch.train_state.params, train_state.params,
    )  # fmt: skip
    np.testing.assert_allclose(epoch.losses, losses, rtol=1e-4)
    np.testing.assert_allclose(epoch.train["loss"], np.mean(losses), rtol=1e-5)


def test_short_last_batch_weighs_its_own_examples_only():
    x, y = data(10)
    step, train_state = build()
    *_, epoch = jn.fit(train_state, step, (x, y), epochs=1, batch_size=8, shuffle=False)
    for part in (slice(0, 8), slice(8, 10)):
        train_state, metrics = jn.make_step(step.objective, optax.sgd(0.1))(
            train_state, (x[part], y[part])
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6),
        epoch.train_state.params, train_state.params,
    )  # fmt: skip


def test_stream_equals_resident():
    x, y = data(20)
    step, train_state = build()
    batches = [(x[i : i + 8], y[i : i + 8]) for i in (0, 8, 16)]
    *_, a = jn.fit(train_state, step, (x, y), epochs=2, batch_size=8, shuffle=False)
    *_, b = jn.fit(train_state, step, Loader(batches), epochs=2, evaluate=Loader(batches))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6),
        a.train_state.params,
        b.train_state.params,
    )
    np.testing.assert_allclose(a.train["loss"], b.train["loss"], rtol=1e-5)
    assert b.test["loss"] < b.train["loss"]


class Loader:
    """An iterable of batches, as grain's and PyTorch's loaders are."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def test_a_loader_of_pytorch_gives_batches():
    """Its tensors were handed to np.isfinite as they are, which warns."""
    torch = pytest.importorskip("torch", reason="its loader is handed over")
    x, y = data(20)
    step, train_state = build()
    examples = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    loader = torch.utils.data.DataLoader(examples, batch_size=8)
    *_, a = jn.fit(train_state, step, loader, epochs=2)
    batches = [[x[i : i + 8], y[i : i + 8]] for i in (0, 8, 16)]  # lists, as from the loader
    *_, b = jn.fit(train_state, step, Loader(batches), epochs=2)
    np.testing.assert_array_equal(a.losses, b.losses)


def test_an_iterator_that_is_used_up_is_answered():
    x, y = data(8)
    step, train_state = build()
    with pytest.raises(ValueError, match="begins anew each epoch"):
        list(jn.fit(train_state, step, iter([(x, y)]), epochs=2))


def test_resuming_gives_what_one_run_gives():
    net = jn.serial(jn.dense(4), jn.batch_norm(), jn.dropout(0.3), jn.dense(2))
    step, train_state = build(net, optax.adam(0.1))
    epochs = list(jn.fit(train_state, step, data(), epochs=4, batch_size=16))
    *_, resumed = jn.fit(epochs[1].train_state, step, data(), epochs=2, batch_size=16)
    jax.tree.map(
        np.testing.assert_array_equal, resumed.train_state.params, epochs[3].train_state.params
    )


def test_earlier_train_states_stay_valid():
    step, train_state = build()
    states = [epoch.train_state for epoch in jn.fit(train_state, step, data(), epochs=3)]
    for kept in (train_state, *states):
        assert np.isfinite(np.asarray(kept.params["kernel"])).all()
    assert not np.array_equal(states[0].params["kernel"], states[2].params["kernel"])


def test_learning_is_bounded_on_both_sides():
    step, train_state = build(metrics={"accuracy": jn.metrics.accuracy})
    *_, epoch = jn.fit(train_state, step, data(500), epochs=20, evaluate=data(500, 1))
    # The labels are noisy: the best rule reads x0 > 0, right in 85.2% (1/2 + atan(2) / pi).
    assert 0.82 < epoch.test["accuracy"] < 0.89
    assert 0.25 < epoch.test["loss"] < 0.45


def test_evaluate_by_hand_for_every_batch_size():
    x, y = data(11)
    step, train_state = build(metrics={"accuracy": jn.metrics.accuracy})
    logits = x @ train_state.params["kernel"] + train_state.params["bias"]
    expected = {"loss": LOSS(logits, y).mean(), "accuracy": (logits.argmax(1) == y).mean()}
    for size in (1, 4, 11, 100):
        found = jn.evaluate(train_state, step, (x, y), batch_size=size)
        assert list(found) == ["loss", "accuracy"]
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5)
    found = jn.evaluate(train_state, step, Loader([(x[:7], y[:7]), (x[7:], y[7:])]))
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)


def test_evaluate_of_an_objective_without_mask_is_exact():
    def objective(params, state, batch, *, key, train):
        return batch.mean() + 0.0 * params["kernel"].sum(), (state, {})

    step = jn.make_step(objective, optax.sgd(0.1))
    _, train_state = build()
    values = jnp.arange(11.0)
    np.testing.assert_allclose(jn.evaluate(train_state, step, values, batch_size=4)["loss"], 5.0)


def test_augment_changes_training_alone():
    step, train_state = build(metrics={"zero": lambda h, y: y == 0})

    def blank(key, batch):
        return batch[0], 0 * batch[1]

    x, y = data(40)
    *_, epoch = jn.fit(train_state, step, (x, y), epochs=1, augment=blank, evaluate=(x, y))
    assert epoch.train["zero"] == 1.0
    np.testing.assert_allclose(epoch.test["zero"], (y == 0).mean(), rtol=1e-6)


def test_epoch_prints_as_one_line():
    step, train_state = build(metrics={"accuracy": jn.metrics.accuracy})
    (epoch,) = jn.fit(train_state, step, data(), epochs=1, evaluate=data())
    assert str(epoch).startswith("epoch 1/1  |  loss 0.") and str(epoch).endswith(" s")
    assert "test loss 0." in str(epoch) and "\n" not in str(epoch)


def test_non_finite_gradients_are_told_with_the_step():
    x, y = data(16)
    step, train_state = build(loss=lambda h, t: jnp.log(h[:, 0] * 0) * t)
    with pytest.warns(UserWarning, match=r"not finite at step 1: bias, kernel"):
        list(jn.fit(train_state, step, (x, y), epochs=1, batch_size=8))


@pytest.mark.parametrize(("change", "words"), [
    ({"epochs": 0}, "epochs must be at least 1, got 0"),
    ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ({"steps_per_dispatch": 0}, "steps_per_dispatch must be at least 1"),
    ({"data": (np.ones((3, 3)), np.ones(4))}, r"as many examples, got \(3, 3\) and \(4,\)"),
    ({"data": (np.ones((0, 3)), np.ones(0))}, "there are no examples"),
    ({"data": (np.full((3, 3), np.nan), np.ones(3))}, "3 of 3 examples hold a NaN or Inf"),
    ({"evaluate": (np.full((3, 3), np.inf), np.ones(3))}, "fit: evaluate: 3 of 3 examples"),
    ({"data": 7}, "data must be arrays"),
    ({"step": print}, "the step must come from jn.make_step"),
    ({"train_state": {}}, "needs a TrainState"),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")  # fmt: skip
def test_bad_input_is_answered_before_anything_runs(change, words):
    step, train_state = build()
    call = {"train_state": train_state, "step": step, "data": data(), "epochs": 1} | change
    with pytest.raises((ValueError, TypeError), match=words):
        jn.fit(**call)


def test_predict_in_batches_is_apply():
    net = jn.serial(jn.dense(4), jn.batch_norm(), jn.dense(2))
    params, state = net.init(KEY, jn.spec((1, 3)))
    x, _ = data(11)
    whole, _ = net.apply(params, state, x)
    for size in (1, 4, 11, 64):
        found = jn.predict(net, params, state, x, batch_size=size)
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)


def test_progress_bar_is_silent_where_nobody_looks(capsys):
    step, train_state = build()
    list(jn.fit(train_state, step, data(), epochs=1))
    assert capsys.readouterr() == ("", "")
