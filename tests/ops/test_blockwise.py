"""Attention in blocks against attention with all scores, its derivatives, memory and FLOPs."""

from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.ops import blockwise
from jaxnet.ops.attention import Scoring, dot_product_attention, in_window
from jaxnet.ops.blockwise import blockwise_attention, in_blocks, see, sizes_of_blocks
from jaxnet.ops.native import call
from jaxnet.profile.program import flops_of, parse
from tests.helpers import close, compiled, temporary

KEYS_MAY_REPEAT = True  # dropout's weights are compared with the gradient's

SMALL = partial(blockwise_attention, block=8)


def draw(*shape, seed=0, dtype=None):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def inputs(batch, time, places, heads, kv_heads, size, width, dtype=None):
    shapes = (time, heads, size), (places, kv_heads, size), (places, kv_heads, width)
    return [draw(batch, *shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]


def dense_mask(time, places, causal=False, window=None, lengths=None):
    """The booleans that `see` says in ranges."""
    before, after = window or (time + places, places)
    mask = in_window(time, places, (before, 0 if causal else after))[None, None]
    if lengths is None:
        return mask
    return mask & (jnp.arange(places) < lengths[:, None])[:, None, None]


def slow(*case, id):
    return pytest.param(*case, id=id, marks=pytest.mark.slow)


CASES = [  # batch, time, places, heads, kv_heads, size, width; ranges; other options
    pytest.param((2, 19, 29, 2, 2, 5, 24), {}, {}, id="odd"),
    pytest.param((2, 21, 21, 2, 1, 16, 16), {"causal": True, "window": (3, 0)}, {}, id="window"),
    pytest.param((3, 19, 19, 2, 2, 5, 5), {"causal": True, "lengths": [0, 19, 7]}, {},
                 id="lengths"),
    pytest.param((1, 37, 37, 2, 2, 5, 5), {"window": (9, 4)}, {}, id="both sides"),
    slow((3, 37, 37, 2, 1, 5, 5), {"window": (2, 5), "lengths": [0, 37, 7]}, {}, id="all ranges"),
    slow((2, 19, 29, 6, 2, 5, 7), {}, {"softcap": 2.0, "scale": 0.7}, id="groups, softcap"),
    slow((2, 19, 29, 4, 2, 5, 7), {}, {"mask": (2, 4, 19, 29)}, id="mask"),
    slow((2, 19, 19, 4, 2, 5, 7), {"causal": True}, {"mask": (2, 1, 1, 19)}, id="padding"),
    slow((2, 19, 29, 4, 2, 5, 7), {}, {"bias": (2, 4, 19, 29), "softcap": 2.0}, id="bias"),
    slow((2, 19, 29, 4, 2, 5, 7), {}, {"bias": (1, 4, 1, 29)}, id="bias of places"),
    slow((2, 29, 29, 4, 2, 5, 7), {"window": (3, 1)}, {"bias": (1, 4, 29, 29)},
         id="bias, window"),
]  # fmt: skip


def forms(sizes, ranges, options):
    """Both forms as functions of arrays, and their arrays."""
    batch, time, places = sizes[:3]
    options = dict(options)
    ranges = dict(ranges)
    arrays = inputs(*sizes)
    if "lengths" in ranges:
        ranges["lengths"] = jnp.array(ranges["lengths"])
    if "bias" in options:
        arrays.append(draw(*options.pop("bias"), seed=4))
    mask = None
    seen = dense_mask(time, places, **ranges)
    if "mask" in options:
        mask = draw(*options.pop("mask"), seed=5) > -0.5
        seen &= mask

    def ours(q, k, v, bias=None):
        scoring = Scoring(bias=bias, **options)
        y, _ = SMALL(q, k, v, see(time, places, **ranges), mask, scoring)
        return y

    def dense(q, k, v, bias=None):
        scoring = Scoring(bias=bias, **options)
        y, _ = dot_product_attention(q, k, v, seen, scoring)
        return y

    return ours, dense, arrays


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "ranges", "options"), CASES)
def test_values_and_gradients(sizes, ranges, options, x64):
    ours, dense, arrays = forms(sizes, ranges, options)
    slope = draw(*sizes[:2], sizes[3], sizes[6], seed=6)

    def everything(form):
        def run(*arrays):
            y, pull = jax.vjp(form, *arrays)
            return y, pull(slope)

        return jax.jit(run)(*arrays)

    with jax.numpy_rank_promotion("raise"):  # users may forbid it
        found = everything(ours)
    close(found, everything(dense), 1e-10, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "ranges", "options"), [CASES[i] for i in (1, 2, 5, 7, 8)])
