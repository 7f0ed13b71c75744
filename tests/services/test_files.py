"""Files are whole: a failure, a kill or another writer leaves the old or the new one."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

import jaxnet as jn
from jaxnet.services import files
from jaxnet.services.files import file_path, readable, replacing
from jaxnet.services.saving import write_file
from jaxnet.training.lock import Held

unix = pytest.mark.skipif(os.name == "nt", reason="modes, pipes and devices")


def write(path, data=b"new"):
    with replacing("save", path) as file:
        file.write(data)


@pytest.mark.parametrize(("path", "error", "words"), [
    (None, TypeError, "path must be a str or a Path, got "),
    (b"a", TypeError, "path must be a str or a Path, got "),
    ("", ValueError, "save: path "),
    ("a\0b", ValueError, "save: path "),
    ("~nobody-of-this-name/a", ValueError, "save: path "),
], ids=repr)  # fmt: skip
def test_paths_that_no_file_has(path, error, words):
    with pytest.raises(error, match=words):
        file_path("save", path)
    with pytest.raises(error, match=words):
        readable("save", path)
    with pytest.raises(error, match=words):
        write(path)


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("~/a")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert readable("load", "~/a") == tmp_path / "a"


def test_folders_are_made_and_nothing_else_is_left(tmp_path):
    write(tmp_path / "x" / "y" / "a")
    assert os.listdir(tmp_path / "x" / "y") == ["a"]


@unix
def test_the_mode_is_kept_and_that_of_new_files_is_the_usual_one(tmp_path):
    (tmp_path / "plain").touch()
    write(tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode
    for mode in (0o600, 0o755):
        (tmp_path / "a").chmod(mode)
        write(tmp_path / "a")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


@unix
@pytest.mark.skipif(os.name == "nt" or os.getuid() != 0, reason="only root gives files away")
def test_the_owner_is_kept(tmp_path):
    (tmp_path / "a").touch()
    os.chown(tmp_path / "a", 1234, 4321)
    write(tmp_path / "a")
    found = (tmp_path / "a").stat()
    assert (found.st_uid, found.st_gid) == (1234, 4321)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "a")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a").read_bytes() == b"new"


@unix
def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", "/dev/null"):
        with pytest.raises(OSError, match="is a device, pipe or socket; name a file"):
            write(path)
        with pytest.raises(OSError, match="is a device, pipe or socket; name a file"):
            readable("save", path)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_folder_is_no_file(tmp_path):
    words = f"save: {tmp_path} is a folder; name a file in"
    with pytest.raises(IsADirectoryError, match=words):
        write(tmp_path)
    with pytest.raises(IsADirectoryError, match=words):
        readable("save", tmp_path)


def test_a_missing_file_and_one_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=f"load: there is no file '{tmp_path}/a'"):
        readable("load", tmp_path / "a")
    write(tmp_path / "a")
    with pytest.raises(NotADirectoryError, match=f"load: {tmp_path}/a/b cannot be read: Not a dir"):
        readable("load", tmp_path / "a" / "b")

    error = PermissionError(13, "Permission denied", "a")
    monkeypatch.setattr("builtins.open", Mock(side_effect=error))
    with pytest.raises(PermissionError, match=f"load: {tmp_path}/a cannot be read: Permission"):
        readable("load", tmp_path / "a")


def test_errors_name_the_file_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=f"save: {tmp_path}/file/a cannot be written: ") as error:
        write(tmp_path / "file" / "a")
    assert ".part" not in str(error.value)
    assert error.value.errno

    refuse = Mock(side_effect=PermissionError(13, "Permission denied", "x.part"))
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError) as error:
        write(tmp_path / "a")
    words = "Permission denied; change its permissions, or those of the folders above it"
    assert str(error.value) == f"save: {tmp_path}/a cannot be written: {words}"


def test_a_read_only_file_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everything
    with pytest.raises(PermissionError, match="a cannot be written: it is read-only"):
        write(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_an_interrupted_write_keeps_the_old_file(tmp_path, error):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(type(error)):
        with replacing("save", tmp_path / "a") as file:
            file.write(b"new")
            raise error
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failure_at_the_end_keeps_the_old_file(tmp_path, monkeypatch, name):
    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, name, Mock(side_effect=OSError("no space left")))
    with pytest.raises(OSError, match="save: .*a cannot be written: no space left"):
        write(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(files.fcntl is None, reason="without locks nothing is removed")
def test_what_a_killed_writer_left_is_removed_and_what_another_writes_is_not(tmp_path):
    stale = tmp_path / ".a.0123abcd.part"
    others = tmp_path / ".ab.0123abcd.part"
    stale.touch()
    others.touch()
    with replacing("save", tmp_path / "a") as file:
        file.write(b"first")
        write(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert sorted(os.listdir(tmp_path)) == [others.name, "a"]


WRITER = """
import sys
import importlib.util
spec = importlib.util.spec_from_file_location("files", "jaxnet/services/files.py")
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)  # alone, since JAX takes its time
i = 0
while True:
    with files.replacing("save", sys.argv[1]) as file:
        for _ in range(50):
            file.write(bytes([i % 251]) * 4096)
    i += 1
    print(i, flush=True)
"""


@unix
def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    command = [sys.executable, "-c", WRITER, str(tmp_path / "a")]
    options = {"stdout": subprocess.PIPE, "cwd": Path(__file__).parents[2]}
    for delay in (0.0, 0.0013, 0.0037):
        with subprocess.Popen(command, **options) as run:
            assert run.stdout is not None
            assert run.stdout.readline()
            time.sleep(delay)
            run.send_signal(signal.SIGKILL)
        found = (tmp_path / "a").read_bytes()
        assert len(found) == 50 * 4096
        assert len(set(found)) == 1
    write(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]


WRITERS = {
    "log.jsonl": lambda place: jn.training.append_log(place, {"step": 1, "loss": 0.5}),
    ".lock": lambda place: Held("save", place.parent).close(),
    "0.safetensors": lambda place: write_file(
        "Checkpoints", place, {}, {}, None, must_be_regular=True
    ),
}


PLANTS = {
    "link": lambda place, other: place.symlink_to(other),
    "dangling link": lambda place, other: place.symlink_to(other.with_name("nowhere")),
    "hard link": lambda place, other: os.link(other, place),
    "pipe": lambda place, other: os.mkfifo(place),
    "folder": lambda place, other: place.mkdir(),
}


@pytest.mark.parametrize(("name", "kind"), [
    *[("log.jsonl", kind) for kind in PLANTS], (".lock", "link"), (".lock", "pipe"),
    (".lock", "folder"), ("0.safetensors", "link"),
])  # fmt: skip
def test_what_is_planted_at_a_name_of_the_library_is_an_error(tmp_path, name, kind):
    """A folder from somebody else cannot empty any other file of the user, or block."""
    place, other = tmp_path / "run" / name, tmp_path / "victim"
    place.parent.mkdir()
    other.write_text("precious")
    PLANTS[kind](place, other)
    with pytest.raises(OSError, match=re.escape(str(place))):
        WRITERS[name](place)
    assert other.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
