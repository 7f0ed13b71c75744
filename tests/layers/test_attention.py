"""Multi-head attention in float64: masked, fused and dropped; laws compare it with the others."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.core import as_layer
from jaxnet.layers import attention
from jaxnet.ops import blockwise
from jaxnet.ops.attention import fused_attention
from tests.helpers import beside_memory, close, draw, jit_apply, jit_init, refuses


def random_params(layer, x, seed=5):
    """Params with biases that are not zero."""
    params, _ = jax.eval_shape(layer.init, jax.random.key(0), x)
    leaves, tree = jax.tree.flatten(params)
    drawn = [jnp.asarray(draw(*leaf.shape, seed=seed + i)) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, drawn)


def run(layer, params, x, key=None, train=False):
    return jit_apply(layer, params, {}, x, key=key, train=train)[0]


def test_a_window_of_one_number_is_that_of_both_sides(x64):
    x = jnp.asarray(draw(2, 5, 6))
    one, two = (jn.multi_head_attention(2, window=window) for window in (1, (1, 1)))
    params = random_params(one, x)
    np.testing.assert_array_equal(run(one, params, x), run(two, params, x))


# Masks


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer",
    [
        jn.multi_head_attention(2, kv_heads=1),
        jn.multi_head_attention(2, rotary=True, causal=True),
        jn.transformer_block(2, 16),
    ],
    ids=["grouped", "causal", "block"],
)
def test_padding_never_changes_a_result(layer):
    """Neither what it holds, nor how much of it there is; and it gets no gradient."""
    x = draw(2, 6, 8).astype(np.float32)
    lengths = np.array([4, 3])
    params, _ = jit_init(layer, jax.random.key(0), x)

    @jax.jit
    def values(x):
        y, _ = layer.apply(params, {}, (x, lengths))
        return jnp.where((jnp.arange(x.shape[1]) < lengths[:, None])[..., None], y, 0)

    wanted = values(x)
    junk = np.where((np.arange(6) < lengths[:, None])[..., None], x, np.float32(1e4))
    np.testing.assert_array_equal(values(junk), wanted)
    longer = values(np.pad(x, ((0, 0), (0, 5), (0, 0)), constant_values=-7.0))
    np.testing.assert_allclose(np.asarray(longer)[:, :6], wanted, rtol=1e-5, atol=1e-6)
    grad = jax.device_get(jax.jit(jax.grad(lambda x: jnp.square(values(x)).sum()))(x))
    assert not grad[0, 4:].any()
    assert not grad[1, 3:].any()
    assert grad[1, 2].any()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("make", [jn.layers.additive_attention, jn.multi_head_attention])
def test_rows_that_see_nothing_are_zero_and_finite(make, dtype):
    queries, memory = (jnp.asarray(draw(2, n, 6), dtype) for n in (3, 5))
    layer = make(2, return_weights=True)
    lengths = jnp.array([0, 5])
    params = random_params(layer, beside_memory(queries, memory, lengths))
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    def loss(params, queries, memory):
        (y, weights), _ = jit_apply(layer, params, {}, beside_memory(queries, memory, lengths))
        return (y.astype(jnp.float32) ** 2).sum(), (y, weights)

    slopes = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
    grads, (y, weights) = jax.device_get(slopes(params, queries, memory))
    assert y.dtype == weights.dtype == dtype
    assert not y[0].any()
    assert not weights[0].any()
    assert y[1].all()
    assert weights[1].all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert not grads[1][0].any()
    assert not grads[2][0].any()
    assert grads[2][1].any()
    with jax.debug_nans(True):  # none on the way either
        jit_apply(layer, params, {}, beside_memory(queries, memory, lengths))


def test_a_single_row_or_head_that_sees_nothing():
    x = draw(1, 3, 4).astype(np.float32)
    layer = jn.multi_head_attention(2, return_weights=True)
    params = jax.device_get(random_params(layer, x))
    mask = np.ones((1, 2, 3, 3), bool)
    mask[0, :, 1] = mask[0, 0, 2] = False
    y, weights = run(layer, params, (x, mask))
    assert not y[0, 1].any()
    assert y[0, 0].all()
    assert not weights[0, :, 1].any()
    assert not weights[0, 0, 2].any()
    np.testing.assert_allclose(weights.sum(-1)[0], [[1, 0, 0], [1, 0, 1]], rtol=1e-6)
    out = params["out"]  # at place 2 the second head speaks alone
    v = np.einsum("tf,fd->td", x[0], params["value"]["kernel"][:, 1]) + params["value"]["bias"][1]
    alone = weights[0, 1, 2] @ v @ out["kernel"][1] + out["bias"]
    np.testing.assert_allclose(y[0, 2], alone, rtol=1e-4, atol=1e-5)


# Dropout


def test_dropout_falls_on_the_weights():
    """With identical values each output is the share that is kept, rescaled: its mean is 1."""
    x = jnp.ones((30, 40, 4))
    layer = jn.multi_head_attention(2, head_size=2, use_bias=False, dropout_rate=0.25)
    params, _ = layer.init(jax.random.key(0), x)
    still = run(layer, params, x)
    y = run(layer, params, x, key=jax.random.key(1), train=True)
    ratio = np.asarray(y / still)  # all features of a query mix the two heads' shares
    # Of each head, 40 weights of 1/40: the variance of its share is 0.25 / 0.75 / 40.
    with pytest.raises(ValueError, match="needs a key in training"):
        layer.apply(params, {}, x, train=True)
    v = np.einsum("f,fhd->hd", np.ones(4), params["value"]["kernel"])
    parts = np.einsum("hd,hdf->hf", v, params["out"]["kernel"])  # (heads, features)
    shares = np.linalg.lstsq(parts.T, np.asarray(y).reshape(-1, 4).T, rcond=None)[0]
    assert abs(shares.mean() - 1) < 4 * np.sqrt(1 / 3 / 40 / shares.size)
    assert 0.9 < shares.var() / (1 / 3 / 40) < 1.1
    assert ratio.std() > 0
    # Each share is a count of kept weights over 40 * 0.75.
    np.testing.assert_allclose(shares * 30, np.round(shares * 30), atol=1e-3)


def test_a_fresh_head_keeps_variance():
    """Kernels are drawn for their inputs as matrices: projections have variance near 1."""
    x = jnp.asarray(draw(4, 20, 256), jnp.float32)
    params, _ = jn.multi_head_attention(8).init(jax.random.key(0), x)
    assert all(0.9 < float(part["kernel"].var()) * 256 < 1.1 for part in params.values())


# The fused path


def for_cuda(monkeypatch):
    """Take what a program for CUDA would run, with XLA in cuDNN's place; return the calls of it."""
    calls = []

    def stand_in(*given, **options):
        calls.append(options)
        return fused_attention(*given, **options, implementation="xla")

    monkeypatch.setattr(attention.ops, "fits_cudnn", lambda *given: True)
    monkeypatch.setattr(attention.ops, "fused_attention", stand_in)

    def choose(*given, cuda, default):
        return cuda(*given)

    monkeypatch.setattr(jax.lax, "platform_dependent", choose)
    return calls


