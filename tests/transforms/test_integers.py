"""Kernels in 8 and 4 bits: values by hand, the forms of scales, training, and what it composes."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.ops.native import instructions
from jaxnet.services.trees import flat
from tests.helpers import compiled, jit_apply, jit_init, refused
from tests.transforms.test_adapt import KEY, TOKENS, WRAPS, decoder, drawn, tokens

KEYS_MAY_REPEAT = True  # the key draws nothing but params and inputs

cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def rounded(w, largest, group, short):
    """A matrix (inputs, outputs) on its grid: group by group, column by column."""
    found = np.zeros(w.shape)
    for start in range(0, len(w), group):
        for j in range(w.shape[1]):
            part = w[start : start + group, j]
            scale = np.abs(part).max() / largest or 1.0
            scale = float(jnp.bfloat16(scale)) if short else scale
            found[start : start + group, j] = np.round(part / scale) * scale
    return found


@pytest.mark.fast_cases("1-1-12-4-7", "1-100-12-8-127", "7-1-12-4-7", "7-100-12-8-127")
@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (4, 7)])
@pytest.mark.parametrize(("group", "inputs"), [(1, 12), (5, 12), (4, 10), (100, 12)])
@pytest.mark.parametrize("features", [1, 7])
def test_a_kernel_is_rounded_group_by_group(bits, largest, group, inputs, features):
    w = np.random.default_rng(5).normal(size=(inputs, features)).astype(np.float32)
    w[:, 0] *= np.arange(inputs) > 4  # some groups are all zeros
    layer = jn.quantized(jn.dense(features, use_bias=False), bits, group=group)
    small = jn.quantize(layer, {"kernel": jnp.asarray(w)}, jn.spec((2, inputs)))
    even = {1: 1, 5: 4, 4: 4, 100: 12}[group]  # 12 in three groups of at most 5, 10 in 4, 4 and 2
    found = jn.merge(layer, small)["kernel"]
    np.testing.assert_allclose(found, rounded(w, largest, even, bits == 4), rtol=1e-5, atol=1e-6)
    numbers, name = {8: ("int8", "scale"), 4: ("int4", "scale16")}[bits]
    columns = -(-features // 2) if bits == 4 else features
    assert small["kernel"][numbers].shape == (inputs, columns)
    assert small["kernel"][name].shape == (-(-inputs // even), features)
    assert even > 5 or small["kernel"][name][0, 0] == 1  # of zeros


def test_scales_are_shared_by_inputs_and_by_rows_of_tables():
    net = decoder()
    small, _ = jax.eval_shape(jn.quantized(net).init, KEY, TOKENS)
    assert {path: leaf.shape for path, leaf in flat(small) if path.endswith("scale")} == {
        "embedding/embedding/scale": (11, 1),
        "residual/attention/query/kernel/scale": (3, 1, 2, 4),
        "residual/attention/key/kernel/scale": (3, 1, 2, 4),
        "residual/attention/value/kernel/scale": (3, 1, 2, 4),
        "residual/attention/out/kernel/scale": (3, 1, 1, 8),
        "head/kernel/scale": (1, 11),
    }
    four, _ = jax.eval_shape(jn.quantized(net, 4, group=3).init, KEY, TOKENS)
    assert four["embedding"]["embedding"]["scale"].shape == (11, 3)
    assert four["residual"]["attention"]["out"]["kernel"]["scale16"].shape == (3, 2, 2, 8)


@pytest.mark.fast_cases("32-1", "32-5", "32-6", "2-5")
@pytest.mark.parametrize("features", [1, 5, 6])
@pytest.mark.parametrize("group", [2, 32])
def test_tables_of_any_width_come_back(features, group):
    layer = jn.quantized(jn.embedding(7, features), 4, group=group)
    table = np.random.default_rng(5).normal(size=(7, features)).astype(np.float32)
    small = jn.quantize(layer, {"embedding": jnp.asarray(table)}, jn.spec((2,), jnp.int32))
    found = jn.merge(layer, small)["embedding"]
    size = -(-features // -(-features // group))
    np.testing.assert_allclose(found, rounded(table.T, 7, size, False).T, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_four_bits_of_three_axes_of_odd_size_come_back():
    net = jn.multi_head_attention(2)
    x = jnp.ones((1, 4, 6))
    layer, (params, _) = jn.quantized(net, 4, group=4), net.init(KEY, x)
    found = jn.merge(layer, jn.quantize(layer, params, x))["query"]["kernel"]  # (6, 2, 3)
    np.testing.assert_allclose(found, params["query"]["kernel"], atol=0.1)


@pytest.mark.fast_cases("8-None-int4", "7-None-int8", "7-1-int4")
@pytest.mark.parametrize(
    ("width", "group", "stored"),
    [
        (8, 4, "int4"),
        (8, None, "int4"),
        (7, None, "int8"),
        (7, 1, "int4"),
    ],
)
def test_two_numbers_share_a_byte_where_the_scales_tell_the_width(width, group, stored):
    table = jn.embedding(11, width)
    x = jnp.zeros((2, 3), int)
    small = jn.quantized(table, bits=4, group=group)
    packed = jn.quantize(small, table.init(KEY, x)[0], x)
    assert set(packed["embedding"]) == {stored, "scale"}


@pytest.mark.parametrize("bits", [pytest.param(8, marks=pytest.mark.slow), 4])
def test_integers_give_the_outputs_of_aware_floats(bits):
    net, x = decoder(), tokens()
    params = drawn(net, TOKENS)
    small = jn.quantized(net, bits)
    aware = jn.quantized(net, bits, aware=True)
    packed = jn.quantize(small, params, x)
    y, _ = jax.jit(small.apply)(packed, {}, x)
    np.testing.assert_allclose(jax.jit(aware.apply)(params, {}, x)[0], y, rtol=1e-5, atol=1e-5)
    plain, _ = jax.jit(net.apply)(jn.merge(small, packed), {}, x)
    np.testing.assert_allclose(plain, y, rtol=1e-5, atol=1e-5)
    float_y, _ = jax.jit(net.apply)(params, {}, x)
    assert 1e-4 < float(jnp.abs(y - float_y).max()) < {8: 0.3, 4: 5}[bits]
    assert jax.eval_shape(small.init, KEY, TOKENS)[0] == jax.eval_shape(lambda: packed)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("size", "first", "rows"),
    [
        ((1058, 4000), False, 2),  # in blocks, which do not begin with the groups of scales
        ((256, 512), True, 1),
        ((256, 512), True, 8),
        ((256, 512), True, 9),
    ],
)
def test_a_kernel_is_used_in_both_directions(bits, size, first, rows):
    def tied(m, x):
        kernel = m.kernel("kernel", jn.initializers.normal(), size)
        return jn.product(jn.product(x, kernel, transposed=first), kernel, transposed=not first)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(rows, size[first])), jnp.float32)
    net = jn.quantized(jn.compose(tied), bits, group=32)
    params, state = jit_init(net, KEY, x)
    want, _ = jit_apply(jn.compose(tied), jn.merge(net, params), state, x)
    y, _ = jit_apply(net, params, state, x)
    np.testing.assert_allclose(y, want, 1e-4, 1e-4 * want.std())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_a_net_of_four_bits_keeps_the_dtype_of_its_params(dtype):
    """Of products and convolutions, and whatever the input has; merged, too."""
    net = jn.serial(jn.conv(4, 3), jn.flatten(), jn.dense(5))
    params, state = net.init(KEY, jn.spec((1, 6, 6, 2)))
    params = jax.tree.map(lambda a: a.astype(dtype), params)
    small = jn.quantized(net, 4)
    packed = jn.quantize(small, params, jn.spec((1, 6, 6, 2)))
    for given in (jnp.bfloat16, jnp.float32):
        x = jnp.ones((1, 6, 6, 2), given)
        found, wanted = (
            f(p, state, x)[0].dtype for f, p in ((small.apply, packed), (net.apply, params))
        )
        assert found == wanted
    assert {a.dtype for a in jax.tree.leaves(jn.merge(small, packed))} == {jnp.dtype(dtype)}


@pytest.mark.slow
def test_groups_of_the_last_of_two_inputs_are_those_of_a_matrix():
    """As in attention's last product, which generation reads as it is stored."""
    size = (8, 64, 256)
    normal = jn.initializers.normal()
    layer = jn.compose(lambda m, x: jn.product(x, m.kernel("kernel", normal, size), 2))
    net = jn.quantized(layer, 4)
    x = jax.random.normal(KEY, (1, *size[:2]))
    params, state = jit_init(net, KEY, x)
    assert params["kernel"]["scale16"].shape == (8, 2, 256)
    program = compiled(lambda p, x: net.apply(p, state, x)[0], params, x)
    if instructions():
        assert program.memory_analysis().temp_size_in_bytes < 4 * 8 * 64 * 256  # no floats
    want, _ = layer.apply(jn.merge(net, params), state, x)
    np.testing.assert_allclose(program(params, x), want, 1e-4, 1e-4 * want.std())


