import numpy as np
import pytest
from matplotlib.colors import to_rgb

from jaxnet import viz
from jaxnet.viz.masks import overlay
from tests.helpers import close, refuses
from tests.viz.words import titles, words

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(2, 3, 4, 3))
MASK = np.array([[[0, 1, 2, 5], [2, 2, 1, 0], [-1, 255, 0, 1]]] * 2)
COLORS = np.array([[255, 0, 0], [0, 51, 0], [0, 0, 255]], np.uint8)


def test_each_pixel_is_mixed_with_the_color_of_its_class():
    y = overlay(X, MASK, COLORS, alpha=0.25)
    for place, label in np.ndenumerate(MASK):
        known = 0 <= label < 3
        color = COLORS[label] / 255 if known else X[place]
        np.testing.assert_allclose(y[place], 0.25 * color + 0.75 * X[place])


def test_shares_and_uint8():
    np.testing.assert_allclose(overlay(X, MASK, COLORS, alpha=0), X)
    painted = overlay(X, MASK, COLORS, alpha=1)
    assert (painted[0, 0, :3] == COLORS / 255).all()
    bytes_ = (255 * X).astype(np.uint8)
    from_floats = overlay(bytes_ / 255, MASK, COLORS / 255)
    close(overlay(bytes_, MASK, COLORS), from_floats, 1e-7, 0)


@pytest.mark.slow
def test_a_row_an_image_and_a_column_each_mask():
    columns = {"truth": MASK, "net": MASK[:, ::-1]}
    figure = viz.masks(X, columns, ["a", "b", "c"], COLORS, titles=["one", "two"])
    cells = np.array(figure.axes).reshape(2, 3)
    assert titles(cells[0]) == ["image", "truth", "net"]
    assert [axes.get_ylabel() for axes in cells[:, 0]] == ["one", "two"]
    for i in range(2):
        truth = overlay(X[i], MASK[i], COLORS)
        net = overlay(X[i], MASK[i, ::-1], COLORS)
        pictures = [axes.images[0].get_array() for axes in cells[i]]
        np.testing.assert_allclose(pictures, [X[i], truth, net])
    (legend,) = figure.legends
    assert words(legend.get_texts()) == ["a", "b", "c"]
    drawn = [to_rgb(patch.get_facecolor()) for patch in legend.get_patches()]
    np.testing.assert_allclose(drawn, COLORS / 255)


@pytest.mark.fast_cases("1")
@pytest.mark.parametrize("columns", [1, 3])
def test_the_legend_lies_inside(columns):
    labels = {f"net {i}": MASK for i in range(columns)}
    figure = viz.masks(X, labels, ["bicyclist"] * 11, np.full((11, 3), 0.5))
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


test_errors = refuses([
    (lambda: overlay(X, MASK[0], COLORS), r"got \(2, 3, 4, 3\) and \(3, 4\)"),
    (lambda: overlay(X, MASK, COLORS, alpha=2), r"alpha must be in \[0, 1\], got 2"),
    (lambda: viz.masks(X[0], {}, ["a"], COLORS[:1]), r"For a single example, pass x\[None\]"),
    (lambda: viz.masks(X, {}, ["a"], COLORS), r"with names = 1, got \(3, 3\)"),
    (lambda: viz.masks(X, {}, list("abc"), COLORS, titles=["a"]), "expected 2 titles"),
])  # fmt: skip
