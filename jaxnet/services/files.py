"""Files that a user names: reads with clear errors, writes whole or not at all."""

import errno
import glob
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


LONGEST = 240  # bytes; systems allow 255, and a file that is being written has 15 more
# What to do about errors of the system.
REMEDIES = {
    errno.EACCES: "change its permissions, or those of the folders above it",
    errno.EDQUOT: "remove files of yours, or choose another disk",
    errno.EEXIST: "a part of the path is a file, or a link that leads nowhere",
    errno.EFBIG: "the system limits the size of files: see ulimit -f",
    errno.ELOOP: "a link leads back to itself",
    errno.EMFILE: "the program has too many open files: see ulimit -n",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOSPC: "free some space, or choose another disk",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EROFS: "choose a folder on another disk",
}


def file_path(who: str, path: Any, what: str = "path") -> Path:
    """Return a path with its `~` expanded; `what` is the name of the argument.

    Raises:
      TypeError: If `path` is not a str or a path.
      ValueError: If `path` is empty, or cannot be the path of a file.

    Example:
      >>> file_path("save", 3)
      Traceback (most recent call last):
      ...
      TypeError: save: path must be a str or a Path, got int
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise TypeError(f"{who}: {what} must be a str or a Path, got {type(path).__name__}")
    words = os.fspath(path)
    if not words or "\0" in words or not _can_be_encoded(words):
        raise ValueError(f"{who}: {what} must be the name of a file, got {words!r:.60}")
    try:
        return Path(words).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{who}: {what} {words}: {error}") from None


def _can_be_encoded(words: str) -> bool:
    """Return whether a name has bytes; half of a surrogate pair has none."""
    try:
        os.fsencode(words)
    except UnicodeEncodeError:
        return False
    return True


def readable(who: str, path: Any, what: str = "path") -> Path:
    """Return the path of a file that can be read.

    Raises:
      TypeError, ValueError: If `file_path` raises.
      FileNotFoundError: If the file does not exist.
      IsADirectoryError: If `path` is a directory.
      OSError: If the file cannot be read (such as a PermissionError), or is a device or a pipe.

    Example:
      >>> readable("load", "/nowhere/net")
      Traceback (most recent call last):
      ...
      FileNotFoundError: load: there is no file '/nowhere/net'
    """
    path = file_path(who, path, what)
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            open(path, "rb").close()
    except FileNotFoundError:
        raise FileNotFoundError(f"{who}: there is no file {str(path)!r}") from None
    except OSError as error:
        raise told(error, f"{who}: {path} cannot be read") from error
    _check_kind(who, path, mode)
    return path


def is_folder(who: str, path: Path) -> bool:
    """Return whether a path is a folder that can be listed.

    Raises:
      OSError: If nobody can say, or the folder cannot be listed, such as without permission.

    Example:
      >>> is_folder("load", Path("/nowhere"))
      False
    """
    if not exists(who, path) or not path.is_dir():
        return False
    with explained(who, path, "read"):
        os.scandir(path).close()
    return True


def exists(who: str, path: Path) -> bool:
    """Return whether there is a file or a folder of this name, not a link that leads nowhere.

    Raises:
      OSError: If nobody can say, such as for a name that is too long.

    Example:
      >>> exists("load", Path("/nowhere"))
      False
    """
    with explained(who, path, "read"):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


@contextmanager
def explained(who: str, path: Path, done: str) -> Iterator[None]:
    """Say who could not do what if the system raises; errors with a message of ours stay.

    Args:
      who: Name of the caller.
      path: Path that the block reads or writes.
      done: What cannot be done: "read" or "written".

    Example:
      >>> with explained("load", Path("a"), "read"):
      ...     raise OSError(5, "Input/output error")
      Traceback (most recent call last):
      ...
      OSError: load: a cannot be read: Input/output error
    """
    try:
        yield
    except OSError as error:
        if error.strerror is None:
            raise
        raise told(error, f"{who}: {path} cannot be {done}") from error


@contextmanager
def replacing(who: str, path: Any, must_be_regular: bool = False) -> Iterator[IO[bytes]]:
    """Open a binary file to write, which replaces `path` at the end of the block.

    Until then the old file is unchanged, even if the program is killed. The new one keeps its
    mode and owner. Missing parent folders are created, and a symbolic link remains one. A program
    that is killed leaves a file that ends in ".part", which the next write to the same path
    removes. With `must_be_regular`, the library itself names the file, which must be plain; see
    `open_regular_file`.

    Raises:
      TypeError, ValueError: If `file_path` raises.
      IsADirectoryError: If `path` is a directory.
      OSError: If the file cannot be written, or is a device or a pipe.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "new" / "words"
      >>> with replacing("save", path) as file:
      ...     _ = file.write(b"abc")
      >>> path.read_bytes()
      b'abc'
    """
    path = file_path(who, path)
    if not must_be_regular:
        path = Path(os.path.realpath(path))  # symbolic links are followed
    elif os.path.lexists(path):
        os.close(open_regular_file(who, path, os.O_RDONLY))
    part = path.with_name(f".{_short(path.name)}.{secrets.token_hex(4)}.part")
    old = None
    try:
        with suppress(FileNotFoundError):
            old = path.stat()
    except OSError as error:
        raise told(error, f"{who}: {path} cannot be written") from error
    if old is not None:
        _check_kind(who, path, old.st_mode)
        if not os.access(path, os.W_OK):
            raise PermissionError(f"{who}: {path} cannot be written: it is read-only")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clean(path)
        with _locked(part) as file:
            if old is not None:
                _as_before(file, part, old)
            yield file
            file.flush()
            os.fsync(file.fileno())  # written to disk before it replaces the old file
            if os.name == "nt":
                file.close()  # Windows cannot move an open file; elsewhere the file keeps its lock
            os.replace(part, path)
    except OSError as error:
        raise told(error, f"{who}: {path} cannot be written") from error
    finally:
        with suppress(OSError):
            part.unlink()


def replace_file(who: str, path: Any, data: bytes, must_be_regular: bool = False) -> None:
    """Write a whole file, as `replacing` does.

    Example:
      >>> replace_file("save", "", b"abc")
      Traceback (most recent call last):
      ...
      ValueError: save: path must be the name of a file, got ''
    """
    with replacing(who, path, must_be_regular) as file:
        file.write(data)


def open_regular_file(who: str, path: Path, flags: int) -> int:
    """Open a file that the library itself names in a folder of the user; return its number.

    A folder may come from somebody else: a link with this name would lead to any file of the user,
    and a pipe would block. So it must be a plain file with one name.

    Raises:
      OSError: If it is anything else, or cannot be opened.
    """
    safe = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"))
    odd = OSError(f"{who}: {path} must be a plain file, not a link, pipe or device; remove it")
    done = "written" if flags & (os.O_WRONLY | os.O_RDWR) else "read"
    with explained(who, path, done):
        is_link = path.is_symlink()
    if is_link:
        raise odd
    try:
        number = os.open(path, flags | safe | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise odd from None
        raise told(error, f"{who}: {path} cannot be {done}") from None
    status = os.fstat(number)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(number)
        raise odd
    return number


def told(error: OSError, what: str, *, advice: bool = True) -> OSError:
    """Return the same error with a message that says what cannot be done.

    Args:
      error: Error of the system.
      what: What cannot be done, with the name of the caller and the path.
      advice: Whether to say what to do, if that is known.

    Example:
      >>> told(OSError(5, "Input/output error", "x.part"), "save: net cannot be written")
      OSError('save: net cannot be written: Input/output error')
    """
    remedy = REMEDIES.get(error.errno or 0) if advice else None
    reason = f"{error.strerror or error}"
    named = type(error)(f"{what}: {reason}; {remedy}" if remedy else f"{what}: {reason}")
    named.errno = error.errno
    return named


def claim(number: int) -> None:
    """Lock an open file until it is closed or the process ends.

    Raises:
      OSError: If the file is locked already, or is on a file system without locks.
    """
    if fcntl is not None:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt

        os.lseek(number, 2**30, os.SEEK_SET)  # past the end of the text, which other processes read
        msvcrt.locking(number, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        os.lseek(number, 0, os.SEEK_SET)


def _check_kind(who: str, path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{who}: {path} is a folder; name a file in it")
    if not stat.S_ISREG(mode):
        raise OSError(f"{who}: {path} is a device, pipe or socket; name a file")


def _locked(part: Path) -> IO[bytes]:
    """Return a new file, which is locked while it is written."""
    while True:
        file = open(part, "x+b")
        with suppress(OSError):
            claim(file.fileno())
        if part.exists():  # no other process removed it as stale before it was locked
            return file
        file.close()


def _as_before(file: IO[bytes], part: Path, old: os.stat_result) -> None:
    """Give the new file the old file's mode and, if that is allowed, its owner."""
    if hasattr(os, "fchown"):
        with suppress(OSError):
            os.fchown(file.fileno(), old.st_uid, old.st_gid)
    part.chmod(stat.S_IMODE(old.st_mode))


def _short(name: str) -> str:
    """Return a name, or its hash if systems allow nothing more in a name as long as this."""
    words = os.fsencode(name)
    return name if len(words) <= LONGEST else hashlib.sha256(words).hexdigest()


def _clean(path: Path) -> None:
    """Remove what killed programs left next to a file; Windows does not remove open files."""
    for part in path.parent.glob(f".{glob.escape(_short(path.name))}.{'[0-9a-f]' * 8}.part"):
        with suppress(OSError), os.fdopen(open_regular_file("", part, os.O_RDONLY), "rb") as file:
            claim(file.fileno())  # raises if another process is writing the file
            part.unlink()


class OneByOne(Mapping):
    """Arrays by name that are read or made when they are asked for, none in another's memory."""

    def __contains__(self, name: object) -> bool:
        return name in list(self)  # a Mapping would read the array
