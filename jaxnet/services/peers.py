"""What the processes of a run tell each other before they go on: the same, or all of them raise.

A program of several processes waits for all of them, for ever if one has left. So each says what it
does next, and an exit, also by an error, says so too. Nothing is sent if a mesh is of one process.
"""

import atexit
import functools
import sys
import zlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnet.services.trees import PyTree

WAITS = "waits for its loader"
LENGTH = 200  # bytes of the words of a process
_differ: list[Mesh] = []  # meshes whose processes were told that they differ


def shapes(tree: PyTree) -> str:
    """Return the shapes and dtypes of arrays in words.

    Example:
      >>> shapes((np.ones((2, 3)), np.arange(2)))
      'float64(2, 3), int64(2,)'
    """
    return ", ".join(
        f"{getattr(leaf, 'dtype', '')}{np.shape(leaf)}" for leaf in jax.tree.leaves(tree)
    )


def told(mesh: Mesh, words: str) -> jax.Array | None:
    """Begin to send words to all processes of a mesh; None if there is one.

    Example:
      >>> told(jax.make_mesh((1,), ("data",)), "evaluates") is None
      True
    """
    if jax.process_count() == 1 or (sending := _sending(mesh)) is None:
        return None
    where, program, _ = sending
    said = words.encode()
    row = said[:LENGTH].ljust(LENGTH) + zlib.crc32(said).to_bytes(4, "big")
    with jax.set_mesh(where.mesh):  # type: ignore[arg-type]
        row = np.frombuffer(row, np.uint8)[None]
        return program(jax.make_array_from_process_local_data(where, row))


def heard(who: str, mesh: Mesh, sent: jax.Array) -> bool:
    """Return whether all have said the same, False if some wait; raise if they differ."""
    rows = [row.tobytes() for row in jax.device_get(sent.addressable_data(0))]
    known = {row for row in rows if not row.startswith(WAITS.encode())}
    if len(known) < 2:
        return len(known) == len(set(rows))
    _differ.append(mesh)
    groups: dict[bytes, list[str]] = {}
    for index, row in zip(_sending(mesh)[-1], rows, strict=True):  # type: ignore[index]
        groups.setdefault(row, []).append(str(index))
    each = "; ".join(
        f"process {', '.join(indices)}: {row[:LENGTH].decode(errors='replace').rstrip()}"
        for row, indices in groups.items()
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
def _sending(mesh: Mesh) -> tuple[NamedSharding, Any, list[int]] | None:
    each = {device.process_index: device for device in mesh.devices.flat}
    if len(each) == 1:
        return None
    indices = sorted(each)
    line = Mesh(np.array([each[index] for index in indices]), ("process",))
    atexit.register(_leave, mesh)
    program = jax.jit(lambda rows: rows, out_shardings=NamedSharding(line, P()))
    return NamedSharding(line, P("process")), program, indices


def _leave(mesh: Mesh) -> None:
    error = getattr(sys, "last_value", None)
    if mesh not in _differ:
        told(mesh, "left" if error is None else f"left by {error!r}")
