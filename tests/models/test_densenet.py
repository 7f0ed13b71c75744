"""Sizes as published."""

import pytest

from jaxnet.models import densenet
from tests.models.sizes import count, shapes, trained

# torchvision 0.28's counts, which are those of the paper's architectures.
PUBLISHED = {
    121: 7_978_856, 161: 28_681_000, 169: 14_149_480, 201: 20_013_928,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("variant", PUBLISHED)
def test_parameters(variant):
    assert count(densenet(variant), (2, 224, 224, 3)) == PUBLISHED[variant]


@pytest.mark.slow
def test_stages_and_a_step_of_training():
    net = densenet(121, 7)
    found = shapes(net, (2, 64, 96, 3))
    assert found["max_pool"] == (2, 16, 24, 64)
    assert found["stage_1_block_6"] == (2, 16, 24, 64 + 6 * 32)
    assert found["stage_1_block_6/conv_1"] == (2, 16, 24, 128)
    assert found["reduce_3"] == (2, 4, 6, 512) and found["norm"] == (2, 2, 3, 1024)
    assert trained(net, (2, 32, 32, 3)) == (2, 7)


def test_a_wrong_depth():
    with pytest.raises(ValueError, match="densenet: depth must be 121, 161, 169 or 201, got 120"):
        densenet(120)