BITS = np.random.default_rng(0).random((3, 1, 6, 6)) < 0.6


@pytest.mark.fast_cases("{}-lengths", "{}-booleans", "{}-segments")
@pytest.mark.parametrize(
    "mask",
    [
        None,
        jnp.array([3, 0, 6]),
        BITS,
        BITS[:, :, :1],
        BITS & (np.arange(3) != 1).reshape(3, 1, 1, 1),
        jn.Segments(jnp.array([[1, 1, 2, 2, 2, 0]] * 3)),
    ],
    ids=["all", "lengths", "booleans", "padding", "nothing", "segments"],
)
@pytest.mark.parametrize(
    "options", [{}, {"causal": True}, {"causal": True, "window": 2}, {"scale": 0.5}], ids=str
)
def test_the_fused_call_is_the_same_attention(options, mask, monkeypatch):
    """The same call with XLA in cuDNN's place, through the layer."""
    x = jnp.asarray(draw(3, 6, 16), jnp.float32)
    given = x if mask is None else (x, jax.tree.map(jnp.asarray, mask))
    options = {"kv_heads": 1, **options}
    params = random_params(jn.multi_head_attention(2, **options), x)
    wanted = run(jn.multi_head_attention(2, fused=False, **options), params, given)
    calls = for_cuda(monkeypatch)
    y = run(jn.multi_head_attention(2, **options), params, given)
    assert calls
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4)
    run(jn.multi_head_attention(2, fused=False, **options), params, given)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"value_size": 4},
        {"window": 2},
        {"softcap": 3.0},
        {"return_weights": True},
    ],
    ids=str,
)
def test_the_fused_call_is_not_asked_for_what_it_lacks(options, monkeypatch):
    calls = for_cuda(monkeypatch)
    x = jn.spec((2, 6, 16))
    jax.eval_shape(jn.multi_head_attention(2, fused=True, **options).init, jax.random.key(0), x)
    assert not calls
    jax.eval_shape(jn.multi_head_attention(2).init, jax.random.key(0), x)
    assert calls


