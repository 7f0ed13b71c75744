"""The tests of a file run on one worker: they share fixtures and what is compiled.

It was lost once without a word, by a release of pytest that the plugin did not know.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("i", range(8))
def test_a_file_stays_on_one_worker(i, tmp_path_factory):
    note = tmp_path_factory.getbasetemp().parent / "worker_of_this_file"  # of all workers
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    if not note.exists():
        note.write_text(worker)
    assert note.read_text() == worker


DIES = """
import os, pytest

@pytest.mark.parametrize("i", range(4))
def test_before(i):
    pass

def test_that_dies():
    os.abort()

def test_after():
    pass
"""
DIES_LAST = DIES.partition("def test_after")[0]
HANGS = """
import time

def test_that_hangs():
    time.sleep(1000)
"""
PASSES = "def test_passes(): pass"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "failed", "passed"),
    [
        pytest.param([DIES, DIES_LAST, PASSES, PASSES], 2, 11, id="dies"),
        pytest.param([PASSES, HANGS, PASSES], 1, 2, id="hangs"),
    ],
)
def test_a_worker_that_dies_fails_its_test_alone(files, failed, passed, tmp_path):
    for i, text in enumerate(files):
        (tmp_path / f"test_{i}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "xdist.plugin"]
    command += ["-p", "tests.by_file", "-n2", "-o", "faulthandler_timeout=1", str(tmp_path)]
    # Not as the worker that it may be itself, and without plugins, which take most of the time.
    environment = {key: value for key, value in os.environ.items() if "PYTEST" not in key}
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60,
        env=environment | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert f"{failed} failed, {passed} passed" in done.stdout
    for i, text in enumerate(files):
        for name in re.findall("test_that_[a-z]+", text):
            assert re.search(f"crashed while running '.*test_{i}.py::{name}'", done.stdout)
            assert f"in {name}" in done.stderr  # its stack
