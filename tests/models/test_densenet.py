"""Sizes as published."""

import pytest

from jaxnet.models import densenet
from tests.models.sizes import shapes, trained


@pytest.mark.slow
def test_stages_and_a_step_of_training():
    net = densenet(121, 7)
    found = shapes(net, (2, 64, 96, 3))
    assert found["max_pool"] == (2, 16, 24, 64)
    assert found["stage_1_block_6"] == (2, 16, 24, 64 + 6 * 32)
    assert found["stage_1_block_6/conv_1"] == (2, 16, 24, 128)
    assert found["reduce_3"] == (2, 4, 6, 512) and found["norm"] == (2, 2, 3, 1024)
    assert trained(net, (2, 32, 32, 3)) == (2, 7)