def test_the_machine_that_compiles_chooses_the_kernel(monkeypatch):
    """A program that is traced on a machine without a GPU, for one with and one without."""

    def marked(q, *rest, **options):
        return jnp.sin(q)

    monkeypatch.setattr(attention.ops, "fits_cudnn", lambda *given: True)
    monkeypatch.setattr(attention.ops, "fused_attention", marked)
    x = jn.spec((2, 6, 16))
    layer = jn.multi_head_attention(2)
    params, _ = jax.eval_shape(layer.init, jax.random.key(0), x)
    traced = jax.jit(lambda params, x: layer.apply(params, {}, x)[0]).trace(params, x)
    found = {p: "sine" in traced.lower(lowering_platforms=(p,)).as_text() for p in ("cuda", "cpu")}
    assert found == {"cuda": True, "cpu": False}


# Refusals


def inits(layer, *given):
    return layer.init(jax.random.key(0), given if len(given) > 1 else given[0])


def attends(layer, x, memory):
    return layer.init(jax.random.key(0), beside_memory(x, memory))


def masked(mask):
    layer = mha(2)
    x = jnp.ones((2, 5, 6))
    return layer.apply(layer.init(jax.random.key(0), x)[0], {}, (x, mask))


mha = jn.multi_head_attention
ROW = jn.spec((2, 5, 6))


