"""Sizes as published, and by torchvision 0.28 for other widths."""

import pytest

from jaxnet.models import mobilenet_v2, mobilenet_v3
from tests.models.sizes import count, shapes, trained


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "parameters"), [(0.5, 1_968_680), (1.0, 3_504_872), (1.4, 6_108_776)]
)
def test_parameters_of_v2(width, parameters):
    assert count(mobilenet_v2(width=width), (2, 224, 224, 3)) == parameters


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "parameters"), [("small", 2_542_856), ("large", 5_483_032)])
def test_parameters_of_v3(variant, parameters):
    assert count(mobilenet_v3(variant), (2, 224, 224, 3)) == parameters


@pytest.mark.slow
def test_stages_and_a_step_of_training():
    found = shapes(mobilenet_v2(7), (2, 64, 96, 3))
    assert "block_1/expand" not in found and found["block_17/expand"] == (2, 2, 3, 960)
    assert found["block_4"] == (2, 8, 12, 32) and found["conv_18"] == (2, 2, 3, 1280)
    assert trained(mobilenet_v2(7), (2, 32, 32, 3)) == (2, 7)
    found = shapes(mobilenet_v3("small", 7), (2, 64, 96, 3))
    assert found["block_1/squeeze"] == (2, 1, 1, 8) and "block_2/squeeze" not in found
    assert found["conv_12"] == (2, 2, 3, 576) and found["hidden"] == (2, 1024)
    assert trained(mobilenet_v3("small", 7), (2, 32, 32, 3)) == (2, 7)


def test_wrong_options():
    with pytest.raises(ValueError, match=r"mobilenet_v2: width must be in \(0, inf\), got 0"):
        mobilenet_v2(width=0)
    with pytest.raises(ValueError, match="mobilenet_v3: variant must be 'small' or 'large'"):
        mobilenet_v3("b")
