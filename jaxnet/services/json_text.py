"""JSON from files, which may be anything."""

import json
from pathlib import Path
from typing import Any

from jaxnet.services.files import readable


def parse_json(text: str | bytes) -> Any:
    """Return what a text of JSON holds.

    Args:
      text: Text, or bytes of UTF-8, 16 or 32.

    Raises:
      ValueError: If it is not JSON, or is nested so deeply that Python's own reader gives up.

    Example:
      >>> parse_json('{"rate": [1, 2]}')
      {'rate': [1, 2]}
      >>> parse_json("[" * 100_000)
      Traceback (most recent call last):
      ...
      ValueError: its JSON is nested too deeply
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None


def read_object(who: str, path: Path) -> dict[str, Any]:
    """Return the object in a file of JSON.

    Args:
      who: Name of the function, for messages.
      path: Path of the file.

    Raises:
      OSError: If the file cannot be read.
      ValueError: If it is not JSON, or holds something else.
    """
    path = readable(who, path)
    try:
        value = parse_json(path.read_bytes())
    except ValueError as error:  # also text that is not UTF-8
        raise ValueError(f"{who}: {path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{who}: {path} must hold an object, got {type(value).__name__}")
    return value
