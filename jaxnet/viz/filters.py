"""The filters of a first layer as images."""

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet.tools import at_least, on_host
from jaxnet.viz.style import frame, grid, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled()
def filters(
    kernel: Any, *, shape: tuple[int, ...] | None = None, columns: int | None = None
) -> "Figure":
    """Draw the filters of a layer, each scaled by its largest absolute weight.

    Positive weights are red, negative ones blue, 0 is white. With three input channels a filter is
    one color image, in which gray is 0. With any other number of input channels, each filter is a
    row with one image per channel.

    Args:
      kernel: Kernel of a convolution, (height, width, inputs, filters), or of a dense layer,
        (pixels, units), which needs `shape`.
      shape: Shape of the input images of a dense layer, (height, width) or (height, width,
        channels).
      columns: Filters per row; about square by default.

    Raises:
      TypeError: If `kernel` is not of numbers.
      ValueError: If `kernel` has the wrong shape, or a dense kernel does not match `shape`.

    Example:
      >>> figure = filters(np.random.randn(5, 3, 1, 6), columns=3)
      >>> len(figure.axes)  # six filters and the scale
      7
      >>> figure = filters(np.random.randn(35, 4), shape=(5, 7))
    """
    kernel = _as_images(on_host("filters", "kernel", kernel), shape)
    if columns is not None:
        at_least("filters", "columns", columns)
    inputs, count = kernel.shape[2:]
    largest = np.abs(kernel).max((0, 1, 2), keepdims=True)
    kernel = kernel / np.where(largest == 0, 1, largest)
    if inputs == 3:
        cells = [0.5 + kernel[..., i] / 2 for i in range(count)]
    else:
        cells = [kernel[:, :, c, i] for i in range(count) for c in range(inputs)]
        columns = columns if inputs == 1 else inputs
    rows, columns = grid("filters", len(cells), columns)
    side = 1.0 if len(cells) <= 16 else 0.75
    height = side * rows * kernel.shape[0] / kernel.shape[1]
    figure = new_figure(side * columns + (0 if inputs == 3 else 0.6), height)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, cell in zip(places, cells, strict=False):
        axes.imshow(cell, cmap="RdBu_r", vmin=-1, vmax=1)
        frame(axes)
    for spare in places[len(cells) :]:
        spare.remove()
    if inputs != 3:
        scale = figure.colorbar(
            places[0].images[0],
            ax=places[: len(cells)],
            ticks=[-1, 0, 1],
            shrink=0.9,
            aspect=7 * rows,
        )
        scale.ax.set_yticklabels(["−", "0", "+"])
    return figure


def _as_images(kernel: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """Return the kernel as (height, width, inputs, filters)."""
    if kernel.ndim == 4 and kernel.size and shape is None:
        return kernel
    if shape is not None and not isinstance(shape, tuple | list):
        raise TypeError(f"filters: shape must be (height, width), got {shape!r:.60}")
    if kernel.ndim != 2 or not kernel.size:
        raise ValueError(
            "filters: expected (height, width, inputs, filters), or (pixels, units) and a shape, "
            f"got {kernel.shape}" + (f" and shape={shape}" if shape else "")
        )
    for size in shape or ():
        at_least("filters", "a size of shape", size)
    if shape is None or len(shape) not in (2, 3):
        raise ValueError(
            f"filters: for a dense kernel {kernel.shape} pass the shape of its images: "
            "filters(kernel, shape=(28, 28))"
        )
    if np.prod(shape) != len(kernel):
        raise ValueError(
            f"filters: the kernel has {len(kernel)} pixels, which does not match shape {shape}"
        )
    channels = shape[2] if len(shape) == 3 else 1
    return kernel.reshape(shape[0], shape[1], channels, -1)  # (pixels, units) -> 4 axes
