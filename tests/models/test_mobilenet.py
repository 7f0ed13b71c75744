"""Sizes as published, and by torchvision 0.28 for other widths."""

import importlib
import math

import pytest

from jaxnet.models import mobilenet_v2, mobilenet_v3
from tests.models.sizes import count, shapes, trained

mobilenet = importlib.import_module("jaxnet.models.mobilenet")


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


def block(before, inside, maps, size, gate=0):
    """Params of an inverted residual: a scale and a bias for each map of a convolution."""
    expand = (before + 2) * inside if inside != before else 0
    gate = 2 * inside * gate + inside + gate if gate else 0
    return expand + (size**2 + 2) * inside + gate + (inside + 2) * maps


def test_table_of_v2():
    before, total = 32, (27 + 2) * 32
    for times, maps, blocks, _ in mobilenet.V2:
        for _ in range(blocks):
            total += block(before, times * before, maps, 3)
            before = maps
    assert total + (before + 2) * 1280 + 1281 * 1000 == 3_504_872


@pytest.mark.parametrize(
    ("variant", "parameters", "gated", "hard", "strides"),
    [("small", 2_542_856, 9, 8, [0, 1, 3, 8]), ("large", 5_483_032, 8, 9, [1, 3, 6, 12])],
)
def test_tables_of_v3(variant, parameters, gated, hard, strides):
    rows, hidden = mobilenet.V3[variant]
    before, total = 16, (27 + 2) * 16
    for size, inside, maps, gate, _, _ in rows:
        total += block(before, inside, maps, size, gate * 8 * math.ceil(inside / 32))
        before = maps
    total += (before + 2) * 6 * before + (6 * before + 1) * hidden + (hidden + 1) * 1000
    assert total == parameters
    assert sum(row[3] for row in rows) == gated and sum(row[4] for row in rows) == hard
    assert [i for i, row in enumerate(rows) if row[5] == 2] == strides


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
