"""Heat maps over images, for attribution."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnet.services.checks import on_host, one_of, within
from jaxnet.viz.feature_maps import show_image
from jaxnet.viz.style import Figure, a_dict, frame, new_figure, signed_scale, styled, texts


@styled()
def heatmap(
    images: Any,
    maps: Mapping[str, Any],
    titles: Sequence[str] | None = None,
    *,
    unsigned: Sequence[str] = (),
    side: float = 1.4,
) -> Figure:
    """Draw one row per image: the image, and each of its maps over a pale gray copy of it.

    Red is positive, blue is negative and transparent is 0; each map is scaled by its largest
    absolute value. A map coarser than its image, such as a class activation map, is interpolated.

    Args:
      images: Images in [0, 1], (images, height, width, 1 or 3 channels).
      maps: Dict of name -> (images, rows, columns), or (images, rows, columns, channels), which is
        summed over the channels; as `jn.inspect.saliency`, `integrated_gradients`, `occlusion` and
        `class_activation_map` return them.
      titles: Titles at the left of each row, such as "3, predicted 5".
      unsigned: Names of maps to show by their largest absolute value over the channels, from
        transparent at 0 to red.
      side: Side of a cell, in inches.

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError: If an argument has the wrong type.
      ValueError: If a shape does not fit, there are no maps, or the numbers of titles and images
        differ.

    Example:
      >>> row, column = np.mgrid[-8:8, -8:8]
      >>> x = 1.0 * (abs(np.hypot(row, column) - 5) < 1.5)[None, :, :, None]  # a ring
      >>> maps = {"left": -x[..., 0] * column, "top": -x[..., 0] * row}
      >>> figure = heatmap(x, maps, ["0, predicted 0"])
    """
    images = on_host("heatmap", "images", images, dtype="booleans or numbers")
    if images.dtype == np.uint8:
        images = images / 255
    maps = a_dict("heatmap", "maps", maps, "name -> maps")
    unsigned = texts("heatmap", "unsigned", unsigned)
    within("heatmap", "side", side, "(0, 100]")
    flat = {}
    for name, values in maps.items():
        flat[name] = _flat(name, values, images, name in unsigned)
    if not flat:
        raise ValueError("heatmap: expected at least one map, such as {'saliency': gradient}")
    if titles is not None:
        titles = texts("heatmap", "titles", titles, len(images), "image")
    for name in unsigned:
        one_of("heatmap", "unsigned", name, maps)

    height, width = images.shape[1:3]
    cell = (side, side * height / width)
    figure = _empty(len(images), len(flat), cell, titles or [])
    cells = figure.subplots(len(images), 1 + len(flat), squeeze=False)
    cells[0, 0].set_title("image")
    for axes, name in zip(cells[0, 1:], flat, strict=True):
        axes.set_title(name)
    drawn: Any = None
    for i, image in enumerate(images):
        show_image("heatmap", cells[i, 0], image)
        if titles is not None:
            _title_at_left(cells[i, 0], titles[i])
        for axes, values in zip(cells[i, 1:], flat.values(), strict=True):
            drawn = _draw_map(axes, values[i], image)
            frame(axes)
    signed_scale(figure, drawn, cells, 12 * len(images))
    return figure


def _empty(rows: int, maps: int, cell: tuple[float, float], titles: Sequence[str]) -> Figure:
    """Return a figure for cells of this width and height, with space for the titles of rows."""
    lines = [line for title in titles for line in title.split("\n")]
    longest = max((len(line) for line in lines), default=0)
    side, height = cell
    width = side * (1 + maps) + 0.09 * longest + 0.6
    figure = new_figure(width, height * rows + 0.35)
    room = 0.1 / width  # space for the titles, whose width the layout underestimates
    figure.set_layout_engine("constrained", rect=(room, 0, 1 - room, 1))
    return figure


def _title_at_left(axes: Any, title: str) -> None:
    style = {"fontsize": 9, "ha": "right", "va": "center"}
    axes.text(-0.05, 0.5, title, transform=axes.transAxes, **style)


def _draw_map(axes: Any, values: np.ndarray, image: np.ndarray) -> Any:
    """Draw one map over a pale copy of its image, and return the map's artist."""
    height, width = image.shape[:2]
    # Images of one channel show dark ink.
    gray = image.mean(-1) if image.shape[-1] == 3 else 1 - image[..., 0]
    pale = 0.6 + 0.4 * np.clip(gray, 0, 1)
    axes.imshow(pale, cmap="gray", vmin=0, vmax=1)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    smooth = "bilinear" if values.shape != (height, width) else "nearest"
    scale = {"cmap": _colors(), "vmin": -1, "vmax": 1}
    return axes.imshow(values, extent=extent, interpolation=smooth, **scale)


def _flat(name: str, values: Any, images: np.ndarray, unsigned: bool) -> np.ndarray:
    """Return one value per position, (images, rows, columns), scaled by each image's largest."""
    values = on_host("heatmap", f"maps[{name!r}]", values)
    shapes_fit = images.ndim == 4 and values.ndim in (3, 4) and len(values) == len(images)
    if not shapes_fit or not images.size or not values.size:
        raise ValueError(
            "heatmap: expected images (images, height, width, channels) and maps (images, rows, "
            f"columns) or with channels, got {images.shape} and {name} {values.shape}"
        )
    if unsigned:
        values = np.abs(values)
    if values.ndim == 4:
        values = values.max(-1) if unsigned else values.sum(-1)
    finite = np.where(np.isfinite(values), values, 0)
    largest = np.abs(finite).max((1, 2), keepdims=True)
    return values / np.where(largest > 0, largest, 1)


def _colors() -> Any:
    """Blue, transparent, red."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    table = colormaps["RdBu_r"](np.linspace(0, 1, 256))
    opacity = 1.6 * np.abs(np.linspace(-1, 1, 256))
    table[:, 3] = np.minimum(1, opacity)
    return ListedColormap(table)
