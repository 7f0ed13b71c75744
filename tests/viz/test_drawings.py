"""Drawings: what they say is right, and nothing lies outside the picture."""

import itertools

import numpy as np
import pytest

import jaxnet as jn
from jaxnet import viz
from tests.helpers import refuses
from tests.viz.words import words

IMAGE = np.array([[1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]])
DRAWINGS = {
    "sliding_window": lambda: viz.sliding_window(IMAGE, [[1, 2], [0, 3]], at=(1, 2)),
    "unrolled": lambda: viz.unrolled(3),
    "lstm_cell": viz.lstm_cell,
    "attention_steps": lambda: viz.attention_steps("a", ["b", "c"], [0.25, 0.75]),
}


@pytest.mark.parametrize("make", DRAWINGS.values(), ids=DRAWINGS)
def test_all_words_are_inside_the_picture_and_apart(make):
    figure = make()
    figure.canvas.draw()
    whole = figure.bbox
    boxes = []
    for axes in figure.axes:
        for text in (*axes.texts, axes.title):
            if text.get_text():
                boxes.append(text.get_window_extent())
    assert len(boxes) > 5
    for box in boxes:
        assert whole.x0 <= box.x0
        assert box.x1 <= whole.x1
        assert whole.y0 <= box.y0
        assert box.y1 <= whole.y1
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b)


def test_the_map_is_that_of_a_convolution():
    figure = DRAWINGS["sliding_window"]()
    kernel = np.array([[1, 2], [0, 3]], np.float32)
    params = {"kernel": kernel[..., None, None]}
    layer = jn.conv(1, (2, 2), padding="VALID", use_bias=False)
    x = IMAGE[None, ..., None].astype(np.float32)
    y, _ = layer.apply(params, {}, x)
    assert words(figure.axes[2].texts) == [str(int(v)) for v in np.ravel(y)]
    assert figure.get_supxlabel() == "1·1 + 1·2 + 1·3 = 6"


def test_labels_of_the_steps():
    figure = viz.unrolled(2, inputs=["h", "e"], outputs=["e", "l"])
    shown = []
    for axes in figure.axes:
        shown += words(axes.texts)
    assert shown.count("cell") == 3
    assert shown.count("e") == 2
    assert "$h_{1}$" in shown


test_messages = refuses([
    (lambda: viz.sliding_window(IMAGE, np.ones((4, 1))), "must fit into the image"),
    (lambda: viz.sliding_window(IMAGE, np.eye(2), at=(2, 0)), "row must be 0 to 1"),
    (lambda: viz.sliding_window(np.ones(3), np.ones((2, 2))), "image must have shape"),
    (lambda: viz.sliding_window(IMAGE, np.eye(2), at=(1,)), TypeError, r"\(row, column\), g"),
    (lambda: viz.unrolled(1), "steps must be at least 2"),
    (lambda: viz.unrolled(2, inputs=["a"]), "expected 2 inputs, one per step, got 1"),
    (lambda: viz.attention_steps("a", ["b"], [1.5]), r"weights must be in \[0, 1\]"),
])  # fmt: skip
