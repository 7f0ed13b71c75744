"""Nets whose sizes are published, stage by stage, and small ones: shapes, values, drawn params."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from experiments import torchvision_nets
from experiments.tied_autoencoder import tied_autoencoder
from jaxnet import models
from jaxnet.models import autoencoder, deepface, mlp
from tests import helpers
from tests import layer_values as values
from tests.helpers import close, jit_apply
from tests.models.sizes import count, shapes, trained

# Net for seven classes, shape of its images, path of a layer -> shape of its output.
STAGES = {
    "alexnet": (lambda: models.alexnet(classes=7), (227, 227), {
        "conv_1": (55, 55, 96), "pool_1": (27, 27, 96), "conv_2": (27, 27, 256),
        "pool_2": (13, 13, 256), "conv_3": (13, 13, 384), "conv_4": (13, 13, 384),
        "conv_5": (13, 13, 256), "pool_5": (6, 6, 256), "flatten": (9216,), "dense_6": (4096,),
        "dense_7": (4096,)}),
    "cifar_resnet": (lambda: models.cifar_resnet(20, 7), (32, 32), {
        "block_3/conv_1": (32, 32, 16), "block_4/shortcut": (16, 16, 32),
        "block_6/conv_2": (16, 16, 32), "block_7/shortcut": (8, 8, 64),
        "block_9/norm_2": (8, 8, 64), "global_avg_pool": (64,),
        **dict.fromkeys(f"block_{i}/shortcut" for i in (1, 3, 5, 8))}),
    "resnet": (lambda: models.resnet(50, 7), (224, 224), {
        "conv_0": (112, 112, 64), "max_pool": (56, 56, 64), "stage_1_block_3": (56, 56, 256),
        "stage_1_block_1/shortcut": (56, 56, 256), "stage_2_block_4": (28, 28, 512),
        "stage_2_block_1/conv_1": (56, 56, 128),  # strides come with the 3x3 window
        "stage_2_block_2/shortcut": None, "stage_3_block_6": (14, 14, 1024),
        "stage_4_block_3": (7, 7, 2048)}),
    "googlenet": (lambda: models.googlenet(classes=7), (224, 224), {
        "conv_1": (112, 112, 64), "pool_1": (56, 56, 64), "conv_2": (56, 56, 192),
        "pool_2": (28, 28, 192), "inception_3a": (28, 28, 256), "inception_3b": (28, 28, 480),
        "inception_4a": (14, 14, 512), "inception_4e": (14, 14, 832), "inception_5a": (7, 7, 832),
        "inception_5b": (7, 7, 1024), "inception_3a/conv_5x5": (28, 28, 32)}),
    "vgg": (lambda: models.vgg(16, classes=7, normalized=True), (224, 224), {
        "conv_1_2": (224, 224, 64), "pool_1": (112, 112, 64), "pool_2": (56, 56, 128),
        "pool_3": (28, 28, 256), "pool_4": (14, 14, 512), "norm_5_3": (14, 14, 512),
        "pool_5": (7, 7, 512), "flatten": (25088,), "dense_7": (4096,)}),
    "densenet": (lambda: models.densenet(121, 7), (64, 96), {
        "max_pool": (16, 24, 64), "stage_1_block_6": (16, 24, 64 + 6 * 32),
        "stage_1_block_6/conv_1": (16, 24, 128), "reduce_3": (4, 6, 512), "norm": (2, 3, 1024)}),
    "vit": (lambda: models.vit("b_32", 7, dropout_rate=0.1), (64, 96), {
        "patches": (2, 3, 768), "block_12": (7, 768)}),
    "convnext": (lambda: models.convnext("tiny", 7, drop_path_rate=0.1), (64, 96), {
        "stem": (16, 24, 96), "reduce_2": (8, 12, 192), "stage_3_block_9/wide": (4, 6, 1536),
        "stage_4_block_3": (2, 3, 768), "norm": (768,)}),
    "efficientnet": (lambda: models.efficientnet("b0", 7), (64, 96), {
        "stage_5_block_3/depthwise": (4, 6, 672), "stage_6_block_1/squeeze": (1, 1, 28),
        "stage_7_block_1": (2, 3, 320), "conv_last": (2, 3, 1280)}),
    "efficientnet v2": (lambda: models.efficientnet("v2_s", 7), (64, 96), {
        "stage_1_block_2/conv": (32, 48, 24), "stage_2_block_1/expand": (16, 24, 96)}),
    "mobilenet v2": (lambda: models.mobilenet_v2(7), (64, 96), {
        "block_1/expand": None, "block_17/expand": (2, 3, 960), "block_4": (8, 12, 32),
        "conv_18": (2, 3, 1280)}),
    "mobilenet v3": (lambda: models.mobilenet_v3("small", 7), (64, 96), {
        "block_1/squeeze": (1, 1, 8), "block_2/squeeze": None, "conv_12": (2, 3, 576),
        "hidden": (1024,)}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_stages_and_a_step_of_training(name):
    make, size, wanted = STAGES[name]
    net = make()
    found = shapes(net, (2, *size, 3))
    for path, shape in wanted.items():
        if shape is None:
            assert path not in found
        else:
            assert found[path][1:] == shape
    assert found[""] == (2, 7)
    if size == (64, 96):
        assert trained(net, (2, 64, 64, 3)) == (2, 7)


@pytest.mark.parametrize(("net", "size", "parameters"), [
    (models.alexnet(groups=1), 227, 62_378_344), (torchvision_nets.alexnet(), 224, 61_100_840),
])  # fmt: skip
def test_parameters_of_alexnet(net, size, parameters):
    assert count(net, (2, size, size, 3)) == parameters


def test_a_layer_of_100_on_28x28_has_78400_weights():
    assert count(mlp([100, 10]), (2, 28, 28, 1)) == 28 * 28 * 100 + 100 + 1000 + 10


def test_one_size_is_a_linear_model():
    net = mlp([10])
    params, _ = net.init(jax.random.key(0), jn.spec((2, 8, 8, 1)))
    assert list(params) == ["output"]
    assert params["output"]["kernel"].shape == (64, 10)
    a, b = jax.random.normal(jax.random.key(0), (2, 3, 64))
    y = [net.apply(params, {}, x)[0] for x in (a, b, a + b)]
    bias = params["output"]["bias"]
    np.testing.assert_allclose(y[0] + y[1] - bias, y[2], atol=1e-5)


@pytest.mark.slow
def test_activation_may_be_a_layer_and_is_not_put_after_the_last():
    params, _ = mlp([70, 60, 5]).init(jax.random.key(0), jn.spec((2, 4)))
    x = jax.random.normal(jax.random.key(0), (50, 4))
    dropped = mlp([70, 60, 5], jn.dropout(0.5))
    y, _ = dropped.apply(params, {}, x, key=jax.random.key(0), train=True)
    assert y.shape == (50, 5)
    assert (y != 0).all()  # what is dropped is hidden
    y, _ = mlp([70, 60, 5]).apply(params, {}, x)
    assert (y < 0).any()


@pytest.mark.slow
def test_hidden_units_keep_the_second_moment_near_1():
    """He's kernels keep mean(relu(z)²) at mean(x²) = 1, layer after layer, whatever the widths."""
    x = jax.random.normal(jax.random.key(0), (500, 400))
    net = mlp([500, 300, 200, 400])
    params, _ = net.init(jax.random.key(1), x)
    y, _ = net.apply(params, {}, x)
    assert 0.85 < float((y**2).mean()) < 1.15  # the last layer is LeCun's, which keeps it too


