"""What the processes of a run tell each other before they go on: the same, or all of them raise.

A program of several processes waits for all of them, for ever if one has left, and aborts them if
one runs another program. So each says what it does next, and an exit, also by an error, says so
too. All that is said has one form, a row, so that what differs can be read. Nothing is sent if a
mesh is of one process.

Whoever waits says so after some seconds, and raises after `JAXNET_WAIT` seconds, 60 by default.
"""

import atexit
import functools
import os
import sys
import time
import zlib
from _thread import start_new_thread
from collections import deque
from faulthandler import dump_traceback_later
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnet.services import preemption
from jaxnet.services.trees import PyTree

WAITS = "waits for its loader"
STOPS = "stops, as a signal asked it to"
LENGTH = 200  # bytes of the words of a process
SAID = 10  # seconds after which a process says that it waits
WAIT = 60.0  # seconds after which it waits no longer, unless JAXNET_WAIT says otherwise
LEFT = "left"
OWING = 10  # seconds for which a process that owes others a step waits for them in its exit
LEAVING = 300  # seconds for which JAX lets a process that has ended wait for the others
SAME = (
    "All processes must make the same calls in the same order, also those that seem to need one "
    "process alone, such as a save or a print of an array: take them out of `if "
    "jax.process_index() == 0:`. Batches must have the same shapes; let each loader repeat without "
    "end, and count steps"
)
events: deque[str] = deque(maxlen=2)  # the last batches of `feed`, and who used batches
_differ: list[Mesh] = []  # lines whose processes were told that they differ


class Said(NamedTuple):
    """A row on its way to all processes of a line: the words of this one, and the rows of all."""

    line: Mesh
    words: str
    rows: jax.Array


class Stopped(Exception):
    """Another process cannot go on, since a signal asked it to stop: there is no next batch."""


class Heard(NamedTuple):
    """What the processes have said.

    Fields:
      same: Whether all have said the same; False if some wait.
      stops: Whether a process cannot go on, since it was asked to stop, so that none may.
      numbers: The number that each process gave, by its index.
    """

    same: bool
    stops: bool
    numbers: list[int]


def shapes(tree: PyTree) -> str:
    """Return the shapes and dtypes of arrays in words.

    Example:
      >>> shapes((np.ones((2, 3)), np.arange(2)))
      'float64(2, 3), int64(2,)'
    """
    return ", ".join(f"{getattr(a, 'dtype', '')}{np.shape(a)}" for a in jax.tree.leaves(tree))


def everyone() -> Mesh:
    """Return a mesh of the devices of all processes."""
    return _line_of(tuple(jax.devices()))


def told(mesh: Mesh, words: str, number: int = 0) -> Said | None:
    """Begin to send words and a number to all processes of a mesh; None if there is one.

    Example:
      >>> told(jax.make_mesh((1,), ("data",)), "evaluates") is None
      True
    """
    line = _line_of(tuple(mesh.devices.flat))
    if (program := _program(line)) is None:
        return None
    with jax.set_mesh(line):
        return Said(line, words, program(_row(line, words, number, preemption.asked())))


def heard(who: str, said: Said) -> Heard:
    """Return what the processes have said; raise if they differ, or if one says nothing."""
    rows = [row.tobytes() for row in _received(who, said)]
    owners = [device.process_index for device in said.line.devices.flat]
    by_process = dict(zip(owners, rows, strict=True))
    words = {process: row[:LENGTH] for process, row in by_process.items()}
    messages = {process: row[: LENGTH + 4] for process, row in by_process.items()}
    numbers = [
        int.from_bytes(row[LENGTH + 4 : LENGTH + 8], "big", signed=True)
        for row in by_process.values()
    ]
    if any(row[-1] for row in rows):
        preemption.agree()
    stops = any(each.startswith(STOPS.encode()) for each in words.values())
    kinds = {row for row in messages.values() if not row.startswith(WAITS.encode())}
    if stops or len(kinds) < 2:
        return Heard(len(kinds) == len(set(messages.values())), stops, numbers)
    _differ.append(said.line)
    each = "; ".join(
        f"process {', '.join(str(process) for process in messages if messages[process] == row)}"
        f": {row[:LENGTH].decode(errors='replace').rstrip()}"
        for row in dict.fromkeys(messages.values())
    )
    raise RuntimeError(f"{who}: the processes differ, so all stop. {each}. {SAME}")


def agree(who: str, mesh: Mesh, words: str, number: int = 0) -> Heard:
    """Raise in all processes of a mesh unless all call this with the same words.

    Args:
      who: Name of the function, for messages.
      mesh: Mesh of the processes.
      words: What this process does next.
      number: Number below 2**31 that the others get, which may differ.

    Raises:
      RuntimeError: If a process says something else, has left, or says nothing for a minute.

    Example:
      >>> agree("fit", jax.make_mesh((1,), ("data",)), "begins an epoch", 5).numbers
      [5]
    """
    if (said := told(mesh, words, number)) is None:
        return Heard(True, False, [number])
    return heard(who, said)


