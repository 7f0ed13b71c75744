from types import SimpleNamespace

import numpy as np
import pytest

import jaxnet as jn
from jaxnet import viz
from tests.helpers import refused
from tests.training.conftest import started
from tests.viz.words import words


def fake(train, test):
    """Epochs as fit gives them, as far as history looks at them."""
    epochs = []
    for loss, test_loss in zip(train, test, strict=True):
        measured = {"loss": loss, "accuracy": 1 - loss}
        evaluation = None if test_loss is None else {"loss": test_loss}
        epochs.append(SimpleNamespace(train=measured, evaluation=evaluation))
    return epochs


def test_history_of_one_run():
    panels = viz.history(fake([0.5, 0.25], [0.75, 0.5]))
    assert list(panels) == ["loss", "accuracy"]
    np.testing.assert_array_equal(panels["loss"]["train"], [0.5, 0.25])
    np.testing.assert_array_equal(panels["loss"]["evaluation"], [0.75, 0.5])
    np.testing.assert_array_equal(panels["accuracy"]["train"], [0.5, 0.75])
    assert "evaluation" not in panels["accuracy"]


def test_history_of_several_runs_and_without_test_data():
    panels = viz.history(fake([1, 2, 3], [None] * 3), fake([4, 5, 6], [None] * 3))
    assert list(panels["loss"]) == ["train"]
    np.testing.assert_array_equal(panels["loss"]["train"], [[1, 2, 3], [4, 5, 6]])


@pytest.mark.slow
def test_history_of_a_real_run():
    data = np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])
    trainer, train_state = started(jn.dense(2), data)
    epochs = list(jn.fit(trainer, train_state, data, epochs=3, evaluate=data))
    panels = viz.history(epochs)
    assert panels["loss"]["train"].tolist() == [epoch.train["loss"] for epoch in epochs]
    assert panels["loss"]["evaluation"].shape == (3,)


@pytest.mark.parametrize("runs", [[], [[]], [fake([1], [1]), fake([1, 2], [1, 2])]])
def test_history_needs_runs_of_one_length(runs):
    with pytest.raises(ValueError, match="runs of equal lengths, at least one epoch each"):
        viz.history(*runs)


def test_lines_are_the_values_over_epochs_from_1():
    figure = viz.curves({"loss": {"train": [3, 2, 1], "evaluation": [4, 3, 2.5]}})
    lines = figure.axes[0].get_lines()
    assert [line.get_xdata().tolist() for line in lines] == [[1, 2, 3]] * 2
    assert [line.get_ydata().tolist() for line in lines] == [[3, 2, 1], [4, 3, 2.5]]
    assert lines[0].get_color() != lines[1].get_color()
    assert lines[0].get_linestyle() != lines[1].get_linestyle()  # also told apart without color
    texts = words(figure.axes[0].get_legend().get_texts())
    assert texts == ["train, 1 at the end", "evaluation, 2.5 at the end"]
    assert figure.axes[0].get_xlabel() == "epoch"
    assert figure.axes[0].get_ylabel() == "loss"


def test_places_are_given():
    (axes,) = viz.curves({"loss": {"rule": [3.0, 2.0]}}, x=[0.1, 10.0]).axes
    assert axes.get_lines()[0].get_xdata().tolist() == [0.1, 10.0]
    assert axes.get_legend().get_texts()[0].get_text() == "rule"
    (axes,) = viz.curves({"p": {"rule": [3.0, 2.0]}}, xlabel="rank").axes
    assert axes.get_legend().get_texts()[0].get_text() == "rule"


def test_several_runs_are_thin_and_their_mean_is_thick():
    figure = viz.curves({"loss": {"train": [[3.0, 1.0], [5.0, 2.0]]}})
    lines = figure.axes[0].get_lines()
    assert [line.get_ydata().tolist() for line in lines] == [[3, 1], [5, 2], [4, 1.5]]
    assert lines[0].get_linewidth() < lines[2].get_linewidth()
    (legend,) = figure.axes[0].get_legend().get_texts()
    assert legend.get_text() == "train, mean of 2 runs: 1.5 at the end"


def test_a_line_has_one_color_in_all_panels():
    panels = {
        "loss": {"train": [1.0], "evaluation": [1.0]},
        "accuracy": {"evaluation": [1.0]},
    }
    loss, accuracy = viz.curves(panels).axes
    in_loss = loss.get_lines()[1]
    in_accuracy = accuracy.get_lines()[0]
    assert in_loss.get_color() == in_accuracy.get_color()


@refused([
    ({}, {}, "curves: expected at least one metric"),
    ({"loss": {"train": 3.0}}, {}, r"loss/train must have shape .*got \(\)"),
    ({"loss": {"train": []}}, {}, r"got \(0,\)"),
    ({"loss": {"rule": [3.0, 2.0, 1.0]}}, {"x": [0.1, 10.0]}, r"got \(3,\) for x \(2,\)"),
])  # fmt: skip
def test_refusals(panels, options):
    viz.curves(panels, **options)
