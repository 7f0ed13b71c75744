"""A stream as a program, step by step, gives what the net gives for the whole sequence."""

import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.interop.export import export, load_exported
from jaxnet.nets import carried_entries
from tests.catalogue import cases
from tests.helpers import close, drawn, refused
from tests.pages import ROOT
from tests.transforms.test_stream import KEEPS, NETS, TIMED, cut, draw, first, without_lengths

pytest.importorskip("flatbuffers", reason="jax.export writes its files with it")

KEYS_MAY_REPEAT = True  # one key draws the same weights and inputs for both sides
KEY = jax.random.key(3)
STREAMED = [row for row in TIMED if row.id in KEEPS]


def specs(x, batch, time):
    """The shapes of a chunk of any batch size and, if `time` is not None, of that many steps."""
    like = first(x)

    def part(a):
        shape = (batch, *a.shape[1:])
        if a is like and time is not None:
            shape = (batch, time, *a.shape[2:])
        return jax.ShapeDtypeStruct(shape, a.dtype)

    return jax.tree.map(part, x)


def in_steps(program, state, x, sizes):
    """The outputs of a program for chunks of these sizes, joined."""
    outputs, start = [], 0
    for size in sizes:
        chunk = cut(x, start, start + size)
        if state:
            y, state = program(state, chunk)
        else:
            y = program(chunk)
        outputs.append(first(y))
        start += size
    return jnp.concatenate(outputs, 1)


def check(net, params, state, x):
    """Step by step, by a program of any batch size, the outputs are those of the sequence."""
    whole, _ = jax.jit(net.apply)(params, state, x)
    time = first(x).shape[1]
    stream = jn.stream(net, time)
    (batch,) = jax.export.symbolic_shape("batch")
    start = jn.start_stream(stream, cut(x, 0, 1), state)
    program = export(stream, params, start, specs(cut(x, 0, 1), batch, None))
    hears = carried_entries(stream, params, start, cut(x, 0, 1))
    found = in_steps(program, start if hears else {}, x, [1] * time)
    close(found, first(whole), 1e-5)
    return program


