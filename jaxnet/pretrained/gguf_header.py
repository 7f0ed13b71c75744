"""A look at the beginning of a file of llama.cpp, before the package gguf reads it.

The package reads arrays one entry at a time, however many a file claims to have, and weights
wherever it says they are. llama.cpp refuses files whose weights do not follow each other.
"""

import struct
from pathlib import Path
from typing import NamedTuple

MAGIC = b"GGUF"
VERSIONS = 2, 3
ALIGNMENT = 32  # bytes, unless the file says otherwise
STRING, ARRAY = 8, 9
# Bytes of each type of a value.
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
MOST_AXES = 4


class Weights(NamedTuple):
    """Where the weights of one name lie.

    Fields:
      name: Name in the file.
      shape: Lengths of the axes, the innermost first.
      type: Number of the type of the numbers.
      offset: Bytes from the first weights of the file.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


class Header(NamedTuple):
    """What precedes the weights.

    Fields:
      weights: Where each of them lies.
      start: Byte of the first of them.
      alignment: Bytes that each of them begins at a multiple of.
    """

    weights: list[Weights]
    start: int
    alignment: int


def read_header(path: Path) -> Header:
    """Return where the weights of a file lie.

    Args:
      path: Existing file.

    Raises:
      ValueError: If it is not a whole file of llama.cpp; the message has no name of the file.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        cursor = _Cursor(file, size)
        if cursor.take(4) != MAGIC:
            raise ValueError("it does not begin as files of llama.cpp do")
        version = cursor.number("<I")
        if version not in VERSIONS:
            raise ValueError(f"its version must be one of {VERSIONS}, got {version}")
        count, entries = cursor.number("<Q"), cursor.number("<Q")
        alignment = ALIGNMENT
        for _ in range(cursor.counted(entries, "entries")):
            name = cursor.text()
            value = cursor.value(cursor.number("<I"))
            if name == "general.alignment":
                alignment = value
        weights = [cursor.weights() for _ in range(cursor.counted(count, "weights"))]
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"its alignment must be a power of two, got {alignment!r}")
        start = -(-cursor.at // alignment) * alignment
    return Header(weights, start, alignment)


def check_places(header: Header, sizes: dict[str, int], end: int) -> None:
    """Raise unless the weights follow each other, and end in the file.

    Args:
      header: Result of `read_header`.
      sizes: Bytes of the weights by name.
      end: Bytes of the file.

    Raises:
      ValueError: As said above; the message has no name of the file.

    Example:
      >>> header = Header([Weights("a", (3,), 0, 0), Weights("b", (3,), 0, 32)], 64, 32)
      >>> check_places(header, {"a": 12, "b": 12}, 200)
    """
    expected = 0
    for each in header.weights:
        if each.offset != expected:
            raise ValueError(
                f"the weights {each.name!r:.60} begin at byte {each.offset}, and those before end "
                f"at {expected}"
            )
        if header.start + expected + sizes[each.name] > end:
            raise ValueError(f"it ends within the weights {each.name!r:.60}")
        expected += -(-sizes[each.name] // header.alignment) * header.alignment


class _Cursor:
    """Reads what precedes the weights, and nothing beyond the end of the file."""

    def __init__(self, file, size: int):
        self.file, self.size, self.at = file, size, 0

    def take(self, count: int) -> bytes:
        if count > self.size - self.at:
            raise ValueError(f"it ends at byte {self.size}, and {count} more are announced")
        self.at += count
        return self.file.read(count)

    def skip(self, count: int) -> None:
        if count > self.size - self.at:
            raise ValueError(f"it ends at byte {self.size}, and {count} more are announced")
        self.at += count
        self.file.seek(self.at)

    def number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def counted(self, count: int, what: str) -> int:
        """Return a number of things, of which each takes some bytes."""
        if count > self.size - self.at:
            raise ValueError(f"it announces {count} {what}, and has {self.size} bytes")
        return count

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> int | None:
        """Pass a value, and return it if it is a number of 32 bits."""
        if kind == STRING:
            self.skip(self.number("<Q"))
        elif kind == ARRAY:
            self.array()
        elif kind not in SIZES:
            raise ValueError(f"a value has the type {kind}, which is not known")
        elif kind == 4:
            return self.number("<I")
        else:
            self.skip(SIZES[kind])
        return None

    def array(self) -> None:
        kind, count = self.number("<I"), self.number("<Q")
        if kind in SIZES:
            self.skip(count * SIZES[kind])
            return
        if kind != STRING:
            raise ValueError(f"an array has entries of the type {kind}, which is not known")
        for _ in range(self.counted(count, "texts")):
            self.skip(self.number("<Q"))

    def weights(self) -> Weights:
        name, axes = self.text(), self.number("<I")
        if axes > MOST_AXES:
            raise ValueError(f"the weights {name!r:.60} have {axes} axes")
        shape = tuple(self.number("<Q") for _ in range(axes))
        return Weights(name, shape, self.number("<I"), self.number("<Q"))
