"""Spectrograms of speech with segments and the posteriors of a recognizer."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnet.services.checks import at_least, on_host, within
from jaxnet.viz.style import COLORS, Figure, a_dict, escaped, new_figure, styled, texts

Segment = tuple[str, float, float]  # (name, first frame, frame after the last)
SHOWN = 0.1  # smallest probability at which a class gets a line


@styled()
def spectrogram(
    features: Any,
    segments: Mapping[str, Sequence[Segment]] | None = None,
    *,
    posterior: Any = None,
    names: Sequence[str] | None = None,
    blank: int = 0,
    stride: int = 1,
    hop: float = 0.01,
) -> Figure:
    """Draw features over time, with rows of named segments and class posteriors below.

    Args:
      features: Features of one wave, (frames, bands), as `jn.data.log_mel` returns them; dark is
        large.
      segments: Dict of title of a row -> its segments (name, first frame, frame after the last),
        such as the truth and the output of a recognizer.
      posterior: Probabilities, (steps, classes), such as the softmax of a net trained with
        `jn.losses.ctc`: one line per class, with its name at steps at which it is the most probable
        class; the blank is gray.
      names: Names of the classes; their numbers by default.
      blank: Class for "no label".
      stride: Frames per step of the posterior.
      hop: Distance between frames in seconds.

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError: If an argument has the wrong type.
      ValueError: If a shape does not fit, a probability is outside [0, 1], a segment is outside the
        frames, the blank is unknown, or the numbers of names and classes differ.

    Example:
      >>> heard = {"truth": [("seven", 2, 30), ("one", 33, 49)]}
      >>> pitch = 10 + 6 * np.sin(np.arange(50) / 6)
      >>> features = np.exp(-((np.arange(20) - pitch[:, None]) ** 2) / 4)  # (frames, bands)
      >>> figure = spectrogram(features, heard)
    """
    features = on_host("spectrogram", "features", features, "(frames, bands)", empty=False)
    within("spectrogram", "hop", hop, "(0, inf)")
    at_least("spectrogram", "stride", stride)
    at_least("spectrogram", "blank", blank, 0)
    rows = {}
    if segments is not None:
        rows = a_dict("spectrogram", "segments", segments, "title -> segments")
    frames = len(features)
    for title, row in rows.items():
        _check_row(title, row, frames)

    heights = [2.2]
    if rows:
        heights.append(0.32 * len(rows))
    if posterior is not None:
        heights.append(1.4)
    width = min(max(4, 0.04 * frames), 13) + 1
    figure = new_figure(width, sum(heights) + 0.8)
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    top, *below = panels[:, 0]
    extent = (0, frames * hop, -0.5, features.shape[1] - 0.5)
    top.imshow(features.T, cmap="Greys", aspect="auto", origin="lower", extent=extent)
    top.set_ylabel("band")
    if rows:
        _draw_rows(below[0], rows, hop)
    if posterior is not None:
        _draw_posterior(below[-1], posterior, names, blank, stride * hop)
    for panel in panels[:, 0]:
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1, 0].set(xlabel="seconds", xlim=(0, frames * hop))
    return figure


def _check_row(title: str, row: Any, frames: int) -> None:
    if not isinstance(row, list | tuple) or not all(_is_segment(segment) for segment in row):
        raise TypeError(
            f"spectrogram: segments[{title!r}] must be a list of (name, first frame, frame "
            f"after the last), got {row!r:.60}"
        )
    for name, start, stop in row:
        if not 0 <= start < stop <= frames:
            raise ValueError(
                f"spectrogram: segments must be inside the {frames} frames, got {name!r} of "
                f"{title} from {start} to {stop}"
            )


def _is_segment(segment: Any) -> bool:
    if not isinstance(segment, list | tuple) or len(segment) != 3:
        return False
    name, start, stop = segment
    number = int | float | np.integer | np.floating
    return isinstance(name, str) and isinstance(start, number) and isinstance(stop, number)


def _draw_rows(axes: Any, rows: Mapping[str, Sequence[Segment]], hop: float) -> None:
    for y, row in enumerate(rows.values()):
        for i, (name, start, stop) in enumerate(row):
            color = COLORS[0] if i % 2 == 0 else COLORS[5]
            style = {"color": color, "edgecolor": COLORS[0], "linewidth": 0.6, "alpha": 0.35}
            axes.barh(y, (stop - start) * hop, left=start * hop, height=0.8, **style)
            middle = (start + stop) / 2 * hop
            axes.text(middle, y, escaped(name), ha="center", va="center", fontsize=8, clip_on=True)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _draw_posterior(axes: Any, posterior: Any, names: Any, blank: int, step: float) -> None:
    posterior, names = _checked(posterior, names, blank)
    steps, classes = posterior.shape
    time = (np.arange(steps) + 0.5) * step
    best = posterior.argmax(1)
    largest = posterior.max(0)
    shown = [c for c in range(classes) if c in best or largest[c] >= SHOWN]
    colors: dict[int, str] = {}
    for c in shown:
        if c != blank:
            colors[c] = COLORS[len(colors) % (len(COLORS) - 1)]

    axes.plot(time, posterior[:, blank], color="0.7", linewidth=0.8, linestyle=":")
    for c, color in colors.items():
        axes.plot(time, posterior[:, c], color=color, linewidth=1.2)
    for start, stop in _runs(best):
        c = int(best[start])
        if c != blank:
            peak = start + int(posterior[start:stop, c].argmax())
            axes.text(time[peak], 1.04, names[c], ha="center", fontsize=8, color=colors[c])
    axes.set(ylim=(0, 1.2), yticks=[0, 0.5, 1], ylabel="p(class)")


def _checked(posterior: Any, names: Any, blank: int) -> tuple[np.ndarray, list[str]]:
    """Return the posterior as an array, and one name per class."""
    posterior = on_host("spectrogram", "posterior", posterior, "(steps, classes)", empty=False)
    classes = posterior.shape[1]
    if not (posterior.min() >= 0 and posterior.max() <= 1 + 1e-5):
        raise ValueError(
            f"spectrogram: expected probabilities in [0, 1], got {posterior.min():.3g} to "
            f"{posterior.max():.3g}; for logits pass jax.nn.softmax(logits)"
        )
    if names is not None:
        names = texts("spectrogram", "names", names)
    if not 0 <= blank < classes or (names is not None and len(names) != classes):
        raise ValueError(
            f"spectrogram: the blank must be one of the {classes} classes, each with a name, "
            f"got blank {blank} and {'no' if names is None else len(names)} names"
        )
    return posterior, names or [str(c) for c in range(classes)]


def _runs(best: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the first step, and the step after the last, of each run of one class."""
    changes = np.flatnonzero(best[1:] != best[:-1]) + 1
    yield from itertools.pairwise([0, *changes.tolist(), len(best)])
