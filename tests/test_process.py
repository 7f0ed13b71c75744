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

ROOT = Path(__file__).parents[1]


def changed(way, folder):
    for package in ("librosa", "matplotlib", "sklearn", "tensorflow_datasets", "tokenizers"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "tests.process", way, str(folder)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: what for name, what in found.items() if what}


@pytest.mark.long
@pytest.mark.parametrize("way", ["each", "threads"])
def test_calls_change_nothing_of_the_process(way, tmp_path):
    assert changed(way, tmp_path) == {}


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
