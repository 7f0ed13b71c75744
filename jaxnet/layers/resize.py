"""Upsampling by a whole factor: nearest neighbour and bilinear."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.checks import check_options
from jaxnet.core import Layer, stateless
from jaxnet.ops.precision import output_dtype, wide
from jaxnet.ops.window import per_axis, spatial_axes


def upsample_nearest(factor: int | Sequence[int], *, name: str = "upsample_nearest") -> Layer:
    """Repeats each pixel along every spatial axis.

    Equal to PyTorch's `interpolate(mode="nearest")`.

    Args:
      factor: scale, a number for all spatial axes or one per axis.
      name: of the layer.

    Raises:
      ValueError: for an input without spatial axes, or a factor that does not match them.

    Example:
      >>> y, _ = upsample_nearest((1, 2)).apply({}, {}, jnp.arange(6.0).reshape(1, 2, 3, 1))
      >>> y[0, :, :, 0]
      Array([[0., 0., 1., 1., 2., 2.],
             [3., 3., 4., 4., 5., 5.]], dtype=float32)
    """

    def resize(x):
        for axis, times in enumerate(_factors(name, factor, x), start=1):
            x = jnp.repeat(x, times, axis, total_repeat_length=x.shape[axis] * times)
        return x

    return stateless(lambda key, x: {}, lambda params, x: resize(x), name, kind="upsample_nearest")


def upsample_bilinear(
    factor: int | Sequence[int], *, align_corners: bool = False, name: str = "upsample_bilinear"
) -> Layer:
    """Linear interpolation along every spatial axis: bilinear for images, trilinear for volumes.

    Equal to PyTorch's `interpolate(mode="bilinear")`, including `align_corners`. By default pixels
    are areas, and beyond the centre of the outermost pixel its value is repeated.

    Args:
      factor: scale, a number for all spatial axes or one per axis.
      align_corners: whether the centres of the outermost pixels of input and output coincide, with
        the others evenly spaced between them.
      name: of the layer.

    Raises:
      ValueError: for an input without spatial axes, or a factor that does not match them.

    Example:
      >>> x = jnp.array([0.0, 4.0, 8.0]).reshape(1, 3, 1)
      >>> y, _ = upsample_bilinear(2).apply({}, {}, x)
      >>> y.ravel()
      Array([0., 1., 3., 5., 7., 8.], dtype=float32)
      >>> y, _ = upsample_bilinear(3, align_corners=True).apply({}, {}, x)
      >>> y.ravel()
      Array([0., 1., 2., 3., 4., 5., 6., 7., 8.], dtype=float32)

    Reference: Long et al. 2015, "Fully convolutional networks for semantic segmentation", where it
    initializes the learned upsampling.
    """

    check_options(name, align_corners=align_corners)

    def resize(x):
        factors, y = _factors(name, factor, x), wide(x)
        for axis, times in enumerate(factors, start=1):
            y = _linear(y, axis, times, align_corners)
        return y.astype(output_dtype(x))

    return stateless(lambda key, x: {}, lambda params, x: resize(x), name, kind="upsample_bilinear")


def _factors(name, factor, x) -> tuple[int, ...]:
    return per_axis(name, "factor", factor, spatial_axes(name, x))


def _linear(x: jax.Array, axis: int, times: int, align_corners: bool) -> jax.Array:
    """A product with the matrix of interpolation weights along this axis, two per output."""
    inputs = x.shape[axis]
    outputs = inputs * times
    if align_corners:
        places = np.linspace(0, inputs - 1, outputs)
    else:
        places = np.clip((np.arange(outputs) + 0.5) / times - 0.5, 0, inputs - 1)
    weights = np.maximum(0, 1 - abs(places[:, None] - np.arange(inputs)))  # (outputs, inputs)
    y = jnp.tensordot(x, weights.astype(x.dtype), axes=(axis, 1))
    return jnp.moveaxis(y, -1, axis)