def test_parameters_and_stages_are_those_of_the_paper():
    sizes = {
        "c1": 32 * (121 * 3 + 1),
        "c3": 16 * (81 * 32 + 1),
        "l4": 55 * 55 * 16 * (81 * 16 + 1),
        "l5": 25 * 25 * 16 * (49 * 16 + 1),
        "l6": 21 * 21 * 16 * (25 * 16 + 1),
        "f7": 4096 * (7056 + 1),
        "output": 4030 * (4096 + 1),
    }
    assert sum(sizes.values()) == 118_923_774
    assert count(deepface(classes=4030), (2, 152, 152, 3)) == 118_923_774
    found = shapes(deepface(), (2, 152, 152, 3))
    wanted = {
        "c1": (142, 142, 32),
        "m2": (71, 71, 32),
        "c3": (63, 63, 16),
        "l4": (55, 55, 16),
        "l5": (25, 25, 16),
        "l6": (21, 21, 16),
        "f7": (4096,),
        "output": (4030,),
    }
    assert {name: found[name][1:] for name in wanted} == wanted


@pytest.mark.long
def test_values_of_the_smallest_faces(x64):
    """Written out in NumPy; dropout is off."""
    net = deepface(5)
    x = np.random.default_rng(0).normal(size=(2, 71, 71, 3))
    params, state = net.init(jax.random.key(0), jnp.asarray(x))
    p = jax.tree.map(np.asarray, params)
    pads = ((0, 0), (0, 0))

    def local(p, x, k, stride):
        y = values.locally_connected(p, x, (k, k), (stride, stride))
        return np.maximum(y, 0)

    y = np.maximum(values.conv(p["c1"], x, (1, 1), pads), 0)
    y = values.pool(np.max, y, (3, 3), (2, 2), ((1, 1), (1, 1)))
    y = np.maximum(values.conv(p["c3"], y, (1, 1), pads), 0)
    y = local(p["l4"], y, 9, 1)
    y = local(p["l5"], y, 7, 2)
    y = local(p["l6"], y, 5, 1)
    y = np.maximum(values.dense(p["f7"], y.reshape(2, -1)), 0)
    found, _ = jax.jit(net.apply)(params, state, x)
    np.testing.assert_allclose(found, values.dense(p["output"], y), rtol=1e-9, atol=1e-12)


