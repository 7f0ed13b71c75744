"""The data that the devices of a compiled program send to each other."""

import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxnet.profile.by_layer import program_text
from jaxnet.profile.program import parse
from jaxnet.services.table import Table, Tabular, size_of

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """The collective operations of one kind among groups of one size.

    Fields:
      kind: Kind of operation: "all-reduce", "all-gather", "reduce-scatter", "all-to-all" or
        "collective-permute".
      devices: Number n of devices that take part in each.
      arrays: Number of arrays that are sent per run of the program, in all iterations of its loops.
      bytes: Bytes of these arrays, as a whole before or after they are cut among the devices.
      moved: Bytes that each device sends if the devices form a ring: 2 (n - 1) / n of the bytes in
        an all-reduce, (n - 1) / n in the other kinds, all in a permutation.
    """

    kind: str
    devices: int
    arrays: int
    bytes: int
    moved: int


@dataclass(repr=False)
class Collectives(Tabular):
    """The collective operations of a compiled program; prints as a table.

    Fields:
      rows: List of one `Collective` per kind and number of devices.
    """

    rows: list[Collective]

    def table(self) -> Table:
        rows = []
        for row in self.rows:
            sizes = size_of(row.bytes), size_of(row.moved)
            rows.append((row.kind, row.devices, row.arrays, *sizes))
        arrays = sum(row.arrays for row in self.rows)
        total = ("total", None, arrays, None, size_of(self.moved))
        head = ("collective", "devices", "arrays", "bytes", "sent by each")
        return Table("Collectives per run", head, rows, [total])

    @property
    def moved(self) -> int:
        """Bytes that each device sends per run of the program."""
        return sum(row.moved for row in self.rows)


def collectives(compiled: Any) -> Collectives:
    """Count the sums and exchanges among devices in a compiled program, and their bytes.

    They are read from the program after all optimizations. On CPU, XLA uses all-reduce where other
    backends may use reduce-scatter.

    Args:
      compiled: Program made by `jax.jit(f).lower(...).compile()`, for arguments on a mesh.

    Returns:
      `Collectives`, which print; `moved` holds the bytes that each device sends.

    Raises:
      TypeError: If `compiled` is not a compiled program.

    Example:
      >>> collectives(jax.jit(jnp.sum).lower(jnp.ones((3, 5))).compile()).rows
      []
    """
    totals: dict[tuple[str, int], list[int]] = {}
    channels = []
    text = program_text("collectives", compiled)
    first_line = text.partition("\n")[0]
    partitions = re.search(r"num_partitions=(\d+)", first_line)
    everyone = int(partitions[1]) if partitions else 1
    for run in parse(text).runs():
        kind = run.instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        if run.fused:
            # On TPUs, the start and the end of a collective may be in fusions of their own.
            channel = re.findall(r"channel_id=\d+", run.instruction.attributes)
            if channel and channel in channels:
                continue
            channels.append(channel)
        devices = _group(run.instruction.attributes, everyone)
        size = sum(shape.bytes for shape in run.operands)
        if kind == "all-gather":
            size *= devices
        entry = totals.setdefault((kind, devices), [0, 0, 0])
        entry[0] += run.times * len(run.operands)
        entry[1] += run.times * size
        entry[2] += run.times * _sent(kind, size, devices)
    return Collectives([Collective(*where, *sums) for where, sums in totals.items()])


def _sent(kind: str, size: int, devices: int) -> int:
    """Return the bytes that each device sends in a ring."""
    if kind == "collective-permute":
        return size
    if kind == "all-reduce":
        return 2 * size * (devices - 1) // devices
    return size * (devices - 1) // devices


def _group(attributes: str, everyone: int) -> int:
    """Return the number of devices in a group; all if none is given.

    It is 2 for `{{0,1},{2,3}}`, for `[2,2]<=[4]`, and for `mesh['a'=2,'b'=2] {'b'}`.
    """
    mesh = re.search(r"replica_groups=mesh\[([^]]*)\][^{]*\{([^}]*)\}", attributes)
    if mesh:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])  # 'b':(1)2 is a part of an axis
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    match = re.search(r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]+)\})", attributes)
    if not match:
        return everyone
    size, listed = match.groups()
    return int(size) if size else listed.count(",") + 1
