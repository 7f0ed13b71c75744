"""The confusion matrix, and scores computed from it."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.checks import as_array, at_least, between, check_values, concrete_values
from jaxnet.services.meshes import on_auto_axes

MOST_CLASSES = 46_340  # its square is below 2**31


@on_auto_axes
def confusion(
    predictions: jax.Array, labels: jax.Array, classes: int, *, void: int | None = None
) -> jax.Array:
    """Count the pairs (true class, predicted class): rows are true, columns predicted.

    Sum the matrices of all batches before computing a score; a mean of scores over batches is a
    different number. Counts of 2^31 or more overflow int32: sum them on the host, as
    `total += np.asarray(matrix, np.int64)`.

    Labels outside [0, classes) are not counted, whatever is predicted there: mark padding with
    label -1. Predictions outside [0, classes) at other labels raise. Inside `jit`, where values are
    not known, they count as wrong: as predictions of the next class, or of class 0 at the last
    class.

    Args:
      predictions: Integers or booleans of any shape, such as `outputs.argmax(-1)` or `p > 0.5`.
      labels: Integers or booleans in the shape of predictions.
      classes: Number of classes, 1 to 46,340.
      void: Label of unlabeled positions, which are not counted.

    Returns:
      (classes, classes) int32.

    Raises:
      TypeError: If `predictions`, `labels`, `classes` or `void` are not integers.
      ValueError: If `predictions` and `labels` have different shapes.
      ValueError: If `classes` is outside [1, 46,340].
      ValueError: If a prediction is not a class at a label that counts.

    Example:
      >>> confusion(jnp.array([0, 1, 1, 2]), jnp.array([0, 1, 2, -1]), classes=3).tolist()
      [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    """
    between("confusion", "classes", classes, 1, MOST_CLASSES)
    at_least("confusion", "void", void, -(2**31), optional=True)
    same = np.shape(predictions) == np.shape(labels)
    if same and jnp.issubdtype(getattr(predictions, "dtype", int), jnp.floating):
        raise TypeError(
            "confusion: predictions must hold integers or booleans; for two classes, write p > 0.5 "
            f"of probabilities or z > 0 of logits, got {predictions.dtype}"
        )
    predictions = as_array("confusion", "predictions", _as_integers(predictions), dtype="integers")
    labels = as_array("confusion", "labels", _as_integers(labels), dtype="integers")
    if predictions.shape != labels.shape:
        raise ValueError(
            "confusion: expected predictions and labels of the same shape, got "
            f"{predictions.shape} and {labels.shape}"
        )
    true = concrete_values(labels)
    predicted = concrete_values(predictions)
    if true is not None and predicted is not None:
        counted = (true >= 0) & (true < classes)
        if void is not None:
            counted &= true != void
        beyond = (predicted < 0) | (predicted >= classes)
        wrong = predicted[counted & beyond]
        if wrong.size:
            raise ValueError(
                f"confusion: predictions must be in [0, {classes}) if the label is a class, got "
                f"{wrong.flat[0]}. To leave positions out, give them label -1"
            )
    return _count(predictions, labels, int(classes), None if void is None else int(void))


def _as_integers(a: Any) -> Any:
    """Return booleans as integers, and anything else unchanged."""
    return a.astype(np.int32) if getattr(a, "dtype", None) == np.bool_ else a


class Scores(NamedTuple):
    """Result of `scores`. Print it for a table.

    Fields:
      precision: True positives over all positive predictions, (classes,); 0 for a class that is
        never predicted.
      recall: True positives over all examples of the class, (classes,); 0 for a class without
        examples.
      f1: Harmonic mean of precision and recall, (classes,); 0 for a class that does not occur.
      iou: Intersection over union, (classes,): true positives over (true positives + false
        positives + false negatives); NaN for a class that does not occur.
      mean_iou: Mean of `iou` over the classes that occur.
      accuracy: Fraction of the counted examples or pixels that are predicted correctly.
    """

    precision: jax.Array
    recall: jax.Array
    f1: jax.Array
    iou: jax.Array
    mean_iou: jax.Array
    accuracy: jax.Array

    def __str__(self) -> str:
        rows: list[list[Any]] = [["class", *self._fields[:4]]]
        for i, values in enumerate(np.stack(self[:4], -1)):
            rows.append([i, *(f"{value:.4f}" for value in values)])
        lines = ["".join(f"{cell:>11}" for cell in row)[6:] for row in rows]
        lines.append(f"accuracy {self.accuracy:.4f}, mean IoU {self.mean_iou:.4f}")
        return "\n".join(lines)


@on_auto_axes
def scores(matrix: jax.Array) -> Scores:
    """Return precision, recall, F1, IoU and accuracy of a confusion matrix.

    Args:
      matrix: Matrix (classes, classes) of `confusion`, or a sum of such matrices. Entries below 0,
        as after an overflow of int32, raise in NumPy arrays and give NaN in JAX arrays.

    Returns:
      The scores of each class, the mean intersection over union and the accuracy. For a matrix of
      zeros the last two are NaN.

    Example:
      >>> found = scores(jnp.array([[3, 1], [2, 4]]))
      >>> found.recall.tolist()
      [0.75, 0.666...]
      >>> print(found)
      class  precision     recall         f1        iou
          0     0.6000     0.7500     0.6667     0.5000
          1     0.8000     0.6667     0.7273     0.5714
      accuracy 0.7000, mean IoU 0.5357

    Reference: Long, Shelhamer and Darrell 2015, "Fully Convolutional Networks for Semantic
    Segmentation", section 5.
    """
    if isinstance(matrix, np.ndarray) and matrix.dtype.kind in "iuf":
        check_values("scores", "counts of matrix", matrix, "[0, inf)")
        matrix = matrix.astype(np.float64)  # JAX would convert int64 to int32
    matrix = as_array("scores", "matrix", matrix, "(classes, classes)", "reals")
    dtype = jnp.promote_types(matrix.dtype, jnp.float32)
    return _scores(matrix.astype(dtype))


@jax.jit
def _scores(matrix: jax.Array) -> Scores:
    def ratio(part, total, empty=0.0):
        some = total > 0
        value = jnp.where(some, part / jnp.where(some, total, 1), empty)
        return jnp.where(jnp.isnan(total), jnp.nan, value)

    matrix = jnp.where((matrix < 0).any(), jnp.nan, matrix)
    correct = jnp.diagonal(matrix)
    predicted = matrix.sum(0)
    true = matrix.sum(1)
    iou = ratio(correct, predicted + true - correct, jnp.nan)
    return Scores(
        precision=ratio(correct, predicted),
        recall=ratio(correct, true),
        f1=ratio(2 * correct, predicted + true),
        iou=iou,
        mean_iou=jnp.nanmean(iou),
        accuracy=ratio(correct.sum(), matrix.sum(), jnp.nan),
    )


@partial(jax.jit, static_argnames=("classes", "void"))
def _count(predictions: jax.Array, labels: jax.Array, classes: int, void: int | None) -> jax.Array:
    def wide(a):  # int32 at least, since 8-bit labels would overflow below
        dtype = jnp.promote_types(a.dtype, jnp.int32)
        return a.astype(dtype).ravel()

    row = wide(labels)
    column = wide(predictions)
    counted = (row >= 0) & (row < classes)
    valid = (column >= 0) & (column < classes)
    column = jnp.where(valid, column, (row + 1) % classes)
    if void is not None:
        counted &= row != void
    cell = jnp.where(counted, row * classes + column, classes**2)  # the last cell is dropped
    counts = jnp.bincount(cell, length=classes**2 + 1)
    return counts[:-1].reshape(classes, classes)
