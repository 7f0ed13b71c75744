"""The tests of a file run on one worker: they share fixtures and what is compiled.

It was lost once without a word, by a release of pytest that the plugin did not know.
"""

import os
import re
import subprocess
import sys

import pytest

from tests.parts import ROOT, part_of, parts_of, room, touched


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
def test_before(i): pass
def test_that_dies(): os.abort()
def test_after(): pass
"""
DIES_LAST = DIES.partition("def test_after")[0]
HANGS = "import time\ndef test_that_hangs(): time.sleep(1000)"
PASSES = "def test_passes(): pass"


def run(*options: str) -> subprocess.CompletedProcess:
    """Runs pytest on its own, with pytest-xdist as the only plugin that was installed."""
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "xdist.plugin"]
    # Not as the worker that it may be itself, and without plugins, which take most of the time.
    environment = {key: value for key, value in os.environ.items() if "PYTEST" not in key}
    return subprocess.run(
        [*command, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize(("files", "failed", "passed"), [
    pytest.param([DIES, DIES_LAST, PASSES, PASSES], 2, 11, id="dies"),
    pytest.param([PASSES, HANGS, PASSES], 1, 2, id="hangs"),
])  # fmt: skip
def test_a_worker_that_dies_fails_its_test_alone(files, failed, passed, tmp_path):
    for i, text in enumerate(files):
        (tmp_path / f"test_{i}.py").write_text(text)
    done = run("-p", "tests.by_file", "-n2", "-o", "faulthandler_timeout=1", str(tmp_path))
    assert done.returncode == 1, done.stdout
    assert f"{failed} failed, {passed} passed" in done.stdout
    for i, text in enumerate(files):
        for name in re.findall("test_that_[a-z]+", text):
            assert re.search(f"crashed while running '.*test_{i}.py::{name}'", done.stdout)
            assert f"in {name}" in done.stderr  # its stack


LONG = """
import pytest
def test_fast(): pass
@pytest.mark.long
@pytest.mark.parametrize("i", range(20))
def test_long(i): pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_the_parts_of_a_mark_are_all_its_tests(workers, tmp_path):
    (tmp_path / "test_parts.py").write_text(LONG)
    here = ("-p", "tests.parts", workers, "-q", "-rA", "-m", "", str(tmp_path))
    ran = []
    for k in (1, 2, 3):
        done = run("--part", f"long={k}/3", *here)
        assert not done.returncode, done.stdout
        passed = re.findall(r"PASSED .*::(test_\w+\S*)", done.stdout)
        assert passed.count("test_fast") == 1
        assert len(passed) < 21
        assert re.search(rf"LEFT OUT by --part long={k}/3: \S+ {21 - len(passed)}\n", done.stdout)
        ran += [test for test in passed if test != "test_fast"]
    assert sorted(ran) == sorted(f"test_long[{i}]" for i in range(20))
    fast = [run("--part", f"fast={k}/2", *here).stdout for k in (1, 2)]
    assert sorted(out.count("::test_fast\n") for out in fast) == [0, 1]
    assert all(len(re.findall(r"PASSED .*::test_long", out)) == 20 for out in fast)


def test_another_commit_draws_another_part():
    draws = [[part_of(f"test[{i}]", 4, commit) for i in range(400)] for commit in ("a", "b")]
    assert draws[0] != draws[1]
    assert all(60 < draw.count(k) for draw in draws for k in range(1, 5))


def test_a_commit_that_is_none_is_an_error():
    with pytest.raises(pytest.UsageError, match="--since: expected a commit, got 'nowhere'"):
        touched("nowhere")
    assert touched(None) == set()


@pytest.mark.parametrize("part", ["lnog=1/2", "long", "long=0/2", "long=3/2", "long=1", "long=a/b"])
def test_a_part_that_is_none_is_an_error(part, pytestconfig, monkeypatch):
    monkeypatch.setattr(pytestconfig.option, "part", [part])
    with pytest.raises(pytest.UsageError, match=f"--part: expected MARK=K/N .* got {part}"):
        parts_of(pytestconfig)


def test_every_mark_is_selected_by_a_command_of_ci(pytestconfig):
    """What is selected by no command is run by nobody, and fails without anybody noticing."""
    commands = (ROOT / ".ci" / "run").read_text()
    selects = {
        "slow": r'pytest .*-m "not long"',
        "long": r'pytest -m long -k "not size_colab and not test_toys"',
    }
    options = pytestconfig.getini("addopts")
    assert options[options.index("-m") + 1] == f"not {' and not '.join(selects)}"
    for mark, command in selects.items():
        assert re.search(command, commands), mark
    assert re.search(r"pytest .*-m long tests/docs/test_toys.py", commands)
    for page in (".ci/run", "CONTRIBUTING.md"):
        assert "XLA_FLAGS= pytest -m long -k size_colab" in (ROOT / page).read_text()


@pytest.mark.parametrize(("path", "expected"), [
    ("jaxnet/layers/dense.py", "layers"),
    ("tests/layers/test_dense.py::test_values[1]", "layers"),
    ("jaxnet/penalties.py", "penalties"),
    ("tests/test_penalties.py::test_l2", "penalties"),
    ("guide/data.md", "guide"),
    ("tests/test_guide.py::test_section_runs[data: Augment]", "guide"),
    ("experiments/digits.py", "experiments"),
    ("README.md", "README.md"),
])  # fmt: skip
def test_a_room_has_its_files_and_their_tests(path, expected):
    assert room(path) == expected
