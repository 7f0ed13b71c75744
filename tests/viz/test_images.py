import itertools

import numpy as np
import pytest

from jaxnet import viz
from jaxnet.viz import attention
from tests.helpers import refused, shown
from tests.viz.words import titles, words


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


POSTERIOR = np.array(
    [[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0, 0.5, 0.5], [0.25, 0.25, 0.5]],
)


def test_the_heat_map_has_the_shares_and_the_line_the_path():
    figure = viz.posteriors(POSTERIOR, [0, 1, 1, -1], names=["a", "b", "c"], steps="xy z")
    axes = figure.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), POSTERIOR.T)
    assert axes.images[0].origin == "lower"  # state 0 is below, where the line has it
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), range(4))
    np.testing.assert_array_equal(line.get_ydata(), [0, 1, 1, np.nan])
    assert words(axes.get_yticklabels()) == ["a", "b", "c"]
    assert words(axes.get_xticklabels()) == ["x", "y", " ", "z"]


def test_without_a_path():
    axes = viz.posteriors(POSTERIOR).axes[0]
    assert not axes.lines
    assert axes.get_xlabel() == "time"
    assert words(axes.get_yticklabels()) == ["0", "1", "2"]


@refused([
    (POSTERIOR[0], {}, r"\(time, states\), got \(3,\)"),
    (np.log(POSTERIOR + 0.1), {}, r"must be in \[0, 1\], got -2.3026 to"),
    (POSTERIOR, {"path": [0, 1]}, r"with time = 4, got \(2,\)"),
    (POSTERIOR, {"path": [0, 1, 2, 3]}, r"path must be in \[-1, 3\), got 0 to 3"),
    (POSTERIOR, {"names": ["a"]}, "3 names, one per state, got 1"),
    (POSTERIOR, {"steps": "abc"}, "4 steps, one per step, got 3"),
])  # fmt: skip
def test_what_does_not_fit(posterior, options):
    viz.posteriors(posterior, **options)


SOURCE = "ein Mann mit einem orangefarbenen Hut starrt etwas an .".split()
TARGET = "a man in an orange hat starring at something .".split()


def test_rows_are_what_was_written():
    weights = np.random.default_rng(0).dirichlet(np.ones(10), size=10)
    figure = attention(weights, SOURCE, TARGET, title="a sentence")
    axes = figure.axes[0]
    assert words(axes.get_xticklabels()) == SOURCE
    assert words(axes.get_yticklabels()) == TARGET
    np.testing.assert_array_equal(axes.images[0].get_array(), weights)
    assert axes.images[0].get_clim() == (0, 1)
    assert figure.get_suptitle() == "a sentence"


@pytest.mark.slow
def test_words_do_not_touch_each_other_or_the_edge():
    words = [f"word{i}" for i in range(30)]
    figure = attention(np.eye(30), words, words)
    figure.canvas.draw()
    axes = figure.axes[0]
    for labels, side in ((axes.get_xticklabels(), "x"), (axes.get_yticklabels(), "y")):
        boxes = [label.get_window_extent() for label in labels]
        spans = sorted((getattr(box, f"{side}0"), getattr(box, f"{side}1")) for box in boxes)
        for (_, end), (start, _) in itertools.pairwise(spans):
            assert end <= start
        for box in boxes:
            assert figure.bbox.contains(box.x0, box.y0)
            assert figure.bbox.contains(box.x1, box.y1)


@refused([
    (np.ones((10, 9)), r"words\) with source words = 10, got \(10, 9\)"),
    (np.full((10, 10), 1.5), r"in \[0, 1\], got 1.5 to 1.5"),
    (np.ones((0, 10)), "sizes of at least 1"),
    (np.full((10, 10), np.nan), r"in \[0, 1\]"),
])  # fmt: skip
def test_messages(weights):
    attention(weights, SOURCE, TARGET[: len(weights)])


def cells(figure):
    """(row, column) -> text, as drawn."""
    found = {}
    for text in figure.axes[0].texts:
        column, row = text.get_position()
        found[int(row), int(column)] = text.get_text()
    return found


def test_counts_stand_in_their_cells_and_zeros_are_empty():
    figure = viz.confusion([[5, 1, 0], [0, 7, 2], [0, 0, 0]])
    assert cells(figure) == {(0, 0): "5", (0, 1): "1", (1, 1): "7", (1, 2): "2"}
    axes = figure.axes[0]
    assert axes.get_xlabel() == "predicted class"
    assert axes.get_ylabel() == "true class"
    assert axes.get_title() == "12 of 15 correct (80.00%)"
    assert words(axes.get_xticklabels()) == ["0", "1", "2"]


def test_fractions_have_two_digits_and_no_total():
    figure = viz.confusion([[0.8, 0.2], [0, 0.25]])
    assert cells(figure) == {(0, 0): "0.80", (0, 1): "0.20", (1, 1): "0.25"}
    assert figure.axes[0].get_title() == "84.00% correct"
    assert figure.axes[0].images[0].get_array()[1, 1] == 1


def test_shade_is_the_share_of_the_row_and_names_stand_there():
    figure = viz.confusion([[90, 10], [0, 4]], names=["cat", "dog"])
    assert words(figure.axes[0].get_yticklabels()) == ["cat", "dog"]
    shade = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shade, [[0.9, 0.1], [0, 1]])


@pytest.mark.slow
def test_text_can_be_read_on_every_shade():
    """4.3 : 1 against the cell; WCAG 2.1 asks for 4.5 of text and for 3 of large text."""
    from matplotlib.colors import to_rgb

    def light(rgb):
        rgb = np.array(rgb)
        dark = rgb / 12.92
        bright = ((rgb + 0.055) / 1.055) ** 2.4
        linear = np.where(rgb <= 0.03928, dark, bright)
        return linear @ [0.2126, 0.7152, 0.0722]

    for errors in range(0, 101, 2):
        figure = viz.confusion([[100 - errors, errors], [0, 1]])
        image = figure.axes[0].images[0]
        for text in figure.axes[0].texts:
            column, row = map(int, text.get_position())
            value = image.get_array()[row, column]
            *cell, _ = image.cmap(image.norm(value))
            ground = light(cell)
            ink = light(to_rgb(text.get_color()))
            low, high = sorted([ground, ink])
            contrast = (high + 0.05) / (low + 0.05)
            assert contrast > 4.3, (errors, row, column, contrast)


@refused([
    (np.zeros((2, 3)), None, r"\(classes, classes\) with classes = 2, got \(2, 3\)"),
    (np.eye(3), ["a", "b"], "expected 3 names, one per class, got 2"),
    ([[1, -1], [0, 1]], None, r"counts must be in \[0, inf\), got -1"),
])  # fmt: skip
def test_refusals_of_confusion(matrix, names):
    viz.confusion(matrix, names=names)
