"""Computational graphs with values and gradients on the edges."""

from typing import Any

import numpy as np

from jaxnet.inspect import Graph
from jaxnet.services.checks import at_least, check_type
from jaxnet.services.table import short
from jaxnet.viz.style import COLORS, Figure, canvas, escaped, styled

FORWARD = COLORS[2]  # green
BACKWARD = COLORS[1]  # vermilion
FILLS = {"input": "#E8F1FA", "constant": "0.93", "operation": "white", "output": "#FFF4DC"}
# Passes over the columns: the first half finds the order, the second half straightens lines.
SWEEPS = 40
ROW = 0.58  # inches between rows
GAP = 0.32  # inches between columns
Route = np.ndarray  # (column, row) of each point of an edge


@styled()
def graph(computed: Graph, *, digits: int = 3) -> Figure:
    """Draw a computational graph, from left to right.

    The value is above each edge and its gradient below. An array is shown by its shape and its
    Euclidean norm. A value with several uses has the sum of their gradients below its box.

    Args:
      computed: Graph of `jn.inspect.graph`; legible up to about 25 nodes.
      digits: Number of digits of each value.

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError: If `computed` is not a graph.
      ValueError: If `digits` is below 1.

    Example:
      >>> computed = jn.inspect.graph(lambda x, y, z: (x + y) * z, -2, 5, -4)
      >>> figure = graph(computed)
    """
    hint = "write graph(jn.inspect.graph(f, x))"
    check_type("graph", "", computed, Graph, "a graph of jn.inspect.graph", hint)
    at_least("graph", "digits", digits)
    nodes, edges = computed.nodes, computed.edges
    places, routes = _layout(len(nodes), [(e.source, e.target) for e in edges])
    boxes = [max(0.34, 0.085 * len(node.label) + 0.16) for node in nodes]
    words = [(short(e.value, digits), short(e.gradient, digits)) for e in edges]
    sums = _sums(computed, digits)
    left, widths = _columns(places, routes, boxes, sums, words)
    rows = np.concatenate([places[:, 1], *(route[:, 1] for route in routes)])
    width = left[-1] + widths[-1]
    height = ROW * (rows.max() - rows.min())
    axes = canvas(width + 0.3, height + 0.8, -0.15, -height - 0.4)

    def inches(place, side=0.5):
        """Return x and y of a place; `side` is 0 at the left of its column and 1 at the right."""
        column, row = int(place[0]), place[1]
        return left[column] + side * widths[column], ROW * (rows.min() - row)

    for node, place, box, total in zip(nodes, places, boxes, sums, strict=True):
        x, y = inches(place)
        _box(axes, x, y, box, FILLS[node.kind], node.label)
        if total:
            _words(axes, x, y - 0.18, total, BACKWARD, "top")
    for edge, route, (forward, backward) in zip(edges, routes, words, strict=True):
        x, y = inches(route[0])
        points = [(x + boxes[edge.source] / 2, y)]
        for place in route[1:-1]:
            points += [inches(place, 0), inches(place, 1)]
        x, y = inches(route[-1])
        points.append((x - boxes[edge.target] / 2, y))
        _line(axes, points)
        x, y = inches(route[1])
        _words(axes, x, y + 0.03, forward, FORWARD, "bottom")
        _words(axes, x, y - 0.04, backward, BACKWARD, "top")
    return axes.figure


def _sums(computed: Graph, digits: int) -> list[str]:
    """Return the sum of gradients below each node, which only values with several uses have."""
    uses = np.bincount([e.source for e in computed.edges], minlength=len(computed.nodes))
    sums = []
    for node, count in zip(computed.nodes, uses, strict=True):
        has_sum = count > 1 and hasattr(node.gradient, "dtype")
        sums.append(f"Σ {short(node.gradient, digits)}" if has_sum else "")
    return sums


