"""Resampling along one axis: the entries of the input and their weights for every output.

Nearest neighbors are entries picked by index; all other methods are sums with weights (outputs,
inputs) that NumPy computes from the sizes. Each output depends on few inputs near it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.ops.native.call import Kernel, native_call

MOST_TERMS = 16  # of a sum that is written out


def weighted(x: jax.Array, axis: int, weights: np.ndarray) -> jax.Array:
    """Sum along one axis of x with weights (outputs, inputs), in the dtype of x.

    Each output is computed from the inputs that it sees, those from its first weight that is not 0
    to its last. So a NaN elsewhere does not reach it, as it would in a product with the matrix.

    Example:
      >>> weighted(jnp.ones((2, 3, 4)), 1, average(3, 5)).shape
      (2, 5, 4)
    """
    return _weighted(x, axis, Weights(weights))


class Weights:
    """A matrix as a static argument, equal to itself alone."""

    def __init__(self, matrix: np.ndarray):
        self.matrix = matrix


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _weighted(x, axis, weights):
    return _banded(x, axis, weights.matrix)


@_weighted.defjvp
def _weighted_tangent(axis, weights, primals, tangents):
    """The gradient is a sum of the same kind; as the transpose of picked entries it would be slow.

    On GPUs it is a product with the matrix, since sums at picked places have no fixed order there.
    """
    matrix = weights.matrix
    in_c = Kernel(
        lambda dx: [_banded(dx, axis, matrix)],
        linear=1,
        transpose=Kernel(lambda dy: [_gradient(dy, axis, matrix.T)]),
    )
    push = native_call(lambda dx: _product(dx, axis, matrix), in_c, *tangents)
    return _weighted(*primals, axis, weights), push


def _gradient(dy, axis, weights):
    first, last = _bands(weights)
    is_narrow = (last - first).max() < MOST_TERMS
    return (_banded if is_narrow else _product)(dy, axis, weights)


def _product(x, axis, weights):
    return jnp.moveaxis(jnp.tensordot(x, weights.astype(x.dtype), axes=(axis, 1)), -1, axis)


def _banded(x, axis, weights):
    """Return the sums over each output's inputs, as sums of picked entries or as one product."""
    first, last = _bands(weights)
    width = int((last - first).max()) + 1
    places = np.minimum(first[:, None] + np.arange(width), last[:, None])  # (outputs, width)
    repeated = first[:, None] + np.arange(width) > last[:, None]
    factors = np.where(repeated, 0, np.take_along_axis(weights, places, 1)).astype(x.dtype)
    if width > MOST_TERMS:
        picked = jnp.take(x, places.ravel(), axis=axis)
        picked = picked.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
        return (picked * _along(factors, axis, x.ndim)).sum(axis + 1)
    y: Any = 0
    for place, factor in zip(places.T, factors.T, strict=True):
        y = y + jnp.take(x, place, axis=axis) * _along(factor, axis, x.ndim)
    return y


def _bands(weights):
    """Return the first and the last input that each output sees."""
    seen = weights != 0
    first = seen.argmax(1)
    last = weights.shape[1] - 1 - seen[:, ::-1].argmax(1)
    return first, np.where(seen.any(1), last, first)


def _along(factors, axis, rank):
    """Return factors from this axis on, to multiply an array of this rank but for them."""
    return factors.reshape(*[1] * axis, *factors.shape, *[1] * (rank - axis - 1))


