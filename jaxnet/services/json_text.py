"""JSON from files, which may be anything."""

import json
from typing import Any


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
