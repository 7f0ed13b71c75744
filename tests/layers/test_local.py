"""Locally connected layers: a convolution without sharing. Parameter counts are in test_conv.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.helpers import jit_apply, refused


@pytest.mark.slow
@pytest.mark.parametrize(
    "x_shape, window, options",
    [
        ((2, 9, 3), (4,), {"strides": 2}),
        ((2, 7, 6, 3), (3, 2), {"strides": (2, 1), "padding": ((1, 0), (0, 2))}),
        ((2, 4, 5, 6, 2), (2, 3, 2), {"padding": "SAME"}),
    ],
    ids=["signal", "image", "volume"],
)
def test_is_a_convolution_where_its_kernels_are_equal(x64, x_shape, window, options):
    x = jax.random.normal(jax.random.key(0), x_shape)
    conv = jn.conv(5, window, **({"padding": "VALID"} | options))
    params, _ = conv.init(jax.random.key(1), x)
    params["bias"] = jnp.arange(5.0)
    y, _ = jit_apply(conv, params, {}, x)
    positions = y.shape[1:-1]
    shared = {"kernel": params["kernel"].reshape(-1, 5), "bias": params["bias"]}
    shared = {n: jnp.broadcast_to(a, (*positions, *a.shape)) for n, a in shared.items()}
    layer = jn.layers.locally_connected(5, window, **options)
    np.testing.assert_allclose(jit_apply(layer, shared, {}, x)[0], y, 1e-12, 1e-12)


@pytest.mark.slow
def test_fresh_outputs_have_variance_near_one():
    layer = jn.layers.locally_connected(7, 5)
    x = jax.random.normal(jax.random.key(0), (40, 12, 11, 3))
    params, _ = layer.init(jax.random.key(1), x)
    assert 0.9 < float(jit_apply(layer, params, {}, x)[0].var()) < 1.1
    assert params["bias"].shape == (8, 7, 7)


@refused([
    (lambda: jn.layers.locally_connected(0, 3), None, "features must be at least 1"),
    (lambda: jn.layers.locally_connected(4, 3), (2, 5),
     r"locally_connected: expected .*\(batch, \*space"),
    (lambda: jn.layers.locally_connected(4, 6), (2, 5, 3),
     r"a window of \(6,\) is larger than the input"),
])  # fmt: skip
def test_messages(make, shape):
    make().init(jax.random.key(0), jn.spec(shape))
