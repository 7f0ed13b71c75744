"""Writes the table of topics.md: which lesson shows which topic of the lectures.

    python -m colab.topics

The topics are in topics.json. Each has the lectures that teach it, and cells as pairs of the number
of a lesson and a part of a cell's code. A test finds the cells and what they print or draw.
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


class Topic(NamedTuple):
    """What a lecture teaches, and the cells that show it."""

    lectures: str
    topic: str
    cells: list[tuple[str, str]]


def topics(path: Path = DATA) -> list[Topic]:
    """Return the topics of a file, in its order."""
    return [Topic(*row) for row in json.loads(path.read_text(encoding="utf-8"))]


def lesson(number: str) -> Path:
    """Return the notebook of a lesson."""
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    return path


def table(rows: list[Topic]) -> str:
    """Return the topics in Markdown, each with links to its lessons."""
    lines = ["| lectures | topic | lessons |", "|---|---|---|"]
    for row in rows:
        numbers = sorted({number for number, _ in row.cells})
        links = ", ".join(f"[{int(number)}]({lesson(number).name})" for number in numbers)
        lines.append(f"| {row.lectures} | {row.topic} | {links} |")
    return "\n".join(lines) + "\n"


def with_table(text: str, rows: list[Topic]) -> str:
    """Return the page with the table of these topics between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table(rows) + END + after


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), topics()), encoding="utf-8")