def of_all(who: str, text: str | None) -> list[str | None]:
    """Return the texts of all processes, by their index; all must call it.

    Example:
      >>> of_all("save", "one")
      ['one']
    """
    if jax.process_count() == 1:
        return [text]
    words = np.frombuffer(b"" if text is None else text.encode(), np.uint8)
    lengths = agree(who, everyone(), f"{who}: tells the others", len(words)).numbers
    if not any(lengths):
        return [None] * len(lengths)
    padded = np.zeros(max(lengths), np.uint8)
    padded[: len(words)] = words
    rows = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    texts = [bytes(row[:n]).decode() for row, n in zip(rows, lengths, strict=True)]
    return [each or None for each in texts]


def patience() -> float:
    """Return for how many seconds a process waits for the others.

    Raises:
      ValueError: If JAXNET_WAIT is not a number above 0.

    Example:
      >>> patience()
      60.0
    """
    text = os.environ.get("JAXNET_WAIT", "")
    try:
        seconds = float(text) if text else WAIT
    except ValueError:
        seconds = 0
    if not seconds > 0:
        raise ValueError(f"JAXNET_WAIT must be a number of seconds above 0, got {text!r:.60}")
    return seconds


def _received(who: str, said: Said) -> np.ndarray:
    """Return the rows of all, for which a thread waits, since this one may not wait for ever."""
    answers: SimpleQueue = SimpleQueue()
    start_new_thread(_receive, (said.rows, answers))
    limit = patience()
    try:
        answer = _first(answers, min(SAID, limit))
        if answer is None and limit > SAID:
            print(f"{_waiting(who, said)} for {SAID} seconds", file=sys.stderr, flush=True)
            answer = _first(answers, limit - SAID)
    except BaseException:  # Ctrl-C: the row is still on its way
        _differ.append(said.line)
        raise
    if answer is None:
        _differ.append(said.line)
        raise RuntimeError(
            f"{who}: the processes differ, so this one stops. {_waiting(who, said)} for {limit:g} "
            f"seconds. {SAME}. If the others only need longer, set JAXNET_WAIT to more seconds"
        )
    if isinstance(answer, Exception):
        raise answer
    return answer


def _receive(rows: jax.Array, answers: SimpleQueue) -> None:
    try:
        answers.put(jax.device_get(rows.addressable_data(0)))
    except Exception as error:  # of the connection to a process that has ended
        answers.put(error)


def _first(answers: SimpleQueue, seconds: float) -> Any:
    try:
        return answers.get(timeout=max(seconds, 0))
    except Empty:
        return None


def _waiting(who: str, said: Said) -> str:
    here = jax.process_index()
    others = sorted({device.process_index for device in said.line.devices.flat} - {here})
    names = ", ".join(map(str, others))
    whom = f"process {names}" if len(others) == 1 else f"at least one of processes {names}"
    return f"{who}: process {here} ({said.words}) has waited for {whom}"


@functools.cache
def _line_of(devices: tuple[Any, ...]) -> Mesh:
    """Return devices in one order for all meshes of them.

    XLA orders programs of all devices of a process. On CPUs a program of one of them would run
    beside a step, and take its data.
    """
    each = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(each), ("process",))


@functools.cache
def _program(line: Mesh) -> Any:
    """Return what gives all processes the rows of all; None if there is one process."""
    if len({device.process_index for device in line.devices.flat}) == 1:
        return None
    atexit.register(_leave, line)
    return jax.jit(lambda rows: rows, out_shardings=NamedSharding(line, P()))


@functools.lru_cache(64)  # a step like the last one sends the same array
def _row(line: Mesh, words: str, number: int, asked: bool) -> jax.Array:
    text = words.encode()
    check = zlib.crc32(text).to_bytes(4, "big")
    numbers = number.to_bytes(4, "big", signed=True) + bytes([asked])
    row = np.frombuffer(text[:LENGTH].ljust(LENGTH) + check + numbers, np.uint8)
    rows = np.tile(row, (len(line.local_devices), 1))
    return jax.make_array_from_process_local_data(NamedSharding(line, P("process")), rows)


def _leave(line: Mesh) -> None:
    error = getattr(sys, "last_value", None)
    # Others that wait within a program hear it only by the end of this process, soon if it raised
    # or owes them a step. Else they may have other work, for which JAX gives them 300 seconds.
    owes = error is not None or [*events] == ["step", "batch"]
    seconds = OWING if owes else LEAVING
    # JAX may wait in a way that no thread of Python can end.
    dump_traceback_later(seconds + 1, exit=True, file=2)
    start_new_thread(_end, (seconds,))
    if line not in _differ:
        told(line, LEFT if error is None else f"{LEFT} by {error!r}")


def _end(seconds: float) -> None:
    """End this process after some seconds, in which the others did not end."""
    time.sleep(min(seconds, SAID))
    if seconds > SAID:
        print(
            f"jaxnet: process {jax.process_index()} has ended its work, and waits for the others, "
            f"as JAX does for up to {seconds} seconds",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(seconds - SAID)
    print(
        f"jaxnet: process {jax.process_index()} ends, since others wait for it or did not end "
        f"within {seconds} seconds",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)
