"""Attributions against PyTorch, captum and arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.inspect import integrated_gradients, occlusion, saliency
from tests.compiled import jit_apply

IMAGES = np.random.default_rng(0).normal(size=(3, 7, 6, 2))  # sizes that all differ


def head(activation=jnp.tanh):
    return jn.serial(
        jn.conv(4, 3, name="first"),
        activation,
        jn.conv(5, 3, strides=2, padding=1, name="second"),
        activation,
        jn.flatten(),
        jn.dense(8),
        name="net",
    )


@pytest.fixture
def trained(x64):
    net = head()
    return net, *net.init(jax.random.key(0), jnp.asarray(IMAGES))


def in_torch(params):
    """The same network for images (batch, channels, height, width)."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")

    class Flat(torch.nn.Module):  # rows, columns, channels as ours
        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1)

    first = torch.nn.Conv2d(2, 4, 3, padding=1)
    second = torch.nn.Conv2d(4, 5, 3, stride=2, padding=1)
    last = torch.nn.Linear(4 * 3 * 5, 8)
    for module, name in ((first, "first"), (second, "second"), (last, "dense")):
        kernel = np.asarray(params[name]["kernel"])
        kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        module.weight.data = torch.tensor(kernel.copy())
        module.bias.data = torch.tensor(np.array(params[name]["bias"]))
    tanh = torch.nn.Tanh
    return torch.nn.Sequential(first, tanh(), second, tanh(), Flat(), last)


def images_in_torch():
    import torch

    return torch.tensor(IMAGES.transpose(0, 3, 1, 2).copy(), requires_grad=True)