@pytest.mark.slow
def test_bytes_are_those_of_the_integers():
    net = jn.dense(64, use_bias=False)

    def nbytes(params):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(params))

    x = jn.spec((2, 128))
    found = [
        nbytes(layer.init(KEY, x)[0])
        for layer in (net, jn.quantized(net), jn.quantized(net, 4), jn.quantized(net, 4, group=64))
    ]
    values = 128 * 64
    assert found == [4 * values, values + 4 * 64, values // 2 + 2 * 256, values // 2 + 2 * 128]


@pytest.mark.slow
def test_a_gradient_passes_through_the_rounding():
    """At the rounded kernel, as if the rounding were not there."""
    layer = jn.quantized(jn.dense(4), 4, aware=True)
    x = jax.random.normal(KEY, (7, 6))
    params = drawn(layer, x)
    on_grid = params | {"kernel": jnp.asarray(rounded(params["kernel"], 7, 6, True), jnp.float32)}

    def loss(layer, params):
        return jnp.square(layer.apply(params, {}, x, train=True)[0]).sum()

    found = jax.grad(lambda p: loss(layer, p))(params)
    right = jax.grad(lambda p: loss(jn.dense(4), p))(on_grid)
    assert all(np.allclose(found[name], right[name], 1e-4, 1e-4) for name in right)


def qlora(bits=4):
    small = jn.quantized(decoder(), bits)
    return small, jn.lora(small, 2, where="*/(query|value)/kernel", scale=0.5)


@pytest.mark.slow
def test_factors_train_on_top_of_integers():
    """By a trainer, and by fit; the integers and scales stay."""
    small, adapted = qlora()
    x = tokens((4, 5))
    trained = jn.quantize(small, drawn(decoder(), TOKENS), x)
    objective = jn.supervised(adapted, lambda y, ids: cross_entropy(y, ids).mean(-1))
    trainer = jn.trainer(objective, optax.adam(0.05))
    train_state = trainer.init(KEY, (x, x), params=trained)
    before, _ = jax.jit(small.apply)(trained, {}, x)
    np.testing.assert_array_equal(jax.jit(adapted.apply)(train_state.params, {}, x)[0], before)
    first, *_, last = jn.fit(trainer, train_state, (x, x), epochs=8, batch_size=4)
    assert last.train["loss"] < 0.9 * first.train["loss"]
    params = last.train_state.params
    here = dict(flat(params))
    assert all(np.array_equal(here[path], leaf) for path, leaf in flat(trained))
    plain = jn.merge(adapted, params)
    y, _ = jax.jit(decoder().apply)(plain, {}, x)
    right, _ = jax.jit(adapted.apply)(params, {}, x)
    np.testing.assert_allclose(y, right, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", ["cast", "remat", "ensemble"])
def test_factors_find_integers_inside_other_transforms(wrap):
    make = WRAPS[wrap]
    net = jn.serial(jn.dense(4), jn.dense(2, name="head"))
    adapted = jn.lora(make(jn.quantized(net)), 1, where="head/kernel")
    params, state = adapted.init(KEY, jn.spec((3, 5)))
    assert {"kernel", "kernel_lora_a", "kernel_lora_b", "bias"} == set(params["head"])
    assert params["head"]["kernel"]["int8"].dtype == jnp.int8
    params["head"]["kernel_lora_b"] += 1
    x = np.ones((3, 5), np.float32)
    right, _ = jit_apply(make(net), jn.merge(adapted, params), state, x)
    np.testing.assert_allclose(jit_apply(adapted, params, state, x)[0], right, 0.05, 0.05)
    layers = [row for row in jn.summary(adapted, jn.spec((3, 5))).rows if row.kind == "dense"]
    assert [row.calls for row in layers] == [2 if wrap == "ensemble" else 1] * 2


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_is_named_past_integers():
    net = jn.lora(jn.quantized(jn.dense(2)), 1, where="kernel")
    trainer = jn.trainer(jn.supervised(net, optax.squared_error), optax.sgd(0.1))
    data = np.full((4, 3), 1e30, np.float32), np.zeros((4, 2), np.float32)
    train_state = trainer.init(KEY, data)
    with pytest.warns(UserWarning, match=r"not finite at step 1: .*kernel_lora_b"):
        list(jn.fit(trainer, train_state, data, epochs=1))


@refused([
    (lambda net, p, x: jn.quantized(net, 5), "quantized: bits must be"),
    (lambda net, p, x: jn.quantized(net, group=0), "quantized: group must be"),
    (lambda net, p, x: jn.quantized(net, aware=1), TypeError, "quantized: aware must be True"),
    (lambda net, p, x: jn.quantized(net, where="*/kernal").init(KEY, x),
     r"no parameter fits where='\*/kernal'. The nearest paths: .*kernel"),
    (lambda net, p, x: jn.quantized(net, where="*").init(KEY, x), r"bias \(4,\)"),
    (lambda net, p, x: jn.quantize(net, p, x), TypeError, r"must be jn.quantized\(net\).* dense"),
    (lambda net, p, x: jn.quantize(jn.quantized(net, aware=True), p, x), TypeError, "aware=True"),
    (lambda net, p, x: jn.quantize(jn.quantized(net), jn.quantize(jn.quantized(net), p, x), x),
     "quantized already"),
    (lambda net, p, x: jn.merge(jn.quantized(net), p), "hold no integers"),
    (lambda net, p, x: jn.quantized(net).apply(p, {}, jnp.ones((2, 3))),
     r"kernel/int8: expected \(3, 4\), got nothing"),
    (lambda net, p, x: jn.quantize(
        jn.quantized(net), jn.lora(net, 2, where="kernel").init(KEY, x)[0], x), jn.Misfit,
     "quantize: params do not fit the net .*\n  kernel_lora_a: unk"),
])  # fmt: skip
def test_what_does_not_fit_is_named(call):
    net = jn.dense(4)
    x = jn.spec((2, 3))
    call(net, net.init(KEY, x)[0], x)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
def test_factors_on_integers_are_exported(bits):
    _, adapted = qlora(bits)
    params = drawn(adapted, TOKENS)
    batch, time = jax.export.symbolic_shape("batch, time")
    run = jax.jit(lambda x: adapted.apply(params, {}, x)[0])
    exported = jax.export.export(run)(jax.ShapeDtypeStruct((batch, time), jnp.int32))
    x = tokens((3, 7))
    found = jax.export.deserialize(exported.serialize()).call(x)
    np.testing.assert_allclose(found, run(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "outer",
    [
        jn.transforms.weight_norm,
        jn.transforms.spectral_norm,
        jn.quantized,
        lambda net: jn.lora(net, 2, where="*kernel"),
    ],
)
def test_a_transform_around_training_that_rounds_sees_the_axes_of_a_product(outer):
    net = jn.serial(jn.multi_head_attention(2), jn.dense(3))
    x = jn.spec((2, 5, 4))
    shapes = [
        jax.eval_shape(outer(inside).init, jax.random.key(0), x)
        for inside in (net, jn.quantized(net, aware=True))
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_a_table_of_integers_may_be_a_numpy_array():
    layer = jn.quantized(jn.embedding(5, 4))
    params, state = layer.init(jax.random.key(0), jnp.arange(3))
    found = [layer.apply(p, state, jnp.arange(3))[0] for p in (params, jax.device_get(params))]
    np.testing.assert_array_equal(*found)
