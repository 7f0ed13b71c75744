"""Evaluation and prediction, batch by batch, equal the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.training.batching import Batching
from jaxnet.training.evaluate import means, measure, predict_program
from jaxnet.training.objective import Average
from tests.helpers import jit_apply
from tests.training.conftest import KEY, LOSS, Batches, data, started


@pytest.mark.slow
def test_evaluate_by_hand_for_every_batch_size():
    x, y = data(11)
    objective = jn.supervised(jn.dense(2), LOSS, metrics={"accuracy": jn.metrics.accuracy})
    params, state = objective.init(KEY, (x, y))
    logits = x @ params["kernel"] + params["bias"]
    accuracy = (logits.argmax(1) == y).mean()
    expected = {"loss": LOSS(logits, y).mean(), "accuracy": accuracy}
    for size in (1, 4, 11, 100):
        found = jn.evaluate(objective, params, state, (x, y), batch_size=size)
        assert list(found) == ["loss", "accuracy"]
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5)
    stream = Batches((x[:7], y[:7]), (x[7:], y[7:]))
    found = jn.evaluate(objective, params, state, stream)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)


def test_evaluate_of_a_scalar_objective_is_exact():
    objective = jn.compose(lambda m, batch: (batch.mean(), {"each": batch, "mean": batch.mean()}))
    found = jn.evaluate(objective, {}, {}, jnp.arange(11.0), batch_size=4)
    assert found == pytest.approx({"loss": 5.0, "each": 5.0, "mean": 5.0})


def test_means_of_nothing_are_zero():
    """A batch whose labels are all ignored has no weight."""
    none = Average(np.float32(0), np.float32(0))
    some = Average(np.float32(6), np.float32(4))
    found = means({"accuracy": none, "loss": some})
    assert list(found.items()) == [("loss", 1.5), ("accuracy", 0.0)]


def test_the_old_argument_order_is_answered():
    with pytest.raises(TypeError, match=r"write evaluate\(objective, params, state, data\)"):
        jn.evaluate({}, {}, jn.dense(2), data())  # type: ignore[arg-type]


@pytest.mark.slow
def test_predict_in_batches_is_apply():
    net = jn.serial(jn.dense(4), jn.batch_norm(), jn.dense(2))
    params, state = net.init(KEY, jn.spec((1, 3)))
    x, _ = data(11)
    whole, _ = jit_apply(net, params, state, x)
    for size in (1, 4, 11, 64):
        found = jn.predict(net, params, state, x, batch_size=size)
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)


IDS = np.array([[1, 2], [3, 0], [6, 9], [4, 4], [5, 1]])
CLASSES = np.array([0, 1, 1, 0, 1])


def reader(**options):
    table = jn.embedding(7, 3, name="words", **options)
    return jn.serial(jn.serial(table, name="in"), lambda x: x.mean(1), jn.dense(2), name="net")


@pytest.mark.fast_cases("freeze-256")
@pytest.mark.parametrize(("wrap", "batch_size"), [(lambda net: net, 2), (jn.freeze, 256)])
def test_an_id_without_an_embedding_raises(wrap, batch_size):
    net = wrap(reader())
    params, state = net.init(KEY, IDS)
    words = r"words: ids must be in \[0, 7\), got 9"
    with pytest.raises(ValueError, match=words) as found:
        jn.predict(net, params, state, IDS, batch_size=batch_size)
    assert any("net/in/words" in note for note in found.value.__notes__)
    objective = jn.supervised(net, LOSS)
    with pytest.raises(ValueError, match=words):
        jn.evaluate(objective, params, state, (IDS, CLASSES), batch_size=batch_size)
    good = jn.predict(net, params, state, IDS % 7, batch_size=batch_size)
    assert good.shape == (5, 2)
    assert np.isfinite(good).all()


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (jnp.mean, r"\(\)"),
        (jnp.ravel, r"\(12,\)"),
        (lambda x: {"y": x.mean(0)}, r"\(3,\)"),
    ],
    ids=["scalar", "flattened", "mean"],
)
def test_outputs_that_are_not_one_per_example_are_answered(function, got):
    net = jn.serial(function, name="net")
    words = rf"predict: expected one output per example from net, \(batch, ...\), got {got} for 4"
    with pytest.raises(ValueError, match=words):
        jn.predict(net, {}, {}, np.ones((7, 3), np.float32), batch_size=4)


def test_outputs_without_entries_have_a_row_per_example():
    net = jn.serial(lambda x: (x, x[:, :0]))
    x = np.ones((7, 3), np.float32)
    outputs = jn.predict(net, {}, {}, x, batch_size=4)
    assert [y.shape for y in outputs] == [(7, 3), (7, 0)]


@pytest.mark.slow
def test_nan_of_other_origin_comes_back():
    net = jn.serial(reader(), lambda x: jnp.log(x - 1e3))
    params, state = net.init(KEY, IDS)
    assert np.isnan(jn.predict(net, params, state, IDS % 7)).all()
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    assert np.isnan(jn.predict(net, broken, state, IDS)).all()


@pytest.mark.slow
def test_fit_reports_ids_of_the_test_data():
    objective = jn.supervised(reader(), LOSS)
    trainer = jn.trainer(objective, optax.sgd(0.1))
    train_state = trainer.init(KEY, (IDS, CLASSES))
    good, bad = (IDS % 7, CLASSES), (IDS, CLASSES)
    with pytest.raises(ValueError, match=r"words: ids must be in \[0, 7\), got 9"):
        list(jn.fit(trainer, train_state, good, epochs=1, evaluate=bad, progress=False))


@pytest.mark.slow
def test_nothing_moves_to_the_device_by_itself():
    """With all data there, as `jax.transfer_guard("disallow")` wants it."""
    x, y = jax.device_put((np.ones((10, 3), np.float32), np.arange(10) % 2))
    net = jn.serial(jn.dense(4), jn.dropout(0.5), jn.dense(2))
    objective = jn.supervised(net, LOSS, metrics={"accuracy": jn.metrics.accuracy})
    trainer = jn.trainer(objective, optax.adam(0.1))
    now = trainer.init(jax.random.key(0), (x, y))
    other = trainer.init(jax.random.key(1), (x, y))
    stream = Batches((x[:4], y[:4]), (x[4:8], y[4:8]), (x[8:], y[8:]))
    options = {"batch_size": 4, "evaluate": (x, y), "epochs": 2, "progress": False}
    with jax.transfer_guard("disallow"):
        for _ in range(2):  # compiled, and again
            other, _ = trainer.step(other, (x, y))
            jn.evaluate(objective, now.params, now.state, (x, y), batch_size=4)
            jn.predict(net, now.params, now.state, x, batch_size=4)
            for data in ((x, y), stream):
                *_, epoch = jn.fit(trainer, now, data, **options)
    assert epoch.number == 2


@pytest.mark.slow
def test_without_compilation_there_is_no_warning_about_it():
    batch = np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)
    trainer, start = started(jn.dense(1), batch, optax.squared_error)
    with jax.disable_jit():  # warnings are errors here
        for _ in range(3):
            *_, epoch = jn.fit(trainer, start, batch, epochs=1, progress=False)
    assert int(epoch.train_state.step) == 1


ON_MESHES = """
import warnings; warnings.simplefilter("error")
objective = jn.supervised(jn.dense(1), optax.squared_error)
batch = np.ones((8, 2), np.float32), np.ones((8, 1), np.float32)
trainers = [jn.trainer(objective, optax.sgd(0.1), accumulate=n) for n in (1, 2)]
start = trainers[0].init(jax.random.key(0), batch)
found = []
for axis in "ab":  # a second mesh is no reason for a warning
    mesh = jax.make_mesh((4,), (axis,))
    data = jn.distributed.put(batch, mesh, P(axis))
    for trainer in trainers:
        there = jn.distributed.put(start, mesh)
        *_, epoch = jn.fit(trainer, there, data, epochs=2, progress=False)
        found.append(np.asarray(epoch.train_state.params["kernel"]))