def ours(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.slow
def test_saliency_is_the_gradient_in_torch(trained):
    """torch 2.13.0"""
    net, params, state = trained
    module = in_torch(params)
    x = images_in_torch()
    logits = module(x)
    logits.max(1).values.sum().backward()
    found = saliency(net, params, state, IMAGES)
    np.testing.assert_allclose(found, ours(x.grad), atol=1e-12)
    best = logits.argmax(1).numpy()
    np.testing.assert_array_equal(saliency(net, params, state, IMAGES, best), found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("baseline", [0.0, 0.3])
def test_integrated_gradients_as_captum(trained, baseline):
    """captum 0.9.0, Gauss-Legendre too"""
    attr = pytest.importorskip("captum.attr", reason="compares with captum")
    net, params, state = trained
    module = in_torch(params)
    explained = attr.IntegratedGradients(module)
    target = [1, 7, 2]
    needed = explained.attribute(
        images_in_torch(), baselines=baseline, target=target, n_steps=11, method="gausslegendre"
    )
    found = integrated_gradients(
        net, params, state, IMAGES, target, baseline=baseline, steps=11
    )  # fmt: skip
    np.testing.assert_allclose(found, ours(needed), atol=1e-10)


def test_integrated_gradients_of_a_power_are_exact():
    """Two points of Gauss integrate 4 x³; from b to x, x⁴ changes by x⁴ - b⁴."""
    x, b = np.array([[2.0, -1.0], [3.0, 0.5]], np.float32), np.array([1.0, -2.0], np.float32)
    found = integrated_gradients(lambda x: x**4, {}, {}, x, np.array([0, 1]), baseline=b, steps=2)
    np.testing.assert_allclose(found, [[16 - 1, 0], [0, 0.5**4 - 16]], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("size", "strides"), [((2, 3), None), ((3, 2), (2, 1)), ((4, 4), (3, 3)), ((7, 6), None)]
)
def test_occlusion_as_captum(trained, size, strides):
    """captum 0.9.0"""
    attr = pytest.importorskip("captum.attr", reason="compares with captum")
    net, params, state = trained
    needed = attr.Occlusion(in_torch(params)).attribute(
        images_in_torch(), (2, *size), strides=(2, *(strides or size)), baselines=0.2, target=4
    )
    found = occlusion(
        net, params, state, IMAGES, 4, size=size, strides=strides, value=0.2
    )  # fmt: skip
    np.testing.assert_allclose(found, ours(needed)[..., 0], atol=1e-10)


@pytest.mark.slow
def test_occlusion_in_chunks(trained, monkeypatch):
    net, params, state = trained
    whole = occlusion(net, params, state, IMAGES, 4, size=2, strides=1)
    monkeypatch.setattr(jn.inspect.attribution, "CHUNK", 4)
    again = head()  # compiled anew
    np.testing.assert_allclose(
        occlusion(again, params, state, IMAGES, 4, size=2, strides=1), whole, atol=1e-12
    )


@pytest.mark.slow
def test_a_linear_model_is_attributed_exactly(x64):
    """x times the weight, whatever the steps: by hand."""
    net = jn.serial(jn.flatten(), jn.dense(5))
    params, state = net.init(jax.random.key(0), jnp.asarray(IMAGES))
    weight = np.asarray(params["dense"]["kernel"]).T.reshape(5, 7, 6, 2)
    target = np.array([0, 4, 2])
    for steps in (1, 2, 9):
        found = integrated_gradients(net, params, state, IMAGES, target, steps=steps)
        np.testing.assert_allclose(found, IMAGES * weight[target], atol=1e-12)
    covered = occlusion(net, params, state, IMAGES, target, size=1)
    np.testing.assert_allclose(covered, (IMAGES * weight[target]).sum(-1), atol=1e-12)
    value = np.array([0.5, -2.0])  # one a channel
    covered = occlusion(net, params, state, IMAGES, target, size=1, value=value)
    np.testing.assert_allclose(covered, ((IMAGES - value) * weight[target]).sum(-1), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "steps", "tolerance"), [(jnp.tanh, 16, 1e-9), (jax.nn.relu, 100, 2e-2)]
)
def test_completeness(activation, steps, tolerance, x64):
    net = head(activation)
    baseline = np.random.default_rng(1).normal(size=(7, 6, 2))
    params, state = net.init(jax.random.key(0), jnp.asarray(IMAGES))
    target = np.array([0, 4, 2])
    found = integrated_gradients(
        net, params, state, IMAGES, target, baseline=baseline, steps=steps
    )  # fmt: skip
    at_x = np.asarray(jit_apply(net, params, state, jnp.asarray(IMAGES))[0])
    at_start = np.asarray(jit_apply(net, params, state, jnp.asarray(baseline[None]))[0])
    rise = at_x[np.arange(3), target] - at_start[0, target]
    size = np.abs(found).sum((1, 2, 3)).min()  # rectifiers: as many jumps as units on the way
    np.testing.assert_allclose(found.sum((1, 2, 3)), rise, atol=tolerance * size)
    assert np.abs(rise).max() > 0.1 * size


@pytest.mark.slow
def test_a_unit_inside_by_path(trained):
    net, params, state = trained

    def unit(x):
        found = jn.inspect.activations(net, params, state, x)
        return found["second"][:, 2, 1, 3].sum()

    found = saliency(net, params, state, IMAGES, (2, 1, 3), path="second")
    np.testing.assert_allclose(found, jax.jit(jax.grad(unit))(jnp.asarray(IMAGES)), atol=1e-12)
    assert float(jnp.abs(found).sum()) > 0
    rows = saliency(net, params, state, IMAGES, (2, slice(None), 3), path="second")
    parts = [saliency(net, params, state, IMAGES, (2, j, 3), path="second") for j in range(3)]
    np.testing.assert_allclose(rows, sum(parts), atol=1e-12)
    assert integrated_gradients(net, params, state, IMAGES, (0, 0, 0), path="tanh").any()
    assert occlusion(net, params, state, IMAGES, (0, 0, 0), path="tanh", size=3).any()


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
    np.testing.assert_allclose(
        saliency(net, params, state, x, 1)[:1], saliency(net, params, state, x[:1], 1), atol=1e-6
    )


def test_an_output_that_is_not_chosen_may_be_infinite():
    net = jn.serial(lambda x: jnp.concatenate([2 * x, jnp.full_like(x, -jnp.inf)], 1))
    assert saliency(net, {}, {}, jnp.ones((2, 1))).tolist() == [[2.0], [2.0]]


@pytest.mark.parametrize(
    ("target", "path", "message"),
    [
        (None, "third", "net has no layer 'third'; layers inside: first, tanh, second, tanh#2, "),
        (None, "second", r"net/second has shape \(3, 4, 3, 5\), not \(batch, classes\)"),
        ((4, 0, 0), "second", r"\(4, 0, 0\) is out of range for net/second.*\(4, 3, 5\)"),
        (8, None, r"target must be in 0..7, as net has 8 outputs, got 8..8"),
        ([0, 1], None, r"one for each of 3 examples, got int64 of shape \(2,\)"),
        (0.5, None, "got float64"),
    ],
)
def test_messages(target, path, message):
    net = head()
    x = jnp.asarray(IMAGES, jnp.float32)
    params, state = net.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=message):
        saliency(net, params, state, x, target, path=path)


