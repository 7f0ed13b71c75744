"""The confusion matrix, and scores computed from it."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.checks import as_array, at_least, known

MOST_CLASSES = 46_340  # whose square is below 2**31


def confusion(
    predictions: jax.Array, labels: jax.Array, classes: int, *, void: int | None = None
) -> jax.Array:
    """Counts of (true class, predicted class): rows are true, columns predicted.

    Sum the matrices of all batches before computing a score; a mean of scores over batches is
    another number. Counts of 2^31 or more overflow int32: sum such on the host, as
    `total += np.asarray(matrix, np.int64)`.

    Labels outside [0, classes) are not counted, whatever is predicted there: mark padding with
    label -1. Predictions outside [0, classes) at other labels raise. Inside `jit`, where values are
    not known, they count as wrong: as predictions of the next class, or of class 0 at the last one.

    Args:
      predictions: integers of any shape, such as `outputs.argmax(-1)`.
      labels: integers, same shape as predictions.
      classes: number of classes, 1 to 46,340.
      void: label of unlabelled positions, which are not counted.

    Returns:
      (classes, classes) int32.

    Raises:
      TypeError: If predictions, labels, classes or void are not integers.
      ValueError: If the shapes differ, for other numbers of classes, and if a prediction is not a
        class at a label that counts.

    Example:
      >>> confusion(jnp.array([0, 1, 1, 2]), jnp.array([0, 1, 2, -1]), classes=3).tolist()
      [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    """
    at_least("confusion", "classes", classes)
    if classes > MOST_CLASSES:
        raise ValueError(f"confusion: classes must be at most {MOST_CLASSES:,}, got {classes}")
    if void is not None:
        at_least("confusion", "void", void, -(2**31))
    predictions = as_array("confusion", "predictions", predictions, dtype="integers")
    labels = as_array("confusion", "labels", labels, dtype="integers")
    if predictions.shape != labels.shape:
        raise ValueError(
            "confusion: expected predictions and labels of the same shape, got "
            f"{predictions.shape} and {labels.shape}"
        )
    true, found = known(labels), known(predictions)
    if true is not None and found is not None:
        counted = (true >= 0) & (true < classes) & (true != (-1 if void is None else void))
        wrong = found[counted & ((found < 0) | (found >= classes))]
        if wrong.size:
            raise ValueError(
                f"confusion: predictions must be in [0, {classes}) where the label is a class, got "
                f"{wrong.flat[0]}. To leave positions out, give them label -1"
            )
    return _count(predictions, labels, int(classes), None if void is None else int(void))


def intersection_over_union(matrix: jax.Array) -> jax.Array:
    """True positives over (true positives + false positives + false negatives), per class.

    NaN for a class that occurs neither in the labels nor in the predictions.

    Args:
      matrix: (classes, classes), from `confusion`, or a sum of such.

    Returns:
      (classes,), in [0, 1].

    Raises:
      TypeError, ValueError: if the matrix is not square, or NumPy's holds what is no count.

    Example:
      >>> intersection_over_union(jnp.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])).tolist()
      [0.5, 0.571..., nan]
    """
    matrix = _read("intersection_over_union", matrix)
    return _overlap(matrix)


def mean_iou(matrix: jax.Array) -> jax.Array:
    """Intersection over union, averaged over the classes that occur in labels or predictions.

    Args:
      matrix: (classes, classes), from `confusion`, or a sum of such.

    Returns:
      A scalar in [0, 1]; NaN for a matrix of zeros.

    Raises:
      TypeError, ValueError: if the matrix is not square, or NumPy's holds what is no count.

    Example:
      >>> float(mean_iou(jnp.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])))
      0.535...

    Reference: Long, Shelhamer and Darrell 2015, "Fully Convolutional Networks for Semantic
    Segmentation", section 5.
    """
    matrix = _read("mean_iou", matrix)
    return jnp.nanmean(_overlap(matrix))


def pixel_accuracy(matrix: jax.Array) -> jax.Array:
    """Share of the counted pixels or examples that are predicted correctly.

    Args:
      matrix: (classes, classes), from `confusion`, which leaves void pixels out.

    Returns:
      A scalar in [0, 1]; NaN for a matrix of zeros.

    Raises:
      TypeError, ValueError: if the matrix is not square, or NumPy's holds what is no count.

    Example:
      >>> float(pixel_accuracy(jnp.array([[3, 1], [2, 4]])))
      0.699...
    """
    matrix = _read("pixel_accuracy", matrix)
    return _ratio(jnp.trace(matrix), matrix.sum(), jnp.nan)


def precision(matrix: jax.Array) -> jax.Array:
    """True positives over all positive predictions, per class; 0 for a class never predicted.

    Args:
      matrix: (classes, classes), from `confusion`, or a sum of such.

    Returns:
      (classes,), in [0, 1].

    Raises:
      TypeError, ValueError: if the matrix is not square, or NumPy's holds what is no count.

    Example:
      >>> precision(jnp.array([[3, 1], [2, 4]])).tolist()
      [0.6..., 0.8...]
    """
    matrix = _read("precision", matrix)
    return _ratio(jnp.diagonal(matrix), matrix.sum(0), 0)


def recall(matrix: jax.Array) -> jax.Array:
    """True positives over all examples of the class, per class; 0 for a class without examples.

    Args:
      matrix: (classes, classes), from `confusion`, or a sum of such.

    Returns:
      (classes,), in [0, 1].

    Raises:
      TypeError, ValueError: if the matrix is not square, or NumPy's holds what is no count.

    Example:
      >>> recall(jnp.array([[3, 1], [2, 6]])).tolist()
      [0.75, 0.75]
    """
    matrix = _read("recall", matrix)
    return _ratio(jnp.diagonal(matrix), matrix.sum(1), 0)


def f1(matrix: jax.Array) -> jax.Array:
    """Harmonic mean of precision and recall, per class; 0 for a class that does not occur.

    Args:
      matrix: (classes, classes), from `confusion`, or a sum of such.

    Returns:
      (classes,), in [0, 1].

    Raises:
      TypeError, ValueError: if the matrix is not square, or NumPy's holds what is no count.

    Example:
      >>> f1(jnp.array([[3, 1], [2, 4]])).tolist()
      [0.666..., 0.727...]
    """
    matrix = _read("f1", matrix)
    return _ratio(2 * jnp.diagonal(matrix), matrix.sum(0) + matrix.sum(1), 0)


@partial(jax.jit, static_argnames=("classes", "void"))
def _count(predictions: jax.Array, labels: jax.Array, classes: int, void: int | None) -> jax.Array:
    # int32 at least, since 8-bit labels would overflow below
    row, column = (
        a.astype(jnp.promote_types(a.dtype, jnp.int32)).ravel() for a in (labels, predictions)
    )
    counted = (row >= 0) & (row < classes)
    column = jnp.where((column >= 0) & (column < classes), column, (row + 1) % classes)
    if void is not None:
        counted &= row != void
    cell = jnp.where(counted, row * classes + column, classes**2)  # the last cell is dropped
    return jnp.bincount(cell, length=classes**2 + 1)[:-1].reshape(classes, classes)


@jax.jit
def _overlap(matrix: jax.Array) -> jax.Array:
    correct = jnp.diagonal(matrix)
    return _ratio(correct, matrix.sum(0) + matrix.sum(1) - correct, jnp.nan)


@partial(jax.jit, static_argnames="empty")
def _ratio(part: jax.Array, whole: jax.Array, empty: float) -> jax.Array:
    value = jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), empty)
    return jnp.where(jnp.isnan(whole), jnp.nan, value)


def _read(who: str, matrix: Any) -> jax.Array:
    """The checked matrix as floats, whose sums do not overflow.

    NaN throughout where an entry is negative, as after an overflow of int32.
    """
    if isinstance(matrix, np.ndarray) and matrix.dtype.kind in "iuf":
        if not (np.isfinite(matrix) & (matrix >= 0)).all():
            raise ValueError(f"{who}: matrix must hold finite counts of at least 0")
        matrix = matrix.astype(np.float64)  # int64 would be narrowed to int32
    matrix = as_array(who, "matrix", matrix, "(classes, classes)", "reals")
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"{who}: expected a matrix (classes, classes), got {matrix.shape}. "
            "Write confusion(predictions, labels, classes)"
        )
    matrix = matrix.astype(jnp.promote_types(matrix.dtype, jnp.float32))
    return _without_negative(matrix)


@jax.jit
def _without_negative(matrix: jax.Array) -> jax.Array:
    return jnp.where((matrix < 0).any(), jnp.nan, matrix)
