"""Objectives: means that leave padding out, broadcasts that raise, rules without a loss."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.training.objective import averaged, per_example
from tests.helpers import close, jit_apply
from tests.training.conftest import KEY, same, started

CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels

PARAMS = {"kernel": jnp.array([[2.0], [1.0]])}
NET = jn.dense(1, use_bias=False)
LABELS = optax.softmax_cross_entropy_with_integer_labels


def averages(output, batch, weights, who):
    """The averages of an objective that returns this output."""
    return averaged(jn.compose(lambda m, x: output, name=who), {}, {}, batch, weights)[0]


def run(objective, x, y, mask=None):
    """(loss, metrics) of a batch, averaged as the trainer does."""
    batch = jnp.array(x), jnp.array(y)
    output, state = jit_apply(objective, PARAMS, {}, batch, train=True)
    assert state == {}
    found = averages(output, batch, mask, "net")
    means = {name: float(average.mean) for name, average in found.items()}
    return means.pop("loss"), means


def weighted_squares(outputs, targets):
    """A pair (totals, weights)."""
    weights = jnp.array([1.0, 3.0])
    return weights * jnp.square(outputs - targets)[:, 0], weights


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        pytest.param(optax.squared_error, 55.0, id="(9 + 1) / 2 + 50"),
        pytest.param(weighted_squares, 53.0, id="(9 + 3 * 1) / 4 + 50"),
    ],
)
def test_loss_by_hand(loss, value):
    """Outputs are 3 and 2, errors 3 and 1, and the penalty is 10 (4 + 1)."""

    def penalty(params):
        return 10 * (params["kernel"] ** 2).sum()

    metrics = {"error": lambda h, y: jnp.abs(h - y)}
    objective = jn.supervised(NET, loss, penalty=penalty, metrics=metrics)
    x, y = [[1.0, 1.0], [1.0, 0.0]], [[0.0], [1.0]]
    assert run(objective, x, y) == (value, {"error": 2.0})


def test_mask_leaves_examples_out_even_nan():
    x = [[1.0, 1.0], [1.0, 0.0], [np.nan, 7.0]]
    y = [[0.0], [1.0], [0.0]]
    mask = jnp.array([1.0, 1.0, 0.0])
    loss, _ = run(jn.supervised(NET, optax.squared_error), x, y, mask)
    assert loss == 5.0


def test_average_of_sequences_is_a_mean_over_examples_that_count():
    values = jnp.array([[1.0, 3.0], [5.0, 7.0], [100.0, 100.0]])
    values = per_example(values, "loss", values, values, jnp.add)

    def mean(mask):
        return float(averages((values, {}), values, mask, "net")["loss"].mean)

    assert mean(jnp.array([1, 1, 0])) == 4.0
    assert mean(jnp.zeros(3)) == 0.0  # no example: 0, not NaN


def test_a_mean_cannot_be_masked():
    objective = jn.supervised(NET, lambda h, y: ((h - y) ** 2).mean())
    loss, _ = run(objective, [[1.0, 1.0]], [[0.0]])
    assert loss == 9.0
    with pytest.raises(ValueError, match="so that there is one value per example"):
        run(objective, [[1.0, 1.0]], [[0.0]], mask=jnp.ones(1))


@pytest.mark.parametrize("batch", [jnp.ones((2, 2)), (jnp.ones((2, 2)),)], ids=["array", "single"])
def test_a_batch_that_is_no_pair_is_answered(batch):
    with pytest.raises(TypeError, match=r"expected a batch \(inputs, targets\)"):
        jn.supervised(NET, optax.squared_error).apply(PARAMS, {}, batch, train=True)


def test_train_and_key_reach_the_net():
    objective = jn.supervised(jn.dropout(0.5), lambda h, y: h)
    batch = jnp.ones((50, 4)), jnp.ones((50, 4))

    def mean(**options):
        (values, _), _ = objective.apply({}, {}, batch, **options)
        return float(values.mean())

    assert mean() == 1.0
    a = mean(key=jax.random.key(0), train=True)
    b = mean(key=jax.random.key(1), train=True)
    assert a != b
    assert 0.7 < a < 1.3


def test_gradient_of_a_rule_is_its_tree():
    def rule(params, state, batch, *, key, train):
        return {"kernel": 3 * params["kernel"]}, (state, {"loss": 7.0, "seen": jnp.ones(())})

    objective = jn.training.learning_rule(NET, rule)

    def value(params):
        batch = jnp.ones((5, 2)), jnp.ones(5)
        (loss, metrics), _ = jit_apply(objective, params, {}, batch, train=True)
        return loss, metrics

    (loss, metrics), grads = jax.jit(jax.value_and_grad(value, has_aux=True))(PARAMS)
    assert float(loss) == 7.0
    assert list(metrics) == ["seen"]
    assert jnp.array_equal(grads["kernel"], 3 * PARAMS["kernel"])


def test_truncated_bptt_by_hand():
    """Of a running sum, times a weight: two rows continue, the last one starts from zero."""

    def running(m, given):
        x = given["x"]
        w = m.param("w", jn.initializers.ones, ())
        before = given.get("initial", jnp.zeros(x.shape[:1]))
        sums = before[:, None] + jnp.cumsum(x, 1)
        return {"x": w * sums, "final": sums[:, -1]}

    net = jn.compose(running, name="running")
    objective = jn.training.truncated_bptt(net, optax.squared_error)
    x = jnp.array([[1.0, 2], [0, 4], [5, 1]])
    start = jnp.array([False, False, True])
    batch = (x, start), jnp.ones((3, 2))
    params, state = objective.init(KEY, batch)
    assert state["net"] == {}
    assert state["carry"].tolist() == [0, 0, 0]
    state = state | {"carry": jnp.array([2.0, -1, 7])}

    @jax.jit
    def value(params):
        (values, metrics), after = objective.apply(params, state, batch, train=True)
        return values.sum(), (values, metrics, after)

    grads, (values, metrics, after) = jax.grad(value, has_aux=True)({"w": jnp.array(2.0)})
    # sums 3, 5; -1, 3; 5, 6: errors of twice these against 1
    assert values.tolist() == [(25 + 81) / 2, (9 + 25) / 2, (81 + 121) / 2]
    assert metrics == {}
    assert float(grads["w"]) == 5 * 3 + 9 * 5 + 3 * 1 + 5 * 3 + 9 * 5 + 11 * 6
    assert after["carry"].tolist() == [5, 3, 6]


def test_what_the_loss_raises_says_what_was_compared():
    net = jn.dense(3)
    x = jnp.ones((4, 2))
    params, state = net.init(jax.random.key(0), x)
    with pytest.raises(TypeError) as raised:
        jn.supervised(net, LABELS).apply(params, state, (x, jnp.eye(4, 3)))
    first, *_ = raised.value.__notes__
    assert first == "in dense/loss, input ((4, 3) float32, (4, 3) float32)"


SQUARED = optax.squared_error
ONE_HOT = optax.softmax_cross_entropy


def bare(loss):
    return loss


def mean_of(loss):
    return lambda outputs, targets: loss(outputs, targets).mean()


@pytest.mark.parametrize("form", [bare, mean_of, jax.jit])
@pytest.mark.parametrize("loss, outputs, targets, write", [
    (SQUARED, (4, 1), jnp.ones(4), "targets[..., None] or outputs[..., 0]"),
    (SQUARED, (4,), jnp.ones((4, 1)), "targets[..., 0] or outputs[..., None]"),
    (SQUARED, (4, 3), jnp.ones(4, int), "jax.nn.one_hot(targets, 3)"),
    (SQUARED, (4, 3), jnp.ones((4, 2)), "(4, 3) float32 with targets (4, 2) float32. It raised: "),
    (LABELS, (4, 3), jnp.ones((4, 1), int), "targets[..., 0] if they are labels"),
    (LABELS, (4, 5, 3), jnp.ones((4, 5, 1), int), "targets[..., 0] if they are labels"),
    (LABELS, (4, 3), jnp.ones(4), "targets.astype(int)"),
    (LABELS, (4, 3), jnp.ones((4, 3)), "targets.argmax(-1)"),
    (LABELS, (4, 3), jnp.ones(2, int), "There are 4 outputs, but 2 targets."),
    (LABELS, (4, 8, 8, 3), jnp.ones(4, int), "Did you forget jn.flatten()"),
    (ONE_HOT, (4, 8, 8, 3), jnp.ones((4, 3)), "Did you forget jn.flatten()"),
    (ONE_HOT, (4, 3), jnp.ones(4, int), "jax.nn.one_hot(targets, 3)"),
])  # fmt: skip
def test_errors_of_optax_are_explained(form, loss, outputs, targets, write):
    objective = jn.supervised(lambda x: x, form(loss))
    with pytest.raises((TypeError, ValueError)) as raised:
        objective.apply({}, {}, (jnp.ones(outputs), targets))
    words = str(raised.value)
    assert write in words
    assert str(targets.shape) in words


@pytest.mark.parametrize("form", [bare, jax.jit])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_labels_are_not_broadcast_against_the_classes(form, shape):
    objective = jn.supervised(lambda x: x, form(ONE_HOT))
    with pytest.raises(ValueError, match=r"jax.nn.one_hot\(targets.*, 3\)"):
        objective.apply({}, {}, (jnp.eye(3), jnp.ones(shape, int)))


def test_what_a_loss_of_the_user_raises_keeps_its_kind():
    def loss(outputs, targets):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        jn.supervised(lambda x: x, loss).apply({}, {}, (jnp.eye(3), jnp.ones(3, int)))


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [((4, 3), (4,)), ((4, 8, 8, 3), (4, 8, 3))],
    ids=["outputs (batch, classes)", "targets of several axes"],
)
def test_axes_of_images_are_not_guessed_from_other_shapes(outputs, targets):
    batch = jnp.ones(outputs), jnp.ones(targets)
    with pytest.raises((TypeError, ValueError), match="^(?!.*still have the axes)"):
        jn.supervised(lambda x: x, LABELS).apply({}, {}, batch)


@pytest.mark.parametrize("label, words", [
    (3, "For labels up to 3, the last layer needs 4 outputs. To leave"),
    (255, "got 255. To leave"),
    (np.uint8(5), "For labels up to 5, the last layer needs 6 outputs"),
])  # fmt: skip
def test_a_label_beyond_the_outputs(label, words):
    batch = jnp.ones((2, 3)), np.array([0, label])
    with pytest.raises(ValueError, match=words) as raised:
        jn.supervised(lambda x: x, LABELS).apply({}, {}, batch)
    assert not any("one_hot" in note for note in raised.value.__notes__)


@pytest.mark.parametrize(
    "metric",
    [
        lambda o, t: np.square(np.asarray(o) - t),
        lambda o, t: float(o.sum()),
        lambda o, t: bool(o[0, 0]),
    ],
    ids=["np.asarray", "float", "bool"],
)
def test_numpy_in_a_metric_is_told_of_jax(metric):
    objective = jn.supervised(NET, optax.squared_error, metrics={"mine": metric})
    with pytest.raises(Exception) as raised:
        jn.evaluate(objective, PARAMS, {}, (np.ones((4, 2)), np.ones((4, 1))))
    notes = "".join(raised.value.__notes__)
    assert "write it in jax.numpy, or give" in notes
    assert "one_hot" not in notes


def test_outputs_in_a_dict_do_not_broadcast():
    def loss(outputs, targets):
        return jnp.square(outputs["y"] - targets["y"])

    net = jn.compose(lambda m, x: {"y": m(jn.dense(1), x)}, name="net")
    x = jnp.ones((4, 2))
    params, state = net.init(jax.random.key(0), x)
    targets = {"y": jnp.ones(4), "z": jnp.ones(4)}
    with pytest.raises(ValueError, match=r"broadcast to values of \(4, 4\)"):
        jn.supervised(net, loss).apply(params, state, (x, targets))


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [((20, 20), (20,)), ((20, 1), (20,)), ((2, 1, 3), (2, 4, 3))],
    ids=str,
)
def test_shapes_that_broadcast_raise(outputs, targets):
    objective = jn.supervised(lambda x: x, lambda h, y: (h - y) ** 2)
    words = f"outputs {outputs} and targets {targets} broadcast to values of"
    with pytest.raises(ValueError, match=re.escape(words)):
        objective.apply({}, {}, (jnp.ones(outputs), jnp.ones(targets)))


def test_a_metric_called_loss_is_refused():
    with pytest.raises(ValueError, match="'loss' is the name of the loss"):
        jn.supervised(NET, optax.squared_error, metrics={"loss": jn.metrics.accuracy})


NORMED = jn.serial(jn.dense(4), jn.batch_norm(), jn.dropout(0.1), jn.dense(1))


@pytest.mark.parametrize(
    "objective",
    [
        jn.supervised(NORMED, optax.squared_error),
        jn.augmented(jn.supervised(NORMED, optax.squared_error), lambda key, batch: batch),
        jn.training.learning_rule(NORMED, lambda *args, **options: None),
    ],
    ids=["supervised", "augmented", "learning_rule"],
)
def test_an_objective_has_the_entries_and_draws_of_its_net(objective):
    x = jn.spec((5, 3))
    batch = x, jn.spec((5, 1))
    same(objective.init(KEY, batch), NORMED.init(KEY, x))


def test_a_frozen_objective_does_not_train():
    net = jn.serial(jn.dense(4), jn.dense(1))
    trainer = jn.trainer(jn.freeze(jn.supervised(net, optax.squared_error)), optax.sgd(0.1))
    batch = jnp.ones((5, 3)), jnp.zeros((5, 1))
    before = trainer.init(KEY, batch)
    after, _ = jax.jit(trainer.step)(before, batch)
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)


@pytest.mark.parametrize("output, error, words", [
    (lambda x: x, TypeError, r"must return \(values, metrics\)"),
    (lambda x: (x, x), TypeError, r"must return \(values, metrics\)"),
    (lambda x: (None, {}), TypeError, "must be of floats"),
    (lambda x: (x > 0, {}), TypeError, "must be of floats"),
    (lambda x: (x[:, None], {}), ValueError, r"loss must be \(batch,\).*got \(4, 1\)"),
    (lambda x: ((x, x[:2]), {}), ValueError, "a pair"),
    (lambda x: ((x[:1], x[:1]), {}), ValueError, "a pair"),  # would be broadcast against padding
    (lambda x: (x, {"loss": x}), ValueError, "the name of the loss"),
    (lambda x: (x, {"m": x[:, None]}), ValueError, r"m must be \(batch,\)"),
])  # fmt: skip
def test_outputs_of_another_form_are_answered(output, error, words):
    x = jnp.ones(4)
    with pytest.raises(error, match=words):
        averages(output(x), x, None, "mine")


def test_a_carry_of_another_number_of_rows_is_answered():
    each = jn.layers.time_distributed
    net = jn.serial(each(jn.embedding(7, 3)), jn.gru(4), each(jn.dense(7)))
    cut = jn.data.windows(np.arange(22) % 7, 3, 4)
    objective = jn.training.truncated_bptt(net, jn.losses.masked())
    data = (cut.x, cut.start), (cut.y, cut.counts)
    params, state = objective.init(KEY, data)
    half = jax.tree.map(lambda leaf: leaf[:3], data)
    with pytest.raises(ValueError, match="the carry has 6 rows, the batch 3; initialize with one"):
        objective.apply(params, state, half)
    with pytest.raises(TypeError, match=r"expected a batch \(\(x, start\), targets\)"):
        objective.init(KEY, jnp.ones(3))


def test_weights_may_be_integers():
    output = (jnp.array([6.0, 2.0]), jnp.array([3, 1])), {"m": (jnp.array([300.0, 300.0]),) * 2}
    found = averages(output, jnp.ones(2), None, "mine")
    assert found["loss"] == (2.0, 4.0)
    assert found["m"] == (1.0, 600.0)


def test_sums_of_float16_do_not_overflow():
    values = jnp.full(200, 1000.0, jnp.float16)  # the sum is beyond float16
    ones = jnp.ones(200)
    for output, mask in ((values, None), (values, ones), ((values, ones), None)):
        found = averages((output, {}), values, mask, "net")
        assert float(found["loss"].mean) == 1000


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, y: o.argmax(-1) == y.argmax(-1),
        lambda o, y: o.round() == y,
        lambda o, y: (o > y).astype(int),
        lambda o, y: ((o > y).all(1), jnp.ones(len(y))),
    ],
    ids=["values", "several axes", "integers", "pair"],
)
def test_a_loss_without_a_gradient_is_refused(loss):
    with pytest.raises(TypeError, match="supervised: the loss must be of floats, got .*metrics="):
        started(jn.dense(2), (jnp.ones((4, 3)), jnp.ones((4, 2))), loss)


def test_a_metric_may_be_boolean():
    metrics = {"near": lambda o, y: o > y}
    objective = jn.supervised(jn.dense(2), optax.squared_error, metrics=metrics)
    batch = jnp.ones((4, 3)), jnp.full((4, 2), -9.0)
    params, state = objective.init(jax.random.key(0), batch)
    assert jn.evaluate(objective, params, state, batch)["near"] == 1


def test_a_rule_of_another_form_is_told_which():
    with pytest.raises(TypeError, match=r"rule must be a function of \(params, state, batch, "):
        jn.training.learning_rule(jn.dense(1), lambda params, batch: (params, ({}, {})))

    def rule(params, state, batch, *, key, train):
        return params

    objective = jn.training.learning_rule(jn.dense(1), rule)
    params, state = objective.init(jax.random.key(0), jnp.ones((4, 3)))
    with pytest.raises((TypeError, ValueError)) as error:
        objective.apply(params, state, jnp.ones((4, 3)))
    assert "returns (update, (state, metrics))" in "".join(error.value.__notes__)


GROWN = {
    "mean": lambda o, t: jnp.mean((o - t) ** 2),
    "sum": lambda o, t: jnp.abs(o - t).sum(),
    "pair": lambda o, t: (jnp.square(o - t).mean(1), jnp.ones(6)),
    "rows": lambda o, t: jnp.abs(o - t).mean(-1),
    "rows, largest": lambda o, t: jnp.abs(o - t).max(1),
    "compiled": jax.jit(lambda o, t: jnp.mean((o - t) ** 2)),
    "where": lambda o, t: jnp.where(t == 1, jnp.log(o), jnp.log(1 - o)).mean(),
}
SOUND = {
    "indexed": lambda o, t: jnp.mean((o[:, 0] - t) ** 2),
    "with an axis": lambda o, t: jnp.mean((o - t[:, None]) ** 2),
    "risk sets": lambda o, t: ((t[:, None] >= t) * jnp.exp(o[:, 0])).sum(1).mean(),
    "moments": lambda o, t: (o.mean() - t.mean()) ** 2,
    "labels": lambda o, t: LABELS(o, t.astype(int) * 0).mean(),
    "pairs of outputs": lambda o, t: jnp.mean((o - o.T) * (t[:, None] - t)),
}


@pytest.mark.fast_cases("rows", "compiled", "pair", "sum")
@pytest.mark.parametrize("name", GROWN)
def test_a_loss_that_reduces_does_not_train_on_all_pairs(name):
    x = np.full((6, 3), 0.5, np.float32)
    t = np.float32([0, 1, 0, 1, 1, 0])
    wide = jn.supervised(jn.dense(1), GROWN[name])
    params, state = jn.dense(1).init(jax.random.key(0), x)
    words = r"outputs \(6, 1\) and targets \(6,\) broadcast to .*6, 6"
    with pytest.raises(ValueError, match=words):
        wide.apply(params, state, (x, t))
    metric = jn.supervised(jn.dense(1), SOUND["indexed"], metrics={"mine": GROWN[name]})
    with pytest.raises(ValueError, match="broadcast"):
        metric.apply(params, state, (x, t))
    if name != "pair":
        (value, _), _ = wide.apply(params, state, (x, t[:, None]))
        assert value.shape in ((), (6,))


@pytest.mark.parametrize("name", SOUND)
def test_a_loss_that_fits_its_arrays_together_itself_is_left_alone(name):
    x = np.ones((6, 3), np.float32)
    t = np.arange(6, dtype=np.float32)
    objective = jn.supervised(jn.dense(1), SOUND[name])
    params, state = objective.init(jax.random.key(0), (x, t))
    (value, _), _ = objective.apply(params, state, (x, t))
    assert np.shape(value) == ()


def initialized(net, batch):
    jn.trainer(net, optax.sgd(0.1)).init(KEY, batch)


def evaluated(net, batch):
    x, _ = batch
    jn.evaluate(net, *net.init(KEY, x), batch)


@pytest.mark.parametrize("call", [initialized, evaluated])
def test_a_net_in_the_place_of_an_objective_is_answered(call):
    batch = jnp.ones((4, 2)), jnp.zeros(4, int)
    with pytest.raises(TypeError) as error:
        call(jn.serial(jn.dense(3)), batch)
    assert any("jn.supervised(net, loss)" in note for note in error.value.__notes__)


def test_what_is_no_example_is_named():
    def forward(m, batch):
        y = m(jn.dense(1), batch["x"])
        return jnp.square(y)[:, 0], {}

    batch = {"params": np.ones(3, np.float32), "x": np.ones((5, 2), np.float32)}
    trainer = jn.trainer(jn.compose(forward, name="own"), optax.sgd(0.1))
    with pytest.raises(ValueError, match="own: all arrays .* params has 3 and x has 5"):
        trainer.step(trainer.init(jax.random.key(0), batch), batch)


def test_a_weight_may_be_a_fraction():
    values = jnp.array([1.0, 3.0, jnp.nan])
    weights = jnp.array([0.5, 1.0, 0.0])
    pairs = jnp.array([2.0, 12.0, 1.0]), jnp.array([2.0, 4.0, jnp.nan])
    found = averages((values, {"pair": pairs}), values, weights, "net")
    assert found["loss"] == (pytest.approx(3.5 / 1.5), 1.5)
    assert found["pair"] == (pytest.approx(13 / 5), 5)


def test_members_of_an_ensemble_are_trained_by_the_sum_of_their_losses():
    x, y = np.ones((5, 3), np.float32), np.zeros(5, int)
    net = jn.ensemble(jn.dense(2), 3)

    def trained(loss):
        trainer = jn.trainer(jn.supervised(net, loss), optax.sgd(0.1))
        return trainer.step(trainer.init(jax.random.key(0), (x, y)), (x, y))

    with pytest.raises(ValueError, match="an axis of 3 before that of the examples, as those of"):
        trained(CROSS_ENTROPY)
    train_state, _ = trained(lambda z, y: jax.vmap(CROSS_ENTROPY, (0, None))(z, y).sum(0))
    alone = jn.trainer(jn.supervised(jn.dense(2), CROSS_ENTROPY), optax.sgd(0.1))
    first, state = net.init(jn.child_key(jax.random.key(0), "init"), x)
    params = jax.tree.map(lambda leaf: leaf[1], first)
    member, _ = alone.step(alone.init(jax.random.key(0), (x, y), params=params), (x, y))
    close(jax.tree.map(lambda leaf: leaf[1], train_state.params), member.params, 1e-6)