for other in found[1:]:
    np.testing.assert_allclose(found[0], other, rtol=1e-6)
"""


@pytest.mark.slow
def test_a_second_mesh_is_no_warning(on_devices):
    on_devices(ON_MESHES, 4)


def test_a_last_smaller_batch_copies_no_data():
    """What the program holds beside the data does not grow with their number."""
    net = jn.dense(1)
    objective = jn.supervised(net, optax.squared_error)
    x, y = jn.spec((4099, 1000)), jn.spec((4099, 1))
    params, state = jax.eval_shape(objective.init, jax.random.key(0), (x, y))
    measuring = jax.jit(measure(objective, Batching(16), None, False))
    measured = measuring.lower(params, state, (x, y), KEY, 0)
    predicting = jax.jit(predict_program(net, Batching(16), None))
    predicted = predicting.lower(params, state, x)
    for program in (measured, predicted):
        held = program.compile().memory_analysis().temp_size_in_bytes
        assert held < 4099 * 1000 * 4 / 20  # bytes of the inputs, of which a batch is 1 / 256


def test_predict_says_what_is_not_a_net():
    with pytest.raises(TypeError, match="predict: net must be a layer, .*got float"):
        jn.predict(2.5, {}, {}, np.ones((2, 3)))  # type: ignore


@pytest.mark.slow
def test_a_stream_gets_new_random_numbers_in_each_batch():
    def forward(m, batch):
        return jax.random.normal(m.key("z"), batch.shape), {}

    noise = jn.compose(forward, name="noise")
    zeros = np.zeros(64, np.float32)
    whole = jn.evaluate(noise, {}, {}, zeros, batch_size=16)
    stream = Batches(*np.split(zeros, 4))
    assert jn.evaluate(noise, {}, {}, stream, batch_size=16) == whole

    numbers = []
    for i, count in enumerate([2, 1, 2, 1]):  # rows of each batch that count
        (values, _), _ = noise.apply({}, {}, zeros[:2], key=jax.random.fold_in(KEY, i))
        numbers += values[:count].tolist()
    found = jn.evaluate(noise, {}, {}, Batches(zeros[:3], zeros[:3]), batch_size=2)
    assert found["loss"] == pytest.approx(np.mean(numbers))


@pytest.mark.slow
def test_carries_go_from_batch_to_batch():
    """Also the first ones, which `start` resets."""
    rng = np.random.default_rng(0)
    streams = 3
    cut = jn.data.windows(rng.integers(0, 5, 61), streams, 4)
    held = (np.eye(5, dtype=np.float32)[cut.x], cut.start), (cut.y, cut.counts)
    net = jn.serial(jn.gru(4), jn.layers.time_distributed(jn.dense(5)))
    objective = jn.training.truncated_bptt(net, jn.losses.masked())
    batches = []
    for i in range(0, len(cut.x), streams):
        batches.append(jax.tree.map(lambda leaf, i=i: leaf[i : i + streams], held))
    params, state = objective.init(KEY, batches[0])
    values, after = [], state
    for batch in batches:
        (values_now, _), after = objective.apply(params, after, batch)
        values.append(values_now)
    expected = float(np.concatenate(values).mean())
    other = jax.tree.map(jnp.ones_like, state)  # such as the last carry of training
    for given, source in ((state, held), (other, held), (other, Batches(*batches))):
        found = jn.evaluate(objective, params, given, source, batch_size=streams)
        assert found["loss"] == pytest.approx(expected, rel=1e-5)


BIG = np.array([[1e300, 1], [2, 3]])
ZEROS = np.zeros((2, 2))
WIDE = {"kernel": BIG, "bias": np.zeros(2)}
SQUARES = jn.trainer(jn.supervised(jn.dense(2), optax.squared_error), optax.sgd(0.1))


def fitted(start, data):
    next(iter(jn.fit(SQUARES, start, data, epochs=1, progress=False)))


DOORS = {
    "apply": lambda start: jn.dense(2).apply(start.params, {}, BIG),
    "apply, params": lambda start: jn.dense(2).apply(WIDE, {}, ZEROS),
    "predict": lambda start: jn.predict(jn.dense(2), start.params, {}, BIG),
    "predict, params": lambda start: jn.predict(jn.dense(2), WIDE, {}, ZEROS),
    "evaluate": lambda start: jn.evaluate(SQUARES.objective, start.params, {}, (ZEROS, BIG)),
    "fit": lambda start: fitted(start, (BIG, ZEROS)),
    "fit from batches": lambda start: fitted(start, iter([(ZEROS, BIG)])),
    "step": lambda start: SQUARES.step(start, (ZEROS, BIG)),
    "init": lambda start: SQUARES.init(KEY, (ZEROS, ZEROS), params=WIDE),
    "iou": lambda start: jn.detection.iou(BIG.reshape(1, 4), np.ones((1, 4))),
    "l2": lambda start: jn.penalties.l2(0.1)(WIDE),
    "accuracy": lambda start: jn.metrics.accuracy(BIG, np.array([0, 1])),
    "half_squared_error": lambda start: jn.losses.half_squared_error(ZEROS, BIG),
    "weighted": lambda start: jn.losses.weighted(class_weights=BIG[0])(ZEROS, np.array([0, 1])),
}


@pytest.mark.parametrize("door", DOORS)
def test_numbers_beyond_float32_raise(door):
    """They would become infinite: 1e300 stands for "no value" in rasters."""
    start = SQUARES.init(KEY, (ZEROS, ZEROS))
    with pytest.raises(ValueError, match=r"hold 1e\+300, which float32 cannot hold"):
        DOORS[door](start)


def f1(outputs, targets):
    found = outputs.argmax(-1)
    return 2 * (found * targets).sum() / (found.sum() + targets.sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrap",
    [
        lambda objective: objective,
        lambda objective: jn.augmented(objective, lambda key, batch: batch),
        lambda objective: jn.compose(lambda m, batch: m._inline(objective, batch)),
    ],
    ids=["supervised", "augmented", "own"],
)
def test_a_number_per_batch_is_no_metric_of_several_batches(wrap):
    pair = data(12)
    objective = wrap(jn.supervised(jn.dense(2), LOSS, metrics={"f1": jax.jit(f1)}))
    trainer = jn.trainer(objective, optax.sgd(0.1))
    train_state = trainer.init(KEY, pair)
    given = objective, train_state.params, train_state.state
    batches = Batches(pair, pair)
    words = r"metrics\['f1'\] is one number .*jn.metrics.confusion"
    assert jn.evaluate(*given, pair)["f1"] > 0  # of all at once
    for call in (
        lambda: jn.evaluate(*given, pair, batch_size=6),
        lambda: jn.evaluate(*given, batches),
        lambda: list(jn.fit(trainer, train_state, pair, epochs=1, batch_size=6)),
        lambda: list(jn.fit(trainer, train_state, batches, epochs=1)),
        lambda: jn.sweep(objective, lambda: optax.sgd(0.1), pair, epochs=1, seeds=1, batch_size=6),
    ):
        with pytest.raises(ValueError, match=words):
            call()
