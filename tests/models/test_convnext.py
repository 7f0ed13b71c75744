"""Sizes as published."""

import importlib

import jax
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.models import convnext
from tests.helpers import jit_apply, jit_init
from tests.models.sizes import count

module = importlib.import_module("jaxnet.models.convnext")


@pytest.mark.slow
def test_dropped_paths():
    """In training the branch of an example is dropped, or divided by 1 - rate."""
    block = module.convnext_block(0.25, "block")
    x = np.random.default_rng(0).normal(size=(64, 3, 3, 2)).astype(np.float32)
    params, state = jax.device_get(jit_init(block, jax.random.key(0), x))
    assert params["layer_scale"].tolist() == pytest.approx([1e-6, 1e-6])
    params["layer_scale"] = params["layer_scale"] + np.float32(1)
    whole, _ = jit_apply(block, params, state, x)
    branch = whole - x
    y, _ = jit_apply(block, params, state, x, key=jax.random.key(1), train=True)
    kept = np.abs(y - x).max((1, 2, 3)) > 0
    assert 0.5 < kept.mean() < 0.95
    np.testing.assert_allclose((y - x)[kept], branch[kept] / 0.75, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_later_blocks_drop_more_paths(monkeypatch):
    rates = []

    def noted(rate):
        rates.append(rate)
        return jn.layers.drop_path(rate)

    monkeypatch.setattr(module, "drop_path", noted)
    count(convnext(drop_path_rate=0.34), (2, 64, 64, 3))
    assert rates == pytest.approx([0.02 * i for i in range(18)])
