"""One short run of each experiment, on synthetic data or on data that its libraries bring along.

Whether claims hold is for the slow suite, on real data. Here each command ends, its results are
finite, and its pictures are there. The run of seconds_to_accuracy trains a net in torch as well.
"""

import importlib

import jax
import matplotlib.image
import numpy as np
import pytest

from experiments.__main__ import EXPERIMENTS
from jaxnet.data import tfds
from tests.experiments.synthetic import load

DRAWS = True  # see conftest.py

# The four systems of speech take long to compile; torchvision is seldom installed.
ELSEWHERE = {"speech", "torchvision_logits"}


def marked(name):
    short = importlib.import_module(f"experiments.{name}").SHORT
    return pytest.param(name, short, id=name, marks=pytest.mark.long if short.long else ())


@pytest.mark.slow
@pytest.mark.parametrize("name, short", [marked(n) for n in EXPERIMENTS if n not in ELSEWHERE])
def test_a_short_run(name, short, tmp_path, monkeypatch):
    if short.needs:
        pytest.importorskip(short.needs, reason=f"needs {short.needs}")
    monkeypatch.setattr(tfds, "load", load)
    module = importlib.import_module(f"experiments.{name}")
    for constant, value in short.constants.items():
        monkeypatch.setattr(f"experiments.{name}.{constant}", value)
    output = {"output": tmp_path} if "output" in module.Config.__dataclass_fields__ else {}
    results = module.run(module.Config(**short.options, **output))
    for path, leaf in jax.tree_util.tree_leaves_with_path(results):
        place = jax.tree_util.keystr(path)
        if np.asarray(leaf).dtype.kind == "f" and "by_length" not in place:  # of no sentences: NaN
            assert np.isfinite(leaf).any(), place
    pictures = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".png", ".gif"))
    assert pictures or not short.draws
    for picture in pictures:
        assert matplotlib.image.imread(picture).std() > 0.01, picture  # not one color
    if hasattr(results, "pictures"):
        assert sorted(results.pictures) == pictures
