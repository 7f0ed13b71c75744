"""Several trainers as one: what they share, what each keeps, and the same values as by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.training.train_state import step_key
from tests.training.conftest import Batches, same, started

GENERATOR = jn.serial(jn.dense(4), jn.batch_norm(), jax.nn.relu, jn.dense(2), name="generator")
CRITIC = jn.serial(jn.dense(4), jax.nn.relu, jn.dropout(0.2), jn.dense(1), name="critic")
DATA = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)


def judge(m, real):
    noise = jax.random.normal(m.key("z"), (len(real), 3))
    fake = m(jn.freeze(GENERATOR), noise)
    losses = jax.nn.softplus(m(CRITIC, fake) - m(CRITIC, real))
    return losses[:, 0], {"real": m(CRITIC, real)[:, 0]}


def fool(m, real):
    noise = jax.random.normal(m.key("z"), (len(real), 3))
    fake = m(GENERATOR, noise)
    losses = jax.nn.softplus(-m(jn.freeze(CRITIC), fake))
    return losses[:, 0], {}


def trainers():
    critic = jn.trainer(jn.compose(judge), optax.adam(0.01))
    generator = jn.trainer(jn.compose(fool), optax.sgd(0.1))
    return critic, generator


@pytest.mark.slow
def test_a_step_is_the_steps_by_hand_one_after_another():
    critic, generator = trainers()
    both = jn.alternate(critic=(critic, 3), generator=generator)
    state = both.init(jax.random.key(0), DATA)
    own = jax.tree.map(jnp.copy, state.opt_state)
    assert sorted(state.params) == sorted(own) == ["critic", "generator"]
    by_hand = jax.tree.map(jnp.copy, state)
    for step in range(2):
        seen = {}
        for name, trainer, steps in (("critic", critic, 3), ("generator", generator, 1)):
            key = jax.random.key_data(jn.child_key(step_key(state), name))
            here = by_hand._replace(step=jnp.int32(step), key=key, opt_state=own[name])
            for _ in range(steps):
                here, seen[name] = trainer.step(here, DATA)
            by_hand = here
            own[name] = here.opt_state
        state, metrics = both.step(state, DATA)
    same(state.params, by_hand.params, 1e-6, 1e-6)
    same(state.state, by_hand.state, 1e-6, 1e-6)
    same(state.opt_state, own, 1e-6, 1e-6)
    judged, fooled = seen["critic"], seen["generator"]
    wanted = {
        "loss": judged["loss"] + fooled["loss"],
        "critic/loss": judged["loss"],
        "critic/real": judged["real"],
        "generator/loss": fooled["loss"],
    }
    same(metrics, wanted, 1e-5, 1e-5)
    assert state.step == 2


@pytest.mark.slow
def test_fit_masks_the_padding_and_a_resumed_run_has_the_same_bits(tmp_path):
    critic, generator = trainers()
    both = jn.alternate(critic=critic, generator=generator)
    start = both.init(jax.random.key(0), DATA)
    options = {"batch_size": 4, "progress": False}
    first, last = jn.fit(both, start, DATA, epochs=2, **options)
    assert last.step == last.train_state.step == 6
    assert np.isfinite(last.train["critic/loss"])
    with jn.Checkpoints(tmp_path) as saved:
        saved.save(first)
    with jn.Checkpoints(tmp_path) as saved:
        middle, position = saved.newest(start)
    (again,) = jn.fit(both, middle, DATA, epochs=2, position=position, **options)
    same(again.train_state, last.train_state)
    _, found, _ = jax.jit(both.update)(start, DATA[:4], jnp.array([1.0, 1.0, 0.0, 0.0]))
    assert found["critic/real"].weight == found["generator/loss"].weight == 2


@pytest.mark.slow
def test_parts_in_float16_scale_alone_and_name_what_overflows():
    def huge(m, real):
        losses, metrics = fool(m, real)
        return losses.astype(jnp.float32) * 1e8, metrics

    critic, _ = trainers()
    half = jn.trainer(jn.cast(jn.compose(huge), jnp.float16), optax.sgd(0.1))
    both = jn.alternate(critic=critic, generator=half)
    state = both.init(jax.random.key(0), DATA)
    assert not hasattr(state.opt_state["critic"], "loss_scale")
    with pytest.warns(UserWarning, match=r"the last 10 steps changed nothing.*: generator/"):
        (epoch,) = jn.fit(both, state, DATA, epochs=10, every=10, batch_size=10, progress=False)
    after = epoch.train_state
    assert epoch.skipped == after.opt_state["generator"].skipped == 10
    same(after.params["generator"], state.params["generator"])
    before, moved = state.params["critic"]["dense"], after.params["critic"]["dense"]
    assert not np.array_equal(before["kernel"], moved["kernel"])


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({}, ValueError, "alternate: needs trainers by name"),
        ({"a": 3}, TypeError, r"a must be a trainer or a pair \(trainer, steps\), got int"),
        ({"a": (trainers()[0], 0)}, ValueError, "the steps of a must be at least 1, got 0"),
    ],
    ids=["none", "a number", "no steps"],
)
def test_other_values_raise(given, error, words):
    with pytest.raises(error, match=words):
        jn.alternate(**given)


def test_shared_entries_have_one_shape():
    def total(outputs, targets):
        return outputs.sum(-1)

    a, _ = started(jn.dense(2), (DATA, DATA), total)
    b, _ = started(jn.dense(3), (DATA, DATA), total)
    words = r"params/bias is .*2.* in a and .*3.* in b. Share one net"
    with pytest.raises(ValueError, match=words):
        jn.alternate(a=a, b=b).init(jax.random.key(0), (DATA, DATA))


@pytest.mark.parametrize(
    ("names", "got"),
    [
        ("", "got tuple"),
        ("critic", "got a dict of critic"),
        ("judge generator", "got a dict of generator, judge"),
        ("critic generator third", "got a dict of critic, generator, third"),
    ],
    ids=["one trainer", "fewer", "other names", "more"],
)
def test_a_train_state_of_other_trainers_is_told(names, got):
    critic, generator = trainers()
    both = jn.alternate(critic=critic, generator=generator)
    other = jn.alternate(**dict.fromkeys(names.split(), critic)) if names else critic
    train_state = other.init(jax.random.key(0), DATA)
    words = rf"an entry for each of critic, generator, {got}. Initialize with this trainer"
    with pytest.raises(ValueError, match=words):
        both.step(train_state, DATA)
    with pytest.raises(ValueError, match=words):
        jn.fit(both, train_state, DATA, epochs=1)


def test_a_train_state_without_params_of_a_trainer_is_told():
    critic, generator = trainers()
    both = jn.alternate(critic=critic, generator=generator)
    train_state = both.init(jax.random.key(0), DATA)
    del train_state.params["generator"]["dense"]["bias"]
    with pytest.raises(ValueError, match="train_state/params/generator/dense/bias is missing"):
        both.step(train_state, DATA)


@pytest.mark.slow
def test_a_short_batch_of_a_stream_compiles_nothing_and_one_example_is_told():
    """As for one trainer: every batch has a mask, and copies have no statistics for batch norm."""
    critic, generator = trainers()
    both = jn.alternate(critic=critic, generator=generator)
    start = both.init(jax.random.key(0), DATA)
    list(jn.fit(both, start, Batches(DATA[:6], DATA[6:]), epochs=1, progress=False))
    with pytest.warns(UserWarning, match="the last batch has one example, which is repeated"):
        list(jn.fit(both, start, Batches(DATA[:6], DATA[6:7]), epochs=1, progress=False))


@pytest.mark.slow
def test_whole_batches_of_a_stream_train_with_a_step_of_your_own():
    """Which takes no mask, so there must be none while no batch is padded."""
    critic, generator = trainers()
    own = jn.Trainer(generator.init, lambda train_state, batch: generator.step(train_state, batch))
    both = jn.alternate(critic=critic, own=own)
    start = both.init(jax.random.key(0), DATA)
    (epoch,) = jn.fit(both, start, Batches(DATA[:5], DATA[5:]), epochs=1, progress=False)
    assert epoch.step == 2 and np.isfinite(epoch.train["own/loss"])


def test_targets_are_checked_if_an_init_of_your_own_computes_with_the_batch():
    inner, _ = started(jn.dense(2), (DATA, np.zeros(10, int)))

    def init(key, batch):
        first = inner.init(key, batch)
        return first._replace(params=jax.tree.map(lambda a: a + batch[0].mean(), first.params))

    own = jn.Trainer(init, lambda train_state, batch: inner.step(train_state, batch))
    both = jn.alternate(own=own, inner=inner)
    start = both.init(jax.random.key(0), (DATA, np.zeros(10, int)))
    with pytest.raises(ValueError, match="targets must be labels .*got -1"):
        both.step(start, (DATA, np.full(10, -1)))


def test_an_edited_loss_is_compiled_anew():
    """As after %autoreload, which gives a function other code."""

    def loss(outputs, targets):
        return 0 * outputs[:, 0] + 1

    def edited(outputs, targets):
        return 0 * outputs[:, 0] + 2

    trainer, _ = started(jn.dense(2), (DATA, DATA), loss)
    both = jn.alternate(one=trainer)
    start = both.init(jax.random.key(0), (DATA, DATA))
    start, metrics = both.step(start, (DATA, DATA))
    assert metrics["loss"] == 1
    loss.__code__ = edited.__code__
    with pytest.warns(UserWarning, match="step is compiled again .* or edited code"):
        _, metrics = both.step(start, (DATA, DATA))
    assert metrics["loss"] == 2
