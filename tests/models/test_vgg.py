"""Sizes as published."""

import pytest

import jaxnet as jn
from tests.models.sizes import shapes


@pytest.mark.slow
def test_stages():
    found = shapes(jn.models.vgg(16, classes=7, normalized=True), (2, 224, 224, 3))
    wanted = {
        "conv_1_2": (224, 224, 64), "pool_1": (112, 112, 64), "pool_2": (56, 56, 128),
        "pool_3": (28, 28, 256), "pool_4": (14, 14, 512), "norm_5_3": (14, 14, 512),
        "pool_5": (7, 7, 512), "flatten": (25088,), "dense_7": (4096,), "output": (7,),
    }  # fmt: skip
    assert {name: found[name][1:] for name in wanted} == wanted