def test_values_in_numpy():
    net = jn.models.unet(3, features=2, levels=3)
    x = np.random.default_rng(0).normal(size=(2, 8, 4, 3)).astype(np.float32)
    params, state = jax.device_get(net.init(jax.random.key(0), x))
    rng = np.random.default_rng(1)

    def random(leaf):
        return rng.uniform(0.5, 1.5, leaf.shape) * np.where(leaf == 0, 1, leaf)

    params = {name: jax.tree.map(random, entry) for name, entry in params.items()}
    state = {name: jax.tree.map(random, entry) for name, entry in state.items()}

    def level(x, name):
        p = params[name]
        s = state[name]
        for unit in ("conv_1", "conv_2"):
            norm = f"{unit}_norm"
            x = values.conv(p[unit], x, (1, 1), ((1, 1), (1, 1)))
            x = values.batch_norm(p[norm], s[norm], x, False)
            x = np.maximum(x, 0)
        return x

    def halved(x):
        return values.pool(np.max, x, (2, 2), (2, 2))

    def enlarged(x, name):
        kernel = params[name]["kernel"][::-1, ::-1]  # pixel (i, j) of each new 2x2 window
        y = np.einsum("bhwc,ijcf->bhiwjf", x, kernel)
        batch, height, _, width, _, features = y.shape
        return y.reshape(batch, 2 * height, 2 * width, features) + params[name]["bias"]

    one = level(x, "down_1")
    two = level(halved(one), "down_2")
    three = level(halved(two), "down_3")
    y = level(np.concatenate([two, enlarged(three, "enlarge_2")], -1), "up_2")
    y = level(np.concatenate([one, enlarged(y, "enlarge_1")], -1), "up_1")
    wanted = values.conv(params["output"], y, (1, 1), ((0, 0), (0, 0)))
    y, _ = jit_apply(net, *jax.tree.map(np.float32, (params, state)), x)
    assert y.shape == wanted.shape == (2, 8, 4, 3)
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_parameters_by_hand():
    """Of the paper's sizes: 18 convolutions of 3x3, 4 of 2x2, one of 1x1."""
    maps = [64, 128, 256, 512, 1024]
    down = sum(9 * (a * b + b * b) + 4 * b for a, b in zip([3, *maps], maps, strict=False))
    up = sum(9 * (2 * b * b + b * b) + 4 * b + 4 * 2 * b * b + b for b in maps[:-1])
    assert count(jn.models.unet(2), (1, 32, 32, 3)) == down + up + 64 * 2 + 2


