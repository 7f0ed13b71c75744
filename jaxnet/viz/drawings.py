"""Drawings of ideas for lessons: a sliding window, an unrolled net, an LSTM cell, attention."""

from typing import Any

import numpy as np

from jaxnet.services.checks import at_least, between, check_tuple, check_values, on_host
from jaxnet.viz.style import COLORS, Figure, canvas, frame, new_figure, styled, texts

FILL = "#E8F1FA"
LINE = "0.25"
MARK = COLORS[1]


@styled()
def sliding_window(
    image: Any, kernel: Any, *, at: tuple[int, int] = (0, 0), strides: int = 1
) -> Figure:
    """Draw a convolution by hand: the image, the filter, and the map, with one position marked.

    Args:
      image: Numbers (height, width), which are written into the cells; legible up to about 10x10.
      kernel: Filter, (rows, columns), at most as large as the image.
      at: Row and column of the marked position in the map.
      strides: Step of the window along both axes, in pixels.

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError, ValueError: If an array has the wrong shape, or the position is outside the map.

    Example:
      >>> figure = sliding_window(np.eye(7), np.ones((3, 3)), at=(1, 1), strides=3)
    """
    image = on_host("sliding_window", "image", image, "(height, width)")
    kernel = on_host("sliding_window", "kernel", kernel, "(rows, columns)")
    at_least("sliding_window", "strides", strides)
    rows = (image.shape[0] - kernel.shape[0]) // strides + 1
    columns = (image.shape[1] - kernel.shape[1]) // strides + 1
    if min(rows, columns, *kernel.shape) < 1:
        raise ValueError(
            f"sliding_window: the kernel {kernel.shape} must fit into the image {image.shape}"
        )
    check_tuple("sliding_window", "at", at, "(row, column)")
    row, column = at
    between("sliding_window", "row", row, 0, rows - 1)
    between("sliding_window", "column", column, 0, columns - 1)
    views = np.lib.stride_tricks.sliding_window_view(image, kernel.shape)[::strides, ::strides]
    result = np.einsum("mnkl,kl->mn", views, kernel)
    check_values("sliding_window", "image and kernel", result, "(-inf, inf)")

    parts = {"image": image, "filter": kernel, "map": result}
    widths = [numbers.shape[1] for numbers in parts.values()]
    heights = [numbers.shape[0] for numbers in parts.values()]
    cell = 0.42
    figure = new_figure(cell * (sum(widths) + 3), cell * max(heights) + 1.1)
    panels = figure.subplots(1, 3, width_ratios=widths)
    for axes, (title, numbers) in zip(panels, parts.items(), strict=True):
        _cells(axes, numbers)
        axes.set_title(title)
    _mark(panels[0], strides * row, strides * column, kernel.shape)
    _mark(panels[1], 0, 0, kernel.shape)
    _mark(panels[2], row, column, (1, 1))
    products = _products(views[row, column], kernel)
    figure.supxlabel(f"{products} = {_short(result[row, column])}", fontsize=9)
    return figure


def _mark(axes: Any, row: int, column: int, shape: tuple[int, ...]) -> None:
    height, width = shape
    _rectangle(axes, column, row, width, height, fill="none", line=MARK, thick=2.5)


def _products(view: np.ndarray, kernel: np.ndarray) -> str:
    """Write the sum of the products, at most six of them, without those of 0 in the filter."""
    terms = []
    for pixel, weight in zip(view.ravel(), kernel.ravel(), strict=True):
        if weight:
            terms.append(f"{_short(pixel)}·{_short(weight)}")
    more = " + …" if len(terms) > 6 else ""
    return " + ".join(terms[:6]) + more


