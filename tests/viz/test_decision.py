import itertools

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.contour import ContourSet

from jaxnet import viz
from jaxnet.viz.style import COLORS
from tests.helpers import refused
from tests.viz.words import titles, words

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float)
Y = np.array([0, 1, 1, 0])


def right_of(border):
    return lambda x: x[:, 0] > border


def ground(axes, x, y):
    """The class whose ground is drawn at a place."""
    mesh = axes.collections[0]
    coordinates = mesh.get_coordinates()
    columns = coordinates[0, :, 0]
    rows = coordinates[:, 0, 1]
    field = np.asarray(mesh.get_array()).reshape(len(rows) - 1, len(columns) - 1)
    row = np.searchsorted(rows, y) - 1
    column = np.searchsorted(columns, x) - 1
    return field[row, column]


def test_ground_is_what_predict_says_and_axes_are_not_swapped():
    axes = viz.decision(right_of(0.4), X, Y).axes[0]
    for x, y in [(-0.1, 1.1), (0.35, 0.0), (0.35, 1.0)]:
        assert ground(axes, x, y) == 0
    for x, y in [(0.45, 0.0), (0.45, 1.0), (1.1, -0.1)]:
        assert ground(axes, x, y) == 1


def test_the_border_is_a_line_where_classes_meet():
    axes = viz.decision(right_of(0.4), X, Y, resolution=100).axes[0]
    (border,) = [c for c in axes.collections if isinstance(c, ContourSet)]
    (line,) = [path.vertices for path in border.get_paths()]
    assert np.abs(line[:, 0] - 0.4).max() < 0.02
    assert np.ptp(line[:, 1]) == pytest.approx(1.3)  # from below to above


def test_every_example_is_drawn_in_its_color_and_wrong_ones_have_a_rim():
    axes = viz.decision(right_of(0.4), X, Y).axes[0]  # (0, 1) and (1, 1) are wrong
    seen = {}
    for dots in axes.collections:
        if isinstance(dots, PathCollection):
            for point in np.asarray(dots.get_offsets()):
                face = to_hex(dots.get_facecolor()[0])
                edge = to_hex(dots.get_edgecolor()[0])
                seen[tuple(point)] = face.upper(), edge
    a, b = COLORS[:2]
    right, wrong = "#ffffff", "#000000"
    assert seen == {
        (0, 0): (a, right),
        (1, 0): (b, right),
        (0, 1): (b, wrong),
        (1, 1): (a, wrong),
    }
    assert axes.get_title() == "2 of 4 wrong"


def test_panels_share_data_and_axes():
    panels = {"left": right_of(-9), "middle": right_of(0.4), "right": right_of(9)}
    figure = viz.decision(panels, X, Y, columns=2)
    assert titles(figure.axes) == [f"{t}: 2 of 4 wrong" for t in panels]
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    assert [ground(axes, 0.5, 0.5) for axes in figure.axes] == [1, 1, 0]


def test_three_classes_and_names():
    x = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])  # all at one height

    def nearest(x):
        return x[:, 0].round().clip(0, 2)

    figure = viz.decision(nearest, x, [0, 1, 2], names=list("abc"))
    assert words(figure.legends[0].get_texts()) == list("abc")
    assert [ground(figure.axes[0], i, 0.1) for i in (0, 1, 2)] == [0, 1, 2]
    assert figure.axes[0].get_ylim() == (-0.15, 0.15)


def test_ground_is_pale_and_of_the_markers_hue():
    mesh = viz.decision(right_of(0.4), X, Y).axes[0].collections[0]
    for i in (0, 1):
        pale = np.array(mesh.cmap(mesh.norm(i))[:3])
        full = np.array(to_rgb(COLORS[i]))
        assert pale.min() > 0.7
        np.testing.assert_allclose(1 - pale, 0.25 * (1 - full), atol=1e-6)


@pytest.mark.slow
def test_everything_lies_inside_and_the_file_is_small(tmp_path):
    panels = {f"after {i} mistakes": right_of(i / 5) for i in range(6)}
    figure = viz.decision(panels, X, Y, names=["no", "yes"], columns=3)
    figure.draw_without_rendering()
    box, whole = figure.get_tightbbox(), figure.bbox_inches
    assert box.x0 >= -0.02
    assert box.y0 >= -0.02
    assert box.x1 <= whole.x1 + 0.02
    assert box.y1 <= whole.y1 + 0.02
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b)
    assert viz.save(figure, tmp_path / "a.png").stat().st_size < 120_000


@refused([
    ((right_of(0), np.ones((3, 4)), [0, 1, 0]), {}, r"expected x .*got \(3, 4\) and \(3,\)"),
    ((right_of(0), np.ones((0, 2)), []), {}, "at least one example"),
    ((right_of(0), X, [0, 1]), {}, r"got \(4, 2\) and \(2,\)"),
    ((lambda x: x, X, Y), {}, r"must return classes .*scores.argmax\(-1\)"),
    ((lambda x: x[:, 0], X, Y), {}, "values such as .*return probabilities > 0.5"),
    ((right_of(0), X, 3 * Y - 1), {}, r"classes must be in \[0, 7\), got -1 to 2"),
    ((right_of(0), X, 8 * Y), {}, r"must be in \[0, 7\), got 0 to 8"),
    ((right_of(0), X, Y), {"names": ["a"]}, "expected 2 names, one per class, got 1"),
])  # fmt: skip
def test_messages(arguments, options):
    viz.decision(*arguments, **options)
