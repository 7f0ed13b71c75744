"""Attention in C against the blocks in JAX. `tools.native` compares its values with plain loops."""

from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.ops.attention import Scoring, dot_product_attention
from jaxnet.ops.blockwise import blockwise_attention, see
from jaxnet.ops.native import attention, call, instructions
from jaxnet.profile.program import flops_of, parse
from jaxnet.services.jax_versions import enable_x64
from tests.helpers import compiled, near
from tests.ops.test_blockwise import attends_to_what_it_sees, draw

pytestmark = pytest.mark.skipif(instructions() is None, reason="needs the kernels in C")

FORWARD, BACK = '"jaxnet_attention"', '"jaxnet_attention_back"'


def inputs(batch, time, places, heads, groups, size, width, dtype=jnp.float32):
    """Queries, keys and values, and the gradients by the results."""
    shapes = (time, heads, size), (places, groups, size), (places, groups, width)
    shapes += (time, heads, width), (heads, time)
    return [draw(batch, *shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]


def in_jax(monkeypatch, function, *args):
    """What the function gives without the kernels."""
    with monkeypatch.context() as patch:
        patch.setattr(call, "on_one_device", lambda context: False)
        program = compiled(function, *args)
    assert "jaxnet_attention" not in program.as_text()
    return program(*args)


def everything(q, k, v, d_y, d_total, ranges, **options):
    """Values and gradients. Queries that see nothing have a total of -inf."""
    attend = partial(blockwise_attention, ranges=ranges, scoring=Scoring(**options))
    (y, total), pull = jax.vjp(attend, q, k, v)
    d_total = jnp.where(total == -jnp.inf, 0, d_total.astype(total.dtype))
    return y, total, pull((d_y.astype(y.dtype), d_total))


def exact(q, k, v, d_y, d_total, ranges, scale=None, softcap=None):
    """The same from all scores, in float64."""
    with enable_x64(True):
        first, last, _ = (None if a is None else np.asarray(a) for a in ranges)
        q, k, v, d_y, d_total = (np.asarray(a, np.float64) for a in (q, k, v, d_y, d_total))

        def attend(q, k, v):
            heads_of_group = q.shape[2] // k.shape[2]
            k = jnp.repeat(k, heads_of_group, 2)
            v = jnp.repeat(v, heads_of_group, 2)
            scores = jnp.einsum("bthd,bshd->bhts", q, k) * (scale or q.shape[-1] ** -0.5)
            if softcap is not None:
                scores = softcap * jnp.tanh(scores / softcap)
            place = np.arange(k.shape[1])
            seen = (place >= first[..., None]) & (place < last[..., None])
            scores = jnp.where(seen[:, None], scores, -jnp.inf)
            some = seen.any(-1)[:, None]
            total = jax.nn.logsumexp(jnp.where(some[..., None], scores, 0), -1)
            p = jnp.where(seen[:, None], jnp.exp(scores - total[..., None]), 0)
            return jnp.einsum("bhts,bshd->bthd", p, v), jnp.where(some, total, -jnp.inf)

        (y, total), pull = jax.vjp(attend, q, k, v)
        return y, total, pull((d_y, jnp.where(total == -jnp.inf, 0, d_total)))


CASES = {  # batch, time, places, heads, groups, size, width; ranges; other options
    "odd": ((2, 77, 131, 3, 3, 40, 24), {}, {}),
    "causal": ((1, 150, 150, 2, 2, 64, 64), {"causal": True}, {}),
    "window": ((2, 300, 300, 2, 1, 16, 5), {"causal": True, "window": (37, 0)}, {}),
    "both sides": ((1, 200, 200, 2, 2, 5, 16), {"window": (10, 20)}, {}),
    "lengths": ((3, 150, 150, 2, 2, 16, 16), {"lengths": [150, 70, 0]}, {}),
    "all ranges": ((3, 90, 90, 2, 1, 5, 5), {"window": (9, 4), "lengths": [0, 90, 41]}, {}),
    "groups": ((2, 100, 100, 6, 2, 16, 16), {"causal": True}, {}),
    "softcap": ((1, 100, 100, 2, 2, 40, 40), {"causal": True}, {"softcap": 2.0, "scale": 0.7}),
    "few": ((1, 8, 3, 1, 1, 1, 1), {}, {}),
}


def ranges_of(time, places, *, lengths=None, **ranges):
    return see(time, places, lengths=None if lengths is None else jnp.array(lengths), **ranges)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(monkeypatch, case):
    """Against the blocks in JAX, and against float64."""
    sizes, ranges, options = CASES[case]
    given, ranges = inputs(*sizes), ranges_of(*sizes[1:3], **ranges)
    run = partial(everything, ranges=ranges, **options)
    program = compiled(run, *given)
    assert FORWARD in program.as_text() and BACK in program.as_text()
    for wanted in in_jax(monkeypatch, run, *given), exact(*given, ranges, **options):
        near(program(*given), wanted, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_inputs(dtype):
    given, ranges = inputs(2, 70, 70, 2, 1, 16, 16, dtype), see(70, 70, causal=True)
    program = compiled(partial(everything, ranges=ranges), *given)
    assert FORWARD in program.as_text() and BACK in program.as_text()
    y, total, gradients = program(*given)
    assert {a.dtype for a in (y, *gradients)} == {jnp.dtype(dtype)} and total.dtype == jnp.float32
    near((y, total, gradients), exact(*given, ranges), 0.02)


@pytest.mark.slow
def test_derivatives_of_all_kinds_agree_with_jax(monkeypatch):
    """To second order, under vmap and remat, in a scan, and of some arrays alone."""
    q, k, v = inputs(1, 20, 20, 2, 1, 4, 4)[:3]
    ranges = see(20, 20, causal=True, window=(7, 0))

    def loss(q, k, v):
        y, total = blockwise_attention(q, k, v, ranges)
        return (jnp.sin(y) * jnp.arange(4.0)).sum() + jnp.cos(total).sum()

    def every(q, k, v):
        along = jnp.cos(q), jnp.cos(k), jnp.cos(v)
        gradient = jax.grad(loss, (0, 1, 2))

        def step(scale, _):
            return scale * loss(q, k, v), gradient(q, k * scale, v)

        def of_gradient(k):
            by_q, *_ = gradient(q, k, v)
            return jnp.sin(by_q).sum()

        return {
            "of keys": jax.grad(loss, 1)(q, k, v),
            "of queries and values": jax.grad(loss, (0, 2))(q, k, v),
            "tangent": jax.jvp(loss, (q, k, v), along),
            "second": jax.jvp(gradient, (q, k, v), along),
            "reverse twice": jax.grad(of_gradient)(k),
            "remat": jax.grad(jax.checkpoint(loss), (0, 1, 2))(q, k, v),
            "vmap": jax.vmap(lambda s: gradient(q * s, k, v))(jnp.linspace(0.5, 1, 2)),
            "scan": jax.lax.scan(step, 1.0, None, 2),
        }

    program = compiled(every, q, k, v)
    assert FORWARD in program.as_text() and BACK in program.as_text()
    near(program(q, k, v), in_jax(monkeypatch, every, q, k, v), 1e-4)


@pytest.mark.slow
def test_what_attention_leaves_to_jax():
    q, k, v = inputs(2, 20, 20, 2, 1, 4, 4)[:3]
    mask = jnp.ones((1, 1, 20, 20), bool)
    bias = Scoring(bias=jnp.ones((1, 1, 20, 20)))
    dropout = Scoring(dropout_rate=0.5, key=jax.random.key(0))

    def calls(q, **options):
        def run(q):
            return blockwise_attention(q, k, v, **options)[0]

        return "jaxnet_attention" in jax.jit(run).lower(q).as_text()

    assert calls(q)
    assert not calls(q, scoring=bias)
    assert not calls(q, scoring=dropout)
    assert not calls(q, mask=mask)
    assert not calls(q, block=8)
    assert not calls(q[:, :1])
    exported = jax.export.export(jax.jit(lambda q: blockwise_attention(q, k, v)))(q)
    assert "jaxnet_attention" not in exported.mlir_module()
    near(exported.call(q), blockwise_attention(q, k, v), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_place_that_is_not_finite_reaches_only_queries_that_see_it(bad):
    attend = attends_to_what_it_sees(blockwise_attention, bad)
    q, k, v = inputs(2, 16, 16, 2, 2, 4, 4)[:3]
    y = attend(q.at[0, 3].set(bad), k, v)
    assert np.isnan(y[0, 3]).any() and np.isfinite(y).sum() >= y.size - 8


def test_a_causal_layer_holds_no_scores():
    """Neither its value nor its gradient needs an array of (time, time)."""
    layer, x = jn.multi_head_attention(2, causal=True), jn.spec((1, 2048, 16))
    params = jax.eval_shape(layer.init, jax.random.key(0), x)[0]
    program = compiled(jax.grad(lambda p, x: layer.apply(p, {}, x)[0].sum()), params, x)
    text = program.as_text()
    assert FORWARD in text and BACK in text and "2048,2048" not in text
    assert program.memory_analysis().temp_size_in_bytes < 10 * 2048 * 16 * 4


@pytest.mark.slow
def test_rows_of_a_layer_that_see_nothing():
    layer, x = jn.multi_head_attention(2, causal=True), draw(2, 520, 8, dtype=jnp.float32)
    params, _ = layer.init(jax.random.key(0), x)
    program = compiled(lambda x: layer.apply(params, {}, (x, jnp.array([0, 400])))[0], x)
    assert FORWARD in program.as_text()
    y = program(x)
    assert not y[0].any() and y[1, :400].all()


@pytest.mark.parametrize("change, message", [
    (dict(k=(2, 9, 2, 5)), "size"), (dict(v=(2, 8, 2, 4)), "places"), (dict(q=(8, 4)), "rank"),
    (dict(q=(2, 8, 3, 4)), "groups"), (dict(first=(1, 8)), "time"), (dict(y=(2, 8, 4, 5)), "out"),
])  # fmt: skip
def test_arrays_that_do_not_fit_are_errors(change, message):
    usual = dict(q=(2, 8, 4, 4), k=(2, 9, 2, 4), v=(2, 9, 2, 4), first=(2, 8), y=(2, 8, 4, 4))
    given = usual | change
    shapes = given["y"], (2, 4, 8), (2, 4, 8)
    results = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    run = jax.ffi.ffi_call("jaxnet_attention", results)
    ints, form = np.ones(given["first"], np.int32), np.ones(2, np.float32)
    floats = [np.ones(given[name], np.float32) for name in "qkv"]
    with pytest.raises(Exception, match=f"jaxnet: not .*{message}"):
        jax.jit(lambda *a: run(*a, form=form))(*floats, ints, ints)


def test_flops_are_counted():
    *given, d_y, d_total = inputs(2, 20, 30, 4, 2, 5, 7)
    flops = 2 * 2 * 4 * 20 * 30 * np.array([5 + 7, 3 * 5 + 2 * 7])
    text = compiled(partial(everything, ranges=see(20, 30)), *given, d_y, d_total).as_text()
    assert [flops_of(r) for r in parse(text).runs() if flops_of(r)] == flops.tolist()


SLICES = """
import jax, jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec as P
from jaxnet.ops.blockwise import blockwise_attention, see

def gradients(q, k, v):
    def loss(*a):
        return jnp.sin(blockwise_attention(*a, see(20, 20, causal=True))[0]).sum()
    return jax.grad(loss, (0, 1, 2))(q, k, v)

q = jax.random.normal(jax.random.key(0), (4, 20, 2, 4))
expected = gradients(q, q, q)
mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
inside = jax.shard_map(gradients, mesh=mesh, in_specs=P("batch"), out_specs=P("batch"))
compiled = jax.jit(inside).lower(q, q, q).compile()
assert "jaxnet_attention_back" in compiled.as_text()
for a, b in zip(compiled(q, q, q), expected):
    assert jnp.allclose(a, b, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.slow
def test_slices_of_a_mesh_run_in_c(on_devices):
    on_devices(SLICES, 2)


def test_few_queries_are_not_for_the_kernel():
    q = jnp.ones((1, attention.FEW, 2, 4))
    assert attention.supports(q, q, q) and not attention.supports(q[:, 1:], q, q)
    assert not attention.supports(q, q[:, :0], q[:, :0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("options", [
    {}, {"softcap": 2.0, "scale": 0.3}, {"bias": draw(1, 1, 6, 1, 70)[0]},
], ids=str)  # fmt: skip
def test_one_query_reads_what_it_sees(monkeypatch, options, dtype):
    """In C as in JAX: groups of heads, places that some heads see, and a head that sees nothing."""
    q, k, v, *_ = inputs(2, 1, 70, 6, 2, 20, 33, dtype)
    seen = np.random.default_rng(0).random((2, 6, 1, 70)) < 0.3
    seen[0, 1] = False
    attend = partial(dot_product_attention, scoring=Scoring(**options, finite=True))
    program = compiled(attend, q, k, v, seen)
    flops = [flops_of(run) for run in parse(program.as_text()).runs()]
    assert "jaxnet_attention_one" in program.as_text() and sum(flops) == 2 * 2 * 6 * 70 * (20 + 33)
    wide = [a.astype(jnp.float32) for a in (q, k, v)]
    expected = in_jax(monkeypatch, attend, *wide, seen)
    near(program(q, k, v, seen), expected, 1e-5 if dtype == jnp.float32 else 2**-7, 0)
