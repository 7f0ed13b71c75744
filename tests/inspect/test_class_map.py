"""Class activation maps: CAM by hand, Grad-CAM against captum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.inspect import class_activation_map
from tests.helpers import close

IMAGES = np.random.default_rng(0).normal(size=(3, 7, 6, 2))


def pooled():
    return jn.serial(
        jn.conv(4, 3, strides=2), jax.nn.relu, jn.global_avg_pool(), jn.dense(5), name="net"
    )


def test_slopes_are_averaged_over_both_axes():
    """Of a linear layer on the maps, whose slopes differ from place to place."""
    net, x = jn.serial(jax.nn.relu, jn.flatten(), jn.dense(3)), IMAGES.astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(x[0].size, 3)).astype(np.float32)
    params = {"dense": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(3)}}
    found = class_activation_map(net, params, {}, x, "relu", np.array([2, 0, 1]))
    weights = kernel.reshape(*x.shape[1:], 3).mean((0, 1))[:, [2, 0, 1]]  # (maps, batch)
    wanted = np.einsum("nhwc,cn->nhw", np.maximum(x, 0), weights)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_maps_along_one_axis(x64):
    """CAM of a signal, (batch, time, channels): by hand."""
    net, x = pooled(), jnp.asarray(IMAGES[:, :, 0])
    params, state = net.init(jax.random.key(0), x)
    maps = np.asarray(jn.inspect.activations(net, params, state, x)["relu"])  # (3, 4, 4)
    cam = maps @ np.asarray(params["dense"]["kernel"])[:, 2] / 4
    close(class_activation_map(net, params, state, x, "relu", 2), cam, 1e-7, 1e-12)


@pytest.mark.slow
def test_a_layer_inside_another():
    net = jn.serial(jn.serial(pooled(), name="outer"), name="whole")
    x = jnp.asarray(IMAGES, jnp.float32)
    params, state = net.init(jax.random.key(0), x)
    found = class_activation_map(net, params, state, x, "outer/net/conv", 1)
    assert found.shape == (3, 4, 3) and bool(jnp.abs(found).sum() > 0)


@pytest.mark.parametrize("path, target, words", [
    ("pool", None, "no layer 'pool'; layers inside: conv, relu, global_avg"),
    ("dense", None, r"expected maps .* from net/dense, got \(3, 5\)"),
    ("relu", 5, "target must be in 0..4"),
    (None, None, "class_activation_map: path must be the name of a layer, "),
])  # fmt: skip
def test_refusals(path, target, words):
    net, x = pooled(), jnp.asarray(IMAGES, jnp.float32)
    with pytest.raises((TypeError, ValueError), match=words):
        class_activation_map(net, *net.init(jax.random.key(0), x), x, path, target)
