"""Resampling along one axis: the entries of the input and their weights for every output.

Nearest neighbors are entries picked by index; all other methods are a product with a matrix
(outputs, inputs) that NumPy computes from the sizes. In upsampling by a small whole factor,
each output depends on few inputs near it, so the product is a sum of shifted inputs.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def weighted(x: jax.Array, axis: int, weights: np.ndarray) -> jax.Array:
    """Sum along one axis of x with weights (outputs, inputs), in the dtype of x.

    Example:
      >>> weighted(jnp.ones((2, 3, 4)), 1, average(3, 5)).shape
      (2, 5, 4)
    """
    outputs, inputs = weights.shape
    if outputs % inputs == 0:
        phases = outputs // inputs
        by_phase = weights.reshape(inputs, phases, inputs)
        entry, _, source = np.nonzero(by_phase)
        before = (entry - source).max(initial=0)
        after = (source - entry).max(initial=0)
        # A product takes `inputs` terms per output. With larger factors the sums would be slower.
        if phases * (before + 1 + after) <= inputs:
            return _shifted(x, axis, by_phase, before, after)
    y = jnp.tensordot(x, weights.astype(x.dtype), axes=(axis, 1))
    return jnp.moveaxis(y, -1, axis)


def _shifted(x, axis, weights, before, after):
    """Return `weighted` for weights (inputs, phases, inputs) near the diagonal, as shifted sums.

    Each output depends on the entries from `before` its own to `after` it.
    """
    inputs, phases, _ = weights.shape
    pads = [(0, 0)] * x.ndim
    pads[axis] = (before, after)
    x = jnp.pad(x, pads)
    weights = np.pad(weights, ((0, 0), (0, 0), (before, after)))
    along_axis = [1] * x.ndim
    along_axis[axis] = inputs
    each = np.arange(inputs)
    by_phase = []
    for phase in range(phases):
        terms = []
        for start in range(before + 1 + after):
            weight = weights[each, phase, each + start].astype(x.dtype)
            if weight.any():
                entries = lax.slice_in_dim(x, start, start + inputs, axis=axis)
                terms.append(weight.reshape(along_axis) * entries)
        by_phase.append(sum(terms))
    y = lax.collapse(jnp.stack(by_phase, axis + 1), axis, axis + 2)
    # Fused with the next axis, each sum would be computed once for each of its shifts.
    return lax.optimization_barrier(y)


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
