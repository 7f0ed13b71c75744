"""Attention weights between words."""

from collections.abc import Sequence
from typing import Any

from jaxnet.services.checks import check_values, on_host
from jaxnet.viz.style import Figure, new_figure, styled, table_lines, texts

CELL = 0.28  # inches per word
LETTER = 0.085  # inches per letter of a label


@styled()
def attention(
    weights: Any, source: Sequence[str], target: Sequence[str], *, title: str = ""
) -> Figure:
    """Draw attention weights, with a row per target word and a column per source word.

    White is 0, the darkest blue is 1. The figure is legible up to about 30 letters per word and 50
    words per sentence.

    Args:
      weights: Weights in [0, 1], (target words, source words).
      source: Input words, or subwords.
      target: Output words.
      title: Title of the figure.

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError: If `weights` are not numbers, or the words are not str.
      ValueError: If the numbers of words do not match the weights, or weights are out of range.

    Example:
      >>> source, target = "ein blauer Hund läuft".split(), "a blue dog runs".split()
      >>> figure = attention(0.6 * np.eye(4) + 0.1, source, target)

    Reference: Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to Align and
    Translate", figure 3.
    """
    source = texts("attention", "source", source)
    target = texts("attention", "target", target)
    (title,) = texts("attention", "title", [title])
    form = "(target words, source words)"
    sizes = {"target words": len(target), "source words": len(source)}
    weights = on_host("attention", "weights", weights, form, sizes=sizes, empty=False)
    check_values("attention", "weights", weights, "[0, 1]", 1e-4)
    rows, columns = weights.shape
    above = _inches(source)
    beside = _inches(target)
    width = CELL * columns + beside + 0.1
    height = CELL * rows + above + (0.3 if title else 0.1)
    figure = new_figure(max(width, 2.0), height)
    axes = figure.subplots()
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(columns), source, rotation=90)
    axes.set_yticks(range(rows), target)
    axes.xaxis.tick_top()
    table_lines(axes, rows, columns)
    if title:
        figure.suptitle(title)
    return figure


def _inches(words: list[str]) -> float:
    """Return the space that labels need."""
    longest = max(len(word) for word in words)
    return LETTER * longest + 0.35
