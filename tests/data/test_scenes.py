"""Scenes of digits: masks and boxes say what is there."""

from unittest.mock import Mock

import jax
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.data.scenes import LEAST, MOST, enlarge


@pytest.fixture(scope="module")
def scenes():
    return jn.data.digit_scenes(60, 30, classes=4, max_digits=3, size=(40, 56), seed=3)


def test_ranges(scenes):
    for part, n in zip(scenes, (60, 30), strict=True):
        assert part.images.shape == (n, 40, 56, 3)
        assert part.images.dtype == np.float32
        assert part.masks.shape == (n, 40, 56)
        assert set(np.unique(part.masks)) == {0, 1, 2, 3, 4, 5}
        assert 0 <= part.images.min() < 0.1
        assert 0.95 < part.images.max() <= 1
        digits_in_each = (part.boxes["classes"] >= 0).sum(1)
        assert set(digits_in_each) == {1, 2, 3}


def test_digits_have_all_sizes_between_the_smallest_and_the_largest(monkeypatch):
    spy = Mock(side_effect=enlarge)
    monkeypatch.setattr("jaxnet.data.scenes.enlarge", spy)
    jn.data.digit_scenes(200, 1, size=(40, 56))
    sides = {call.args[1] for call in spy.call_args_list}
    assert sides == set(range(LEAST, MOST + 1))


def test_a_box_is_the_least_around_the_pixels_of_its_digit(scenes):
    for mask, boxes, classes in zip(scenes[0].masks, *scenes[0].boxes.values(), strict=True):
        covered = np.zeros(mask.shape, bool)
        for (top, left, bottom, right), c in zip(boxes * [40, 56, 40, 56], classes, strict=True):
            if c < 0:
                continue
            ends = np.round([top, left, bottom, right]).astype(int)
            assert np.allclose(ends, [top, left, bottom, right], atol=1e-4)
            inside = mask[ends[0] : ends[2], ends[1] : ends[3]] == c
            # ink on all four sides; what else is of this class lies in another box
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert edge.any()
            covered[ends[0] : ends[2], ends[1] : ends[3]] = True
        assert covered[mask < 4].all()


def test_ink_is_dark_and_paper_bright(scenes):
    for image, mask in zip(scenes[0].images, scenes[0].masks, strict=True):
        digits, paper, void = image[mask < 4], image[mask == 4], image[mask == 5]
        assert paper.mean() > void.mean() > digits.mean()


@pytest.mark.slow
def test_parts_share_no_digit():
    """Zeros alone: each of a part is found among its drawings, and none among the other's."""
    (x, y), (x_test, y_test) = jn.data.digits()
    train, test = jn.data.digit_scenes(12, 12, classes=1, max_digits=1)
    zeros, test_zeros = x[y == 0], x_test[y_test == 0]
    for part, own, other in ((train, zeros, test_zeros), (test, test_zeros, zeros)):
        for mask, (box,) in zip(part.masks, part.boxes["boxes"], strict=True):
            top, left, bottom, right = np.round(box * [48, 64, 48, 64]).astype(int)
            shape = mask[top:bottom, left:right] == 0
            assert _exact(own, shape)
            assert not _exact(other, shape)


def _exact(drawings, shape) -> bool:
    """Whether some drawing, enlarged to some side, has this shape."""
    for side in range(14, 25):
        for drawing in drawings[..., 0]:
            ink = enlarge(drawing, side) > 0.5
            rows = np.flatnonzero(ink.any(1))
            columns = np.flatnonzero(ink.any(0))
            cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            if np.array_equal(cut, shape):
                return True
    return False


@pytest.mark.slow
def test_enlarged_as_jax_does():
    image = np.random.default_rng(0).random((8, 8))
    for side in (14, 19, 24):
        expected = jax.image.resize(image, (side, side), "linear")
        expected = expected / expected.max()
        assert np.allclose(enlarge(image, side), expected, atol=1e-6)


def test_drawn_by_its_seed():

    def drawn(seed):
        train, _ = jn.data.digit_scenes(3, 2, seed=seed)
        return train.images

    assert (drawn(5) == drawn(5)).all()
    assert (drawn(5) != drawn(6)).any()


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"classes": 11}, ValueError, "classes must be 1 to 10, got 11"),
    ({"max_digits": 101}, ValueError, "max_digits must be 1 to 100, got 101"),
    ({"size": (23, 64)}, ValueError, "height must be at least 24, got 23"),
    ({"size": 64}, TypeError, r"size must be \(height, width\), got 64"),
], ids=str)  # fmt: skip
def test_says_what_it_needs(options, error, words):
    with pytest.raises(error, match=f"digit_scenes: {words}"):
        jn.data.digit_scenes(**options)
