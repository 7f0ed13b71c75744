"""What precedes the weights in a file of llama.cpp, and the weights as they are stored.

The package gguf would read arrays one entry at a time, however many a file claims to have, and
weights wherever it says they are. llama.cpp refuses files whose weights do not follow each other.
"""

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.services.checks import is_integer

MAGIC = b"GGUF"
VERSIONS = 2, 3
ALIGNMENT = 32  # bytes, unless the file says otherwise
STRING, ARRAY = 8, 9
# How values are read: of a byte, of one or no, of integers and of floats.
FORMS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8",
    11: "<i8", 12: "<f8",
}  # fmt: skip
MOST_AXES = 4
FLOATS = {"F32": "<f4", "F16": "<f2"}  # other types stay bytes


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
      entries: Texts, numbers, or lists of one of these, by name.
    """

    weights: list[Weights]
    start: int
    alignment: int
    entries: dict[str, Any]


class Tensor(NamedTuple):
    """The weights of one name as they are stored.

    Fields:
      name: Name in the file.
      shape: Lengths of the axes, the innermost first.
      tensor_type: Their type, of the package gguf.
      data: Floats, or bytes of blocks along the last axis; the outermost axis comes first.
    """

    name: str
    shape: tuple[int, ...]
    tensor_type: Any
    data: np.ndarray


def read_header(path: Path) -> Header:
    """Return the entries of a file, and where its weights lie.

    Args:
      path: Existing file.

    Raises:
      ValueError: If it is not a whole file of llama.cpp; the message has no name of the file.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        cursor = _Cursor(file, size)
        count, entries = cursor.beginning()
        found = cursor.entries(entries)
        weights = [cursor.weights() for _ in range(cursor.counted(count, "weights"))]
        alignment = found.get("general.alignment", ALIGNMENT)
        if not is_integer(alignment) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"its alignment must be a power of two, got {alignment!r:.60}")
        start = -(-cursor.at // alignment) * alignment
    return Header(weights, start, alignment, found)


def read_entries(path: Path) -> dict[str, Any]:
    """Return the entries of a file by name: texts, numbers, or lists of one of these.

    Args:
      path: Existing file.

    Raises:
      ValueError: If it is not a file of llama.cpp; the message has no name of the file.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        cursor = _Cursor(file, size)
        _, count = cursor.beginning()
        return cursor.entries(count)


def read_tensors(path: Path, header: Header, package: Any) -> list[Tensor]:
    """Return the weights of a file, whose numbers are read from it when they are used.

    Args:
      path: File.
      header: Result of `read_header`.
      package: The package gguf, which knows how many bytes the blocks of a type have.

    Raises:
      ValueError: If a type is not known, two weights have one name, or weights do not fit their
        places; the message has no name of the file.
    """
    forms = [_form(each, package) for each in header.weights]
    sizes = {
        each.name: math.prod(form) for each, (_, form) in zip(header.weights, forms, strict=True)
    }
    if len(sizes) < len(header.weights):
        raise ValueError("two of its weights have one name")
    check_places(header, sizes, path.stat().st_size)
    whole = np.asarray(np.memmap(path, mode="r"))
    found = []
    for each, (type_, form) in zip(header.weights, forms, strict=True):
        first = header.start + each.offset
        data = whole[first : first + sizes[each.name]].reshape(form)
        if type_.name in FLOATS:
            data = data.view(FLOATS[type_.name])
        found.append(Tensor(each.name, each.shape, type_, data))
    return found


def _form(weights: Weights, package: Any) -> tuple[Any, tuple[int, ...]]:
    """Return the type of weights, and the shape of their bytes, the outermost axis first."""
    try:
        type_ = package.GGMLQuantizationType(weights.type)
    except ValueError:
        raise ValueError(
            f"the weights {weights.name!r:.60} have the type {weights.type}, which is not known"
        ) from None
    numbers, size = package.GGML_QUANT_SIZES[type_]
    columns, *rows = weights.shape
    if columns % numbers:
        raise ValueError(
            f"the weights {weights.name!r:.60} ({type_.name}) must have a multiple of {numbers} "
            f"columns, got {columns}"
        )
    return type_, (*reversed(rows), columns // numbers * size)


def check_places(header: Header, sizes: dict[str, int], end: int) -> None:
    """Raise unless the weights follow each other, and end in the file.

    Args:
      header: Result of `read_header`.
      sizes: Bytes of the weights by name.
      end: Bytes of the file.

    Raises:
      ValueError: As said above; the message has no name of the file.

    Example:
      >>> header = Header([Weights("a", (3,), 0, 0), Weights("b", (3,), 0, 32)], 64, 32, {})
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

    def number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def counted(self, count: int, what: str) -> int:
        """Return a number of things, of which each takes some bytes."""
        if count > self.size - self.at:
            raise ValueError(f"it announces {count} {what}, and has {self.size} bytes")
        return count

    def beginning(self) -> tuple[int, int]:
        """Return the numbers of weights and of entries, which a file begins with."""
        if self.take(4) != MAGIC:
            raise ValueError("it does not begin as files of llama.cpp do")
        version = self.number("<I")
        if version not in VERSIONS:
            raise ValueError(f"its version must be one of {VERSIONS}, got {version}")
        return self.number("<Q"), self.counted(self.number("<Q"), "entries")

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8")

    def entries(self, count: int) -> dict[str, Any]:
        """Return the entries of a file by name."""
        found: dict[str, Any] = {}
        for _ in range(count):
            name = self.text()
            if name in found:
                raise ValueError(f"it has the entry {name!r:.60} twice")
            found[name] = self.content(self.number("<I"))
        return found

    def content(self, kind: int) -> Any:
        """Return a value."""
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.numbers(kind, 1)[0]
        kind, count = self.number("<I"), self.number("<Q")
        if kind != STRING:
            return self.numbers(kind, count)
        return [self.content(STRING) for _ in range(self.counted(count, "texts"))]

    def numbers(self, kind: int, count: int) -> list[Any]:
        if kind not in FORMS:
            raise ValueError(f"a value has the type {kind}, which is not known")
        form = np.dtype(FORMS[kind])
        return np.frombuffer(self.take(count * form.itemsize), form).tolist()

    def weights(self) -> Weights:
        name, axes = self.text(), self.number("<I")
        if not 1 <= axes <= MOST_AXES:
            raise ValueError(f"the weights {name!r:.60} have {axes} axes")
        shape = tuple(self.number("<Q") for _ in range(axes))
        return Weights(name, shape, self.number("<I"), self.number("<Q"))
