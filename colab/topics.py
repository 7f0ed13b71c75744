"""Writes the tables of topics.md: which lesson shows which topic, and where slides have slips.

    python -m colab.topics

The topics and the slips are in topics.json. A topic has the lectures that teach it, a slip has what
a slide says and what is right. Both have cells, as pairs of the number of a lesson and a part of a
cell's code. A test finds the cells and what they print or draw.
"""

import json
from pathlib import Path
from typing import NamedTuple

from colab.render import NOTEBOOKS

DATA, PAGE = NOTEBOOKS / "topics.json", NOTEBOOKS / "topics.md"
BEGIN, END = (
    "<!-- Written by `python -m colab.topics` from topics.json. -->\n\n",
    "\n<!-- End. -->\n",
)
SLIPS = """
## Slips of the slides

Some slides have a slip of the pen. The cells of these lessons compute the right form.

"""


class Topic(NamedTuple):
    """What a lecture teaches, and the cells that show it."""

    lectures: str
    topic: str
    cells: list[tuple[str, str]]


class Slip(NamedTuple):
    """What a slide says by mistake, what is right, and the cells that show it."""

    said: str
    right: str
    cells: list[tuple[str, str]]


def topics(path: Path = DATA) -> list[Topic]:
    """Return the topics of a file, in its order."""
    return [Topic(*row) for row in json.loads(path.read_text(encoding="utf-8"))["topics"]]


def slips(path: Path = DATA) -> list[Slip]:
    """Return the slips of a file, in its order."""
    return [Slip(*row) for row in json.loads(path.read_text(encoding="utf-8"))["slips"]]


def lesson(number: str) -> Path:
    """Return the notebook of a lesson."""
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    return path


def table(head: tuple[str, ...], rows: list) -> str:
    """Return topics or slips in Markdown, each with links to its lessons."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for first, second, cells in rows:
        numbers = sorted({number for number, _ in cells})
        links = ", ".join(f"[{int(number)}]({lesson(number).name})" for number in numbers)
        lines.append(f"| {first} | {second} | {links} |")
    return "\n".join(lines) + "\n"


def with_tables(text: str, rows: list[Topic], mistakes: list[Slip]) -> str:
    """Return the page with the tables of these topics and slips between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    written = table(("lectures", "topic", "lessons"), rows) + SLIPS
    written += table(("a slide says", "right is", "lesson"), mistakes)
    return before + BEGIN + written + END + after


if __name__ == "__main__":
    page = with_tables(PAGE.read_text(encoding="utf-8"), topics(), slips())
    PAGE.write_text(page, encoding="utf-8")
