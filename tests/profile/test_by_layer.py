"""Cost and time by layer, by hand and against the compiler's own figures."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxnet as jn
from jaxnet.ops.native import instructions
from jaxnet.profile import cost_by_layer, time_by_layer
from jaxnet.profile.by_layer import LayerTime, LayerTimes
from jaxnet.profile.program import layer_of, parse
from jaxnet.profile.trace import Event

spec = jn.spec
pytestmark = pytest.mark.usefixtures("names_are_those_of_this_program")


NET = jn.serial(jn.dense(5, name="hidden"), jnp.tanh, jn.dense(2), name="net")
IMAGES = jn.serial(jn.conv(6, 3, strides=2), jax.nn.relu, jn.global_avg_pool(), jn.dense(2))


def compiled_step(net, x, y):
    trainer = jn.trainer(jn.supervised(net, optax.squared_error), optax.sgd(0.1))
    train_state = jax.eval_shape(lambda: trainer.init(jax.random.key(0), (x, y)))
    return jax.jit(trainer.step).lower(train_state, (x, y)).compile()


def rows(costs):
    return {row.path: row for row in costs.rows}


def test_a_step_by_hand():
    costs = cost_by_layer(compiled_step(NET, spec((7, 3)), spec((7, 2))))
    found = rows(costs)
    hidden, last = 2 * 7 * 3 * 5, 2 * 7 * 5 * 2
    assert found["net/hidden"][1:3] == (hidden, hidden)  # no gradient of x
    assert found["net/dense"][1:3] == (last, 2 * last)
    assert found["net"][1:3] == (hidden + last, hidden + 2 * last)
    assert costs.flops == costs.once == 2 * hidden + 3 * last
    assert costs.flops < costs.compiler < 2 * costs.flops  # which counts the update too
    params = 4 * (3 * 5 + 5 + 5 * 2 + 2)
    assert found["optimizer"].forward_bytes >= 2 * params
    assert found["optimizer"].forward == 0
    assert found["net/hidden"].forward_bytes >= 4 * (7 * 3 + 3 * 5 + 7 * 5)
    top = [row for row in costs.rows if "/" not in row.path]
    assert costs.bytes == sum(row.forward_bytes + row.backward_bytes for row in top)


def test_loops_count_every_iteration():
    net = jn.repeat(jn.remat(jn.serial(jn.dense(5, name="d"), name="block")), 4)
    costs = cost_by_layer(compiled_step(net, spec((7, 5)), spec((7, 5))))
    one = 2 * 7 * 5 * 5
    # The first product again in the backward pass of remat, which XLA may find to be of no use.
    assert rows(costs)["block/d"].forward == 4 * one
    assert rows(costs)["block/d"].backward in (4 * 2 * one, 4 * 3 * one)
    assert costs.once * 4 == costs.flops


def test_times_of_any_size_have_one_layout():
    def lines(ms):
        times = LayerTimes([LayerTime("net", ms, 2 * ms), LayerTime("", ms, 0.0)], runs=5)
        return [len(line) for line in str(times).splitlines()]

    assert lines(0.001) == lines(9.559) == lines(99.9) == lines(200.0)


def test_convolutions_agree_with_the_compiler(convolutions_by_xla):
    costs = cost_by_layer(compiled_step(IMAGES, spec((4, 9, 8, 3)), spec((4, 2))))
    assert 0.75 < costs.flops / costs.compiler < 1
    assert costs.rows[0].path == "serial"
    assert rows(costs)["serial/conv"].backward > 0


def test_convolutions_in_c_are_counted():
    """As many FLOPs as in XLA's form; the compiler does not know them."""
    if not instructions():
        pytest.skip("no kernels in C")
    costs = cost_by_layer(compiled_step(IMAGES, spec((4, 9, 8, 3)), spec((4, 2))))
    inside = 13 * 11  # pairs of a tap and an output that meet a pixel, along 9 and along 8
    assert rows(costs)["serial/conv"].forward == 2 * 4 * inside * 3 * 6
    assert rows(costs)["serial/conv"].backward == 2 * 4 * inside * 3 * 6


def test_bytes_agree_with_the_compiler():
    compiled = compiled_step(jn.models.mlp([50, 20]), spec((70, 30)), spec((70, 20)))
    counted = compiled.cost_analysis()["bytes accessed"]
    assert cost_by_layer(compiled).bytes == pytest.approx(counted, rel=0.05)