REFUSALS = [
    (lambda: mha(3, kv_heads=2), "multiple of kv_heads, got heads=3, kv_heads=2"),
    (lambda: mha(2, dropout_rate=1.0),
     r"dropout_rate is the fraction to drop, in \[0, 1\), got 1.0"),
    (lambda: mha(2, window=(1, 2, 3)), r"window must be a number or a pair \(before, after\)"),
    (lambda: mha(2, window=-1), "window must be"),
    (lambda: mha(2, rotary=1), TypeError,
     r"rotary must be True, False or a function of \(x, positions\)"),
    (lambda: mha(2, softcap=0.0), "softcap must be in"),
    (lambda: mha(2, scale=-1.0), "scale must be in"),
    (lambda: mha(2, value_size=0), "value_size must be"),
    (lambda: inits(mha(4), ROW), "4 heads must divide the queries' width 6"),
    (lambda: inits(mha(2), jn.spec((2, 6))),
     r"queries must be \(batch, time, width\), got \(2, 6\)"),
    (lambda: attends(mha(2), ROW, jn.spec((3, 5, 6))), "must have the same batch size"),
    (lambda: attends(mha(2, causal=True), ROW, ROW), "causal=True is for self-attention"),
    (lambda: attends(mha(2, window=1), ROW, ROW), "window is for self-attention"),
    (lambda: attends(mha(2, rotary=True), ROW, ROW), "rotary is for self-attention"),
    (lambda: attends(mha(2, bias=alibi), ROW, ROW), "bias is for self-attention"),
    (lambda: inits(mha(3, bias=alibi), ROW),
     r"bias must return numbers \(heads, time, places\).* here \(3, 5, 5\), got \(2, 5, 5\)"),
    (lambda: mha(2, bias=3), TypeError, "bias must be a layer"),
    (lambda: inits(mha(2, rotary=True), ROW), "rotary=True needs an even head_size, got 3"),
    (lambda: inits(mha(2), ROW, ROW), r"got \(2, 5, 6\). A memory is given by name"),
    (lambda: inits(mha(2), ROW, None, ROW, ROW), TypeError, r"has the inputs \(x, mask, memory\)"),
    (lambda: inits(mha(2), ROW, {"key": ROW}), TypeError, "an array or jn.Segments, got dict"),
    (lambda: attends(mha(2), ROW, {"key": ROW, "value": ROW}), "got a dict of"),
    (lambda: inits(jn.transformer_block(2, 8), {"x": ROW, "memory": ROW}),
     r"got a memory; write transformer_block\(..., cross=True\)"),
    (lambda: masked(jnp.array([[1, 1, 2, 2, 0]] * 2)),
     r"1 where a position counts .* got 2. .* write jn.Segments\(mask\)"),
    (lambda: inits(jn.transformer_block(2, 8, cross=True), ROW), "with cross=True expected"),
    (lambda: masked(jnp.array([1, 2, 3])), r"a mask is lengths, integers \(2,\).*got \(3,\) int32"),
    (lambda: masked(jnp.ones((5, 4), bool)), r"got \(5, 4\) bool"),
    (lambda: masked(jnp.ones((2, 3, 5, 5))),
     r"or floats .* to add to the scores, got \(2, 3, 5, 5\)"),
]  # fmt: skip
test_refusals = pytest.mark.slow(refuses(REFUSALS))


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer",
    [jn.multi_head_attention(2), jn.layers.additive_attention(4)],
    ids=lambda layer: layer.name,
)
@pytest.mark.parametrize("lengths", [[5, 99], [-3, 5]], ids=str)
def test_lengths_beyond_the_places_raise(layer, lengths):
    given = beside_memory(draw(2, 3, 4), draw(2, 5, 6), np.array(lengths))
    params, state = jit_init(layer, jax.random.key(0), jax.tree.map(jnp.asarray, given))
    wrong = next(n for n in lengths if n != 5)
    with pytest.raises(ValueError, match=rf"lengths must be in \[0, 6\), got {wrong}"):
        layer.apply(params, state, given)
    # Inside jit, where they are not known, they count as 0 or as all places.
    y, _ = jax.jit(layer.apply)(params, state, given)
    wanted, _ = jit_apply(layer, params, state, given | {"mask": np.clip(lengths, 0, 5)})
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.fast_cases("additive_attention")
@pytest.mark.parametrize("make", [jn.layers.additive_attention, jn.multi_head_attention])
def test_a_bias_that_diverged_reaches_the_output(make):
    """One NaN of the bias gives NaN; a whole row of them does not give zeros."""
    x = draw(2, 3, 4).astype(np.float32)
    layer = make(2)
    bias = np.zeros((1, 1, 3, 3), np.float32)
    params, _ = jit_init(layer, jax.random.key(0), beside_memory(x, x, bias))

    @jax.jit
    def slope(bias):
        y, _ = layer.apply(params, {}, beside_memory(x, x, bias))
        return jax.grad(lambda bias: layer.apply(params, {}, beside_memory(x, x, bias))[0].sum())(
            bias
        ), y

    for columns in (slice(2, 3), slice(None)):
        bias[..., 0, columns] = np.nan
        by_bias, y = jax.device_get(slope(bias))
        assert np.isnan(y[:, 0]).all()
        assert np.isfinite(y[:, 1:]).all()
        assert np.isnan(by_bias[..., 0, columns]).all()
        assert np.isfinite(by_bias[..., 1:, :]).all()