def _columns(
    places: np.ndarray,
    routes: list[Route],
    boxes: list[float],
    sums: list[str],
    words: list[tuple[str, str]],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the left side and the width of each column, in inches."""
    widths = np.zeros(int(places[:, 0].max()) + 1)
    for place, box, total in zip(places, boxes, sums, strict=True):
        column = int(place[0])
        widths[column] = max(widths[column], box, 0.075 * len(total))
    for route, pair in zip(routes, words, strict=True):
        column = int(route[1, 0])
        longest = max(len(word) for word in pair)
        widths[column] = max(widths[column], 0.15 + 0.075 * longest)
    left = np.concatenate([[0], np.cumsum(widths[:-1] + GAP)])
    return left, widths


def _box(axes: Any, x: float, y: float, width: float, fill: str, label: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner = (x - width / 2 + 0.05, y - 0.11)
    shape = "round,pad=0.05,rounding_size=0.08"
    style = {"fc": fill, "ec": "0.35", "lw": 1, "zorder": 3}
    box = FancyBboxPatch(corner, width - 0.1, 0.22, boxstyle=shape, **style)
    axes.add_patch(box)
    axes.text(x, y, escaped(label), ha="center", va="center", fontsize=10, zorder=4)


def _words(axes: Any, x: float, y: float, words: str, color: str, where: str) -> None:
    from matplotlib.patheffects import withStroke

    # Keeps the text legible over other edges.
    halo = [withStroke(linewidth=2.5, foreground="white")]
    style = {"fontsize": 8.5, "ha": "center", "path_effects": halo, "zorder": 5}
    axes.text(x, y, words, color=color, va=where, **style)


def _line(axes: Any, points: list[tuple[float, float]]) -> None:
    """Draw a smooth line through the points, horizontal at each of them, with an arrow."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    corners = [points[0]]
    codes = [Path.MOVETO]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        middle = (x0 + x1) / 2
        corners += [(middle, y0), (middle, y1), (x1, y1)]
        codes += [Path.CURVE4] * 3
    line = {"color": "0.45", "lw": 1, "zorder": 2}
    arrow = {"arrowstyle": "-|>", "mutation_scale": 8, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(path=Path(corners, codes), **arrow, **line))


def _layout(count: int, edges: list[tuple[int, int]]) -> tuple[np.ndarray, list[Route]]:
    """Return (column, row) of each node, and of the points of each edge.

    It is the layered layout of Sugiyama, Tagawa and Toda 1981. Even columns hold the nodes, by the
    longest path from an input, and odd columns the labels of their outgoing edges. An edge has an
    invisible node in each column that it crosses, so that edges avoid boxes and labels do not
    overlap. The order in a column follows the mean of the neighbors.
    """
    column, sizes, chains = _with_crossings(count, edges)
    before: list[list[int]] = [[] for _ in column]
    after: list[list[int]] = [[] for _ in column]
    for chain in chains:
        for a, b in zip(chain, chain[1:], strict=False):
            after[a].append(b)
            before[b].append(a)
    layers: list[list[int]] = [[] for _ in range(max(column) + 1)]
    for i, k in enumerate(column):
        layers[k].append(i)

    row = np.zeros(len(column))
    for layer in layers:
        row[layer] = _spaced(np.zeros(len(layer)), sizes[layer])
    for sweep in range(SWEEPS):
        forwards = sweep % 2 == 0
        straighten = sweep >= SWEEPS // 2
        for layer in layers if forwards else layers[::-1]:
            if straighten:
                neighbors = [_levelled(i, before, after) for i in layer]
            else:
                neighbors = [before[i] if forwards else after[i] for i in layer]
            wanted = np.array(
                [row[near or [i]].mean() for i, near in zip(layer, neighbors, strict=True)]
            )
            if not straighten:
                order = np.argsort(wanted, kind="stable")
                layer[:] = [layer[i] for i in order]
                wanted = wanted[order]
            row[layer] = _spaced(wanted, sizes[layer])
    places = np.stack([column, row], 1).astype(float)
    return places[:count], [places[chain] for chain in chains]


def _with_crossings(
    count: int, edges: list[tuple[int, int]]
) -> tuple[list[int], np.ndarray, list[list[int]]]:
    """Return the column and the size of each node, invisible ones too, and the nodes of edges."""
    column = [0] * count
    # Nodes are in the order of computation.
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        column[target] = max(column[target], column[source] + 2)
    sizes = [1.0] * count
    chains = []
    for source, target in edges:
        crossed = range(column[source] + 1, column[target])
        invisible = range(len(column), len(column) + len(crossed))
        chains.append([source, *invisible, target])
        column += crossed
        sizes += [1.0] + [0.5] * (len(crossed) - 1)  # a line needs less space than a label
    return column, np.array(sizes), chains


def _levelled(i: int, before: list[list[int]], after: list[list[int]]) -> list[int]:
    """Return the nodes whose mean row a node should take: for the label of a single edge, the
    source."""
    if len(before[i]) == 1 and len(after[i]) == 1:
        (source,) = before[i]
        if len(after[source]) == 1:
            return [source]
    return before[i] + after[i]


def _spaced(wanted: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return rows near the wanted rows that keep their distances, by isotonic regression."""
    from scipy.optimize import isotonic_regression

    offsets = np.cumsum(sizes) - sizes / 2
    return isotonic_regression(wanted - offsets).x + offsets
