"""Maps over images: what speaks for an output, and what against it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet.viz.feature_maps import show_image
from jaxnet.viz.figure import frame, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def heatmap(
    images: Any,
    maps: Mapping[str, Any],
    titles: Sequence[str] | None = None,
    *,
    unsigned: Sequence[str] = (),
    side: float = 1.4,
) -> "Figure":
    """A row an image: the image, then each of its maps, over a pale grey copy of it.

    Red speaks for, blue against, and clear is 0; each map is scaled by its own largest absolute
    value. A map may be coarser than its image, as a class activation map is: it is stretched over
    it, and smoothed.

    Args:
      images: (images, height, width, 1 or 3 channels) in [0, 1].
      maps: name -> (images, rows, columns), or (images, rows, columns, channels), of which the sum
        over the channels is drawn: what `jn.inspect.saliency`, `integrated_gradients`,
        `occlusion` and `class_activation_map` give.
      titles: what stands left of each row, such as "3, read as 5".
      unsigned: names of maps of which the size alone counts: the largest absolute value over the
        channels is drawn, from clear at 0 to red.
      side: of a cell, in inches.

    Raises:
      ValueError: for other shapes, no map, or not as many titles as images.

    Example:
      >>> x = np.random.rand(2, 8, 8, 1)
      >>> figure = heatmap(x, {"saliency": np.random.randn(2, 8, 8, 1)}, ["a", "b"])
      >>> len(figure.axes)  # two rows of two, and the scale
      5
    """
    images = np.asarray(images)
    flat = {name: _flat(name, m, images, name in unsigned) for name, m in maps.items()}
    if not flat:
        raise ValueError("heatmap: needs at least one map, such as {'saliency': gradient}")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"heatmap: {len(images)} images need as many titles, got {len(titles)}")
    if missing := set(unsigned) - set(maps):
        raise ValueError(
            f"heatmap: unsigned names no map of {', '.join(maps)}: {', '.join(missing)}"
        )
    height, width = images.shape[1:3]
    lines = [line for title in titles or [] for line in title.split("\n")]
    left = 0.09 * max(map(len, lines), default=0)
    wide = side * (1 + len(flat)) + left + 0.6
    figure = new_figure(wide, side * height / width * len(images) + 0.35)
    room = 0.1 / wide  # beside the titles, which the layout makes a little too narrow
    figure.set_layout_engine("constrained", rect=(room, 0, 1 - room, 1))
    cells = figure.subplots(len(images), 1 + len(flat), squeeze=False)
    red_and_blue = _colors()
    drawn: Any = None
    for i, image in enumerate(images):
        show_image(cells[i, 0], image)
        if titles is not None:
            place = cells[i, 0].transAxes
            cells[i, 0].text(
                -0.05, 0.5, titles[i], fontsize=9, ha="right", va="center", transform=place
            )
        grey = image.mean(-1) if image.shape[-1] == 3 else 1 - image[..., 0]  # ink is dark
        for axes, (name, values) in zip(cells[i, 1:], flat.items(), strict=True):
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            axes.imshow(0.6 + 0.4 * np.clip(grey, 0, 1), cmap="gray", vmin=0, vmax=1)
            smooth = "bilinear" if values.shape[1:] != (height, width) else "nearest"
            drawn = axes.imshow(
                values[i], cmap=red_and_blue, vmin=-1, vmax=1, extent=extent, interpolation=smooth
            )
            frame(axes)
            if not i:
                axes.set_title(name, fontsize=9)
    cells[0, 0].set_title("image", fontsize=9)
    scale = figure.colorbar(drawn, ax=cells, ticks=[-1, 0, 1], shrink=0.9, aspect=12 * len(images))
    scale.ax.set_yticklabels(["−", "0", "+"])
    scale.outline.set_visible(False)
    return figure


def _flat(name: str, values: Any, images: np.ndarray, unsigned: bool) -> np.ndarray:
    """One number a place, scaled by the largest of each image, (images, rows, columns)."""
    values = np.asarray(values, float)
    if images.ndim != 4 or values.ndim not in (3, 4) or len(values) != len(images):
        raise ValueError(
            "heatmap: needs images (images, height, width, channels) and maps (images, rows, columns) "
            f"or with channels, got {images.shape} and {name} {values.shape}"
        )
    if unsigned:
        values = np.abs(values)
    if values.ndim == 4:
        values = values.max(-1) if unsigned else values.sum(-1)
    largest = np.abs(values).max((1, 2), keepdims=True)
    return values / np.where(largest > 0, largest, 1)


def _colors() -> Any:
    """Blue, clear, red."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    table = colormaps["RdBu_r"](np.linspace(0, 1, 256))
    table[:, 3] = np.minimum(1, 1.6 * np.abs(np.linspace(-1, 1, 256)))
    return ListedColormap(table)
