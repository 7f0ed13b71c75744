"""Bounding boxes on images: predictions and ground truth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnet.services.checks import check_values, on_host
from jaxnet.viz.style import COLORS, Figure, a_dict, cells, frame, grid, new_figure, styled, texts


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
    from matplotlib.lines import Line2D

    x = on_host("boxes", "x", x, "(images, height, width, 1 or 3 channels)", empty=False)
    x = np.clip(x, 0, 1)
    parts = {"found": found, "true": truth}
    given = {what: _checked(what, part, len(x)) for what, part in parts.items() if part is not None}
    count = max((int(part["classes"].max(initial=-1)) + 1 for part in given.values()), default=0)
    names = [str(c) for c in range(count)] if names is None else texts("boxes", "names", names)
    if count > len(names):
        raise ValueError(f"boxes: class {count - 1} has no name; names: {', '.join(names)}")

    rows, columns = grid("boxes", len(x), columns)
    width = 3.6
    figure = new_figure(width * columns, width * x.shape[1] / x.shape[2] * rows + 0.4)
    for i, (axes, image) in enumerate(zip(cells(figure, rows, columns, len(x)), x, strict=True)):
        # Relative coordinates are the axes, for any number of pixels.
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=1, extent=(0, 1, 1, 0), aspect="auto")
        axes.set_box_aspect(x.shape[1] / x.shape[2])
        frame(axes)
        for what, part in given.items():
            _draw(axes, part, i, dashed=what == "true")
    if not given:
        return figure
    named = range(len(names))
    if len(names) > len(COLORS):  # with many classes, list only the classes on the images
        named = sorted({c for p in given.values() for c in p["classes"].ravel().tolist()} - {-1})
    lines = [Line2D([], [], color=_color(c), linewidth=3) for c in named]
    lines += [Line2D([], [], color="0.3", linestyle="--" if w == "true" else "-") for w in given]
    words = [*(names[c] for c in named), *given]
    # In inches, including the line before the name.
    wide = [0.67 + 0.085 * len(word) for word in words]
    room = figure.get_figwidth() - 0.1
    across = len(lines) if sum(wide) < room else max(1, int(room / max(wide)))
    figure.set_figheight(figure.get_figheight() + 0.2 * ((len(lines) - 1) // across))
    figure.legend(lines, words, loc="outside lower center", ncols=across)
    return figure


def _draw(axes: Any, part: dict[str, np.ndarray], i: int, dashed: bool) -> None:
    from matplotlib.patches import Rectangle

    for j, (c, box) in enumerate(zip(part["classes"][i], part["boxes"][i], strict=True)):
        top, left, bottom, right = box
        if c < 0 or bottom <= top or right <= left:
            continue
        color = _color(c)
        style = {"linestyle": "--" if dashed else "-", "linewidth": 1.0 if dashed else 1.6}
        style |= {"fill": False, "edgecolor": color}
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, **style))
        if "scores" in part:
            label = {"facecolor": color, "edgecolor": "none", "pad": 0.8}
            style = {"fontsize": 6, "color": "white", "va": "top", "clip_on": True, "bbox": label}
            axes.text(left, top, f"{part['scores'][i][j]:.2f}", **style)


def _color(c: int) -> str:
    """Return a color per class: first the colors of the style, then hues that are far apart."""
    from matplotlib.colors import hsv_to_rgb, to_hex

    if c < len(COLORS):
        return COLORS[c]
    n = c - len(COLORS)
    # Steps of the golden ratio spread any number of hues over the color circle.
    hue = (0.61803 * n + 0.05) % 1
    red, green, blue = hsv_to_rgb((hue, 1 - 0.35 * (n % 2), 0.9 - 0.3 * (n % 3 == 2)))
    return to_hex((red, green, blue))


def _checked(what: str, part: Mapping[str, Any], images: int) -> dict[str, np.ndarray]:
    given = a_dict("boxes", "found" if what == "found" else "truth", part, "arrays")
    forms = {
        "boxes": ("(images, n, 4)", "reals"),
        "classes": ("(images, n)", "integers"),
        "scores": ("(images, n)", "reals"),
    }
    if not {"boxes", "classes"} <= given.keys() <= forms.keys():
        raise ValueError(
            f'boxes: {what} must have "boxes", "classes" and optionally "scores", got '
            f"{', '.join(map(str, given)) or 'nothing'}"
        )
    sizes = {"images": images}
    kept = [name for name in forms if name in given]
    arrays = {n: on_host("boxes", f"{what} {n}", given[n], *forms[n], sizes) for n in kept}
    # Signed, since classes are compared with -1.
    arrays["classes"] = arrays["classes"].astype(np.int64)
    check_values("boxes", f"{what} boxes", arrays["boxes"], "(-inf, inf)")
    return arrays
