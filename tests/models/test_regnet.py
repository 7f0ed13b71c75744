"""Sizes as published."""

import pytest

from jaxnet.models import regnet
from tests.models.sizes import count, shapes, trained

# torchvision 0.28's counts, which are those of the paper's architectures.
PUBLISHED = {
    "x_400mf": 5_495_976, "x_800mf": 7_259_656, "x_1_6gf": 9_190_136, "x_3_2gf": 15_296_552,
    "x_8gf": 39_572_648, "x_16gf": 54_278_536, "x_32gf": 107_811_560, "y_400mf": 4_344_144,
    "y_800mf": 6_432_512, "y_1_6gf": 11_202_430, "y_3_2gf": 19_436_338, "y_8gf": 39_381_472,
    "y_16gf": 83_590_140, "y_32gf": 145_046_770, "y_128gf": 644_812_894,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("variant", PUBLISHED)
def test_parameters(variant):
    assert count(regnet(variant), (2, 224, 224, 3)) == PUBLISHED[variant]


def test_stages():
    found = shapes(regnet("y_400mf", 7), (2, 64, 64, 3))
    assert found["stage_3_block_6"] == (2, 4, 4, 208) and "stage_3_block_7" not in found
    assert found["stage_4_block_1/shortcut"] == found["stage_4_block_6/conv_3"] == (2, 2, 2, 440)
    assert found["stage_1_block_1/squeeze"] == (2, 1, 1, 8)
    assert found["output"] == (2, 7)


@pytest.mark.slow
def test_a_step_of_training():
    assert trained(regnet("x_800mf", 7), (2, 32, 32, 3)) == (2, 7)


def test_a_wrong_variant():
    with pytest.raises(ValueError, match="regnet: variant must be 'x_400mf', .* got '400mf'"):
        regnet("400mf")
