"""Learning curves."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxnet.services.checks import check_list, on_host
from jaxnet.viz.style import COLORS, Figure, a_dict, cells, new_figure, styled, texts

Panels = Mapping[str, Mapping[str, Any]]


def history(*runs: Iterable[Any]) -> dict[str, dict[str, np.ndarray]]:
    """Return the metrics of the epochs of `fit` as arrays: metric -> split -> values.

    Args:
      runs: One or more lists of the epochs of a run, of equal lengths. An epoch has dicts of
        numbers `train` and `evaluation` (or None).

    Returns:
      A dict such as {"loss": {"train": ..., "evaluation": ...}, "accuracy": ...}; each array is
      (epochs,), or (runs, epochs) for several runs.

    Raises:
      TypeError: If a run is not a list of epochs.
      ValueError: If there are no epochs, or runs differ in length, or epochs in their metrics.

    Example:
      >>> from types import SimpleNamespace as Epoch
      >>> epochs = [Epoch(train={"loss": loss}, evaluation=None) for loss in (2.0, 1.0)]
      >>> history(epochs)
      {'loss': {'train': array([2., 1.])}}
    """
    listed = [check_list("history", "a run", run, "epochs") for run in runs]
    lengths = sorted({len(run) for run in listed})
    if len(lengths) != 1 or lengths == [0]:
        raise ValueError(
            "history: expected runs of equal lengths, at least one epoch each, such as "
            f"history(list(fit(...))), got runs of {lengths or 'no'} epochs"
        )
    for run in listed:
        for epoch in run:
            _check_epoch(epoch)
    panels: dict[str, dict[str, np.ndarray]] = {}
    for part in ("train", "evaluation"):
        by_run = [[getattr(epoch, part) or {} for epoch in run] for run in listed]
        first_epoch = by_run[0][0]
        for metric in first_epoch:
            if not all(metric in measured for run in by_run for measured in run):
                raise ValueError(f"history: {part}/{metric} is not in every epoch")
            values = np.array([[measured[metric] for measured in run] for run in by_run])
            lines = panels.setdefault(metric, {})
            lines[part] = values if len(listed) > 1 else values[0]
    return panels


def _check_epoch(epoch: Any) -> None:
    if not (hasattr(epoch, "train") and hasattr(epoch, "evaluation")):
        raise TypeError(
            f"history: an epoch must have train and evaluation, got {type(epoch).__name__}; "
            "write history(list(fit(...)))"
        )


@styled()
def curves(panels: Panels, *, xlabel: str = "epoch", x: Any = None) -> Figure:
    """Draw one panel per metric and one line per dataset split, over the epochs 1, 2, ...

    The legend shows the last value of each line, unless `x` is given or the axis is not of epochs
    or steps. Several runs are thin lines, with their mean as a thick line.

    Args:
      panels: Values (epochs,) or (runs, epochs), as metric -> name of a line -> values; see
        `history`.
      xlabel: Label of the horizontal axis.
      x: Places of the values on it, (epochs,); None is 1, 2, ... For a resumed run, pass
        [epoch.number for epoch in epochs].

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError: If `panels` is not a dict of dicts of numbers.
      ValueError: If there are no metrics, or values have the wrong shape.

    Example:
      >>> train = 0.8 ** np.arange(12)
      >>> figure = curves({"loss": {"train": train, "evaluation": train + 0.02 * np.arange(12)}})
    """
    from matplotlib.ticker import MaxNLocator

    named_panels = a_dict("curves", "panels", panels, "metric -> lines")
    panels = {
        metric: a_dict("curves", f"panels[{metric!r}]", panel, "name -> values")
        for metric, panel in named_panels.items()
    }
    (xlabel,) = texts("curves", "xlabel", [xlabel])
    if not panels:
        raise ValueError(
            "curves: expected at least one metric, such as {'loss': {'train': values}}"
        )
    with_last_value = x is None and xlabel in ("epoch", "step")
    figure = new_figure(4.8 * len(panels), 3.6)
    lines = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    places = cells(figure, 1, len(panels), len(panels))
    for axes, (metric, panel) in zip(places, panels.items(), strict=True):
        for name, line in panel.items():
            values = _checked_values(f"{metric}/{name}", line, x)
            _line(axes, x, values, name, lines.index(name), with_last_value)
        axes.set(xlabel=xlabel, ylabel=metric)
        if x is None:
            axes.set_xlim(0.5, None)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.grid()
        axes.spines[["top", "right"]].set_visible(False)
        if any(axes.get_legend_handles_labels()[1]):
            axes.legend()
    return figure


def _checked_values(what: str, line: Any, x: Any) -> np.ndarray:
    """Return the values of a line as (runs, epochs)."""
    values = on_host("curves", what, line)
    fits = x is None or values.shape[-1:] == np.shape(x)
    if values.ndim not in (1, 2) or values.size == 0 or not fits:
        places = "" if x is None else f" for x {np.shape(x)}"
        raise ValueError(
            f"curves: {what} must have shape (epochs,) or (runs, epochs), "
            f"got {values.shape}{places}"
        )
    return np.atleast_2d(values)


def _line(axes: Any, x: Any, values: np.ndarray, name: str, number: int, final: bool) -> None:
    """Draw the runs of one line, (runs, epochs), with its last value in the legend if `final`."""
    runs, epochs = values.shape
    color = COLORS[number % len(COLORS)]
    style = ("-", "--", ":", "-.")[number % 4]
    mean = values.mean(0)
    label = name
    if final:
        of = f"mean of {runs} runs: " if runs > 1 else ""
        label = f"{name}, {of}{mean[-1]:.4g} at the end"
    if x is None:
        x = np.arange(1, epochs + 1)
    if runs > 1:
        axes.plot(x, values.T, color=color, linewidth=0.7, alpha=0.4)
    mark = "o" if epochs < 12 else None  # a line through a single epoch would be invisible
    axes.plot(x, mean, style, color=color, linewidth=1.8, marker=mark, markersize=4, label=label)
