"""Sizes as published."""

import pytest

import jaxnet as jn
from experiments import torchvision_nets
from tests.models.sizes import count, shapes


@pytest.mark.parametrize(
    ("net", "size", "parameters"),
    [
        (jn.models.alexnet(groups=1), 227, 62_378_344),
        (torchvision_nets.alexnet(), 224, 61_100_840),
    ],
)
def test_parameters(net, size, parameters):
    assert count(net, (2, size, size, 3)) == parameters


def test_stages():
    found = shapes(jn.models.alexnet(classes=7), (2, 227, 227, 3))
    wanted = {
        "conv_1": (55, 55, 96), "pool_1": (27, 27, 96), "conv_2": (27, 27, 256),
        "pool_2": (13, 13, 256), "conv_3": (13, 13, 384), "conv_4": (13, 13, 384),
        "conv_5": (13, 13, 256), "pool_5": (6, 6, 256), "flatten": (9216,), "dense_6": (4096,),
        "dense_7": (4096,), "output": (7,),
    }  # fmt: skip
    assert {name: found[name][1:] for name in wanted} == wanted
