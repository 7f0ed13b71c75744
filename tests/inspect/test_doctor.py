"""A patient for each finding, and a healthy one."""

import platform
import re
import warnings
import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.inspect import doctor
from jaxnet.inspect.doctor import (
    compilation_findings,
    figures_by_path,
    memory_findings,
    state_findings,
    update_findings,
)
from tests.helpers import jit_apply, output_of
from tests.training.conftest import LOSS, started

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(16, 5)), jnp.float32)
BATCH = X, jnp.asarray(RNG.integers(0, 3, 16))


def patient(net, optimizer=None, steps=0, objective=None):
    objective = objective or jn.supervised(net, LOSS)
    trainer = jn.trainer(objective, optimizer or optax.sgd(0.1))
    train_state = trainer.init(jax.random.key(0), BATCH)
    for _ in range(steps):
        train_state, _ = trainer.step(train_state, BATCH)
    return trainer, train_state


def healthy():
    return jn.serial(jn.dense(8, name="in"), jnp.tanh, jn.dense(3, name="out"), name="net")


@pytest.mark.slow
def test_healthy():
    trainer, train_state = patient(healthy(), steps=3)
    report = doctor(trainer, train_state, BATCH)
    assert report.findings == []
    assert report.dead == {}
    assert list(report.entries) == ["in/bias", "in/kernel", "out/bias", "out/kernel"]
    size, weight, gradient, ratio = report.entries["in/kernel"]
    assert size == 40
    norm = np.linalg.norm(train_state.params["in"]["kernel"])
    assert weight == pytest.approx(norm, rel=1e-6)
    assert ratio == pytest.approx(0.1 * gradient / weight, rel=1e-3)  # that of plain descent
    assert str(report).splitlines()[0] == "no findings"
    assert str(report).splitlines()[-1] == "no problems found"
    ElementTree.fromstring(report._repr_html_())
    after, _ = trainer.step(train_state, BATCH)  # nothing is used up
    assert int(after.step) == 4
    (traces,) = trainer._cache.watcher.traces.values()
    assert len(traces) == 1


@pytest.mark.slow
def test_compiled_twice_and_once_more_for_another_batch():
    trainer, train_state = patient(healthy(), steps=1)
    short = BATCH[0][:3], BATCH[1][:3]
    with pytest.warns(UserWarning, match="compiled again"):
        train_state, _ = trainer.step(train_state, short)
    change = "0 float32[16,5] -> float32[3,5]; {}1 int32[16] -> int32[3]"
    assert doctor(trainer, train_state, BATCH, short).findings == [
        "step was compiled 2 times: batch/" + change.format("batch/"),
        "batch 1 makes the step compile again: " + change.format(""),
    ]


@pytest.mark.slow
def test_a_bias_before_batch_norm():
    """Its gradient is 0 but for rounding, which Adam would blow up."""
    net = jn.serial(jn.dense(8, name="in"), jn.batch_norm(), jnp.tanh, jn.dense(3), name="net")
    (finding,) = doctor(*patient(net, steps=60), BATCH).findings
    assert finding == "the gradient is 0, or rounding, on all batches: in/bias"


@pytest.mark.slow
def test_a_gradient_that_is_not_finite():
    net = jn.serial(jn.dense(3, name="d"), lambda x: jnp.sqrt(0 * x), name="net")
    assert doctor(*patient(net), BATCH).findings == [
        "the gradient is not finite: d/bias, d/kernel",
        "dead units, 0 on all examples: lambda 3 of 3",
    ]


@pytest.mark.slow
def test_a_loss_that_is_not_finite():
    net = jn.serial(jn.dense(3, name="d"), lambda x: jnp.log(-(x**2)), name="net")
    findings = doctor(*patient(net), BATCH).findings
    assert "the loss in training mode is not finite: [nan]" in findings
    assert "the loss in evaluation mode is not finite: [nan]" in findings


@pytest.mark.slow
def test_state_that_does_not_change():
    net = jn.serial(jn.batch_norm(), jn.dense(3), name="net")

    def apply(params, state, batch, *, key=None, train=False):
        y, state = jit_apply(net, params, state, batch[0], key=key)  # train is forgotten
        return (LOSS(y, batch[1]), {}), state

    objective = jn.Layer(lambda key, batch: net.init(key, batch[0]), apply, "net")

    with warnings.catch_warnings(action="ignore"):
        trainer, train_state = patient(net, steps=2, objective=objective)
    first, second = doctor(trainer, train_state, BATCH).findings
    words = "training does not change the state batch_norm/mean, batch_norm/var: is"
    assert first.startswith(words)
    assert second.startswith("after 2 steps these statistics still have their initial values, and")


