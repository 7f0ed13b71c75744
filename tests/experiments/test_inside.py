import jax
import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason="needs the extra jaxnet-toolkit[data]")

import jaxnet as jn
from experiments import inside


def test_importance_is_one_number_per_pixel():
    gradient = np.array([-3.0, 2.0]).reshape(1, 1, 1, 2) * np.ones((1, 4, 5, 1))
    np.testing.assert_allclose(inside.importance("saliency", gradient, (4, 5)), 3)
    np.testing.assert_allclose(inside.importance("integrated gradients", gradient, (4, 5)), -1)
    coarse = inside.importance("class activation map", np.ones((1, 2, 3)), (4, 6))
    np.testing.assert_allclose(coarse, np.ones((1, 4, 6)))


def test_two_means_see_a_triangle():
    """Positive kernels of ones: (1 1 1) * (1 1 1) = (1 2 3 2 1), along each axis."""
    conv = [jn.conv(2, 3, kernel_init=jn.initializers.ones, use_bias=False) for _ in "ab"]
    net, x = jn.serial(*conv), np.ones((2, 9, 11, 1), np.float32)
    params, state = net.init(jax.random.key(0), x)
    fields = jn.inspect.receptive_fields(net, x)
    found = inside.effective_field(net, params, state, x, "conv_1", fields)
    side = np.array([1, 2, 3, 2, 1]) / 3
    np.testing.assert_allclose(found, np.pad(np.outer(side, side), [(2, 2), (3, 3)]), atol=1e-6)
    figure = inside.draw_fields(np.zeros((9, 11, 1)), fields, {"conv_1": found})
    left, right = figure.axes
    assert [p.get_label() for p in left.patches] == ["conv_1, 5×5"]
    assert right.get_title() == "conv_1" and right.patches[0].get_xy() == (2.5, 1.5)
    np.testing.assert_array_equal(right.images[0].get_array(), found)


def test_the_inner_quarter():
    fields = jn.inspect.receptive_fields(
        jn.serial(jn.conv(1, 8, padding=4)), jn.spec((1, 20, 20, 1))
    )
    field = np.zeros((20, 20))
    (top, left), size = fields.starts["conv"], fields.fields["conv"]
    assert size == (8, 8)
    field[top : top + 8, left : left + 8] = 1
    field[top + 2 : top + 6, left + 2 : left + 6] = 5
    assert inside.inner(field, fields, "conv") == (80 / 128, 16 / 64)


def test_wrong_options():
    with pytest.raises(ValueError, match="steps must be at least 8, got 7"):
        inside.Config(steps=7)
