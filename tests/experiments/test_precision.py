"""A short run in each precision, and the batch that overflows."""

import numpy as np
import pytest

from experiments import precision
from jaxnet.data import tfds
from jaxnet.training import loss_scale
from tests.experiments.synthetic import load


@pytest.mark.long
def test_one_step_is_skipped_where_a_batch_overflows(monkeypatch):
    monkeypatch.setattr(tfds, "load", load)
    monkeypatch.setattr(precision, "PHOTOS", 40)
    # The first gradients of some nets are near 1, and 2**16 times 1 is what float16 cannot hold.
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**12)
    found = precision.run(
        precision.Config(seeds=1, digits_steps=3, resnet_steps=3, decoder_steps=3, batch_size=4)
    )
    for runs in found.values():
        assert [runs[kind][0].skipped for kind in precision.RUNS] == [0, 0, 0, 1]
        assert all(np.isfinite(runs[kind][0].loss) for kind in precision.RUNS)
