"""Epochs: every example once, padding left out, resuming, and learning bounded on both sides."""

import copy
import gc
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.training.conftest import KEY, LOSS, Batches, data, same, started


def build(net=None, optimizer=None, loss=LOSS):
    return started(net or jn.dense(2), data(), loss, optimizer)


def recorder(spy=lambda batch: None):
    """A trainer whose metrics say which share of the steps each of 11 examples has."""

    def forward(m, batch):
        spy(batch)
        loss = 0.0 * m.param("w", jn.initializers.zeros, ()) * batch
        metrics = {f"is {i}": batch == i for i in range(11)}
        return loss, metrics | {"mean": batch}

    trainer = jn.trainer(jn.compose(forward), optax.sgd(0.1))
    examples = jnp.arange(11)
    return trainer, trainer.init(KEY, examples), examples


@pytest.mark.fast_cases("1-100")
@pytest.mark.parametrize("size, chunk", [(1, 100), (1, 2), (4, None), (4, 2), (11, 1), (64, 100)])
def test_every_example_once_an_epoch(size, chunk):
    trainer, train_state, examples = recorder()
    options = {"epochs": 3, "batch_size": size, "steps_per_dispatch": chunk}
    for epoch in jn.fit(trainer, train_state, examples, **options):
        for i in range(11):
            np.testing.assert_allclose(epoch.train[f"is {i}"], 1 / 11, rtol=1e-5)
        np.testing.assert_allclose(epoch.train["mean"], 5.0, rtol=1e-6)  # weighted by the mask
        assert epoch.losses.shape == (-(-11 // size),)
    assert len(trainer._cache.watcher.traces["fit"]) == 1


@pytest.mark.slow
def test_order_is_drawn_again_for_each_epoch():
    orders = []

    def spy(batch):
        jax.debug.callback(lambda b: orders.append(b.tolist()), batch)

    trainer, train_state, examples = recorder(spy)
    orders.clear()
    for _ in jn.fit(trainer, train_state, examples, epochs=2, batch_size=11):
        pass
    jax.effects_barrier()
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(11))
    assert orders[0] != orders[1] != list(range(11))


@pytest.mark.slow
def test_stream_equals_resident(trainer, train_state):
    x, y = data(20)
    batches = [(x[i : i + 8], y[i : i + 8]) for i in (0, 8, 16)]
    *_, a = jn.fit(trainer, train_state, (x, y), epochs=2, batch_size=8, shuffle=False)
    *_, b = jn.fit(trainer, train_state, Batches(*batches), epochs=2, evaluate=Batches(*batches))
    same(a.train_state.params, b.train_state.params, 1e-4, 1e-6)
    np.testing.assert_allclose(a.train["loss"], b.train["loss"], rtol=1e-5)
    assert b.evaluation["loss"] < b.train["loss"]


@pytest.mark.slow
def test_a_loader_of_pytorch_gives_batches(torch, trainer, train_state):
    """Its tensors were handed to np.isfinite as they are, which warns."""
    x, y = data(20)
    examples = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    loader = torch.utils.data.DataLoader(examples, batch_size=8)
    *_, a = jn.fit(trainer, train_state, loader, epochs=2)
    batches = [[x[i : i + 8], y[i : i + 8]] for i in (0, 8, 16)]  # lists, as from the loader
    *_, b = jn.fit(trainer, train_state, Batches(*batches), epochs=2)
    np.testing.assert_array_equal(a.losses, b.losses)


@pytest.mark.slow
def test_resuming_gives_what_one_run_gives():
    net = jn.serial(jn.dense(4), jn.batch_norm(), jn.dropout(0.3), jn.dense(2))
    trainer, train_state = build(net, optax.adam(0.1))
    epochs = list(jn.fit(trainer, train_state, data(), epochs=4, batch_size=16))
    *_, resumed = jn.fit(trainer, epochs[1].train_state, data(), epochs=2, batch_size=16)
    assert (resumed.number, resumed.epochs) == (4, 4)  # the count goes on
    same(resumed.train_state.params, epochs[3].train_state.params)


@pytest.mark.slow
def test_earlier_train_states_stay_valid(trainer, train_state):
    states = [epoch.train_state for epoch in jn.fit(trainer, train_state, data(), epochs=3)]
    for kept in (train_state, *states):
        assert np.isfinite(np.asarray(kept.params["kernel"])).all()
    assert not np.array_equal(states[0].params["kernel"], states[2].params["kernel"])


@pytest.mark.slow
def test_an_augmentation_changes_training_alone():
    def blank(key, batch):
        x, y = batch
        return x, 0 * y

    objective = jn.supervised(jn.dense(2), LOSS, metrics={"zero": lambda h, y: y == 0})
    trainer = jn.trainer(jn.augmented(objective, blank), optax.sgd(0.1))
    x, y = data(40)
    train_state = trainer.init(KEY, (x, y))
    *_, epoch = jn.fit(trainer, train_state, (x, y), epochs=1, evaluate=(x, y))
    assert epoch.train["zero"] == 1.0
    np.testing.assert_allclose(epoch.evaluation["zero"], (y == 0).mean(), rtol=1e-6)


@pytest.mark.parametrize(("change", "words"), [
    ({"epochs": 0}, "epochs must be at least 1, got 0"),
    ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ({"steps_per_dispatch": 0}, "steps_per_dispatch must be at least 1"),
    ({"data": (np.ones((3, 3)), np.ones(4))}, "the same leading dimension, got 0: 3, 1: 4"),
    ({"data": (np.ones((0, 3)), np.ones(0))}, "expected at least one example"),
    ({"data": (np.full((3, 3), np.nan), np.ones(3))}, "3 of 3 examples contain NaN or Inf"),
    ({"evaluate": (np.full((3, 3), np.inf), np.ones(3))}, "fit: evaluate/0: 3 of 3 examples"),
    ({"data": 7}, "data must be arrays"),
    ({"data": MappingProxyType({"x": np.ones(3)})}, r"got mappingproxy; write dict\(data\)"),
    ({"trainer": print}, "expected a trainer from jn.trainer"),
    ({"train_state": {}}, "must be the result of trainer.init.*jn.load.*like="),
    ({"progress": "yes"}, "fit: progress must be True or False, got 'yes'"),
    ({"epochs": 2, "evaluate": (data() for _ in "ab")}, "evaluate= is read in each epoch"),
    ({"every": 3, "evaluate": (data() for _ in "ab")}, "evaluate= is read in each epoch"),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")  # fmt: skip
def test_bad_input_is_answered_before_anything_runs(change, words, trainer, train_state):
    call = {"trainer": trainer, "train_state": train_state, "data": data(), "epochs": 1} | change
    with pytest.raises((ValueError, TypeError), match=words):
        jn.fit(**call)


@pytest.mark.slow
def test_what_fit_returns_says_that_it_is_iterated():
    epochs = jn.fit(*build(), data(), epochs=1, progress=False)
    assert "; iterate it: losses = [epoch.train['loss'] for" in repr(epochs)
    with pytest.raises(AttributeError, match="fit returns epochs; iterate it: .*, got .history"):
        epochs.history  # noqa: B018
    with pytest.raises(TypeError, match="fit: a run cannot be copied; pass epoch"):
        copy.deepcopy(epochs)
    assert [epoch.number for epoch in epochs] == [1]


@pytest.mark.slow
def test_a_fit_that_is_never_iterated_warns(trainer, train_state):
    with pytest.warns(UserWarning, match="fit was never iterated, so nothing was trained"):
        jn.fit(trainer, train_state, data(), epochs=1)
        gc.collect()


@pytest.mark.slow
def test_a_scalar_loss_cannot_be_padded():
    trainer, train_state = build(loss=lambda h, y: LOSS(h, y).mean())
    *_, epoch = jn.fit(trainer, train_state, data(48), epochs=1, batch_size=8)
    assert np.isfinite(epoch.train["loss"])
    trainer, train_state = build(loss=lambda h, y: LOSS(h, y).mean())
    with pytest.raises(ValueError, match="choose a batch_size that divides"):
        list(jn.fit(trainer, train_state, data(50), epochs=1, batch_size=8))


@pytest.mark.slow
def test_totals_and_weights_are_summed_before_they_are_divided():
    """Each token weighs the same, in a step, in an epoch and in the evaluation."""

    def loss(outputs, targets):
        counts = (targets >= 0).astype(jnp.float32)
        squares = (outputs[..., 0] - targets) ** 2
        return (counts * squares).sum(1), counts.sum(1)

    targets = np.array([[1, -1, -1], [2, 3, 4], [5, -1, -1]], np.float32)
    zeros = jn.stateless(lambda key, x: {"w": jnp.zeros(1)}, lambda p, x: x[..., None] * p["w"])
    batch = np.ones((3, 3), np.float32), targets
    trainer, train_state = started(zeros, batch, loss, optax.sgd(0.0))
    expected = (1 + 4 + 9 + 16 + 25) / 5
    options = {"epochs": 1, "batch_size": 2, "shuffle": False}
    *_, epoch = jn.fit(trainer, train_state, batch, evaluate=batch, **options)
    np.testing.assert_allclose([epoch.train["loss"], epoch.evaluation["loss"]], expected, rtol=1e-6)
    np.testing.assert_allclose(epoch.losses, [(1 + 4 + 9 + 16) / 4, 25], rtol=1e-6)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"critic": 1.0}, r"its 'loss', got {'critic': \(\) float32}"),
        ({"loss": jnp.ones(3)}, r"its 'loss', got a loss \(3,\) float32"),
        (1.0, r"its 'loss', got \(\) float32"),
    ],
    ids=["no loss", "losses", "a number"],
)
def test_the_metrics_of_a_step_of_ones_own_have_a_loss(metrics, words, trainer, train_state):
    metrics = jax.tree.map(jnp.asarray, metrics)
    mine = jn.Trainer(trainer.init, lambda train_state, batch: (train_state, metrics))
    with pytest.raises(ValueError, match="fit: the step of the trainer must return .*" + words):
        next(jn.fit(mine, train_state, data(8), epochs=1, batch_size=8))


