"""Layouts of arrays, followed through programs; `test_torch.py` compares with PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.interop import layout
from jaxnet.interop.layout import EITHER, FIRST, LAST, LOST, SAME, flat_order, follow, mark
from jaxnet.interop.torch import from_torch
from tests.helpers import draw

IMAGE, FEATURES, SEQUENCE = (2, 4, 3, 5), (2, 60), (2, 4, 5)


def after(function, shape, given):
    """The layout of the function's output."""

    program = jax.make_jaxpr(lambda x: mark(0, function(x), jnp.zeros(())))(jn.spec(shape))
    return follow(program.jaxpr, [given], ["end"])[0]


def gate(x):
    return x * jax.nn.sigmoid(x.mean((1, 2)) @ jnp.ones((5, 5)))[:, None, None]


def scanned(x):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x), None), x, None, length=3)[0]


def one_number(x):
    return jnp.where(jnp.tanh(x).sum(-1) > 0, 1.0, 0.0)[:, None] * jnp.ones((2, 60))


OPERATIONS = {
    "flattened inline": (lambda x: x.reshape(2, 60), IMAGE, LAST, LOST),
    "features of a sequence": (lambda x: x.reshape(2, 60), IMAGE, SAME, SAME),
    "channels first": (lambda x: jnp.moveaxis(x, -1, 1), IMAGE, LAST, FIRST),
    "as PyTorch": (lambda x: jnp.moveaxis(x, -1, 1).reshape(2, 60), IMAGE, LAST, SAME),
    "equal_axes": (lambda x: x + jnp.moveaxis(x, -1, 1), (2, 5, 5, 5), LAST, LOST),
    "mean": (lambda x: x.mean((1, 2)), IMAGE, LAST, SAME),
    "one pixel": (lambda x: x[:, 0, 0], IMAGE, LAST, SAME),
    "pixels as examples": (lambda x: x.reshape(24, 5), IMAGE, LAST, SAME),
    "stride": (lambda x: x[:, ::2] + 1, IMAGE, LAST, LAST),
    "jit": (jax.jit(gate), IMAGE, LAST, LAST),
    "custom derivative": (jax.nn.relu, IMAGE, LAST, LAST),
    "scan": (scanned, IMAGE, LAST, LAST),
    "maps": (lambda x: x.reshape(2, 4, 3, 5), FEATURES, SAME, FIRST),
    "decoder": (lambda x: jnp.moveaxis(x.reshape(2, 5, 4, 3), 1, -1), FEATURES, SAME, LAST),
    "one pixel of features": (lambda x: x[:, None, None], FEATURES, SAME, None),
    "softmax of flattened": (jax.nn.softmax, FEATURES, (4, 3, 5), (4, 3, 5)),
    "there and back": (lambda x: x.reshape(2, 4, 3, 5), FEATURES, (4, 3, 5), LAST),
    "part of flattened": (lambda x: x[:, :30], FEATURES, (4, 3, 5), LOST),
    "product": (lambda x: x @ jnp.ones((60, 7)), FEATURES, (4, 3, 5), SAME),
    "two orders": (lambda x: x + x @ jnp.ones((60, 60)), FEATURES, (4, 3, 5), LOST),
    "one number per example": (one_number, FEATURES, LOST, SAME),
    "a signal": (lambda x: x.reshape(2, 20), SEQUENCE, LAST, LOST),
    "pixels in a row": (lambda x: x.reshape(2, 12, 5), IMAGE, LAST, EITHER),
    "their flattening": (lambda x: x.reshape(2, 12, 5).reshape(2, 60), IMAGE, LAST, LOST),
    "rows as examples": (lambda x: x.reshape(8, 3, 5), IMAGE, LAST, LAST),
    "channels shuffled": (lambda x: jnp.stack([x, -x], -1).reshape(2, 4, 3, 10),
        IMAGE, LAST, EITHER),
    "sum of two": (lambda x: x + x @ jnp.ones((5, 5)), SEQUENCE, LAST, EITHER),
    "its mean": (lambda x: (x + x @ jnp.ones((5, 5))).mean(1), SEQUENCE, LAST, SAME),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name):
    *given, expected = OPERATIONS[name]
    assert after(*given) == expected


