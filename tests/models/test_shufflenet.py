"""Sizes as published."""

import pytest

from jaxnet.models import shufflenet_v2
from tests.models.sizes import count, shapes, trained

# torchvision 0.28's counts, which are those of the paper's architectures.
PUBLISHED = {
    "x0_5": 1_366_792, "x1_0": 2_278_604, "x1_5": 3_503_624, "x2_0": 7_393_996,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("variant", PUBLISHED)
def test_parameters(variant):
    assert count(shufflenet_v2(variant), (2, 224, 224, 3)) == PUBLISHED[variant]


def test_sizes_that_the_first_strides_do_not_divide():
    """33 x 29 pixels after the convolution, and 17 x 15 after the pool with padding."""
    found = shapes(shufflenet_v2("x0_5", 7), (2, 66, 58, 3))
    assert found["max_pool"] == (2, 17, 15, 24) and found["stage_1_block_1"] == (2, 9, 8, 48)


@pytest.mark.slow
def test_stages_and_a_step_of_training():
    net = shufflenet_v2("x0_5", 7)
    found = shapes(net, (2, 64, 96, 3))
    assert found["stage_1_block_1/short_depthwise"] == (2, 8, 12, 24)
    assert found["stage_1_block_4/conv_1"] == (2, 8, 12, 24)
    assert found["stage_3_block_4"] == (2, 2, 3, 192) and found["conv_last"] == (2, 2, 3, 1024)
    assert trained(net, (2, 32, 32, 3)) == (2, 7)


def test_a_wrong_variant():
    with pytest.raises(ValueError, match="shufflenet_v2: variant must be 'x0_5', .* got 'x3'"):
        shufflenet_v2("x3")
