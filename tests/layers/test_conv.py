"""Convolution layers: values of the lectures, parameter counts, parity with PyTorch and Flax."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.helpers import close, jit_apply, jit_pull, refused

# Values of the lectures.


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


def output_shape(layer, shape):
    def run(x):
        params, state = layer.init(jax.random.key(0), x)
        return jit_apply(layer, params, state, x)[0]

    return jax.eval_shape(run, jn.spec(shape)).shape


@pytest.mark.parametrize(
    "layer, x, y",
    [
        (jn.conv(96, 11, strides=4, padding="VALID"), (2, 227, 227, 3), (2, 55, 55, 96)),
        (jn.conv(5, (2, 3, 4), padding=((0, 1), 1, (2, 1))), (2, 4, 5, 6, 3), (2, 4, 5, 6, 5)),
        (jn.conv(5, 3, padding="CAUSAL", dilation=4), (2, 9, 3), (2, 9, 5)),
        (jn.conv_transpose(5, 4, strides=2, padding="VALID"), (2, 7, 3), (2, 16, 5)),
    ],
    ids=["alexnet", "explicit", "past", "up valid"],
)
def test_shapes(layer, x, y):
    assert output_shape(layer, x) == y


def test_fresh_outputs_have_variance_near_one():
    layer = jn.conv(50, 5, padding="VALID")
    x = jax.random.normal(jax.random.key(0), (4, 24, 24, 8))
    params, _ = layer.init(jax.random.key(1), x)
    y, _ = jit_apply(layer, params, {}, x)
    assert 0.8 < float(y.var()) < 1.25
    assert not params["bias"].any()


# Parity with PyTorch: values and gradients.


@pytest.mark.parametrize(
    "stride, padding, output_padding, dilation, groups",
    [
        (1, 0, 0, 1, 1),
        (2, 1, 1, 1, 3),
        (3, 2, 1, 2, 1),
    ],
)
def test_conv_transpose_is_that_of_pytorch(x64, stride, padding, output_padding, dilation, groups):
    torch = pytest.importorskip("torch", reason="parity with torch 2.13.0")
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(2, 3, 5, 4)), requires_grad=True)
    w = torch.tensor(rng.normal(size=(3, 6 // groups, 4, 3)), requires_grad=True)
    sizes = stride, padding, output_padding, groups, dilation
    y = torch.nn.functional.conv_transpose2d(x, w, None, *sizes)
    cotangent = rng.normal(size=y.shape)
    y.backward(torch.tensor(cotangent))

    def kernel(weight):  # (in, out / g, *window) -> (*window, in / g, out), reversed
        parts = np.split(np.asarray(weight.detach()), groups)
        parts = [np.moveaxis(part, (0, 1), (-2, -1))[::-1, ::-1] for part in parts]
        return np.concatenate(parts, -1)

    edges = ((padding, padding - output_padding),) * 2
    options = {"strides": stride, "padding": edges, "dilation": dilation, "groups": groups}
    layer = jn.conv_transpose(6, (4, 3), **options, use_bias=False)
    params = {"kernel": jnp.array(kernel(w))}
    last = [np.moveaxis(np.asarray(a), 1, -1) for a in (x.detach(), y.detach(), x.grad, cotangent)]

    def run(given):
        return layer.apply(given[0], {}, given[1])[0]

    found = jit_pull(run, (params, last[0]), last[3])
    close(found, (last[1], ({"kernel": kernel(w.grad)}, last[2])), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("window, strides", [((3, 4), 2), ((2, 5), 3)], ids=str)
def test_conv_transpose_is_that_of_flax(x64, padding, window, strides):
    linen = pytest.importorskip("flax.linen")  # flax 0.12.7
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3))
    options = {"padding": padding, "param_dtype": jnp.float64}
    theirs = linen.ConvTranspose(6, window, (strides, strides), **options)
    params = jax.jit(theirs.init)(jax.random.key(1), x)["params"]
    ours = jn.conv_transpose(6, window, strides=strides, padding=padding)
    close(jit_apply(ours, params, {}, x)[0], jax.jit(theirs.apply)({"params": params}, x), 1e-10)


@refused(
    [
        (lambda: jn.conv(0, 3), None, "conv: features must be at least 1, got 0"),
        (lambda: jn.conv(4, 3, groups=0), None, "conv: groups must be at least 1, got 0"),
        (lambda: jn.conv(5, 3, groups=2), None, "conv: 2 groups must divide the 5 features"),
        (lambda: jn.conv(4, 3, groups=2), (2, 8, 8, 3), "2 groups must divide the 3 inputs"),
        (lambda: jn.conv(4, 3), (28, 28), r"conv: expected an input of .*x\[None\]"),
        (lambda: jn.conv(4, (3, 3)), (2, 8, 3), "kernel_size needs 1 entries.*got .3, 3."),
        (lambda: jn.conv(4, b"x"), None, "kernel_size must be whole numbers"),
        (lambda: jn.conv(4, 3, padding=(1, 2)), (2, 8, 3), r"got \(1, 2\)"),
        (lambda: jn.conv(4, 3, padding="CAUSAL"), (2, 8, 8, 3), "for one spatial axis"),
        (lambda: jn.conv(4, 9, padding="VALID"), (2, 8, 8, 3), r"window of \(9, 9\).*smaller"),
        (lambda: jn.conv_transpose(4, 3, padding="CAUSAL"), (2, 8, 3), "no transpose"),
        (lambda: jn.depthwise_conv(3, multiplier=0), None, "multiplier must be at least 1"),
    ]
)
def test_messages(make, shape):
    output_shape(make(), shape)