def test_a_share_without_a_layer_is_shown(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    program = jax.jit(lambda a, b: a @ b).lower(jnp.ones((3, 5)), jnp.ones((5, 7))).compile()
    costs = cost_by_layer(program)
    assert costs.rows == [("", 210, 0, 4 * (15 + 35 + 21), 0)]
    assert "(no layer)    210            284 B" in str(costs)
    assert "the compiler counts 210 FLOPs" in str(costs)


@pytest.mark.slow
def test_measured_times(tmp_path):
    net = jn.serial(jn.dense(300, name="wide"), jnp.tanh, jn.dense(2), name="net")
    params, state = net.init(jax.random.key(0), spec((200, 300)))
    x = jnp.ones((200, 300))

    def loss(params):
        return net.apply(params, state, x)[0].sum()

    run = jax.jit(jax.grad(loss)).lower(params).compile()
    jax.block_until_ready(run(params))
    with jax.profiler.trace(tmp_path):
        for _ in range(3):
            jax.block_until_ready(run(params))
    times = time_by_layer(run, tmp_path)
    assert times.runs == 3
    found = {row.path: row for row in times.rows}
    assert 0 < found["net/wide"].forward <= found["net"].forward < 1000
    assert 0 < found["net/wide"].backward <= found["net"].backward < 1000
    assert "mean of 3 runs" in str(times)

    other = jax.jit(lambda x: x + 1).lower(x).compile()
    with pytest.raises(ValueError, match="holds no run of jit__lambda; run this compiled program"):
        time_by_layer(other, tmp_path)

    def loss(params):  # another program of the same name
        y, _ = net.apply(params, state, x)
        return (y**2).mean() / jnp.cosh(params["wide"]["bias"]).max()

    other = jax.jit(jax.grad(loss)).lower(params).compile()
    with pytest.raises(ValueError, match="holds a run of another program, .* jit_loss"):
        time_by_layer(other, tmp_path)


READ = """
import jax, jax.numpy as jnp, jaxnet as jn
run = jax.jit(lambda x: jn.dense(5).apply({"kernel": x, "bias": x[0]}, {}, x)[0])
run = run.lower(jnp.ones((5, 5))).compile()
with jax.profiler.trace(folder):
    jax.block_until_ready(run(jnp.ones((5, 5))))
assert jn.profile.time_by_layer(run, folder).runs == 1
"""


@pytest.mark.slow
def test_a_trace_is_read_if_warnings_are_errors(tmp_path):
    """The reader of JAX 0.12 ends the process, so this needs a process of its own."""
    command = [sys.executable, "-W", "error", "-c", f"folder = {str(tmp_path)!r}\n{READ}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_durations_are_added_by_layer_and_divided_by_runs(tmp_path, monkeypatch):
    """Of two runs, each instruction of the program with its own duration."""
    params, state = NET.init(jax.random.key(0), spec((7, 3)))
    run = jax.jit(lambda params, x: NET.apply(params, state, x)[0])
    compiled = run.lower(params, spec((7, 3))).compile()
    program = parse(compiled.as_text())
    known = [one.instruction for one in program.runs() if not one.fused]
    module = compiled.as_text().removeprefix("HloModule ").partition(",")[0]
    durations = {one.name: 1e6 * (i + 1) for i, one in enumerate(known)}  # 1 ms, 2 ms, ...
    events = [
        Event({"hlo_op": name, "hlo_module": module, "run_id": i, "device_ordinal": 0}, ns)
        for i in range(2)
        for name, ns in durations.items()
    ]
    events.append(Event({}, 1e9))  # of no program
    monkeypatch.setattr("jaxnet.profile.by_layer.events", lambda data: events)
    (tmp_path / "a.xplane.pb").write_bytes(b"")
    times = time_by_layer(compiled, tmp_path)
    layers = {one.name: layer_of(program.origin(one))[0] for one in known}
    expected = {
        path: sum(ns for name, ns in durations.items() if layers[name][: len(path)] == path) / 1e6
        for path in {layers[name] for name in durations if layers[name]}
    }
    assert times.runs == 2
    assert expected
    found = {tuple(row.path.split("/")): row for row in times.rows}
    for path, ms in expected.items():
        assert found[path].forward == pytest.approx(ms)
        assert found[path].backward == 0


LOWERED = jax.jit(jnp.sin).lower(1.0)


@pytest.mark.parametrize("call, error, words", [
    (lambda empty: cost_by_layer(LOWERED), TypeError,
     r"a compiled program, such as jax.jit\(f\).lower\(x\).compile\(\), got Lowered"),
    (lambda empty: cost_by_layer(jnp.sum), TypeError,
     "a compiled program, such as .*, got function"),
    (lambda empty: time_by_layer(LOWERED.compile(), empty), ValueError, "no trace in"),
    (lambda empty: time_by_layer(LOWERED.compile(), object()), TypeError,
     "time_by_layer: trace must be a str or a Path, got object"),
])  # fmt: skip
def test_refusals(call, error, words, tmp_path):
    with pytest.raises(error, match=words):
        call(tmp_path)
