"""Runs side by side are the runs one after another."""

import functools
import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.training.conftest import LOSS, same

GRID = {"learning_rate": [0.1]}


def data(n=23):
    rng = np.random.default_rng(5)
    return rng.normal(size=(n, 6)).astype(np.float32), rng.integers(0, 3, n)


close = functools.partial(same, rtol=2e-5, atol=2e-6)


def objective(net):
    return jn.supervised(net, LOSS, metrics={"accuracy": jn.metrics.accuracy})


@pytest.mark.long
def test_each_member_is_the_run_of_its_seed_and_setting():
    """With state, randomness in the net and in the data, and a last batch that is filled up."""
    net = jn.serial(jn.dense(5), jn.batch_norm(), jax.nn.relu, jn.dropout(0.3), jn.dense(3))
    train, test = data(23), data(7)

    def augment(key, batch):
        x, y = batch
        return x + 0.1 * jax.random.normal(key, x.shape), y

    options = dict(epochs=3, batch_size=5, evaluate=test)
    goal = jn.augmented(objective(net), augment)
    grid = {"learning_rate": [0.01, 0.1], "momentum": [0.5, 0.9]}
    found = jn.sweep(goal, optax.sgd, train, seeds=[3, 4], grid=grid, **options)
    assert found.settings[1] == {"learning_rate": 0.01, "momentum": 0.9}
    assert found.train["loss"].shape == found.evaluation["accuracy"].shape == (4, 2, 3)
    for i in (1, 2):  # as they differ in both options, an exchange would show
        trainer = jn.trainer(goal, optax.sgd(**found.settings[i]))
        for j, seed in enumerate(found.seeds):
            train_state = trainer.init(jax.random.key(seed), train)
            epochs = list(jn.fit(trainer, train_state, train, progress=False, **options))
            last = epochs[-1].train_state
            member = found.member(i, j)
            close(member.params, last.params)
            close(member.state, last.state)
            np.testing.assert_array_equal(member.key, last.key)
            assert int(member.step) == 15
            for name in ("loss", "accuracy"):
                trained = np.array([epoch.train[name] for epoch in epochs])
                close(found.train[name][i, j], trained)
                tested = np.array([epoch.evaluation[name] for epoch in epochs])
                close(found.evaluation[name][i, j], tested)


@pytest.mark.slow
def test_seeds_have_their_own_data_and_first_params():
    net = jn.dense(3)
    x, y = data(10)
    many = np.stack([x, 2 * x]), np.stack([y, 2 - y])
    params = {"kernel": jnp.ones((2, 6, 3)), "bias": jnp.array([[0.0, 1, 2], [3, 4, 5]])}
    options = {"epochs": 2, "batch_size": 4, "progress": False}
    own = {"params": params, "own_data": True, "seeds": 2}
    found = jn.sweep(objective(net), lambda: optax.adam(0.1), many, **own, **options)
    assert found.settings == [{}]
    trainer = jn.trainer(objective(net), optax.adam(0.1))
    for seed in range(2):
        mine = many[0][seed], many[1][seed]
        first = trainer.init(jax.random.key(seed), mine)
        first = first._replace(params=jax.tree.map(lambda leaf, s=seed: leaf[s], params))
        *_, last = jn.fit(trainer, first, mine, **options)
        close(found.member(0, seed).params, last.train_state.params)
    with pytest.raises(ValueError, match="data must have a leading axis of 3 seeds"):
        jn.sweep(objective(net), lambda: optax.sgd(0.1), many, seeds=3, epochs=1, own_data=True)


@pytest.mark.slow
def test_a_run_that_diverges_harms_no_other():
    net, train = jn.dense(3), data()
    grid = {"learning_rate": [0.1, 1e38]}
    found = jn.sweep(objective(net), optax.sgd, train, seeds=2, grid=grid, epochs=3)
    alone = jn.sweep(objective(net), optax.sgd, train, seeds=2, grid=GRID, epochs=3)
    close(found.train["loss"][0], alone.train["loss"][0])
    assert not np.isfinite(found.train["loss"][1, :, -1]).all()
    assert found.best() == 0