@pytest.mark.slow
def test_an_evaluation_loss_below_twice_that_of_training_is_no_finding():
    def forward(m, batch):
        x, y = batch
        outputs = m(jn.dense(3), m(jn.batch_norm(), x))
        return 0 * LOSS(outputs, y) + (4.0 if m.train else 7.9), {}

    with warnings.catch_warnings(action="ignore"):
        findings = doctor(*patient(None, objective=jn.compose(forward)), BATCH).findings
    assert not any("running statistics" in finding for finding in findings)


@pytest.mark.slow
def test_statistics_that_do_not_describe_the_data():
    net = jn.serial(jn.batch_norm(), jn.dense(3), name="net")
    far = 100 * BATCH[0] + 500
    trainer, train_state = patient(net)
    (finding,) = doctor(trainer, train_state, (far, BATCH[1])).findings
    assert finding.startswith("on the same batches the loss is ")
    assert finding.endswith("mode: the running statistics do not describe the data (yet)")


@pytest.mark.slow
def test_dead_units():
    net = jn.serial(jn.dense(8, name="in"), jax.nn.relu, jn.dense(3, name="out"), name="net")
    trainer, train_state = patient(net)
    inner = train_state.params["in"]
    inner = inner | {"bias": inner["bias"].at[:3].set(-100)}
    params = train_state.params | {"in": inner}
    report = doctor(trainer, train_state._replace(params=params), BATCH)
    assert report.dead == {"relu": (3, 8)}
    assert report.findings == ["dead units, 0 on all examples: relu 3 of 8"]


@pytest.mark.slow
def test_blank_pixels_are_not_dead_units():
    def two(m, x):
        pixels = m(jn.flatten(), x)
        y = m(jax.nn.relu, m(jn.dense(8, name="in"), x))
        return m(jn.dense(3), jnp.concatenate([pixels, y], -1))

    trainer, train_state = patient(jn.compose(two))
    bias = train_state.params["in"] | {"bias": jnp.full(8, -100.0)}
    train_state = train_state._replace(params=train_state.params | {"in": bias})
    blank = BATCH[0].at[:, 1:4].set(0), BATCH[1]
    assert doctor(trainer, train_state, blank).dead == {"relu": (8, 8)}


@pytest.mark.slow
def test_units_that_live_on_another_batch():
    scale = jn.compose(lambda m, x: x * m.param("scale", jn.initializers.ones, (5,)))
    trainer, train_state = patient(jn.serial(scale, jax.nn.relu, jn.dense(3), name="net"))
    x = jnp.abs(BATCH[0]) + 0.1
    one = x.at[:, 0].set(-1), BATCH[1]
    other = x.at[:, 1].set(-1), BATCH[1]
    assert doctor(trainer, train_state, one).dead == {"relu": (1, 5)}
    assert doctor(trainer, train_state, one, other).dead == {}


@pytest.mark.slow
def test_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    net = jn.serial(jn.dense(3, name="a_layer_with_a_long_name" * 4), name="net")
    report = doctor(*patient(net, optax.sgd(100.0)), BATCH)
    assert report.findings[0].startswith("an update moves the weights by more than 10%: a_layer")
    lines = str(report).splitlines()
    assert lines[0] == "1 finding"
    assert max(map(len, lines)) <= 80


def test_entries_by_hand():
    """Of two batches the largest gradient and update; NaN counts as the largest."""
    before = {"a": np.float32([3, 4]), "b": np.zeros(2), "c": np.ones(1)}
    gradients = (
        {"a": np.array([6.0, 8]), "b": np.ones(2), "c": np.array([np.nan])},
        {"a": np.array([1.0, 0]), "b": 2 * np.ones(2), "c": np.array([5.0])},
    )
    after = (
        {"a": np.array([3.0, 5]), "b": np.ones(2), "c": np.array([0.5])},
        {"a": np.array([6.0, 8]), "b": np.ones(2), "c": np.array([np.inf])},
    )
    found = figures_by_path(before, gradients, after)
    assert found["a"] == (2, 5, 10, 1)
    assert found["b"] == (2, 0, pytest.approx(8**0.5), None)
    size, weight, gradient, ratio = found["c"]
    assert (size, weight) == (1, 1)
    assert np.isnan(gradient)
    assert ratio == np.inf


def test_moves_by_hand():
    """An update of more than a tenth, or of less than a millionth, of a weight of some gradient."""
    entries = {
        "usual": (1, 1.0, 40.0, 1e-3), "tenth": (1, 1.0, 1.0, 0.1), "large": (1, 1.0, 1.0, 0.11),
        "millionth": (1, 1.0, 1.0, 1e-6), "small": (1, 1.0, 1.0, 9e-7),
        "zero": (1, 1.0, 0.0, 0.0), "rounding": (1, 1.0, 3e-5, 0.5), "real": (1, 1.0, 5e-5, 0.5),
        "bias": (1, 1.0, 1.0, 0.5), "nothing": (1, 0.0, 1.0, None), "nan": (1, 1.0, np.nan, 0.5),
    }  # fmt: skip
    assert update_findings(entries) == [
        "the gradient is not finite: nan",
        "the gradient is 0, or rounding, on all batches: rounding, zero",
        "an update moves the weights by more than 10%: large, real, nan",
        "an update moves the weights by less than 1e-06 of their size: small",
    ]


