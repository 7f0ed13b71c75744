"""What an adapter checks again in a stream, and the parts into which it divides data."""

import numpy as np
import pytest

import jaxnet as jn
from jaxnet.training.batching import Batching
from jaxnet.training.data_adapter import DataAdapter
from jaxnet.training.train_state import Variables, only
from tests.training.conftest import KEY, LOSS, data

X, Y = data(12)
NET = jn.dense(2)
GOOD = X, Y
PLAIN = jn.supervised(NET, LOSS)


def test_a_stream_is_asked_anew_only_for_new_targets():
    adapter = DataAdapter("fit", only(PLAIN), stream=True)
    variables = Variables(*PLAIN.init(KEY, GOOD))
    prepared = adapter.prepare(variables, GOOD)
    assert prepared.batching == Batching(12)
    assert not prepared.carried
    adapter.checked(variables, (X[:4], Y[:4]))
    with pytest.raises(ValueError, match="targets must be .*got -1"):
        adapter.checked(variables, (X[:4], np.array([0, 1, -1, 0])))


def test_one_value_per_batch_makes_the_rest_a_part_of_its_own():
    def forward(m, batch):
        x, _ = batch
        return m(NET, x).mean(), {}

    mean = jn.compose(forward)
    for objective, sizes in ((mean, [(10, 5), (2, 2)]), (PLAIN, [(12, 5)])):
        variables = Variables(*objective.init(KEY, GOOD))
        parts = DataAdapter("evaluate", only(objective), 5).prepare_all(variables, GOOD)
        assert [(len(part.data[1]), part.batching.size) for part in parts] == sizes
