"""A lock that keeps a second process from writing to a folder."""

import errno
import os
import socket
import time
import weakref
from contextlib import suppress
from pathlib import Path

from jaxnet.services.files import claim, open_regular_file
from jaxnet.services.warn import warn


class Held:
    """A lock on a folder, for the one process that writes there; `close` releases it.

    The system releases it when the process ends, however it ends: `kill -9` does not leave a lock
    behind. It is `fcntl.flock` on the file ".lock" in the folder, which stays there and names the
    process that holds it or held it last; on Windows it is `msvcrt.locking`. Over NFS it keeps out
    the processes of other hosts as well if the mount has locks, as NFS 4 always does. On a file
    system without locks, a warning says so, and nothing keeps a second process out.

    Args:
      who: Name of the caller, for messages.
      folder: Folder to lock; it must exist.

    Raises:
      BlockingIOError: If another process, or another `Held` of this process, holds the lock.
      OSError: If the lock cannot be written, or ".lock" is a link or another thing.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> held = Held("save", folder)
      >>> Held("save", folder)
      Traceback (most recent call last):
      ...
      BlockingIOError: save: ...
      >>> held.close()
      >>> Held("save", folder).close()
    """

    def __init__(self, who: str, folder: Path):
        number = open_regular_file(who, folder / ".lock", os.O_RDWR | os.O_CREAT)
        self._closing = weakref.finalize(self, os.close, number)
        try:
            self._take(who, folder, number)
        except BaseException:  # also Ctrl-C, whose traceback would keep the lock alive
            self.close()
            raise

    def _take(self, who: str, folder: Path, number: int) -> None:
        try:
            claim(number)
        except OSError as error:
            if error.errno in _LOCKED_BY_OTHERS:
                raise BlockingIOError(
                    f"{who}: {folder} is being written by {_note(number) or 'another process'}. A "
                    "folder takes one run at a time: wait until that run ends, or name another "
                    "folder"
                ) from None
            warn(
                f"{who}: {folder} is on a file system without locks ({error.strerror}): nothing "
                "keeps a second run from writing there, so let each run name another folder"
            )
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        note = f"process {os.getpid()} on {socket.gethostname()}, since {since}\n"
        with suppress(OSError):  # the disk is full, but the lock holds without its note
            os.ftruncate(number, 0)
            os.write(number, note.encode())
        _HELD.add(self)

    def close(self) -> None:
        """Release the lock; a second call does nothing."""
        self._closing()


# Errors of operating systems for a lock that another process holds.
_LOCKED_BY_OTHERS = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_HELD: weakref.WeakSet[Held] = weakref.WeakSet()


def _note(number: int) -> str:
    """Return who holds a lock; the holder writes its note a moment after taking it."""
    for _ in range(20):
        time.sleep(0.1)
        os.lseek(number, 0, os.SEEK_SET)
        if note := os.read(number, 1000).decode(errors="replace").strip():
            return note
    return ""


def _forked() -> None:
    """Close the copies of locks in a forked child, which would outlive a parent that is killed."""
    for held in list(_HELD):
        held.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
