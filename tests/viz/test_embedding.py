import numpy as np

from jaxnet import viz
from tests.helpers import draw, refused
from tests.viz.words import titles, words

POINTS = draw(30, 2)
LABELS = np.arange(30) % 3


def test_points_lie_where_they_are_and_have_their_class_color():
    figure = viz.embedding({"one": POINTS, "two": -POINTS}, LABELS)
    assert titles(figure.axes) == ["one", "two"]
    for axes, points in zip(figure.axes, (POINTS, -POINTS), strict=True):
        (scatter,) = axes.collections
        np.testing.assert_array_equal(scatter.get_offsets(), points)
        colors = scatter.get_facecolors()
        assert len(np.unique(colors, axis=0)) == 3
        for label in range(3):
            assert (colors[LABELS == label] == colors[label]).all()


def test_names_stand_at_the_medians_in_their_color():
    (axes,) = viz.embedding({"one": POINTS}, LABELS, names=["cat", "dog", "eel"]).axes
    assert words(axes.texts) == ["cat", "dog", "eel"]
    face_colors = axes.collections[0].get_facecolors()
    for label, text in enumerate(axes.texts):
        median = np.median(POINTS[LABELS == label], 0)
        np.testing.assert_allclose(text.get_position(), median)
        assert text.get_color()[:3] == tuple(face_colors[label][:3])


def test_two_classes_that_are_not_0_and_1():
    labels = np.where(LABELS == 0, 4, 17)
    (axes,) = viz.embedding({"one": POINTS}, labels).axes
    assert words(axes.texts) == ["4", "17"]


@refused([
    ({}, LABELS, None, "at least one panel"),
    ({"a": POINTS[:9]}, LABELS, None, r"panels\['a'\] must have .* examples = 30, got \(9, 2\)"),
    ({"a": POINTS}, LABELS - 1, None, "classes 0, 1"),
    ({"a": POINTS}, LABELS, ["x", "y"], "class 2 has no name, got 2 names"),
])  # fmt: skip
def test_wrong_shapes(panels, labels, names):
    viz.embedding(panels, labels, names)
