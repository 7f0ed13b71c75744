"""Shapes of the stages of published nets, and of a step of training."""

import jax
import pytest

import jaxnet as jn
from experiments import torchvision_nets
from jaxnet import models
from tests.models.sizes import count, shapes, trained

# Net for seven classes, shape of its images, path of a layer -> shape of its output.
STAGES = {
    "alexnet": (lambda: models.alexnet(classes=7), (227, 227), {
        "conv_1": (55, 55, 96), "pool_1": (27, 27, 96), "conv_2": (27, 27, 256),
        "pool_2": (13, 13, 256), "conv_3": (13, 13, 384), "conv_4": (13, 13, 384),
        "conv_5": (13, 13, 256), "pool_5": (6, 6, 256), "flatten": (9216,), "dense_6": (4096,),
        "dense_7": (4096,)}),
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


@pytest.mark.fast_cases("alexnet", "googlenet")
@pytest.mark.parametrize("name", STAGES)
def test_stages_and_a_step_of_training(name):
    make, size, wanted = STAGES[name]
    found = shapes(net := make(), (2, *size, 3))
    stages = {path: found[path][1:] if path in found else None for path in wanted}
    assert stages == wanted and found[""] == (2, 7)
    if size == (64, 96):
        assert trained(net, (2, 64, 64, 3)) == (2, 7)


@pytest.mark.parametrize(("net", "size", "parameters"), [
    (models.alexnet(groups=1), 227, 62_378_344), (torchvision_nets.alexnet(), 224, 61_100_840),
])  # fmt: skip
def test_parameters_of_alexnet(net, size, parameters):
    assert count(net, (2, size, size, 3)) == parameters


def test_positions_of_vit_belong_to_a_size_of_images():
    net = models.vit("b_16")
    params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 32, 48, 3)))
    assert params["positions"].shape == (1, 7, 768) and params["class_token"].shape == (1, 1, 768)
    with pytest.raises(ValueError, match="vit: height and width must be multiples of 16, got 30x"):
        count(net, (2, 30, 32, 3))
