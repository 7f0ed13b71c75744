import numpy as np

from jaxnet import viz
from tests.helpers import draw, refused
from tests.viz.words import words

FEATURES = draw(20, 5)
ROWS = {"truth": [("two", 1, 6), ("nine", 8, 20)], "heard": [("two", 2, 7)]}
POSTERIOR = np.array(
    [[0.9, 0.05, 0.05], [0.2, 0.8, 0], [0.4, 0.6, 0], [0.95, 0.05, 0], [0.3, 0.7, 0]]
)


def test_features_lie_on_a_scale_of_seconds():
    axes = viz.spectrogram(FEATURES, hop=0.02).axes
    assert len(axes) == 1
    (image,) = axes[0].images
    np.testing.assert_array_equal(image.get_array(), FEATURES.T)
    assert image.origin == "lower"
    np.testing.assert_allclose(image.get_extent(), [0, 0.4, -0.5, 4.5])
    assert axes[0].get_xlim() == (0, 0.4)
    assert axes[0].get_xlabel() == "seconds"


def test_segments_lie_where_they_are():
    _, axes = viz.spectrogram(FEATURES, ROWS).axes
    assert words(axes.get_yticklabels()) == ["truth", "heard"]
    found = []
    for bar in axes.patches:
        middle = bar.get_y() + bar.get_height() / 2
        found.append((bar.get_x(), bar.get_width(), middle))
    np.testing.assert_allclose(
        found, [(0.01, 0.05, 0), (0.08, 0.12, 0), (0.02, 0.05, 1)], atol=1e-9
    )
    assert words(axes.texts) == ["two", "nine", "two"]
    assert axes.get_ylim() == (1.5, -0.5)  # the first row above


def test_spikes_are_named_where_a_class_wins():
    names = ["-", "a", "b"]
    figure = viz.spectrogram(FEATURES, ROWS, posterior=POSTERIOR, names=names, stride=4)
    axes = figure.axes[2]
    blank, a = axes.lines  # b is never probable
    np.testing.assert_array_equal(blank.get_ydata(), POSTERIOR[:, 0])
    np.testing.assert_array_equal(a.get_ydata(), POSTERIOR[:, 1])
    np.testing.assert_allclose(a.get_xdata(), [0.02, 0.06, 0.1, 0.14, 0.18])
    assert words(axes.texts) == ["a", "a"]
    places = [text.get_position()[0] for text in axes.texts]
    np.testing.assert_allclose(places, [0.06, 0.18])


def test_without_names_and_with_another_blank():
    reversed_ = POSTERIOR[:, ::-1]
    axes = viz.spectrogram(FEATURES, posterior=reversed_, blank=2, stride=4).axes[1]
    assert words(axes.texts) == ["1", "1"]


@refused([
    (FEATURES[0], None, {}, r"\(frames, bands\), got \(5,\)"),
    (FEATURES, {"row": [("x", 3, 21)]}, {}, "20 frames, got 'x' of row from 3 to 21"),
    (FEATURES, None, {"hop": 0}, r"hop must be in \(0, inf\), got 0"),
    (FEATURES, None, {"posterior": POSTERIOR[0]}, r"\(steps, classes\), got \(3,\)"),
    (FEATURES, None, {"posterior": np.log(POSTERIOR + 0.01)}, "softmax"),
    (FEATURES, None, {"posterior": POSTERIOR, "blank": 3}, "one of the 3 classes"),
    (FEATURES, None, {"posterior": POSTERIOR, "names": ["a"]}, "got blank 0 and 1 names"),
])  # fmt: skip
def test_what_does_not_fit(features, rows, options):
    viz.spectrogram(features, rows, **options)


def test_a_class_may_win_with_little():
    posterior = np.full((5, 30), 1 / 30)
    posterior[:, 3] += 0.01
    axes = viz.spectrogram(FEATURES, posterior=posterior, stride=4).axes[1]
    assert words(axes.texts) == ["3"]
