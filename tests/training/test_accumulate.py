"""A batch in parts: the gradient, the loss and the metrics of the undivided batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.training.accumulate import in_parts
from tests.helpers import close

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 5)).astype(np.float32)
LABELS = RNG.integers(0, 3, 12)
FEW = np.where(np.arange(12) % 4 == 1, LABELS, -1)  # part 1 of 4 has all labels, the others none
NET = jn.serial(jn.dense(7), jnp.tanh, jn.dense(3))
CROSS = optax.softmax_cross_entropy_with_integer_labels


def weighted(outputs, labels):
    """A pair (totals, weights)."""
    weights = 0.3 + labels  # differs by example
    return CROSS(outputs, labels) * weights, weights


LOSSES = {
    "per example": CROSS,
    "pair": weighted,
    "mean": lambda outputs, labels: CROSS(outputs, labels).mean(),
    "ignored": jn.losses.weighted(jn.losses.cross_entropy, ignore_label=-1),
}


def updated(n, loss, batch=(X, LABELS), mask=None, net=NET, penalty=None, fit=False):
    metrics = {"accuracy": jn.losses.weighted(jn.metrics.accuracy, ignore_label=-1)}
    objective = jn.supervised(net, loss, metrics=metrics, penalty=penalty)
    trainer = jn.trainer(objective, optax.sgd(1.0), accumulate=n)
    state = trainer.init(jax.random.key(0), batch)
    if fit:
        *_, epoch = jn.fit(trainer, state, batch, epochs=2, batch_size=fit, progress=False)
        return epoch.train_state, epoch.train
    return trainer.step(state, batch)


def check_parts(n, loss, batch, **options):
    """The train_state and the metrics of n parts, which are those of the undivided batch."""
    train_state, metrics = updated(n, loss, batch, **options)
    whole, expected = updated(1, loss, batch, **options)
    close(metrics, expected, 2e-6)
    close(train_state.params, whole.params, 2e-6)
    return train_state, metrics


@pytest.mark.slow
@pytest.mark.parametrize("loss, n", [*[(loss, 4) for loss in LOSSES], ("mean", 2), ("pair", 12)])
def test_one_update_is_that_of_the_whole_batch(loss, n):
    def penalty(params):
        return 0.1 * jnp.square(params["dense"]["kernel"]).sum()

    labels = FEW if loss == "ignored" else LABELS
    train_state, _ = check_parts(n, LOSSES[loss], (X, labels), penalty=penalty)
    assert int(train_state.step) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "labels"),
    [("per example", LABELS), ("ignored", FEW), ("ignored", np.full(12, -1))],
    ids=["all count", "some count", "none counts"],
)
def test_rows_that_do_not_divide_are_padded(loss, labels):
    check_parts(4, LOSSES[loss], (X[:10], labels[:10]))


def test_a_value_per_batch_cannot_be_padded():
    with pytest.raises(ValueError, match="loss is one value per batch"):
        updated(5, LOSSES["mean"])


def test_a_metric_of_a_whole_batch_is_not_averaged_over_parts():
    def share(outputs, labels):
        return (outputs.argmax(-1) == labels).mean()

    objective = jn.supervised(NET, CROSS, metrics={"f1": share})
    trainer = jn.trainer(objective, optax.sgd(1.0), accumulate=4)
    train_state = trainer.init(jax.random.key(0), (X, LABELS))
    with pytest.raises(ValueError, match=r"step: metrics\['f1'\] is one number per batch"):
        trainer.step(train_state, (X, LABELS))


@pytest.mark.slow
def test_fit_pads_its_last_batch():
    """12 examples in batches of 8, of which the last has 4; three parts pad each of them too."""
    train_state, metrics = updated(3, CROSS, fit=8)
    whole, expected = updated(1, CROSS, fit=8)
    close(metrics["accuracy"], expected["accuracy"], 2e-6)
    close(train_state.params, whole.params, 1e-5)
    assert int(train_state.step) == 4


@pytest.mark.slow
def test_each_part_draws_its_own_numbers_and_keeps_the_state():
    net = jn.serial(jn.dropout(0.5), jn.batch_norm(), jn.dense(3))
    train_state, _ = updated(3, CROSS, (np.ones((12, 40), np.float32), LABELS), net=net)
    mean = train_state.state["batch_norm"]["mean"]
    # Three parts of 4 rows: the average moves three times, by means of what dropout kept.
    assert 0.1 < mean.mean() < 0.45
    assert len(np.unique(np.round(mean, 4))) > 8


@pytest.mark.slow
def test_weights_that_depend_on_the_params_are_refused():
    def loss(outputs, labels):
        weights = jax.nn.sigmoid(outputs[:, 0])
        return CROSS(outputs, labels) * weights, weights

    words = r"weights do not depend on the params. Write jax.lax.stop"
    with pytest.raises(ValueError, match=words):
        updated(2, loss)

    def as_the_message_says(outputs, labels):
        totals, weights = loss(outputs, labels)
        return totals, jax.lax.stop_gradient(weights)

    updated(2, as_the_message_says)


@pytest.mark.slow
def test_the_memory_of_a_step_is_that_of_a_part():
    net = jn.serial(jn.dense(64), jnp.tanh, jn.dense(64), jnp.tanh, jn.dense(3))
    objective = jn.supervised(net, CROSS)
    batch = jn.spec((4096, 16)), jn.spec((4096,), int)

    def temporary(n):
        trainer = jn.trainer(objective, optax.sgd(1.0), accumulate=n)
        state = jax.eval_shape(trainer.init, jax.random.key(0), batch)
        program = jax.jit(trainer.step).lower(state, batch).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporary(8) < 0.4 * temporary(1)


def test_16_bit_gradients_are_summed_in_float32():
    objective = jn.supervised(jn.dense(1, use_bias=False), lambda y, t: y[:, 0])
    trainer = jn.trainer(objective, optax.sgd(1.0), accumulate=512)
    batch = np.ones((512, 1), jnp.bfloat16), np.zeros(512, np.float32)
    params = {"kernel": jnp.zeros((1, 1), jnp.bfloat16)}
    train_state = trainer.init(jax.random.key(0), batch)._replace(params=params)
    after, _ = trainer.step(train_state, batch)
    assert float(after.params["kernel"][0, 0]) == -1


def test_parts_take_every_nth_row():
    batch, mask = in_parts({"x": jnp.arange(8)}, None, 4)
    assert mask is None
    assert batch["x"].tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.mark.slow
def test_carries_of_rows_are_not_cut():
    windows = jn.data.windows(np.arange(81) % 7, 4, 5)
    each = jn.layers.time_distributed
    net = jn.serial(each(jn.embedding(7, 3)), jn.gru(4), each(jn.dense(7)))
    objective = jn.training.truncated_bptt(net, jn.losses.masked())
    data = (windows.x, windows.start), (windows.y, windows.counts)
    trainer = jn.trainer(objective, optax.sgd(0.1), accumulate=2)
    part = jax.tree.map(lambda leaf: leaf[:2], data)
    whole = jax.tree.map(lambda leaf: leaf[:4], data)
    train_state = trainer.init(jax.random.key(0), part)
    with pytest.raises(ValueError, match="accumulate=2 cuts batches by rows"):
        trainer.step(train_state, whole)
