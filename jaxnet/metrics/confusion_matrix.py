"""The confusion matrix, and scores computed from it."""

import jax
import jax.numpy as jnp


def confusion(
    predictions: jax.Array, labels: jax.Array, classes: int, *, void: int | None = None
) -> jax.Array:
    """Counts of (true class, predicted class): rows are true, columns predicted.

    Sum the matrices of all batches before computing a score; a mean of scores over batches is
    another number. Pairs whose label or prediction is outside [0, classes) are not counted: mark
    padding with label -1.

    Args:
      predictions: integers of any shape, such as `outputs.argmax(-1)`.
      labels: integers, same shape as predictions.
      classes: number of classes.
      void: label of unlabelled positions, which are not counted.

    Returns:
      (classes, classes) int32.

    Raises:
      TypeError: if predictions or labels are not integers.
      ValueError: if the shapes differ.

    Example:
      >>> confusion(jnp.array([0, 1, 1, 2]), jnp.array([0, 1, 2, -1]), classes=3).tolist()
      [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    """
    predictions, labels = jnp.asarray(predictions), jnp.asarray(labels)
    for what, values in (("predictions", predictions), ("labels", labels)):
        if not jnp.issubdtype(values.dtype, jnp.integer):
            raise TypeError(
                f"confusion: {what} must be integers, got {values.dtype}. "
                "For outputs (..., classes), write outputs.argmax(-1)"
            )
    if predictions.shape != labels.shape:
        raise ValueError(
            "confusion: expected predictions and labels of the same shape, got "
            f"{predictions.shape} and {labels.shape}"
        )
    # int32, since 8-bit labels would overflow below
    row, column = labels.astype(jnp.int32).ravel(), predictions.astype(jnp.int32).ravel()
    counted = (row >= 0) & (row < classes) & (column >= 0) & (column < classes)
    if void is not None:
        counted &= row != void
    cell = jnp.where(counted, row * classes + column, classes**2)  # the last cell is dropped
    return jnp.bincount(cell, length=classes**2 + 1)[:-1].reshape(classes, classes)


def intersection_over_union(matrix: jax.Array) -> jax.Array:
    """True positives over (true positives + false positives + false negatives), per class.

    NaN for a class that occurs neither in the labels nor in the predictions.

    Args:
      matrix: (classes, classes), from `confusion`.

    Returns:
      (classes,), in [0, 1].

    Raises:
      ValueError: if the matrix is not square.

    Example:
      >>> intersection_over_union(jnp.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])).tolist()
      [0.5, 0.571..., nan]
    """
    _check_matrix("intersection_over_union", matrix)
    correct = jnp.diagonal(matrix)
    return _ratio(correct, matrix.sum(0) + matrix.sum(1) - correct, jnp.nan)


def mean_iou(matrix: jax.Array) -> jax.Array:
    """Intersection over union, averaged over the classes that occur in labels or predictions.

    Args:
      matrix: (classes, classes), from `confusion`.

    Returns:
      A scalar in [0, 1]; NaN for a matrix of zeros.

    Raises:
      ValueError: if the matrix is not square.

    Example:
      >>> float(mean_iou(jnp.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])))
      0.535...

    Reference: Long, Shelhamer and Darrell 2015, "Fully Convolutional Networks for Semantic
    Segmentation", section 5.
    """
    _check_matrix("mean_iou", matrix)
    return jnp.nanmean(intersection_over_union(matrix))


def pixel_accuracy(matrix: jax.Array) -> jax.Array:
    """Share of the counted pixels or examples that are predicted correctly.

    Args:
      matrix: (classes, classes), from `confusion`, which leaves void pixels out.

    Returns:
      A scalar in [0, 1]; NaN for a matrix of zeros.

    Raises:
      ValueError: if the matrix is not square.

    Example:
      >>> float(pixel_accuracy(jnp.array([[3, 1], [2, 4]])))
      0.699...
    """
    _check_matrix("pixel_accuracy", matrix)
    return _ratio(jnp.trace(matrix), matrix.sum(), jnp.nan)


def precision(matrix: jax.Array) -> jax.Array:
    """True positives over all positive predictions, per class; 0 for a class never predicted.

    Args:
      matrix: (classes, classes), from `confusion`.

    Returns:
      (classes,), in [0, 1].

    Raises:
      ValueError: if the matrix is not square.

    Example:
      >>> precision(jnp.array([[3, 1], [2, 4]])).tolist()
      [0.6..., 0.8...]
    """
    _check_matrix("precision", matrix)
    return _ratio(jnp.diagonal(matrix), matrix.sum(0), 0)


def recall(matrix: jax.Array) -> jax.Array:
    """True positives over all examples of the class, per class; 0 for a class without examples.

    Args:
      matrix: (classes, classes), from `confusion`.

    Returns:
      (classes,), in [0, 1].

    Raises:
      ValueError: if the matrix is not square.

    Example:
      >>> recall(jnp.array([[3, 1], [2, 6]])).tolist()
      [0.75, 0.75]
    """
    _check_matrix("recall", matrix)
    return _ratio(jnp.diagonal(matrix), matrix.sum(1), 0)


def f1(matrix: jax.Array) -> jax.Array:
    """Harmonic mean of precision and recall, per class; 0 for a class that does not occur.

    Args:
      matrix: (classes, classes), from `confusion`.

    Returns:
      (classes,), in [0, 1].

    Raises:
      ValueError: if the matrix is not square.

    Example:
      >>> f1(jnp.array([[3, 1], [2, 4]])).tolist()
      [0.666..., 0.727...]
    """
    _check_matrix("f1", matrix)
    return _ratio(2 * jnp.diagonal(matrix), matrix.sum(0) + matrix.sum(1), 0)


def _ratio(part: jax.Array, whole: jax.Array, empty: float) -> jax.Array:
    return jnp.where(whole > 0, part / jnp.maximum(whole, 1), empty)


def _check_matrix(who: str, matrix: jax.Array) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"{who}: expected a matrix (classes, classes), got {matrix.shape}. "
            "Write confusion(predictions, labels, classes)"
        )
