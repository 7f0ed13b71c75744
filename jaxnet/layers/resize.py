"""Resizing of images, signals and volumes, to any size or by a factor."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, compose
from jaxnet.ops.precision import at_least_float32, output_dtype
from jaxnet.ops.resample import average, cubic, interpolation, nearest, triangle, weighted
from jaxnet.ops.window import check_window, entries, spatial_axes
from jaxnet.services.checks import check_name, check_options, one_of, within

METHODS = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")


def resize(
    size: int | Sequence[int] | None = None,
    *,
    scale: float | Sequence[float] | None = None,
    method: str = "bilinear",
    align_corners: bool = False,
    antialias: bool = False,
    name: str = "resize",
) -> Layer:
    """Resize every spatial axis of (batch, *space, features), up or down.

    Equal to PyTorch's `interpolate` with its size or scale_factor. Pixels are areas, and beyond the
    center of the outermost pixel its value is repeated.

    Args:
      size: Size of the output, a number for all spatial axes or one per axis.
      scale: Number of outputs per input, instead of a size, a number or one per axis. Sizes are
        rounded down, after the rounding error of the product: 0.29 of 100 is 28, as in PyTorch.
      method: One of
        "nearest": the input at floor(output / scale), PyTorch's "nearest" but for its rounding
          errors, by which it may take a neighbor where the quotient is whole;
        "nearest-exact": the input whose area holds the center of the output, as in Pillow,
          TensorFlow and `jax.image`;
        "bilinear": linear interpolation along every axis, for signals and volumes too;
        "bicubic": cubic convolution, with a = -0.75, or -0.5 with antialias;
        "area": the mean of the inputs that belong to an output, which is adaptive pooling.
      align_corners: Whether the centers of the outermost pixels of input and output coincide, with
        the others evenly spaced between them; for bilinear and bicubic.
      antialias: Whether to average over the distance between outputs if there are fewer of them
        than inputs, as Pillow does; for bilinear and bicubic.
      name: Name of the layer.

    Returns:
      A layer from (batch, *space, features) to (batch, *size, features).

    Raises:
      ValueError: If the input does not have spatial axes.
      ValueError: If options do not fit the input or each other.

    Example:
      >>> x = jnp.array([0.0, 4.0, 8.0]).reshape(1, 3, 1)
      >>> y, _ = resize(6).apply({}, {}, x)
      >>> y.ravel()
      Array([0., 1., 3., 5., 7., 8.], dtype=float32)
      >>> resize(scale=0.5, method="nearest").apply({}, {}, jnp.ones((2, 6, 9, 3)))[0].shape
      (2, 3, 4, 3)

    Reference: Keys 1981, "Cubic convolution interpolation for digital image processing".
    """
    check_name("resize", name)
    one_of(name, "method", method, METHODS)
    check_options(name, align_corners=align_corners, antialias=antialias)
    if (size is None) == (scale is None):
        raise ValueError(f"{name}: expected size or scale, got size={size}, scale={scale}")
    wanted = check_window(name, size=size)
    if scale is not None:
        _scales(name, scale)
    if antialias and align_corners:
        raise ValueError(f"{name}: antialias needs align_corners=False")
    if (antialias or align_corners) and method not in ("bilinear", "bicubic"):
        which = "antialias" if antialias else "align_corners"
        raise ValueError(f"{name}: {which} is for bilinear and bicubic, got method={method!r}")

    def sizes(x) -> list[tuple[int, float | None]]:
        """Return the size of each axis and its outputs per input."""
        if size is not None:
            (outputs,) = wanted(x)
            return [(n, None) for n in outputs]
        factors = _scales(name, scale, spatial_axes(name, x))
        pairs = zip(x.shape[1:-1], factors, strict=True)
        return [(int(n * factor), factor) for n, factor in pairs]

    def forward(m, x):
        m._not_in_stream("resizes the axis of time")
        return resized(name, x, sizes(x), method, align_corners, antialias)

    return compose(forward, name=name, kind="resize")


def resized(
    who: str,
    x: jax.Array,
    sizes: Sequence[tuple[int, float | None]],
    method: str,
    align_corners: bool = False,
    antialias: bool = False,
) -> jax.Array:
    """Return x (batch, *space, features) with each spatial axis at another size.

    Args:
      who: Name of the layer, for messages.
      sizes: Size and number of outputs per input, for each spatial axis; None is their ratio.
      method, align_corners, antialias: Options of `resize`.
    """
    space = tuple(outputs for outputs, _ in sizes)
    if 0 in x.shape[1:-1] or min(space) < 1:
        raise ValueError(
            f"{who}: input and output need at least one position, got {x.shape} and {space}"
        )
    picks = method.startswith("nearest")
    y = x if picks else at_least_float32(x)
    kernel = cubic(-0.5 if antialias else -0.75) if method == "bicubic" else triangle
    for axis, (outputs, scale) in enumerate(sizes, start=1):
        inputs = y.shape[axis]
        if scale is None:
            scale = outputs / inputs
        if outputs == inputs and scale == 1:
            continue
        if picks:
            index = nearest(inputs, outputs, scale, centers=method == "nearest-exact")
            y = jnp.take(y, index, axis=axis)
        elif method == "area":
            y = weighted(y, axis, average(inputs, outputs))
        else:
            options = {"align_corners": align_corners, "antialias": antialias}
            y = weighted(y, axis, interpolation(inputs, outputs, scale, kernel, **options))
    return y if picks else y.astype(output_dtype(x))


def _scales(name: str, scale: Any, axes: int | None = None) -> list[float]:
    scales = entries(name, "scale", scale, axes)
    for number in scales:
        within(name, "scale", number, "(0, inf)")
    return [float(number) for number in scales]
