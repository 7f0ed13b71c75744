"""Loss scaling: nothing without float16, steps that overflow, what the state survives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.training import loss_scale
from jaxnet.training.loss_scale import LossScale
from tests.helpers import close
from tests.training.conftest import started

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3)).astype(np.float32)
DATA = X, X[:, :1] / 8
# Without a bias before the norm: its gradient would be rounding, which Adam makes steps of.
FIRST = jn.dense(4, use_bias=False)
HALF = jn.cast(jn.serial(FIRST, jn.batch_norm(), jax.nn.relu, jn.dense(1)), jnp.float16)


def started_in_float16(net=HALF, optimizer=None, **options):
    optimizer = optax.chain(optax.adam(0.01), jn.ema(0.9)) if optimizer is None else optimizer
    return started(net, DATA, optax.squared_error, optimizer, **options)


def planted(rows=(5,)):
    """Data of which some rows overflow in the backward pass, whatever the scale is."""
    x, y = DATA
    y = y.copy()
    y[list(rows)] = 1e7
    return x, y


def counts(train_state):
    """The scale, the good steps and the skipped steps of a train state."""
    scaling = train_state.opt_state
    return scaling.loss_scale, scaling.good_steps, scaling.skipped


def same(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(one, other) for one, other in leaves)


@pytest.mark.parametrize(("net", "scaled"), [
    (jn.dense(1), False),
    (jn.cast(jn.dense(1), jnp.bfloat16), False),
    (jn.cast(jn.dense(1), jnp.float16), True),
    (jn.serial(jn.repeat(jn.remat(jn.cast(jn.dense(3), jnp.float16)), 2), jn.dense(1)), True),
    (jn.compose(lambda m, x: m(jn.dense(1), x.astype(jnp.float16)), name="own"), True),
], ids=["float32", "bfloat16", "float16", "inside loops", "own layer"])  # fmt: skip
def test_the_loss_is_scaled_if_something_is_computed_in_float16(net, scaled):
    trainer, start = started_in_float16(net, optax.sgd(0.1))
    assert isinstance(start.opt_state, LossScale) == scaled
    text = jax.jit(trainer.step).lower(start, DATA).as_text()
    assert ("65536" in text or "is_finite" in text) == scaled


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "jit"])
def test_a_metric_in_float16_does_not_scale_the_loss(compiled):
    def objective(m, x, y):
        def values(z, y):
            loss = jnp.square(z - y).mean(-1)
            return loss, {"half": (z - y).astype(jnp.float16).mean(-1)}

        return (jax.jit(values) if compiled else values)(m(jn.dense(1), x), y)

    x, y = np.ones((4, 3), np.float32), np.ones((4, 1), np.float32)
    trainer = jn.trainer(jn.compose(objective), optax.sgd(0.1))
    train_state = trainer.init(jax.random.key(0), (x, y))
    assert not isinstance(train_state.opt_state, LossScale)
    _, metrics = trainer.step(train_state, (x, y))
    assert np.isfinite(metrics["half"])


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_that_overflows_changes_the_scale_alone(accumulate):
    trainer, start = started_in_float16(accumulate=accumulate)
    start = start._replace(opt_state=start.opt_state._replace(loss_scale=jnp.float32(64)))
    fine, _ = trainer.step(jax.tree.map(jnp.copy, start), DATA)
    before = jax.device_get(fine)
    after, metrics = trainer.step(fine, planted())
    assert same(before.params, after.params)
    assert same(before.state, after.state)
    assert same(before.opt_state.optimizer, after.opt_state.optimizer)
    assert not same(before.params, start.params)
    assert not same(before.state, start.state)
    assert after.step == 2
    assert np.isfinite(metrics["loss"])
    assert counts(after) == (32, -1, 1)
    assert not after.opt_state.finite.all()
    again, _ = trainer.step(after, DATA)
    assert counts(again) == (32, 1, 1)
    assert not same(again.params, before.params)


@pytest.mark.parametrize(("scale", "arrives"), [(1, False), (2.0**16, True), (None, True)])
def test_gradients_below_the_range_of_float16_arrive(scale, arrives):
    net = jn.cast(jn.serial(jn.dense(1), lambda y: y * 1e-6), jnp.float16)
    trainer, start = started_in_float16(net, optax.sgd(1.0), loss_scale=scale)
    batch = X, np.full((24, 1), 1e-3, np.float32)
    start = start._replace(params=jax.tree.map(jnp.zeros_like, start.params))
    after, _ = trainer.step(start, batch)
    wanted = 2 * 1e-3 * 1e-6 if arrives else 0
    np.testing.assert_allclose(after.params["dense"]["bias"], [wanted], rtol=0.1)


def test_the_scale_doubles_after_a_period_and_stays_in_its_range(monkeypatch):
    monkeypatch.setattr(loss_scale, "PERIOD", 3)
    trainer, state = started_in_float16(jn.cast(jn.dense(1), jnp.float16), optax.sgd(0.0))
    zeros = np.zeros_like(X), np.zeros((24, 1), np.float32)
    seen = []
    for _ in range(30):
        state, _ = trainer.step(state, zeros)
        seen.append(float(state.opt_state.loss_scale))
    assert seen[:7] == [2**16] * 2 + [2**17] * 3 + [2**18] * 2
    assert seen[-1] == 2**24
    for _ in range(26):
        state, _ = trainer.step(state, planted())
    assert counts(state) == (1, -26, 26)


def test_a_number_is_a_constant_scale_and_skips_as_well():
    exact, start = started_in_float16(jn.dense(1), optax.sgd(0.1))
    trainer, state = started_in_float16(jn.dense(1), optax.sgd(0.1), loss_scale=1024)
    wanted, _ = exact.step(start, DATA)
    state, metrics = trainer.step(state, DATA)
    close(wanted.params, state.params, 1e-6, 0)
    before = jax.device_get(state.params)
    state, _ = trainer.step(state, (X, np.full((24, 1), np.float32(3e38))))
    assert same(before, state.params)
    assert counts(state) == (1024, -1, 1)
    with pytest.raises(ValueError, match=r"trainer: loss_scale must be in \(0, inf\), got 0"):
        started_in_float16(loss_scale=0)


def epochs(trainer, start, rows=(5,), **options):
    options = {"epochs": 3, "batch_size": 6, "progress": False} | options
    return list(jn.fit(trainer, start, planted(rows), **options))


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_survives_an_overflow_in_each_epoch_and_resumes_to_the_bit(tmp_path, accumulate):
    trainer, start = started_in_float16(accumulate=accumulate)
    found = epochs(trainer, start, every=3, epochs=None, steps=12)
    end = found[-1].train_state
    assert sum(epoch.skipped for epoch in found) == end.opt_state.skipped == 3
    assert end.opt_state.loss_scale == 2**13
    assert end.step == 12
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(end.params))
    first = next(epoch for epoch in found if epoch.skipped)
    assert "  |  1 steps skipped  |  " in str(first)
    assert first.scalars()["skipped"] == 1
    with jn.Checkpoints(tmp_path) as saved:
        saved.save(found[1])
    with jn.Checkpoints(tmp_path) as saved:
        middle, position = saved.newest(start)
    assert same(middle, found[1].train_state)
    rest = epochs(trainer, middle, every=3, epochs=None, steps=12, position=position)
    assert same(rest[-1].train_state, end)


@pytest.mark.slow
def test_an_epoch_of_float32_has_no_skipped_steps():
    [epoch] = epochs(*started_in_float16(jn.dense(1)), epochs=1)
    assert epoch.skipped is None
    assert "skipped" not in epoch.scalars()


@pytest.mark.slow
def test_runs_of_a_sweep_have_scales_of_their_own():
    objective = jn.supervised(HALF, optax.squared_error)
    grid = {"learning_rate": [1e-3, 1e-2]}
    options = {"epochs": 2, "batch_size": 6, "progress": False, "seeds": 2}
    found = jn.sweep(objective, optax.adam, planted(), grid=grid, **options)
    assert found.train_state.opt_state.skipped.tolist() == [[2, 2], [2, 2]]
    trainer = jn.trainer(objective, optax.inject_hyperparams(optax.adam)(0.01))
    *_, last = epochs(trainer, trainer.init(jax.random.key(1), DATA), epochs=2)
    alone = last.train_state
    member = found.member(1, 1)
    assert counts(member) == counts(alone)
    assert alone.opt_state.loss_scale == 2**14
    assert alone.opt_state.skipped == 2
    close(member.params, alone.params, 1e-7, 2e-3)


SHARDED = """
from tests.training.test_loss_scale import counts, planted, started_in_float16
trainer, start = started_in_float16()
mesh = jax.make_mesh((2,), ("data",))
put = jn.distributed.put(start, mesh), jn.distributed.put(planted(), mesh, P("data"))
options = dict(epochs=1, batch_size=6, shuffle=False, progress=False)
(one,) = jn.fit(trainer, start, planted(), **options)
(both,) = jn.fit(trainer, *put, **options)
state = both.train_state
assert len(state.opt_state.skipped.sharding.device_set) == 2
assert counts(state) == counts(one.train_state), counts(state)
print(both.skipped)
"""


@pytest.mark.slow
def test_a_sharded_run_skips_on_all_devices(on_devices):
    assert on_devices(SHARDED, 2).split() == ["1"]


@pytest.mark.slow
def test_many_overflows_in_a_row_warn_by_path():
    net = jn.cast(jn.serial(jn.dense(2), jn.dense(1)), jnp.float16)
    trainer, start = started_in_float16(net, optax.sgd(0.1))
    told = r"the last 12 steps changed nothing.*: dense/bias, dense/kernel, .*The loss scale is 16,"
    with pytest.warns(UserWarning, match=told):
        epochs(trainer, start, range(24))
    trainer, state = started_in_float16(jn.cast(jn.dense(1), jnp.float16), optax.sgd(0.1))
    words = r"changed nothing.*: bias, kernel. .*float16 ends at 65,504"
    with pytest.warns(UserWarning, match=words):
        for _ in range(15):
            state, _ = trainer.step(state, planted(range(24)))
