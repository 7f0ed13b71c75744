"""Positions and sizes of images; stages and sizes as published are in test_stages.py."""

import jax
import pytest

import jaxnet as jn
from jaxnet import models


@pytest.mark.slow
def test_positions_of_vit_belong_to_a_size_of_images():
    net = models.vit("b_16")
    params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 32, 48, 3)))
    assert params["positions"].shape == (1, 7, 768)
    assert params["class_token"].shape == (1, 1, 768)
    assert {"block_1", "block_12"} <= set(params)
    assert len(params) == 17


def test_images_are_multiples_of_the_patch():
    net = models.vit("b_16")
    with pytest.raises(
        ValueError, match="vit: height and width must be multiples of 16, got 32x40"
    ):
        jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 32, 40, 3)))
