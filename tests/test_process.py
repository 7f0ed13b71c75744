"""No call leaves anything changed that belongs to the whole process, in whatever thread it runs."""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from jaxnet.services.warn import warn, without_warnings
from tests import process
from tools import hostile

ROOT = Path(__file__).parents[1]


# What a terminal without a language has: files and the standard output are in ASCII.
ASCII = {
    "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
}  # fmt: skip


def changed(way, folder, *which, **environment):
    for package in ("librosa", "matplotlib", "sklearn", "tensorflow_datasets", "tokenizers"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "tests.process", way, str(folder), *which]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: what for name, what in found.items() if what}


@pytest.mark.long
@pytest.mark.parametrize("way", ["each", "threads"])
def test_calls_change_nothing_of_the_process(way, tmp_path):
    assert changed(way, tmp_path) == {}


@pytest.mark.long
@pytest.mark.parametrize("part", range(1, 5))
def test_good_calls_of_all_functions_change_nothing_and_print_in_ascii(part, tmp_path):
    assert changed("good", tmp_path, f"{part}/4", **ASCII) == {}


def test_good_calls_of_some_functions_change_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    calls = hostile.good_calls(every=40)
    hostile.run(calls[0])  # imports what is imported when it is first used
    found = process.changed_by(calls)
    assert len(found) > 5
    assert {name: what for name, what in found.items() if what} == {}


def test_a_program_that_is_started_is_seen():
    process.note_programs("subprocess.Popen", (None, ["/usr/bin/lscpu", "-p"], None, None))
    process.note_programs("subprocess.Popen", ("/bin/gs", ["gs"], None, None))
    process.note_programs("os.posix_spawn", (b"/usr/bin/true", [b"true"], {}))
    process.note_programs("open", ("/etc/passwd", "r", 0))
    assert {"lscpu", "gs", "true"} == process.STARTED
    process.STARTED.clear()


def silence():
    warnings.simplefilter("ignore")


def seed():
    np.random.seed(3)


def ignore_signals():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def move():
    os.chdir("/")


def hide():
    os.environ["HIDDEN"] = "1"


def overflow():
    np.seterr(over="ignore")


@pytest.mark.parametrize(("change", "what"), [
    (silence, "filters of warnings"), (seed, "random numbers of NumPy"),
    (ignore_signals, "signals: 15"), (move, "folder"), (hide, "environment: HIDDEN None -> 1"),
    (overflow, "errors of NumPy"),
])  # fmt: skip
def test_a_change_is_seen(change, what):
    before, environment = process.state(), dict(os.environ)
    handler, folder, errors = signal.getsignal(signal.SIGTERM), os.getcwd(), np.geterr()
    numbers = np.random.get_state()
    try:
        with warnings.catch_warnings():
            change()
            (found,) = process.changes(before, process.state())
    finally:
        signal.signal(signal.SIGTERM, handler)
        os.chdir(folder)
        np.seterr(**errors)
        np.random.set_state(numbers)
        os.environ.clear()
        os.environ.update(environment)
    assert found.startswith(what)


def test_our_warnings_can_be_left_out_in_one_thread():
    with without_warnings():
        warn("nobody reads this")
    with pytest.warns(UserWarning, match="read this"):
        warn("read this")