def test_forward_mode_and_second_derivatives(sizes, ranges, options, x64):
    ours, dense, arrays = forms(sizes, ranges, options)
    along = tuple(draw(*a.shape, seed=7) for a in arrays)
    every = tuple(range(len(arrays)))

    def everything(form):
        def loss(*a):
            return (form(*a) ** 3).sum()

        def slope(*a):
            gradients = jax.grad(loss, every)(*a)
            return sum((g * t).sum() for g, t in zip(gradients, along, strict=True))

        def all_three(*a):
            _, tangent = jax.jvp(loss, a, along)
            _, of_gradient = jax.jvp(jax.grad(loss, every), a, along)
            return tangent, of_gradient, jax.grad(slope, every)(*a)

        return jax.jit(all_three)(*arrays)

    close(everything(ours), everything(dense), 1e-9, 1e-10)


@pytest.mark.slow
def test_vmap_scan_and_remat(x64):
    q, k, v = (a.reshape(3, 2, *a.shape[1:]) for a in inputs(6, 19, 19, 2, 2, 5, 5))
    lengths = jnp.array([[3, 19], [0, 9], [12, 1]])

    def value_and_slopes(attend, q, k, v, lengths):
        def loss(q, k, v):
            return (attend(q, k, v, lengths) ** 2).sum()

        return jax.value_and_grad(loss, (0, 1, 2))(q, k, v)

    def ours(q, k, v, lengths):
        y, _ = SMALL(q, k, v, see(19, 19, causal=True, lengths=lengths))
        return y

    def dense(q, k, v, lengths):
        y, _ = dot_product_attention(q, k, v, dense_mask(19, 19, True, None, lengths))
        return y

    def scanned(*given):
        def step(_, given):
            return None, value_and_slopes(jax.checkpoint(ours), *given)

        _, found = jax.lax.scan(step, None, given)
        return found

    wanted = jax.jit(jax.vmap(partial(value_and_slopes, dense)))(q, k, v, lengths)
    mapped = jax.vmap(partial(value_and_slopes, ours))
    for run in (mapped, scanned):
        close(jax.jit(run)(q, k, v, lengths), wanted, 1e-9, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, slow(jnp.float16, id="float16")])
def test_sums_of_narrow_inputs_are_float32(dtype):
    """A sum over 400 places in blocks of 8: sums of 16 bits would lose most of them."""
    q, k, v = inputs(1, 8, 400, 1, 1, 8, 8, dtype)

    def slopes(form, *a):
        y, pull = jax.vjp(lambda *a: form(*a)[0], *a)
        return y, *pull(jnp.ones_like(y))

    ours = jax.jit(lambda *a: slopes(SMALL, *a))(q, k, v + 1)
    wide = [a.astype(jnp.float32) for a in (q, k, v + 1)]
    for a, b in zip(ours, slopes(dot_product_attention, *wide), strict=True):
        assert a.dtype == dtype
        close(a.astype(np.float32), b, 0.02, 0.02 * float(abs(b).max()))


@pytest.mark.slow
def test_queries_that_see_nothing():
    q, k, v = inputs(2, 9, 19, 1, 1, 4, 4, jnp.float32)
    ranges = see(9, 19, lengths=jnp.array([0, 19]))
    attend = partial(SMALL, ranges=ranges)

    def loss(q, k, v):
        y, _ = attend(q, k, v)
        return y.sum()

    with jax.debug_nans(True):
        y, total = jax.jit(attend)(q, k, v)
        slopes = jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v)
    assert not y[0].any()
    assert y[1].all()
    assert (total[0] == -np.inf).all()
    assert np.isfinite(total[1]).all()
    assert not any(slope[0].any() for slope in slopes)
    assert slopes[2][1].any()


