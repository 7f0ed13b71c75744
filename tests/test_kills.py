"""A few of the kills of `python -m tools.kills`."""

import pytest

from tools import kills

pytest.importorskip("grain")


@pytest.mark.long
@pytest.mark.parametrize("kind, times", [("resident", 2), ("processes", 1)])
def test_killed_runs_end_with_the_same_bits(kind, times, tmp_path):
    assert kills.check(kind, kills=times, seed=1, place=tmp_path) >= 1  # resumed in mid-pass
