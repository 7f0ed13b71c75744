"""Masks, a class for each pixel, laid over their images."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet.viz.figure import frame, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def overlay(x: Any, mask: Any, colors: Any, *, share: float = 0.6) -> np.ndarray:
    """Images with the colour of its class laid over each pixel, as an array.

    Args:
      x: images (..., height, width, 3), floats in [0, 1] or uint8.
      mask: (..., height, width) integers; a pixel whose label is none of the classes, such as void,
        stays as it is.
      colors: (classes, 3), red, green and blue, floats in [0, 1] or uint8.
      share: of the colour, in [0, 1]; the rest is the image.

    Returns:
      Of the shape of x, floats in [0, 1].

    Raises:
      ValueError: where the shapes do not belong together, or share lies outside [0, 1].

    Example:
      >>> red_or_green = [[1, 0, 0], [0, 1, 0]]
      >>> overlay(np.ones((1, 3, 3)), np.array([[0, 1, 255]]), red_or_green, share=0.5).tolist()
      [[[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [1.0, 1.0, 1.0]]]
    """
    x, mask, colors = _unit(x), np.asarray(mask), _unit(colors)
    if x.shape != (*mask.shape, 3) or colors.ndim != 2 or colors.shape[1] != 3:
        raise ValueError(
            "overlay: needs images (..., height, width, 3), masks (..., height, width) and colours "
            f"(classes, 3), got {x.shape}, {mask.shape} and {colors.shape}"
        )
    if not 0 <= share <= 1:
        raise ValueError(f"overlay: share must be in [0, 1], got {share}")
    known = (mask >= 0) & (mask < len(colors))
    painted = share * colors[np.where(known, mask, 0)] + (1 - share) * x
    return np.where(known[..., None], painted, x)


def masks(
    x: Any,
    labels: Mapping[str, Any],
    names: Sequence[str],
    colors: Any,
    *,
    titles: Sequence[str] | None = None,
    share: float = 0.6,
) -> "Figure":
    """Each image in a row: as it is, and under each of several masks; a legend tells the classes.

    Args:
      x: images (images, height, width, 3), floats in [0, 1] or uint8.
      labels: title of a column -> masks (images, height, width), such as
        {"truth": masks, "FCN-8s": predicted}; labels beyond the names are void, and show the image.
      names: of the classes, void left out.
      colors: (classes, 3), one a name, floats in [0, 1] or uint8.
      titles: one an image, such as "mean IoU 0.62".
      share: of the colour, the rest is the image.

    Raises:
      ValueError: where numbers or shapes do not belong together.

    Example:
      >>> truth = np.arange(24).reshape(2, 3, 4) % 3  # 2 is void
      >>> figure = masks(np.ones((2, 3, 4, 3)), {"truth": truth}, ["cat", "dog"], np.eye(3)[:2])
      >>> [axes.get_title() for axes in figure.axes]
      ['image', 'truth', '', '']
    """
    from matplotlib.patches import Patch

    x, colors = _unit(x), _unit(colors)
    if x.ndim != 4 or len(x) == 0:
        raise ValueError(
            f"masks: needs (images, height, width, 3), at least one, got {x.shape}; "
            "for one image write x[None]"
        )
    if len(names) != len(colors):
        raise ValueError(f"masks: {len(names)} names need as many colours, got {len(colors)}")
    if titles is not None and len(titles) != len(x):
        raise ValueError(f"masks: {len(x)} images need as many titles, got {len(titles)}")
    columns = {"image": x} | {
        title: overlay(x, mask, colors, share=share) for title, mask in labels.items()
    }
    width = 2.6  # inches of a picture; a name takes about 1.2 of them
    in_a_row = min(6, max(1, int(width * len(columns) / 1.2)))
    legend = 0.3 * -(-len(names) // in_a_row) + 0.1
    height = width * x.shape[1] / x.shape[2]
    figure = new_figure(width * len(columns), height * len(x) + 0.3 + legend)
    cells = figure.subplots(len(x), len(columns), squeeze=False)
    for j, (column, pictures) in enumerate(columns.items()):
        for i, picture in enumerate(pictures):
            cells[i, j].imshow(picture, interpolation="nearest")
            frame(cells[i, j])
        cells[0, j].set_title(column, fontsize=10)
    for i, title in enumerate(titles or []):
        cells[i, 0].set_ylabel(title, fontsize=9)
    patches = [Patch(color=c, label=name) for name, c in zip(names, colors, strict=True)]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=in_a_row, frameon=False, fontsize=9,
        handlelength=1.2,
    )  # fmt: skip
    return figure


def _unit(values: Any) -> np.ndarray:
    """Floats in [0, 1]."""
    values = np.asarray(values)
    return np.clip(values / 255 if values.dtype == np.uint8 else values.astype(float), 0, 1)
