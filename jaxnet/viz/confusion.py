"""Confusion matrices."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnet.services.checks import check_values, on_host
from jaxnet.viz.style import Figure, new_figure, styled, table_lines, texts


@styled()
def confusion(matrix: Any, names: Sequence[str] | None = None) -> Figure:
    """Draw a confusion matrix of counts, with rows for true and columns for predicted classes.

    A cell shows its count, or its fraction if the matrix is normalized. Its shade is its fraction
    of the row, on a nonlinear scale that makes rare errors visible. Cells of 0 are empty.

    Args:
      matrix: Counts, (classes, classes), as `jn.metrics.confusion` returns them, or fractions.
      names: Names of the classes; 0, 1, 2, ... by default.

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError: If `matrix` is not of numbers, or `names` are not str.
      ValueError: If `matrix` is not square or has negative counts, or if there is not one name per
        class.

    Example:
      >>> matrix = [[48, 2, 0], [5, 40, 1], [0, 3, 44]]
      >>> figure = confusion(matrix, names=["cat", "dog", "horse"])
    """
    from matplotlib.colors import PowerNorm

    matrix = on_host("confusion", "matrix", matrix, "(classes, classes)", empty=False)
    check_values("confusion", "counts", matrix, "[0, inf)")
    n = len(matrix)
    if names is None:
        names = [str(c) for c in range(n)]
    names = texts("confusion", "names", names, n, "class")
    sums = matrix.sum(1, keepdims=True)
    share = matrix / np.where(sums > 0, sums, 1)
    are_counts = not (matrix % 1).any()

    longest = max(len(name) for name in names)
    side = 1.6 + 0.42 * n + 0.06 * longest
    figure = new_figure(max(side, 3.6), max(side, 3.6))
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", norm=PowerNorm(0.35, 0, 1))
    for (row, column), count in np.ndenumerate(matrix):
        if not count:
            continue
        words = f"{count:g}" if are_counts else f"{count:.2f}"
        color = "white" if share[row, column] > 0.38 else "black"
        axes.text(column, row, words, ha="center", va="center", color=color, fontsize=9)
    angle = {}
    if longest > 3:
        angle = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(n), names, **angle)
    axes.set_yticks(range(n), names)
    table_lines(axes, n, n)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(_title(matrix, are_counts))
    return figure


def _title(matrix: np.ndarray, are_counts: bool) -> str:
    correct, total = np.trace(matrix), matrix.sum()
    rate = f"{correct / (total or 1):.2%}"
    if not are_counts:
        return f"{rate} correct"
    return f"{correct:g} of {total:g} correct ({rate})"