@pytest.mark.parametrize(("evaluated", "told"), [(2.0005, False), (2.0015, True)])
def test_evaluation_may_cost_twice_as_much_as_training(evaluated, told):
    def init(key, batch):
        return {"kernel": jnp.ones(())}, {"n": jnp.zeros(())}

    def apply(params, state, batch, *, key=None, train=False):
        factor = 1.0 if train else evaluated
        values = params["kernel"] * factor * jnp.ones(len(batch))
        return (values, {}), {"n": state["n"] + train}

    trainer = jn.trainer(jn.Layer(init, apply, "objective", "mine"), optax.sgd(1e-3))
    x = jnp.ones((4, 2))
    train_state = trainer.init(jax.random.key(0), x)
    found = doctor(trainer, train_state, x).findings
    assert ["do not describe the data" in finding for finding in found] == [True] * told


def test_state_by_hand():
    before = {
        "n": np.zeros(2),
        "mean": np.zeros(1),
        "var": np.ones(2),
        "x": {"var": np.ones(2)},
        "lost": np.full(1, np.nan),
    }
    moved = jax.tree.map(lambda a: a + 1, before)
    still, fresh = state_findings(
        before, (before | {"x": moved["x"]}, before | {"n": moved["n"]}), 3
    )
    assert "the state lost, mean, var: is" in still
    assert fresh.startswith("after 3 steps these")
    assert fresh.endswith("uses them: mean, var, x/var")
    other = moved | {"lost": np.zeros(1)}
    assert state_findings(before, (other, before), 0) == []


def test_compilations_by_hand():
    traces = {
        "step": [{"x": "a", "y": "b"}, {"x": "c", "y": "b"}, {"y": "b"}],
        "once": [{}],
    }
    two, three, four = [np.ones(n, np.float32) for n in (2, 3, 4)]
    batches = (two, two, three), (two, two, four)
    found = compilation_findings(traces, batches)
    assert found[0] == "step was compiled 3 times: x a -> c; x c -> nothing"
    assert found[1:] == ["batch 1 makes the step compile again: 2 float32[3] -> float32[4]"]
    assert compilation_findings({"step": [{}, {}]}, (two, three)) == [
        "step was compiled 2 times: for no change of shapes or dtypes",
        "batch 1 makes the step compile again: batch float32[2] -> float32[3]",
    ]


@pytest.mark.slow
def test_integers_have_no_gradient():
    adapted = jn.lora(jn.quantized(healthy(), 4), 2, where="*/kernel", trainable="*")
    report = doctor(*patient(adapted, optax.adam(1e-3), steps=2), BATCH)
    assert not any("gradient" in finding for finding in report.findings)
    names = "bias", "kernel/scale16", "kernel_lora_a", "kernel_lora_b"
    assert set(report.entries) == {f"{layer}/{name}" for layer in ("in", "out") for name in names}


@pytest.mark.slow
def test_dead_units_of_an_adapted_net():
    net = jn.serial(jn.dense(4), jax.nn.relu, jn.dense(3, name="out"))
    trainer, train_state = patient(jn.lora(jn.quantized(net), 2, where="*/kernel"))
    dense = train_state.params["dense"] | {"bias": jnp.array([-99.0, 9, 9, 9])}
    params = train_state.params | {"dense": dense}
    report = doctor(trainer, train_state._replace(params=params), BATCH)
    ((path, dead),) = report.dead.items()
    assert path.split("/")[-1] == "relu"
    assert dead == (1, 4)


@pytest.mark.slow
def test_examples_that_influence_each_other():
    """The usual mistake in a squeeze-and-excitation gate: a mean over all axes."""

    def gate(axes):

        def gated(m, x):
            mean = x.mean(axes, keepdims=True)
            return x * jax.nn.sigmoid(m(jn.dense(3), mean))

        return gated

    x = jax.random.normal(jax.random.key(0), (6, 4, 4, 3))
    batch = x, jnp.arange(6) % 2

    def findings(axes):
        net = jn.serial(jn.compose(gate(axes), name="gate"), jn.flatten(), jn.dense(2))
        trainer, train_state = started(net, batch, jn.losses.cross_entropy)
        return doctor(trainer, train_state, batch).findings

    right = findings((1, 2))
    with pytest.warns(UserWarning, match="trainer.init: in evaluation, the outputs of an example"):
        wrong = findings((0, 1, 2))
    assert not any("other examples" in finding for finding in right)
    assert "depend on the other examples of its batch, first at gate" in wrong[-1]


