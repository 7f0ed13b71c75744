"""Metrics: what is reported beside the loss.

The training code calls a metric as it calls a loss, `metric(outputs, targets)`, and expects one
value an example, or one a position for sequences and images; it averages them itself, with a mask
where a batch is short or padded. So `accuracy` gives zeros and ones, not their mean. What has no
mean over examples (intersection over union, precision) is computed from the `confusion` matrix,
which is summed over batches first. For the cross-entropy use optax's functions; see
`jaxnet.losses`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np



def accuracy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """1 where the largest output is the target's, else 0: one value an example.

    Among equal outputs the first counts, so an untrained net whose outputs are all 0 is right on
    class 0 alone. An example with NaN in its outputs is wrong.

    Args:
      outputs: (batch, ..., classes), logits or probabilities.
      targets: (batch, ...), integer labels in [0, classes); any other is never right.

    Returns:
      (batch, ...) floats, 0 or 1.

    Raises:
      TypeError: for targets that are no integers.
      ValueError: where the shapes do not belong together.

    Example:
      >>> accuracy(jnp.array([[0.1, 2.0, 0.3], [5.0, 1.0, 7.0]]), jnp.array([1, 0])).tolist()
      [1.0, 0.0]
    """
    _check_labels("accuracy", outputs, targets)
    return _true(outputs.argmax(-1) == targets, outputs)


def error_rate(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """1 - accuracy: 1 where the largest output is not the target's, else 0.

    Args:
      outputs: (batch, ..., classes), logits or probabilities.
      targets: (batch, ...), integer labels in [0, classes).

    Raises:
      TypeError, ValueError: as `accuracy`.

    Example:
      >>> error_rate(jnp.array([[0.1, 2.0, 0.3], [5.0, 1.0, 7.0]]), jnp.array([1, 0])).tolist()
      [0.0, 1.0]
    """
    return 1 - accuracy(outputs, targets)


def top_k_accuracy(k: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The metric that is 1 where the target is among the k largest outputs, else 0.

    Among equal outputs those of lower index come first, as in `jax.lax.top_k`.

    Args:
      k: at least 1 and at most the number of classes.

    Raises:
      ValueError: for k below 1 or above the number of classes.

    Example:
      >>> top_2 = top_k_accuracy(2)
      >>> top_2(jnp.array([[0.1, 2.0, 0.3], [5.0, 1.0, 7.0]]), jnp.array([0, 0])).tolist()
      [0.0, 1.0]
    """
    if k < 1:
        raise ValueError(f"top_k_accuracy: k must be at least 1, got {k}")

    def metric(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        who = f"top_{k}_accuracy"
        _check_labels(who, outputs, targets)
        if k > outputs.shape[-1]:
            raise ValueError(f"{who}: there are only {outputs.shape[-1]} classes")
        best = jax.lax.top_k(outputs, k)[1]  # (batch, ..., k)
        return _true((best == targets[..., None]).any(-1), outputs)

    return metric


def binary_accuracy(threshold: float = 0.0) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The metric that is 1 where `outputs > threshold` agrees with the target, else 0.

    Args:
      threshold: 0 for logits and for units of -1 and +1; 0.5 for probabilities.

    Returns:
      A function of outputs (batch, ...) and targets of the same shape, which are positive for the
      one class and 0 or negative for the other: 0/1, -1/+1 or booleans.

    Raises:
      ValueError: where the shapes differ; (batch, 1) is not (batch,).

    Example:
      >>> binary_accuracy()(jnp.array([-2.0, 0.5, 3.0]), jnp.array([-1, -1, 1])).tolist()
      [1.0, 0.0, 1.0]
    """

    def metric(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        if outputs.shape != targets.shape:
            raise ValueError(
                f"binary_accuracy: needs outputs and targets of one shape, got {outputs.shape} and "
                f"{targets.shape}; for outputs (batch, 1) write outputs[:, 0]"
            )
        agree = (outputs > threshold) == (targets > 0)
        return _true(agree, outputs[..., None])

    return metric


def confusion(
    predictions: jax.Array, labels: jax.Array, classes: int, *, void: int | None = None
) -> jax.Array:
    """Counts of (true class, predicted class): rows are true, columns predicted.

    Sum the matrices of several batches; means over batches would weigh them wrongly. A pair whose
    label or prediction lies outside [0, classes) is not counted: mark padding with label -1.

    Args:
      predictions: integers of any shape, such as `outputs.argmax(-1)`.
      labels: integers of the same shape.
      classes: number of classes.
      void: a label that is not counted, for classes that mean "unlabelled".

    Returns:
      (classes, classes) int32.

    Raises:
      TypeError: for predictions or labels that are no integers.
      ValueError: where the shapes differ.

    Example:
      >>> confusion(jnp.array([0, 1, 1, 2]), jnp.array([0, 1, 2, -1]), classes=3).tolist()
      [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    """
    predictions, labels = jnp.asarray(predictions), jnp.asarray(labels)
    for what, values in (("predictions", predictions), ("labels", labels)):
        if not jnp.issubdtype(values.dtype, jnp.integer):
            raise TypeError(
                f"confusion: {what} must be integers, got {values.dtype}; "
                "from outputs (..., classes) write outputs.argmax(-1)"
            )
    if predictions.shape != labels.shape:
        raise ValueError(
            f"confusion: needs predictions and labels of one shape, got {predictions.shape} "
            f"and {labels.shape}"
        )
    # int32, since labels of 8 bits would wrap around below
    row, column = labels.astype(jnp.int32).ravel(), predictions.astype(jnp.int32).ravel()
    counted = (row >= 0) & (row < classes) & (column >= 0) & (column < classes)
    if void is not None:
        counted &= row != void
    cell = jnp.where(counted, row * classes + column, classes**2)  # the last cell is cut off
    return jnp.bincount(cell, length=classes**2 + 1)[:-1].reshape(classes, classes)


def intersection_over_union(matrix: jax.Array) -> jax.Array:
    """True positives over (true + false positives + false negatives), for each class.

    NaN for a class that occurs neither in the labels nor in the predictions.

    Args:
      matrix: (classes, classes), from `confusion`.

    Returns:
      (classes,), in [0, 1].

    Example:
      >>> intersection_over_union(jnp.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])).tolist()
      [0.5, 0.571..., nan]
    """
    _check_matrix("intersection_over_union", matrix)
    right = jnp.diagonal(matrix)
    return _share(right, matrix.sum(0) + matrix.sum(1) - right, jnp.nan)


def mean_iou(matrix: jax.Array) -> jax.Array:
    """Intersection over union, averaged over the classes that occur in labels or predictions.

    Args:
      matrix: (classes, classes), from `confusion`.

    Returns:
      A scalar in [0, 1]; NaN for a matrix without counts.

    Example:
      >>> float(mean_iou(jnp.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])))
      0.535...

    Reference: Long, Shelhamer and Darrell 2015, "Fully Convolutional Networks for Semantic
    Segmentation", section 5.
    """
    each = intersection_over_union(matrix)
    occurs = ~jnp.isnan(each)
    return _share(jnp.where(occurs, each, 0).sum(), occurs.sum(), jnp.nan)


def pixel_accuracy(matrix: jax.Array) -> jax.Array:
    """The share of what was counted, pixels or examples, that is predicted rightly.

    Args:
      matrix: (classes, classes), from `confusion`, which leaves void pixels out.

    Returns:
      A scalar in [0, 1]; NaN for a matrix without counts.

    Example:
      >>> float(pixel_accuracy(jnp.array([[3, 1], [2, 4]])))
      0.699...
    """
    _check_matrix("pixel_accuracy", matrix)
    return _share(jnp.trace(matrix), matrix.sum(), jnp.nan)


def precision(matrix: jax.Array) -> jax.Array:
    """Of what is predicted as a class, the share that is of it; 0 where nothing is predicted.

    Args:
      matrix: (classes, classes), from `confusion`.

    Returns:
      (classes,), in [0, 1].

    Example:
      >>> precision(jnp.array([[3, 1], [2, 4]])).tolist()
      [0.6..., 0.8...]
    """
    _check_matrix("precision", matrix)
    return _share(jnp.diagonal(matrix), matrix.sum(0), 0)


def recall(matrix: jax.Array) -> jax.Array:
    """Of what is of a class, the share that is predicted so; 0 for a class without examples.

    Args:
      matrix: (classes, classes), from `confusion`.

    Returns:
      (classes,), in [0, 1].

    Example:
      >>> recall(jnp.array([[3, 1], [2, 6]])).tolist()
      [0.75, 0.75]
    """
    _check_matrix("recall", matrix)
    return _share(jnp.diagonal(matrix), matrix.sum(1), 0)


def f1(matrix: jax.Array) -> jax.Array:
    """The harmonic mean of precision and recall; 0 for a class that does not occur.

    Args:
      matrix: (classes, classes), from `confusion`.

    Returns:
      (classes,), in [0, 1].

    Example:
      >>> f1(jnp.array([[3, 1], [2, 4]])).tolist()
      [0.666..., 0.727...]
    """
    _check_matrix("f1", matrix)
    return _share(2 * jnp.diagonal(matrix), matrix.sum(0) + matrix.sum(1), 0)


def bits_per_character(nats: Any) -> Any:
    """A mean cross-entropy in nats, as optax gives it, in bits: nats / ln 2.

    Example:
      >>> round(bits_per_character(math.log(27)), 3)  # uniform over 26 letters and a space
      4.755
    """
    return nats / math.log(2)


def edit_distance(predicted: Sequence[Any], true: Sequence[Any]) -> int:
    """The least number of insertions, deletions and substitutions between two sequences.

    Runs on the host, in NumPy.

    Args:
      predicted: a string, a list of words, or an array of labels.
      true: the same.

    Example:
      >>> edit_distance("sitting", "kitten")
      3

    Reference: Levenshtein 1966, "Binary codes capable of correcting deletions, insertions, and
    reversals".
    """
    where = np.arange(len(true) + 1)
    row = where  # row[j]: the distance of what was read of `predicted` to true[:j]
    for i, entry in enumerate(predicted, start=1):
        differs = np.array([entry != other for other in true], dtype=int)
        best = np.minimum(row[1:] + 1, row[:-1] + differs)
        best = np.concatenate([[i], best])
        # An insertion adds 1 to the entry on the left: a running minimum once the slope is taken.
        row = np.minimum.accumulate(best - where) + where
    return int(row[-1])


def edit_error_rate(predicted: Sequence[Sequence], true: Sequence[Sequence]) -> float:
    """Edits over the length of the true sequences, both summed: word, phone, character error rate.

    May exceed 1, since what is predicted may be longer than the truth.

    Args:
      predicted: sequences, such as strings, lists of words or arrays of labels.
      true: as many.

    Raises:
      ValueError: where the numbers differ, or all true sequences are empty.

    Example:
      >>> edit_error_rate(["sitting", "ab"], ["kitten", "abcd"])
      0.5
    """
    if len(predicted) != len(true):
        raise ValueError(
            f"edit_error_rate: needs as many predictions as truths, got {len(predicted)} "
            f"and {len(true)}"
        )
    length = sum(len(sequence) for sequence in true)
    if not length:
        raise ValueError("edit_error_rate: the true sequences are all empty")
    return sum(map(edit_distance, predicted, true)) / length


def _true(right: jax.Array, outputs: jax.Array) -> jax.Array:
    """Booleans as floats, 0 wherever an output is NaN (argmax and > would say something)."""
    return (right & ~jnp.isnan(outputs).any(-1)).astype(jnp.float32)


def _share(part: jax.Array, whole: jax.Array, empty: float) -> jax.Array:
    return jnp.where(whole > 0, part / jnp.maximum(whole, 1), empty)


def _check_labels(who: str, outputs: jax.Array, targets: jax.Array) -> None:
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise TypeError(
            f"{who}: targets must be integer labels, got {targets.dtype}; "
            "from one-hot rows write targets.argmax(-1)"
        )
    if outputs.ndim == 0 or outputs.shape[:-1] != targets.shape:
        raise ValueError(
            f"{who}: needs outputs (batch, ..., classes) and labels (batch, ...), got "
            f"{outputs.shape} and {targets.shape}"
        )


def _check_matrix(who: str, matrix: jax.Array) -> None:
    if len(matrix.shape) != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"{who}: needs a matrix (classes, classes) from confusion(predictions, labels, "
            f"classes), got {matrix.shape}"
        )
