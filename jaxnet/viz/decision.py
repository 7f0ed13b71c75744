"""Decision regions of classifiers on two inputs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnet.services.checks import a_function, at_least, check_values, on_host
from jaxnet.viz.style import COLORS, Figure, cells, escaped, grid, new_figure, styled, texts

Predict = Callable[[Any], Any]
MARKERS = "osD^vPX"


@styled()
def decision(
    predict: Predict | Mapping[str, Predict],
    x: Any,
    y: Any,
    *,
    names: Sequence[str] | None = None,
    columns: int | None = None,
    resolution: int = 200,
) -> Figure:
    """Draw the decision regions and boundaries of a classifier on two inputs, with the data.

    The region and the markers of a class have the same color, and each class has its own marker.
    A misclassified example has a black edge. Several classifiers, or one at several stages of
    training, are panels side by side.

    Args:
      predict: Function `(m, 2) -> (m,)` that returns classes 0, 1, 2, ... as integers, floats or
        booleans; or a dict of title -> such a function.
      x: Examples, (n, 2).
      y: Classes of the examples, (n,).
      names: Names of the classes; 0, 1, 2, ... by default.
      columns: Panels per row; about square by default.
      resolution: Number of points along each side of the evaluated grid.

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError: If `predict` is not a function, `x` or `y` is not of numbers, or `names` are not
        str.
      ValueError: If a shape does not fit, there are no examples, more than 7 classes or too few
        names, or `predict` does not return classes.

    Example:
      >>> x, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 1])
      >>> figure = decision({"OR": lambda x: x.sum(1) > 0.5, "AND": lambda x: x.sum(1) > 1.5}, x, y)
    """
    x, y = _checked(x, y)
    at_least("decision", "resolution", resolution, 2)
    panels = predict if isinstance(predict, Mapping) else {"": predict}
    if not panels:
        raise ValueError("decision: expected at least one predict")
    for f in panels.values():
        a_function("decision", "predict", f, "(x)")
    low, high = x.min(0), x.max(0)
    room = 0.15 * np.where(high > low, high - low, 1)
    limits = list(zip(low - room, high + room, strict=True))
    ticks = [np.linspace(*limit, resolution) for limit in limits]
    plane = np.stack(np.meshgrid(*ticks), -1).reshape(-1, 2)
    # A single call, so that one shape is compiled.
    both = np.concatenate([plane.astype(np.float32), x.astype(np.float32)])
    classes_by_title = {title: _classes(f, both) for title, f in panels.items()}
    classes = np.concatenate([y, *classes_by_title.values()])
    count = 1 + classes.max()
    check_values("decision", "classes", classes, f"[0, {len(COLORS)})")
    if names is None:
        names = [str(c) for c in range(count)]
    names = texts("decision", "names", names)
    if len(names) < count:
        raise ValueError(f"decision: expected {count} names, one per class, got {len(names)}")

    rows, columns = grid("decision", len(panels), columns)
    figure = new_figure(3.1 * columns, 3.1 * rows + 0.45)
    places = cells(figure, rows, columns, len(panels), sharex=True, sharey=True)
    for axes, (title, classes) in zip(places, classes_by_title.items(), strict=True):
        regions, predicted = np.split(classes, [len(plane)])
        _regions(axes, ticks, regions.reshape(resolution, resolution), count)
        _points(axes, x, y, predicted)
        wrong = f"{(predicted != y).sum()} of {len(y)} wrong"
        title = f"{escaped(title)}: {wrong}" if title else wrong
        axes.set(xlim=limits[0], ylim=limits[1], title=title)
    _legend(figure, names[:count])
    return figure


def _checked(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the examples, and their classes as integers."""
    x = on_host("decision", "x", x)
    numbers = on_host("decision", "y", y)
    y = np.round(np.nan_to_num(numbers, nan=-1)).astype(int)
    pairs = x.ndim == 2 and x.shape[1] == 2 and len(x) > 0
    if not pairs or y.shape != (len(x),):
        raise ValueError(
            "decision: expected x (n, 2) and classes y (n,), at least one example, got "
            f"{x.shape} and {y.shape}; for more inputs, fix or project all but two"
        )
    wrong = np.append(x[~np.isfinite(x)], numbers[y != numbers])
    if len(wrong):
        raise ValueError(f"decision: x must be finite and y classes 0, 1, ..., got {wrong[0]}")
    return x, y


def _classes(predict: Predict, x: np.ndarray) -> np.ndarray:
    output = on_host("decision", "the output of predict", predict(x))
    if output.shape != (len(x),):
        raise ValueError(
            f"decision: predict must return classes ({len(x)},) for x {x.shape}, got "
            f"{output.shape}; for scores (n, classes) return scores.argmax(-1), for one unit (n, "
            "1) return scores[:, 0] > 0"
        )
    classes = np.round(output.astype(float)).astype(int)
    if not np.array_equal(classes, output):
        raise ValueError(
            "decision: predict must return classes 0, 1, ..., got values such as "
            f"{output[classes != output][0]:g}; for probabilities return probabilities > 0.5"
        )
    return classes


def _regions(axes: Any, ticks: list[np.ndarray], field: np.ndarray, count: int) -> None:
    from matplotlib.colors import ListedColormap, to_rgb

    pale = []
    for color in COLORS[:count]:
        color_from_white = 1 - np.array(to_rgb(color))
        pale.append(tuple(1 - 0.25 * color_from_white))
    axes.pcolormesh(*ticks, field, cmap=ListedColormap(pale), vmin=-0.5, vmax=count - 0.5)
    for i in range(count - 1):  # the others draw the boundary of the last class
        inside = field == i
        if inside.any() and not inside.all():
            axes.contour(*ticks, inside, levels=[0.5], colors="black", linewidths=1)


def _points(axes: Any, x: np.ndarray, y: np.ndarray, predicted: np.ndarray) -> None:
    size = 26 if len(x) > 40 else 60
    right = {"edgecolors": "white", "linewidths": 0.5}
    wrong = {"edgecolors": "black", "linewidths": 1.3}
    for i in np.unique(y):
        color = {"marker": MARKERS[i], "color": COLORS[i]}
        correct = predicted == y
        for chosen, edge in ((correct, right), (~correct, wrong)):
            points = x[(y == i) & chosen]
            if len(points):
                axes.scatter(*points.T, s=size, **color, **edge)


def _legend(figure: Figure, names: list[str]) -> None:
    from matplotlib.lines import Line2D

    styles = zip(MARKERS, COLORS, names, strict=False)
    dots = [Line2D([], [], ls="", marker=marker, color=color) for marker, color, _ in styles]
    figure.legend(dots, names, loc="outside lower center", ncols=len(names))
