"""A few runs of each scenario of `python -m tools.kills --scenario all`."""

import os
import subprocess
import sys

import pytest

from tools import scenarios


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kill_in_save", "two_writers", "reader"])
def test_no_checkpoint_is_lost(name, tmp_path):
    scenarios.SCENARIOS[name](tmp_path / "runs", 2, 1)


@pytest.mark.slow
def test_no_checkpoint_is_lost_on_a_full_disk():
    command = [sys.executable, "-m", "tools.kills", "--scenario", "full_disk", "--runs", "3"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        command, env=environment, cwd=scenarios.ROOT, text=True, capture_output=True
    )
    assert said.returncode == 0 and "3 runs, nothing lost" in said.stdout, said.stderr[-3000:]