@pytest.mark.slow
def test_a_trainer_of_ones_own_is_driven_by_its_step():
    """Here without an optimizer: the weight counts the examples."""

    def init(key, batch):
        params = {"n": jnp.zeros(())}
        key = jax.random.key_data(key)
        return jn.TrainState(step=jnp.int32(0), params=params, state={}, opt_state=(), key=key)

    def step(train_state, batch):
        params = {"n": train_state.params["n"] + batch.sum()}
        train_state = train_state._replace(step=train_state.step + 1, params=params)
        return train_state, {"loss": 0.0 * batch[0]}

    mine = jn.Trainer(init, step)
    *_, epoch = jn.fit(mine, init(KEY, None), jnp.ones(8), epochs=3, batch_size=4)
    assert float(epoch.train_state.params["n"]) == 24
    assert None not in (mine.update, mine._cache.watcher, mine._cache.programs)
    assert mine.objective is None


@pytest.mark.long
def test_nothing_stays_of_a_net_that_is_gone(on_devices):
    """What belongs to a net, its programs too, goes when the net goes.

    They are counted: the memory of the process also grows by what the allocator keeps.
    """
    program = """
import gc, numpy as np, optax, jax, jaxnet as jn
data = np.ones((64, 500), np.float32), np.zeros(64, int)
for i in range(4):
    net = jn.serial(jn.dense(400), jax.nn.relu, jn.dense(5))
    loss = optax.softmax_cross_entropy_with_integer_labels
    trainer = jn.trainer(jn.supervised(net, loss), optax.adam(1e-3))
    train_state = trainer.init(jax.random.key(i), data)
    for epoch in jn.fit(trainer, train_state, data, epochs=1, batch_size=32, progress=False):
        pass
    del epoch
    gc.collect()
    size = sum(array.nbytes for array in jax.live_arrays())
    print(len(jax.live_arrays()), size, len(jax.devices()[0].client.live_executables()))
"""
    first, *later = on_devices(program, 1).splitlines()
    assert set(later) == {first} and len(later) == 3


