"""Upsampling against `torch.nn.functional.interpolate`, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.compiled import jit_apply, jit_pull

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("kind", ["nearest", "linear", "corners"])
def test_is_that_of_pytorch(x64, axes, kind):
    torch = pytest.importorskip("torch", reason="parity with torch 2.13.0")
    rng = np.random.default_rng(0)
    factor = (2, 3, 4)[:axes]
    x = torch.tensor(rng.normal(size=(2, 3, 5, 4, 3)[: axes + 2]), requires_grad=True)
    if kind == "nearest":
        layer, options = jn.upsample_nearest(factor), {"mode": "nearest"}
    else:
        corners = kind == "corners"
        layer = jn.upsample_bilinear(factor, align_corners=corners)
        options = {"mode": MODES[axes], "align_corners": corners}
    y = torch.nn.functional.interpolate(x, scale_factor=factor, **options)
    cotangent = rng.normal(size=y.shape)
    y.backward(torch.tensor(cotangent))

    def last(a):
        return np.moveaxis(np.asarray(a), 1, -1)

    ours, slope = jit_pull(lambda x: layer.apply({}, {}, x)[0], last(x.detach()), last(cotangent))
    np.testing.assert_allclose(ours, last(y.detach()), 1e-10, 1e-10)
    np.testing.assert_allclose(slope, last(x.grad), 1e-10, 1e-10)


@pytest.mark.parametrize("make", [jn.upsample_nearest, jn.upsample_bilinear])
def test_factor_one_changes_nothing_and_a_constant_stays(make):
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 1))
    np.testing.assert_allclose(jit_apply(make(1), {}, {}, x)[0], x, 1e-6)
    ones = jit_apply(make((2, 5)), {}, {}, jnp.ones((1, 1, 3, 2)))[0]
    np.testing.assert_allclose(ones, np.ones((1, 2, 15, 2)), 1e-6)


def test_integers():
    x = jnp.array([0, 255], jnp.uint8).reshape(1, 2, 1)
    assert jit_apply(jn.upsample_nearest(2), {}, {}, x)[0].dtype == jnp.uint8
    y, _ = jit_apply(jn.upsample_bilinear(2), {}, {}, x)
    np.testing.assert_allclose(y.ravel(), [0, 63.75, 191.25, 255])


def test_messages():
    with pytest.raises(ValueError, match="factor needs 2 entries"):
        jn.upsample_nearest((2, 2, 2)).apply({}, {}, jnp.ones((1, 2, 2, 1)))
    with pytest.raises(ValueError, match="factor must be whole numbers"):
        jn.upsample_bilinear(1.5).apply({}, {}, jnp.ones((1, 2, 2, 1)))
    with pytest.raises(ValueError, match="upsample_nearest: expected an input"):
        jn.upsample_nearest(2).apply({}, {}, jnp.ones((2, 1)))
