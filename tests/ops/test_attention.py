"""Dot-product attention by hand, masks, dropout, and the fused path."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops import attention as ops


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def test_masked_softmax_by_hand():
    scores = jnp.log(jnp.array([[1.0, 2.0, 5.0], [3.0, 1.0, 4.0]]))
    mask = jnp.array([[True, True, False], [True, True, True]])
    y = ops.masked_softmax(scores, mask)
    whole = ops.masked_softmax(scores, None)
    np.testing.assert_allclose(y, [[1 / 3, 2 / 3, 0], [3 / 8, 1 / 8, 1 / 2]], rtol=1e-6)
    np.testing.assert_allclose(whole[0], [1 / 8, 2 / 8, 5 / 8], rtol=1e-6)


@pytest.mark.slow
def test_masked_softmax_without_any_entry_has_gradient_0():
    def first(scores):
        return ops.masked_softmax(scores, jnp.zeros((2, 3), bool))[:, 0].sum()

    with jax.debug_nans(True):
        assert not jax.grad(first)(jnp.ones((2, 3))).any()


def test_the_forms_of_a_mask():
    lengths = jnp.array([3, 1])
    seen = jnp.arange(3) < lengths[:, None]
    whole = jnp.broadcast_to(seen[:, None, None], (2, 4, 5, 3))
    forms = whole[:, :1, 0], whole[:, 0], whole[:, :1, :1], whole[:, :1], whole
    for form in (lengths, seen, *forms):
        found, _ = ops.expand_mask("a", form, (2, 4, 5, 3))
        np.testing.assert_array_equal(jnp.broadcast_to(found, whole.shape), whole)
    assert ops.expand_mask("a", None, (2, 4, 5, 3)) == (None, None)


def test_a_mask_that_is_none_of_these_forms():
    words = r"a: a mask is lengths, integers \(2,\).*got \(3,\) int32"
    with pytest.raises(ValueError, match=words):
        ops.expand_mask("a", jnp.array([1, 2, 3]), (2, 4, 5, 3))


CAUSAL = jnp.tril(jnp.ones((5, 5), bool))


@pytest.mark.parametrize(
    "shape", [(5, 2, 5, 5), (4, 2, 4, 5)], ids=["self-attention", "a memory of five places"]
)
def test_a_square_mask_of_two_axes_is_padding(shape):
    """Five sequences of five steps; a causal mask is told, since it is meant otherwise."""
    mask = CAUSAL[: shape[2]]
    with pytest.warns(UserWarning, match="a: the mask .* is read as padding, a row per sequence"):
        seen, _ = ops.expand_mask("a", mask, shape)
    np.testing.assert_array_equal(seen, mask[:, None, None])
    padding = mask.at[0].set(True)  # as a loader pads
    for form in (padding, padding.astype(int)):
        seen, _ = ops.expand_mask("a", form, shape)
        np.testing.assert_array_equal(seen, padding[:, None, None])
    by_query, _ = ops.expand_mask("a", mask[None], shape)
    by_sequence, _ = ops.expand_mask("a", mask[:, None], shape)
    np.testing.assert_array_equal(by_query, mask[None, None])
    np.testing.assert_array_equal(by_sequence, mask[:, None, None])


def test_a_mask_of_one_query_and_one_sequence_has_one_reading():
    one, _ = ops.expand_mask("a", CAUSAL[:1], (1, 2, 1, 5))
    np.testing.assert_array_equal(one, CAUSAL[None, None, :1])


def test_a_mask_of_too_many_queries():
    words = r"0 and 1 \(4, 5\), .*\(4 or 1, 5 or 1, 5\), .*got \(5, 5\)"
    with pytest.raises(ValueError, match=words):
        ops.expand_mask("a", CAUSAL, (4, 2, 5, 5))


@pytest.mark.parametrize(("capability", "dtype", "head_size", "fits"), [
    (8.0, jnp.bfloat16, 64, True), (9.0, jnp.bfloat16, 256, True),
    (8.0, jnp.bfloat16, 136, False), (8.0, jnp.bfloat16, 60, False),
    (7.5, jnp.float16, 64, False), (9.0, jnp.float32, 64, False), (0.0, jnp.bfloat16, 64, False),
])  # fmt: skip
def test_fits_cudnn(capability, dtype, head_size, fits):
    assert ops.fits_cudnn(capability, dtype, head_size) is fits


@pytest.mark.parametrize(("device", "cudnn", "capability"), [
    ({"compute_capability": "7.5"}, True, 7.5), ({"compute_capability": "gfx90a"}, True, 0.0),
    ({}, True, 8.0), ({}, False, 0.0),
])  # fmt: skip
def test_capability_of_a_gpu_here_or_elsewhere(device, cudnn, capability, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(**device)])
    monkeypatch.setattr(ops, "_has_cudnn", lambda: cudnn)
    assert ops.cuda_capability() == capability


def test_floats_of_a_mask_are_added_and_minus_infinity_masks():
    bias = jnp.array([0.5, -jnp.inf, -2.0]).reshape(1, 1, 1, 3)
    seen, added = ops.expand_mask("a", bias, (2, 4, 5, 3))
    assert seen.ravel().tolist() == [True, False, True]
    assert added.ravel().tolist() == [0.5, 0.0, -2.0]


def test_a_nan_to_add_does_not_mask(x64):
    """By the definition softmax(scores + mask): a NaN reaches its row, forward and backward."""
    bias = np.array([[0, 0, np.nan], [0, -np.inf, 0], [np.nan] * 3])[None, None]
    q, k, v = (draw(1, 3, 2, 4, seed=i) for i in range(3))

    def attend(bias):
        seen, added = ops.expand_mask("a", bias, (1, 2, 3, 3))
        y, _ = ops.dot_product_attention(q, k, v, seen, ops.Scoring(bias=added))
        return y.sum(), y

    (_, y), slope = jax.jit(jax.value_and_grad(attend, has_aux=True))(bias)
    scores = np.einsum("bthd,bshd->bhts", q, k) / 2 + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = np.einsum("bhts,bshd->bthd", weights / weights.sum(-1, keepdims=True), v)
    assert np.isnan(wanted[:, [0, 2]]).all()
    assert np.isfinite(wanted[:, 1]).all()
    np.testing.assert_allclose(y, wanted, 1e-10, 1e-12)
    slope = np.asarray(slope[0, 0])
    assert np.isnan(slope[0, 2])
    assert np.isnan(slope[2]).all()
    assert np.isfinite(slope[1]).all()
    assert slope[1, 1] == 0


@pytest.mark.slow
def test_windows():
    everything = ops.in_window(4, 6, (9, 9))
    assert everything.shape == (4, 6) and everything.all()
    assert (ops.in_window(4, 4, (3, 0)) == jnp.tril(jnp.ones((4, 4), bool))).all()
    assert ops.in_window(3, 5, (0, 1)).sum(1).tolist() == [2, 2, 2]


def test_dropped_weights_are_0_and_the_others_grow():
    """With one value per place the output is the weights."""
    q, k = jnp.zeros((3, 40, 1, 2)), jnp.zeros((3, 5, 1, 2))
    places = jnp.tile(jnp.eye(5)[None, :, None], (3, 1, 1, 1))

    @jax.jit
    def attend(key):
        scoring = ops.Scoring(dropout_rate=0.25, key=key)
        return ops.dot_product_attention(q, k, places, None, scoring)

    y, weights = jax.device_get(attend(jax.random.key(0)))
    np.testing.assert_allclose(weights, 0.2, rtol=1e-6)
    dropped = y == 0
    np.testing.assert_allclose(y[~dropped], 0.2 / 0.75, rtol=1e-6)
    assert abs(dropped.mean() - 0.25) < 4 * (0.25 * 0.75 / y.size) ** 0.5
