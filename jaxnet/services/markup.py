"""HTML for notebooks: small, escaped, and without colors, so that it suits any theme."""

import html
from collections.abc import Sequence


def html_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[bool] = (),
    caption: str = "",
    totals: Sequence[Sequence[str]] = (),
    notes: Sequence[str] = (),
) -> str:
    """Return a table of words as HTML; everything is escaped.

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
        made = ""
        for cell, r in zip(cells, aligned, strict=True):
            style = f"text-align: {'right' if r else 'left'}; white-space: pre"
            made += f'<{tag} style="{style}">{html.escape(cell)}</{tag}>'
        return f"<tr>{made}</tr>"

    parts = [f"<caption>{html.escape(caption)}</caption>"] if caption else []
    parts += [f"<thead>{row(head, 'th')}</thead>"]
    parts += [f"<tbody>{''.join(row(cells, 'td') for cells in rows)}</tbody>"]
    if totals:
        parts += [f"<tfoot>{''.join(row(cells, 'th') for cells in totals)}</tfoot>"]
    below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return f"<div><table>{''.join(parts)}</table>{below}</div>"


def html_line(text: str) -> str:
    """Return one line of fixed width as HTML.

    Example:
      >>> html_line("a<b")
      '<code>a&lt;b</code>'
    """
    return f"<code>{html.escape(text)}</code>"