@pytest.mark.slow
def test_the_logarithm_of_the_sum_and_its_gradient(x64):
    q, k, v = inputs(1, 9, 19, 2, 1, 4, 4)

    def wanted(q, k):
        return jax.nn.logsumexp(jnp.einsum("bthd,bsd->bhts", q, k[:, :, 0]) / 2, -1)

    def slope(form):
        return jax.jit(jax.grad(lambda *a: jnp.sin(form(*a)).sum(), (0, 1)))(q, k)

    np.testing.assert_allclose(SMALL(q, k, v)[1], wanted(q, k), 1e-12)
    close(slope(wanted), slope(lambda q, k: SMALL(q, k, v)[1]), 1e-9, 1e-12)


def attends_to_what_it_sees(attention, bad):
    """Whether a place that is not finite reaches only the queries that see it; returns `attend`.

    The places lie within a block of places that other queries read.
    """
    q, k, v = inputs(2, 16, 16, 2, 2, 4, 4, jnp.float32)
    at = np.arange(16)
    ranges = see(16, 16, causal=True, window=(2, 0), lengths=jnp.array([16, 11]))
    attend = jax.jit(lambda q, k, v: attention(q, k, v, ranges)[0])
    slope = jax.jit(jax.grad(lambda *a: attend(*a)[:, at < 5].sum(), (0, 1, 2)))
    wanted, slopes = attend(q, k, v), slope(q, k, v)
    for bad_k, bad_v in ((k.at[:, 5, 0, 1].set(bad), v), (k, v.at[:, 5, 0, 1].set(bad))):
        y = attend(q, bad_k, bad_v)
        sees = (at >= 5) & (at < 8)
        assert np.isnan(y[:, sees, 0]).all()
        np.testing.assert_array_equal(y[:, ~sees], wanted[:, ~sees])
        np.testing.assert_array_equal(y[:, :, 1], wanted[:, :, 1])
        found = slope(q, bad_k, bad_v)
        for a, b, end in zip(found, slopes, (5, 3, 3), strict=True):  # query 5 sees place 3
            np.testing.assert_array_equal(a[:, :end], b[:, :end])
    np.testing.assert_array_equal(attend(q, k, v.at[1, 11:].set(bad)), wanted)  # padding
    return attend


def with_all_scores(q, k, v, ranges):
    at = np.arange(k.shape[1])
    first, last = (edge[..., None] for edge in ranges[:2])
    return dot_product_attention(q, k, v, ((first <= at) & (at < last))[:, None])


@pytest.mark.slow
@pytest.mark.parametrize("bad", [np.nan, slow(np.inf, id="inf")])
@pytest.mark.parametrize("attention", [SMALL, with_all_scores])
def test_a_place_that_is_not_finite_reaches_only_queries_that_see_it(attention, bad):
    attends_to_what_it_sees(attention, bad)


@pytest.mark.slow
def test_a_place_that_is_not_finite_below_a_table_reaches_all_that_see_it():
    q, k, v = inputs(2, 16, 16, 2, 2, 4, 4, jnp.float32)
    ranges, table = see(16, 16, causal=True, window=(2, 0)), jnp.ones((2, 1, 16, 16), bool)
    y, _ = SMALL(q, k, v.at[:, 5].set(np.nan), ranges, table)
    assert np.flatnonzero(np.isnan(y).any((0, 2, 3))).tolist() == [5, 6, 7]


