"""Log numbers: one line of JSON for each epoch, which any tool reads."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxnet.services.checks import check_type
from jaxnet.services.files import explained, file_path, open_regular_file, replace_file
from jaxnet.services.json_text import parse_json
from jaxnet.training.epoch import Epoch


def append_log(path: str | os.PathLike, epoch: Epoch | Mapping[str, float]) -> None:
    """Append the numbers of an epoch to a file, as one line of JSON.

    After a run was resumed, the lines of repeated steps are dropped first. An incomplete line, left
    by a killed program, is dropped too. With several processes, only the first one writes.

    Args:
      path: Path of the file, such as "runs/a/log.jsonl"; missing parent folders are created.
      epoch: Epoch of `fit`, or a dict of numbers with "step". A number that is not finite becomes
        null, since JSON cannot hold it.

    Raises:
      TypeError: If `epoch` is neither an Epoch nor a dict.
      ValueError: If the dict lacks "step", or if the file is not a log.
      OSError: If the file cannot be written.

    Example:
      >>> import pathlib, tempfile
      >>> path = f"{tempfile.mkdtemp()}/log.jsonl"
      >>> for step in (100, 200, 300, 200):  # resumed at step 100
      ...     append_log(path, {"step": step, "train/loss": 50 / step})
      >>> print(pathlib.Path(path).read_text().strip())
      {"step": 100, "train/loss": 0.5}
      {"step": 200, "train/loss": 0.25}
    """
    check_type("append_log", "", epoch, Epoch | Mapping, "an Epoch or a dict of numbers")
    if isinstance(epoch, Epoch):
        row: dict[str, Any] = epoch.scalars()
    else:
        row = {str(name): float(value) for name, value in epoch.items() if name != "step"}
        if "step" not in epoch:
            raise ValueError(f'append_log: the numbers need a "step", got {", ".join(row)}')
        row = {"step": int(epoch["step"])} | row
    path = file_path("append_log", path)
    if jax.process_index():
        return
    numbers = {name: value if math.isfinite(value) else None for name, value in row.items()}
    line = f"{json.dumps(numbers)}\n".encode()
    with explained("append_log", path, "written"):
        _append(path, row["step"], line)


def _append(path: Path, step: int, line: bytes) -> None:
    """Append a line, after dropping those of the same step and later ones."""
    end = _end(path)
    last = end.rstrip(b"\n").rpartition(b"\n")[2]
    if not end or (end.endswith(b"\n") and _step(path, last) < step):
        path.parent.mkdir(parents=True, exist_ok=True)
        number = open_regular_file("append_log", path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with os.fdopen(number, "ab") as file:
            file.write(line)
        return
    words = path.read_bytes()
    lines = words[: words.rfind(b"\n") + 1].splitlines(True)
    earlier = [old for old in lines if _step(path, old) < step]
    replace_file("append_log", path, b"".join(earlier) + line)


def _end(path: Path, size: int = 2**14) -> bytes:
    """Return the last bytes of a file, with at least one whole line of usual length."""
    if not os.path.lexists(path):
        return b""
    with os.fdopen(open_regular_file("append_log", path, os.O_RDONLY), "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read()


def _step(path: Any, line: bytes) -> int:
    try:
        return int(parse_json(line)["step"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"append_log: {path} is not a log of steps: {line[:60]!r}") from None