@pytest.mark.fast_cases("additive_attention")
@pytest.mark.parametrize("make", [jn.layers.additive_attention, jn.multi_head_attention])
def test_nan_in_the_padding_of_a_memory_reaches_no_output(make):
    x = draw(2, 3, 4).astype(np.float32)
    layer = make(2)
    lengths = np.array([3, 2])
    params, _ = jit_init(layer, jax.random.key(0), beside_memory(x, x, lengths))
    bad = np.where(np.arange(3)[:, None] < lengths[:, None, None], x, np.nan)
    y, wanted = (
        jit_apply(layer, params, {}, beside_memory(x, memory, lengths))[0] for memory in (bad, x)
    )
    np.testing.assert_array_equal(y, wanted)


@pytest.mark.slow
def test_segments_are_the_mask_of_packed_rows():
    x = draw(2, 6, 8, dtype=np.float32)
    segments = np.array([[1, 1, 1, 2, 2, 0], [3, 2, 2, 1, 1, 1]])
    layer = jn.multi_head_attention(2, causal=True)
    params = random_params(layer, x)
    wanted = run(layer, params, (x, jn.segment_mask(jnp.array(segments))))
    np.testing.assert_allclose(run(layer, params, (x, jn.Segments(segments))), wanted, 1e-6, 1e-6)
    with pytest.raises(ValueError, match=r"integers \(batch, time\) = \(2, 6\), got \(2, 5\)"):
        layer.apply(params, {}, (x, jn.Segments(segments[:, :5])))


# Biases by positions


def distances(positions):
    queries, keys = positions
    return keys[..., None, :] - queries[..., :, None]


def alibi(positions):
    return -jnp.array([0.5, 0.25])[:, None, None] * abs(distances(positions))[..., None, :, :]


def relative(m, positions):
    table = m.param("table", jn.initializers.normal(1.0), (9, 2))
    return jnp.moveaxis(table[jnp.clip(distances(positions), -4, 4) + 4], -1, -3)


@pytest.fixture
def in_blocks(monkeypatch):
    """A switch: attention in blocks of 16, or with all scores."""
    sizes = blockwise._sizes
    monkeypatch.setattr(blockwise, "_sizes", lambda *a: sizes(*a[:-1], 16))
    monkeypatch.setattr(blockwise, "FEW", 1)
    monkeypatch.setattr(blockwise, "FEW_IN_C", 2**40)
    return lambda on: monkeypatch.setattr(blockwise, "FEW_SCORES", 4 if on else 2**40)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"causal": True},
        {"window": (5, 2), "kv_heads": 1, "rotary": True},
    ],
    ids=["causal", "window"],
)
@pytest.mark.parametrize("bias", [alibi, jn.compose(relative)], ids=["alibi", "relative"])
def test_a_bias_by_positions_is_a_mask_of_its_numbers(bias, options, in_blocks):
    """Values and gradients with all scores and in blocks, with and without lengths."""
    x = jnp.asarray(draw(2, 40, 8), jnp.float32)
    at = jnp.arange(40)
    layer, plain = (jn.multi_head_attention(2, bias=b, **options) for b in (bias, None))
    params = jax.tree.map(jnp.float32, random_params(layer, x))

    def loss(params, x, given, layer, floats=None):
        if floats is not None:
            params = dict(params)
            table = as_layer(bias).apply(params.pop("relative", {}), {}, (at, at))[0]
            given = floats + table[None]
        y, _ = layer.apply(params, {}, x if given is None else (x, given))
        return jnp.sin(y).sum(), y

    def slopes(*rest):
        return jax.jit(lambda p, x: jax.grad(loss, (0, 1), has_aux=True)(p, x, *rest))(params, x)

    lengths = jnp.array([0, 31])
    free = jnp.where(at < lengths[:, None], 0, -jnp.inf)[:, None, None]
    for on, (given, floats) in itertools.product((0, 1), ((None, 0.0), (lengths, free))):
        in_blocks(on)
        wanted = slopes(None, plain, jnp.broadcast_to(floats, (2, 1, 1, 40)))
        close(slopes(given, layer), wanted, 1e-3)


