import matplotlib.colors
import numpy as np
import pytest

from jaxnet.viz import words
from tests.helpers import refused

ROWS = ["a ? with its tongue out".split(), "a ? for $5".split()]
VALUES = np.array([[0.1, 0.2, 0.0, 4.0, 1.2, -2.0], [0, 0, 0, -1, 9, np.nan]])


def drawn(figure):
    axes = figure.axes[0]
    colors = [matplotlib.colors.to_rgb(patch.get_facecolor()) for patch in axes.patches]
    return [text.get_text().replace("\\", "") for text in axes.texts], colors


def test_words_and_colors():
    found, colors = drawn(words(ROWS, VALUES, ["dog", "price"]))
    assert found == ["dog", *ROWS[0], "price", *ROWS[1]]
    red, _, blue = np.transpose(colors)
    value = [*VALUES[0] / 4, *VALUES[1, :4]]  # each text by its largest; 9 is padding
    np.testing.assert_array_equal(np.sign((red - blue).round(2)), np.sign(value))
    its, out = 3, 5
    assert red[its] - blue[its] > blue[out] - red[out]  # 4 and -2 of one scale


def test_values_of_zeros_are_white():
    _, colors = drawn(words(ROWS[:1], np.zeros((1, 6))))
    assert np.min(colors) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 12, 1])
def test_words_do_not_touch_each_other_or_the_edge(columns):
    figure = words(ROWS, VALUES, ["dog", "price"], columns=columns)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    for i, box in enumerate(boxes):
        assert figure.bbox.contains(box.x0, box.y0) and figure.bbox.contains(box.x1, box.y1)
        assert not any(box.overlaps(other) for other in boxes[:i])


@refused([
    (["a b"], [[1, 2]], None, r"a text of 3 and .* write text.split\(\)"),
    ([["a", 3]], [[1, 2]], None, TypeError, "rows must be str, got int"),
    ([["a", "b"]], [[1]], None, "a value for each word, got a text of 2 and values of shape .1, 1"),
    ([["a"]], [[1], [2]], None, r"values must have shape \(texts, positions\) with texts = 1"),
    ([["a"]], [[1]], ["b", "c"], "expected 1 titles, got 2"),
    ([[]], np.zeros((1, 0)), None, "at least one text with a word"),
])  # fmt: skip
def test_messages(rows, values, titles):
    words(rows, values, titles)
