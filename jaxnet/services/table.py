"""Tables for terminals and, as HTML, for notebooks."""

import html
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxnet.services.checks import at_least, check_type

GAP = "  "  # between columns
NARROW = 8  # smallest width of a column that is cut

# Replacements of the same width, for terminals that lack these characters.
TO_ASCII = str.maketrans("─…×–−≥≤≠÷√‖·", "-~x--><!/v|.")


@dataclass
class Table:
    """A table with a title, a header, rows, totals and notes.

    Columns of numbers are right-aligned, with a separator for thousands; all others are
    left-aligned. If the table is wider than the terminal, the widest columns of text are cut, and
    numbers never are. If the terminal's encoding lacks its letters, such as ASCII or Latin-1,
    similar ones are printed.

    Args:
      title: Line above the table.
      head: Names of the columns.
      rows: Tuples of cells; None is an empty cell.
      totals: Rows below a rule.
      notes: Lines below the table.
      width: Width in characters; by default the terminal's width, or 80.

    Example:
      >>> print(Table("Sizes", ("layer", "parameters"), [("dense", 1234567), ("tanh", None)]))
      Sizes
      layer  parameters
      ─────────────────
      dense   1,234,567
      tanh
    """

    title: str
    head: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    totals: list[tuple[Any, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    width: int | None = None

    def __post_init__(self) -> None:
        is_list = isinstance(self.head, tuple | list)
        if not is_list or not self.head or not all(isinstance(name, str) for name in self.head):
            raise TypeError(f"Table: head must be a tuple of names, got {self.head!r:.60}")
        for what, rows in (("rows", self.rows), ("totals", self.totals)):
            check_type("Table", what, rows, list | tuple, "a list of tuples")
            for row in rows:
                if not isinstance(row, list | tuple) or len(row) != len(self.head):
                    raise ValueError(
                        f"Table: {what} must be tuples of {len(self.head)} cells, one per name in "
                        f"head, got {row!r:.60}"
                    )
        at_least("Table", "width", self.width, optional=True)
        check_type("Table", "notes", self.notes, list | tuple, "a list of str")
        check_type("Table", "title", self.title, str, "str")
        for note in self.notes:
            check_type("Table", "notes", note, str, "str")

    def __str__(self) -> str:
        width = self.width or shutil.get_terminal_size().columns
        rows, totals = _cells(self.rows), _cells(self.totals)
        right = self._numeric()
        gaps = len(GAP) * (len(self.head) - 1)
        widths = _widths([self.head, *rows, *totals], right, width - gaps)

        def line(cells):
            columns = zip(cells, widths, right, strict=True)
            return GAP.join(_fit(*column) for column in columns).rstrip()

        rule = "─" * (sum(widths) + gaps)
        lines = _wrap(self.title, width) if self.title else []
        lines += [line(self.head), rule, *map(line, rows)]
        if totals:
            lines += [rule, *map(line, totals)]
        for note in self.notes:
            lines += _wrap(note, width)
        return printable("\n".join(lines))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(
            self.head,
            _cells(self.rows),
            right=self._numeric(),
            caption=self.title,
            totals=_cells(self.totals),
            notes=self.notes,
        )

    def _numeric(self) -> list[bool]:
        """Return for each column whether it has numbers."""
        numeric = []
        for _, *cells in zip(self.head, *self.rows, *self.totals, strict=True):
            numeric.append(any(isinstance(cell, int | float | Number) for cell in cells))
        return numeric


class Tabular:
    """A result that prints as the table that its method `table` returns."""

    def table(self) -> Table:
        """Return the printed table."""
        raise NotImplementedError

    def __str__(self) -> str:
        return str(self.table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


class Number(str):
    """A number in words, such as "1.2 M"; right-aligned in tables."""


def size_of(count: float, unit: str = "B") -> Number:
    """Return bytes or operations in words, in powers of 1000.

    Example:
      >>> size_of(61706 * 4), size_of(15e9), size_of(12), size_of(5.4e9, "")
      ('246.8 kB', '15.0 GB', '12 B', '5.4 G')
    """
    for prefix in ("", "k", "M", "G"):
        if count < 999.95:
            digits = 1 if prefix else 0
            return Number(f"{count:.{digits}f} {prefix}{unit}".rstrip())
        count /= 1000
    return Number(f"{count:.1f} T{unit}")


def short(value: Any, digits: int = 3) -> str:
    """Write a value in a few characters: a number, or the shape and Euclidean norm of an array.

    Example:
      >>> short(-0.19661), short(np.ones((2, 8))), short(None)
      ('−0.197', '(2, 8) ‖4‖', '')
    """
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ", ".join(short(v, digits) for v in value)
    value = np.asarray(value)
    if value.dtype == bool and not value.shape:
        return str(bool(value))
    floats = value.astype(float)
    size = np.linalg.norm(floats) if value.shape else floats
    number = f"{float(size):.{digits}g}".replace("-", "−")
    if number == "−0":
        number = "0"
    return f"{value.shape} ‖{number}‖" if value.shape else number


def _cells(rows: Sequence[Sequence[Any]]) -> list[list[str]]:
    return [[_cell(value) for value in row] for row in rows]


def _widths(rows: list[Any], right: list[bool], room: int) -> list[int]:
    """Return the width of each column; the widest columns of text are cut to fit into the room."""
    widths = [max(map(_wide, column)) for column in zip(*rows, strict=True)]
    texts = [i for i, numeric in enumerate(right) if not numeric]
    while texts and sum(widths) > room:
        widest = max(texts, key=lambda i: widths[i])
        if widths[widest] <= NARROW:
            break
        widths[widest] -= 1
    return widths


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def printable(text: str) -> str:
    """Return a text in letters that the standard output has, to print it.

    Example:
      >>> printable("3 × 4")
      '3 × 4'
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(TO_ASCII).encode(encoding, "replace").decode(encoding)
    return text


def _wide(text: str) -> int:
    """Return a text's width in terminal columns: 2 for Chinese characters, 0 for accents."""
    width = 0
    for letter in text:
        if unicodedata.combining(letter):
            continue
        width += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
    return width


def _fit(text: str, width: int, right: bool) -> str:
    if _wide(text) > width:
        while _wide(text) > width - 1:
            text = text[:-1]
        text += "…"
    space = " " * (width - _wide(text))
    return space + text if right else text + space


def _wrap(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width) if _wide(text) > width else [text]


def html_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[bool] = (),
    caption: str = "",
    totals: Sequence[Sequence[str]] = (),
    notes: Sequence[str] = (),
) -> str:
    """Return a table of words as HTML, escaped and without colors, so that it suits any theme.

    Args:
      head: Names of the columns.
      rows: Cells of each row, one per column.
      right: Whether a column is right-aligned; none by default.
      caption: Line above the table.
      totals: Rows at the end, in bold.
      notes: Lines below the table.

    Example:
      >>> html_table(["x"], [["a<b"]]).count("a&lt;b")
      1
    """
    aligned = list(right) or [False] * len(head)

    def row(cells, tag):
        row_html = ""
        for cell, is_right in zip(cells, aligned, strict=True):
            side = "right" if is_right else "left"
            style = f"text-align: {side}; white-space: pre"
            row_html += f'<{tag} style="{style}">{html.escape(cell)}</{tag}>'
        return f"<tr>{row_html}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    foot = "".join(row(cells, "th") for cells in totals)
    parts = [f"<caption>{html.escape(caption)}</caption>"] if caption else []
    parts += [f"<thead>{row(head, 'th')}</thead>", f"<tbody>{body}</tbody>"]
    if totals:
        parts.append(f"<tfoot>{foot}</tfoot>")
    below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return f"<div><table>{''.join(parts)}</table>{below}</div>"


def html_line(text: str) -> str:
    """Return one line of fixed width as HTML.

    Example:
      >>> html_line("a<b")
      '<code>a&lt;b</code>'
    """
    return f"<code>{html.escape(text)}</code>"
