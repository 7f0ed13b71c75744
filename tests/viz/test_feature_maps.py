import numpy as np
import pytest

from jaxnet import viz
from tests.helpers import refuses, shown
from tests.viz.words import titles


def maps(low=0.0):
    uniform = np.random.default_rng(0).uniform(low, 1, (4, 5, 6))
    return uniform * [1, 5, 2, 6, 3, 4]


def test_all_maps_in_order_on_one_scale():
    found = maps()
    figure = viz.feature_maps(found, columns=3)
    np.testing.assert_array_equal(np.stack(shown(figure, 6), -1), found)
    assert titles(figure.axes[:6]) == [f"map {i}" for i in range(6)]
    for axes in figure.axes[:6]:
        assert axes.images[0].get_clim() == (0, found.max())
    image = figure.axes[0].images[0]
    *color, _ = image.cmap(image.norm(found.max()))
    assert color == [0, 0, 0]  # the most active is black


def test_the_most_active_ones_first():
    found = maps()
    figure = viz.feature_maps(found, np.zeros((8, 8, 1)), most_active=3)
    assert titles(figure.axes) == ["image", "map 3", "map 1", "map 5", ""]
    np.testing.assert_array_equal(shown(figure, 4)[1], found[..., 3])


@pytest.mark.slow
def test_values_below_0_have_a_color_of_their_own():
    found = maps(low=-1.0)
    image = viz.feature_maps(found).axes[0].images[0]
    low, high = image.get_clim()
    assert -low == high == np.abs(found).max()
    assert min(image.cmap(image.norm(0.0))[:3]) > 0.95
    red, _, blue, _ = image.cmap(image.norm(high))
    assert red > blue


def test_an_image_in_color_and_of_bytes():
    image = np.random.default_rng(0).integers(0, 256, (8, 7, 3), dtype=np.uint8)
    figure = viz.feature_maps(np.zeros((2, 2, 2)), image)  # maps of zeros too
    np.testing.assert_allclose(shown(figure, 1)[0], image / 255)


test_refusals = refuses([
    (lambda: viz.feature_maps(maps()[None]), r"\(height, width, maps\), got \(1, 4, 5, 6\)"),
    (lambda: viz.feature_maps(maps(), most_active=0), "most_active must be at least 1, got 0"),
    (lambda: viz.feature_maps(maps(), np.zeros((4, 5, 2))), r"must have shape .*got \(4, 5, 2\)"),
])  # fmt: skip
