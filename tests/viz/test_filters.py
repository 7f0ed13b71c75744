import numpy as np
import pytest

from jaxnet import viz
from tests.helpers import draw, refused, shown
from tests.viz.words import words


@pytest.mark.slow
def test_each_filter_is_scaled_by_its_own_largest_weight():
    kernel = draw(5, 3, 1, 6) * [1, 2, 3, 4, 5, 6]
    cells = shown(viz.filters(kernel), 6)
    np.testing.assert_allclose(np.abs(cells).max((1, 2)), 1)
    largest = np.abs(kernel).max((0, 1, 2))
    scaled = kernel[:, :, 0] / largest
    np.testing.assert_allclose(cells, scaled.transpose(2, 0, 1))


def test_zero_is_the_middle_of_the_colors_and_a_scale_says_so():
    figure = viz.filters(draw(3, 3, 1, 2) + 5)
    image = figure.axes[0].images[0]
    assert image.get_clim() == (-1, 1)
    assert min(image.cmap(image.norm(0.0))[:3]) > 0.95  # white
    assert words(figure.axes[-1].get_yticklabels()) == ["−", "0", "+"]


def test_a_filter_of_zeros_stays_white():
    figure = viz.filters(np.zeros((3, 3, 1, 2)))
    assert not np.any(shown(figure, 2))


def test_dense_kernels_become_images():
    kernel = np.arange(1.0, 61).reshape(15, 4)
    cells = shown(viz.filters(kernel, shape=(5, 3)), 4)
    unit = kernel[:, 1] / kernel[:, 1].max()
    np.testing.assert_allclose(cells[1], unit.reshape(5, 3))


def test_three_channels_are_one_color_image():
    kernel = np.zeros((2, 2, 3, 4))
    kernel[0, 0, 0, 1] = 8.0  # wants red
    cells = shown(viz.filters(kernel), 4)
    assert np.shape(cells) == (4, 2, 2, 3)
    np.testing.assert_allclose(cells[1][0, 0], [1, 0.5, 0.5])
    np.testing.assert_allclose(cells[0], 0.5)


def test_other_channels_are_a_row_a_filter():
    kernel = draw(3, 3, 5, 2)
    cells = shown(viz.filters(kernel), 10)
    scaled = kernel / np.abs(kernel).max((0, 1, 2))
    np.testing.assert_allclose(cells[:5], scaled[..., 0].transpose(2, 0, 1))
    np.testing.assert_allclose(cells[7], scaled[:, :, 2, 1])


@refused([
    ((64, 10), None, r"for a dense kernel \(64, 10\) pass the shape.*shape=\(28, 28\)"),
    ((64, 10), (7, 9), r"has 64 pixels, which does not match shape \(7, 9\)"),
    ((3, 3, 6), None, r"expected \(height, width, inputs, filters\).*got \(3, 3, 6\)"),
    ((3, 3, 1, 6), (8, 8), r"got \(3, 3, 1, 6\) and shape=\(8, 8\)"),
])  # fmt: skip
def test_messages(kernel, shape):
    viz.filters(np.zeros(kernel), shape=shape)
