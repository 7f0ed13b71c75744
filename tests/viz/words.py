"""What is written in a figure."""

from collections.abc import Iterable
from typing import Any


def words(texts: Iterable[Any]) -> list[str]:
    """Return what each of the texts says."""
    return [text.get_text() for text in texts]


def titles(axes: Iterable[Any]) -> list[str]:
    """Return the title of each axes."""
    return [one.get_title() for one in axes]
