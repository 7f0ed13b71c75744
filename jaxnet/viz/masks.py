"""Segmentation masks over images."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnet.services.checks import on_host, within
from jaxnet.viz.style import Figure, a_dict, frame, new_figure, styled, texts


def overlay(x: Any, mask: Any, colors: Any, *, alpha: float = 0.6) -> np.ndarray:
    """Return images blended with the color of each pixel's class, as an array.

    Args:
      x: Images, (..., height, width, 3), floats in [0, 1] or uint8.
      mask: Integers, (..., height, width); pixels of other labels, such as void, show the image.
      colors: Red, green and blue of each class, (classes, 3), floats in [0, 1] or uint8.
      alpha: Fraction of the color, in [0, 1]; the rest is the image.

    Returns:
      Floats in [0, 1], of the shape of x.

    Raises:
      TypeError: If an argument is not of numbers, or `mask` is not of integers.
      ValueError: If shapes do not match, or `alpha` is outside [0, 1].

    Example:
      >>> red_or_green = [[1, 0, 0], [0, 1, 0]]
      >>> overlay(np.ones((1, 3, 3)), np.array([[0, 1, 255]]), red_or_green, alpha=0.5).tolist()
      [[[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [1.0, 1.0, 1.0]]]
    """
    x = _unit("overlay", "x", x)
    colors = _unit("overlay", "colors", colors, "(classes, 3)")
    mask = on_host("overlay", "mask", mask, dtype="integers")
    if x.shape != (*mask.shape, 3):
        raise ValueError(
            "overlay: expected images (..., height, width, 3) and masks (..., height, width), "
            f"got {x.shape} and {mask.shape}"
        )
    within("overlay", "alpha", alpha, "[0, 1]")
    in_range = (mask >= 0) & (mask < len(colors))
    clipped = np.where(in_range, mask, 0)
    painted = alpha * colors[clipped] + (1 - alpha) * x
    return np.where(in_range[..., None], painted, x)


@styled()
def masks(
    x: Any,
    labels: Mapping[str, Any],
    names: Sequence[str],
    colors: Any,
    *,
    titles: Sequence[str] | None = None,
    alpha: float = 0.6,
) -> Figure:
    """Draw one row per image: the image, and its blends with one or more masks, with a legend.

    Args:
      x: Images, (images, height, width, 3), floats in [0, 1] or uint8.
      labels: Dict of title of a column -> masks (images, height, width), such as {"truth": masks,
        "FCN-8s": predicted}; labels beyond the names are void and show the image.
      names: Names of the classes, without void.
      colors: Colors, (classes, 3), one per name, floats in [0, 1] or uint8.
      titles: List of one title per image, such as "mean IoU 0.62".
      alpha: Fraction of the color; the rest is the image.

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError: If an argument has the wrong type.
      ValueError: If numbers or shapes do not match.

    Example:
      >>> truth = np.arange(24).reshape(2, 3, 4) % 3  # 2 is void
      >>> figure = masks(np.ones((2, 3, 4, 3)), {"truth": truth}, ["cat", "dog"], np.eye(3)[:2])
    """
    from matplotlib.patches import Patch

    x = _unit("masks", "x", x, "(images, height, width, 3)")
    labels = a_dict("masks", "labels", labels, "title -> masks")
    names = texts("masks", "names", names)
    colors = _unit("masks", "colors", colors, "(names, 3)", {"names": len(names)})
    for title, mask in labels.items():
        labels[title] = on_host("masks", f"labels[{title!r}]", mask, dtype="integers")
    within("masks", "alpha", alpha, "[0, 1]")
    if titles is not None:
        titles = texts("masks", "titles", titles, len(x), "image")
    columns = {"image": x}
    for title, mask in labels.items():
        columns[title] = overlay(x, mask, colors, alpha=alpha)

    width = 2.6  # inches per image; a name in the legend needs about 1.2
    most = int(width * len(columns) / 1.2)
    in_a_row = min(6, max(1, most))
    legend = 0.3 * math.ceil(len(names) / in_a_row) + 0.1
    height = width * x.shape[1] / x.shape[2]
    figure = new_figure(width * len(columns), height * len(x) + 0.3 + legend)
    cells = figure.subplots(len(x), len(columns), squeeze=False)
    for j, (column, pictures) in enumerate(columns.items()):
        for i, picture in enumerate(pictures):
            cells[i, j].imshow(picture)
            frame(cells[i, j])
        cells[0, j].set_title(column)
    for i, title in enumerate(titles or []):
        cells[i, 0].set_ylabel(title, fontsize=9)
    patches = [Patch(color=color, label=name) for name, color in zip(names, colors, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=in_a_row, handlelength=1.2)
    return figure


def _unit(
    who: str, what: str, values: Any, form: str = "(...)", sizes: dict[str, int] | None = None
) -> np.ndarray:
    """Return floats in [0, 1]."""
    may_be_empty = form == "(...)"
    values = on_host(who, what, values, form, "booleans or numbers", sizes, empty=may_be_empty)
    floats = values / 255 if values.dtype == np.uint8 else values.astype(float)
    return np.clip(floats, 0, 1)