@pytest.mark.slow
@pytest.mark.parametrize("time", [1, 16])
@pytest.mark.parametrize("attention", [SMALL, dot_product_attention])
def test_nan_at_a_masked_place_reaches_no_query(attention, time):
    """A mask of padding, and one by queries of which only the last see the NaN."""
    q, k, v = inputs(2, 16, 16, 2, 2, 4, 4, jnp.float32)
    q, at = q[:, :time], np.arange(16)
    for mask in ((at < 13)[None], at <= at[:time, None]):
        mask = jnp.asarray(mask)[None, None]

        def total(*a, mask=mask):
            y = attention(*a, mask=mask)[0][:, :13]
            return y.sum(), y

        slope = jax.jit(jax.grad(total, has_aux=True))
        bad = [a.at[:, 13:].set(np.nan) for a in (k, v)]
        found, wanted = slope(q, *bad), slope(q, k, v)
        np.testing.assert_array_equal(found[1], wanted[1])
        np.testing.assert_array_equal(found[0][:, :13], wanted[0][:, :13])


@pytest.mark.slow
def test_dropout_drops_the_same_weights_in_the_gradient(x64):
    """Values that are unit vectors show the weights that are kept."""
    q, k, v = inputs(2, 19, 29, 2, 1, 5, 7)
    key = jax.random.key(0)

    def ours(q, k, v):
        return SMALL(q, k, v, scoring=Scoring(dropout_rate=0.25, key=key))[0]

    unit = jnp.broadcast_to(jnp.eye(29)[None, :, None], (2, 29, 1, 29))
    weights = jax.jit(ours)(q, k, unit).transpose(0, 2, 1, 3)
    _, whole = dot_product_attention(q, k, v)
    dropped = weights == 0
    np.testing.assert_allclose(weights, jnp.where(dropped, 0, whole / 0.75), 1e-9)
    assert abs(dropped.mean() - 0.25) < 4 * (0.25 * 0.75 / dropped.size) ** 0.5

    def dense(q, k, v):
        _, weights = dot_product_attention(q, k, v)
        kept = jnp.where(dropped, 0, weights / 0.75)
        return jnp.einsum("bhts,bsd->bthd", kept, v[:, :, 0])

    def slopes(f):
        return jax.jit(jax.grad(lambda *a: (f(*a) ** 2).sum(), (0, 1, 2)))(q, k, v)

    close(slopes(ours), slopes(dense), 1e-9, 1e-12)


def test_ranges():
    first, last, near = see(5, 4, causal=True, lengths=jnp.array([4, 2]))
    assert first.tolist() == [[0] * 5]
    assert last.tolist() == [[1, 2, 3, 4, 4], [1, 2, 2, 2, 2]]
    assert near is None


def test_ranges_of_segments():
    segments = jnp.array([[1, 1, 2, 2, 2, 0], [5, 4, 4, 5, 5, 5]])
    first, last, _ = see(6, 6, causal=True, segments=segments)
    assert first.tolist() == [[0, 0, 2, 2, 2, 5], [0, 1, 1, 3, 3, 3]]
    assert last.tolist() == [[1, 2, 3, 4, 5, 0], [1, 2, 3, 4, 5, 6]]


def test_ranges_of_a_window():
    first, last, near = see(5, 4, window=(1, 2))
    assert first.tolist() == [[0, 0, 1, 2, 3]]
    assert last.tolist() == [[3, 4, 4, 4, 4]]
    assert near == (-1, 2)


# Memory and FLOPs of compiled programs


@pytest.mark.parametrize(("matrices", "time", "near", "sizes"), [
    pytest.param(8, 400, None, (400, 400), id="all scores at once"),
    pytest.param(2, 4096, None, (512, 512), id="in the cache"),
    pytest.param(8, 4096, None, (256, 256), id="of eight heads"),
    pytest.param(64, 4096, None, (128, 128), id="of many heads"),
    pytest.param(2, 4096, (-199, 1), (200, 200), id="as small as the window"),
    pytest.param(2, 1100, None, (368, 368), id="equally large"),
])  # fmt: skip
def test_sizes_of_blocks_on_a_cpu(matrices, time, near, sizes):
    x = jn.spec((1, time, matrices, 1))
    assert sizes_of_blocks(x, x, near) == sizes


