"""Sizes as published, and by torchvision 0.28 for other widths; work is in test_published.py."""

import pytest

from jaxnet.models import mobilenet_v2
from tests.models.sizes import count


@pytest.mark.parametrize(("width", "parameters"), [
    (1.0, 3_504_872), pytest.param(0.5, 1_968_680, marks=pytest.mark.slow),
])  # fmt: skip
def test_parameters_of_other_widths(width, parameters):
    assert count(mobilenet_v2(width=width), (2, 224, 224, 3)) == parameters
