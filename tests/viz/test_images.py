import itertools

import numpy as np

from jaxnet import viz
from tests.helpers import refused, shown
from tests.viz.words import titles


def test_images_in_order_with_titles():
    x = np.linspace(0, 1, 5 * 4 * 3).reshape(5, 4, 3, 1)
    figure = viz.images(x, titles=list("abcde"), columns=3)
    np.testing.assert_array_equal(np.stack(shown(figure)), x[..., 0])
    assert titles(figure.axes) == list("abcde")
    places = [axes.get_subplotspec() for axes in figure.axes]
    found = [(p.rowspan.start, p.colspan.start) for p in places]
    assert found == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_ink_is_dark_and_all_images_share_one_scale():
    faint, strong = np.full((4, 5), 0.2), np.full((4, 5), 0.9)
    figure = viz.images(np.stack([faint, strong]))
    faint, strong = (axes.images[0] for axes in figure.axes)
    assert faint.get_clim() == strong.get_clim() == (0, 1)
    assert sum(faint.cmap(0.9)[:3]) < sum(faint.cmap(0.2)[:3])


def test_color_and_uint8():
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    pictures = np.stack(shown(viz.images(x)))
    np.testing.assert_allclose(pictures, x / 255)


def test_values_outside_are_cut_off():
    (bright,) = shown(viz.images(np.full((1, 2, 2, 3), 1.5)))
    (dark,) = shown(viz.images(np.full((1, 2, 2, 3), -1.5)))
    assert bright.max() == 1
    assert dark.min() == 0


def test_long_titles_do_not_overlap():
    titles = ["airplane read as automobile"] * 6
    figure = viz.images(np.zeros((6, 8, 8)), titles=titles, columns=3)
    figure.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b)


@refused([
    ((8, 8), None, r"images: expected \(images, height, width"),
    ((0, 8, 8, 1), None, r"images: expected \(images, height, width"),
    ((2, 8, 8, 2), None, r"images: expected \(images, height, width"),
    ((8, 8, 3), None, r"at least one, got \(8, 8, 3\); for one image pass x\[None\]"),
    ((2, 8, 8), ["a"], "expected 2 titles, one per image, got 1"),
])  # fmt: skip
def test_refusals(shape, titles):
    viz.images(np.zeros(shape), titles=titles)
