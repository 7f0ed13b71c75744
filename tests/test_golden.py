"""What an earlier version saved loads, and computes what it computed then."""

import pytest

import jaxnet as jn
from tests.catalogue import ROWS, Row, fill
from tests.helpers import close
from tools import golden

KEYS_MAY_REPEAT = True
SAVED, _ = jn.load(golden.FILE)


def test_nothing_is_kept_of_layers_that_are_gone():
    assert set(SAVED) <= {row.id for row in ROWS}


@pytest.mark.slow
@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in ROWS if row.id in SAVED])
def test_saved_values_compute_the_same(row: Row):
    saved = SAVED[row.id]
    for mode, now in golden.outputs(row, saved["params"], saved["state"], fill(row)).items():
        before = saved["outputs"][mode]
        leaves = [before["y"][str(i)] for i in range(len(now["y"]))]
        close((now["y"], now["state"]), (leaves, before["state"]), 1e-5, 1e-6)
