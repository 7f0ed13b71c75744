"""Texts with a value per word, for attribution."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnet.services.checks import at_least, check_list, on_host
from jaxnet.viz.style import Figure, canvas, styled, texts

SIZE = 9  # of the font, in points
LETTER = 0.08  # inches per letter of the font DejaVu Sans Mono, in whole pixels
LINE = 0.26  # inches per line
EDGE = 0.1  # inches


@styled()
def words(
    rows: Sequence[Sequence[str]],
    values: Any,
    titles: Sequence[str] | None = None,
    *,
    columns: int = 80,
) -> Figure:
    """Draw texts, each word on a color that shows its value.

    Red is positive, blue is negative and white is 0; each text is scaled by its largest absolute
    value.

    Args:
      rows: Words of each text, a list; of a str, such as DNA, the letters.
      values: Number for each word, (texts, positions), such as
        `jn.inspect.integrated_gradients(..., at="embedding").sum(-1)`. Positions after the last
        word of a text are padding, and are not drawn.
      titles: Titles at the left of each text, such as the predicted class.
      columns: Letters per line, at least 1; a longer text goes on in the next line.

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError: If `rows` or `titles` are not lists of str, or `values` are not numbers.
      ValueError: If the numbers of texts, values and titles do not fit.

    Example:
      >>> rows = ["a ? with its tongue out".split(), "a ? in a red dress".split()]
      >>> values = [[0.1, 0.2, 0.0, 3.1, 1.2, -0.4], [0.1, 0.3, 0.1, 0.0, 0.5, 2.0]]
      >>> figure = words(rows, values, ["dog", "woman"])
    """
    rows = [texts("words", "rows", row) for row in check_list("words", "rows", rows, "lists")]
    at_least("words", "columns", columns)
    numbers = on_host("words", "values", values, "(texts, positions)", sizes={"texts": len(rows)})
    longest = max(map(len, rows), default=0)
    if longest == 0:
        raise ValueError("words: expected at least one text with a word")
    if longest > numbers.shape[1]:
        raise ValueError(
            f"words: expected a value for each word, got a text of {longest} and values of shape "
            f"{numbers.shape}; for the words of a str write text.split()"
        )
    titles = [""] * len(rows) if titles is None else texts("words", "titles", titles, len(rows))
    margin = LETTER * max(len(title) + 2 for title in titles) if any(titles) else 0.0
    placed = [_placed(row, columns) for row in rows]
    lines = [1 + line[-1][0] if line else 1 for line in placed]
    widest = max(at + len(word) for row in placed for _, at, word in row)
    height = LINE * (sum(lines) + (len(rows) - 1) / 2) + 2 * EDGE
    axes = canvas(margin + LETTER * widest + 2 * EDGE, height)
    y = height - EDGE - LINE / 2
    for title, row, count, value in zip(titles, placed, lines, numbers, strict=True):
        style = {"family": "monospace", "fontsize": SIZE, "va": "center"}
        axes.text(EDGE, y, title, weight="bold", **style)
        _draw_row(axes, row, _scaled(value[: len(row)]), EDGE + margin, y, style)
        y -= LINE * (count + 0.5)
    return axes.figure


def _placed(row: list[str], columns: int) -> list[tuple[int, int, str]]:
    """Return line, first letter and text of each word."""
    placed, line, at = [], 0, 0
    for word in row:
        if at and at + len(word) > columns:
            line, at = line + 1, 0
        placed.append((line, at, word))
        at += len(word) + 1
    return placed


def _scaled(values: np.ndarray) -> np.ndarray:
    finite = np.where(np.isfinite(values), values, 0)
    return finite / (np.abs(finite).max(initial=0) or 1)


def _draw_row(axes: Any, row: list, values: np.ndarray, left: float, y: float, style: dict) -> None:
    """Draw the words of a text, each on a rectangle in the color of its value."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    colors = colormaps["RdBu_r"](0.5 + 0.35 * values)  # the ends are too dark to read on
    for (line, at, word), color in zip(row, colors, strict=True):
        low, middle = left + LETTER * (at - 0.4), y - LINE * line
        corner = low, middle - 0.45 * LINE
        box = Rectangle(corner, LETTER * (len(word) + 0.8), 0.9 * LINE, color=color, linewidth=0)
        axes.add_patch(box)
        axes.text(left + LETTER * at, middle, word, **style)
