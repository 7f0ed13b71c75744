"""The attention matrix with its words."""

import numpy as np
import pytest

from jaxnet.viz import attention
from tests.helpers import refused

SOURCE = "ein Mann mit einem orangefarbenen Hut starrt etwas an .".split()
TARGET = "a man in an orange hat starring at something .".split()


def test_rows_are_what_was_written():
    weights = np.random.default_rng(0).dirichlet(np.ones(10), size=10)
    figure = attention(weights, SOURCE, TARGET, title="a sentence")
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == SOURCE
    assert [t.get_text() for t in axes.get_yticklabels()] == TARGET
    np.testing.assert_array_equal(axes.images[0].get_array(), weights)
    assert axes.images[0].get_clim() == (0, 1) and figure.get_suptitle() == "a sentence"


@pytest.mark.slow
def test_words_do_not_touch_each_other_or_the_edge():
    words = [f"word{i}" for i in range(30)]
    figure = attention(np.eye(30), words, words)
    figure.canvas.draw()
    axes = figure.axes[0]
    for labels, side in ((axes.get_xticklabels(), "x"), (axes.get_yticklabels(), "y")):
        boxes = [label.get_window_extent() for label in labels]
        low = sorted((getattr(b, f"{side}0"), getattr(b, f"{side}1")) for b in boxes)
        assert all(a[1] <= b[0] for a, b in zip(low, low[1:], strict=False))
        assert all(figure.bbox.contains(b.x0, b.y0) for b in boxes)
        assert all(figure.bbox.contains(b.x1, b.y1) for b in boxes)


@refused([
    (np.ones((10, 9)), r"words\) with source words = 10, got \(10, 9\)"),
    (np.full((10, 10), 1.5), r"in \[0, 1\], got 1.5 to 1.5"),
    (np.ones((0, 10)), "sizes of at least 1"),
    (np.full((10, 10), np.nan), r"in \[0, 1\]"),
])  # fmt: skip
def test_messages(weights):
    attention(weights, SOURCE, TARGET[: len(weights)])
