import matplotlib.colors
import numpy as np

from jaxnet import viz
from jaxnet.models.yolo import Detections
from jaxnet.viz.style import COLORS
from tests.helpers import refused
from tests.viz.words import words

X = np.linspace(0, 1, 2 * 30 * 40 * 3).reshape(2, 30, 40, 3)
FOUND = {
    "boxes": np.array([[[0.1, 0.2, 0.5, 0.6], [0, 0, 0, 0]], [[0.5, 0.5, 1, 1], [0, 0, 0.2, 0.3]]]),
    "classes": np.array([[1, 0], [2, -1]]),
    "scores": np.array([[0.875, 0.7], [0.25, 0.6]]),
}
TRUTH = {
    "boxes": np.array([[[0.2, 0.2, 0.5, 0.7]], [[0] * 4]]),
    "classes": np.array([[0], [-1]]),
}


def drawn(axes):
    """(left, top, width, height), color and whether dashed, of each box."""
    found = []
    for patch in axes.patches:
        place = patch.get_xy() + (patch.get_width(), patch.get_height())
        color = matplotlib.colors.to_hex(patch.get_edgecolor())
        found.append((place, color, patch.get_linestyle() == "--"))
    return found


def test_boxes_lie_where_they_should():
    left, right = viz.boxes(X, FOUND, TRUTH, names=["a", "b", "c"], columns=2).axes
    (found, color, dashed), (true, true_color, true_dashed) = drawn(left)  # no padding
    np.testing.assert_allclose(found, (0.2, 0.1, 0.4, 0.4))
    np.testing.assert_allclose(true, (0.2, 0.2, 0.5, 0.3))
    assert color == COLORS[1].lower()
    assert true_color == COLORS[0].lower()
    assert not dashed
    assert true_dashed
    ((_, color, _),) = drawn(right)  # none of class -1
    assert color == COLORS[2].lower()
    # Shares of the image are places on the axes, downwards.
    assert left.images[0].get_extent() == [0, 1, 1, 0]
    np.testing.assert_allclose(left.images[0].get_array(), X[0])


def test_scores_and_legend():
    figure = viz.boxes(X, FOUND, TRUTH, names=["a", "b", "c"])
    assert [words(axes.texts) for axes in figure.axes] == [["0.88"], ["0.25"]]
    legend = figure.legends[0].get_texts()
    assert words(legend) == ["a", "b", "c", "found", "true"]
    without_scores = {name: part for name, part in FOUND.items() if name != "scores"}
    plain = viz.boxes(X, without_scores)
    assert not any(axes.texts for axes in plain.axes)
    assert words(plain.legends[0].get_texts()) == ["0", "1", "2", "found"]


def test_detections_as_they_are_found():
    from_tuple = viz.boxes(X, Detections(**FOUND))
    from_dict = viz.boxes(X, FOUND)
    for found, wanted in zip(from_tuple.axes, from_dict.axes, strict=True):
        assert drawn(found) == drawn(wanted)


def test_any_number_of_classes_has_colors():
    """As many classes as MS COCO has."""
    count = 80
    boxes = np.tile([0.1, 0.2, 0.5, 0.6], (1, count, 1))
    classes = np.arange(count)[None]
    figure = viz.boxes(X[:1], {"boxes": boxes, "classes": classes})
    colors = [color for _, color, _ in drawn(figure.axes[0])]
    assert len(set(colors)) == count
    assert colors[:7] == [color.lower() for color in COLORS]
    few = {"boxes": boxes[:, :2], "classes": np.array([[3, 70]])}
    names = [f"class {i}" for i in range(count)]
    legend = viz.boxes(X[:1], few, names=names).legends[0]
    assert words(legend.get_texts()) == ["class 3", "class 70", "found"]


def test_the_legend_is_no_wider_than_the_figure():
    boxes = np.tile([0.1, 0.2, 0.5, 0.6], (1, 20, 1))
    names = [f"a long name {i}" for i in range(20)]
    found = {"boxes": boxes, "classes": np.arange(20)[None]}
    figure = viz.boxes(X[:1], found, names=names)
    figure.canvas.draw()
    assert figure.legends[0].get_window_extent().width < figure.bbox.width


@refused([
    (X[0], FOUND, {}, r"boxes: x must have shape \(images, height, width"),
    (X[:1], FOUND, {}, r"found boxes must have .* with images = 1, got \(2, 2, 4\)"),
    (X, FOUND | {"scores": np.zeros((2, 3))}, {}, r"scores must have .* \(images, n\) with n = 2"),
    (X, FOUND, {"names": ["a", "b"]}, "class 2 has no name; names: a, b"),
])  # fmt: skip
def test_refusals(x, found, options):
    viz.boxes(x, found, **options)


def test_images_without_boxes_or_color():
    assert not viz.boxes(np.zeros((1, 8, 8, 3))).legends
    first_truth = {name: part[:1] for name, part in TRUTH.items()}
    in_gray = X[:1, ..., :1]
    assert viz.boxes(in_gray, truth=first_truth).legends
