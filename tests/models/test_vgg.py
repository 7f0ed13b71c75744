"""Sizes as published."""

import pytest

import jaxnet as jn
from tests.models.sizes import count, shapes


# The plain ones: table 2 of the paper and the syllabus; with batch norm: torchvision 0.28.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "plain", "normalized"),
    [
        (11, 132_863_336, 132_868_840),
        (13, 133_047_848, 133_053_736),
        (16, 138_357_544, 138_365_992),
        (19, 143_667_240, 143_678_248),
    ],
)
def test_parameters(depth, plain, normalized):
    assert count(jn.models.vgg(depth), (2, 224, 224, 3)) == plain
    assert count(jn.models.vgg(depth, normalized=True), (2, 224, 224, 3)) == normalized


@pytest.mark.slow
def test_stages():
    found = shapes(jn.models.vgg(16, classes=7, normalized=True), (2, 224, 224, 3))
    wanted = {
        "conv_1_2": (224, 224, 64), "pool_1": (112, 112, 64), "pool_2": (56, 56, 128),
        "pool_3": (28, 28, 256), "pool_4": (14, 14, 512), "norm_5_3": (14, 14, 512),
        "pool_5": (7, 7, 512), "flatten": (25088,), "dense_7": (4096,), "output": (7,),
    }  # fmt: skip
    assert {name: found[name][1:] for name in wanted} == wanted


def test_a_wrong_depth():
    with pytest.raises(ValueError, match="depth must be 11, 13, 16 or 19, got 17"):
        jn.models.vgg(17)
