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
    images = images / 255 if images.dtype == np.uint8 else images
    maps = a_dict("heatmap", "maps", maps, "name -> maps")
    unsigned = texts("heatmap", "unsigned", unsigned)
    within("heatmap", "side", side, "(0, 100]")
    flat = {name: _flat(name, m, images, name in unsigned) for name, m in maps.items()}
    if not flat:
        raise ValueError("heatmap: expected at least one map, such as {'saliency': gradient}")
    titles = None if titles is None else texts("heatmap", "titles", titles, len(images), "image")
    for name in unsigned:
        one_of("heatmap", "unsigned", name, maps)
    height, width = images.shape[1:3]
    lines = [line for title in titles or [] for line in title.split("\n")]
    wide = side * (1 + len(flat)) + 0.09 * max(map(len, lines), default=0) + 0.6
    figure = new_figure(wide, side * height / width * len(images) + 0.35)
    room = 0.1 / wide  # space for the titles, whose width the layout underestimates
    figure.set_layout_engine("constrained", rect=(room, 0, 1 - room, 1))
    cells = figure.subplots(len(images), 1 + len(flat), squeeze=False)
    scale = {"cmap": _colors(), "vmin": -1, "vmax": 1}
    drawn: Any = None
    for i, image in enumerate(images):
        show_image("heatmap", cells[i, 0], image)
        if titles is not None:
            style = {"fontsize": 9, "ha": "right", "va": "center"}
            cells[i, 0].text(-0.05, 0.5, titles[i], transform=cells[i, 0].transAxes, **style)
        # Images of one channel show dark ink.
        gray = image.mean(-1) if image.shape[-1] == 3 else 1 - image[..., 0]
        for axes, (name, values) in zip(cells[i, 1:], flat.items(), strict=True):
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            axes.imshow(0.6 + 0.4 * np.clip(gray, 0, 1), cmap="gray", vmin=0, vmax=1)
            smooth = "bilinear" if values.shape[1:] != (height, width) else "nearest"
            drawn = axes.imshow(values[i], extent=extent, interpolation=smooth, **scale)
            frame(axes)
            if not i:
                axes.set_title(name)
    cells[0, 0].set_title("image")
    signed_scale(figure, drawn, cells, 12 * len(images))
    return figure


def _flat(name: str, values: Any, images: np.ndarray, unsigned: bool) -> np.ndarray:
    """Return one value per position, (images, rows, columns), scaled by each image's largest."""
    values = on_host("heatmap", f"maps[{name!r}]", values)
    shapes = images.ndim == 4 and values.ndim in (3, 4) and images.size and values.size
    if not shapes or len(values) != len(images):
        raise ValueError(
            "heatmap: expected images (images, height, width, channels) and maps (images, rows, "
            f"columns) or with channels, got {images.shape} and {name} {values.shape}"
        )
    if unsigned:
        values = np.abs(values)
    if values.ndim == 4:
        values = values.max(-1) if unsigned else values.sum(-1)
    largest = np.abs(np.where(np.isfinite(values), values, 0)).max((1, 2), keepdims=True)
    return values / np.where(largest > 0, largest, 1)


def _colors() -> Any:
    """Blue, transparent, red."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    table = colormaps["RdBu_r"](np.linspace(0, 1, 256))
    table[:, 3] = np.minimum(1, 1.6 * np.abs(np.linspace(-1, 1, 256)))
    return ListedColormap(table)
