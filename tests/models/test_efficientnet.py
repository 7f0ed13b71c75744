"""Sizes as published."""

import importlib

import pytest

import jaxnet as jn
from jaxnet.models import efficientnet
from tests.models.sizes import count


def test_parameters():
    assert count(efficientnet(), (2, 224, 224, 3)) == 5_288_548


def test_later_blocks_drop_more_paths(monkeypatch):
    rates = []
    noted = lambda rate: rates.append(rate) or jn.layers.drop_path(rate)  # noqa: E731
    monkeypatch.setattr(importlib.import_module("jaxnet.models.parts"), "drop_path", noted)
    count(efficientnet(drop_path_rate=0.32), (2, 64, 64, 3))
    # of 16 blocks, the second, fourth, ... of a stage has a shortcut
    assert rates == pytest.approx([0.02 * i for i in (2, 4, 6, 7, 9, 10, 12, 13, 14)])