@styled()
def unrolled(steps: int = 4, *, inputs: Any = None, outputs: Any = None) -> Figure:
    """Draw a recurrent net, folded and unrolled: one cell with the same weights at each step.

    Args:
      steps: Number of steps, at least 2.
      inputs, outputs: Labels of each step, such as letters; x and y with indices by default.

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError, ValueError: If there are fewer than 2 steps, or if there is not one label per step.

    Example:
      >>> figure = unrolled(3, inputs=list("hel"), outputs=list("ell"))
    """
    at_least("unrolled", "steps", steps, 2)
    indices = range(1, steps + 1)
    if inputs is None:
        inputs = [f"$x_{{{t}}}$" for t in indices]
    else:
        inputs = texts("unrolled", "inputs", inputs, steps, "step")
    if outputs is None:
        outputs = [f"$y_{{{t}}}$" for t in indices]
    else:
        outputs = texts("unrolled", "outputs", outputs, steps, "step")
    axes = canvas(1.5 * (steps + 1) + 0.8, 2.6)

    def cell(x, below, above):
        _box(axes, x, 1.3, 0.8, 0.6, "cell")
        _arrow(axes, (x, 0.45), (x, 1.0))
        _arrow(axes, (x, 1.6), (x, 2.15))
        _word(axes, x, 0.25, below)
        _word(axes, x, 2.35, above)

    cell(0.6, "$x_t$", "$y_t$")
    _arrow(axes, (1.0, 1.42), (1.0, 1.18), bend=-2.2)
    _word(axes, 1.52, 1.3, "$h$", color=MARK)
    _word(axes, 1.95, 1.3, "=")
    for t in range(steps):
        x = 2.9 + 1.5 * t
        cell(x, inputs[t], outputs[t])
        start = x - 1.1 if t else x - 0.75
        _arrow(axes, (start, 1.3), (x - 0.4, 1.3), color=MARK)
        _word(axes, x - 0.78, 1.48, f"$h_{{{t}}}$", color=MARK)
    return axes.figure


@styled()
def lstm_cell() -> Figure:
    """Draw the cell of a long short-term memory: what is forgotten, written and shown.

    The memory c passes along the top, changed only by a product and a sum.

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Example:
      >>> figure = lstm_cell()
    """
    axes = canvas(7.4, 3.7)
    _rectangle(axes, 1.0, 0.65, 5.3, 2.55, fill="0.97", line="0.7")
    top = 2.8
    _memory(axes, top)
    _gates(axes)

    # Each gate to the product or the sum that it takes part in.
    _arrow(axes, (2.0, 1.6), (2.0, top - 0.15))
    _route(axes, (2.75, 1.6), (2.75, 2.15), (3.05, 2.15))
    _route(axes, (3.65, 1.6), (3.65, 2.15), (3.35, 2.15))
    _route(axes, (3.2, 2.3), (3.2, 2.48), (3.75, 2.48), (3.75, top - 0.15))
    _route(axes, (4.7, 1.6), (4.7, 2.15), (5.3, 2.15))

    # The output is the memory through a tanh, times the last gate.
    _arrow(axes, (5.45, top), (5.45, 2.3))
    _word(axes, 5.78, 2.5, "tanh")
    _route(axes, (5.45, 2.0), (5.45, 0.9), (7.1, 0.9))
    _line(axes, [(1.4, 0.2), (1.4, 0.9)])

    _word(axes, 1.4, 0.1, "$x_t$")
    _word(axes, 0.35, top + 0.2, "$c_{t-1}$")
    _word(axes, 6.9, top + 0.2, "$c_t$")
    _word(axes, 0.35, 1.1, "$h_{t-1}$")
    _word(axes, 6.9, 1.1, "$h_t$")
    _word(axes, 2.0, 3.38, "forget", color="0.4")
    _word(axes, 3.2, 3.38, "write", color="0.4")
    _word(axes, 5.45, 3.38, "show", color="0.4")
    return axes.figure


def _memory(axes: Any, top: float) -> None:
    """Draw the line of the memory, and the circles of products and of the sum."""
    for start, end in ((0.2, 1.85), (2.15, 3.6), (3.9, 7.1)):
        _arrow(axes, (start, top), (end, top), color=MARK)
    _circle(axes, 2.0, top, "×")
    _circle(axes, 3.75, top, "+")
    _circle(axes, 3.2, 2.15, "×")
    _circle(axes, 5.45, 2.15, "×")


def _gates(axes: Any) -> None:
    """Draw the gates, with the line from the input and the last output."""
    _line(axes, [(0.2, 0.9), (4.7, 0.9)])
    for word, x, name in (("σ", 2.0, "f"), ("σ", 2.75, "i"), ("tanh", 3.65, "g"), ("σ", 4.7, "o")):
        width = 0.7 if word == "tanh" else 0.5
        _box(axes, x, 1.4, width, 0.4, word)
        _arrow(axes, (x, 0.9), (x, 1.2))
        _word(axes, x - width / 2 - 0.1, 1.75, f"${name}$", color=COLORS[0])


