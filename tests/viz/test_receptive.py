import jax
import numpy as np
import pytest

import jaxnet as jn
from jaxnet import viz

NET = jn.serial(jn.conv(2, 3), jax.nn.relu, jn.max_pool(2), jn.conv(2, (3, 5), name="second"))
IMAGE = np.random.default_rng(0).uniform(size=(20, 24, 1))


@pytest.fixture(scope="module")
def fields():
    return jn.inspect.receptive_fields(NET, jn.spec((1, 20, 24, 1)))


def test_a_box_a_layer_round_the_pixels_that_it_sees(fields):
    axes = viz.receptive(IMAGE, fields).axes[0]
    boxes = {}
    for patch in axes.patches:
        boxes[patch.get_label()] = (patch.get_xy(), patch.get_width(), patch.get_height())
    assert boxes == {  # a pixel's middle is at its number
        "conv, 3×3": ((10.5, 8.5), 3, 3),
        "max_pool, 4×4": ((10.5, 8.5), 4, 4),
        "second, 8×12": ((6.5, 6.5), 12, 8),
    }


def test_a_field_that_reaches_the_border_says_so():
    cut = jn.inspect.receptive_fields(NET, jn.spec((1, 6, 24, 1)))
    axes = viz.receptive(IMAGE[:6], cut, ["second"]).axes[0]
    assert axes.patches[0].get_label() == "second, ≥ 6×12"


def test_messages(fields):
    with pytest.raises(ValueError, match="a layer with maps of .* must be 'conv'.*, got 'third'"):
        viz.receptive(IMAGE, fields, ["third"])
