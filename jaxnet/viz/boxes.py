"""Bounding boxes on images: predictions and ground truth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnet.services.checks import check_values, on_host
from jaxnet.viz.style import COLORS, Figure, a_dict, cells, frame, grid, new_figure, styled, texts

SIDE = 3.6  # inches per image
FORMS = {  # shape and dtype of each part of a prediction
    "boxes": ("(images, n, 4)", "reals"),
    "classes": ("(images, n)", "integers"),
    "scores": ("(images, n)", "reals"),
}


@styled()
def boxes(
    x: Any,
    found: Mapping[str, Any] | tuple[Any, ...] | None = None,
    truth: Mapping[str, Any] | None = None,
    *,
    names: Sequence[str] | None = None,
    columns: int | None = None,
) -> Figure:
    """Draw images with bounding boxes, solid for predictions and dashed for ground truth.

    Each class has a color. The legend names all classes, or only the classes on the images if
    there are more than 7. A predicted box shows its score.

    Args:
      x: Images in [0, 1], (images, height, width, 1 or 3).
      found: Predictions: the result of `jn.models.yolo_detect`, or a dict of "boxes" (images, n,
        4), (top, left, bottom, right) relative to the image size, "classes" (images, n), -1 for
        padding, and optionally "scores" (images, n).
      truth: Ground truth: "boxes" (images, m, 4) and "classes" (images, m), -1 for padding, such as
        the result of `jn.data.pad_boxes`.
      names: Names of the classes; their numbers by default.
      columns: Images per row; about square by default.

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError: If an argument has the wrong type.
      ValueError: If a shape does not fit, there are no images, or a class has no name.

    Example:
      >>> found = {
      ...     "boxes": np.array([[[0.1, 0.1, 0.6, 0.4], [0.3, 0.5, 0.9, 0.9]]]),
      ...     "classes": np.array([[1, 0]]), "scores": np.array([[0.9, 0.7]]),
      ... }
      >>> truth = {"boxes": np.array([[[0.1, 0.15, 0.65, 0.4]]]), "classes": np.array([[1]])}
      >>> figure = boxes(np.ones((1, 30, 40, 3)), found, truth, names=["cat", "dog"])
    """
    x = on_host("boxes", "x", x, "(images, height, width, 1 or 3 channels)", empty=False)
    x = np.clip(x, 0, 1)
    parts = {}
    if found is not None:
        parts["found"] = _checked("found", found, len(x))
    if truth is not None:
        parts["true"] = _checked("true", truth, len(x))
    count = 0
    for part in parts.values():
        count = max(count, 1 + int(part["classes"].max(initial=-1)))
    if names is None:
        names = [str(c) for c in range(count)]
    names = texts("boxes", "names", names)
    if count > len(names):
        raise ValueError(f"boxes: class {count - 1} has no name; names: {', '.join(names)}")

    rows, columns = grid("boxes", len(x), columns)
    aspect = x.shape[1] / x.shape[2]
    figure = new_figure(SIDE * columns, SIDE * aspect * rows + 0.4)
    places = cells(figure, rows, columns, len(x))
    for i, (axes, image) in enumerate(zip(places, x, strict=True)):
        # Relative coordinates are the axes, for any number of pixels.
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=1, extent=(0, 1, 1, 0), aspect="auto")
        axes.set_box_aspect(aspect)
        frame(axes)
        for what, part in parts.items():
            _draw(axes, part, i, dashed=what == "true")
    if parts:
        _legend(figure, parts, names)
    return figure


def _draw(axes: Any, part: dict[str, np.ndarray], i: int, dashed: bool) -> None:
    """Draw the boxes of image `i`, with their scores."""
    from matplotlib.patches import Rectangle

    line = {"linestyle": "-", "linewidth": 1.6}
    if dashed:
        line = {"linestyle": "--", "linewidth": 1.0}
    for j, (c, box) in enumerate(zip(part["classes"][i], part["boxes"][i], strict=True)):
        top, left, bottom, right = box
        if c < 0 or bottom <= top or right <= left:
            continue
        color = _color(c)
        width, height = right - left, bottom - top
        axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=color, **line))
        if "scores" in part:
            score = f"{part['scores'][i][j]:.2f}"
            label = {"facecolor": color, "edgecolor": "none", "pad": 0.8}
            style = {"fontsize": 6, "color": "white", "va": "top", "clip_on": True}
            axes.text(left, top, score, bbox=label, **style)


def _legend(figure: Figure, parts: dict[str, dict[str, np.ndarray]], names: list[str]) -> None:
    """Name the colors of classes, then the lines of predictions and ground truth."""
    from matplotlib.lines import Line2D

    shown = range(len(names))
    if len(names) > len(COLORS):  # with many classes, list only the classes on the images
        present = np.concatenate([part["classes"].ravel() for part in parts.values()])
        shown = np.unique(present[present >= 0]).tolist()
    lines = [Line2D([], [], color=_color(c), linewidth=3) for c in shown]
    words = [names[c] for c in shown]
    for what in parts:
        style = "--" if what == "true" else "-"
        lines.append(Line2D([], [], color="0.3", linestyle=style))
        words.append(what)

    # In inches, including the line before the name.
    widths = [0.67 + 0.085 * len(word) for word in words]
    room = figure.get_figwidth() - 0.1
    across = len(lines)
    if sum(widths) >= room:
        across = max(1, int(room / max(widths)))
    more_rows = (len(lines) - 1) // across
    figure.set_figheight(figure.get_figheight() + 0.2 * more_rows)
    figure.legend(lines, words, loc="outside lower center", ncols=across)


def _color(c: int) -> str:
    """Return the color of class `c`, of which there may be any number."""
    from matplotlib.colors import hsv_to_rgb, to_hex

    if c < len(COLORS):
        return COLORS[c]
    n = c - len(COLORS)
    # Steps of the golden ratio spread any number of hues over the color circle.
    hue = (0.61803 * n + 0.05) % 1
    saturation = 1 - 0.35 * (n % 2)
    value = 0.9 - 0.3 * (n % 3 == 2)
    red, green, blue = hsv_to_rgb((hue, saturation, value))
    return to_hex((red, green, blue))


def _checked(what: str, part: Any, images: int) -> dict[str, np.ndarray]:
    entries = a_dict("boxes", "found" if what == "found" else "truth", part, "arrays")
    if not {"boxes", "classes"} <= entries.keys() <= FORMS.keys():
        raise ValueError(
            f'boxes: {what} must have "boxes", "classes" and optionally "scores", got '
            f"{', '.join(map(str, entries)) or 'nothing'}"
        )
    sizes = {"images": images}
    arrays = {}
    for name, (form, dtype) in FORMS.items():
        if name in entries:
            arrays[name] = on_host("boxes", f"{what} {name}", entries[name], form, dtype, sizes)
    # Signed, since classes are compared with -1.
    arrays["classes"] = arrays["classes"].astype(np.int64)
    check_values("boxes", f"{what} boxes", arrays["boxes"], "(-inf, inf)")
    return arrays