def test_layers_decide_by_their_kind():
    """Whatever they are made of inside."""
    calls = []

    def see(path, layer, x, y):
        calls.append(layer.kind)
        return mark(len(calls) - 1, x, y)

    flatten = jn.flatten()
    net = jn.serial(
        jn.conv(6, 2),
        flatten,
        jax.nn.relu,
        jn.dense(12),
        lambda x: x.reshape(2, 3, 4),
        jn.dense(4),
        jn.conv_transpose(5, 3),
        jn.flatten(),
        jn.dropout(0.5),
    )
    params, state = net.init(jax.random.key(0), jn.spec(IMAGE))
    program = jax.make_jaxpr(lambda x: jn.observe(net, see).apply(params, state, x))(jn.spec(IMAGE))
    found = follow(program.jaxpr, [LAST], calls)
    assert calls[:3] == ["conv", "flatten", "function"]
    assert [found[i] for i in range(9)] == [
        LAST, LAST, (4, 3, 6), (4, 3, 6), SAME, FIRST, SAME, LAST, (3, 5)
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "shape", "given", "out", "expected"), [
    ("flatten", (2, 4, 3, 5), LAST, (2, 60), (4, 3, 5)),
    ("flatten", (2, 4, 3, 1), LAST, (2, 12), SAME),  # one channel
    ("flatten", (2, 1, 1, 5), LAST, (2, 5), SAME),  # one pixel
    ("flatten", (2, 4, 5), FIRST, (2, 20), SAME), ("flatten", (2, 4, 5), EITHER, (2, 20), LOST),
    ("layer_norm", IMAGE, LAST, IMAGE, EITHER), ("layer_norm", SEQUENCE, SAME, SEQUENCE, SAME),
    ("batch_norm", IMAGE, LAST, IMAGE, LAST), ("lstm", SEQUENCE, LAST, SEQUENCE, SAME),
    ("conv", SEQUENCE, LAST, FEATURES, SAME),
])  # fmt: skip
def test_the_output_of_a_kind(kind, shape, given, out, expected):
    assert layout._output(kind, shape, given, (out, given)) == expected


@pytest.mark.parametrize(("shape", "given", "new", "expected"), [
    ((2, 60), (4, 3, 5), (2, 60), (4, 3, 5)), ((2, 60), (4, 3, 5), (2, 12, 5), LOST),
    ((2, 1, 5), LAST, (2, 5), SAME), ((2, 4, 1), LAST, (2, 4), SAME),
    ((2, 4, 3), EITHER, (2, 12), LOST),
    (IMAGE, LAST, (2, 4, 15), LOST),  # channels and positions share an axis
    ((2, 4, 3, 1), LAST, (2, 4, 3), EITHER),
    ((2, 4, 6), LAST, (2, 4, 2, 3), EITHER),  # heads
    ((2, 5), SAME, (2, 1, 5), SAME), (SEQUENCE, LOST, (2, 20), LOST),
    (SEQUENCE, SAME, (2, 2, 2, 5), SAME),
])  # fmt: skip
def test_reshapes(shape, given, new, expected):
    assert layout._reshaped(shape, given, new) == expected


def test_flat_order():
    """Pixel (2, 1) of channel 4 in maps of 3x3x6: ours 46, PyTorch's 4 * 9 + 2 * 3 + 1."""
    assert flat_order((3, 3, 6))[43] == 46
    np.testing.assert_array_equal(np.sort(flat_order((3, 2, 5))), np.arange(30))


@pytest.mark.parametrize("reduced", [
    lambda x: x.mean(-1), lambda x: x[..., 0],
], ids=["mean", "first"])  # fmt: skip
def test_a_map_without_channels_keeps_the_order_of_its_pixels(reduced):
    net = jn.serial(jn.conv(6, 3, use_bias=False), reduced, jn.flatten(), jn.dense(2))
    conv = draw(6, 4, 3, 3, dtype=np.float32)
    dense = draw(2, 64, dtype=np.float32)
    weights = {"0.weight": conv, "1.weight": dense, "1.bias": np.zeros(2, np.float32)}
    params, _ = from_torch(net, weights, jn.spec((2, 8, 8, 4)))
    np.testing.assert_array_equal(params["dense"]["kernel"], weights["1.weight"].T)


def test_channels_of_a_resized_map_are_known():
    net = jn.serial(jn.layers.adaptive_avg_pool(3), jn.flatten(), jn.dense(2))
    weight = np.arange(72.0, dtype=np.float32).reshape(2, 36)
    weights = {"2.weight": weight, "2.bias": np.zeros(2, np.float32)}
    params, _ = from_torch(net, weights, jn.spec((2, 8, 8, 4)))
    by_hand = weight.reshape(2, 4, 9).swapaxes(1, 2).reshape(2, 36).T
    np.testing.assert_array_equal(params["dense"]["kernel"], by_hand)
