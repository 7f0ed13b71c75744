"""Fewer steps than those of `python -m tools.soak`."""

import sys

import pytest

from tests.helpers import output_of

SOAK = "from tools.soak import soak; print(*soak(10_000))"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone says what is held")
def test_many_steps_leave_nothing():
    files, threads, objects, megabytes = map(float, output_of(SOAK).split())
    assert files <= 0 and threads <= 0
    assert objects < 100
    assert megabytes < 1
