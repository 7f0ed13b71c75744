"""Accuracies: one value per example, 1 if the prediction is correct, else 0."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnet.checks import at_least, is_traced, known, within
from jaxnet.losses.arrays import read_labels, read_same
from jaxnet.warn import warn


def accuracy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """1 where the largest output is the target's, else 0.

    Among equal outputs the first counts, so a net whose outputs are all 0 is correct on class 0
    only. Examples with NaN in their outputs count as wrong.

    Args:
      outputs: (batch, ..., classes), logits or probabilities.
      targets: (batch, ...), integer labels in [0, classes). Any other label counts as wrong, with a
        warning in `fit` and `evaluate`. To leave a label out, as
        `jn.losses.cross_entropy(ignore_index=-100)` does, write
        `jn.losses.weighted(jn.metrics.accuracy, ignore_index=-100)`.

    Returns:
      (batch, ...) float32, 0 or 1.

    Raises:
      TypeError, ValueError: if targets are not integer labels for these outputs.

    Example:
      >>> accuracy(jnp.array([[0.1, 2.0, 0.3], [5.0, 1.0, 7.0]]), jnp.array([1, 0])).tolist()
      [1.0, 0.0]
    """
    outputs, targets = read_labels("accuracy", outputs, targets)
    _warn_of_others("accuracy", outputs, targets)
    return _float(outputs.argmax(-1) == targets, outputs)


def top_k_accuracy(k: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Makes the metric that is 1 where the target is among the k largest outputs, else 0.

    Among equal outputs, lower indices come first, as in `jax.lax.top_k`.

    Args:
      k: from 1 to the number of classes.

    Returns:
      A metric with the arguments of `accuracy`.

    Raises:
      TypeError, ValueError: if k is not an integer of at least 1.
      ValueError: in the metric, if k is above the number of classes.

    Example:
      >>> top_2 = top_k_accuracy(2)
      >>> top_2(jnp.array([[0.1, 2.0, 0.3], [5.0, 1.0, 7.0]]), jnp.array([0, 0])).tolist()
      [0.0, 1.0]
    """
    at_least("top_k_accuracy", "k", k)

    def metric(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        outputs, targets = read_labels("top_k_accuracy", outputs, targets)
        if k > outputs.shape[-1]:
            raise ValueError(
                f"top_k_accuracy: k must be at most the number of classes, {outputs.shape[-1]}, "
                f"got {k}"
            )
        _warn_of_others("top_k_accuracy", outputs, targets)
        best = jax.lax.top_k(outputs, k)[1]  # (batch, ..., k)
        return _float((best == targets[..., None]).any(-1), outputs)

    return metric


def binary_accuracy(threshold: float = 0.0) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Makes the metric that is 1 where `outputs > threshold` agrees with the target, else 0.

    Args:
      threshold: 0 for logits and for units of -1 and +1; 0.5 for probabilities.

    Returns:
      A metric of outputs (batch, ...) and targets of the same shape, positive for one class and 0
      or negative for the other: 0/1, -1/+1 or booleans. NaN, in either, counts as wrong.

    Raises:
      TypeError, ValueError: for a threshold that is not a number; in the metric, if the shapes
        differ, such as (batch, 1) and (batch,).

    Example:
      >>> binary_accuracy()(jnp.array([-2.0, 0.5, 3.0]), jnp.array([-1, -1, 1])).tolist()
      [1.0, 0.0, 1.0]
    """
    within("binary_accuracy", "threshold", threshold, "(-inf, inf)")

    def metric(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        outputs, targets = read_same("binary_accuracy", outputs, targets)
        correct = (outputs > threshold) == (targets > 0)
        return _float(correct, jnp.stack([outputs, targets], -1))

    return metric


def _warn_of_others(who: str, outputs: jax.Array, targets: jax.Array) -> None:
    """Warn about labels of no class, which a loss next to this metric may leave out.

    Only while tracing with known labels, as `fit` and `evaluate` do once for all of them.
    """
    if not is_traced(outputs) or (labels := known(targets)) is None:
        return
    classes = outputs.shape[-1]
    others = labels[(labels < 0) | (labels >= classes)]
    if others.size:
        label = others.flat[0]
        warn(
            f"{who}: labels outside [0, {classes}) count as wrong, got {label}. To leave it out, "
            f"write jn.losses.weighted(jn.metrics.accuracy, ignore_index={label})"
        )


def _float(correct: jax.Array, outputs: jax.Array) -> jax.Array:
    """Booleans as floats, 0 where an output is NaN, for which argmax and > return a value too."""
    return (correct & ~jnp.isnan(outputs).any(-1)).astype(jnp.float32)
