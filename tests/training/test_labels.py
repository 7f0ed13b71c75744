"""Labels of no class: refused where the loss takes them for a class, kept where it does not."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet import losses

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
GOOD = np.array([0, 1, 2, 0, 1, 2])
optaxs = optax.softmax_cross_entropy_with_integer_labels


def bad(label, dtype=np.int64):
    return np.array([0, 1, 2, 0, label, 2], dtype)


def fit(y, loss=optaxs, net=None, x=X, stream=False):
    trainer = jn.trainer(jn.supervised(net or jn.dense(3), loss), optax.sgd(0.1))
    data = [(x, y)] if stream else (x, y)
    train_state = trainer.init(KEY, (x, np.zeros_like(y)))
    iterable = type("Batches", (), {"__iter__": lambda self: iter(data)})() if stream else data
    return list(jn.fit(trainer, train_state, iterable, epochs=1, batch_size=4, progress=False))


def evaluate(y, loss=optaxs, net=None, x=X, stream=False):
    objective = jn.supervised(net or jn.dense(3), loss)
    return jn.evaluate(objective, *objective.init(KEY, (x, y)), (x, y))


@pytest.mark.parametrize("run", [fit, evaluate])
@pytest.mark.parametrize("label", [-1, 3, -2147483648])
@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: lambda o, y: f(o, y)], ids=["", "own"])
def test_a_label_of_no_class(run, label, wrap):
    who = run.__name__
    with pytest.raises(ValueError, match=rf"{who}: labels must be in \[0, 3\) .* got {label}"):
        run(bad(label), wrap(optaxs))


def test_in_a_batch_of_a_stream():
    fit(GOOD, stream=True)
    with pytest.raises(ValueError, match="got -1"):
        fit(bad(-1), stream=True)


@pytest.mark.parametrize("run", [fit, evaluate])
def test_a_label_that_the_loss_leaves_out(run):
    def ignoring(outputs, labels):
        return jnp.where(labels < 0, 0, optaxs(outputs, jnp.maximum(labels, 0)))

    run(bad(-1), ignoring)
    maps = np.ones((6, 2, 2, 1), np.float32)
    y = np.tile(bad(3)[:, None, None], (1, 2, 2))
    run(y, losses.ignore_label(optaxs, 3), jn.conv(3, 1), maps)


def test_integers_that_are_no_labels():
    fit(bad(99)[:, None].repeat(3, 1), lambda o, y: (o - y) ** 2)  # a regression
    fit(bad(99), lambda o, y: (o[:, 0] - y) ** 2, jn.dense(1))
    fit(bad(99), lambda o, y: (o.mean(-1) - y) ** 2)
    fit(bad(-1), lambda o, y: o[:, 0] ** 2)  # looks at no label


@pytest.mark.parametrize("run", [fit, evaluate])
def test_labels_that_would_wrap(run):
    with pytest.raises(ValueError, match=f"{run.__name__}: .* int32 cannot hold"):
        run(GOOD + 2**32)


def test_another_byte_order_is_turned():
    objective = jn.supervised(jn.dense(3), optaxs)
    params, state = objective.init(KEY, (X, GOOD))
    expected = jn.evaluate(objective, params, state, (X, GOOD))
    other = X.astype(">f4"), GOOD.astype(">i8")
    assert jn.evaluate(objective, params, state, other) == expected
    trainer = jn.trainer(objective, optax.sgd(0.1))
    losses_found = {
        float(trainer.step(trainer.init(KEY, (X, GOOD)), batch)[1]["loss"])
        for batch in ((X, GOOD), other)
    }
    assert len(losses_found) == 1


def test_labels_that_augmentation_makes():
    """The data need not have the form of the batches that the loss gets."""

    def two(key, batch):
        return batch[0], jnp.stack([batch[1], batch[1] % 2], 1)

    objective = jn.augmented(jn.supervised(jn.dense(2), lambda o, y: jnp.square(o - y)), two)
    trainer = jn.trainer(objective, optax.sgd(0.1))
    train_state = trainer.init(KEY, (X, np.ones((6, 2), int)))
    list(jn.fit(trainer, train_state, (X, bad(-1)), epochs=1, batch_size=4, progress=False))


def test_labels_that_augmentation_crops():
    """A label of no class is found and tried in the shape that the loss gets."""
    crop = lambda key, batch: (batch[0][:, :2], batch[1][:, :2])  # noqa: E731
    x, y = np.ones((6, 4, 4, 1), np.float32), np.tile(bad(3)[:, None, None], (1, 4, 4))
    for loss, fails in ((losses.ignore_label(optaxs, 3), False), (optaxs, True)):
        objective = jn.augmented(jn.supervised(jn.conv(3, 1), loss), crop)
        trainer = jn.trainer(objective, optax.sgd(0.1))
        start = trainer.init(KEY, (x, y))
        refused = pytest.raises(ValueError, match="got 3") if fails else contextlib.nullcontext()
        with refused:
            list(jn.fit(trainer, start, (x, y), epochs=1, progress=False))
