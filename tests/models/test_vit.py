"""Sizes as published."""

import jax
import pytest

import jaxnet as jn
from jaxnet.models import vit
from tests.models.sizes import count, shapes, trained


@pytest.mark.slow
def test_stages_and_a_step_of_training():
    net = vit("b_32", 7, dropout_rate=0.1)
    found = shapes(net, (2, 64, 96, 3))
    assert found["patches"] == (2, 2, 3, 768) and found["block_12"] == (2, 7, 768)
    assert trained(net, (2, 64, 64, 3)) == (2, 7)


def test_positions_belong_to_a_size_of_images():
    params, _ = jax.eval_shape(vit("b_16").init, jax.random.key(0), jn.spec((2, 32, 48, 3)))
    assert params["positions"].shape == (1, 7, 768) and params["class_token"].shape == (1, 1, 768)
    with pytest.raises(ValueError, match="vit: height and width must be multiples of 16, got 30x"):
        count(vit("b_16"), (2, 30, 32, 3))
