import itertools

import numpy as np
import pytest

from jaxnet.viz import attention
from tests.helpers import refused
from tests.viz.words import words

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
