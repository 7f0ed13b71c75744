"""Sizes as published, and by torchvision 0.28 for other widths."""

import importlib
import math

import pytest

from jaxnet.models import mobilenet_v2
from tests.models.formulas import Tally
from tests.models.sizes import count

mobilenet = importlib.import_module("jaxnet.models.mobilenet")


def bottleneck(t, inside, maps, size, gate=0):
    if inside != t.maps:
        t.conv(inside)
    t.depthwise(size)
    if gate:
        t.gate(gate)
    t.conv(maps)


def test_table_of_v2():
    t = Tally(224)
    t.conv(32, 3)
    for times, maps, blocks, _ in mobilenet.V2:
        for _ in range(blocks):
            bottleneck(t, times * t.maps, maps, 3)
    t.conv(1280)
    t.dense(1000)
    assert t.params == 3_504_872


@pytest.mark.parametrize(
    ("variant", "parameters", "gated", "hard", "strides"),
    [("small", 2_542_856, 9, 8, [0, 1, 3, 8]), ("large", 5_483_032, 8, 9, [1, 3, 6, 12])],
)
def test_tables_of_v3(variant, parameters, gated, hard, strides):
    rows, hidden = mobilenet.V3[variant]
    t = Tally(224)
    t.conv(16, 3)
    for size, inside, maps, gate, _, _ in rows:
        bottleneck(t, inside, maps, size, gate * 8 * math.ceil(inside / 32))
    t.conv(6 * t.maps)
    t.dense(hidden)
    t.dense(1000)
    assert t.params == parameters
    assert sum(row[3] for row in rows) == gated and sum(row[4] for row in rows) == hard
    assert [i for i, row in enumerate(rows) if row[5] == 2] == strides


@pytest.mark.slow
def test_parameters_of_half_the_width():
    assert count(mobilenet_v2(width=0.5), (2, 224, 224, 3)) == 1_968_680
