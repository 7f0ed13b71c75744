"""Grids of images."""

from collections.abc import Sequence
from typing import Any

from jaxnet.services.checks import on_host
from jaxnet.viz.feature_maps import show_image
from jaxnet.viz.style import Figure, cells, grid, new_figure, styled, texts


@styled()
def images(x: Any, titles: Sequence[str] | None = None, *, columns: int | None = None) -> Figure:
    """Draw a grid of images: in color with three channels, as dark ink on white with one.

    Args:
      x: Images, (images, height, width), (images, height, width, 1) or (images, height, width, 3);
        floats, clipped to [0, 1], or uint8.
      titles: List of one title per image, such as "predicted 3, true 5".
      columns: Images per row; about square by default.

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError: If `x` is not of numbers, or `titles` are not str.
      ValueError: If `x` has the wrong shape or no images, or if there is not one title per image.

    Example:
      >>> distance = np.hypot(*np.mgrid[-12:13, -12:13])
      >>> rings = np.stack([0.5 + 0.5 * np.cos(distance / width) for width in (1, 2, 3, 4, 5)])
      >>> figure = images(rings[..., None], titles=list("abcde"), columns=3)
    """
    x = on_host("images", "x", x, dtype="booleans or numbers")
    if x.ndim == 3 and x.shape[-1] not in (1, 3):  # with 1 or 3, x is a single image
        x = x[..., None]
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or not x.size:
        raise ValueError(
            "images: expected (images, height, width, 1 or 3 channels), at least one, got "
            f"{x.shape}; for one image pass x[None]"
        )
    longest = 0
    if titles is not None:
        titles = texts("images", "titles", titles, len(x), "image")
        longest = max(len(title) for title in titles)
    rows, columns = grid("images", len(x), columns)
    width = max(1.2, 0.1 * longest)
    height = width * x.shape[1] / x.shape[2]
    if titles is not None:
        height += 0.3
    figure = new_figure(width * columns, height * rows)
    for i, axes in enumerate(cells(figure, rows, columns, len(x))):
        show_image("images", axes, x[i])
        if titles is not None:
            axes.set_title(titles[i])
    return figure
