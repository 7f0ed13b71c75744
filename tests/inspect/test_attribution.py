"""Attributions against PyTorch, captum and arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.inspect import class_activation_map, integrated_gradients, occlusion, saliency
from tests.helpers import close, draw

IMAGES = np.random.default_rng(0).normal(size=(3, 7, 6, 2))  # sizes that all differ


def head():
    return jn.serial(
        jn.conv(4, 3, name="first"),
        jnp.tanh,
        jn.conv(5, 3, strides=2, padding=1, name="second"),
        jnp.tanh,
        jn.flatten(),
        jn.dense(8),
        name="net",
    )


@pytest.fixture
def trained(x64):
    net = head()
    return net, *net.init(jax.random.key(0), jnp.asarray(IMAGES))


def test_integrated_gradients_of_a_power_are_exact():
    """Two points of Gauss integrate 4 x³; from b to x, x⁴ changes by x⁴ - b⁴."""
    x = np.array([[2.0, -1.0], [3.0, 0.5]], np.float32)
    baseline = np.array([1.0, -2.0], np.float32)
    classes = np.array([0, 1])
    found = integrated_gradients(lambda x: x**4, {}, {}, x, classes, baseline=baseline, steps=2)
    np.testing.assert_allclose(found, [[16 - 1, 0], [0, 0.5**4 - 16]], rtol=1e-5)


@pytest.mark.slow
def test_occlusion_in_chunks(trained, monkeypatch):
    net, params, state = trained
    whole = occlusion(net, params, state, IMAGES, 4, size=2, strides=1)
    monkeypatch.setattr(jn.inspect.attribution, "CHUNK", 4)
    again = head()  # compiled anew
    chunked = occlusion(again, params, state, IMAGES, 4, size=2, strides=1)
    close(chunked, whole, 1e-7, 1e-12)


def in_torch(torch, params):
    """The network of `head` for images (batch, channels, height, width)."""
    first = torch.nn.Conv2d(2, 4, 3, padding=1)
    second = torch.nn.Conv2d(4, 5, 3, stride=2, padding=1)
    last = torch.nn.Linear(4 * 3 * 5, 8)
    for module, name in ((first, "first"), (second, "second"), (last, "dense")):
        kernel = np.asarray(params[name]["kernel"])
        kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        module.weight.data = torch.tensor(kernel.copy())
        module.bias.data = torch.tensor(np.array(params[name]["bias"]))

    class Net(torch.nn.Module):  # flattens rows, columns and channels, as ours does
        def forward(self, x):
            x = second(first(x).tanh()).tanh()
            return last(x.permute(0, 2, 3, 1).flatten(1))

    return Net()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of captum
@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "occlusion"])
def test_attributions_are_those_of_captum(trained, torch, method):
    attr = pytest.importorskip("captum.attr", reason="compares with captum")  # captum 0.9.0
    net, params, state = trained
    theirs, model = torch.tensor(IMAGES.transpose(0, 3, 1, 2).copy()), in_torch(torch, params)
    if method == "saliency":
        wanted = attr.Saliency(model).attribute(theirs.requires_grad_(), 4, abs=False)
        found = saliency(net, params, state, IMAGES, 4)
    elif method == "integrated_gradients":
        wanted = attr.IntegratedGradients(model).attribute(theirs, 0.2, 4, n_steps=50)
        found = integrated_gradients(net, params, state, IMAGES, 4, baseline=0.2, steps=50)
    else:
        windows = {"sliding_window_shapes": (2, 3, 2), "strides": (2, 2, 1)}
        wanted = attr.Occlusion(model).attribute(theirs, baselines=0.2, target=4, **windows)
        wanted = wanted[:, :1]  # the same for each channel
        found = occlusion(net, params, state, IMAGES, 4, size=(3, 2), strides=(2, 1), value=0.2)
    found = np.reshape(found, (*IMAGES.shape[:3], -1))
    wanted = wanted.detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, wanted, atol=1e-10)


@pytest.mark.slow
def test_a_unit_inside_by_path(trained):
    net, params, state = trained

    def unit(x):
        found = jn.inspect.activations(net, params, state, x)
        return found["second"][:, 2, 1, 3].sum()

    found = saliency(net, params, state, IMAGES, (2, 1, 3), path="second")
    wanted = jax.jit(jax.grad(unit))(jnp.asarray(IMAGES))
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert float(jnp.abs(found).sum()) > 0
    rows = saliency(net, params, state, IMAGES, (2, slice(None), 3), path="second")
    parts = [saliency(net, params, state, IMAGES, (2, j, 3), path="second") for j in range(3)]
    np.testing.assert_allclose(rows, sum(parts), atol=1e-12)
    target = (0, 0, 0)
    assert integrated_gradients(net, params, state, IMAGES, target, path="tanh").any()
    assert occlusion(net, params, state, IMAGES, target, path="tanh", size=3).any()


def test_the_second_call_of_a_shared_layer():
    shared = jn.dense(3)
    net = jn.serial(shared, shared, name="twice")
    x = jnp.ones((2, 3))
    params, state = net.init(jax.random.key(0), x)
    kernel = params["dense"]["kernel"]
    first = saliency(net, params, state, x, 1, path="dense")
    second = saliency(net, params, state, x, 1, path="dense#2")
    np.testing.assert_allclose(first[0], kernel[:, 1], atol=1e-6)
    np.testing.assert_allclose(second[0], kernel @ kernel[:, 1], atol=1e-6)


def test_running_statistics_are_used():
    """In evaluation mode no example changes the attribution of another."""
    net = jn.serial(jn.conv(3, 3), jn.batch_norm(), jnp.tanh, jn.global_avg_pool())
    x = jnp.asarray(IMAGES, jnp.float32)
    params, state = net.init(jax.random.key(0), x)
    among_others = saliency(net, params, state, x, 1)
    alone = saliency(net, params, state, x[:1], 1)
    close(among_others[:1], alone, 1e-7, 1e-6)


def test_an_output_that_is_not_chosen_may_be_infinite():

    def with_infinity(x):
        return jnp.concatenate([2 * x, jnp.full_like(x, -jnp.inf)], 1)

    net = jn.serial(with_infinity)
    assert saliency(net, {}, {}, jnp.ones((2, 1))).tolist() == [[2.0], [2.0]]


SINE = {"net": jnp.sin, "params": {}, "state": {}}


@pytest.mark.parametrize("function, change, error, words", [
    (saliency, {"path": "third"}, ValueError,
     "net has no layer 'third'; layers inside: first, tanh, second, tanh#2, "),
    (saliency, {"path": "second"}, ValueError,
     r"net/second has shape \(3, 4, 3, 5\), not \(batch, classes\)"),
    (saliency, {"path": "second", "target": (4, 0, 0)}, ValueError,
     r"\(4, 0, 0\) is out of range for net/second.*\(4, 3, 5\)"),
    (saliency, {"target": 8}, ValueError, "must be in 0..7, as net has 8 outputs, got 8..8"),
    (saliency, {"target": [0, 1]}, ValueError, r"each of 3 examples, got int64 of shape \(2,\)"),
    (saliency, {"target": 0.5}, ValueError, "target must be a class, .*got float64"),
    (saliency, {"target": (None,)}, TypeError, "target must be an index of integers and slices"),
    (saliency, {"path": 3}, TypeError, "path must be the name of a layer inside, got int"),
    (saliency, {"x": np.zeros((0, 7, 6, 2))}, ValueError, "x must .* sizes of at least 1"),
    (saliency, SINE | {"net": jn.parallel(jnp.sin, jnp.cos)}, ValueError,
     "the output of parallel must be one array, got a tuple"),
    (saliency, {"x": np.zeros((1, 7, 6, 2), np.uint8)}, TypeError,
     "x must have a float dtype, got uint8; for .* pass x / 255"),
    (saliency, SINE | {"path": "x"}, ValueError,
     "sin has no layer 'x'; layers inside: none, it is a single layer"),
    (occlusion, {"size": 2, "strides": 0}, ValueError, "strides must be at least 1, got 0"),
    (occlusion, {"size": 8}, ValueError, "expected 1 <= strides <= size <= the size of the axis"),
    (occlusion, {"size": 2, "strides": 3}, ValueError, r"got strides \(3, 3\), size \(2, 2\) and"),
    (occlusion, {"size": 2, "strides": (1, 1, 1)}, ValueError, r"got strides \(1, 1, 1\), size"),
    (occlusion, {"size": (1, 2, 3, 4)}, ValueError, "one for each of 1 to 3 axes after the batch"),
    (occlusion, {"size": 2, "value": [1, 2, 3]}, ValueError, r"shape \(channels,\) with .* = 2"),
    (integrated_gradients, {"steps": 0}, ValueError, "steps must be at least 1, got 0"),
    (integrated_gradients, {"baseline": np.nan}, ValueError, r"must be in \(-inf, inf\), got nan"),
    (integrated_gradients, {"baseline": np.zeros((2, 1, 1, 1))}, ValueError,
     r"baseline must broadcast to x, .* got \(2, 1, 1, 1\)"),
])  # fmt: skip
def test_refusals(function, change, error, words):
    net, x = head(), jnp.asarray(IMAGES, jnp.float32)
    params, state = net.init(jax.random.key(0), x)
    with pytest.raises(error, match=words):
        given = {"net": net, "params": params, "state": state, "x": x}
        function(**given | change)


def test_a_plain_function_is_a_net():
    found = saliency(lambda x: x * 3, {}, {}, jnp.ones((2, 4)), target=1)
    assert found.tolist() == [[0, 3, 0, 0]] * 2


def pooled():
    conv = jn.conv(4, 3, strides=2)
    return jn.serial(conv, jax.nn.relu, jn.global_avg_pool(), jn.dense(5), name="net")


def test_slopes_are_averaged_over_both_axes():
    """Of a linear layer on the maps, whose slopes differ from place to place."""
    net = jn.serial(jax.nn.relu, jn.flatten(), jn.dense(3))
    x = IMAGES.astype(np.float32)
    kernel = draw(x[0].size, 3, seed=1, dtype=np.float32)
    params = {"dense": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(3)}}
    classes = np.array([2, 0, 1])
    found = class_activation_map(net, params, {}, x, "relu", classes)
    slopes = kernel.reshape(*x.shape[1:], 3).mean((0, 1))  # (maps, classes)
    weights = slopes[:, classes]  # (maps, batch)
    wanted = np.einsum("nhwc,cn->nhw", np.maximum(x, 0), weights)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_maps_along_one_axis(x64):
    """CAM of a signal, (batch, time, channels): by hand."""
    net, x = pooled(), jnp.asarray(IMAGES[:, :, 0])
    params, state = net.init(jax.random.key(0), x)
    found = jn.inspect.activations(net, params, state, x)
    maps = np.asarray(found["relu"])  # (3, 4, 4)
    kernel = np.asarray(params["dense"]["kernel"])
    cam = maps @ kernel[:, 2] / 4
    close(class_activation_map(net, params, state, x, "relu", 2), cam, 1e-7, 1e-12)


def test_a_layer_inside_another():
    net = jn.serial(jn.serial(pooled(), name="outer"), name="whole")
    x = jnp.asarray(IMAGES, jnp.float32)
    params, state = net.init(jax.random.key(0), x)
    found = class_activation_map(net, params, state, x, "outer/net/conv", 1)
    assert found.shape == (3, 4, 3)
    assert jnp.any(found != 0)


@pytest.mark.parametrize("path, target, words", [
    ("pool", None, "no layer 'pool'; layers inside: conv, relu, global_avg"),
    ("dense", None, r"expected maps .* from net/dense, got \(3, 5\)"),
    ("relu", 5, "target must be in 0..4"),
    (None, None, "class_activation_map: path must be the name of a layer, "),
])  # fmt: skip
def test_refusals_of_class_map(path, target, words):
    net, x = pooled(), jnp.asarray(IMAGES, jnp.float32)
    with pytest.raises((TypeError, ValueError), match=words):
        params, state = net.init(jax.random.key(0), x)
        class_activation_map(net, params, state, x, path, target)
