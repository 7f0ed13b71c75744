"""Class activation maps: CAM by hand, Grad-CAM against captum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.inspect import class_activation_map
from tests.compiled import jit_apply

IMAGES = np.random.default_rng(0).normal(size=(3, 7, 6, 2))


def pooled():
    return jn.serial(
        jn.conv(4, 3, strides=2), jax.nn.relu, jn.global_avg_pool(), jn.dense(5), name="net"
    )


@pytest.mark.slow
def test_grad_cam_is_cam_where_a_mean_and_a_dense_layer_follow(x64):
    net = pooled()
    params, state = net.init(jax.random.key(0), jnp.asarray(IMAGES))
    params["dense"]["bias"] = jnp.arange(5.0)
    maps = np.asarray(jn.inspect.activations(net, params, state, jnp.asarray(IMAGES))["relu"])
    logits = np.asarray(jit_apply(net, params, state, jnp.asarray(IMAGES))[0])
    for target in (None, np.array([0, 4, 2])):
        best = logits.argmax(1) if target is None else target
        kernel = np.asarray(params["dense"]["kernel"])[:, best]  # (maps, batch)
        cam = np.einsum("nhwk,kn->nhw", maps, kernel)
        found = class_activation_map(net, params, state, IMAGES, "relu", target)
        np.testing.assert_allclose(found, cam / (4 * 3), atol=1e-12)
        left = logits[np.arange(3), best] - best  # without the bias
        np.testing.assert_allclose(found.sum((1, 2)), left, atol=1e-12)


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
    np.testing.assert_allclose(
        class_activation_map(net, params, state, x, "relu", 2), cam, atol=1e-12
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_inner_layer_as_captum(x64):
    """captum 0.9.0, torch 2.13.0"""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    attr = pytest.importorskip("captum.attr", reason="compares with captum")
    net = jn.serial(
        jn.conv(4, 3, name="a"), jnp.tanh, jn.conv(3, 3, name="b"), jnp.tanh,
        jn.global_avg_pool(), jnp.exp,
    )  # fmt: skip
    params, state = net.init(jax.random.key(0), jnp.asarray(IMAGES))

    class Head(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)).exp()

    convs = torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Conv2d(4, 3, 3, padding=1)
    for module, name in zip(convs, "ab", strict=True):
        module.weight.data = torch.tensor(
            np.asarray(params[name]["kernel"]).transpose(3, 2, 0, 1).copy()
        )
        module.bias.data = torch.tensor(np.array(params[name]["bias"]))
    tanh = torch.nn.Tanh()
    module = torch.nn.Sequential(convs[0], tanh, convs[1], torch.nn.Tanh(), Head())
    x = torch.tensor(IMAGES.transpose(0, 3, 1, 2).copy())
    needed = attr.LayerGradCam(module, tanh).attribute(x, target=[0, 2, 1])
    found = class_activation_map(net, params, state, IMAGES, "tanh", [0, 2, 1])
    np.testing.assert_allclose(found, needed.detach().numpy()[:, 0], atol=1e-12)


@pytest.mark.slow
def test_a_layer_inside_another():
    net = jn.serial(jn.serial(pooled(), name="outer"), name="whole")
    x = jnp.asarray(IMAGES, jnp.float32)
    params, state = net.init(jax.random.key(0), x)
    found = class_activation_map(net, params, state, x, "outer/net/conv", 1)
    assert found.shape == (3, 4, 3) and bool(jnp.abs(found).sum() > 0)


def test_messages():
    net = pooled()
    x = jnp.asarray(IMAGES, jnp.float32)
    params, state = net.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="no layer 'pool'; layers inside: conv, relu, global_avg"):
        class_activation_map(net, params, state, x, "pool")
    with pytest.raises(ValueError, match=r"expected maps .* from net/dense, got \(3, 5\)"):
        class_activation_map(net, params, state, x, "dense")
    with pytest.raises(ValueError, match="target must be in 0..4"):
        class_activation_map(net, params, state, x, "relu", 5)


@pytest.mark.parametrize("path", [None, 3])
def test_a_path_of_another_type(path):
    with pytest.raises(TypeError, match="class_activation_map: path must be the name of a layer, "):
        class_activation_map(jn.serial(jnp.tanh), {}, {}, jnp.ones((2, 3)), path)