def test_an_own_trainer_with_an_objective_reads_whole_batches_of_a_stream():
    x, y = np.ones((16, 3), np.float32), np.zeros(16, int)
    inner, start = started(jn.dense(2), (x, y))
    own = jn.Trainer(inner.init, lambda *args: inner.step(*args), objective=inner.objective)
    batches = iter([(x[:8], y[:8]), (x[8:], y[8:])])
    (epoch,) = jn.fit(own, start, batches, epochs=1, evaluate=(x, y), progress=False)
    assert epoch.step == 2
    assert epoch.evaluation["loss"] < 1


@pytest.mark.parametrize("states", [False, True])
def test_a_loader_may_have_an_epoch_of_its_own(states):
    """Its iterators need not have a state, and are not asked for one between passes."""
    x, y = np.ones((16, 3), np.float32), np.zeros((16, 1), np.float32)

    class WithoutState:
        def __init__(self, epoch):
            self.epoch, self.place = epoch, 0

        def __iter__(self):
            return WithoutState(self.epoch)

        def __next__(self):
            if self.place == 16:
                raise StopIteration
            rows = slice(self.place, self.place + 8)
            self.place += 8
            return x[rows], y[rows]

    class WithState(WithoutState):
        def __iter__(self):
            self.epoch += 1
            return WithState(self.epoch)

        def __next__(self):
            return tuple(self.epoch + a for a in super().__next__())  # passes begin differently

        def get_state(self):
            return {"place": self.place}

    trainer, start = started(jn.dense(1), (x, y), optax.squared_error)
    batches = WithState(0) if states else WithoutState(0)
    epochs = list(jn.fit(trainer, start, batches, epochs=2, progress=False))
    assert [epoch.position.loader for epoch in epochs] == [None, None]