@pytest.mark.slow
def test_rows_have_means_and_intervals():
    stats = pytest.importorskip("scipy.stats")
    options = {"grid": {"learning_rate": [0.1, 0.01]}, "evaluate": data(9)}
    found = jn.sweep(objective(jn.dense(3)), optax.sgd, data(), seeds=4, epochs=2, **options)
    row = found.rows("accuracy")[1]
    last = found.evaluation["accuracy"][1, :, -1]
    interval = stats.t.interval(0.95, 3, last.mean(), stats.sem(last))
    low, high = np.clip(interval, 0, 1)  # as accuracies are
    np.testing.assert_allclose([row["low"], row["high"]], [low, high], 1e-5)
    assert row["learning_rate"] == 0.01
    assert row["seeds"] == 4
    assert row["min"] == last.min()
    assert row["max"] == last.max()
    assert row["std"] == pytest.approx(last.std(ddof=1))
    mean = found.train["loss"][0, :, -1].mean()
    assert found.rows("loss", "train")[0]["mean"] == pytest.approx(mean)
    better = found.evaluation["accuracy"][..., -1].mean(1).argmax()
    assert found.best("accuracy") == better == found.best("accuracy", mode="max")
    assert found.best("accuracy", mode="min") != better
    text = str(found)
    assert repr(found) == text
    assert text.count("\n") == 4
    assert "learning_rate" in text
    assert f"{row['mean']:.4f}" in text
    with pytest.raises(KeyError, match="'evaluation' has no metric 'f1'; it has accuracy, loss"):
        found.rows("f1")


def made_of(accuracy, name="accuracy"):
    """A sweep of one setting, from its last values by seed."""
    values = np.array(accuracy)[None, :, None]
    return jn.training.Sweep(
        settings=[{"rate": 0.1}],
        seeds=[*range(len(accuracy))],
        train_state=None,  # type: ignore
        train={"loss": 2 * values, name: values},
        evaluation=None,
        seconds=1.0,
    )


@pytest.mark.parametrize(("values", "low", "high"), [
    ([0.99, 1.0, 0.91], 0.84, 1.0),  # by hand: 0.96667 ± 4.30265 * 0.02848
    ([0.0, 0.0, 0.09], 0.0, 0.15908),  # 0.03 ± 4.30265 * 0.03
    ([0.4, 0.5, 0.6], 0.25159, 0.74841),  # 0.5 ± 4.30265 * 0.1 / 3**0.5
])  # fmt: skip
def test_the_interval_of_a_share_stays_in_0_to_1(values, low, high):
    row = made_of(values).rows("accuracy")[0]
    np.testing.assert_allclose([row["low"], row["high"]], [low, high], atol=5e-3)
    assert 0 <= row["low"] < row["high"] <= 1


def test_other_intervals_are_not_clipped():
    [loss] = made_of([0.1, 0.5, 0.1]).rows("loss")  # of 0.2, 1 and 0.2
    assert loss["low"] < 0
    [bits] = made_of([0.9, 1.0, 2.0], "bits").rows("bits")
    assert bits["low"] < 0
    [diverged] = made_of([0.9, np.nan, 1.0]).rows("accuracy")
    assert np.isnan([diverged["low"], diverged["high"]]).all()


def test_a_run_that_diverged_leaves_the_others_their_range():
    one = made_of([0.99, 1.0, 0.91])
    both = np.stack([one.train["accuracy"][0], np.full((3, 1), np.nan)])
    two = one._replace(settings=[{"rate": 0.1}, {"rate": 9.0}], train={"accuracy": both})
    fine, diverged = two.rows("accuracy")
    assert fine["high"] == 1
    assert np.isnan(diverged["high"])


def test_in_a_notebook_it_is_a_table():
    root = ElementTree.fromstring(made_of([0.4, 0.5, 0.6])._repr_html_())
    heads = [cell.text for cell in root.iter("th")]
    assert heads == ["rate", "train loss (95%)", "train accuracy (95%)"]
    assert [cell.text for cell in root.iter("td")][0::2] == ["0.1", "0.5000 (0.2516 to 0.7484)"]
    assert root.find("p").text == "3 seeds each, 1 s in all"  # type: ignore[union-attr]


