"""A few of the kills of `python -m tests.kills`."""

import pytest

from tests import kills

pytest.importorskip("orbax.checkpoint")
pytest.importorskip("grain")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resident", "processes"])
def test_killed_runs_end_with_the_same_bits(kind, tmp_path):
    assert kills.check(kind, kills=2, seed=1, place=tmp_path) >= 1  # resumed in mid-pass
