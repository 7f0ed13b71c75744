import numpy as np

from jaxnet import viz
from tests.helpers import refused
from tests.viz.words import words

POSTERIOR = np.array([[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0, 0.5, 0.5], [0.25, 0.25, 0.5]])


def test_the_heat_map_has_the_shares_and_the_line_the_path():
    figure = viz.posteriors(POSTERIOR, [0, 1, 1, -1], names=["a", "b", "c"], steps="xy z")
    axes = figure.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), POSTERIOR.T)
    assert axes.images[0].origin == "lower"  # state 0 is below, where the line has it
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), range(4))
    np.testing.assert_array_equal(line.get_ydata(), [0, 1, 1, np.nan])
    assert words(axes.get_yticklabels()) == ["a", "b", "c"]
    assert words(axes.get_xticklabels()) == ["x", "y", " ", "z"]


def test_without_a_path():
    axes = viz.posteriors(POSTERIOR).axes[0]
    assert not axes.lines
    assert axes.get_xlabel() == "time"
    assert words(axes.get_yticklabels()) == ["0", "1", "2"]


@refused([
    (POSTERIOR[0], {}, r"\(time, states\), got \(3,\)"),
    (np.log(POSTERIOR + 0.1), {}, r"must be in \[0, 1\], got -2.3026 to"),
    (POSTERIOR, {"path": [0, 1]}, r"with time = 4, got \(2,\)"),
    (POSTERIOR, {"path": [0, 1, 2, 3]}, r"path must be in \[-1, 3\), got 0 to 3"),
    (POSTERIOR, {"names": ["a"]}, "3 names, one per state, got 1"),
    (POSTERIOR, {"steps": "abc"}, "4 steps, one per step, got 3"),
])  # fmt: skip
def test_refusals(posterior, options):
    viz.posteriors(posterior, **options)
