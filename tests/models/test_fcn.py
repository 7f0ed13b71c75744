"""Shapes for many backbones, values in NumPy, and a classifier made convolutional."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.models import fcn
from tests import layer_values
from tests.helpers import drawn, jit_apply
from tests.models.sizes import count

RNG = np.random.default_rng(3)


def convolutional_head(features=4096, window=7, padding="SAME"):
    """The two hidden dense layers of VGG, applied to every window of a map."""
    he = jn.initializers.he_normal()
    relu = jax.nn.relu
    return jn.serial(
        jn.conv(features, window, padding=padding, kernel_init=he, name="dense_6"),
        relu,
        jn.dropout(0.5),
        jn.dense(features, kernel_init=he, name="dense_7"),
        relu,
        jn.dropout(0.5),
        name="head",
    )


def small(features=(3, 4, 5)):
    """Maps at strides 2, 4 and 8, a rest left out."""
    layers = []
    for i, width in enumerate(features, 1):
        layers += [jn.conv(width, 3, name=f"conv_{i}"), jnp.tanh, jn.max_pool(2, name=f"pool_{i}")]
    return jn.serial(*layers, name="small")


SMALL_TAPS = {"pool_1": 2, "pool_2": 4, "pool_3": 8}
VGG_TRUNK = 14_714_688
FC6 = 7 * 7 * 512 * 4096 + 4096
FC7 = 4096 * 4096 + 4096


@pytest.mark.slow
def test_parameters_of_the_paper():
    """By hand; the paper's table 1 says 134M for FCN-VGG16."""
    size = (1, 96, 128, 3)
    vgg = jn.models.vgg(16)
    head = convolutional_head()
    assert VGG_TRUNK + FC6 + FC7 + 4096 * 21 + 21 == 134_346_581
    skip_16 = 512 * 21 + 21
    skip_8 = 256 * 21 + 21
    both = skip_16 + skip_8
    learned = both + 2 * 4 * 4 * 21 * 21
    cases = [
        ({"stride": 32}, 0),
        ({"stride": 16}, skip_16),
        ({}, both),
        ({"learned": True}, learned),
    ]
    for options, more in cases:
        net = fcn(vgg, 21, head=head, **options)
        assert count(net, size) == 134_346_581 + more


def test_coarser_strides_leave_finer_maps_out():
    image = jn.spec((2, 45, 39, 3))
    for stride, scored in [(2, {2, 4, 8}), (4, {4, 8}), (8, {8})]:
        net = fcn(small(), 5, taps=SMALL_TAPS, stride=stride, learned=True)
        params, state = jax.eval_shape(net.init, jax.random.key(0), image)
        y, _ = jax.eval_shape(net.apply, params, state, image)
        assert y.shape == (2, 45, 39, 5)
        scores = {f"score_{s}" for s in scored}
        learned = {f"upsample_{s}_to_{s // 2}" for s in scored - {stride}}
        assert set(params) == {"small"} | scores | learned
        assert set(params["small"]) == {"conv_1", "conv_2", "conv_3"}