@pytest.mark.slow
def test_stages_and_other_numbers_of_axes():
    found = shapes(jn.models.unet(2, features=4), (1, 48, 32, 3))
    assert found["down_5"] == (1, 3, 2, 64)
    assert found["enlarge_4"] == (1, 6, 4, 32)
    assert found["up_1"] == (1, 48, 32, 4)
    assert found["output"] == (1, 48, 32, 2)
    assert shapes(jn.models.unet(2, 4, 3), (1, 8, 4, 12, 1))["output"] == (1, 8, 4, 12, 2)
    assert shapes(jn.models.unet(2, 4, 3), (1, 8, 1))["output"] == (1, 8, 2)


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(5, 7))


def test_plain_functions_and_state_pass():
    net = autoencoder(jn.serial(jn.dense(3), jn.batch_norm()), jn.serial(jn.dense(7), jnp.tanh))
    params, state = net.init(jax.random.key(0), jn.spec((5, 7)))
    assert set(state) == {"encoder"}
    _, after = net.apply(params, state, jnp.asarray(X, jnp.float32), train=True)
    assert (after["encoder"]["batch_norm"]["mean"] != 0).any()
    y, _ = autoencoder(jnp.exp, jnp.log).apply({}, {}, jnp.ones((2, 3)))
    np.testing.assert_array_equal(y, np.ones((2, 3)))


def drawn(net, *shape):
    return jax.eval_shape(net.init, jax.random.key(0), jn.spec(shape))


@pytest.mark.parametrize(("call", "words"), [
    (lambda: drawn(autoencoder(jn.models.mlp([3]), jn.dense(64)), 2, 8, 8, 1),
     r"shape of x, \(2, 8, 8, 1\), got \(2, 64\)"),
    (lambda: drawn(tied_autoencoder(3), 2, 8, 8, 1),
     r"tied_autoencoder: expected an input of shape \(batch, inputs\)"),
    (lambda: jn.models.unet(0), "unet: classes must be at least 1, got 0"),
    (lambda: drawn(jn.models.unet(2), 2, 24, 32, 3),
     "multiples of 16, got .2, 24, 32, 3.. Pad or resize"),
    (lambda: drawn(deepface(), 2, 70, 70, 3), "l6: a window of .* is larger than the input"),
    (lambda: mlp([]), r"mlp: features must be one size per layer, such as \[100"),
    (lambda: mlp(10), r"mlp: features must be one size per layer, such as \[100"),
    (lambda: mlp([5, 0]), "features must be at least 1, got 0"),
])  # fmt: skip
def test_wrong_sizes(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.slow
def test_tied_values_and_gradients(x64):
    """By hand: z = σ(x W + b), y = σ(z Wᵀ + c); W has the gradients of both its uses."""
    net = tied_autoencoder(3, jax.nn.sigmoid, jax.nn.sigmoid)
    params, state = net.init(jax.random.key(0), jnp.asarray(X))
    w, b, c = (RANDOM.normal(size=shape) for shape in ((7, 3), 3, 7))
    given = {"encoder": {"kernel": w, "bias": b}, "decoder": {"bias": c}}
    assert helpers.shapes(params) == helpers.shapes(given)
    given = jax.tree.map(jnp.asarray, given)

    def loss(params):
        y, _ = net.apply(params, state, jnp.asarray(X))
        return jnp.square(y - X).sum() / 2, y

    grads, y = jax.jit(jax.grad(loss, has_aux=True))(given)
    z = values.sigmoid(X @ w + b)
    np.testing.assert_allclose(y, values.sigmoid(z @ w.T + c), atol=1e-12)
    d_out = (y - X) * y * (1 - y)  # (5, 7)
    d_code = (d_out @ w) * z * (1 - z)  # (5, 3)
    encoder = {"kernel": X.T @ d_code + d_out.T @ z, "bias": d_code.sum(0)}
    close(grads, {"encoder": encoder, "decoder": {"bias": d_out.sum(0)}}, 1e-7, 1e-12)


def test_the_decoders_bias_is_drawn_by_its_initializer():
    net = tied_autoencoder(3, decoder_bias_init=jn.initializers.constant(0.25))
    params, _ = net.init(jax.random.key(0), jn.spec((5, 7)))
    assert params["decoder"]["bias"].tolist() == [0.25] * 7
