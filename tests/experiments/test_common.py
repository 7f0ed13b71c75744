"""Options, seeds, figures and words that all experiments share."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import optax
import pytest

import jaxnet as jn
from experiments import common
from jaxnet.viz.style import new_figure
from tests.helpers import refused

DRAWS = True


@dataclass(frozen=True)
class Config(common.TrainSize, common.Seeds, common.Output):
    """Options of a made-up experiment."""

    output: Path = Path("runs/made_up")
    seeds: int = 2
    model: Literal["small", "large"] = "small"
    """size of the net"""
    widths: tuple[int, ...] = (4, 8)
    kinds: tuple[Literal["a", "b"], ...] = ("a", "b")
    epochs: int = 3
    batch_size: int = 4
    padding: int = 0


def test_defaults_and_options_of_the_bases():
    config = Config(seed=3, padding=-1)  # 0 by default: any int
    assert (config.seeds, config.train_size, config.data_dir) == (2, None, None)
    assert list(config.all_seeds) == [3, 4]
    assert common.over_seeds(lambda seed: seed**2, config) == [9, 16]
    assert common.total_steps(9, config) == 3 * 3


@refused([
    ({"model": "huge"}, "model must be one of small, large, got 'huge'"),
    ({"kinds": ("a", "c")}, "kinds must be one of a, b, got 'c'"),
    ({"epochs": 0}, "epochs must be at least 1, got 0"),
    ({"widths": (4, 0)}, "widths must be at least 1, got 0"),
    ({"widths": ()}, "widths must not be empty"),
    ({"seed": -1}, "seed must not be negative, got -1"),
])  # fmt: skip
def test_wrong_options(wrong):
    Config(**wrong)


# What one experiment refuses beyond what its base does.
REFUSALS = [
    ("bccd", {"height": 200}, "height must be a multiple of 48, got 200"),
    ("benchmarks.__main__", {"peers": ("keros",)}, "linen"),
    ("benchmarks.__main__", {"workloads": ("Lenet",)}, "LeNet"),
    ("cifar10_record", {"width": 0}, "width must be positive, got 0"),
    ("edges", {"size": 7, "components": 50}, "at most the number of .* a patch, 49, got 50"),
    ("forecast", {"past": 52}, "past must be above 52 and future at most 52.* got 52 and 52"),
    ("greedy", {"methods": ("magic",)}, "methods must be one of none, .*got 'magic'"),
    ("greedy", {"labels": (7,)}, "labels must be one of 10, 30, 100, 0, got 7"),
    ("hmm", {"symbols": 10}, "symbols must be at least"),
    ("inside", {"steps": 7}, "steps must be at least 8, got 7"),
    ("invariance", {"steps": 4}, "steps must be odd and at least 3, got 4"),
    ("invariance", {"scale": 0.5}, "scale must be at least 1, got 0.5"),
    ("mnist", {"augment": True, "shift": 1}, "give augment or shift, not both"),
    ("shakespeare", {"prompt": ""}, "prompt must have at least one character"),
    ("speech", {"speakers": 7}, "speakers must be at most 6, got 7"),
    ("speech", {"states": 1}, "states must be at least 2, got 1"),
    ("time_series", {"shift": 6000}, r"shift must be in \[0, 6000\), got 6000"),
    ("torchvision_logits", {"only": ("lenet",)}, "only has lenet; there are alexnet, "),
]  # fmt: skip


@pytest.mark.parametrize(("name", "wrong", "words"), REFUSALS)
def test_wrong_options_of_an_experiment(name, wrong, words):
    module = importlib.import_module(f"experiments.{name}")
    with pytest.raises(ValueError, match=words):
        module.Config(**wrong)


def test_main_reads_options_runs_and_prints_the_time(monkeypatch, capsys):
    pytest.importorskip("tyro")
    seen = []
    monkeypatch.setattr(sys, "argv", ["made_up", "--seeds", "5", "--model", "large"])
    common.main(Config, seen.append)
    assert seen == [Config(seeds=5, model="large")]
    assert " s of CPU" in capsys.readouterr().out


def test_mean_and_deviation_as_text():
    assert common.mean_std([0.98, 0.99, 1.0]) == "99.00 ± 1.00%"
    assert common.mean_std([1.0, 3.0], ".1f", ends=True) == "2.0 ± 1.4 (1.0 to 3.0)"
    assert common.mean_std([0.5], ends=True) == "50.00%"
    assert common.deviation([1.0, 3.0]) == pytest.approx(2**0.5)
    assert np.isnan(common.deviation([1.0]))


def test_examples_per_class_are_drawn_once():
    y = np.array([0, 1, 1, 2, 0, 2, 1, 0, 2])
    rows = common.per_class(y, 2, seed=0)
    assert sorted(y[rows]) == [0, 0, 1, 1, 2, 2]
    assert len(set(rows)) == 6
    assert (common.per_class(y, 2, seed=0) == rows).all()


@pytest.mark.slow
def test_epochs_of_a_training_from_scratch(capsys):
    x = np.linspace(-1, 1, 9, dtype=np.float32)[:, None]
    trainer = jn.trainer(jn.supervised(jn.dense(1), optax.squared_error), optax.sgd(0.1))
    options = {"seed": 0, "epochs": 12, "batch_size": 4}
    epochs = common.run_epochs(trainer, (x, 2 * x), evaluate=(x, x), **options)
    assert [epoch.number for epoch in epochs] == [*range(1, 13)]
    assert epochs[-1].train["loss"] < epochs[0].train["loss"]
    assert epochs[-1].evaluation is not None
    assert capsys.readouterr().out.count("epoch") == 6


def test_figures_are_saved_and_named(tmp_path):
    figure = new_figure(3, 2)
    axes = figure.subplots()
    ours = {10: np.array([0.5, 0.7]), 0: np.array([0.9, 0.9])}
    theirs = {10: np.array([0.4]), 0: np.array([0.8])}
    common.plot_by_labels(axes, {"ours": ours, "theirs": theirs}, 0.1)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10", "all"]
    (path,) = common.save({"accuracy": figure}, tmp_path / "new")
    assert path == tmp_path / "new" / "accuracy.png"
    assert path.stat().st_size > 1000