def gradient(time, window=None):
    """The gradient of a causal attention, and its inputs."""

    def loss(q, k, v):
        ranges = see(time, time, causal=True, window=window)
        return blockwise_attention(q, k, v, ranges, block=128)[0].sum()

    return jax.grad(loss, (0, 1, 2)), *[jn.spec((1, time, 1, 16))] * 3


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, (100, 0)], ids=["all", "window"])
def test_memory_grows_with_the_length(window):
    """Between 1,024 and 8,192 steps by less than 8 times; all scores would need 64 times."""
    short, long = (temporary(*gradient(time, window)) for time in (1024, 8192))
    assert long < min(8.5 * short, 8192**2 * 4 / 16)


@pytest.mark.slow
def test_memory_of_second_derivatives_grows_with_the_length():
    def slope(x):
        time = x.shape[1]
        y, _ = blockwise_attention(x, x, x, see(time, time, causal=True))
        return (y**2).sum()

    def squares(x):
        return (jax.grad(slope)(x) ** 2).sum()

    second = jax.grad(squares)

    short, long = (temporary(second, jn.spec((1, time, 1, 16))) for time in (1024, 4096))
    assert long < 4.5 * short
    assert long < 4096**2 * 4 / 2


def flops(program):
    runs = parse(program.as_text()).runs()
    return sum(run.times * flops_of(run) for run in runs)


@pytest.mark.slow
def test_flops_of_a_window_grow_with_the_length():
    short, long = (flops(compiled(*gradient(time, (100, 0)))) for time in (1024, 4096))
    assert 3.5 * short < long < 4.5 * short
    # 7 products of 256 places for each query: 2 forward, 5 backward, 2 FLOPs per number.
    assert long < 1.3 * 7 * 2 * 4096 * 256 * 16


@pytest.mark.slow
def test_blocks_that_no_query_sees_are_not_computed(monkeypatch):
    """Half of them for a causal mask, also with lengths that the program gets when it runs."""
    counts = []

    def count(how, q, k, bias):
        jax.debug.callback(lambda: counts.append(1))
        return scores(how, q, k, bias)

    scores = blockwise._scores
    monkeypatch.setattr(blockwise, "_scores", count)
    q, k, v = inputs(1, 64, 64, 1, 1, 4, 4, jnp.float32)

    @partial(jax.jit, static_argnames=("causal", "window"))
    def run(lengths, **options):
        y, _ = SMALL(q, k, v, see(64, 64, lengths=lengths, **options))
        return y

    def blocks(length, **options):
        counts.clear()
        jax.block_until_ready(run(jnp.array([length]), **options))
        jax.effects_barrier()
        return len(counts)

    assert blocks(64) == 8 * 8
    assert blocks(17) == 8 * 3
    assert blocks(64, causal=True) == 8 * 9 // 2
    assert blocks(64, causal=True, window=(8, 0)) == 2 * 8 - 1


# Layers


@pytest.fixture
def always(monkeypatch):
    """A switch: short sequences in blocks, or not."""

    def switch(on):
        monkeypatch.setattr(blockwise, "FEW", 1)
        monkeypatch.setattr(blockwise, "FEW_SCORES", 4 if on else 2**40)
        monkeypatch.setattr(blockwise, "FEW_IN_C", 2**40)

    return switch


