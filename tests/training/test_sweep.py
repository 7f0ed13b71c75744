"""Runs side by side are the runs one after another."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn

LOSS = optax.softmax_cross_entropy_with_integer_labels


def data(n=23):
    rng = np.random.default_rng(5)
    return rng.normal(size=(n, 6)).astype(np.float32), rng.integers(0, 3, n)


def objective(net):
    return jn.supervised(net, LOSS, metrics={"accuracy": jn.metrics.accuracy})


def close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 2e-5, 2e-6), a, b)


def test_each_member_is_the_run_of_its_seed_and_setting():
    """With state, randomness in the net and in the data, and a last batch that is filled up."""
    net = jn.serial(jn.dense(5), jn.batch_norm(), jax.nn.relu, jn.dropout(0.3), jn.dense(3))
    train, test = data(23), data(7)

    def augment(key, batch):
        return batch[0] + 0.1 * jax.random.normal(key, batch[0].shape), batch[1]

    options = dict(epochs=3, batch_size=5, evaluate=test)
    goal = jn.augmented(objective(net), augment)
    grid = {"learning_rate": [0.01, 0.1], "momentum": [0.5, 0.9]}
    found = jn.sweep(goal, optax.sgd, train, seeds=[3, 4], grid=grid, **options)
    assert found.settings[1] == {"learning_rate": 0.01, "momentum": 0.9}
    assert found.train["loss"].shape == found.test["accuracy"].shape == (4, 2, 3)
    for i in (1, 2):  # as they differ in both options, an exchange would show
        trainer = jn.trainer(goal, optax.sgd(**found.settings[i]))
        for j, seed in enumerate(found.seeds):
            train_state = trainer.init(jax.random.key(seed), train)
            epochs = list(jn.fit(trainer, train_state, train, progress=False, **options))
            member = found.member(i, j)
            close(member.params, epochs[-1].train_state.params)
            close(member.state, epochs[-1].train_state.state)
            np.testing.assert_array_equal(member.key, epochs[-1].train_state.key)
            assert int(member.step) == 15
            for name in ("loss", "accuracy"):
                close(found.train[name][i, j], np.array([e.train[name] for e in epochs]))
                close(found.test[name][i, j], np.array([e.test[name] for e in epochs]))


def test_seeds_have_their_own_data_and_first_params():
    net = jn.dense(3)
    x, y = data(10)
    many = np.stack([x, 2 * x]), np.stack([y, 2 - y])
    params = {"kernel": jnp.ones((2, 6, 3)), "bias": jnp.array([[0.0, 1, 2], [3, 4, 5]])}
    found = jn.sweep(objective(net), lambda: optax.adam(0.1), many,
        seeds=2, epochs=2, batch_size=4, params=params, own_data=True,
    )  # fmt: skip
    assert found.settings == [{}]
    trainer = jn.trainer(objective(net), optax.adam(0.1))
    for seed in range(2):
        mine = many[0][seed], many[1][seed]
        first = trainer.init(jax.random.key(seed), mine)
        first = first._replace(params=jax.tree.map(lambda leaf, s=seed: leaf[s], params))
        *_, last = jn.fit(trainer, first, mine, epochs=2, batch_size=4, progress=False)
        close(found.member(0, seed).params, last.train_state.params)
    with pytest.raises(ValueError, match="data must have a leading axis of 3 seeds"):
        jn.sweep(objective(net), lambda: optax.sgd(0.1), many, seeds=3, epochs=1,
                 own_data=True)  # fmt: skip


def test_a_run_that_diverges_harms_no_other():
    net, train = jn.dense(3), data()
    grid = {"learning_rate": [0.1, 1e38]}
    found = jn.sweep(objective(net), optax.sgd, train, seeds=2, grid=grid, epochs=3)
    alone = jn.sweep(objective(net), optax.sgd, train, seeds=2,
                     grid={"learning_rate": [0.1]}, epochs=3)  # fmt: skip
    close(found.train["loss"][0], alone.train["loss"][0])
    assert not np.isfinite(found.train["loss"][1, :, -1]).all()
    assert found.best() == 0


def test_rows_have_means_and_intervals():
    stats = pytest.importorskip("scipy.stats")
    net, train = jn.dense(3), data()
    found = jn.sweep(objective(net), optax.sgd, train, seeds=4, epochs=2,
                     grid={"learning_rate": [0.1, 0.01]}, evaluate=data(9))  # fmt: skip
    row, last = found.rows("accuracy")[1], found.test["accuracy"][1, :, -1]
    low, high = stats.t.interval(0.95, 3, last.mean(), stats.sem(last))
    np.testing.assert_allclose([row["low"], row["high"]], [low, high], 1e-5)
    assert row["learning_rate"] == 0.01 and row["seeds"] == 4
    assert row["min"] == last.min() and row["max"] == last.max()
    assert row["std"] == pytest.approx(last.std(ddof=1))
    assert found.rows("loss", "train")[0]["mean"] == pytest.approx(
        found.train["loss"][0, :, -1].mean()
    )
    better = found.test["accuracy"][..., -1].mean(1).argmax()
    assert found.best("accuracy") == better
    text = str(found)
    assert repr(found) == text
    assert text.count("\n") == 4 and "learning_rate" in text and f"{row['mean']:.4f}" in text
    with pytest.raises(KeyError, match="no 'f1' of 'test'"):
        found.rows("f1")


def test_one_setting_prints():
    found = jn.sweep(objective(jn.dense(3)), optax.sgd, data(), seeds=2, epochs=1,
                     grid={"learning_rate": [0.1]})  # fmt: skip
    assert "learning_rate" in str(found)


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"seeds": 0}, ValueError, "at least one seed"),
        ({"grid": {"learning_rate": []}}, TypeError, "sequence of numbers"),
        ({"grid": {"learning_rate": ["fast"]}}, TypeError, "sequence of numbers"),
        ({"grid": {"rate": [0.1]}}, TypeError, "rate"),
    ],
)
def test_errors(options, error, words):
    net = jn.dense(3)
    with pytest.raises(error, match=words):
        jn.sweep(objective(net), optax.sgd, data(), **({"epochs": 1} | options))
