"""Convolution layers: values of the lectures, parameter counts, parity with PyTorch and Flax."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.compiled import jit_apply, jit_pull


def correlate(image, kernel, padding="VALID", strides=1):
    """The map that one filter makes of one picture."""
    image, kernel = jnp.array(image, jnp.float32), jnp.array(kernel, jnp.float32)
    layer = jn.conv(1, kernel.shape, strides=strides, padding=padding, use_bias=False)
    y, _ = jit_apply(layer, {"kernel": kernel[..., None, None]}, {}, image[None, ..., None])
    return y[0, ..., 0].tolist()


# Values of the lectures.


def test_first_convolution():
    image = [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]]
    kernel = [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert correlate(image, kernel) == [[4, 3, 4], [2, 4, 3], [2, 3, 4]]


def test_edges():
    edge = [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
    rows, columns = [[2, 2, 2], [10, 10, 10], [2, 2, 2]], [[2, 10, 2]] * 3
    assert correlate(rows, edge) == [[30]]
    assert correlate(columns, edge) == [[14]]


def test_line_filter():
    line = [[-1, -1, -1], [2, 2, 2], [-1, -1, -1]]
    assert correlate([[0, 0, 0], [1, 1, 1], [0, 0, 0]], line) == [[6]]
    assert correlate([[0, 1, 0]] * 3, line) == [[0]], "a line across it: 2 - 1 - 1"
    assert correlate([[5, 5, 5]] * 3, line) == [[0]], "flat"


def test_box_filter():
    image = np.zeros((10, 10))
    image[2:7, 3:8] = 90
    y = np.array(correlate(image, np.full((3, 3), 1 / 9)))
    np.testing.assert_allclose(y[0], [0, 10, 20, 30, 30, 30, 20, 10], 1e-5)
    np.testing.assert_allclose(y[1], [0, 20, 40, 60, 60, 60, 40, 20], 1e-5)


def test_the_kernel_is_not_reversed():
    assert correlate([[1, 2, 4, 8]], [[1, 10]]) == [[21, 42, 84]]


def counted(layer, shape):
    """Number of parameters; shapes alone, so that nothing is drawn."""
    params, _ = jax.eval_shape(layer.init, jax.random.key(0), jn.spec(shape))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def test_why_convolution():
    """200x200 picture, 40,000 hidden units."""
    picture = (1, 200, 200, 1)
    assert counted(jn.dense(40_000, use_bias=False), (1, 40_000)) == 1_600_000_000
    local = jn.layers.locally_connected(1, 10, padding="SAME", use_bias=False)
    assert counted(local, picture) == 4_000_000
    assert counted(jn.conv(100, 10, use_bias=False), picture) == 10_000


def test_first_layer_of_alexnet():
    picture = (1, 227, 227, 3)
    shape = dict(strides=4, padding="VALID")
    assert counted(jn.conv(96, 11, **shape), picture) == 96 * (11 * 11 * 3 + 1) == 34_944
    assert counted(jn.layers.locally_connected(96, 11, **shape), picture) == 105_705_600


def output_shape(layer, shape):
    def run(x):
        params, state = layer.init(jax.random.key(0), x)
        return jit_apply(layer, params, state, x)[0]

    return jax.eval_shape(run, jn.spec(shape)).shape


@pytest.mark.parametrize(
    "layer, x, y",
    [
        pytest.param(jn.conv(2, 3, padding="VALID"), (1, 6, 6, 3), (1, 4, 4, 2), id="two filters"),
        pytest.param(jn.conv(1, 3, strides=3, padding="VALID"), (1, 7, 7, 1), (1, 2, 2, 1), id="3"),
        pytest.param(jn.conv(96, 11, strides=4, padding="VALID"), (2, 227, 227, 3),
                     (2, 55, 55, 96), id="alexnet"),
        pytest.param(jn.conv(5, 3, strides=(2, 1)), (2, 9, 8, 3), (2, 5, 8, 5), id="SAME"),
        pytest.param(jn.conv(5, (2, 3, 4), padding=((0, 1), 1, (2, 1))), (2, 4, 5, 6, 3),
                     (2, 4, 5, 6, 5), id="explicit"),
        pytest.param(jn.conv(5, 3, padding="CAUSAL", dilation=4), (2, 9, 3), (2, 9, 5), id="past"),
        pytest.param(jn.conv_transpose(5, 3, strides=2), (2, 7, 6, 3), (2, 14, 12, 5), id="up"),
        pytest.param(jn.conv_transpose(5, 4, strides=2, padding="VALID"), (2, 7, 3), (2, 16, 5),
                     id="up valid"),
        pytest.param(jn.depthwise_conv(3, multiplier=2, strides=2), (2, 7, 6, 3), (2, 4, 3, 6),
                     id="depthwise"),
    ],
)  # fmt: skip
def test_shapes(layer, x, y):
    assert output_shape(layer, x) == y


def test_a_shifted_input_gives_a_shifted_map():
    layer = jn.conv(4, 3, padding="VALID")
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype(np.float32)
    params, _ = layer.init(jax.random.key(1), x)
    y, _ = jit_apply(layer, params, {}, x)
    moved, _ = jit_apply(layer, params, {}, np.roll(x, (2, 1), (1, 2)))
    np.testing.assert_allclose(moved[:, 2:, 1:], y[:, :-2, :-1], 1e-5, 1e-6)


def test_causal_sees_no_later_inputs():
    layer = jn.conv(4, 3, padding="CAUSAL", dilation=2)
    x = np.random.default_rng(0).normal(size=(1, 9, 2)).astype(np.float32)
    params, _ = layer.init(jax.random.key(1), x)
    slope = jax.jit(jax.jacobian(lambda x: layer.apply(params, {}, x)[0][0].sum(-1)))(x)
    reach = np.asarray(slope)[:, 0].any(-1)
    wanted = [[t - s in (0, 2, 4) for s in range(9)] for t in range(9)]
    np.testing.assert_array_equal(reach, wanted)


def test_fresh_outputs_have_variance_near_one():
    layer = jn.conv(50, 5, padding="VALID")
    x = jax.random.normal(jax.random.key(0), (4, 24, 24, 8))
    params, _ = layer.init(jax.random.key(1), x)
    y, _ = jit_apply(layer, params, {}, x)
    assert 0.8 < float(y.var()) < 1.25
    assert not params["bias"].any()


# Parity with PyTorch: values and gradients.


def close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-10, 1e-10), a, b)


def gradients(layer, params, x, cotangent):
    y, slopes = jit_pull(
        lambda given: layer.apply(given[0], {}, given[1])[0], (params, x), cotangent
    )
    return y, *slopes


def to_last(a):
    return np.moveaxis(np.asarray(a), 1, -1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "x_shape, window, options, theirs",
    [
        pytest.param((2, 3, 9), (4,), {"strides": 2, "padding": 1, "dilation": 2},
                     {"stride": 2, "padding": 1, "dilation": 2}, id="signal"),
        pytest.param((2, 4, 8, 7), (3, 2), {"strides": (2, 1), "padding": (1, 0), "groups": 2},
                     {"stride": (2, 1), "padding": (1, 0), "groups": 2}, id="image, groups"),
        pytest.param((2, 3, 8, 7), (1, 1), {"strides": 2, "padding": "VALID"}, {"stride": 2},
                     id="one by one"),
        pytest.param((2, 2, 4, 5, 6), (2, 3, 2), {"strides": (1, 2, 1), "padding": 1},
                     {"stride": (1, 2, 1), "padding": 1}, id="volume"),
    ],
)  # fmt: skip
def test_conv_is_that_of_pytorch(x64, x_shape, window, options, theirs):
    torch = pytest.importorskip("torch", reason="parity with torch 2.13.0")
    rng = np.random.default_rng(0)
    groups = options.get("groups", 1)
    weight = rng.normal(size=(6, x_shape[1] // groups, *window))
    x, w, b = (
        torch.tensor(a, requires_grad=True)
        for a in (rng.normal(size=x_shape), weight, np.arange(6.0))
    )
    y = getattr(torch.nn.functional, f"conv{len(window)}d")(x, w, b, **theirs)
    cotangent = rng.normal(size=y.shape)
    y.backward(torch.tensor(cotangent))

    def kernel(weight):  # (out, in, *window) -> (*window, in, out)
        return np.moveaxis(np.asarray(weight), (0, 1), (-1, -2))

    layer = jn.conv(6, window, **options)
    params = {"kernel": jnp.array(kernel(weight)), "bias": jnp.arange(6.0)}
    ours = gradients(layer, params, jnp.array(to_last(x.detach())), to_last(cotangent))
    theirs = {"kernel": kernel(w.grad), "bias": b.grad.numpy()}
    close(ours, (to_last(y.detach()), theirs, to_last(x.grad)))


def test_depthwise_is_that_of_pytorch(x64):
    torch = pytest.importorskip("torch", reason="parity with torch 2.13.0")
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 3, 7, 6)), rng.normal(size=(6, 1, 3, 2))
    y = torch.nn.functional.conv2d(torch.tensor(x), torch.tensor(w), padding=1, groups=3)
    layer = jn.depthwise_conv((3, 2), multiplier=2, padding=1, use_bias=False)
    kernel = jnp.array(np.moveaxis(w, (0, 1), (-1, -2)))
    close(jit_apply(layer, {"kernel": kernel}, {}, jnp.array(to_last(x)))[0], to_last(y))


@pytest.mark.parametrize("stride, padding, output_padding, dilation, groups", [
    (1, 0, 0, 1, 1), (2, 1, 0, 1, 1), (2, 1, 1, 1, 3), (3, 2, 1, 2, 1),
])  # fmt: skip
def test_conv_transpose_is_that_of_pytorch(x64, stride, padding, output_padding, dilation, groups):
    torch = pytest.importorskip("torch", reason="parity with torch 2.13.0")
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(2, 3, 5, 4)), requires_grad=True)
    w = torch.tensor(rng.normal(size=(3, 6 // groups, 4, 3)), requires_grad=True)
    y = torch.nn.functional.conv_transpose2d(
        x, w, None, stride, padding, output_padding, groups, dilation
    )
    cotangent = rng.normal(size=y.shape)
    y.backward(torch.tensor(cotangent))

    def kernel(weight):  # (in, out / g, *window) -> (*window, in / g, out), reversed
        parts = np.split(np.asarray(weight.detach()), groups)
        parts = [np.moveaxis(part, (0, 1), (-2, -1))[::-1, ::-1] for part in parts]
        return np.concatenate(parts, -1)

    layer = jn.conv_transpose(
        6,
        (4, 3),
        strides=stride,
        padding=((padding, padding - output_padding),) * 2,
        dilation=dilation,
        groups=groups,
        use_bias=False,
    )
    params = {"kernel": jnp.array(kernel(w))}
    ours = gradients(layer, params, jnp.array(to_last(x.detach())), to_last(cotangent))
    close(ours, (to_last(y.detach()), {"kernel": kernel(w.grad)}, to_last(x.grad)))


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("window, strides", [((3, 4), 2), ((2, 5), 3), ((4, 1), 1)], ids=str)
def test_conv_transpose_is_that_of_flax(x64, padding, window, strides):
    linen = pytest.importorskip("flax.linen")  # flax 0.12.7
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3))
    theirs = linen.ConvTranspose(
        6, window, (strides, strides), padding=padding, param_dtype=jnp.float64
    )
    params = jax.jit(theirs.init)(jax.random.key(1), x)["params"]
    ours = jn.conv_transpose(6, window, strides=strides, padding=padding)
    close(jit_apply(ours, params, {}, x)[0], jax.jit(theirs.apply)({"params": params}, x))


@pytest.mark.slow
@pytest.mark.parametrize("options", [
    {"padding": "SAME", "strides": 2}, {"padding": "VALID", "dilation": 2, "groups": 3},
], ids=str)  # fmt: skip
def test_conv_is_that_of_flax(x64, options):
    linen = pytest.importorskip("flax.linen")  # flax 0.12.7
    x = np.random.default_rng(0).normal(size=(2, 8, 7, 3))
    names = {"strides": "strides", "dilation": "kernel_dilation", "groups": "feature_group_count"}
    theirs = linen.Conv(
        6, (3, 2), param_dtype=jnp.float64, **{names.get(k, k): v for k, v in options.items()}
    )
    params = jax.jit(theirs.init)(jax.random.key(1), x)["params"]
    layer = jn.conv(6, (3, 2), **options)
    drawn, _ = jax.eval_shape(layer.init, jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, params)
    close(jit_apply(layer, params, {}, x)[0], jax.jit(theirs.apply)({"params": params}, x))


@pytest.mark.slow
def test_many_small_networks_at_once():
    """An ensemble is vmap over the weights: the same as one after another."""
    layer = jn.serial(jn.conv(3, 3), jnp.tanh, jn.conv(4, 3, strides=2))
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 1)).astype(np.float32)
    keys = jax.random.split(jax.random.key(1), 3)
    params = jax.device_get(jax.jit(jax.vmap(lambda key: layer.init(key, x)[0]))(keys))
    together = jax.jit(jax.vmap(lambda params: layer.apply(params, {}, x)[0]))(params)
    for i in range(3):
        alone, _ = jit_apply(layer, jax.tree.map(lambda leaf, i=i: leaf[i], params), {}, x)
        np.testing.assert_allclose(together[i], alone, 1e-5, 1e-6)


@pytest.mark.parametrize(
    "make, shape, message",
    [
        (lambda: jn.conv(0, 3), None, "conv: features must be at least 1, got 0"),
        (lambda: jn.conv(4, 3, groups=0), None, "conv: groups must be at least 1, got 0"),
        (lambda: jn.conv(5, 3, groups=2), None, "conv: 2 groups must divide the 5 features"),
        (lambda: jn.conv(4, 3, groups=2), (2, 8, 8, 3), "2 groups must divide the 3 inputs"),
        (lambda: jn.conv(4, 3), (28, 28), r"conv: expected an input of .*x\[None\]"),
        (lambda: jn.conv(4, (3, 3)), (2, 8, 3), "kernel_size needs 1 entries.*got .3, 3."),
        (lambda: jn.conv(4, 3, strides=(1, 2)), (2, 8, 3), "strides needs 1 entries"),
        (lambda: jn.conv(4, 3, strides=0), (2, 8, 3), "strides must be whole numbers"),
        (lambda: jn.conv(4, 2.5), (2, 8, 3), "kernel_size must be whole numbers"),
        (lambda: jn.conv(4, 3, padding="same"), (2, 8, 3), 'padding must be "SAME", "VALID"'),
        (lambda: jn.conv(4, 3, padding=(1, 2)), (2, 8, 3), r"got \(1, 2\)"),
        (lambda: jn.conv(4, 3, padding="CAUSAL"), (2, 8, 8, 3), "for one spatial axis"),
        (lambda: jn.conv(4, 9, padding="VALID"), (2, 8, 8, 3), r"window of \(9, 9\).*smaller"),
        (lambda: jn.conv_transpose(4, 3, padding="CAUSAL"), (2, 8, 3), "no transpose"),
        (lambda: jn.depthwise_conv(3, multiplier=0), None, "multiplier must be at least 1"),
    ],
)
def test_messages(make, shape, message):
    with pytest.raises(ValueError, match=message):
        output_shape(make(), shape)


def test_bytes_are_not_sizes():
    with pytest.raises(ValueError, match="kernel_size must be whole numbers"):
        jn.conv(8, b"x")  # type: ignore


def test_a_causal_convolution_in_chunks_of_a_stream():
    layer = jn.conv(3, (4,), dilation=2, padding="CAUSAL")
    x = jax.random.normal(jax.random.key(0), (2, 11, 5))
    params, state = layer.init(jax.random.key(1), x)
    stream = jn.stream(layer)
    kept, parts = jn.start_stream(stream, x[:, :1]), []
    for chunk in (x[:, :5], x[:, 5:6], x[:, 6:]):
        y, kept = stream.apply(params, kept, chunk)
        parts.append(y)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), layer.apply(params, state, x)[0], 1e-5)


@pytest.mark.parametrize("options", [{"strides": 2, "padding": "CAUSAL"}, {"padding": "SAME"}])
def test_a_stream_needs_a_causal_convolution_without_strides(options):
    stream = jn.stream(jn.conv(3, (4,), **options))
    with pytest.raises(ValueError, match=r'conv: needs padding="CAUSAL" and strides of 1'):
        stream.init(jax.random.key(0), jn.spec((2, 5, 3)))
