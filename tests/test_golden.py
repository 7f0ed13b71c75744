"""What an earlier version saved loads, and computes what it computed then."""

import pytest

import jaxnet as jn
from tests.catalogue import ROWS, Row, cases, fill
from tests.helpers import close
from tools import golden

KEYS_MAY_REPEAT = True
SAVED, _ = jn.load(golden.FILE)


def test_the_file_has_the_rows_of_the_catalogue():
    assert set(SAVED) == {row.id for row in ROWS}


@pytest.mark.parametrize("row", cases(one_per_kind=True))
def test_saved_values_compute_the_same(row: Row):
    saved = SAVED[row.id]
    for mode, now in golden.outputs(row, saved["params"], saved["state"], fill(row)).items():
        before = saved["outputs"][mode]
        leaves = [before["y"][str(i)] for i in range(len(now["y"]))]
        close((now["y"], now["state"]), (leaves, before["state"]), 1e-5, 1e-6)
