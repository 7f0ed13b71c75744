"""Posteriors of the hidden states of a sequence, and the most likely path."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnet.services.checks import check_values, on_host
from jaxnet.viz.style import COLORS, Figure, new_figure, styled, texts


@styled()
def posteriors(
    posterior: Any,
    path: Any = None,
    *,
    names: Sequence[str] | None = None,
    steps: Sequence[str] | None = None,
) -> Figure:
    """Draw state posteriors over time as a heat map, with a path of states.

    Dark is 1. Where the path crosses light cells, other paths are nearly as likely.

    Args:
      posterior: Posterior of one sequence, (time, states), of `jn.unsupervised.hmm`, cut to its
        length.
      path: States, (time,), such as the most likely ones; -1 for none.
      names: Names of the states; their numbers by default.
      steps: Labels of the steps, such as the observed letters; the time by default.

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError: If an argument has the wrong type.
      ValueError: If a shape does not fit, if a probability is outside [0, 1], if a state is
        unknown, or if the number of names or steps is wrong.

    Example:
      >>> figure = posteriors([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], [0, 0, 1], steps="abc")
    """
    sizes: dict[str, int] = {}
    form = "(time, states)"
    posterior = on_host("posteriors", "posterior", posterior, form, sizes=sizes, empty=False)
    check_values("posteriors", "posterior", posterior, "[0, 1]", 1e-5)
    time, count = posterior.shape
    if names is None:
        names = [str(state) for state in range(count)]
    else:
        names = texts("posteriors", "names", names, count, "state")
    if steps is not None:
        steps = texts("posteriors", "steps", steps, time, "step")

    width = min(max(0.17 * time, 4), 14) + 1.5
    height = 0.45 * min(count, 16) + 1.2
    figure = new_figure(width, height)
    axes = figure.subplots()
    image = axes.imshow(posterior.T, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    if path is not None:
        path = on_host("posteriors", "path", path, "(time,)", "integers", sizes)
        check_values("posteriors", "path", path, f"[-1, {count})")
        _draw_path(axes, path)
    axes.set_yticks(range(count), names)
    axes.set(ylim=(-0.5, count - 0.5), ylabel="state")
    if steps is not None:
        axes.set_xticks(range(time), steps)
        axes.tick_params(axis="x", length=0)
    else:
        axes.set_xlabel("time")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, ticks=[0, 0.5, 1], label="posterior", pad=0.02)
    return figure


def _draw_path(axes: Any, path: np.ndarray) -> None:
    """Draw a line through the states; steps of -1 leave gaps."""
    time = np.arange(len(path))
    states = np.where(path < 0, np.nan, path)
    line = {"color": COLORS[1], "linewidth": 1.2}
    marker = {"marker": "o" if len(path) <= 80 else "", "markersize": 3.5}
    axes.plot(time, states, label="most likely path", **line, **marker)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1))
