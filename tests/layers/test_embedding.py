"""Embeddings and positions: rows of a table, ids out of range, tied tables, angles by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests import oracles
from tests.helpers import close, draw, jit_apply, refuses

IDS = jnp.array([[1, 5, 0], [10, 5, 2]])


def test_padding_idx_equals_torch(x64, torch):
    """The vector of the padding is drawn as zeros and has no gradient, whatever it is later."""
    table = draw(11, 4)
    c = draw(2, 3, 4, seed=1)
    given = torch.tensor(table, requires_grad=True)
    out = torch.nn.functional.embedding(torch.tensor(IDS.tolist()), given, padding_idx=0)
    (out * torch.tensor(c)).sum().backward()
    layer = jn.embedding(11, 4, padding_idx=0)

    def loss(table):
        return (layer.apply({"embedding": table}, {}, IDS)[0] * c).sum()

    value, grad = jax.jit(jax.value_and_grad(loss))(jnp.asarray(table))
    np.testing.assert_allclose(value, (out.detach().numpy() * c).sum(), rtol=1e-10)
    np.testing.assert_allclose(grad, given.grad, rtol=1e-10)
    assert (IDS == 0).any()
    assert not grad[0].any()
    assert grad[5].all()  # 5 comes twice
    drawn = layer.init(jax.random.key(0), IDS)[0]["embedding"]
    assert not drawn[0].any()
    assert drawn[4].any()


def test_a_fresh_table_has_variance_1_over_features():
    params, _ = jn.embedding(300, 50).init(jax.random.key(0), jn.spec((1,), jnp.int32))
    table = params["embedding"]
    assert abs(float(table.var()) * 50 - 1) < 4 * np.sqrt(2 / 15000)
    assert abs(float(table.mean())) < 4 * np.sqrt(1 / 50 / 15000)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [-1, 11, 1000])
def test_ids_out_of_range(wrong):
    layer = jn.embedding(11, 4)
    params, state = layer.init(jax.random.key(0), IDS)
    ids = IDS.at[1, 2].set(wrong)
    with pytest.raises(ValueError, match=rf"ids must be in \[0, 11\), got {wrong}"):
        layer.apply(params, state, ids)

    @jax.jit
    def run(params, ids):
        return layer.apply(params, state, ids)[0]

    y = run(params, ids)
    assert jnp.isnan(y[1, 2]).all()
    assert jnp.isfinite(y).sum() == 20
    grad = jax.jit(jax.grad(lambda p: jnp.nansum(run(p, ids))))(params)["embedding"]
    assert jnp.isfinite(grad).all()
    assert grad.sum() == 20


@pytest.mark.slow
def test_tied_table_is_one_and_gets_both_gradients(x64):
    words = jn.embedding(11, 4, tied=True)
    net = jn.serial(words, jnp.tanh, words)
    table = jnp.asarray(draw(11, 4))
    params, state = net.init(jax.random.key(0), IDS)
    assert jax.tree.map(jnp.shape, params) == {"embedding": {"embedding": (11, 4)}}

    def loss(table):
        logits, _ = jit_apply(net, {"embedding": {"embedding": table}}, state, IDS)
        return optax.softmax_cross_entropy_with_integer_labels(logits, IDS).sum(), logits

    def by_hand(table):
        logits = jnp.tanh(table[IDS]) @ table.T
        return optax.softmax_cross_entropy_with_integer_labels(logits, IDS).sum(), logits

    found, wanted = (jax.jit(jax.grad(f, has_aux=True))(table) for f in (loss, by_hand))
    close(found, wanted, 1e-10, 0)


def test_tied_logits_of_a_fresh_table_have_variance_1():
    layer = jn.embedding(500, 64, tied=True)
    x = jnp.asarray(draw(40, 64), jnp.float32)
    y, _ = layer.apply(*layer.init(jax.random.key(0), x), x)
    assert 0.9 < float(y.var()) < 1.1


def test_sinusoidal_positions_one_at_a_time_and_in_bfloat16():
    layer = jn.layers.sinusoidal_positions()
    x = jnp.zeros((2, 400, 6))
    whole, _ = jit_apply(layer, {}, {}, x)
    one, _ = jit_apply(layer, {}, {}, (x[:, 0], jnp.array([399, 3])))
    np.testing.assert_allclose(one, jnp.stack([whole[0, 399], whole[1, 3]]), atol=1e-6)
    narrow, _ = jit_apply(layer, {}, {}, x.astype(jnp.bfloat16))
    np.testing.assert_allclose(narrow.astype(jnp.float32), whole, atol=2**-8)


def test_rotary_of_neighbors_and_of_a_part(x64):
    """Interleaved pairs are rotated as complex numbers; features beyond `size` stay."""
    x = draw(2, 5, 3, 10)
    positions = np.array([[0, 1, 2, 3, 4], [7, 0, 2, 9, 4]])
    options = {"base": 100.0, "size": 6}
    for more in {"interleaved": True}, {}:
        rotated = jax.jit(partial(jn.rotary, **options, **more))(x, positions)
        close(rotated, oracles.rotary(x, positions, **options, **more), 1e-10, 1e-12)
        np.testing.assert_array_equal(rotated[..., 6:], x[..., 6:])


def test_rotary_in_bfloat16():
    x = jnp.asarray(draw(1, 300, 1, 4), jnp.bfloat16)
    found, wide = (np.float32(jax.jit(jn.rotary)(a)) for a in (x, np.float32(x)))
    np.testing.assert_allclose(found, wide, rtol=2**-8, atol=1e-6)


@pytest.mark.slow
def test_a_table_of_numpy_and_a_list_of_positions():
    table = draw(11, 4).astype(np.float32)
    layer = jn.embedding(11, 4, padding_idx=0, embedding_init=lambda *_: table)
    params, _ = layer.init(jax.random.key(0), IDS)
    assert (params["embedding"][0] == 0).all()
    assert (params["embedding"][1:] == table[1:]).all()
    layer = jn.learned_positions(5)
    x = jnp.ones((2, 3, 4))
    places = jnp.array([[0, 1, 2], [4, 3, 2]])
    params, state = layer.init(jax.random.key(0), (x, places))
    as_tuple, _ = layer.apply(params, state, (x, places))
    assert (layer.apply(params, state, [x, places])[0] == as_tuple).all()


def inits(layer, *given):
    return layer.init(jax.random.key(0), given if len(given) > 1 else given[0])


WORDS = jn.embedding(11, 4)
PLACES = jn.learned_positions(7)
WAVES = jn.layers.sinusoidal_positions()
HEADS = jnp.ones((1, 3, 2, 4))


test_refusals = refuses([
    (lambda: inits(WORDS, jn.spec((2, 4))), TypeError,
     r"ids must be integers, got float32.*tied=True"),
    (lambda: inits(WORDS, jn.spec((2, 4), bool)), TypeError, "ids must be integers, got bool"),
    (lambda: inits(jn.embedding(11, 4, tied=True), jn.spec((2, 5))),
     r"or floats \(..., 4\) that become logits, got \(2, 5\)"),
    (lambda: jn.embedding(0, 4), "vocabulary must be at least 1, got 0"),
    (lambda: jn.embedding(11, 4, padding_idx=11),
     "padding_idx must be 0 to 10, the last id, got 11"),
    (lambda: inits(PLACES, jn.spec((2, 8, 4))), "has 7 positions, got a sequence of length 8"),
    (lambda: inits(PLACES, jn.spec((2, 4))), r"of shape \(batch, time, features\), got \(2, 4\)"),
    (lambda: inits(PLACES, jn.spec((2, 4)), jn.spec((3,), jnp.int32)),
     r"one position per vector, \(2,\), got \(3,\)"),
    (lambda: PLACES.apply({"embedding": jnp.ones((7, 4))}, {},
                          (jnp.ones((2, 4)), jnp.array([3, 7]))),
     r"positions must be in \[0, 7\), got 7"),
    (lambda: jn.learned_positions(0), "max_length must be at least 1"),
    (lambda: inits(PLACES, HEADS[0], HEADS[0], HEADS[0]),
     r"learned_positions: expected x or \(x, positions\)"),
    (lambda: inits(WAVES, HEADS[0], {"positions": HEADS[0]}),
     r"sinusoidal_positions: expected x or \(x, positions\)"),
    (lambda: inits(WAVES, jn.spec((2, 3, 5))), "even number of features"),
    (lambda: inits(WAVES, jnp.ones((1, 3, 2), int)), TypeError,
     "sinusoidal_positions: expected an input of floats, got"),
    (lambda: jn.rotary(HEADS.astype(int)), TypeError, "rotary: x must hold floats; .*, got"),
    (lambda: jn.rotary(HEADS[..., :3]), "even size of at most the size of the heads, got 3"),
    (lambda: jn.rotary(HEADS, size=6), "at most the size of the heads, got 6"),
    (lambda: jn.rotary(HEADS, jnp.arange(4)),
     r"rotary: positions .* \(time,\) with time = 3, got \(4,\)"),
    (lambda: jn.rotary(HEADS, jnp.ones((2, 3))),
     r"rotary: positions .* with batch = 1, got \(2, 3\)"),
    (lambda: jn.rotary(HEADS, base=0.0), r"rotary: base must be in \(0, inf\), got 0.0"),
])  # fmt: skip
