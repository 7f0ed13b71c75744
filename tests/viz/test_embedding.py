import numpy as np

from jaxnet import viz
from tests.helpers import refused

POINTS = np.random.default_rng(0).normal(size=(30, 2))
LABELS = np.arange(30) % 3


def test_points_lie_where_they_are_and_have_their_class_color():
    figure = viz.embedding({"one": POINTS, "two": -POINTS}, LABELS)
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]
    for axes, points in zip(figure.axes, (POINTS, -POINTS), strict=True):
        (scatter,) = axes.collections
        np.testing.assert_array_equal(scatter.get_offsets(), points)
        colors = scatter.get_facecolors()
        assert len(np.unique(colors, axis=0)) == 3
        for label in range(3):
            assert (colors[LABELS == label] == colors[label]).all()


def test_names_stand_at_the_medians_in_their_color():
    (axes,) = viz.embedding({"one": POINTS}, LABELS, names=["cat", "dog", "eel"]).axes
    assert [text.get_text() for text in axes.texts] == ["cat", "dog", "eel"]
    for label, text in enumerate(axes.texts):
        np.testing.assert_allclose(text.get_position(), np.median(POINTS[LABELS == label], 0))
        assert text.get_color()[:3] == tuple(axes.collections[0].get_facecolors()[label][:3])


def test_two_classes_that_are_not_0_and_1():
    (axes,) = viz.embedding({"one": POINTS}, np.where(LABELS == 0, 4, 17)).axes
    assert [text.get_text() for text in axes.texts] == ["4", "17"]


@refused([
    ({}, LABELS, None, "at least one panel"),
    ({"a": POINTS[:9]}, LABELS, None, r"panels\['a'\] must have .* examples = 30, got \(9, 2\)"),
    ({"a": POINTS}, LABELS - 1, None, "classes 0, 1"),
    ({"a": POINTS}, LABELS, ["x", "y"], "class 2 has no name, got 2 names"),
])  # fmt: skip
def test_wrong_shapes(panels, labels, names):
    viz.embedding(panels, labels, names)
