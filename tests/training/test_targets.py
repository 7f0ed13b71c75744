"""Targets that a loss would misread are found before training, wherever the loss is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet import losses
from tests.training.conftest import KEY, LOSS, Batches, started

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
GOOD = np.array([0, 1, 2, 0, 1, 2])


def bad(label, dtype=np.int64):
    return np.array([0, 1, 2, 0, label, 2], dtype)


def trained(objective, data, **options):
    trainer = jn.trainer(objective, optax.sgd(0.1))
    first = next(iter(data)) if isinstance(data, Batches) else data
    options = {"epochs": 1, "batch_size": 4, "progress": False} | options
    return list(jn.fit(trainer, trainer.init(KEY, first), data, **options))


def fit(y, loss=LOSS, net=None, x=X):
    return trained(jn.supervised(net or jn.dense(3), loss), (x, y))


def fit_stream(y, loss=LOSS, net=None, x=X):
    return trained(jn.supervised(net or jn.dense(3), loss), Batches((x, y)))


def evaluate(y, loss=LOSS, net=None, x=X):
    objective = jn.supervised(net or jn.dense(3), loss)
    return jn.evaluate(objective, *objective.init(KEY, (x, y)), (x, y))


def sweep(y, loss=LOSS, net=None, x=X):
    objective = jn.supervised(net or jn.dense(3), loss)
    return jn.sweep(objective, lambda: optax.sgd(0.1), (x, y), epochs=1, seeds=2, progress=False)


@pytest.mark.parametrize(
    ("run", "label"),
    [
        (fit, -1),
        (fit, 3),
        (fit, -2147483648),
        (fit_stream, -2147483648),
        (evaluate, -1),
        (sweep, -1),
    ],
)
def test_a_label_that_is_not_a_class(run, label):
    who = run.__name__.partition("_")[0]
    words = rf"labels in \[0, 3\) for 3 outputs, got {label}"
    with pytest.raises(ValueError, match=words) as error:
        run(bad(label))
    notes = error.value.__notes__
    assert any(note.startswith(f"{who} looked at the data first") for note in notes)


SOFTMAX = functools.partial(optax.softmax_cross_entropy)


@pytest.mark.parametrize(
    ("run", "loss", "targets", "words"),
    [
        (fit, losses.sigmoid_cross_entropy, 255, r"in \[0, 1\], got 255.* x / 255"),
        (fit_stream, losses.sigmoid_cross_entropy, -1, r"in \[0, 1\], got -1"),
        (sweep, optax.sigmoid_binary_cross_entropy, 3, r"in \[0, 1\], got 3"),
        (evaluate, optax.softmax_cross_entropy, 1, "sum to 1, got 3.*sigmoid_binary_cross"),
        (fit, SOFTMAX, 0.2, "sum to 1, got 0.6"),
        (evaluate, optax.hinge_loss, 0, r"must be -1 or 1, got 0.*2 \* targets - 1"),
    ],
)
def test_targets_of_the_wrong_range(run, loss, targets, words):
    """Seen to train down to negative losses without a word."""
    with pytest.raises(ValueError, match=words):
        run(np.full((6, 3), targets, np.float32), loss)


@pytest.mark.fast_cases("squared_error-y3", "hinge_loss-y2")
@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (losses.sigmoid_cross_entropy, np.full((6, 3), 0.25, np.float32)),
        (optax.softmax_cross_entropy, np.full((6, 3), 1 / 3, np.float16)),
        (optax.hinge_loss, np.ones((6, 3), np.float32)),
        (optax.squared_error, np.full((6, 3), 255, np.float32)),
    ],
)
def test_targets_in_range(loss, y):
    trained(jn.supervised(jn.dense(3), loss), (X, y))


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.eye(3)[GOOD], "must be integer labels .6,.* targets.argmax"),
        (np.eye(3, dtype=int)[GOOD], "must be integer labels .6,.* targets.argmax"),
        (GOOD.astype(np.float32), "must be integer labels .*astype.int"),
    ],
    ids=["one-hot floats", "one-hot integers", "floats"],
)
def test_labels_of_another_form_get_a_hint(y, words):
    with pytest.raises(TypeError, match=words):
        evaluate(y)


@pytest.mark.slow
def test_a_later_batch_of_a_stream():
    objective = jn.supervised(jn.dense(3), LOSS)
    assert len(trained(objective, Batches((X, GOOD), (X, GOOD)), epochs=2)) == 2
    first = jn.supervised(jn.dense(3), lambda o, pair: losses.cross_entropy(o, pair[0]))
    good = X, (GOOD, GOOD)
    with pytest.raises(ValueError, match="got -1"):
        trained(first, Batches(good, good, (X, (bad(-1), GOOD))))
    params, state = objective.init(KEY, (X, GOOD))
    with pytest.raises(ValueError, match="got 77"):
        jn.evaluate(objective, params, state, Batches((X, GOOD), (X, GOOD + 77)))


@pytest.mark.slow
def test_in_pairs_dicts_and_objectives_of_the_user():
    """The loss raises wherever it is, since its targets are known."""
    sequence = np.ones((6, 2, 4), np.float32)
    labels = np.tile(bad(-1)[:, None], (1, 2))
    mask = np.ones((6, 2), bool)
    net = jn.layers.time_distributed(jn.dense(3))
    for loss in (losses.masked(), losses.masked(LOSS)):
        with pytest.raises(ValueError, match="got -1"):
            trained(jn.supervised(net, loss), (sequence, (labels, mask)))
        trained(jn.supervised(net, loss), (sequence, (labels, labels >= 0)))  # at masked positions

    def forward(m, batch):
        return losses.cross_entropy(m(jn.dense(3), batch["x"]), batch["label"]), {}

    own = jn.compose(forward, name="own")
    with pytest.raises(ValueError, match="got -1"):
        trained(own, {"x": X, "label": bad(-1)})
    trained(own, {"x": X, "label": GOOD})


@pytest.mark.slow
@pytest.mark.parametrize("run", [fit, fit_stream, evaluate, sweep])
def test_a_label_that_the_loss_leaves_out(run):
    maps = np.ones((6, 2, 2, 1), np.float32)
    y = np.tile(bad(3)[:, None, None], (1, 2, 2))
    run(y, losses.ignore_label(LOSS, label=3), jn.conv(3, 1), maps)
    run(bad(-100), losses.weighted(ignore_label=-100))


@pytest.mark.slow
def test_a_label_that_a_function_of_the_user_may_misread():
    def clipped():  # a new function, which was not warned of before
        return lambda outputs, labels: LOSS(outputs, jnp.maximum(labels, 0))

    with pytest.warns(UserWarning, match="targets hold -1, .* of 3 outputs.*weighted"):
        fit(bad(-1), clipped())
    with pytest.raises(UserWarning, match="targets hold -1"):  # where warnings are errors
        fit(bad(-1), clipped())


@pytest.mark.slow
def test_integers_that_are_not_labels():
    fit(bad(99)[:, None].repeat(3, 1), lambda o, y: (o - y) ** 2)  # a regression
    fit(bad(99), lambda o, y: (o[:, 0] - y) ** 2, jn.dense(1))


@pytest.mark.parametrize("run", [fit, evaluate])
def test_labels_that_would_wrap(run):
    with pytest.raises(ValueError, match=f"{run.__name__}: .* int32 cannot hold"):
        run(GOOD + 2**32)


def test_another_byte_order_is_turned():
    objective = jn.supervised(jn.dense(3), LOSS)
    params, state = objective.init(KEY, (X, GOOD))
    expected = jn.evaluate(objective, params, state, (X, GOOD))
    other = X.astype(">f4"), GOOD.astype(">i8")
    assert jn.evaluate(objective, params, state, other) == expected
    trainer = jn.trainer(objective, optax.sgd(0.1))
    _, metrics = trainer.step(trainer.init(KEY, (X, GOOD)), (X, GOOD))
    _, turned = trainer.step(trainer.init(KEY, (X, GOOD)), other)
    assert turned["loss"] == metrics["loss"]


@pytest.mark.slow
def test_labels_that_augmentation_makes():
    """The data need not have the form of the batches that the loss gets."""

    def two(key, batch):
        x, y = batch
        return x, jnp.stack([y, y % 2], 1)

    objective = jn.augmented(jn.supervised(jn.dense(2), lambda o, y: jnp.square(o - y)), two)
    trainer = jn.trainer(objective, optax.sgd(0.1))
    train_state = trainer.init(KEY, (X, np.ones((6, 2), int)))
    list(jn.fit(trainer, train_state, (X, bad(-1)), epochs=1, batch_size=4, progress=False))


def test_labels_beside_augmented_inputs():
    """Targets that augmentation passes on are checked; what it makes of them has no values yet."""
    doubled = jn.data.on_inputs(lambda key, x: 2 * x)
    objective = jn.augmented(jn.supervised(jn.dense(3), LOSS), doubled)
    with pytest.raises(ValueError, match="got -1"):
        trained(objective, (X, bad(-1)))

    def signs(key, batch):
        x, y = batch
        return x, 2 * y - 1

    objective = jn.augmented(jn.supervised(jn.dense(3), optax.hinge_loss), signs)
    trained(objective, (X, np.eye(3, dtype=np.float32)[GOOD]))


@pytest.fixture
def text():
    """Two streams in order, (x, start) and labels; and the objective."""
    net = jn.serial(jn.gru(4), jn.layers.time_distributed(jn.dense(3)))
    x = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    data = (x, np.zeros(6, bool)), np.tile(GOOD[:, None], (1, 5))
    return jn.training.truncated_bptt(net, LOSS), data


def first_two(data):
    return jax.tree.map(lambda a: a[:2], data)


def test_rows_that_continue_each_other_are_not_shuffled(text):
    objective, data = text
    train_state = jn.trainer(objective, optax.sgd(0.1)).init(KEY, first_two(data))
    for wrapped in (objective, jn.augmented(objective, lambda key, batch: batch)):
        trainer = jn.trainer(wrapped, optax.sgd(0.1))
        with pytest.raises(ValueError, match="fit: .* each row of a batch.*shuffle=False"):
            jn.fit(trainer, train_state, data, epochs=1, batch_size=2)
        with pytest.raises(ValueError, match="fit: .* each row of a batch.*shuffle=False"):
            jn.fit(trainer, train_state, first_two(data), epochs=1)  # batches of two, not of 64


@pytest.mark.slow
def test_rows_that_continue_each_other_have_integer_labels(text):
    """Was refused: the labels were looked at with one row, and the carry has two."""
    objective, (inputs, labels) = text
    trainer = jn.trainer(objective, optax.sgd(0.1))
    options = {"epochs": 1, "batch_size": 2, "shuffle": False, "progress": False}
    train_state = trainer.init(KEY, first_two((inputs, labels)))
    [epoch] = jn.fit(trainer, train_state, (inputs, labels), **options)
    assert len(epoch.losses) == 3
    assert np.isfinite(epoch.losses).all()
    with pytest.raises(ValueError, match="got -1"):
        jn.fit(trainer, train_state, (inputs, labels - 1), **options)


def test_the_first_batch_of_a_loop_of_your_own():
    trainer, train_state = started(jn.dense(3), (X, GOOD))
    with pytest.raises(ValueError, match="got -1") as error:
        trainer.step(train_state, (X, bad(-1)))
    assert "step looked at the data first" in error.value.__notes__[-1]
    trainer.step(train_state, (X, GOOD))  # nothing was used up


def test_targets_to_evaluate_are_checked_before_an_epoch_is_trained():
    trainer, train_state = started(jn.dense(3), (X, GOOD))
    with pytest.raises(ValueError, match="got -1") as error:
        jn.fit(trainer, train_state, (X, GOOD), epochs=1, evaluate=(X, bad(-1)), progress=False)
    assert "fit: evaluate looked at the data first" in error.value.__notes__[-1]


def test_a_stream_may_have_an_empty_array_of_integers():
    def loss(outputs, targets):
        labels, _ = targets
        return LOSS(outputs, labels)

    batch = X, (GOOD, np.zeros((6, 0), np.int32))
    params, state = jn.dense(3).init(KEY, X)
    objective = jn.supervised(jn.dense(3), loss)
    whole = jn.evaluate(objective, params, state, batch)
    objective = jn.supervised(jn.dense(3), loss)
    assert jn.evaluate(objective, params, state, Batches(batch)) == whole


@pytest.mark.filterwarnings("default")
def test_bytes_for_a_net_of_floats_up_to_1(recwarn):
    net = jn.dense(3)
    pixels = np.full((6, 4), 255, np.uint8)
    params, state = net.init(KEY, X)
    jn.predict(net, params, state, pixels / np.float32(255))
    jn.predict(jn.dense(3), params, state, pixels)
    jn.predict(net, params, state, pixels // 255)  # a mask
    signed = jn.dense(3)
    jn.predict(signed, params, state, pixels / np.float32(-255))
    jn.predict(signed, params, state, pixels)
    assert not recwarn
    jn.predict(net, params, state, pixels)
    evaluate(GOOD, net=net, x=pixels)
    for who, warned in zip(("predict", "evaluate"), recwarn, strict=True):
        assert f"{who}: x is uint8, but dense saw floats" in str(warned.message)


FLOATS = np.random.default_rng(4).normal(size=(16, 4)).astype(np.float32)
IDS = np.random.default_rng(3).integers(0, 10, (16, 5))
OF_IDS = jn.serial(jn.embedding(10, 4), jn.last_step(), jn.dense(3))


def by_rows(m, x):
    table = m.kernel("table", jn.initializers.normal(1.0), (10, 4))
    return m(jn.dense(3), jn.rows(table, x).mean(1))


def beside_floats(m, x, ids):
    return m(jn.dense(3), x) + m(OF_IDS, ids)


NETS_OF_IDS = {
    "embedding": (OF_IDS, lambda ids: ids),
    "rows": (jn.compose(by_rows), lambda ids: ids),
    "a dict": (jn.compose(beside_floats), lambda ids: {"x": FLOATS, "ids": ids}),
    "a tuple": (jn.compose(beside_floats), lambda ids: (FLOATS, ids)),
}


@pytest.mark.parametrize("run", [fit, fit_stream, evaluate, sweep])
@pytest.mark.parametrize("name", NETS_OF_IDS)
@pytest.mark.parametrize("wrong", [10, -1])
def test_an_id_beyond_its_table(run, name, wrong):
    net, inputs_of = NETS_OF_IDS[name]
    ids = IDS.copy()
    ids[11, 3] = wrong
    y = np.arange(16) % 3
    with pytest.raises(ValueError, match=rf"\[0, 10\), got {wrong}") as error:
        run(y, net=net, x=inputs_of(ids))
    assert any("looked at the data first" in note for note in error.value.__notes__)
    run(y, net=net, x=inputs_of(IDS))
