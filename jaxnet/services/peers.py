"""What the processes of a run tell each other before they go on: the same, or all of them raise.

A program of several processes waits for all of them, for ever if one has left. So each says what it
does next, and an exit, also by an error, says so too. Nothing is sent if a mesh is of one process.
"""

import atexit
import functools
import sys
import zlib
from collections import deque
from faulthandler import dump_traceback_later
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnet.services.trees import PyTree

WAITS = "waits for its loader"
LENGTH = 200  # bytes of the words of a process
_differ: list[Mesh] = []  # meshes whose processes were told that they differ
events: deque[str] = deque(maxlen=2)  # the last batches of `feed`, and who used batches


def shapes(tree: PyTree) -> str:
    """Return the shapes and dtypes of arrays in words.

    Example:
      >>> shapes((np.ones((2, 3)), np.arange(2)))
      'float64(2, 3), int64(2,)'
    """
    return ", ".join(f"{getattr(a, 'dtype', '')}{np.shape(a)}" for a in jax.tree.leaves(tree))


def told(mesh: Mesh, words: str) -> jax.Array | None:
    """Begin to send words to all processes of a mesh; None if there is one.

    Example:
      >>> told(jax.make_mesh((1,), ("data",)), "evaluates") is None
      True
    """
    if (sending := _sending(mesh)) is None:
        return None
    line, program = sending
    with jax.set_mesh(line):
        return program(_row(line, words))


def heard(who: str, mesh: Mesh, sent: jax.Array) -> bool:
    """Return whether all have said the same, False if some wait; raise if they differ."""
    rows = [row.tobytes() for row in jax.device_get(sent.addressable_data(0))]
    messages = {row for row in rows if not row.startswith(WAITS.encode())}
    if len(messages) < 2:
        return len(messages) == len(set(rows))
    _differ.append(mesh)
    names = [str(device.process_index) for device in _sending(mesh)[0].devices]  # type: ignore
    said = dict(zip(names, rows, strict=True))
    each = "; ".join(
        f"process {', '.join(name for name in said if said[name] == row)}"
        f": {row[:LENGTH].decode(errors='replace').rstrip()}"
        for row in dict.fromkeys(rows)
    )
    raise RuntimeError(
        f"{who}: the processes differ, so all stop. {each}. Each must do the same steps with "
        "batches of the same shapes; let each loader repeat without end, and count steps"
    )


def agree(who: str, mesh: Mesh, words: str) -> None:
    """Raise in all processes of a mesh unless all call this with the same words.

    Example:
      >>> agree("fit", jax.make_mesh((1,), ("data",)), "begins an epoch")
    """
    if (sent := told(mesh, words)) is not None:
        heard(who, mesh, sent)


@functools.cache
def _sending(mesh: Mesh) -> tuple[Mesh, Any] | None:
    each = sorted(mesh.devices.flat, key=lambda device: (device.process_index, device.id))
    if each[0].process_index == each[-1].process_index:
        return None
    # XLA orders programs of all devices of a process. On CPUs a program of one of them would run
    # beside a step, and take its data.
    line = Mesh(np.array(each), ("process",))
    atexit.register(_leave, mesh)
    return line, jax.jit(lambda rows: rows, out_shardings=NamedSharding(line, P()))


@functools.lru_cache(64)  # a step like the last one sends the same array
def _row(line: Mesh, words: str) -> jax.Array:
    said = words.encode()
    row = said[:LENGTH].ljust(LENGTH) + zlib.crc32(said).to_bytes(4, "big")
    rows = np.tile(np.frombuffer(row, np.uint8), (len(line.local_devices), 1))
    return jax.make_array_from_process_local_data(NamedSharding(line, P("process")), rows)


def _leave(mesh: Mesh) -> None:
    error = getattr(sys, "last_value", None)
    # Others that wait within a program hear it only by the end of this process, soon if it raised
    # or owes them a step. Else they may have other work, for which JAX gives them 300 seconds.
    dump_traceback_later(10 if error or [*events] == ["step", "batch"] else 300, exit=True, file=2)
    if mesh not in _differ:
        told(mesh, "left" if error is None else f"left by {error!r}")