@pytest.mark.slow
def test_complex_params_have_norms():

    def kernel(key, shape, dtype):
        return jnp.full(shape, 3 + 4j, jnp.complex64)

    net = jn.compose(lambda m, x: jnp.abs(x @ m.param("w", kernel, (3, 1))))
    batch = jnp.ones((2, 3)), jnp.zeros((2, 1))
    trainer, train_state = started(net, batch, optax.squared_error, optax.sgd(0.01))
    report = doctor(trainer, train_state, batch)
    # |w| = 5 √3; the slope of (3 · 5)² by each |w| is 30, and a hundredth of it the update
    size, weight, gradient, ratio = report.entries["w"]
    assert size == 3
    assert weight == pytest.approx(5 * 3**0.5, rel=1e-5)
    assert gradient == pytest.approx(30 * 3**0.5, rel=1e-5)
    assert ratio == pytest.approx(0.06, rel=1e-5)


@pytest.mark.parametrize("change, error, words", [
    ({"trainer": None}, TypeError, "expected a trainer from jn.trainer"),
    ({"train_state": {}}, TypeError, r"must be the result of trainer.init\(key, batch\), got"),
    ({"batches": [([1.0], [2.0])]}, TypeError, "the input must be an array, .* got float in it"),
    ({"batches": []}, ValueError, "expected at least one batch"),
], ids=str)  # fmt: skip
def test_refusals(change, error, words):
    trainer, train_state = patient(healthy())
    given = {"trainer": trainer, "train_state": train_state, "batches": [BATCH]} | change
    with pytest.raises(error, match=f"doctor: .*{words}"):
        doctor(given["trainer"], given["train_state"], *given["batches"])


@pytest.mark.long
@pytest.mark.parametrize("last, loss, threshold, words", [
    ([jax.nn.sigmoid], optax.sigmoid_binary_cross_entropy, 0.5, "expected by the loss: leave out"),
    ([jax.nn.sigmoid], optax.squared_error, 0.0, r"by metrics\['right'\]: .*threshold=0.5"),
    ([jax.nn.sigmoid], optax.squared_error, 0.5, ""),
    ([], optax.sigmoid_binary_cross_entropy, 0.0, ""),
])  # fmt: skip
def test_a_sigmoid_before_what_takes_logits(last, loss, threshold, words):

    def right(outputs, targets):
        return jn.metrics.binary_accuracy(outputs, targets, threshold=threshold)

    def own_loss(outputs, targets):
        return loss(outputs, targets)

    objective = jn.supervised(jn.serial(jn.dense(1), *last), own_loss, metrics={"right": right})
    trainer = jn.trainer(objective, optax.sgd(0.1))
    batch = jnp.eye(4), jnp.array([[0.0], [1.0], [1.0], [0.0]])
    train_state = trainer.init(jax.random.key(0), batch)
    findings = doctor(trainer, train_state, batch).findings
    found = [finding for finding in findings if "logits" in finding]
    assert len(found) == bool(words)
    assert re.search(words, "".join(found))


LARGE_STEP = """
import jax, optax
import jax.numpy as jnp
import jaxnet as jn
CALL
net = jn.serial(jn.dense(64), jnp.tanh, jn.dense(1))
trainer = jn.trainer(jn.supervised(net, optax.squared_error), optax.sgd(0.01))
batch = jnp.ones((200_000, 64)), jnp.ones((200_000, 1))
train_state = trainer.init(jax.random.key(0), batch)
report = jn.inspect.doctor(trainer, train_state, batch)
print([finding for finding in report.findings if "jn.reuse_memory()" in finding])
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has this setting")
@pytest.mark.parametrize(("call", "count"), [("", 1), ("jn.reuse_memory()", 0)])
def test_memory_that_goes_back_to_the_system_is_said(call, count):
    findings = output_of(LARGE_STEP.replace("CALL", call))
    assert findings.count("page faults") == count, findings


def test_a_small_step_has_few_page_faults():
    assert memory_findings(lambda: None) == []


def test_a_schedule_free_optimizer_is_evaluated_by_other_params():
    trainer = jn.trainer(
        jn.supervised(jn.dense(1), optax.squared_error),
        optax.contrib.schedule_free_sgd(0.1),
    )
    batch = jnp.ones((4, 2)), jnp.zeros((4, 1))
    report = jn.inspect.doctor(trainer, trainer.init(jax.random.key(0), batch), batch)
    assert "optax.contrib.schedule_free_eval_params" in str(report)
