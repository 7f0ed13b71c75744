"""One short run of each experiment, on synthetic data or on data that its libraries bring along.

Whether claims hold is for the slow suite, on real data. Here each command ends, its results are
finite, and its pictures are there.
"""

import importlib
from pathlib import Path
from typing import Any

import jax
import matplotlib.image
import numpy as np
import pytest

from experiments import finetune, optimizers
from jaxnet.data import tfds
from tests.experiments.synthetic import load

DRAWS = True
FROZEN = {name: finetune.METHODS[name] for name in ("trunk frozen",)}
ADAM = {"Adam": optimizers.RULES["Adam"]}

# Options of each experiment, and the constants of its module that are lowered.
SHORT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "autoencoder": ({"data": "mnist", "kinds": ("plain",), "epochs": 1, "width": 3}, {}),
    "backpropagation": ({"epochs": 1, "hidden": (5,), "batch_size": 200}, {}),
    "bccd": (
        {"height": 48, "epochs": 1, "batch_size": 2, "frames": 2},
        {"CONVOLUTIONS": ((4, 4), (8, 4)), "HEAD": (8,)},
    ),
    "browser_digits": (
        {"epochs": 1, "batch_size": 100, "train_size": 100, "draw": False}, {"RUNTIME": ()},
    ),
    "camvid": ({"nets": ("8s",), "epochs": 1, "features": (4, 4, 4, 4), "blocks": 1}, {}),
    "cifar10": ({"epochs": 1, "batch_size": 100, "train_size": 100}, {}),
    "cifar10_record": (
        {"epochs": 1, "batch_size": 20, "train_size": 40, "width": 0.05, "tta": 1}, {},
    ),
    "compressed_sensing": (
        {"unknowns": 20, "cells": 3, "trials": 2, "steps": 20, "points": 20, "features": (4, 8),
         "fractions": (0.2, 0.5)},
        {},
    ),
    "dbn": (
        {"sizes": (10,), "epochs": 1, "labels": (2,), "seeds": 1, "tune_steps": 3,
         "sample_steps": 2},
        {},
    ),
    "digits": ({"epochs": 1, "model": "mlp", "batch_size": 200}, {}),
    "edges": (
        {"images": "camvid", "size": 5, "components": 9, "patches": 500, "features": 9,
         "epochs": 1},
        {},
    ),
    "feeding": (
        {"ways": ("device", "slices", "feed", "threads"), "steps": 2, "rounds": 1,
         "batch_size": 50},
        {},
    ),
    "features": (
        {"features": 9, "train_size": 100, "test_size": 50, "epochs": 1, "seeds": 1,
         "centres": (5,)},
        {"ITERATIONS": 2, "STEPS": 2},
    ),
    "finetune": (
        {"labels": (10,), "pretrain_epochs": 1, "seeds": 1},
        {"EPOCHS": {10: 1}, "VALIDATION": 50, "RATES": (1e-3,), "METHODS": FROZEN},
    ),
    "forecast": (
        {"past": 60, "future": 8, "features": (2, 2), "epochs": (1, 1), "dilations": (1,),
         "seeds": 1},
        {},
    ),
    "greedy": (
        {"labels": (10,), "methods": ("none", "k-means"), "features": (8,), "unlabelled": 50,
         "seeds": 1},
        {"EPOCHS": {10: 1}, "VALIDATION": 50, "RATES": (1e-3,)},
    ),
    "hmm": ({"symbols": 1000, "seeds": 1, "restarts": 1, "iterations": 2}, {}),
    "inside": (
        # As many images are tested as are drawn, so that their programs are the same.
        {"digit_epochs": 1, "photo_epochs": 1, "digits_tested": 5, "photos_tested": 5,
         "steps": 8, "train_size": 100},
        {"SHARES": (0, 0.05, 0.1, 0.2, 0.5), "FEATURES": (4, 6, 8)},
    ),
    "invariance": ({"steps": 3, "epochs": 1, "seeds": 1}, {}),
    "mnist": ({"epochs": 1, "batch_size": 100, "augment": True}, {}),
    "moving_digits": (
        {"nets": ("stack",), "train_size": 32, "test_size": 16, "epochs": 1, "seeds": 1}, {},
    ),
    "optimizers": ({"passes": 2, "hidden": 2, "seeds": 1, "rates": 1}, {"RULES": ADAM}),
    "perceptron": ({"points": 10, "passes": 5, "seeds": 1, "pairs": 1}, {}),
    "rbm": ({"features": 5, "epochs": 1, "betas": 50, "small_epochs": 1}, {"SAMPLED": (1, 2)}),
    "scaling": (
        {"devices": 1, "rules": ("data",), "variants": ("remat",), "layers": 2, "features": 8,
         "heads": 2, "vocabulary": 7, "length": 4, "batch_size": 3, "steps": 2},
        {},
    ),
    "seconds_to_accuracy": (
        {"rounds": 1, "epochs": 1, "pieces": 1, "batch_size": 100, "target": 0.05},
        {"in_fresh_process": lambda function, *given, timeout: function(*given)},
    ),
    "shakespeare": (
        {"model": "gru", "features": 8, "layers": 1, "steps": 20, "embedding": 4, "epochs": 1,
         "length": 5, "characters": 2000},
        {},
    ),
    "sweep": ({"features": 2, "epochs": 1, "batch_size": 500, "seeds": 2, "rates": (1e-3,)}, {}),
    "time_series": ({"features": 2, "epochs": 1, "seeds": 1}, {}),
    "translate": (
        {"model": "encdec", "vocabulary": 280, "features": 8, "epochs": 1, "buckets": 1,
         "longest": 6, "beams": 2, "drawn": 1},
        {},
    ),
    "universal": ({"widths": (2,), "seeds": 1, "steps": 5, "points": 20}, {}),
}  # fmt: skip


def test_every_experiment_has_a_short_run():
    folder = Path(__file__).parents[2] / "experiments"
    found = {p.stem for p in folder.glob("*.py")} | {
        p.parent.name for p in folder.glob("*/config.py")
    }
    # The four systems of speech take long to compile; torchvision is seldom installed.
    elsewhere = {"speech", "torchvision_logits", "torchvision_nets"}
    assert set(SHORT) == found - {"__main__", "common", "classify"} - elsewhere


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.long if name == "inside" else ()) for name in SHORT],
)
def test_a_short_run(name, tmp_path, monkeypatch):
    if name == "seconds_to_accuracy":
        pytest.importorskip("torch", reason="compares with PyTorch")
    if name == "browser_digits":
        pytest.importorskip("jax2onnx", reason="needs the extra onnx")
    monkeypatch.setattr(tfds, "load", load)
    options, constants = SHORT[name]
    module = importlib.import_module(f"experiments.{name}")
    for place, value in constants.items():
        monkeypatch.setattr(f"experiments.{name}.{place}", value)
    takes = module.Config.__dataclass_fields__
    output = {"output": tmp_path} if "output" in takes else {}
    results = module.run(module.Config(**options, **output))
    for path, leaf in jax.tree_util.tree_leaves_with_path(results):
        place = jax.tree_util.keystr(path)
        if np.asarray(leaf).dtype.kind == "f" and "by_length" not in place:  # of no sentences: NaN
            assert np.isfinite(leaf).any(), place
    pictures = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".png", ".gif"))
    assert pictures or name in ("sweep", "scaling", "feeding", "browser_digits")
    for picture in pictures:
        assert matplotlib.image.imread(picture).std() > 0.01, picture  # not one color
    if hasattr(results, "pictures"):
        assert sorted(results.pictures) == pictures
