"""The filters of a first layer as images."""

from typing import Any

import numpy as np

from jaxnet.services.checks import at_least, check_type, on_host
from jaxnet.viz.style import Figure, cells, frame, grid, new_figure, signed_scale, styled


@styled()
def filters(
    kernel: Any, *, shape: tuple[int, ...] | None = None, columns: int | None = None
) -> Figure:
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

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError: If `kernel` is not of numbers.
      ValueError: If `kernel` has the wrong shape, or a dense kernel does not match `shape`.

    Example:
      >>> waves = [(0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0)]
      >>> row, column = np.mgrid[-3:4, -3:4]
      >>> kernel = np.stack([np.cos(a * row + b * column) for a, b in waves], -1)  # (7, 7, 6)
      >>> figure = filters(kernel.reshape(49, 6), shape=(7, 7))  # of a dense layer
      >>> figure = filters(kernel[:, :, None], columns=3)  # of a convolution
    """
    kernel = _as_images(on_host("filters", "kernel", kernel), shape)
    at_least("filters", "columns", columns, optional=True)
    inputs, count = kernel.shape[2:]
    largest = np.abs(kernel).max((0, 1, 2), keepdims=True)
    kernel = kernel / np.where(largest == 0, 1, largest)
    in_color = inputs == 3
    pictures = []
    for i in range(count):
        if in_color:
            pictures.append(0.5 + kernel[..., i] / 2)
        else:
            pictures += [kernel[:, :, c, i] for c in range(inputs)]
    if not in_color and inputs > 1:
        columns = inputs
    rows, columns = grid("filters", len(pictures), columns)
    side = 1.0 if len(pictures) <= 16 else 0.75
    width = side * columns + (0 if in_color else 0.6)
    aspect = kernel.shape[0] / kernel.shape[1]
    figure = new_figure(width, side * rows * aspect)
    places = cells(figure, rows, columns, len(pictures))
    for axes, picture in zip(places, pictures, strict=True):
        axes.imshow(picture, cmap="RdBu_r", vmin=-1, vmax=1)
        frame(axes)
    if not in_color:
        signed_scale(figure, places[0].images[0], places, 7 * rows)
    return figure


def _as_images(kernel: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """Return the kernel as (height, width, inputs, filters)."""
    if kernel.ndim == 4 and kernel.size and shape is None:
        return kernel
    check_type("filters", "shape", shape, tuple | list | None, "(height, width)")
    if kernel.ndim != 2 or not kernel.size:
        and_shape = f" and shape={shape}" if shape else ""
        raise ValueError(
            "filters: expected (height, width, inputs, filters), or (pixels, units) and a shape, "
            f"got {kernel.shape}{and_shape}"
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
    height, width, *channels = shape
    return kernel.reshape(height, width, *(channels or [1]), -1)