def windows(inputs: int, outputs: int) -> list[tuple[int, int]]:
    """Return (first, end) of the input entries of each output; together they are all entries.

    Args:
      inputs, outputs: Sizes of the axis, at least 1.

    Example:
      >>> windows(5, 3)
      [(0, 2), (1, 4), (3, 5)]
    """
    bounds = []
    for output in range(outputs):
        first = output * inputs // outputs
        end = -(-(output + 1) * inputs // outputs)
        bounds.append((first, end))
    return bounds


def nearest(inputs: int, outputs: int, scale: float, *, centers: bool) -> np.ndarray:
    """Return the index of the input of each output.

    Args:
      inputs, outputs: Sizes of the axis, at least 1.
      scale: Number of outputs per input.
      centers: Whether the centers of entries are compared instead of their left edges.

    Example:
      >>> nearest(5, 3, 0.6, centers=False).tolist(), nearest(5, 3, 0.6, centers=True).tolist()
      ([0, 1, 3], [0, 2, 4])
    """
    offset = 0.5 if centers else 0.0
    places = (np.arange(outputs) + offset) / scale
    # A rounded position, such as 3 / 0.6, must not fall below the whole number 5.
    entries = np.floor(places + 1e-9).astype(int)
    return np.clip(entries, 0, inputs - 1)


def average(inputs: int, outputs: int) -> np.ndarray:
    """Return the weights of the mean over each of the `windows`: (outputs, inputs).

    Example:
      >>> average(3, 2)
      array([[0.5, 0.5, 0. ],
             [0. , 0.5, 0.5]])
    """
    weights = np.zeros((outputs, inputs))
    for row, (first, end) in zip(weights, windows(inputs, outputs), strict=True):
        row[first:end] = 1 / (end - first)
    return weights


def interpolation(
    inputs: int,
    outputs: int,
    scale: float,
    kernel: Callable[[np.ndarray], np.ndarray],
    *,
    align_corners: bool,
    antialias: bool,
) -> np.ndarray:
    """Return weights (outputs, inputs) of the inputs for each output, by a kernel of the distance.

    Beyond its ends the input is continued by its outermost entries; with `antialias` the weights
    there are left out.

    Args:
      inputs, outputs: Sizes of the axis, at least 1.
      scale: Number of outputs per input.
      kernel: Function that gives the weight at a distance, such as `triangle`.
      align_corners: Whether the centers of the outermost entries of both coincide.
      antialias: Whether the kernel is stretched to the distance of the outputs if they are fewer.

    Example:
      >>> options = dict(align_corners=False, antialias=False)
      >>> interpolation(2, 4, 2.0, triangle, **options)[:, 0].tolist()
      [1.0, 0.75, 0.25, 0.0]
    """
    if align_corners:
        places = np.linspace(0, inputs - 1, outputs)
    else:
        places = (np.arange(outputs) + 0.5) / scale - 0.5
    if antialias:
        distance = np.arange(inputs) - places[:, None]
        weights = kernel(distance / max(1 / scale, 1))
        return weights / weights.sum(1, keepdims=True)
    weights = np.zeros((outputs, inputs))
    rows = np.arange(outputs)
    for tap in range(-1, 3):  # kernels reach two entries to each side
        entry = np.floor(places) + tap
        clipped = np.clip(entry, 0, inputs - 1).astype(int)
        np.add.at(weights, (rows, clipped), kernel(entry - places))
    return weights


def triangle(distance: np.ndarray) -> np.ndarray:
    """Return the kernel of linear interpolation.

    Example:
      >>> triangle(np.array([0, -0.25, 1.5])).tolist()
      [1.0, 0.75, 0.0]
    """
    return np.maximum(0, 1 - abs(distance))


def cubic(a: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return the kernel of cubic convolution, which reaches two entries to each side.

    Args:
      a: Slope of the kernel at distance 1; -0.5 is exact for parabolas, -0.75 is PyTorch's.

    Example:
      >>> cubic(-0.75)(np.array([0, 0.5, 1, 2])).tolist()
      [1.0, 0.59375, 0.0, 0.0]

    Reference: Keys 1981, "Cubic convolution interpolation for digital image processing".
    """

    def kernel(distance):
        d = abs(distance)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = a * (((d - 5) * d + 8) * d - 4)
        beyond_near = np.where(d < 2, far, 0)
        return np.where(d <= 1, near, beyond_near)

    return kernel
