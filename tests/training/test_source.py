"""Stretches of a run: what `every` and `steps` cut, and how a run goes on from a position."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.training.source import Pace
from tests.training.conftest import KEY, LOSS, Batches, data, same, started


@pytest.fixture
def trainer():
    net = jn.serial(jn.dense(8), jn.batch_norm(), jax.nn.relu, jn.dropout(0.2), jn.dense(2))
    return jn.trainer(jn.supervised(net, LOSS), optax.adam(0.01))


def stream_of(rows):
    """Batches of 16 rows, the last one shorter."""
    return Batches(*jn.data.batches(rows, 16))


def all_losses(epochs):
    return np.concatenate([epoch.losses for epoch in epochs])


def places(epochs):
    """The number of passes and the steps into a pass, after each epoch."""
    return [(epoch.position.epoch, epoch.position.done) for epoch in epochs]


def going_on(trainer, epoch, source, **options):
    """The epochs of a run that goes on after an epoch."""
    position = epoch.position
    return list(jn.fit(trainer, epoch.train_state, source, position=position, **options))


@pytest.mark.fast_cases("True")
@pytest.mark.parametrize("stream", [False, True])
def test_every_cuts_a_run_without_changing_it(stream, trainer, train_state):
    source = stream_of(data()) if stream else data()
    whole = list(jn.fit(trainer, train_state, source, epochs=3, batch_size=16))
    parts = list(jn.fit(trainer, train_state, source, epochs=3, batch_size=16, every=5))
    assert [len(epoch.losses) for epoch in parts] == [5, 5, 2]
    assert [epoch.step for epoch in parts] == [5, 10, 12]
    assert [epoch.number for epoch in parts] == [2, 3, 3]
    same(all_losses(parts), all_losses(whole))
    same(parts[-1].train_state, whole[-1].train_state)
    # The means weigh examples: 4 batches of 16, 16, 16, 2 in a pass.
    weights = [16, 16, 16, 2] * 3
    for epoch, rows in zip(parts, (slice(0, 5), slice(5, 10), slice(10, 12)), strict=True):
        mean = np.average(epoch.losses, weights=weights[rows])
        np.testing.assert_allclose(epoch.train["loss"], mean, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("stream", "at"), [(False, 1), (False, 2), (True, 0), (True, 1)])
def test_a_run_goes_on_from_a_position(stream, at, trainer, train_state):
    source = stream_of(data()) if stream else data()
    options = {"steps": 11, "every": 3, "batch_size": 16}
    whole = list(jn.fit(trainer, train_state, source, **options))
    assert places(whole) == [(0, 3), (1, 2), (2, 1), (2, 3)]
    rest = going_on(trainer, whole[at], source, **options)
    for mine, other in zip(rest, whole[at + 1 :], strict=True):
        same(mine.losses, other.losses)
        assert mine.step == other.step
        assert mine.train == other.train
        assert mine.number == other.number
    same(rest[-1].train_state, whole[-1].train_state)


class Shuffled:
    """In another order for each pass, by a count of its own."""

    begun = 0

    def __iter__(self):
        self.begun += 1
        return iter(jn.data.batches(data(), 16, seed=self.begun, drop_last=True))


def test_a_loader_that_counts_its_passes_goes_on_with_the_right_one(trainer, train_state):
    whole = list(jn.fit(trainer, train_state, Shuffled(), steps=9, every=2))
    assert places(whole) == [(0, 2), (1, 1), (1, 3), (2, 2), (2, 3)]
    for one in whole[1:3]:
        rest = going_on(trainer, one, Shuffled(), steps=9, every=2)
        same(rest[-1].train_state, whole[-1].train_state)


def test_a_position_after_the_last_step_ends_the_run(trainer, train_state):
    *_, last = jn.fit(trainer, train_state, data(), epochs=2, batch_size=16)
    with pytest.warns(UserWarning, match="the run was finished before, so there is no epoch"):
        assert going_on(trainer, last, data(), epochs=2, batch_size=16) == []
    more = going_on(trainer, last, data(), epochs=3, batch_size=16)
    assert [epoch.number for epoch in more] == [3]


@pytest.mark.slow
def test_steps_of_an_endless_stream(trainer, train_state):
    def endless():
        x, y = data()
        for i in itertools.count():
            at = i % 49
            yield x[at : at + 2], y[at : at + 2]

    epochs = list(jn.fit(trainer, train_state, endless(), steps=7, every=3))
    assert [epoch.step for epoch in epochs] == [3, 6, 7]
    assert epochs[-1].epochs is None
    assert str(epochs[-1]).startswith("step 7/7")


@pytest.mark.parametrize(
    ("kind", "endless"),
    [
        ("generator", (data() for _ in itertools.count())),
        ("map", map(lambda _: data(), itertools.count())),
    ],
    ids=["generator", "map"],
)
def test_an_endless_stream_for_several_epochs_raises(kind, endless, trainer, train_state):
    """It would keep the first epoch going without end."""
    with pytest.raises(ValueError, match=f"a {kind} can be used once only, and epochs=2 star"):
        jn.fit(trainer, train_state, endless, epochs=2)


@pytest.mark.slow
def test_a_generator_may_be_one_epoch(trainer, train_state):
    (epoch,) = jn.fit(trainer, train_state, (data() for _ in range(2)), epochs=1)
    assert epoch.step == 2


def test_a_stream_whose_last_batch_was_seen_goes_on_with_the_next_pass(trainer, train_state):
    """The end of a pass is a position of its own, also where nobody knows that it has come."""
    source = stream_of(data())
    whole = list(jn.fit(trainer, train_state, source, steps=8, every=4))
    assert whole[0].position.done == 4  # the length is not known
    rest = going_on(trainer, whole[0], source, steps=8, every=4)
    same(rest[-1].train_state, whole[-1].train_state)
    assert going_on(trainer, whole[0], source, epochs=1, every=4) == []


@pytest.mark.fast_cases("change2-every must be at least 1")
@pytest.mark.parametrize(("change", "words"), [
    ({"epochs": 2, "steps": 3}, "either epochs= or steps=, got epochs=2 and steps=3"),
    ({"epochs": None, "steps": None}, "either epochs= or steps=, got none"),
    ({"every": 0}, "every must be at least 1"),
    ({"batch_size": 25}, "belongs to a run with batches of 16 examples, 3 steps into a pass"),
    ({"data": data(48)}, "3 steps into a pass; these data have 3 batches of 16"),
    ({"data": stream_of(data())}, "was saved while training on arrays, but data is a stream"),
])  # fmt: skip
def test_a_position_of_another_run(change, words, trainer, train_state):
    first = next(iter(jn.fit(trainer, train_state, data(), steps=11, every=3, batch_size=16)))
    options = {"steps": 11, "position": first.position, "batch_size": 16, "data": data()} | change
    with pytest.raises(ValueError, match=words):
        jn.fit(trainer, first.train_state, **options)


def test_a_train_state_of_another_moment(trainer, train_state):
    first = next(iter(jn.fit(trainer, train_state, data(), steps=11, every=3, batch_size=16)))
    with pytest.raises(ValueError, match="position is 3 steps into a run .* train_state at step 0"):
        jn.fit(trainer, train_state, data(), steps=11, position=first.position, batch_size=16)
    later = jn.training.Position(0, 0, 9, 16)
    for own in (trainer, jn.Trainer(trainer.init, trainer.step)):
        with pytest.raises(ValueError, match="that began at step 9, the train_state at step 0"):
            jn.fit(own, train_state, stream_of(data()), steps=11, position=later)


@pytest.mark.fast_cases("beyond1")
@pytest.mark.parametrize("beyond", [{"done": 10**9}, {"epoch": 10**9}])
def test_a_position_beyond_a_stream_reads_nothing(beyond, trainer, train_state):
    """There may be no end of what it would read."""
    x, y = data()

    class Endless:
        def __iter__(self):
            return itertools.repeat((x[:2], y[:2]))

    options = {"steps": 7, "every": 3}
    first = next(iter(jn.fit(trainer, train_state, Endless(), **options)))
    position = first.position._replace(**beyond)
    with pytest.raises(ValueError, match="fit: the position is 1000000000 steps into a run"):
        jn.fit(trainer, first.train_state, Endless(), position=position, **options)


def test_a_stream_that_became_shorter(trainer, train_state):
    first = next(iter(jn.fit(trainer, train_state, stream_of(data()), steps=11, every=3)))
    short = itertools.islice(iter(stream_of(data())), 2)
    with pytest.raises(ValueError, match="3 batches into a pass, and these data yielded 2"):
        jn.fit(trainer, first.train_state, short, steps=11, position=first.position)


def test_the_first_dispatch_which_compiles_sets_no_pace():
    pace = Pace(None)
    pace.took(1, seconds=0.01)
    assert pace.steps == 1
    pace.took(1, seconds=0.05)
    assert pace.steps == 4


@pytest.mark.slow
def test_data_in_a_dict():
    def forward(m, batch):
        return LOSS(m(jn.dense(2), batch["image"]), batch["label"]), {}

    x, y = data()
    rows = {"image": jnp.asarray(x), "label": y}
    trainer = jn.trainer(jn.compose(forward), optax.sgd(0.1))
    run = jn.fit(trainer, trainer.init(KEY, rows), rows, epochs=3, evaluate=rows)
    losses = [epoch.evaluation["loss"] for epoch in run]
    assert losses[2] < losses[0] < 1.5


@pytest.mark.slow
def test_grain_in_the_same_order_is_told(trainer, train_state):
    grain = pytest.importorskip("grain")
    x, y = data()
    rows = grain.MapDataset.range(48).map(lambda i: (x[i], y[i]))
    once = rows.seed(1).shuffle().batch(16).to_iter_dataset()
    with pytest.warns(UserWarning, match="two passes began with the same batch.*repeat"):
        list(jn.fit(trainer, train_state, once, steps=9))
    again = rows.seed(1).shuffle().repeat().batch(16).to_iter_dataset()
    epochs = list(jn.fit(trainer, train_state, again, steps=9, every=3))
    assert [epoch.step for epoch in epochs] == [3, 6, 9]


@pytest.mark.parametrize("normed", [True, False])
def test_a_last_batch_of_one_example_is_told(normed):
    """Its copies fill the batch, and batch norm would take their variance for that of the data."""
    x = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    rows = x, x[:, :1]
    stream = Batches(*jn.data.batches(rows, 4))
    net = jn.serial(jn.batch_norm(), jn.dense(1)) if normed else jn.dense(1)
    trainer, train_state = started(net, rows, optax.squared_error)
    with warnings.catch_warnings(record=True, action="always") as caught:
        list(jn.fit(trainer, train_state, stream, epochs=2, progress=False))
    told = [str(warning.message) for warning in caught]
    assert len(told) == normed  # once in the run
    assert all("the last batch has one example" in words for words in told)