@styled()
def attention_steps(query: str, words: Any, weights: Any) -> Figure:
    """Draw the attention of one query: a weight per word, and the weighted mean of their values.

    Args:
      query: Word of the query.
      words: Words of the memory.
      weights: Weights of the softmax, (words,), in [0, 1].

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError, ValueError: If there is not one weight per word, or if a weight is outside [0, 1].

    Example:
      >>> figure = attention_steps("it", ["the", "cat", "sat"], [0.1, 0.8, 0.1])
    """
    words = texts("attention_steps", "words", words)
    (query,) = texts("attention_steps", "query", [query])
    sizes = {"words": len(words)}
    weights = on_host("attention_steps", "weights", weights, "(words,)", sizes=sizes)
    check_values("attention_steps", "weights", weights, "[0, 1]")
    axes = canvas(1.3 * len(words) + 2.6, 3.6)
    middle = 1.3 * (len(words) - 1) / 2 + 2.4
    _word(axes, 0.75, 0.35, "words")
    _word(axes, 0.75, 1.15, "keys, values")
    _word(axes, 0.75, 2.0, "weights")
    _box(axes, middle, 2.95, 1.5, 0.45, "Σ weight · value")
    for i, (word, weight) in enumerate(zip(words, weights, strict=True)):
        x = 2.4 + 1.3 * i
        height = 0.6 * float(weight)
        _word(axes, x, 0.35, word)
        _arrow(axes, (x, 0.5), (x, 0.9))
        _box(axes, x, 1.15, 0.9, 0.45, f"$k_{{{i + 1}}}, v_{{{i + 1}}}$")
        _rectangle(axes, x - 0.2, 1.6, 0.4, height, fill=COLORS[0], line="none")
        _word(axes, x, 1.7 + height, f"{weight:.2f}")
        end = (middle + 0.5 * (x - middle) / len(words), 2.72)
        _arrow(axes, (x, 1.9 + height), end, width=0.5 + 3 * float(weight))
    _word(axes, middle, 3.4, f"answer to the query of “{query}”")
    return axes.figure


def _cells(axes: Any, numbers: np.ndarray) -> None:
    """Draw a table of numbers; larger numbers are darker."""
    rows, columns = numbers.shape
    span = float(np.ptp(numbers)) or 1.0
    for (r, c), number in np.ndenumerate(numbers):
        darkness = (number - numbers.min()) / span
        _rectangle(axes, c, r, 1, 1, fill=str(1 - 0.25 * darkness), line="0.75")
        axes.text(c + 0.5, r + 0.5, _short(number), ha="center", va="center", size=8)
    axes.set(xlim=(-0.06, columns + 0.06), ylim=(rows + 0.06, -0.06), aspect="equal")
    axes.spines[:].set_visible(False)
    frame(axes)


def _short(number: float) -> str:
    if number == round(number):
        return str(int(number))
    return f"{number:.2f}"


def _rectangle(axes, x, y, width, height, *, fill=FILL, line=LINE, thick=1.0) -> None:
    from matplotlib.patches import Rectangle

    style = {"facecolor": fill, "edgecolor": line, "linewidth": thick}
    axes.add_patch(Rectangle((x, y), width, height, **style))


def _box(axes, x, y, width, height, word) -> None:
    _rectangle(axes, x - width / 2, y - height / 2, width, height)
    _word(axes, x, y, word)


def _circle(axes, x, y, sign) -> None:
    from matplotlib.patches import Circle

    axes.add_patch(Circle((x, y), 0.15, facecolor="white", edgecolor=LINE, zorder=3))
    axes.text(x, y, sign, ha="center", va="center", size=10, zorder=4)


def _word(axes, x, y, word, color="black") -> None:
    axes.text(x, y, word, ha="center", va="center", size=10, color=color)


def _line(axes, points) -> None:
    axes.plot(*zip(*points, strict=True), color=LINE, linewidth=1.2)


def _route(axes, *points) -> None:
    """Draw a line that ends in an arrow."""
    _line(axes, points[:-1])
    _arrow(axes, *points[-2:])


def _arrow(axes, start, end, *, color=LINE, width=1.2, bend=0.0) -> None:
    style = {
        "arrowstyle": "-|>",
        "color": color,
        "linewidth": width,
        "shrinkA": 0,
        "shrinkB": 0,
        "mutation_scale": 9,
        "connectionstyle": f"arc3,rad={bend}",
    }
    axes.annotate("", end, start, arrowprops=style)
