import numpy as np

from jaxnet import viz
from tests.helpers import refused
from tests.viz.words import titles

IMAGES = np.random.default_rng(0).uniform(size=(2, 6, 8, 1))


def values(axes):
    return np.asarray(axes.images[-1].get_array())


def scaled(a):
    return a / np.abs(a).max()


def test_rows_are_images_and_columns_maps():
    rng = np.random.default_rng(1)
    fine = rng.normal(size=(2, 6, 8, 3))
    coarse = rng.normal(size=(2, 3, 4))
    figure = viz.heatmap(IMAGES, {"fine": fine, "coarse": coarse}, ["first", "second"])
    cells = np.array(figure.axes[:6]).reshape(2, 3)
    assert titles(cells[0]) == ["image", "fine", "coarse"]
    assert [axes.texts[0].get_text() for axes in cells[:, 0]] == ["first", "second"]
    np.testing.assert_array_equal(values(cells[1, 0]), IMAGES[1, ..., 0])
    summed = fine.sum(-1)
    for i in range(2):
        np.testing.assert_allclose(values(cells[i, 1]), scaled(summed[i]))
        np.testing.assert_allclose(values(cells[i, 2]), scaled(coarse[i]))


def test_long_titles_are_inside_the_figure():
    titles = ["airplane,\nread as automobile", "8"]
    figure = viz.heatmap(IMAGES, {"a": np.ones((2, 6, 8))}, titles)
    figure.draw_without_rendering()
    for axes in figure.axes[:4:2]:
        assert axes.texts[0].get_window_extent().x0 >= 0


def test_a_coarse_map_covers_the_whole_image():
    usual = viz.heatmap(IMAGES, {"a": np.ones((2, 6, 8))}).axes[1].images[0]
    below, above = viz.heatmap(IMAGES, {"coarse": np.ones((2, 3, 4))}).axes[1].images
    for image in (below, above):
        assert tuple(image.get_extent()) == (-0.5, 7.5, 5.5, -0.5)
    assert below.get_interpolation() == usual.get_interpolation()
    assert above.get_interpolation() == "bilinear"


def test_red_is_for_blue_against_and_nothing_is_clear():
    image = viz.heatmap(IMAGES, {"a": np.ones((2, 6, 8))}).axes[1].images[-1]
    low, zero, high = [image.cmap(image.norm(value)) for value in (-1.0, 0.0, 1.0)]
    assert low[2] > low[0]
    assert high[0] > high[2]
    assert zero[3] < 0.01
    assert low[3] == high[3] == 1


def test_unsigned_is_the_largest_size_over_the_channels():
    gradient = np.random.default_rng(1).normal(size=(2, 6, 8, 3))
    figure = viz.heatmap(IMAGES, {"saliency": gradient}, unsigned=["saliency"])
    size = np.abs(gradient[0]).max(-1)
    np.testing.assert_allclose(values(figure.axes[1]), size / size.max())


def test_a_map_of_zeros_and_images_in_color():
    figure = viz.heatmap(np.zeros((1, 6, 8, 3)), {"nothing": np.zeros((1, 6, 8))})
    assert not values(figure.axes[1]).any()


@refused([
    ({}, {}, "expected at least one map"),
    ({"a": np.zeros((3, 6, 8))}, {}, r"got \(2, 6, 8, 1\) and a \(3, 6, 8\)"),
    ({"a": np.zeros((2, 6))}, {}, r"and a \(2, 6\)"),
    ({"a": np.zeros((2, 6, 8))}, {"titles": ["one"]}, "expected 2 titles, one per"),
    ({"a": np.zeros((2, 6, 8))}, {"unsigned": ["b"]}, "unsigned must be 'a', got 'b'"),
])  # fmt: skip
def test_messages(maps, options):
    viz.heatmap(IMAGES, maps, **options)