@pytest.mark.slow
def test_a_bias_that_reads_integers_of_the_program(in_blocks):
    """Such as ids of tokens, which have no derivative and are traced in a compiled gradient."""

    def net(m, ids):
        slope = m.param("slope", jn.initializers.normal(1.0), ())

        def bias(positions):
            return jnp.where(ids[:, None, None, positions[1]] == 3, slope, 0.0)

        return m(jn.multi_head_attention(2, bias=bias), m(jn.embedding(5, 4), ids))

    layer = jn.compose(net)
    ids = np.arange(40).reshape(1, 40) % 5
    params, _ = jit_init(layer, jax.random.key(0), ids)
    found = []
    for on in (0, 1):
        in_blocks(on)
        run = jax.grad(lambda p, ids: jnp.sin(layer.apply(p, {}, ids)[0]).sum())
        found.append(jax.jit(lambda p, ids, run=run: run(p, ids))(params, ids))
    close(*found, 1e-3, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, (7, 0)], ids=str)
def test_a_bias_by_positions_in_a_stream(window, in_blocks):
    x = jnp.asarray(draw(2, 40, 8), jnp.float32)
    layer = jn.multi_head_attention(2, causal=True, window=window, bias=jn.compose(relative))
    params, _ = layer.init(jax.random.key(0), x)
    wanted = run(layer, params, x)
    stream = jn.stream(layer, None if window else 40)
    for on in (0, 1):
        in_blocks(on)
        state, outputs = jn.start_stream(stream, x), []
        for chunk in jnp.split(x, (20, 21, 25), 1):
            y, state = jax.jit(lambda *a: stream.apply(*a))(params, state, chunk)
            outputs.append(y)
        np.testing.assert_allclose(jnp.concatenate(outputs, 1), wanted, 1e-4, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window": (7, 0), "kv_heads": 2, "rotary": True, "softcap": 2.0},
    ],
    ids=["causal", "window"],
)
def test_sinks_take_a_share_of_the_weights(options, in_blocks):
    """They are keys whose score is a param and whose value is 0; in a call and in a stream."""
    x = jnp.asarray(draw(2, 40, 8) / 4, jnp.float32)
    layer = jn.multi_head_attention(4, causal=True, sinks=True, **options)
    params = jax.tree.map(jnp.float32, random_params(layer, x))
    at = jnp.arange(40)
    distance = at[:, None] - at
    seen = (distance >= 0) & (distance <= (7 if options else 40))

    def by_hand(params, x):
        named = [params[name] for name in ("query", "key", "value")]
        q, k, v = (jnp.tensordot(x, one["kernel"], 1) + one["bias"] for one in named)
        k, v = (jnp.repeat(a, 4 // a.shape[2], 2) for a in (k, v))
        if options:
            q = jn.rotary(q, at)
            k = jn.rotary(k, at)
        scores = jnp.einsum("bthd,bshd->bhts", q, k) / 2**0.5
        scores = 2 * jnp.tanh(scores / 2) if options else scores
        e = jnp.where(seen, jnp.exp(scores), 0)
        shares = e / (e.sum(-1, keepdims=True) + jnp.exp(params["sinks"])[:, None, None])
        y = jnp.einsum("bhts,bshd->bthd", shares, v)
        return jnp.tensordot(y, params["out"]["kernel"], 2) + params["out"]["bias"]

    def slopes(f):
        return jax.jit(jax.grad(lambda *a: jnp.sin(f(*a)).sum(), (0, 1)))(params, x)

    wanted, of = by_hand(params, x), slopes(by_hand)
    stream = jn.stream(layer, 40)
    for on in (0, 1):
        in_blocks(on)
        close(run(layer, params, x), wanted, 1e-4, 1e-5)
        close(slopes(lambda p, x: layer.apply(p, {}, x)[0]), of, 1e-3, 1e-4)
        state, outputs = jn.start_stream(stream, x), []
        for chunk in jnp.split(x, (20, 21, 25), 1):
            y, state = jax.jit(lambda *a: stream.apply(*a))(params, state, chunk)
            outputs.append(y)
        close(jnp.concatenate(outputs, 1), wanted, 1e-4, 1e-5)
