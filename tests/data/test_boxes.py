"""Boxes of any number per image as padded arrays; values by hand."""

import numpy as np
import pytest

from jaxnet.data import pad_boxes


def test_lists_become_arrays_with_padding_at_the_end():
    boxes = [[[0, 0, 1, 0.5], [0.25, 0.5, 0.5, 1]], [], np.array([[0.5, 0, 1, 0.125]])]
    targets = pad_boxes(boxes, [[2, 0], [], np.array([1.0])])  # np.loadtxt has floats only
    assert targets["boxes"].dtype == np.float32
    assert targets["classes"].dtype == np.int32
    wanted = [
        boxes[0],
        [[0] * 4, [0] * 4],
        [[0.5, 0, 1, 0.125], [0] * 4],
    ]
    assert targets["boxes"].tolist() == wanted
    assert targets["classes"].tolist() == [[2, 0], [-1, -1], [1, -1]]
    wider = pad_boxes(boxes, [[2, 0], [], [1]], max_boxes=7)
    assert wider["boxes"].shape == (3, 7, 4)
    assert wider["classes"].shape == (3, 7)
    np.testing.assert_array_equal(wider["boxes"][:, :2], targets["boxes"])


def test_boxes_without_height_or_width_are_left_out():
    boxes = [
        np.array([[0, 0, 0, 0], [0.1, 0.2, 0.3, 0.5], [0.1, 0.2, 0.1, 0.5], [0.1, 0.2, 0.4, 0.2]]),
        np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.5]]),
        np.zeros((0, 4)),
    ]
    classes = [np.array([0, 2, 1, 1]), np.array([1, 0]), np.array([])]
    targets = pad_boxes(boxes, classes)
    assert targets["classes"].tolist() == [[2, -1], [1, 0], [-1, -1]]
    np.testing.assert_allclose(targets["boxes"][0], [[0.1, 0.2, 0.3, 0.5], [0, 0, 0, 0]])
    assert not targets["boxes"][2].any()


def test_there_is_a_row_where_no_image_has_a_box():
    targets = pad_boxes([[], np.array([])], [[], []])
    assert targets["boxes"].shape == (2, 1, 4)
    assert targets["classes"].tolist() == [[-1], [-1]]


def test_a_rounding_error_may_reach_out_of_the_image():
    for box in ([-1e-7, 0, 1 + 1e-7, 1], [-9e-4, 0, 1.0009, 1]):
        assert pad_boxes([[box]], [[0]])["classes"].tolist() == [[0]]


@pytest.mark.parametrize("box", [[-0.0011, 0, 1, 1], [0, 0, 1, 1.0011]], ids=str)
def test_no_more_than_a_rounding_error(box):
    with pytest.raises(ValueError, match="must be fractions"):
        pad_boxes([[box]], [[0]])


BOX = [0.1, 0.2, 0.3, 0.5]


@pytest.mark.parametrize(("boxes", "classes", "options", "words"), [
    ([[BOX]], [[0], [1]], {}, "one entry per image, got 1 and 2"),
    ([[BOX], [BOX, BOX]], [[0], [1]], {}, r"classes\[1\] .*n = 2, got \(1,\)"),
    ([BOX], [[0]], {}, r"boxes\[0\] must have shape \(n, 4\), got \(4,\)"),
    ([[[10, 20, 30, 50]]], [[0]], {}, r"boxes\[0\] must be fractions .*, got 10. Divide"),
    ([[BOX], [[0.1, 0.2, 0.3, np.nan]]], [[0], [0]], {}, r"boxes\[1\] .*fractions.*got nan"),
    ([[BOX, [0.5, 0.5, 0.2, 0.1]]], [[0, 1]], {}, r"got \[0.5, 0.5, 0.2, 0.1\], which ends"),
    ([[BOX]], [[1.5]], {}, r"classes\[0\] must be whole numbers from 0, got \[1.5"),
    ([[BOX, BOX]], [[0, 1]], {"max_boxes": 1}, "an image has 2 boxes, more than max_boxes=1"),
])  # fmt: skip
def test_what_would_train_on_wrong_boxes_raises(boxes, classes, options, words):
    with pytest.raises(ValueError, match=f"pad_boxes: .*{words}"):
        pad_boxes(boxes, classes, **options)
