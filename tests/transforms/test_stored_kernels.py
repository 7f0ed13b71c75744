"""Kernels that reach the product as they are stored: what compiled programs hold and compute."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import temporary

IDS = jnp.zeros((2, 64), jnp.int32)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
FACTORS = jn.by_path({"*_lora_(a|b)": optax.adam(1e-3), "*": optax.set_to_zero()})


def compiled_step(net, optimizer, ids=IDS):
    trainer = jn.trainer(jn.supervised(net, jn.losses.cross_entropy), optimizer)
    train_state = jax.eval_shape(trainer.init, jax.random.key(0), (ids, ids))
    return jax.jit(trainer.step, donate_argnums=0).lower(train_state, (ids, ids)).compile()


def held(program):
    memory = program.memory_analysis()
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes


@pytest.mark.slow
def test_a_token_of_a_decoder_holds_integers():
    net = jn.models.decoder(16384, depth=2, width=512, heads=8, mlp_features=2048)

    def token(net):
        stream = jn.stream(net, length=16)
        params, state = jax.eval_shape(stream.init, jax.random.key(0), IDS[:1, :1])

        def run(params, state, x):
            return stream.apply(params, state, x)

        return held(jax.jit(run).lower(params, state, IDS[:1, :1]).compile())

    floats = token(net)
    assert token(jn.quantized(net)) < 0.4 * floats
    assert token(jn.quantized(net, 4)) < 0.35 * floats
    assert token(jn.lora(jn.quantized(net), 8)) < 0.42 * floats


@pytest.mark.slow
def test_factors_cost_two_thirds_of_full_training():
    net = jn.models.decoder(500, depth=2, width=256, heads=4, mlp_features=1024)
    full = compiled_step(net, optax.adam(1e-3)).cost_analysis()["flops"]
    lora = compiled_step(jn.lora(net, 8, where="block*/kernel"), FACTORS).cost_analysis()["flops"]
    assert lora < 0.72 * full


@pytest.mark.slow
def test_factors_and_integers_stay_small_below_repeat():
    block = jn.remat(jn.transformer_block(4, causal=True))
    net = jn.serial(jn.embedding(300, 256), jn.repeat(block, 8), jn.dense(300))
    where = "transformer_block/*/kernel"
    full = held(compiled_step(net, optax.adam(1e-3)))
    assert held(compiled_step(jn.lora(net, 8, where=where), FACTORS)) < 0.5 * full
    assert held(compiled_step(jn.lora(jn.quantized(net), 8, where=where), FACTORS)) < 0.3 * full


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
def test_few_rows_are_multiplied_in_blocks(bits):
    """With the values and gradients of the whole product."""
    net = jn.quantized(jn.dense(4096), bits)
    params, state = net.init(jax.random.key(0), jn.spec((2, 1024)))
    x = jax.random.normal(jax.random.key(1), (2, 1024))

    def run(x):
        return net.apply(params, state, x)[0]

    def by_floats(x):
        return jn.dense(4096).apply(jn.merge(net, params), state, x)[0]

    np.testing.assert_allclose(run(x), by_floats(x), **CLOSE)
    slopes = [jax.grad(lambda x, f=f: jnp.sin(f(x)).sum())(x) for f in (run, by_floats)]
    np.testing.assert_allclose(*slopes, **CLOSE)
    assert temporary(run, x) < 4e6


TABLE = jn.embedding(8192, 512, tied=True)
TIED = jn.compose(lambda m, ids: m(TABLE, m(TABLE, ids)))


@pytest.mark.slow
def test_a_tied_table_is_quantized_by_rows_and_multiplied_in_blocks():
    net = jn.quantized(TIED, where="embedding/embedding")
    ids = jnp.array([[1, 5, 8191]])
    params, state = net.init(jax.random.key(0), ids)
    merged = TIED.apply(jn.merge(net, params), state, ids)[0]
    np.testing.assert_allclose(net.apply(params, state, ids)[0], merged, **CLOSE)


def test_a_tied_table_is_not_copied_for_a_token():
    given = *jax.eval_shape(TIED.init, jax.random.key(0), IDS[:1, :1]), IDS[:1, :1]
    assert temporary(TIED.apply, *given) < 1e6  # the table has 17 MB


@pytest.mark.slow
def test_a_layer_of_a_user_saves_too():
    def own(m, x):
        return jn.product(x, m.kernel("w", jn.initializers.lecun_normal(), (x.shape[-1], 2048)))

    net = jn.quantized(jn.compose(own), where="w")
    params, state = net.init(jax.random.key(0), jn.spec((1, 2048)))

    def run(x):
        return net.apply(params, state, x)[0]

    assert temporary(run, jnp.ones((1, 2048))) < 9e6  # the floats are 17 MB


@pytest.mark.slow
def test_muon_gets_the_axes_of_every_kernel():
    attention = jn.transformer_block(2, name="block")
    experts = jn.moe(jn.dense(8), 4, 2)
    rest = jn.repeat(attention, 3), experts, jn.lstm(8), jn.dense(30, name="head")
    net = jn.serial(jn.embedding(30, 8), *rest)
    ids = jax.random.randint(jax.random.key(0), (4, 9), 0, 30)
    params, _ = net.init(jax.random.key(0), ids)
    axes = jn.matrix_axes(net, params, ids)
    numbers = optax.contrib.MuonDimensionNumbers
    assert axes["block"]["attention"]["query"] == {"kernel": numbers(1, (2, 3)), "bias": None}
    assert axes["block"]["attention"]["out"]["kernel"] == numbers((1, 2), 3)
    assert axes["moe"]["experts"]["kernel"] == numbers(1, 2)
    assert axes["moe"]["experts"]["bias"] is axes["embedding"]["embedding"] is None
    assert axes["lstm"]["kernel"] == axes["lstm"]["recurrent_kernel"] == numbers(0, 1)
    assert set(axes["block"]["mlp_norm"].values()) == {None}
    conv = jn.serial(jn.conv(4, 3), jn.batch_norm())
    image = jnp.zeros((1, 5, 5, 2))
    found = jn.matrix_axes(conv, conv.init(jax.random.key(0), image)[0], image)
    assert found["conv"] == {"kernel": numbers((0, 1, 2), 3), "bias": None}
    assert set(found["batch_norm"].values()) == {None}

    muon = optax.contrib.muon(0.02, muon_weight_dimension_numbers=axes)
    trainer = jn.trainer(jn.supervised(net, jn.losses.cross_entropy), muon)
    train_state = trainer.init(jax.random.key(0), (ids, ids))
    first = jax.tree.map(np.asarray, train_state.params)
    train_state, _ = trainer.step(train_state, (ids, ids))
    before, after = (tree["block"]["mlp_in"]["kernel"] for tree in (first, train_state.params))
    for update in np.asarray(after - before):  # orthogonal for each copy by itself
        values = np.linalg.svd(update)[1][:-1]  # the norm before it takes one direction
        assert values.max() / values.min() < 3