@pytest.mark.slow
def test_one_setting_prints():
    assert "learning_rate" not in str(made_of([0.4, 0.5]))
    found = jn.sweep(objective(jn.dense(3)), optax.sgd, data(), seeds=2, epochs=1, grid=GRID)
    assert "learning_rate" in str(found)


@pytest.mark.parametrize(
    ("setting", "seed", "words"),
    [(1, 0, "setting from 0 to 0, got 1"), (0, 2, "seed from 0 to 1, got 2")],
    ids=["setting", "seed"],
)
def test_there_is_no_such_member(setting, seed, words):
    with pytest.raises(IndexError, match=f"member takes indices, {words}"):
        made_of([0.4, 0.5]).member(setting, seed)


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
    ({"seeds": 0}, ValueError, "at least one seed"),
    ({"grid": {"learning_rate": []}}, TypeError, "sequence of numbers"),
    ({"grid": {"learning_rate": ["fast"]}}, TypeError, "sequence of numbers"),
    ({"grid": {"rate": [0.1]}}, TypeError, "a function of the names in grid, .* sgd: .*'learn"),
    ({"grid": None}, TypeError, "a function of the names in grid"),
    ({"optimizer": optax.sgd(0.1)}, TypeError, "got GradientTransformation"),
    ({"objective": 3}, TypeError, "sweep: objective must be a layer, .*got int"),
    ({"progress": 1}, TypeError, "sweep: progress must be True or False, got 1"),
    ({"folds": 1}, ValueError, "sweep: folds must be"),
    ({"folds": 99}, ValueError, "sweep: folds must be"),
    ({"folds": 2, "own_data": True}, ValueError, "folds= cuts the data; leave out evaluate= and"),
    ({"folds": 3, "seeds": [1, 2]}, ValueError, "folds=3 needs a seed for each, got 2 seeds"),
])  # fmt: skip
def test_errors(options, error, words):
    given = {"objective": objective(jn.dense(3)), "optimizer": optax.sgd, "data": data()}
    with pytest.raises(error, match=words):
        jn.sweep(**given | {"epochs": 1, "grid": GRID} | options)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [8, 4])
def test_rows_that_continue_rows_are_not_shuffled(batch_size):
    """At rate 0, rows that keep their carries have one mean loss per pass in any order."""
    rng = np.random.default_rng(0)
    goal = jn.training.truncated_bptt(jn.lstm(3), LOSS)
    x = rng.normal(size=(8, 5, 2)).astype(np.float32)
    y = rng.integers(0, 3, (8, 5))
    rows = (x, np.zeros(8, bool)), y
    options = dict(epochs=3, batch_size=batch_size, progress=False)
    sweep = functools.partial(jn.sweep, goal, lambda: optax.sgd(0.0), rows, seeds=1, **options)
    with pytest.raises(ValueError, match="sweep: the state has an entry.*Pass shuffle=False"):
        sweep()
    with pytest.raises(ValueError, match="sweep: folds= cuts the examples at random.*evaluate="):
        sweep(shuffle=False, folds=2, seeds=2)
    trainer = jn.trainer(goal, optax.sgd(0.0))
    first = trainer.init(jax.random.key(0), jax.tree.map(lambda leaf: leaf[:batch_size], rows))
    epochs = jn.fit(trainer, first, rows, shuffle=False, **options)
    losses = np.array([epoch.train["loss"] for epoch in epochs])
    close(sweep(shuffle=False).train["loss"][0, 0], losses)


@pytest.mark.slow
def test_more_rows_are_evaluated_in_batches_as_large_as_those_of_training():
    """As by fit: a loss may compare the rows of a batch, and carries have an entry for each row."""

    def contrast(m, x):
        z = m(jn.dense(2), x)
        return jax.nn.logsumexp(z @ z.T, axis=1), {}

    goal = jn.compose(contrast)
    x, _ = data(12)
    options = dict(epochs=2, evaluate=x, shuffle=False, progress=False)
    found = jn.sweep(goal, lambda: optax.sgd(0.01), x[:4], seeds=1, **options)
    trainer = jn.trainer(goal, optax.sgd(0.01))
    epochs = jn.fit(trainer, trainer.init(jax.random.key(0), x[:4]), x[:4], **options)
    losses = np.array([epoch.evaluation["loss"] for epoch in epochs])
    close(found.evaluation["loss"][0, 0], losses)