def both(always, function):
    results = []
    for on in (True, False):
        always(on)
        results.append(jax.jit(lambda: function())())  # noqa: B023 (a function per setting)
    close(*results, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("masked", ["none", "lengths", "segments", "padding", "booleans", "floats"])
@pytest.mark.parametrize(
    "options", [{}, {"causal": True, "rotary": True}, {"window": (5, 2), "kv_heads": 1}], ids=str
)
def test_a_layer_gives_the_same_in_blocks(masked, options, always):
    x = draw(2, 200, 8, dtype=jnp.float32)
    mask = {
        "none": None,
        "lengths": jnp.array([0, 150]),
        "segments": jn.Segments(jnp.array([[1] * 70 + [2] * 100 + [0] * 30, [1] * 200])),
        "padding": jnp.arange(200) < jnp.array([[0], [150]]),
        "booleans": draw(2, 200, 200) > 0.5,
        "floats": jnp.where(draw(1, 2, 200, 200) > 1, -jnp.inf, 0.5),
    }[masked]
    layer = jn.multi_head_attention(2, **options)

    def with_mask(x):
        return x if mask is None else (x, mask)

    params, _ = layer.init(jax.random.key(0), with_mask(x))

    def loss(params, x):
        y, _ = layer.apply(params, {}, with_mask(x))
        return jnp.square(y).sum(), y

    both(always, lambda: jax.grad(loss, (0, 1), has_aux=True)(params, x))


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 5, 0])
def test_a_stream_gives_the_same_in_blocks(window, always):
    """Chunks of different lengths, rows of different lengths, and places overwritten."""
    x = draw(2, 300, 8, dtype=jnp.float32)
    layer = jn.multi_head_attention(2, causal=True, window=window, rotary=True)
    params, _ = layer.init(jax.random.key(0), x)
    stream = jn.stream(layer, 300, ragged=True)
    steps = [[100, 60], [1, 1], [7, 0], [150, 130], [42, 42]]

    def chunks():
        state = jn.start_stream(stream, (x[:, :1], jnp.ones(2, int)))
        outputs = []
        start = 0
        for counts in map(np.array, steps):
            size = max(counts)
            chunk = x[:, start : start + size], jnp.array(counts)
            y, state = stream.apply(params, state, chunk)
            y = jax.tree.leaves(y)[0]
            is_step = jnp.arange(size) < counts[:, None]
            outputs.append(jnp.where(is_step[..., None], y, 0))
            start += size
        return jnp.concatenate(outputs, 1)

    both(always, chunks)


@pytest.mark.slow
def test_an_empty_batch():
    layer = jn.multi_head_attention(2, causal=True)
    x = jnp.zeros((0, 600, 4))
    params, _ = layer.init(jax.random.key(0), x)

    def total(params, x):
        y, _ = layer.apply(params, {}, x)
        return y.sum()

    by_params, by_x = jax.jit(jax.grad(total, (0, 1)))(params, x)
    assert by_x.shape == x.shape
    assert not any(leaf.any() for leaf in jax.tree.leaves(by_params))


def test_when_blocks_are_used():
    def asked(time, places):
        return in_blocks(jnp.ones((1, time, 1, 1)), jnp.ones((1, places, 1, 1)))

    assert asked(512, 512)
    assert asked(128, 2048)
    assert not asked(511, 512)
    assert not asked(16, 2**15)
    assert not asked(2**15, 16)


@pytest.mark.slow
def test_an_export_of_any_batch_and_time():
    layer = jn.multi_head_attention(2, causal=True)
    x = draw(3, 520, 4, dtype=jnp.float32)
    params, _ = layer.init(jax.random.key(0), x)
    lengths = jnp.array([0, 520, 17])
    wanted, _ = layer.apply(params, {}, (x, lengths))
    for sizes in ("b, 520, 4", "b, t, 4"):
        shape = jax.export.symbolic_shape(sizes)
        batch, *_ = shape
        of_x = jax.ShapeDtypeStruct(shape, x.dtype)
        of_lengths = jax.ShapeDtypeStruct((batch,), lengths.dtype)
        run = jax.jit(lambda x: layer.apply(params, {}, x)[0])
        y = jax.export.export(run)((of_x, of_lengths)).call((x, lengths))
        np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("time", [1, 40])
@pytest.mark.parametrize("size", [1e18, 1e25])
def test_scores_of_any_size_have_a_softmax_in_xla(monkeypatch, time, size):
    """Scores that XLA scales twice, with another rounding, have a largest one that is not 0."""
    monkeypatch.setattr(call, "on_one_device", lambda context: False)
    dtype = jnp.bfloat16 if time == 1 else jnp.float32
    attend = dot_product_attention if time == 1 else blockwise_attention
    q, k, v = inputs(2, time, 70, 4, 2, 20, 24, dtype)

    def both(q, k, v):
        y, pull = jax.vjp(attend, q, k, v)
        return y, pull(y)

    (y, _), _ = compiled(both, q * size, k, v)(q * size, k, v)
    assert jnp.isfinite(y).all()
