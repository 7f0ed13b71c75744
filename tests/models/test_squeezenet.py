"""Sizes as published."""

import pytest

from jaxnet.models import squeezenet
from tests.models.sizes import count, shapes, trained

# torchvision 0.28's counts, which are those of the paper's architectures.
PUBLISHED = {
    "1_0": 1_248_424, "1_1": 1_235_496,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("variant", PUBLISHED)
def test_parameters(variant):
    assert count(squeezenet(variant), (2, 224, 224, 3)) == PUBLISHED[variant]


@pytest.mark.slow
def test_stages_and_a_step_of_training():
    net = squeezenet("1_0", 7)
    found = shapes(net, (2, 224, 224, 3))
    assert found["conv_0"] == (2, 109, 109, 96) and found["max_pool"] == (2, 54, 54, 96)
    assert found["max_pool_1"] == (2, 27, 27, 256)  # the last window ends outside of the map
    assert found["fire_8/expand_3x3"] == (2, 13, 13, 256) and found["output"] == (2, 13, 13, 7)
    assert trained(net, (2, 64, 64, 3)) == (2, 7)


def test_a_wrong_variant():
    with pytest.raises(ValueError, match="squeezenet: variant must be '1_0' or '1_1', got '2'"):
        squeezenet("2")