@pytest.mark.slow
def test_other_messages():
    both = jn.parallel(jnp.sin, jnp.cos)
    with pytest.raises(
        ValueError, match="saliency: the output of parallel must be one array, got a tuple"
    ):
        saliency(both, {}, {}, jnp.ones((2, 3)))
    net = jn.serial(lambda x: x.sum((1, 2)))
    with pytest.raises(
        TypeError, match="saliency: x must have a float dtype, got uint8; for .* pass x / 255"
    ):
        saliency(net, {}, {}, np.zeros((1, 2, 2, 3), np.uint8))
    x = jnp.zeros((1, 4, 5, 3))
    with pytest.raises(ValueError, match="occlusion: strides must be at least 1, got 0"):
        occlusion(net, {}, {}, x, size=2, strides=0)
    for options in ({"size": 5}, {"size": 2, "strides": 3}):
        with pytest.raises(ValueError, match="expected 1 <= strides <= size <= pixels"):
            occlusion(net, {}, {}, x, **options)
    with pytest.raises(ValueError, match=r"size must be a number or \(rows, columns\), got"):
        occlusion(net, {}, {}, x, size=(1, 2, 3))
    with pytest.raises(ValueError, match=r"x must have shape \(batch, height, width, channels\)"):
        occlusion(jn.dense(2), {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, {},
                  jnp.ones((4, 3)), size=1)  # fmt: skip
    with pytest.raises(ValueError, match=r"steps must be at least 1, got 0"):
        integrated_gradients(net, {}, {}, x, steps=0)
    with pytest.raises(ValueError, match=r"baseline must broadcast to x, .* got \(2, 1, 1, 1\)"):
        integrated_gradients(net, {}, {}, x, baseline=np.zeros((2, 1, 1, 1)))
    with pytest.raises(ValueError, match="dense has no layer 'x'; layers inside: none, it is"):
        saliency(jn.dense(2), {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, {},
                 jnp.ones((4, 3)), path="x")  # fmt: skip


NET = jn.serial(lambda x: x.sum((1, 2)), name="net")


@pytest.mark.parametrize(("change", "error", "words"), [
    ({"net": 3}, TypeError, "net must be a layer"),
    ({"params": None}, TypeError, "params must be the dict"),
    ({"x": [[1.0]]}, TypeError, "the input must be an array"),
    ({"x": jnp.zeros((0, 4, 5, 3))}, ValueError, "x must .* sizes of at least 1"),
    ({"target": "a"}, TypeError, "target must be an array"),
    ({"target": jnp.nan}, ValueError, "target must be a class, .*got float"),
    ({"target": (None,)}, TypeError, "target must be an index of integers and slices"),
    ({"target": (1.5,)}, TypeError, "target must be an index of integers and slices"),
    ({"path": 3}, TypeError, "path must be the name of a layer inside, got int"),
    ({"path": ["a"]}, TypeError, "path must be the name of a layer inside"),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("function", [saliency, integrated_gradients, occlusion])
def test_arguments_of_another_type(function, change, error, words):
    given = {"net": NET, "params": {}, "state": {}, "x": jnp.zeros((1, 4, 5, 3))} | change
    options = {"size": 2} if function is occlusion else {}
    with pytest.raises(error, match=f"{function.__name__}: {words}"):
        function(**given, **options)


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"steps": 2.5}, TypeError, "steps must be an integer, got 2.5"),
    ({"baseline": "a"}, TypeError, "baseline must be a JAX or NumPy array, got str"),
    ({"baseline": np.nan}, ValueError, r"baseline must be in \(-inf, inf\), got nan"),
    ({"baseline": np.zeros((2, 3))}, ValueError, "baseline must broadcast to x"),
    ({"size": None}, TypeError, "size must be an integer, got None"),
    ({"size": (2, 1.5)}, TypeError, "size must be an integer, got 1.5"),
    ({"size": 2, "value": "a"}, TypeError, "value must be an array"),
    ({"size": 2, "value": [1, 2]}, ValueError, r"value must have shape \(channels,\) with .* = 3"),
], ids=str)  # fmt: skip
def test_options_of_another_type(options, error, words):
    function = occlusion if "size" in options else integrated_gradients
    with pytest.raises(error, match=f"{function.__name__}: .*{words}"):
        function(NET, {}, {}, jnp.zeros((1, 4, 5, 3)), **options)


def test_a_plain_function_is_a_net():
    found = saliency(lambda x: x * 3, {}, {}, jnp.ones((2, 4)), target=1)
    assert found.tolist() == [[0, 3, 0, 0]] * 2
