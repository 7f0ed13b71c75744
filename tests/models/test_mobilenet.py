"""Sizes as published, and by torchvision 0.28 for other widths; work is in test_published.py."""

import pytest

from jaxnet.models import mobilenet_v2, mobilenet_v3
from tests.models.sizes import count


@pytest.mark.parametrize(("net", "parameters"), [
    (mobilenet_v2(), 3_504_872), (mobilenet_v3("small"), 2_542_856),
    (mobilenet_v3("large"), 5_483_032),
    pytest.param(mobilenet_v2(width=0.5), 1_968_680, marks=pytest.mark.slow),
])  # fmt: skip
def test_parameters(net, parameters):
    assert count(net, (2, 224, 224, 3)) == parameters
