"""Two-dimensional embeddings, colored by class."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnet.services.checks import on_host
from jaxnet.viz.style import Figure, a_dict, cells, frame, new_figure, styled, texts


@styled()
def embedding(panels: Mapping[str, Any], labels: Any, names: Sequence[str] | None = None) -> Figure:
    """Draw scatter plots of one or more embeddings of the same examples; the axes have no scale.

    The name of a class is at the median of its points, and in the legend.

    Args:
      panels: Dict of title -> points (examples, 2).
      labels: Classes 0, 1, 2, ..., (examples,); up to 20 have different colors.
      names: Names of the classes; their numbers by default.

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError: If `panels` is not a dict of numbers, or `labels` are not integers, or `names` not
        str.
      ValueError: If there are no panels, if points have the wrong shape, or if there is not one
        label per point.

    Example:
      >>> labels, noise = np.arange(90) % 3, np.random.default_rng(0).normal(size=(90, 2))
      >>> middles = np.array([[0, 0], [1, 0], [0, 1]])[labels]
      >>> figure = embedding({"PCA": middles + noise, "autoencoder": 9 * middles + noise}, labels)
    """
    sizes: dict[str, int] = {}
    labels = on_host("embedding", "labels", labels, "(examples,)", "integers", sizes, empty=False)
    panels = a_dict("embedding", "panels", panels, "title -> points")
    if not panels:
        raise ValueError("embedding: expected at least one panel, such as {'PCA': points}")
    if labels.min() < 0:
        raise ValueError(f"embedding: labels must be classes 0, 1, ..., got {labels!r:.60}")
    for title, coordinates in panels.items():
        what = f"panels[{title!r}]"
        panels[title] = on_host("embedding", what, coordinates, "(examples, 2)", sizes=sizes)
    classes = np.unique(labels)
    if names is not None:
        names = texts("embedding", "names", names)
    if names is not None and len(names) <= classes[-1]:
        raise ValueError(f"embedding: class {classes[-1]} has no name, got {len(names)} names")

    colors = _colors(int(classes[-1]))
    words = {c: str(c if names is None else names[c]) for c in classes}
    longest = max(len(word) for word in words.values())
    figure = new_figure(4.6 * len(panels) + 0.6 + 0.08 * longest, 4.6)
    size = np.clip(4000 / len(labels), 1.5, 14)
    places = cells(figure, 1, len(panels), len(panels))
    for axes, (title, points) in zip(places, panels.items(), strict=True):
        # a single scatter plot, so that no class covers the others
        axes.scatter(*points.T, s=size, color=colors(labels % 20), linewidths=0, alpha=0.7)
        for label in classes:
            middle = np.median(points[labels == label], axis=0)
            _name(axes, middle, words[label], colors(int(label) % 20))
        axes.set_title(title)
        frame(axes)
    _legend(figure, words, colors)
    return figure


def _colors(largest: int) -> Any:
    """Return the color map for classes up to `largest`."""
    from matplotlib import colormaps

    return colormaps["tab10" if largest < 10 else "tab20"]


def _name(axes: Any, place: np.ndarray, word: str, color: Any) -> None:
    """Write the name of a class, legible on its points."""
    from matplotlib.patheffects import withStroke

    x, y = place
    halo = [withStroke(linewidth=3, foreground="white")]
    style = {"color": color, "fontsize": 14, "fontweight": "bold", "path_effects": halo}
    axes.text(x, y, word, ha="center", va="center", **style)


def _legend(figure: Figure, words: dict[int, str], colors: Any) -> None:
    from matplotlib.lines import Line2D

    dots = []
    for label in words:
        color = colors(int(label) % 20)
        dots.append(Line2D([], [], marker="o", linestyle="", color=color))
    figure.legend(dots, list(words.values()), loc="outside right center")
