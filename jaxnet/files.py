"""Files that a user names: read with clear errors, written whole or not at all."""

import glob
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def file_path(who: str, path: Any, what: str = "path") -> Path:
    """A path with its `~` expanded; `what` is the argument.

    Raises:
      TypeError: for anything but a str or a path.
      ValueError: for an empty path, or one that no file has.

    Example:
      >>> file_path("save", 3)
      Traceback (most recent call last):
      ...
      TypeError: save: path must be a str or a Path, got int
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise TypeError(f"{who}: {what} must be a str or a Path, got {type(path).__name__}")
    words = os.fspath(path)
    if not words or "\0" in words:
        raise ValueError(f"{who}: {what} must be the name of a file, got {words!r:.60}")
    try:
        return Path(words).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{who}: {what} {words}: {error}") from None


def readable(who: str, path: Any, what: str = "path") -> Path:
    """The path of a file that can be read.

    Raises:
      TypeError, ValueError: as `file_path`.
      FileNotFoundError, IsADirectoryError: where there is no such file.
      OSError: where it cannot be read, such as a PermissionError, and for devices and pipes.

    Example:
      >>> readable("load", "/nowhere/net")
      Traceback (most recent call last):
      ...
      FileNotFoundError: load: there is no file /nowhere/net
    """
    path = file_path(who, path, what)
    try:
        if (mode := path.stat().st_mode) and stat.S_ISREG(mode):
            open(path, "rb").close()
    except FileNotFoundError:
        raise FileNotFoundError(f"{who}: there is no file {path}") from None
    except OSError as error:
        raise _told(error, f"{who}: {path} cannot be read") from error
    _check_kind(who, path, mode)
    return path


@contextmanager
def replacing(who: str, path: Any) -> Iterator[IO[bytes]]:
    """A binary file to write, which takes the place of `path` at the end of the block.

    The old file stays as it was until then, also where the program is killed. The new one keeps
    its mode and owner. Folders above it are made, a link stays a link. A program that is killed
    leaves no file where the system has files without a name; elsewhere it leaves one that ends in
    ".part", which the next write to the same path removes.

    Raises:
      TypeError, ValueError: as `file_path`.
      IsADirectoryError: where path is a folder.
      OSError: where it cannot be written, and for devices and pipes.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "new" / "words"
      >>> with replacing("save", path) as file:
      ...     _ = file.write(b"abc")
      >>> path.read_bytes()
      b'abc'
    """
    path = Path(os.path.realpath(file_path(who, path)))  # a link stays a link
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    old = None
    try:
        with suppress(FileNotFoundError):
            old = path.stat()
    except OSError as error:
        raise _told(error, f"{who}: {path} cannot be written") from error
    if old is not None:
        _check_kind(who, path, old.st_mode)
        if not os.access(path, os.W_OK):
            raise PermissionError(f"{who}: {path} cannot be written: it is read-only")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clean(path)
        file, named = _open(beside)
        with file:
            if old is not None:
                _as_before(file, beside, old)
            yield file
            file.flush()
            os.fsync(file.fileno())  # on the disk before it takes the old one's place
            if not named:
                _name(file, beside)
            if os.name == "nt":
                file.close()  # Windows moves no open file; elsewhere it keeps its lock
            os.replace(beside, path)
    except OSError as error:
        raise _told(error, f"{who}: {path} cannot be written") from error
    finally:
        with suppress(OSError):
            beside.unlink()


def _told(error: OSError, what: str) -> OSError:
    """The same error, which names the file of the user."""
    told = type(error)(f"{what}: {error.strerror or error}")
    told.errno = error.errno
    return told


def _check_kind(who: str, path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{who}: {path} is a folder; name a file in it")
    if not stat.S_ISREG(mode):
        raise OSError(f"{who}: {path} is a device, pipe or socket; name a file")


def _open(beside: Path) -> tuple[IO[bytes], bool]:
    """A new, locked file, and whether it has a name: without one, nothing is left by a kill."""
    if hasattr(os, "O_TMPFILE"):
        with suppress(OSError):  # not every file system has them
            file = open(os.open(beside.parent, os.O_TMPFILE | os.O_RDWR, 0o666), "w+b")
            if os.path.exists(f"/proc/self/fd/{file.fileno()}"):
                _lock(file)
                return file, False
            file.close()
    while True:
        file = open(beside, "x+b")
        _lock(file)
        if beside.exists():  # nobody took it for a stale one before it was locked
            return file, True
        file.close()


def _name(file: IO[bytes], beside: Path) -> None:
    number = file.fileno()
    try:
        # With src_dir_fd Python follows the link, which without it it does not.
        os.link(f"/proc/self/fd/{number}", beside, src_dir_fd=number, follow_symlinks=True)
    except OSError:
        file.seek(0)
        with open(beside, "xb") as named:
            shutil.copyfileobj(file, named)
            os.fsync(named.fileno())
        shutil.copymode(f"/proc/self/fd/{number}", beside)


def _as_before(file: IO[bytes], beside: Path, old: os.stat_result) -> None:
    """The mode of the old file, and its owner where that is allowed."""
    if hasattr(os, "fchmod"):
        with suppress(OSError):
            os.fchown(file.fileno(), old.st_uid, old.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
    else:
        beside.chmod(stat.S_IMODE(old.st_mode))


def _lock(file: IO[bytes]) -> None:
    """Marks a file as being written; the mark ends with the program."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _clean(path: Path) -> None:
    """Removes what killed programs left beside a file."""
    if fcntl is None:
        return
    for part in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.part"):
        with suppress(OSError), open(part, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where it is being written
            part.unlink()