@pytest.mark.slow
@pytest.mark.parametrize("row", cases(STREAMED))
def test_every_layer_that_streams_goes_on_as_a_program(row):
    x = without_lengths(row, jnp.float32)
    net, params, state = draw(row.make, x)
    check(net, params, state, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_nets_of_several_layers_go_on_as_programs(name):
    x = jax.random.normal(KEY, (3, 7, 8))
    net, params, state = draw(NETS[name], x)
    check(net, params, state, x)


POLICY = jn.serial(
    jn.conv(6, 3, padding="CAUSAL"), jn.batch_norm(), jnp.tanh, jn.gru(5), jn.dense(2)
)


def policy(x):
    params, state = drawn(POLICY, x)
    stream = jn.stream(POLICY)
    return stream, params, jn.start_stream(stream, x[:, :1], state), state


def test_a_program_of_any_batch_and_time(tmp_path):
    x = jax.random.normal(KEY, (3, 7, 4))
    stream, params, start, state = policy(x)
    batch, time = jax.export.symbolic_shape("batch, time")
    spec = jax.ShapeDtypeStruct((batch, time, 4), jnp.float32)
    saved = export(stream, params, start, spec).save(tmp_path / "policy.stablehlo")
    program = load_exported(saved)
    whole, _ = POLICY.apply(params, state, x)
    for rows, sizes in ((3, [2, 4, 1]), (1, [7])):
        start = jn.start_stream(stream, x[:rows, :1], state)
        close(in_steps(program, start, x[:rows], sizes), whole[:rows], 1e-5)
    heard = "conv/last, gru/h"  # the statistics of batch norm are weights
    assert str(program).startswith(f"(a state of {heard}, (batch, time, 4) float32) -> ")


def test_weights_outside_come_before_the_state():
    x = jax.random.normal(KEY, (2, 5, 4))
    stream, params, start, state = policy(x)
    program = export(stream, params, start, jn.spec((2, 1, 4)), weights_inside=False)
    entries = jax.tree_util.tree_leaves_with_path({"params": params, "state": state})
    weights = {"/".join(key.key for key in path): leaf for path, leaf in entries}
    whole, _ = POLICY.apply(params, state, x)
    y, heard = program(weights, start, x[:, :1])
    assert list(heard) == ["conv/last", "gru/h"]
    close(y, whole[:, :1], 1e-5)


def test_what_stays_is_no_state_of_a_program():
    repeated = jn.repeat(jn.serial(jn.dense(4), jn.batch_norm()), 3)
    for net in (repeated, jn.remat(repeated), jn.serial(jn.dense(3), jn.batch_norm())):
        x = jn.spec((2, 4))
        params, state = net.init(KEY, x)
        assert carried_entries(net, params, state, x) == {}


@pytest.mark.parametrize("row", cases())
def test_a_layer_outside_of_a_stream_leaves_its_state_in_evaluation(row):
    layer = row.make()
    params, state = jax.eval_shape(layer.init, KEY, row.x)
    assert carried_entries(layer, params, state, row.x) == {}


NAMED = {
    "jn.gru": (jn.gru(4), "h"),
    "reset_after": (jn.gru(4, reset_after=False), "carry_0"),
    "jn.lstm": (jn.lstm(4), "c, h"),
    "lstm_cell": (jn.recurrent(jn.layers.lstm_cell(4)), "carry_0, carry_1"),
    "jn.conv": (jn.conv(4, 3, padding="CAUSAL"), "last"),
    "jn.learned_positions": (jn.learned_positions(9), "index"),
    "jn.multi_head_attention": (jn.multi_head_attention(2, causal=True), "index, keys, values"),
    "gru_cell": (jn.recurrent(jn.layers.gru_cell(4)), "carry_0"),
    "jn.moe": (jn.moe(jn.dense(4), 2, 1), "none"),
}


@pytest.mark.parametrize("name", NAMED)
def test_the_guide_names_the_entries_of_each_layer(name):
    net, entries = NAMED[name]
    stream, x = jn.stream(net, 9), jn.spec((2, 1, 4))
    params, _ = jax.eval_shape(stream.init, KEY, x)
    carried = carried_entries(stream, params, jn.start_stream(stream, x), x)
    assert (", ".join(sorted(carried)) or "none") == entries
    page = (ROOT / "guide" / "serve.md").read_text()
    rows = [
        line.split(" | ")[1] for line in page.splitlines() if re.match(rf"\|.*\b{name}\b", line)
    ]
    assert re.sub(r"`| \(int32\)", "", rows[0]) == entries


def count_calls(m, x):
    calls = m.state("calls", jn.initializers.ones, (), jnp.int32)
    m.update("calls", calls + 1)
    return x * calls


COUNTS = jn.compose(count_calls)


def test_a_net_that_counts_its_calls():
    params, state = COUNTS.init(KEY, jn.spec((2, 3)))
    program = export(COUNTS, params, state, jn.spec((2, 3)))
    y, state = program(state, jnp.ones((5, 3)))
    y, state = program(state, jnp.ones((5, 3)))
    assert (float(y[0, 0]), int(state["calls"])) == (2, 3)


def small():
    stream, x = jn.stream(jn.gru(4)), jn.spec((2, 1, 5))
    params, _ = stream.init(KEY, x)
    return stream, params, jn.start_stream(stream, x), x


def with_x_alone():
    stream, params, state, x = small()
    return export(stream, params, state, x)(np.ones((2, 1, 5), np.float32))


def without_state():
    stream, params, state, x = small()
    return export(stream, params, state, x)({}, np.ones((2, 1, 5), np.float32))


def predicted():
    stream, params, state, x = small()
    return jn.predict(stream, params, state, np.ones((2, 1, 5), np.float32), batch_size=2)


@refused([
    (with_x_alone, r"program: expected \(a state of h, \(batch, 1, 5\) float32\), got"),
    (without_state, "program: the state needs h, got nothing"),
    (predicted, "changes its state in evaluation, h, as a stream does"),
])  # fmt: skip
def test_what_is_refused(call):
    call()
