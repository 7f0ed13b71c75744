"""Chunks of a sequence give what the whole sequence gives, or the layer says why not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.catalogue import ROWS, Row, cases, fill
from tests.core import test_run
from tests.helpers import KEY, jit_apply, refused


def first(given):
    """The leaf whose axis of time is divided."""
    if isinstance(given, dict):
        return given["x"]
    return given[0] if isinstance(given, tuple) else given


def with_first(given, x):
    """The whole input with another first part."""
    if isinstance(given, dict):
        return given | {"x": x}
    return (x, *given[1:]) if isinstance(given, tuple) else x


def cut(given, start, stop):
    """A chunk; a mask of all queries is cut with them, a memory and its lengths are not."""

    def part(name, a):
        is_of_queries = a.dtype == bool and a.ndim == 3
        return a[:, start:stop] if name in ("x", 0) or is_of_queries else a

    if isinstance(given, dict):
        return {name: part(name, a) for name, a in given.items()}
    if isinstance(given, tuple):
        return tuple(part(i, a) for i, a in enumerate(given))
    return part("x", given)


def in_chunks(net, params, state, x, sizes, **options):
    """The outputs of all chunks, joined, and the state after them."""
    stream = jn.stream(net, **options)
    state = jn.start_stream(stream, cut(x, 0, 1), state)
    apply = jax.jit(stream.apply)
    outputs, start = [], 0
    for size in sizes:
        y, state = apply(params, state, cut(x, start, start + size))
        outputs.append(first(y))
        start += size
    assert start == first(x).shape[1]
    return jnp.concatenate(outputs, 1), state


def has_time(row: Row) -> bool:
    x = first(row.x)
    if row.id == "rnnsearch":  # its stream is the target, behind a source that is whole
        return False
    is_carry = isinstance(row.x, dict) and "memory" not in row.x
    if is_carry or not hasattr(x, "shape"):
        return False
    return len(x.shape) > 2 or (len(x.shape) == 2 and x.dtype == jnp.int32)


# Lengths belong to a whole sequence: the law divides x alone.
WITH_LENGTHS = (
    "lstm",
    "gru",
    "recurrent",
    "bidirectional",
    "time_distributed",
    "last_step",
    "hmm",
    "transformer_block",
    "moe",
)
KEEPS = {
    "dense-no-bias", "conv-signal", "batch_norm", "layer_norm", "rms_norm", "local_response_norm",
    "l2_pool_channels", "spatial_dropout", "embedding", "embedding-tied", "learned_positions",
    "sinusoidal_positions", "additive_attention", "multi_head_attention",
    "multi_head_attention-cross", "multi_head_attention-normed", "transformer_block-decoder",
    "rnn", "lstm", "lstm-lengths", "gru", "gru-reset", "recurrent", "time_distributed", "mapped",
    "random_fourier", "moe", "moe-lengths",
}  # fmt: skip
TIMED = [row for row in ROWS if has_time(row)]


@pytest.mark.slow
@pytest.mark.parametrize("row", cases(TIMED))
def test_a_row_keeps_the_law_or_says_why_not(x64, row: Row):
    x = without_lengths(row, jnp.float64)
    net, params, state = draw(row.make, x)
    whole, _ = net.apply(params, state, x)
    time = first(x).shape[1]
    sizes = [1, time - 2, 1] if time > 2 else [1] * time
    if row.id not in KEEPS:
        words = {
            **dict.fromkeys(("lenet5", "lenet5_1998"), "images of shape"),
            "unet": "multiples of 2",
        }.get(row.id, "in a stream")
        with pytest.raises(ValueError, match=words):
            in_chunks(net, params, state, x, sizes, length=time)
        return
    chunks, _ = in_chunks(net, params, state, x, sizes, length=time)
    np.testing.assert_allclose(chunks, first(whole), rtol=1e-12, atol=1e-12)


def without_lengths(row, dtype):
    """The input of a row, without the lengths of whole sequences."""
    x = fill(row, dtype)
    of_whole = row.id.startswith(WITH_LENGTHS) and isinstance(x, tuple) and len(x) == 2
    return x[0] if of_whole else x


def test_the_list_has_only_rows_of_the_catalogue():
    assert {row.id for row in ROWS} >= KEEPS


blocks = partial(jn.transformer_block, 2, 12, causal=True)
attention = partial(jn.multi_head_attention, 4, causal=True)
NETS = {
    "windows": lambda: attention(window=(2, 0), kv_heads=2, rotary=True),
    "a window of nothing": lambda: attention(window=0),
    "a window without causal": lambda: jn.multi_head_attention(2, window=(3, 0), softcap=2.0),
    "heads": lambda: attention(kv_heads=1, head_size=6, scale=0.3, softcap=3.0),
    "rotation": lambda: attention(rotary=partial(jn.rotary, base=50.0, size=2)),
    "block": lambda: blocks(rotary=True, gated=True, norm=jn.rms_norm),
    "post": lambda: blocks(norm_at="sum", window=(1, 0)),
    "dilated": lambda: jn.conv(6, 3, padding="CAUSAL", dilation=3, groups=2),
    "long window": lambda: jn.depthwise_conv(9, padding="CAUSAL"),
    "pairs": lambda: jn.conv(3, 4, padding=[(3, 0)], use_bias=False),
    "a cell": lambda: jn.recurrent(jn.layers.lstm_cell(5)),
    "stack": lambda: jn.layers.stack_rnn(jn.gru(5, reset_after=False), jn.rnn(3), jn.lstm(4)),
    "norm": lambda: jn.serial(jn.dense(6), jn.batch_norm(), jax.nn.relu, jn.gru(3)),
    "positions": lambda: jn.serial(
        jn.layers.sinusoidal_positions(), jn.learned_positions(20), blocks()
    ),
    "param": lambda: jn.compose(
        lambda m, x: m(jn.gru(8), x) * m.param("scale", jn.initializers.ones, (8,))
    ),
}


def draw(make, x):
    net = make()
    params, state = net.init(KEY, x)
    return net, params, state


@pytest.mark.slow
@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_chunks_of_any_length_give_the_whole(x64, make):
    x = jax.random.normal(jax.random.key(1), (2, 11, 8), jnp.float64)
    net, params, state = draw(make, x)
    whole, _ = jax.jit(net.apply)(params, state, x)
    for sizes in ([11], [1, 6, 1, 3]):
        chunks, _ = in_chunks(net, params, state, x, sizes, length=11)
        np.testing.assert_allclose(chunks, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.fast_cases("dilated", "block", "a cell")
@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_below_cast_a_stream_computes_in_the_same_dtypes(make):
    """Keys and values are kept in the dtype of the computation, other state as it is."""
    x = jnp.ones((2, 5, 8))
    net = jn.cast(make(), jnp.bfloat16)
    params, state = jax.eval_shape(net.init, KEY, x)

    def dtypes(layer, state):
        seen = []

        def see(path, layer, x, y):
            seen.extend((layer.kind, leaf.dtype) for leaf in jax.tree.leaves(y))
            return y

        jax.eval_shape(jn.observe(layer, see, transforms=True).apply, params, state, x)
        return [each for each in seen if each[0] not in ("cast", "stream")]

    around = jn.cast(jn.stream(make(), 5), jnp.bfloat16)
    for stream in jn.stream(net, 5), around:
        kept = jax.eval_shape(partial(jn.start_stream, stream, x), state)
        assert dtypes(stream, kept) == dtypes(net, state)
        assert all(a.dtype == jnp.bfloat16 for a in jax.tree.leaves(kept) if a.ndim == 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: jn.serial(jn.learned_positions(20), blocks(rotary=True), jn.gru(4)),
        lambda: jn.serial(blocks(window=(2, 0)), jn.conv(5, 3, padding="CAUSAL", dilation=2)),
        lambda: jn.recurrent(jn.layers.lstm_cell(5)),
    ],
    ids=["attention", "windows", "cell"],
)
def test_every_example_has_its_own_number_of_steps(x64, make):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 13, 8)))
    net, params, state = draw(make, x)
    whole, _ = jit_apply(net, params, state, x)
    stream = jn.stream(net, 13, ragged=True)
    state = jn.start_stream(stream, (x, jnp.zeros(3, int)), state)
    apply = jax.jit(stream.apply)
    done = np.zeros(3, int)
    for steps in ([4, 0, 2], [1, 3, 4], [0, 0, 0], [4, 4, 1], [4, 4, 4]):
        chunk = np.full((3, 4, 8), 77.0)  # what does not count reaches nothing
        for i, n in enumerate(steps):
            chunk[i, :n] = x[i, done[i] : done[i] + n]
        y, state = apply(params, state, (jnp.asarray(chunk), jnp.asarray(steps)))
        for i, n in enumerate(steps):
            np.testing.assert_allclose(y[i, :n], whole[i, done[i] : done[i] + n], 1e-10, 1e-11)
            done[i] += n


def test_the_state_is_the_nets_and_what_is_kept():
    net = jn.serial(jn.dense(4), jn.batch_norm(), jn.gru(3))
    x = jnp.ones((2, 5, 4))
    params, state = net.init(KEY, x)
    trained = jax.tree.map(lambda a: a + 2, state)
    stream = jn.stream(net)
    start = jn.start_stream(stream, x, trained)
    assert jax.tree.map(jnp.shape, start["gru"]) == {"h": (2, 3)}
    np.testing.assert_array_equal(start["batch_norm"]["var"], trained["batch_norm"]["var"])
    np.testing.assert_array_equal(jn.start_stream(stream, x)["batch_norm"]["var"], np.ones(4))
    jax.tree.map(np.testing.assert_array_equal, stream.init(KEY, x)[0], params)


shared = jn.gru(8, name="shared")


@refused(
    [
        (jn.serial(jn.dense(4), lambda x: x.mean(1)), r"serial/lambda: must keep \(batch, time\)"),
        (jn.serial(shared, shared), "serial/shared: is called twice in a stream"),
        (jn.multi_head_attention(2), "attends to later places"),
        (jn.multi_head_attention(2, window=(3, 1)), "attends to later places"),
        (attention(), r"multi_head_attention: .* write jn.stream\(net, length\)"),
        (jn.conv(3, 3), 'conv: needs padding="CAUSAL"'),
        (jn.conv(3, 4, strides=2, padding="CAUSAL"), 'padding="CAUSAL" and strides of 1'),
        (jn.serial(jn.dense(4), jn.bidirectional(jn.gru(2))), "serial/bidirectional: reads each"),
    ]
)
def test_what_does_not_work_in_a_stream_is_said_with_its_path(net):
    x = jnp.ones((2, 5, 8))
    in_chunks(net, *net.init(KEY, x), x, [3, 2])


def attended(m, given):
    source, target = given
    memory = m.whole(jn.bidirectional(jn.gru(4)), source)
    return m(jn.multi_head_attention(2), m(jn.gru(8), target), memory=memory)


def averaged(m, given):
    """The part changes batch and time."""
    source, target = given
    mean = m.whole(jn.serial(lambda x: x.mean(1), jn.dense(8)), source)
    return m(jn.gru(4), target + mean[:, None])


@pytest.mark.parametrize("forward", [pytest.param(attended, marks=pytest.mark.slow), averaged])
def test_a_part_outside_the_stream_gets_its_whole_input_at_each_call(x64, forward):
    net = jn.compose(forward, name="translator")
    source, target = jax.random.normal(jax.random.key(1), (2, 3, 5, 8), jnp.float64)
    params, state = net.init(KEY, (source, target))
    whole, _ = net.apply(params, state, (source, target))
    stream = jn.stream(net)
    state = jn.start_stream(stream, (source, target))
    a, state = stream.apply(params, state, (source, target[:, :2]))
    b, state = stream.apply(params, state, (source, target[:, 2:]))
    np.testing.assert_allclose(jnp.concatenate([a, b], 1), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_batch_axes():
    net = jn.serial(jn.dense(4), jn.batch_norm(), jn.repeat(jn.gru(4), 3), jn.gru(2))
    x = jnp.ones((1, 5, 4))
    axes = jn.transforms.batch_axes(jn.stream(net), x)
    assert axes == {"batch_norm": {"mean": -1, "var": -1}, "gru": {"h": 1}, "gru_1": {"h": 0}}
    ragged = jn.stream(net, ragged=True)
    assert jn.transforms.batch_axes(ragged, (x, jnp.ones(1, int))) == axes


KERNELS = "*(kernel|embedding)"
UNLIKE = {"mapped", "pair", "time_distributed", "recurrent", "experts"}  # not of whole sequences
TRANSFORMS = {name: make for name, make in test_run.TRANSFORMS.items() if name not in UNLIKE} | {
    "ensemble": lambda net: jn.serial(jn.ensemble(net, 2), lambda y: y[0] + y[1]),
    "cast": lambda net: jn.cast(net, jnp.float64),
    "lora": lambda net: jn.lora(net, 2, where=KERNELS),
    "lora of quantized": lambda net: jn.lora(jn.quantized(net), 2, where=KERNELS),
    "moving_average": lambda net: jn.serial(
        lambda x: (x, -x), jn.transforms.moving_average(net), lambda given: given[0] + 2 * given[1]
    ),
}


def everything():
    """A net that keeps each kind of entry, with outputs like its inputs (batch, time, 4)."""
    attention = jn.multi_head_attention(2, causal=True, rotary=True, name="attention")
    conv = jn.conv(4, 2, padding="CAUSAL")
    return jn.serial(jn.learned_positions(9), conv, jn.batch_norm(), attention, jn.lstm(4))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_keeps_the_law_in_a_scan_and_in_its_gradient(x64, name):
    """Chunks of two steps, run by `scan` in one program, the gradient through all of them."""
    x = jax.random.normal(jax.random.key(1), (2, 6, 4), jnp.float64)
    net, params, state = draw(lambda: TRANSFORMS[name](everything()), x)
    check_values_and_gradients(net, params, state, x, 2)


def check_values_and_gradients(net, params, state, x, size):
    time = first(x).shape[1]
    stream = jn.stream(net, time)
    empty = jn.start_stream(stream, cut(x, 0, size), state)
    leaves, tree = jax.tree.flatten(params)
    floats = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def merged(some):
        given = dict(zip(floats, some, strict=True))
        return jax.tree.unflatten(tree, [given.get(i, leaf) for i, leaf in enumerate(leaves)])

    def loss_of_all_steps(some):
        y = first(net.apply(merged(some), state, x)[0])
        return jnp.sin(y).sum(), y

    def chunks(some):
        def one(state, start):
            part = jax.lax.dynamic_slice_in_dim(first(x), start, size, 1)
            part = with_first(x, part)
            y, state = stream.apply(merged(some), state, part)
            return state, first(y)

        _, y = jax.lax.scan(one, empty, jnp.arange(0, time, size))
        y = y.swapaxes(0, 1).reshape(y.shape[1], time, *y.shape[3:])
        return jnp.sin(y).sum(), y

    given = [leaves[i] for i in floats]
    ours, theirs = (jax.jit(jax.grad(f, has_aux=True))(given) for f in (chunks, loss_of_all_steps))
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-12, atol=1e-12)
    for a, b in zip(ours[0], theirs[0], strict=True):
        if a.dtype == jnp.bfloat16:  # of scales, whose sums over chunks have 8 digits
            a, b = (np.float64(leaf) / abs(np.float64(b)).max() for leaf in (a, b))
            np.testing.assert_allclose(a, b, rtol=0, atol=0.03)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("row", cases(row for row in TIMED if row.id in KEEPS))
def test_a_row_keeps_the_law_in_a_scan_and_in_its_gradient(x64, row: Row):
    x = without_lengths(row, jnp.float64)
    if isinstance(x, dict) and row.id == "multi_head_attention-cross":
        del x["mask"]  # of all queries
    net, params, state = draw(row.make, x)
    check_values_and_gradients(net, params, state, x, 1)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_no_transform_hides_that_a_layer_is_not_causal(name):
    net = TRANSFORMS[name](jn.serial(jn.dense(4), jn.multi_head_attention(2, name="attention")))
    with pytest.raises(ValueError, match="serial/attention: attends to later places"):
        jn.start_stream(jn.stream(net, 5), jn.spec((2, 5, 4)))


ON_MESH = """
import jax, jax.numpy as jnp, numpy as np, jaxnet as jn
from jax.sharding import PartitionSpec as P
from tests.catalogue import ROWS
from tests.transforms.test_stream import (
    KEEPS, KEY, NETS, attention, cut, first, without_lengths)

