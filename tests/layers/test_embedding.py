"""Embeddings and positions: rows of a table, ids out of range, tied tables, angles by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.compiled import jit_apply

IDS = jnp.array([[1, 5, 0], [10, 5, 2]])


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_takes_rows_of_the_table():
    layer = jn.embedding(11, 4)
    table = jnp.arange(44.0).reshape(11, 4)
    y, _ = jit_apply(layer, {"embedding": table}, {}, IDS)
    assert y.shape == (2, 3, 4)
    assert y[0, 1].tolist() == [20.0, 21.0, 22.0, 23.0] and (y[0, 1] == y[1, 1]).all()
    assert (
        jit_apply(layer, {"embedding": table}, {}, jnp.array([255, 3], jnp.uint8) % 11)[0][0]
        == table[2]
    ).all()


# torch 2.13.0
def test_values_and_gradients_equal_torch(x64):
    torch = pytest.importorskip("torch", reason="values are compared with PyTorch's")
    table, c = draw(11, 4), draw(2, 3, 4, seed=1)
    given = torch.tensor(table, requires_grad=True)
    out = torch.nn.functional.embedding(torch.tensor(IDS.tolist()), given)
    (out * torch.tensor(c)).sum().backward()
    layer = jn.embedding(11, 4)

    @jax.jit
    def loss(table):
        y, _ = layer.apply({"embedding": table}, {}, IDS)
        return (y * c).sum(), y

    grad, y = jax.jit(jax.grad(loss, has_aux=True))(jnp.asarray(table))
    np.testing.assert_allclose(y, out.detach(), rtol=1e-10)
    np.testing.assert_allclose(grad, given.grad, rtol=1e-10)  # id 5 comes twice: its row adds up


def test_padding_idx_equals_torch(x64):
    """The vector of the padding is drawn as zeros and has no gradient, whatever it is later."""
    torch = pytest.importorskip("torch", reason="values are compared with PyTorch's")
    table, c = draw(11, 4), draw(2, 3, 4, seed=1)
    given = torch.tensor(table, requires_grad=True)
    out = torch.nn.functional.embedding(torch.tensor(IDS.tolist()), given, padding_idx=5)
    (out * torch.tensor(c)).sum().backward()
    layer = jn.embedding(11, 4, padding_idx=5)
    loss = jax.jit(
        jax.value_and_grad(lambda t: (layer.apply({"embedding": t}, {}, IDS)[0] * c).sum())
    )
    value, grad = loss(jnp.asarray(table))
    np.testing.assert_allclose(value, (out.detach().numpy() * c).sum(), rtol=1e-10)
    np.testing.assert_allclose(grad, given.grad, rtol=1e-10)
    assert (IDS == 5).any() and not grad[5].any() and grad.any()
    drawn = layer.init(jax.random.key(0), IDS)[0]["embedding"]
    assert not drawn[5].any() and drawn[4].any()
    with pytest.raises(ValueError, match="padding_idx must be below 11, got 11"):
        jn.embedding(11, 4, padding_idx=11)


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
    assert jnp.isnan(y[1, 2]).all() and jnp.isfinite(y).sum() == 20
    grad = jax.jit(jax.grad(lambda p: jnp.nansum(run(p, ids))))(params)["embedding"]
    assert jnp.isfinite(grad).all() and grad.sum() == 20


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

    (grad, y), (wanted, logits) = jax.jit(
        lambda table: [jax.grad(f, has_aux=True)(table) for f in (loss, by_hand)]
    )(table)
    np.testing.assert_allclose(y, logits, rtol=1e-10)
    np.testing.assert_allclose(grad, wanted, rtol=1e-10)


def test_tied_logits_of_a_fresh_table_have_variance_1():
    layer = jn.embedding(500, 64, tied=True)
    x = jnp.asarray(draw(40, 64), jnp.float32)
    y, _ = layer.apply(*layer.init(jax.random.key(0), x), x)
    assert 0.9 < float(y.var()) < 1.1


def test_embedding_messages():
    key = jax.random.key(0)
    with pytest.raises(TypeError, match=r"ids must be integers, got float32.*tied=True"):
        jn.embedding(11, 4).init(key, jn.spec((2, 4)))
    with pytest.raises(TypeError, match="ids must be integers, got bool"):
        jn.embedding(11, 4).init(key, jn.spec((2, 4), bool))
    with pytest.raises(ValueError, match=r"or floats \(..., 4\) that become logits, got \(2, 5\)"):
        jn.embedding(11, 4, tied=True).init(key, jn.spec((2, 5)))
    with pytest.raises(ValueError, match="vocabulary must be at least 1, got 0"):
        jn.embedding(0, 4)
    with pytest.raises(ValueError, match="features must be at least 1, got 0"):
        jn.embedding(4, 0)


def test_learned_positions_add_the_row_of_each_place():
    layer = jn.learned_positions(7)
    params = {"embedding": jnp.asarray(draw(7, 4), jnp.float32)}
    x = jnp.asarray(draw(2, 5, 4), jnp.float32)
    y, _ = jit_apply(layer, params, {}, x)
    np.testing.assert_array_equal(y, x + params["embedding"][:5])
    places = jnp.array([[6, 0, 1, 1, 2], [0, 1, 2, 3, 4]])
    y, _ = jit_apply(layer, params, {}, (x, places))
    np.testing.assert_array_equal(y, x + params["embedding"][places])


def test_learned_positions_messages():
    key, layer = jax.random.key(0), jn.learned_positions(7)
    with pytest.raises(ValueError, match="has 7 positions, got a sequence of length 8"):
        layer.init(key, jn.spec((2, 8, 4)))
    with pytest.raises(ValueError, match=r"of shape \(batch, time, features\), got \(2, 4\)"):
        layer.init(key, jn.spec((2, 4)))
    with pytest.raises(ValueError, match=r"one position per vector, \(2,\), got \(3,\)"):
        layer.init(key, (jn.spec((2, 4)), jn.spec((3,), jnp.int32)))
    params, _ = layer.init(key, jn.spec((2, 5, 4)))
    with pytest.raises(ValueError, match=r"positions must be in \[0, 7\), got 7"):
        layer.apply(params, {}, (jnp.ones((2, 4)), jnp.array([3, 7])))
    with pytest.raises(ValueError, match="max_length must be at least 1"):
        jn.learned_positions(0)


def test_sinusoidal_positions_by_the_formula(x64):
    x = jnp.asarray(draw(2, 50, 6))
    y, _ = jit_apply(jn.layers.sinusoidal_positions(), {}, {}, x)
    for place in (0, 1, 49):
        for i in range(3):
            angle = place / 10000 ** (2 * i / 6)
            np.testing.assert_allclose(y[0, place, 2 * i] - x[0, place, 2 * i], np.sin(angle), 1e-9)
            np.testing.assert_allclose(
                y[1, place, 2 * i + 1] - x[1, place, 2 * i + 1], np.cos(angle), 1e-9
            )


def test_sinusoidal_positions_one_at_a_time_and_in_bfloat16():
    layer, x = jn.layers.sinusoidal_positions(), jnp.zeros((2, 400, 6))
    whole, _ = jit_apply(layer, {}, {}, x)
    one, _ = jit_apply(layer, {}, {}, (x[:, 0], jnp.array([399, 3])))
    np.testing.assert_allclose(one, jnp.stack([whole[0, 399], whole[1, 3]]), atol=1e-6)
    narrow, _ = jit_apply(layer, {}, {}, x.astype(jnp.bfloat16))
    np.testing.assert_allclose(narrow.astype(jnp.float32), whole, atol=2**-8)
    with pytest.raises(ValueError, match="even number of features"):
        layer.init(jax.random.key(0), jn.spec((2, 3, 5)))


def test_rotary_rotates_pairs_by_hand(x64):
    """Pair i, as a complex number, is rotated by position / base^(2i / size)."""
    x = draw(2, 5, 3, 8)
    rotated = jn.rotary(jnp.asarray(x), base=100.0)
    pairs = x[..., :4] + 1j * x[..., 4:]
    angles = np.arange(5)[:, None] / 100.0 ** (2 * np.arange(4) / 8)
    wanted = pairs * np.exp(1j * angles)[:, None]
    np.testing.assert_allclose(
        rotated, np.concatenate([wanted.real, wanted.imag], -1), 1e-10, 1e-12
    )


def test_rotary_of_neighbors_and_of_a_part(x64):
    """Interleaved pairs are rotated as complex numbers; features beyond `size` stay."""
    x, positions = draw(2, 5, 3, 10), np.array([[0, 1, 2, 3, 4], [7, 0, 2, 9, 4]])
    rotated = jn.rotary(jnp.asarray(x), positions, base=100.0, size=6, interleaved=True)
    pairs = x[..., :6:2] + 1j * x[..., 1:6:2]
    angles = positions[..., None] / 100.0 ** (2 * np.arange(3) / 6)
    wanted = pairs * np.exp(1j * angles)[:, :, None]
    np.testing.assert_allclose(rotated[..., :6:2], wanted.real, 1e-10, 1e-12)
    np.testing.assert_allclose(rotated[..., 1:6:2], wanted.imag, 1e-10, 1e-12)
    np.testing.assert_array_equal(rotated[..., 6:], x[..., 6:])
    part = jn.rotary(jnp.asarray(x), base=100.0, size=6)
    np.testing.assert_allclose(part[..., :6], jn.rotary(jnp.asarray(x[..., :6]), base=100.0), 1e-12)
    for size in (5, 12):
        with pytest.raises(ValueError, match=f"at most the size of the heads, got {size}"):
            jn.rotary(jnp.asarray(x), size=size)


@pytest.mark.slow
def test_rotary_products_depend_on_the_distance_alone(x64):
    q, k = jnp.asarray(draw(2, 1, 1, 1, 8))
    places = [(0, 3), (4, 7), (1000, 1003)]
    products = [
        (jn.rotary(q, jnp.array([a])) * jn.rotary(k, jnp.array([b]))).sum() for a, b in places
    ]
    np.testing.assert_allclose(products, products[0], rtol=1e-9)
    other = (jn.rotary(q, jnp.array([0])) * jn.rotary(k, jnp.array([4]))).sum()
    assert abs(other - products[0]) > 1e-3


def test_rotary_in_bfloat16_and_its_message():
    x = jnp.asarray(draw(1, 300, 1, 4), jnp.bfloat16)
    wide = jn.rotary(x.astype(jnp.float32))
    np.testing.assert_allclose(jn.rotary(x).astype(jnp.float32), wide, rtol=2**-8, atol=1e-6)
    with pytest.raises(ValueError, match="even size of at most the size of the heads, got 5"):
        jn.rotary(jnp.ones((1, 2, 3, 5)))


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32])
def test_waves_on_integers_are_refused(dtype):
    with pytest.raises(TypeError, match="sinusoidal_positions: expected an input of floats, got"):
        jn.layers.sinusoidal_positions().apply({}, {}, jnp.ones((1, 3, 2), dtype))
    with pytest.raises(TypeError, match="rotary: x must hold floats; .*, got"):
        jn.rotary(jnp.ones((1, 3, 2, 4), dtype))


@pytest.mark.parametrize(("options", "words"), [
    ({"positions": jnp.arange(4)}, r"positions .* \(time,\) with time = 3, got \(4,\)"),
    ({"positions": jnp.ones((2, 3))}, r"positions .* with batch = 1, got \(2, 3\)"),
    ({"base": 0.0}, r"base must be in \(0, inf\), got 0.0"),
    ({"base": float("nan")}, r"base must be in \(0, inf\), got nan"),
], ids=str)  # fmt: skip
def test_rotary_names_what_does_not_fit(options, words):
    with pytest.raises(ValueError, match=f"rotary: {words}"):
        jn.rotary(jnp.ones((1, 3, 2, 4)), **options)


@pytest.mark.parametrize("layer", [jn.learned_positions(9), jn.layers.sinusoidal_positions()],
                         ids=lambda layer: layer.name)  # fmt: skip
def test_positions_of_another_form_are_named(layer):
    x = jnp.ones((1, 3, 2))
    for given in (x, x, x), (x, {"positions": x}):
        with pytest.raises(ValueError, match=rf"{layer.name}: expected x or \(x, positions\)"):
            layer.init(jax.random.key(0), given)


def test_a_table_of_numpy_and_a_list_of_positions():
    table = draw(11, 4).astype(np.float32)
    layer = jn.embedding(11, 4, padding_idx=0, embedding_init=lambda *_: table)
    params, _ = layer.init(jax.random.key(0), IDS)
    assert (params["embedding"][0] == 0).all() and (params["embedding"][1:] == table[1:]).all()
    layer = jn.learned_positions(5)
    x, places = jnp.ones((2, 3, 4)), jnp.array([[0, 1, 2], [4, 3, 2]])
    params, state = layer.init(jax.random.key(0), (x, places))
    as_tuple, _ = layer.apply(params, state, (x, places))
    assert (layer.apply(params, state, [x, places])[0] == as_tuple).all()
