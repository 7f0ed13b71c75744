"""Low-rank adaptation: values and gradients by hand, the axes of kernels, and what it composes."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.services.trees import flat
from tests.helpers import KEY, close, jit_apply, refused, shapes

KEYS_MAY_REPEAT = True  # the key draws nothing but params and inputs
TOKENS = jn.spec((2, 5), jnp.int32)


def decoder():
    """Small, since compiling it takes longer than the tests."""
    block = jn.residual(jn.multi_head_attention(2, causal=True, name="attention"))
    return jn.serial(jn.embedding(11, 8), jn.repeat(block, 3), jn.dense(11, name="head"))


def drawn(net, x):
    """Params that NumPy draws, which compiles nothing; scales are small and positive."""
    rng = np.random.default_rng(7)

    def leaf(path, a):
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return jnp.asarray(rng.integers(-7, 8, a.shape).astype(a.dtype))
        values = rng.normal(0, 0.4, a.shape)
        return jnp.asarray(0.01 + 0.1 * abs(values) if path[-1].key == "scale" else values, a.dtype)

    return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(net.init, KEY, x)[0])


def sizes(net):
    return jax.eval_shape(net.init, KEY, TOKENS)


def tokens(shape=(2, 5)):
    return jnp.asarray(np.random.default_rng(1).integers(0, 11, shape))


@pytest.mark.slow
def test_the_formula_of_peft_for_each_shape_of_kernel():
    """As matrices (inputs, outputs): W + scale * A @ B, written as loops over the copies."""
    net = decoder()
    where = "*(embedding/embedding|query/kernel|out/kernel|head/kernel)"
    adapted = jn.lora(net, 2, where=where, scale=0.5)
    params = drawn(adapted, TOKENS)
    merged = dict(flat(jn.merge(adapted, params)))
    given = dict(flat(params))
    sizes = {  # copies, inputs, outputs
        "embedding/embedding": (1, 11, 8),
        "residual/attention/query/kernel": (3, 8, 8),
        "residual/attention/out/kernel": (3, 8, 8),
        "head/kernel": (1, 8, 11),
    }
    assert {path for path in given if path + "_lora_a" in given} == set(sizes)
    for path, (copies, inputs, outputs) in sizes.items():
        a = np.asarray(given[f"{path}_lora_a"], float).reshape(copies, inputs, 2)
        b = np.asarray(given[f"{path}_lora_b"], float).reshape(copies, 2, outputs)
        w = np.asarray(given[path], float)
        right = w + 0.5 * np.stack([a[i] @ b[i] for i in range(copies)]).reshape(w.shape)
        np.testing.assert_allclose(merged[path], right, rtol=1e-5, atol=1e-6)
    same = set(merged) - set(sizes)
    assert all(np.array_equal(merged[path], given[path]) for path in same)
    y, _ = jit_apply(net, jn.merge(adapted, params), {}, tokens())
    np.testing.assert_allclose(jit_apply(adapted, params, {}, tokens())[0], y, 1e-4, 1e-4)


@pytest.mark.parametrize("lost", ["kernel_lora_a", "kernel_lora_b"])
def test_one_factor_alone_is_an_error(tmp_path, lost):
    """A merge would leave out the adapter without a word."""
    layer = jn.lora(jn.serial(jn.dense(3), jn.dense(2, name="head")), 2, where="*/kernel")
    params = drawn(layer, jnp.ones((1, 4)))
    del params["head"][lost]
    with pytest.raises(ValueError, match="merge: .* _lora_b; head/kernel has one of them"):
        jn.merge(layer, params)
    with pytest.raises(ValueError, match="save_adapter: .*; head/kernel has one of them"):
        jn.pretrained.save_adapter(tmp_path / "adapter", layer, params)
    assert not (tmp_path / "adapter").exists()


@pytest.mark.slow
def test_a_convolution_has_the_window_among_its_inputs():
    conv = jn.conv(5, (3, 2), padding="VALID")
    layer = jn.lora(conv, 2, where="kernel")
    x = jax.random.normal(KEY, (2, 6, 5, 4))
    params = drawn(layer, x)
    assert params["kernel_lora_a"].shape == (3, 2, 4, 2)
    assert params["kernel_lora_b"].shape == (2, 5)
    w = np.einsum("hwir,ro->hwio", params["kernel_lora_a"], params["kernel_lora_b"])
    right, _ = conv.apply({"kernel": params["kernel"] + w, "bias": params["bias"]}, {}, x)
    np.testing.assert_allclose(layer.apply(params, {}, x)[0], right, rtol=1e-4, atol=1e-4)


def test_chosen_params_train_too():
    net = jn.serial(jn.dense(4), jn.dense(3, name="head"))
    layer = jn.lora(net, 1, where="dense/kernel", trainable="head/*")
    params = drawn(layer, jn.spec((2, 5)))

    def loss(p):
        return jnp.square(layer.apply(p, {}, jnp.ones((2, 5)))[0]).sum()

    grads = jax.jit(jax.grad(loss))(params)
    moved = {path for path, leaf in flat(grads) if leaf.any()}
    factors = {"dense/kernel_lora_a", "dense/kernel_lora_b"}
    assert moved == factors | {"head/kernel", "head/bias"}


@pytest.mark.slow
def test_an_optimizer_by_path_leaves_the_base_and_keeps_no_moments():
    layer = jn.lora(jn.dense(4), 2, where="kernel")
    optimizer = jn.by_path({"*_lora_(a|b)": optax.adamw(0.1), "*": optax.set_to_zero()})
    trainer = jn.trainer(jn.supervised(layer, optax.squared_error), optimizer)
    batch = jax.random.normal(KEY, (8, 3)), jnp.ones((8, 4))
    train_state = trainer.init(KEY, batch)
    before = jax.device_get(train_state.params)
    for _ in range(3):
        train_state, _ = trainer.step(train_state, batch)
    after = train_state.params
    assert [np.array_equal(before[n], after[n]) for n in ("kernel", "bias")] == [True, True]
    assert not any(
        np.array_equal(before[f"kernel_lora_{n}"], after[f"kernel_lora_{n}"]) for n in "ab"
    )
    sizes = {leaf.size for leaf in jax.tree.leaves(train_state.opt_state)}
    assert sizes == {1, 6, 8}  # counts, a and b


DENSE = jn.dense(4)
PARAMS = {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}
WRAPS = {
    "plain": lambda net: net,
    "cast": lambda net: jn.cast(net, jnp.bfloat16),
    "remat": jn.remat,
    "ensemble": lambda net: jn.ensemble(net, 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrap", WRAPS)
def test_merged_params_give_the_outputs_of_the_adapted_net(wrap):
    """The transform may be inside or outside the other one."""
    x = tokens()
    for inside in (False, True):

        def make(net):
            return jn.lora(net, 2, scale=0.7)

        net = decoder()
        plain = WRAPS[wrap](net)
        adapted = WRAPS[wrap](make(net)) if inside else make(plain)
        params = drawn(adapted, TOKENS)
        merged = jn.merge(adapted, params)
        assert shapes(merged) == shapes(jax.eval_shape(plain.init, KEY, TOKENS)[0])
        tolerance = 0.15 if wrap == "cast" else 1e-5  # there the sum is rounded before or after
        found, wanted = (
            jit_apply(*pair, {}, x)[0] for pair in ((adapted, params), (plain, merged))
        )
        close(found, wanted, tolerance)


@pytest.mark.slow
def test_a_layer_of_adapted_blocks_draws_others_for_each_copy():
    net = jn.repeat(jn.lora(jn.residual(jn.dense(3)), 2, where="*/kernel"), 4)
    params, state = net.init(KEY, jn.spec((2, 3)))
    assert params["dense"]["kernel_lora_a"].shape == (4, 3, 2)
    assert len(np.unique(params["dense"]["kernel_lora_a"], axis=0)) == 4
    around = jn.lora(jn.repeat(jn.residual(jn.dense(3)), 4), 2, where="*/kernel")
    a = around.init(KEY, jn.spec((2, 3)))[0]["dense"]["kernel_lora_a"]
    assert a.shape == (4, 3, 2)
    assert len(np.unique(a, axis=0)) == 4


def test_a_summary_shows_each_layer_once():
    rows = jn.summary(jn.lora(decoder(), 2), TOKENS).rows
    assert len({row.path for row in rows}) == len(rows)
    assert {row.calls for row in rows} == {1, 3}  # of three blocks
    query = {row.path: row.params for row in rows}["residual/attention/query"]
    assert query == 3 * (8 * 8 + 8 + 8 * 2 + 2 * 8)


@pytest.mark.slow
def test_factors_of_a_kernel_start_with_the_variance_of_a_kernel():
    layer = jn.lora(jn.dense(50), 40, where="kernel")
    a = layer.init(KEY, jn.spec((2, 200)))[0]["kernel_lora_a"]
    assert abs(float(a.std()) * 200**0.5 - 1) < 0.05
    table = jn.lora(jn.embedding(200, 50), 40, where="embedding")
    a = table.init(KEY, jn.spec((2,), jnp.int32))[0]["embedding_lora_a"]
    assert abs(float(a.std()) - 1) < 0.05


@refused([
    (lambda net: sizes(jn.lora(net, 2, where="*/attn/kernel")),
     r"lora: no parameter fits where='\*/attn/kernel'. The nearest paths: .*attention/out/kernel"),
    (lambda net: sizes(jn.lora(net, 2, where="head/*")),
     r"kernels and tables only.* head/bias \(11,\)"),
    (lambda net: sizes(jn.lora(net, 2, trainable="hat/*")),
     r"no parameter fits trainable='hat/\*'.*head"),
    (lambda net: sizes(jn.lora(jn.lora(net, 2), 2)), "query/kernel is already adapted; merge it"),
    (lambda net: jn.lora(net, 0), "lora: rank must be"),
    (lambda net: jn.lora(net, 2, where="*/(query"), "where must hold patterns"),
    (lambda net: jn.lora(net, 2, scale=float("nan")), "scale must be in"),
    # params of the base
    (lambda net: jn.lora(DENSE, 2, where="kernel").apply(PARAMS, {}, jnp.ones((2, 3))), jn.Misfit,
     r"kernel_lora_a: expected \(3, 2\), got nothing"),
    (lambda net: jn.merge(DENSE, PARAMS), TypeError,
     r"layer must be made by jn.lora .* got a dense"),
    (lambda net: jn.merge(jn.lora(DENSE, 2, where="kernel"), PARAMS),
     "merge: params have no entries ending in _lora_a"),
])  # fmt: skip
def test_refusals(call):
    call(decoder())


@pytest.mark.parametrize("frozen", ["layer", "pattern"])
def test_factors_around_a_frozen_layer_train(frozen):
    old = jn.serial(jn.dense(4), name="old")
    head = jn.dense(2, name="head")
    nets = {
        "layer": jn.serial(jn.freeze(old), head),
        "pattern": jn.freeze(jn.serial(old, head), "old/*"),
    }
    adapted = jn.lora(nets[frozen], 2, where="old/*/kernel", trainable="head/*")
    params, state = adapted.init(KEY, jn.spec((3, 4)))

    def loss(params):
        return adapted.apply(params, state, jnp.ones((3, 4)), train=True)[0].sum()

    grads = jax.grad(loss)(params)["old"]["dense"]
    assert np.abs(grads["kernel_lora_b"]).max() > 0
    assert np.abs(grads["kernel"]).max() == np.abs(grads["bias"]).max() == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda net: jn.freeze(jn.quantized(net)),
        lambda net: jn.quantized(jn.freeze(net)),
        lambda net: jn.quantized(net, where="*"),
        lambda net: jn.freeze(jn.quantized(net), "*kernel*"),
    ],
    ids=["freeze of integers", "integers of freeze", "any path", "freeze by path"],
)
def test_factors_around_integers_are_floats_that_train(make):
    adapted = jn.lora(make(jn.dense(3, use_bias=False)), 2, where="kernel")
    params, state = adapted.init(KEY, jn.spec((4, 6)))
    assert {params["kernel_lora_a"].dtype, params["kernel_lora_b"].dtype} == {jnp.dtype("float32")}
    b, rest = params["kernel_lora_b"], params

    def loss(b):
        return adapted.apply(rest | {"kernel_lora_b": b}, state, jnp.ones((4, 6)))[0].sum()

    assert np.abs(jax.grad(loss)(b)).max() > 0


def test_below_cast_a_kernel_of_16_bits_is_computed_in_16_bits():
    """Its factors have 32, which would make all later values float32, and copies of all kernels."""
    net = jn.cast(jn.lora(jn.dense(4, use_bias=False), 2, where="kernel"), jnp.bfloat16)
    params, state = net.init(KEY, jn.spec((2, 8)))
    params["kernel"] = params["kernel"].astype(jnp.bfloat16)
    program = str(jax.make_jaxpr(lambda p, x: net.apply(p, state, x)[0])(params, jnp.ones((2, 8))))
    products = [line for line in program.splitlines() if "= dot_general[" in line]
    assert len(products) == 3
    assert all(":bf16[" in line for line in products)