@pytest.mark.slow
def test_scores_of_three_strides_and_the_head_are_those_of_numpy():
    """Maps of 7x11, 3x5 and 1x2 for an image of 15x22, so that each is cut or made longer."""
    trunk = jn.serial(*[jn.max_pool(2, name=f"pool_{i}") for i in (1, 2, 3)], name="trunk")
    head = convolutional_head(5, (1, 2))
    net_of = partial(fcn, trunk, 4, taps=SMALL_TAPS, head=head)
    net = net_of(stride=2)
    image = RNG.normal(size=(2, 15, 22, 3)).astype(np.float32)
    spec, _ = jax.eval_shape(net.init, jax.random.key(0), image)
    params = jax.tree.map(lambda a: RNG.normal(size=a.shape).astype(np.float32), spec)
    found, _ = jit_apply(net, params, {}, image)

    def fit(x, shape):
        _, height, width, _ = shape
        below = max(height - x.shape[1], 0)
        right = max(width - x.shape[2], 0)
        padded = np.pad(x, ((0, 0), (0, below), (0, right), (0, 0)), "edge")
        return padded[:, :height, :width]

    def twice(x):
        return layer_values.resize(x, (2 * x.shape[1], 2 * x.shape[2]), layer_values.linear)

    def score(stride, x):
        p = params[f"score_{stride}"]
        return x @ p["kernel"][0, 0] + p["bias"]

    def pooled(x):
        return layer_values.pool(np.max, x, (2, 2), (2, 2))

    first = pooled(image.astype(float))
    second = pooled(first)
    third = pooled(second)
    p = params["head"]
    pads = [(0, 0), (0, 1)]  # of a window of 1x2
    deep = np.maximum(layer_values.conv(p["dense_6"], third, (1, 1), pads), 0)
    deep = np.maximum(layer_values.dense(p["dense_7"], deep), 0)
    coarse = fit(twice(score(8, deep)), second.shape) + score(4, second)
    wanted = fit(twice(coarse), first.shape) + score(2, first)
    np.testing.assert_allclose(found, fit(twice(wanted), image.shape), rtol=1e-4, atol=1e-4)
    del params["score_2"]  # at a stride of 4 there is one step less
    found, _ = jit_apply(net_of(stride=4), params, {}, image)
    wanted = layer_values.resize(coarse, (12, 20), layer_values.linear)
    np.testing.assert_allclose(found, fit(wanted, image.shape), rtol=1e-4, atol=1e-4)
    named = jn.inspect.summary(head, jn.spec(third.shape)).rows
    assert sum("dropout" in row.path for row in named) == 2


@pytest.mark.slow
@pytest.mark.parametrize("times", [2, 3])
def test_learned_upsampling_starts_as_bilinear(x64, times):
    x = jnp.asarray(RNG.normal(size=(2, 12 * times, 9 * times, 3)))
    trunk = jn.serial(jn.conv(5, 1, name="fine"), jn.max_pool(times, name="coarse"), name="trunk")
    taps = {"fine": 1, "coarse": times}
    fixed = fcn(trunk, 4, taps=taps, stride=1)
    learned = fcn(trunk, 4, taps=taps, stride=1, learned=True)
    params, _ = drawn(fixed, x)
    own, _ = learned.init(jax.random.key(0), x)
    name = f"upsample_{times}_to_1"
    kernel = own[name]["conv_transpose"]["kernel"]
    size = 2 * times - times % 2
    assert kernel.shape == (size, size, 4, 4)
    y, _ = fixed.apply(params, {}, x)
    z, _ = learned.apply({**params, name: own[name]}, {}, x)
    np.testing.assert_allclose(y, z, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_scores_begin_at_zero_and_learn():
    net = fcn(small(), 4, taps=SMALL_TAPS, stride=8)
    x = jnp.asarray(RNG.normal(size=(2, 16, 16, 3)), jnp.float32)
    params, _ = net.init(jax.random.key(0), x)

    @jax.jit
    def ours(params):
        y, _ = net.apply(params, {}, x)
        return y[..., 0].sum(), y

    (_, y), grads = jax.value_and_grad(ours, has_aux=True)(params)
    assert (y == 0).all()
    assert (abs(grads["score_8"]["kernel"]) > 0).any()


@pytest.mark.parametrize(("options", "words"), [
    ({"taps": SMALL_TAPS, "stride": 16}, "stride must be 2, 4 or 8, got 16"),
    ({"taps": {"a": 4, "b": 6}, "stride": 4}, "multiples of one another, got 6 and 4"),
    ({"taps": {"pool_2": 16}, "stride": 16},
     r"map of pool_2 is \(16, 24\) .* stride of about 4, but taps has 16"),
])  # fmt: skip
def test_errors(options, words):
    with pytest.raises(ValueError, match=words):
        fcn(small(), 4, **options).init(jax.random.key(0), jn.spec((1, 64, 96, 3)))
