"""A short run in each precision, and the batch that overflows."""

import numpy as np
import pytest

from experiments import precision
from jaxnet.data import tfds
from tests.experiments.synthetic import load


@pytest.mark.long
def test_the_batch_that_overflows_is_skipped_and_training_goes_on(monkeypatch):
    monkeypatch.setattr(tfds, "load", load)
    monkeypatch.setattr(precision, "PHOTOS", 40)
    found = precision.run(
        precision.Config(seeds=1, digits_steps=3, resnet_steps=3, decoder_steps=3, batch_size=4)
    )
    for runs in found.values():
        single, bfloat, half, planted = (runs[kind][0].skipped for kind in precision.RUNS)
        # The first scale, 65,536, may be too much for a gradient of 1.0, so a step more may go.
        assert single == bfloat == 0 and half <= 1 and 1 <= planted <= 2
        assert all(np.isfinite(runs[kind][0].loss) for kind in precision.RUNS)
