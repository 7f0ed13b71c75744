"""The contents of a checkpoint in addition to arrays: the run as JSON.

A step is a folder with a file for each process, which has its part of the arrays and the same run.
"""

import base64
import itertools
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnet.services.extras import version
from jaxnet.services.peers import of_all
from jaxnet.services.saving import OtherFormat, config_of
from jaxnet.services.trees import as_lines, differences, in_words
from jaxnet.training.described import check_run
from jaxnet.training.epoch import Position
from jaxnet.training.train_state import TrainState

FORMAT = 3  # increase it if older versions cannot read the files of this version


def file_of(folder: Path, process: int) -> Path:
    """Return the file of a checkpoint that a process writes."""
    return folder / f"{process}.safetensors"


def damage(folder: Path) -> str | None:
    """Say what is wrong with the files of a checkpoint; None if it is whole.

    Args:
      folder: Folder of the checkpoint.
    """
    for process in itertools.count():
        file = file_of(folder, process)
        try:
            if not file.is_file():
                return f"{file.name} is missing, or an older version of jaxnet wrote it"
            run = config_of("Checkpoints", file)
        except OtherFormat:  # `read_run` says so
            return None
        except ValueError:
            return f"{file.name} was changed"
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        count = run.get("processes", 1) if isinstance(run, dict) else 1
        if not isinstance(count, int) or process + 1 >= count:
            return None


def run_to_json(
    train_state: TrainState, position: Position, scalars: dict[str, float]
) -> dict[str, Any]:
    """Describe a train_state, its position and its numbers as JSON; all processes must call it.

    Args:
      train_state: Train_state that is saved.
      position: Its position in the run.
      scalars: Numbers of the epoch that are finite.
    """
    key = None if position.key is None else np.asarray(position.key).tolist()
    loader = of_all("Checkpoints", _state_to_text(position.loader))
    return {
        "format": FORMAT,
        "id": by_first(lambda: secrets.token_hex(8)),  # the same in all files of this save
        "jaxnet": version(),
        "processes": jax.process_count(),
        "position": position._asdict() | {"key": key, "loader": loader},
        "leaves": in_words(train_state),
        "optimizer": kinds_of(train_state.opt_state),
        "scalars": scalars,
    }


def read_run(folder: Path) -> dict[str, Any]:
    """Read the result of `run_to_json` from a checkpoint that `damage` found to be whole.

    Args:
      folder: Folder of the checkpoint.

    Raises:
      OSError: If it cannot be read.
      ValueError: If it was written by another version of jaxnet; the message names the version.
    """
    written = None
    stored = config_of("Checkpoints", file_of(folder, 0), verify=False)
    with suppress(AttributeError, TypeError, KeyError):
        written = stored.get("jaxnet")
        kinds = {"processes": int, "leaves": dict, "optimizer": str, "scalars": dict}
        is_this_format = stored["format"] == FORMAT and stored["position"].keys() == set(
            Position._fields
        )
        if is_this_format and all(isinstance(stored[name], kind) for name, kind in kinds.items()):
            return stored
    writer = f" ({written})" if isinstance(written, str) else ""
    raise ValueError(
        f"Checkpoints: {folder} was written by another version of jaxnet{writer}, and this is "
        f"{version()}. Continue the run with the version that wrote it, or name another folder"
    )


def check_like(folder: Path, stored: dict[str, Any], like: TrainState) -> None:
    """Raise if a checkpoint does not fit the model or the optimizer of a train_state.

    Args:
      folder: Folder of the checkpoint, for the message.
      stored: Result of `read_run`.
      like: Train_state or its specs.

    Raises:
      ValueError: If arrays or states differ; the message names them.
    """
    differing = differences(in_words(like), stored["leaves"])
    kinds = kinds_of(like.opt_state)
    had = stored["optimizer"]
    if not differing and had == kinds:
        return
    what = "model:"
    if all(path.startswith("opt_state") for path in differing):
        what = f"optimizer: this train_state needs {kinds}, and it has {had}"
    lines = [f"Checkpoints: {folder} is of another {what}", *as_lines(differing, most=8)]
    raise ValueError("\n".join([*lines, "Name another folder for this one"]))


def kinds_of(state: Any) -> str:
    """Return the names of the states of an optimizer, including states without arrays."""
    inner: Any = ()
    if isinstance(state, dict):
        inner = state.values()
    elif isinstance(state, list | tuple):
        inner = state
    words = ", ".join(filter(None, map(kinds_of, inner)))
    if not isinstance(state, tuple):
        return words
    name = type(state).__name__ if hasattr(state, "_fields") else ""
    return f"{name}({words})" if words or not name else name


def position_from_json(stored: dict[str, Any]) -> Position:
    """Make the position of this process from the result of `read_run`.

    Args:
      stored: Result of `read_run`.

    Raises:
      OSError: If it is not what `run_to_json` writes.
      ValueError: If each process had its own position in the data, and there are more or fewer now.
    """
    *numbers, key, loaders, run = (stored["position"][name] for name in Position._fields)
    is_valid = all(isinstance(number, int) and number >= 0 for number in numbers)
    is_valid = is_valid and isinstance(loaders, list) and len(loaders) == stored["processes"]
    if not is_valid:
        raise OSError(f"its position is {stored['position']!r:.200}")
    before = stored["processes"]
    now = jax.process_count()
    if before != now and any(loader is not None for loader in loaders):
        raise ValueError(
            f"Checkpoints: the run read its data in {before} processes, each at its own position, "
            f"and there are {now}; resume with {before}, or pass position=None to start its pass "
            "again"
        )
    loader = loaders[jax.process_index()] if before == now else None
    try:
        check_run(run, run)  # it raises unless `describe_run` wrote it
        key = None if key is None else np.array(key, np.uint32).reshape(-1)
        loader = None if loader is None else _state_from_text(loader)
    except Exception as error:  # what is no position can fail anywhere
        raise OSError(f"its position is broken: {error!r}") from None
    return Position(**stored["position"])._replace(key=key, loader=loader)


def _state_to_text(state: Any) -> str | None:
    """Return the state of an iterator as text: bytes, or what JSON holds."""
    if state is None:
        return None
    if isinstance(state, bytes):
        return "bytes:" + base64.b64encode(state).decode()
    try:  # NumPy's arrays and numbers become lists and numbers
        return "json:" + json.dumps(state, default=lambda value: value.tolist())
    except (AttributeError, TypeError, ValueError, RecursionError):  # also one that holds itself
        raise TypeError(
            f"Checkpoints.save: the state of the loader must be bytes or JSON, got {state!r:.60}"
        ) from None


def _state_from_text(text: str) -> Any:
    kind, _, words = text.partition(":")
    return base64.b64decode(words) if kind == "bytes" else json.loads(words)


def by_first(find: Callable[[], Any]) -> Any:
    """Call a function in the first process alone; all processes get its result or its error.

    Args:
      find: Function that returns JSON, and raises an OSError or a ValueError.

    Raises:
      OSError, ValueError: If `find` raises them.
    """
    if jax.process_count() == 1:
        return find()
    result = error = None
    if jax.process_index() == 0:
        try:
            result = find()
        except (OSError, ValueError) as raised:
            error = raised
    text = json.dumps([result, error and isinstance(error, ValueError), str(error)])
    result, invalid, words = json.loads(of_all("Checkpoints", text)[0] or "")
    if error is not None:
        raise error
    if invalid is not None:
        raise ValueError(words) if invalid else OSError(words)
    return result
