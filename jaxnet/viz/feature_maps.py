"""Feature maps of one image."""

from typing import Any

import numpy as np

from jaxnet.services.checks import at_least, on_host
from jaxnet.viz.style import Figure, cells, frame, grid, new_figure, styled


@styled()
def feature_maps(
    maps: Any, image: Any = None, *, most_active: int | None = None, columns: int | None = None
) -> Figure:
    """Draw the numbered feature maps of one layer, on a common scale.

    White is 0 and black is the largest value; with negative values, blue is below 0 and red above.

    Args:
      maps: Maps of one image, (height, width, maps), such as `found["conv_1"][0]` of `found =
        jn.inspect.activations(...)`.
      image: Input, (height, width, 1 or 3), shown first.
      most_active: Number of maps to show, from the largest mean absolute value down.
      columns: Maps per row; about square by default.

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError: If an argument is not of numbers.
      ValueError: If a shape does not fit, or there is fewer than one map.

    Example:
      >>> row, column = np.mgrid[:12, :10]
      >>> maps = np.stack([np.sin(i * row / 4 + column / 2) for i in range(8)], -1)  # (12, 10, 8)
      >>> figure = feature_maps(maps, most_active=3)
    """
    maps = on_host("feature_maps", "maps", maps)
    if maps.ndim != 3 or not maps.size:
        raise ValueError(
            "feature_maps: expected the maps of one image, (height, width, maps), got "
            f"{maps.shape}; for a batch, pass the maps of one image, as in maps[0]"
        )
    at_least("feature_maps", "most_active", most_active, optional=True)
    order = np.arange(maps.shape[2])
    if most_active is not None:
        activity = np.abs(maps).mean((0, 1))
        order = np.argsort(-activity, kind="stable")[:most_active]

    first = 0 if image is None else 1
    count = first + len(order)
    rows, columns = grid("feature_maps", count, columns)
    side = 1.0 if len(order) <= 16 else 0.75
    aspect = maps.shape[0] / maps.shape[1]
    figure = new_figure(side * columns + 0.7, (side * aspect + 0.2) * rows)
    places = cells(figure, rows, columns, count)
    if image is not None:
        show_image("feature_maps", places[0], image)
        places[0].set_title("image", fontsize=8, pad=2)
    largest = np.abs(maps).max() or 1.0
    shades = {"cmap": "gray_r", "vmin": 0, "vmax": largest}
    if maps.min() < 0:
        shades = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
    for axes, i in zip(places[first:], order, strict=True):
        axes.imshow(maps[..., i], **shades)
        axes.set_title(f"map {i}", fontsize=8, pad=2)
        frame(axes)
    scale = figure.colorbar(places[first].images[0], ax=places, shrink=0.9, aspect=7 * rows)
    scale.ax.tick_params(labelsize=8)
    return figure


def show_image(who: str, axes: Any, image: Any, alpha: float = 1.0) -> None:
    """Draw one image: in color with three channels, as dark ink on white with one.

    Example:
      >>> from jaxnet.viz.style import Figure, new_figure
      >>> show_image("images", new_figure(1, 1).subplots(), np.zeros((4, 5, 3)))
    """
    image = on_host(who, "image", image, dtype="booleans or numbers")
    if image.dtype != np.uint8 and image.max(initial=0) > 10:
        raise ValueError(
            f"{who}: floats are drawn from 0 to 1, got {image.max():g}. For pixels of 0 to 255, "
            "write x / 255"
        )
    if image.dtype == np.uint8:
        image = image / 255
    image = np.clip(image, 0, 1)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    in_color = image.ndim == 3 and image.shape[-1] == 3
    if not image.size or not (image.ndim == 2 or in_color):
        raise ValueError(
            f"{who}: an image must have shape (height, width, 1 or 3 channels), got {image.shape}"
        )
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=1, alpha=alpha)
    frame(axes)
