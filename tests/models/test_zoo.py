"""Sizes as published, of networks for images."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.models.sizes import count, shapes

models = jn.models

# torchvision 0.28's counts, which are those of the papers' architectures.
PUBLISHED = {
    models.convnext: {
        "tiny": 28_589_128, "small": 50_223_688, "base": 88_591_464, "large": 197_767_336,
    },
    models.densenet: {121: 7_978_856, 161: 28_681_000, 169: 14_149_480, 201: 20_013_928},
    models.efficientnet: {
        "b0": 5_288_548, "b1": 7_794_184, "b2": 9_109_994, "b3": 12_233_232, "b4": 19_341_616,
        "b5": 30_389_784, "b6": 43_040_704, "b7": 66_347_960, "v2_s": 21_458_488,
        "v2_m": 54_139_356, "v2_l": 118_515_272,
    },
    models.mobilenet_v3: {"small": 2_542_856, "large": 5_483_032},
    models.regnet: {
        "x_400mf": 5_495_976, "x_800mf": 7_259_656, "x_1_6gf": 9_190_136, "x_3_2gf": 15_296_552,
        "x_8gf": 39_572_648, "x_16gf": 54_278_536, "x_32gf": 107_811_560, "y_400mf": 4_344_144,
        "y_800mf": 6_432_512, "y_1_6gf": 11_202_430, "y_3_2gf": 19_436_338, "y_8gf": 39_381_472,
        "y_16gf": 83_590_140, "y_32gf": 145_046_770, "y_128gf": 644_812_894,
    },
    models.shufflenet_v2: {
        "x0_5": 1_366_792, "x1_0": 2_278_604, "x1_5": 3_503_624, "x2_0": 7_393_996,
    },
    models.squeezenet: {"1_0": 1_248_424, "1_1": 1_235_496},
    models.vit: {
        "b_16": 86_567_656, "b_32": 88_224_232, "l_16": 304_326_632, "l_32": 306_535_400,
        "h_14": 632_045_800,
    },
}  # fmt: skip
CASES = [(make, variant, n) for make, variants in PUBLISHED.items()
         for variant, n in variants.items()]  # fmt: skip
IDS = [f"{make.__name__}-{variant}" for make, variant, _ in CASES]


@pytest.mark.fast_cases("squeezenet-1_0", "shufflenet_v2-x0_5", "vit-b_32", "regnet-x_800mf")
@pytest.mark.parametrize(("make", "variant", "parameters"), CASES, ids=IDS)
def test_parameters(make, variant, parameters):
    assert count(make(variant), (2, 224, 224, 3)) == parameters


@pytest.mark.parametrize(
    ("net", "parameters"),
    [
        (models.mobilenet_v2(), 3_504_872),
        (models.mobilenet_v2(width=0.5), 1_968_680),
        (models.mobilenet_v2(width=1.4), 6_108_776),
        pytest.param(models.resnet(50, groups=32, group_width=4), 25_028_904, id="resnext50_32x4d"),
        pytest.param(
            models.resnet(101, groups=32, group_width=8), 88_791_336, id="resnext101_32x8d"
        ),
        pytest.param(models.resnet(50, group_width=128), 68_883_240, id="wide_resnet50_2"),
    ],
)
@pytest.mark.slow
def test_parameters_by_width(net, parameters):
    assert count(net, (2, 224, 224, 3)) == parameters


SMALLEST = {
    "convnext": ("tiny", (1, 1, 768)), "densenet": (121, (1, 1, 1024)),
    "efficientnet": ("b0", (2, 2, 1280)), "mobilenet_v3": ("small", (2, 2, 576)),
    "regnet": ("x_800mf", (2, 2, 672)), "shufflenet_v2": ("x0_5", (2, 2, 1024)),
    "squeezenet": ("1_1", (3, 3, 7)), "vit": ("b_32", (5, 768)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_a_step_of_training_with_another_head(name):
    variant, last = SMALLEST[name]
    x = jn.spec((3, 64, 64, 3) if name != "convnext" and name != "densenet" else (3, 32, 32, 3))
    net = getattr(models, name)(variant, 7)
    params, state = jax.eval_shape(net.init, jax.random.key(0), x)

    def loss(params, state, x):
        y, after = net.apply(params, state, x, key=jax.random.key(1), train=True)
        return y.sum(), (y, after)

    grads, (y, after) = jax.eval_shape(jax.grad(loss, has_aux=True), params, state, x)
    assert y.shape == (3, 7)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert params["output"]["kernel"].shape[-1] == 7
    sizes = [size for path, size in shapes(net, x.shape).items() if size and "/" not in path]
    assert (3, *last) in sizes


def test_stages_of_regnet_and_names():
    found = shapes(models.regnet("y_400mf", 7), (2, 64, 64, 3))
    assert found["stage_3_block_6"] == (2, 4, 4, 208) and "stage_3_block_7" not in found
    assert found["stage_4_block_1/shortcut"] == found["stage_4_block_6/conv_3"] == (2, 2, 2, 440)
    assert found["stage_1_block_1/squeeze"] == (2, 1, 1, 8)
    assert found["output"] == (2, 7)


def test_dropped_paths():
    """In training the branch of an example is dropped, or divided by 1 - rate."""
    from jaxnet.models.convnext import _block

    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 3, 3, 2)), jnp.float32)
    block = _block(0.25, "block")
    params, state = block.init(jax.random.key(0), x)
    params["layer_scale"] = params["layer_scale"] + 1.0
    branch = block.apply(params, state, x)[0] - x
    y, _ = block.apply(params, state, x, key=jax.random.key(1), train=True)
    kept = np.abs(y - x).max((1, 2, 3)) > 0
    assert 0.5 < kept.mean() < 0.95
    np.testing.assert_allclose((y - x)[kept], branch[kept] / 0.75, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "largest"), [("convnext", 0.32), ("efficientnet", 0.28)])
def test_later_blocks_drop_more_paths(name, largest, monkeypatch):
    rates = []

    def noted(rate):
        rates.append(rate)
        return jn.drop_path(rate)

    for module in (name, "parts"):
        module = importlib.import_module(f"jaxnet.models.{module}")
        monkeypatch.setattr(module, "drop_path", noted)
    count(getattr(models, name)(drop_path_rate=0.32), (2, 64, 64, 3))
    assert rates == sorted(rates) and rates[-1] == pytest.approx(largest)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: models.convnext("huge"), "convnext: variant must be 'tiny', 'small', 'base' or"),
        (lambda: models.densenet(120), "densenet: depth must be 121, 161, 169 or 201, got 120"),
        (lambda: models.efficientnet("b8"), "efficientnet: variant must be 'b0', .* got 'b8'"),
        (lambda: models.efficientnet(drop_path_rate=1), r"drop_path_rate must be in \[0, 1\)"),
        (lambda: models.mobilenet_v2(width=0), r"mobilenet_v2: width must be in \(0, inf\)"),
        (lambda: models.mobilenet_v3("b"), "mobilenet_v3: variant must be 'small' or 'large'"),
        (lambda: models.regnet("400mf"), "regnet: variant must be 'x_400mf', "),
        (lambda: models.shufflenet_v2("x3"), "shufflenet_v2: variant must be 'x0_5', "),
        (lambda: models.squeezenet("2"), "squeezenet: variant must be '1_0' or '1_1', got '2'"),
        (lambda: models.vit("b_8"), "vit: variant must be 'b_16', 'b_32', "),
        (lambda: models.resnet(18, groups=2), "resnet: groups and group_width are for the "),
        (lambda: models.unet(0), "unet: classes must be at least 1, got 0"),
    ],
)
def test_wrong_options(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_images_whose_size_does_not_fit():
    with pytest.raises(ValueError, match="vit: height and width must be multiples of 16, got 30x"):
        count(models.vit("b_16"), (2, 30, 32, 3))
    with pytest.raises(ValueError, match="multiples of 16, got .2, 24, 32, 3.. Pad or resize"):
        count(models.unet(2), (2, 24, 32, 3))