jax.config.update("jax_enable_x64", True)
kind = jax.sharding.AxisType.Auto
line = jax.make_mesh((4,), ("data",), (kind,))
grid = jax.make_mesh((2, 2), ("data", "model"), (kind, kind))

def check(name, net, x, mesh, rules=P(), heads=None):
    params, state = net.init(KEY, x)
    whole = first(jax.jit(net.apply)(params, state, x)[0])
    time = first(x).shape[1]
    stream = jn.stream(net, time)
    kept = jn.start_stream(stream, cut(x, 0, 1), state)

    def where(path, leaf, axis):
        spec = [None] * leaf.ndim
        if axis >= 0:
            spec[axis] = "data"
            if heads and path[-1].key in ("keys", "values"):
                spec[axis + 1] = heads
        return jn.distributed.shardings(leaf, mesh, P(*spec))

    axes = jn.transforms.batch_axes(stream, cut(x, 0, 1))
    where = jax.tree_util.tree_map_with_path(where, kept, axes)
    kept = jax.device_put(kept, where)
    params = jn.distributed.put(params, mesh, rules) if params else params
    apply, chunks, start = jax.jit(stream.apply), [], 0
    for size in [1, time - 2, 1] if time > 2 else [1] * time:
        part = jn.distributed.put(cut(x, start, start + size), mesh, P("data"))
        y, kept = apply(params, kept, part)
        assert len(first(y).sharding.device_set) == 4, name
        chunks.append(np.asarray(first(y)))
        start += size
    np.testing.assert_allclose(np.concatenate(chunks, 1), whole, 1e-12, 1e-12, err_msg=name)
    for leaf, there in zip(jax.tree.leaves(kept), jax.tree.leaves(where), strict=True):
        assert leaf.sharding.is_equivalent_to(there, leaf.ndim), (name, leaf.sharding, there)

