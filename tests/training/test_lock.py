"""Locks: who holds one is told, and a process that died holds none."""

import errno
import os
import signal
import subprocess
import sys
from unittest.mock import Mock

import pytest

from jaxnet.services import files
from jaxnet.training import lock
from jaxnet.training.lock import Held


def test_a_lock_names_its_holder_and_goes_with_it(tmp_path):
    (tmp_path / ".lock").write_text("a longer note of another run " * 9)
    held = Held("save", tmp_path)
    words = f"^save: {tmp_path} is being written by process {os.getpid()} on .*, since 2.*one run"
    with pytest.raises(BlockingIOError, match=words):
        Held("save", tmp_path)
    held.close()
    held.close()
    Held("save", tmp_path).close()
    note = (tmp_path / ".lock").read_text()
    assert note.startswith("process")
    assert note.endswith("\n")


def test_an_interrupt_holds_no_lock_by_its_traceback(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as stopped:
        patch.setattr(lock.time, "strftime", Mock(side_effect=KeyboardInterrupt))
        Held("save", tmp_path)
    Held("save", tmp_path).close()
    assert stopped.tb is not None


HOLD = """
import os, sys, time, pathlib
from jaxnet.training.lock import Held
held = Held("save", pathlib.Path(sys.argv[1]))
if os.fork() == 0:
    time.sleep(60)
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows")
def test_a_lock_goes_with_a_killed_process_though_its_fork_lives(tmp_path):
    """As the workers of a loader may, for a while."""
    command = [sys.executable, "-W", "ignore", "-c", HOLD, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdout": subprocess.PIPE, "start_new_session": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError, match=f"process {process.pid} on"):
            Held("save", tmp_path)
        process.kill()
        process.wait()
        Held("save", tmp_path).close()
        os.killpg(process.pid, signal.SIGKILL)


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    error = OSError(errno.ENOSYS, "Function not implemented")
    monkeypatch.setattr(lock, "claim", Mock(side_effect=error))
    with pytest.warns(UserWarning, match="without locks .Function not implemented.*each run"):
        Held("save", tmp_path).close()


def test_windows_locks_behind_the_note(tmp_path, monkeypatch):
    """By msvcrt, whose locks nobody reads through."""
    calls = []

    def note(number, *given):
        calls.append((os.lseek(number, 0, os.SEEK_CUR), *given))

    monkeypatch.setattr(files, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", Mock(LK_NBLCK=2, locking=note))
    Held("save", tmp_path).close()
    assert calls == [(2**30, 2, 1)]
    assert (tmp_path / ".lock").read_text().startswith("process")
