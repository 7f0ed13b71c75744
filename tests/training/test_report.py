"""What a step reports beside the loss: the gradient's norm and the learning rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import draw

BOTH = ("gradient_norm", "learning_rate")
DATA = draw(8, 3, dtype=np.float32), draw(8, 1, seed=1, dtype=np.float32)
OBJECTIVE = jn.supervised(jn.dense(1), optax.squared_error)


def falling(step):
    return 0.1 / (1 + step)


def injected(rate=falling):
    return optax.inject_hyperparams(optax.sgd)(learning_rate=rate)


def norm(params):
    def loss(params):
        y, _ = jn.dense(1).apply(params, {}, DATA[0])
        return optax.squared_error(y, DATA[1]).mean()

    leaves = jax.tree.leaves(jax.grad(loss)(params))
    return np.sqrt(sum(np.square(leaf).sum() for leaf in leaves))


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"loss_scale": 64.0}], ids=str)
def test_a_step_reports_what_it_used(options):
    trainer = jn.trainer(OBJECTIVE, injected(), report=BOTH, **options)
    train_state = trainer.init(jax.random.key(0), DATA)
    for step in range(3):
        wanted = norm(train_state.params)
        train_state, metrics = trainer.step(train_state, DATA)
        assert sorted(metrics) == ["gradient_norm", "learning_rate", "loss"]
        np.testing.assert_allclose(metrics["gradient_norm"], wanted, 1e-5)
        np.testing.assert_allclose(metrics["learning_rate"], falling(step), 1e-6)


def test_an_epoch_has_the_means_over_its_steps():
    trainer = jn.trainer(OBJECTIVE, injected(), report=["learning_rate"])
    train_state = trainer.init(jax.random.key(0), DATA)
    fit = jn.fit(trainer, train_state, DATA, epochs=2, batch_size=4, progress=False)
    rates = [epoch.train["learning_rate"] for epoch in fit]
    np.testing.assert_allclose(rates, [np.mean([0.1, 0.05]), np.mean([0.1 / 3, 0.1 / 4])], 1e-6)


def test_nothing_else_changes():
    plain, reporting = (
        jn.trainer(OBJECTIVE, optax.adam(0.1), report=report) for report in ((), ["gradient_norm"])
    )
    first, _ = plain.step(plain.init(jax.random.key(0), DATA), DATA)
    second, _ = reporting.step(reporting.init(jax.random.key(0), DATA), DATA)
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)


@pytest.mark.parametrize(("optimizer", "report", "words"), [
    (optax.sgd(0.1), ["learning_rate"], "holds no learning rate; write optax.inject_hyperparams"),
    (optax.chain(injected(), injected()), ["learning_rate"], "holds 2 learning rates"),
    (injected(), ["rate"], "report may have gradient_norm and learning_rate, got 'rate'"),
])  # fmt: skip
def test_refusals(optimizer, report, words):
    with pytest.raises(ValueError, match=words):
        jn.trainer(OBJECTIVE, optimizer, report=report).init(jax.random.key(0), DATA)


def test_a_name_is_no_list():
    with pytest.raises(TypeError, match="report must be a list of names"):
        jn.trainer(OBJECTIVE, injected(), report="gradient_norm")


def test_a_metric_of_the_same_name_is_refused():
    def named(y, target):
        return jnp.abs(y - target).mean(-1)

    objective = jn.supervised(jn.dense(1), optax.squared_error, metrics={"gradient_norm": named})
    trainer = jn.trainer(objective, injected(), report=["gradient_norm"])
    with pytest.raises(ValueError, match="'gradient_norm', which is the name of a metric"):
        trainer.step(trainer.init(jax.random.key(0), DATA), DATA)