for row in ROWS:
    if row.id in KEEPS:
        of_four = [jn.spec((4, *leaf.shape[1:]), leaf.dtype) for leaf in jax.tree.leaves(row.x)]
        row = row._replace(x=jax.tree.unflatten(jax.tree.structure(row.x), of_four))
        check(row.id, row.make(), without_lengths(row, float), line)
x = np.random.default_rng(0).normal(size=(4, 7, 8))
for name, make in NETS.items():
    check(name, make(), x, line)

rules = lambda path, shape: (
    P(*[None] * (len(shape) - 2), "model") if path.split("/")[-2] in ("query", "key", "value")
    else P(*[None] * (len(shape) - 3), "model") if path.endswith("out/kernel") else P()
)
for name, net in {
    "heads": attention(rotary=True),
    "grouped heads with a window": attention(kv_heads=2, window=(2, 0)),
    "repeated blocks": jn.repeat(jn.transformer_block(4, 12, causal=True, rotary=True), 2),
}.items():
    check(name, net, x, grid, rules, "model")
"""


@pytest.mark.long
def test_the_law_on_a_mesh_of_four_devices(on_devices):
    """The batch is divided among the devices, and the heads of attention too."""
    on_devices(ON_MESH, 4)


@pytest.mark.slow
def test_padding_beyond_the_length_stays_out_of_a_window_behind():

    def window(name):
        return jn.multi_head_attention(2, window=(2, 0), name=name)

    net = jn.serial(window("a"), window("b"))
    x = jax.random.normal(jax.random.key(1), (1, 4, 8))
    params, state = net.init(KEY, x)
    stream = jn.stream(net, length=4, ragged=True)
    state = jn.start_stream(stream, (x, jnp.array([3])))
    _, state = stream.apply(params, state, (x[:, :3], jnp.array([3])))
    chunk = jnp.concatenate([x[:, 3:], jnp.zeros((1, 2, 8))], 1)
    y, _ = stream.apply(params, state, (chunk, jnp.array([1])))
    np.testing.assert_allclose(y[0, 0], net.apply(params, {}, x)[0][0, 3], 1e-5, 1e-5)


@refused([
    (lambda stream, x: jn.stream(jn.gru(3), 0), "stream: length must be at least 1"),
    (lambda stream, x: jn.start_stream(jn.stream(jn.gru(3), ragged=True), x),
     r"with ragged=True the input is \(x, steps\)"),
    (lambda stream, x: jn.start_stream(stream, x, {"lstm": jnp.zeros(2)}), "lstm: unknown entry"),
    (lambda stream, x: stream.apply(*stream.init(KEY, x), jnp.ones((3, 5, 4))),
     r"gru/h: expected \(3, 3\), got \(2, 3\)"),
    (lambda stream, x: stream.apply(*stream.init(KEY, x), {"x": x, "initial": x[:, 0, :3]}),
     "gru: in a stream the carry is in the state"),
])  # fmt: skip
def test_refusals(call):
    call(jn.stream(jn.gru(3)), jnp.ones((2, 5, 4)))
