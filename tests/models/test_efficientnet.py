"""Sizes as published."""

import importlib

import pytest

import jaxnet as jn
from jaxnet.models import efficientnet
from tests.models.sizes import count


@pytest.mark.fast_cases("b0-5288548")
@pytest.mark.parametrize(("variant", "parameters"), [
    ("b0", 5_288_548), ("b1", 7_794_184), ("b2", 9_109_994), ("b3", 12_233_232),
    ("b4", 19_341_616),
])  # fmt: skip
def test_parameters(variant, parameters):
    assert count(efficientnet(variant), (2, 224, 224, 3)) == parameters


@pytest.mark.slow
def test_later_blocks_drop_more_paths(monkeypatch):
    rates = []

    def noted(rate):
        return rates.append(rate) or jn.layers.drop_path(rate)

    monkeypatch.setattr(importlib.import_module("jaxnet.models.parts"), "drop_path", noted)
    count(efficientnet(drop_path_rate=0.32), (2, 64, 64, 3))
    # of 16 blocks, the second, fourth, ... of a stage has a shortcut
    assert rates == pytest.approx([0.02 * i for i in (2, 4, 6, 7, 9, 10, 12, 13, 14)])