@pytest.mark.slow
def test_each_seed_is_measured_on_its_own_fold():
    """Labels are noise: on the fold of another seed, a net that learned by heart looks right."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 8)).astype(np.float32)
    y = rng.integers(0, 2, 20)
    folds = np.arange(20).reshape(4, 5)
    rest = np.stack([np.setdiff1d(np.arange(20), fold) for fold in folds])
    objective = jn.supervised(jn.dense(2), LOSS, metrics={"accuracy": jn.metrics.accuracy})
    options = {"seeds": 4, "epochs": 3, "batch_size": 15, "progress": False}

    def make():
        return optax.sgd(0.5)

    data, held = (x[rest], y[rest]), (x[folds], y[folds])
    found = jn.sweep(objective, make, data, evaluate=held, own_data=True, **options)
    for i, fold in enumerate(folds):
        alone = {name: leaf[0, i] for name, leaf in found.train_state.params.items()}
        wanted = jn.evaluate(objective, alone, {}, (x[fold], y[fold]))
        measured = found.evaluation["accuracy"][0, i, -1]
        np.testing.assert_allclose(measured, wanted["accuracy"], rtol=1e-6)
    with pytest.raises(ValueError, match="evaluate must have a leading axis of 4 seeds"):
        jn.sweep(objective, make, data, evaluate=(x, y), own_data=True, **options)
    with pytest.raises(ValueError, match="evaluate must have the axes of data"):
        jn.sweep(objective, make, data, evaluate=(x[:4], y[:4]), own_data=True, **options)


def test_data_of_seeds_have_one_number_of_examples():
    x, y = np.ones((2, 10, 6), np.float32), np.zeros((2, 9), int)
    options = {"epochs": 1, "seeds": 2, "own_data": True}
    with pytest.raises(ValueError, match=r"data must be arrays \(seeds, examples, .*\(2, 9\)"):
        jn.sweep(objective(jn.dense(3)), lambda: optax.sgd(0.1), (x, y), **options)


def test_missing_numbers_are_counted_by_seeds():
    x, y = np.ones((3, 4, 2), np.float32), np.ones((3, 4, 1), np.float32)
    x[1, 2, 0] = np.nan
    squares = jn.supervised(jn.dense(1), optax.squared_error)
    options = {"epochs": 1, "seeds": 3, "own_data": True}
    with pytest.raises(ValueError, match=r"1 of 3 seeds contain NaN .*np.nan_to_num\(x\)"):
        jn.sweep(squares, lambda: optax.sgd(0.1), (x, y), **options)


@pytest.mark.slow
@pytest.mark.parametrize("count", [12, 14], ids=["equal folds", "two examples are left"])
def test_folds_train_on_the_others_and_give_an_output_to_each_example(count):
    """Each example is learned by heart by all runs but the one that does not see it."""
    x, y = np.eye(count, dtype=np.float32), np.arange(count) % 2
    grid = {"learning_rate": [0.5, 1.0]}
    options = {"epochs": 40, "batch_size": 4, "progress": False}
    given = jn.supervised(jn.dense(2, use_bias=False), LOSS, metrics={"a": jn.metrics.accuracy})
    found = jn.sweep(given, optax.sgd, (x, y), grid=grid, folds=4, **options)
    assert found.outputs.shape == (2, count, 2)
    assert found.evaluation["a"].shape == (2, 4, 40)
    kernels = np.asarray(found.train_state.params["kernel"])  # (settings, folds, examples, 2)
    trainer = jn.trainer(given, optax.sgd(1.0))
    first = [trainer.init(jax.random.key(i), (x, y)).params["kernel"] for i in range(4)]
    moved = np.abs(kernels - np.stack(first)).max(-1) > 0.1
    largest_fold = -(-count // 4)
    assert (moved.sum(2) == count - largest_fold).all()  # examples that a run has trained on
    for row in range(count):
        output = found.outputs[0, row]
        own = [i for i in range(4) if np.allclose(output, kernels[0, i, row])]
        assert own
        assert not moved[0, own, row].any()
    assert found.folds == 4
    assert "4 folds each" in str(found)
    row, _ = found.rows("a")
    assert row["low"] <= row["mean"] <= row["high"]


def only_kernels(params):
    return {name: leaf.ndim > 1 for name, leaf in params.items()}


def annealed(learning_rate, steps=9):
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [functools.partial(optax.adamw, weight_decay=3.0, mask=only_kernels), annealed],
    ids=["mask", "number of steps"],
)
def test_only_what_the_grid_varies_is_traced(optimizer):
    """Otherwise optax calls the mask as a schedule, and traces the number of steps."""
    net, (x, y) = objective(jn.dense(3)), data()
    options = {"epochs": 2, "progress": False}
    found = jn.sweep(net, optimizer, (x, y), seeds=1, grid=GRID, **options)
    trainer = jn.trainer(net, optimizer(learning_rate=0.1))
    *_, epoch = jn.fit(trainer, trainer.init(jax.random.key(0), (x, y)), (x, y), **options)
    close(found.member(0, 0).params, epoch.train_state.params)


@pytest.mark.slow
def test_a_metric_of_nothing_is_zero_as_in_fit():
    x, y = data()
    rare = jn.losses.weighted(jn.metrics.accuracy, ignore_label=0)
    of = jn.supervised(jn.dense(3), LOSS, metrics={"rare": rare})
    held = x[y == 0], y[y == 0]
    options = {"epochs": 1, "seeds": 1, "grid": GRID, "progress": False}
    found = jn.sweep(of, optax.sgd, (x, y), evaluate=held, **options)
    assert found.evaluation["rare"].ravel().tolist() == [0.0]


@pytest.mark.slow
def test_a_member_trains_further_as_a_run_of_its_own():
    net, (x, y) = objective(jn.dense(3)), data()
    options = {"seeds": [0, 4], "progress": False}
    found = jn.sweep(net, optax.adam, (x, y), epochs=2, grid={"learning_rate": [0.01]}, **options)
    trainer = jn.trainer(net, optax.adam(0.01))
    start = trainer.init(jax.random.key(4), (x, y))
    *_, whole = jn.fit(trainer, start, (x, y), epochs=3, progress=False)
    (more,) = jn.fit(trainer, found.member(0, 1), (x, y), epochs=1, progress=False)
    close(more.train_state.params, whole.train_state.params)


@pytest.mark.slow
def test_an_optimizer_may_take_any_names():
    net = objective(jn.dense(3))
    options = {"epochs": 1, "seeds": 1, "grid": GRID, "progress": False}
    free = jn.sweep(net, lambda **values: optax.adam(**values), data(), **options)
    own = jn.sweep(net, optax.adam, data(), **options)
    close(free.train_state.params, own.train_state.params)


@pytest.mark.slow
def test_the_best_of_what_is_no_loss_needs_its_direction():
    def error(outputs, labels):
        return 1 - jn.metrics.accuracy(outputs, labels)

    task = jn.supervised(jn.dense(3), LOSS, metrics={"error": error})
    found = jn.sweep(task, optax.sgd, data(), seeds=1, epochs=3, grid={"learning_rate": [0, 0.3]})
    first, second = found.rows("error")
    assert first["mean"] < second["mean"]
    assert found.best("error", mode="min") == 0
    assert found.best("error", mode="max") == 1
    with pytest.raises(ValueError, match="Sweep.best: is the highest 'error' the best"):
        found.best("error")


def test_metrics_of_a_run_that_diverged_are_nan():
    """An accuracy of outputs of NaN would be 0, and its setting would look bad, not broken."""
    train, test = data(), data(7)
    grid = {"learning_rate": [0.1, 1e30]}
    options = dict(epochs=3, batch_size=5, seeds=2, grid=grid, progress=False)
    net = jn.serial(jn.dense(5), jnp.square, jn.dense(3))
    found = jn.sweep(objective(net), optax.sgd, train, evaluate=test, **options)
    for part in (found.train, found.evaluation):
        assert np.isfinite(part["accuracy"][0]).all()
        assert np.isnan(part["accuracy"][1, :, -1]).all() and np.isnan(part["loss"][1, :, -1]).all()
    assert found.best("accuracy") == 0
