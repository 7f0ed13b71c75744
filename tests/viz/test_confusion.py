import numpy as np
import pytest

from jaxnet import viz
from tests.helpers import refused
from tests.viz.words import words


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
def test_refusals(matrix, names):
    viz.confusion(matrix, names=names)
