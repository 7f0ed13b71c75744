"""Dense layer: values by hand, the variance of a fresh layer, PyTorch, edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.compiled import jit_apply

KEY = jax.random.key(0)


@pytest.mark.parametrize(("x", "expected"), [
    pytest.param([1, 2, 3], [32, 48], id="1+6+15+10, 2+8+18+20"),
    pytest.param([0, 0, 0], [10, 20], id="the bias alone"),
])  # fmt: skip
def test_values_by_hand(x, expected):
    params = {"kernel": jnp.array([[1.0, 2], [3, 4], [5, 6]]), "bias": jnp.array([10.0, 20])}
    y, _ = jit_apply(jn.dense(2), params, {}, jnp.array([x], jnp.float32))
    assert y.tolist() == [expected]


def test_a_fresh_layer_keeps_the_variance():
    x = jax.random.normal(jax.random.key(1), (500, 400))
    params, _ = jn.dense(300).init(KEY, x)
    y, _ = jit_apply(jn.dense(300), params, {}, x)
    assert 0.97 < float(y.var()) < 1.03
    assert not params["bias"].any()


def test_last_axis_alone_is_mapped():
    params, _ = jn.dense(4, use_bias=False).init(KEY, jn.spec((2, 5, 3)))
    x = jax.random.normal(jax.random.key(1), (2, 5, 3))
    y, _ = jit_apply(jn.dense(4, use_bias=False), params, {}, x)
    np.testing.assert_allclose(y, np.einsum("bti,io->bto", x, params["kernel"]), rtol=1e-5)
    assert list(params) == ["kernel"]


def test_pixels_are_fine():
    params, _ = jn.dense(4).init(KEY, jn.spec((2, 3), jnp.uint8))
    y, _ = jit_apply(jn.dense(4), params, {}, jnp.full((2, 3), 255, jnp.uint8))
    np.testing.assert_allclose(y[0], 255 * params["kernel"].sum(0), rtol=1e-4)


@pytest.mark.slow
def test_parity_with_torch(x64):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")  # torch 2.13.0
    rng = np.random.default_rng(0)
    x, w, b, dy = (rng.normal(size=s) for s in ((7, 3), (3, 4), (4,), (7, 4)))
    t = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    y = torch.nn.functional.linear(t[0], t[1].T, t[2])
    y.backward(torch.tensor(dy))

    def run(x, w, b):
        return jit_apply(jn.dense(4), {"kernel": w, "bias": b}, {}, x)[0]

    ours, vjp = jax.vjp(run, x, w, b)
    np.testing.assert_allclose(ours, y.detach(), atol=1e-10)
    for mine, theirs in zip(vjp(jnp.asarray(dy)), t, strict=True):
        np.testing.assert_allclose(mine, theirs.grad, atol=1e-10)


@pytest.mark.parametrize("features", [0, -3])
def test_no_features_is_answered(features):
    with pytest.raises(ValueError, match=f"dense: features must be at least 1, got {features}"):
        jn.dense(features)


def test_an_input_without_features_is_answered():
    with pytest.raises(
        ValueError, match=r"dense: expected an input of .*, got \(5,\)\. Is the batch"
    ):
        jn.dense(2).init(KEY, jn.spec((5,)))


@pytest.mark.parametrize(("inputs", "features"), [(784, 100), (300, 7)])
def test_a_layer_of_n_to_m_has_n_times_m_weights(inputs, features):
    params, _ = jn.dense(features, use_bias=False).init(KEY, jn.spec((1, inputs)))
    assert params["kernel"].size == inputs * features  # 78,400 for a 28 x 28 image to 100 units


def test_a_random_bias_is_not_the_kernel_again():
    draw = jn.initializers.normal(1.0)
    params, _ = jn.dense(5, kernel_init=draw, bias_init=draw).init(
        jax.random.key(0), jn.spec((2, 1))
    )
    assert not jnp.isclose(params["kernel"][0], params["bias"]).any()