def test_the_last_steps_of_an_iterator_for_one_pass_are_an_epoch(trainer, train_state):
    run = jn.fit(trainer, train_state, iter([data(8)] * 7), steps=10, every=3, progress=False)
    assert [next(run).step for _ in range(3)] == [3, 6, 7]
    with pytest.raises(ValueError, match="the data yielded no batch"):
        next(run)


def test_an_iterator_that_is_used_up_is_answered(trainer, train_state):
    with pytest.raises(ValueError, match="starts over for each epoch"):
        list(jn.fit(trainer, train_state, iter([data(8)]), epochs=2))


def test_a_run_that_is_iterated_again_has_no_epochs_left():
    run = jn.fit(*build(), data(), epochs=2, progress=False)
    assert [epoch.number for epoch in run] == [1, 2]
    with pytest.warns(UserWarning, match="this run was iterated to its end.* list\\(jn.fit"):
        assert list(run) == []


def test_a_run_may_go_on_in_another_loop(recwarn):
    run = jn.fit(*build(), data(), epochs=2, progress=False)
    assert next(iter(run)).number == 1
    assert [epoch.number for epoch in run] == [2]
    assert not recwarn.list


def test_a_count_of_steps_does_not_wrap():
    trainer, train_state = build()
    late = train_state._replace(step=jnp.int32(2**31 - 1))
    with pytest.raises(OverflowError, match=r"fit: train_state.step counts to 2,147,483,647 in 32"):
        next(jn.fit(trainer, late, data(), epochs=1, progress=False))
    with pytest.raises(OverflowError, match=r"step: train_state.step counts to 2,147,483,647 in"):
        trainer.step(late, data())
