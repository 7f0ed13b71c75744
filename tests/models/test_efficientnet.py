"""Sizes as published."""

import importlib

import pytest

import jaxnet as jn
from jaxnet.models import efficientnet
from tests.models import formulas
from tests.models.sizes import count, shapes, trained

# torchvision 0.28's counts, which are those of the paper's architectures.
PUBLISHED = {
    "b0": 5_288_548, "b1": 7_794_184, "b2": 9_109_994, "b3": 12_233_232, "b4": 19_341_616,
    "b5": 30_389_784, "b6": 43_040_704, "b7": 66_347_960, "v2_s": 21_458_488, "v2_m": 54_139_356,
    "v2_l": 118_515_272,
}  # fmt: skip


@pytest.mark.parametrize("variant", [
    pytest.param(name, marks=[] if name == "v2_s" else pytest.mark.slow) for name in PUBLISHED
])  # fmt: skip
def test_parameters(variant):
    assert count(efficientnet(variant), (2, 224, 224, 3)) == PUBLISHED[variant]


@pytest.mark.parametrize("variant", ["b0", "v2_s", "v2_m", "v2_l"])
def test_tables_without_rounding(variant, monkeypatch):
    """Their maps are multiples of 8, as they are published."""
    monkeypatch.setattr(formulas, "divisible", int)
    tally = formulas.Tally(224)
    formulas.efficientnet(tally, variant)
    tally.dense(1000)
    assert tally.params == PUBLISHED[variant]
    assert {row[-1] for row in formulas.TABLES["efficientnet"][variant].stages} <= {0, 1}


@pytest.mark.slow
def test_stages_and_a_step_of_training():
    net = efficientnet("b0", 7)
    found = shapes(net, (2, 64, 96, 3))
    assert found["stage_5_block_3/depthwise"] == (2, 4, 6, 672)
    assert found["stage_6_block_1/squeeze"] == (2, 1, 1, 28)
    assert found["stage_7_block_1"] == (2, 2, 3, 320) and found["conv_last"] == (2, 2, 3, 1280)
    found = shapes(efficientnet("v2_s", 7), (2, 64, 96, 3))
    assert found["stage_1_block_2/conv"] == (2, 32, 48, 24)
    assert found["stage_2_block_1/expand"] == (2, 16, 24, 96)
    assert trained(net, (2, 32, 32, 3)) == (2, 7)


@pytest.mark.slow
def test_later_blocks_drop_more_paths(monkeypatch):
    rates = []
    noted = lambda rate: rates.append(rate) or jn.layers.drop_path(rate)  # noqa: E731
    monkeypatch.setattr(importlib.import_module("jaxnet.models.parts"), "drop_path", noted)
    count(efficientnet(drop_path_rate=0.32), (2, 64, 64, 3))
    # of 16 blocks, the second, fourth, ... of a stage has a shortcut
    assert rates == pytest.approx([0.02 * i for i in (2, 4, 6, 7, 9, 10, 12, 13, 14)])


def test_wrong_options():
    with pytest.raises(ValueError, match="efficientnet: variant must be 'b0', .* got 'b8'"):
        efficientnet("b8")
    with pytest.raises(ValueError, match=r"drop_path_rate must be in \[0, 1\), got 1"):
        efficientnet(drop_path_rate=1)
