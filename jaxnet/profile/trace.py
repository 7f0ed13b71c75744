"""Events in the file of a trace that JAX's profiler wrote (.xplane.pb).

JAX's own reader of these files warns in C++ at its first use, which ends the process if warnings
are errors, and before JAX 0.8 it ends the process if the file is damaged.
"""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

# Numbers of fields in xplane.proto of the OpenXLA project.
PLANES = 1  # of the file
LINES, STAT_NAMES = 3, 5  # of a plane
EVENTS = 4  # of a line
DURATION, STATS = 3, 4  # of an event; the duration is in picoseconds
KEY, VALUE = 1, 2  # of an entry of a map
NAME = 2  # of what stands for a kind of stat
KIND, FLOAT, UNSIGNED, SIGNED, TEXT, DATA, REFERENCE = 1, 2, 3, 4, 5, 6, 7  # of a stat


class Event(NamedTuple):
    """What ran.

    Fields:
      stats: Facts about it by name, such as "hlo_op".
      duration_ns: How long it ran, in nanoseconds.
    """

    stats: dict[str, Any]
    duration_ns: float


def events(data: bytes) -> Iterator[Event]:
    """Yield the events of all lines of all planes.

    Raises:
      ValueError: If the bytes are not a trace.

    Example:
      >>> list(events(b""))
      []
    """
    try:
        for number, plane in _fields(data):
            if number == PLANES:
                yield from _of_plane(plane)
    except (AttributeError, IndexError, KeyError, TypeError, struct.error, UnicodeError) as error:
        raise ValueError(f"the file is damaged, or not a trace ({error!r:.200})") from None


def _of_plane(plane: bytes) -> Iterator[Event]:
    lines, names = [], {}
    for number, value in _fields(plane):
        if number == LINES:
            lines.append(value)
        elif number == STAT_NAMES:
            entry = dict(_fields(value))
            named = dict(_fields(entry.get(VALUE, b"")))
            names[entry.get(KEY, 0)] = named.get(NAME, b"").decode()
    for line in lines:
        for number, event in _fields(line):
            if number == EVENTS:
                yield _event(event, names)


def _event(event: bytes, names: dict[int, str]) -> Event:
    stats, duration = {}, 0
    for number, value in _fields(event):
        if number == DURATION:
            duration = value
        elif number == STATS:
            stat = dict(_fields(value))
            name = names.get(stat.pop(KIND, 0))
            for how, each in stat.items():
                if name is not None:
                    stats[name] = _value(how, each, names)
    return Event(stats, duration / 1000)


def _value(how: int, value: Any, names: dict[int, str]) -> Any:
    """Return the value of a stat from the number of its field."""
    if how == TEXT:
        return value.decode()
    if how == DATA:
        return value
    if how == REFERENCE:
        return names.get(value, "")
    if how == FLOAT:
        return struct.unpack("<d", value)[0]
    return value - 2**64 if how == SIGNED and value >= 2**63 else value


def _fields(data: bytes) -> list[tuple[int, Any]]:
    """Return number and value of each field of a message of protobuf: an int, or bytes."""
    fields, at = [], 0
    while at < len(data):
        tag, at = _integer(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = _integer(data, at)
        else:
            if wire == 2:
                size, at = _integer(data, at)
            else:
                size = {1: 8, 5: 4}[wire]  # a KeyError for what is not a message
            if at + size > len(data):
                raise IndexError("a field is longer than the file")
            value = data[at : at + size]
            at += size
        fields.append((tag >> 3, value))
    return fields


def _integer(data: bytes, at: int) -> tuple[int, int]:
    """Return the integer at a place, of seven bits in each byte, and the place behind it."""
    byte = data[at]
    value, at, shift = byte & 127, at + 1, 7
    while byte > 127:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        shift += 7
    return value, at
