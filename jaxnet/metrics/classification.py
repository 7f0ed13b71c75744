"""Accuracies: one value per example, 1 if the prediction is correct, else 0."""

import jax
import jax.numpy as jnp

from jaxnet.losses.arrays import are_probabilities, one_logit, read_same, read_targets
from jaxnet.losses.form import comparison
from jaxnet.services.checks import at_least, between, concrete_values, is_traced
from jaxnet.services.warn import warn


def _read(who: str, outputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return outputs and labels, and warn about labels outside [0, classes).

    The label of class probabilities is the most probable class.

    A loss may leave such labels out. The warning appears only while tracing with known labels, as
    `fit` and `evaluate` do once for all of them.
    """
    labels = concrete_values(targets)
    soft = are_probabilities(outputs, targets)
    shape = getattr(outputs, "shape", ())
    one = shape == getattr(targets, "shape", None) and not (soft and shape[1:])
    if shape[-1:] == (1,) or (shape and one):
        raise one_logit(who, shape, "jn.metrics.binary_accuracy")
    outputs, targets = read_targets(who, outputs, targets)
    if soft:
        unknown = jnp.isnan(targets).any(-1)
        return outputs, jnp.where(unknown, -1, targets.argmax(-1))
    classes = outputs.shape[-1]
    if is_traced(outputs) and labels is not None:
        others = labels[(labels < 0) | (labels >= classes)]
        if others.size:
            label = others.flat[0]
            warn(
                f"{who}: labels outside [0, {classes}) count as wrong, got {label}. To leave it "
                f"out, write jn.losses.weighted(jn.metrics.{who}, ignore_label={label})"
            )
    return outputs, targets


@comparison(_read)
def accuracy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return 1 if the largest output is the target's, else 0.

    Among equal outputs the first counts, so a net whose outputs are all 0 is correct on class 0
    only. Examples with NaN in their outputs count as wrong.

    Args:
      outputs: Logits or probabilities (batch, ..., classes).
      targets: Integer labels (batch, ...) in [0, classes), or class probabilities in the shape of
        outputs, whose largest is the label. Any other label counts as wrong, with a warning in
        `fit` and `evaluate`. To leave a label out, write
        `jn.losses.weighted(jn.metrics.accuracy, ignore_label=-100)`.

    Returns:
      (batch, ...) float32, 0 or 1.

    Example:
      >>> accuracy(jnp.array([[0.1, 2.0, 0.3], [5.0, 1.0, 7.0]]), jnp.array([1, 0])).tolist()
      [1.0, 0.0]
    """
    return _float(outputs.argmax(-1) == targets, outputs)


@comparison(_read, k=at_least)
def top_k_accuracy(outputs: jax.Array, targets: jax.Array, *, k: int) -> jax.Array:
    """Return 1 if the target is among the k largest outputs, else 0.

    Among equal outputs, lower indices come first, as in `jax.lax.top_k`.

    Args:
      outputs, targets: As in `accuracy`.
      k: Number of outputs to consider, from 1 to the number of classes.

    Returns:
      (batch, ...) float32, 0 or 1.

    Example:
      >>> z = jnp.array([[0.1, 2.0, 0.3], [5.0, 1.0, 7.0]])
      >>> top_k_accuracy(z, jnp.array([0, 0]), k=2).tolist()
      [0.0, 1.0]
    """
    between("top_k_accuracy", "k", k, 1, outputs.shape[-1], "the number of classes")
    _, best = jax.lax.top_k(outputs, k)  # (batch, ..., k)
    correct = (best == targets[..., None]).any(-1)
    return _float(correct, outputs)


@comparison(read_same, threshold="(-inf, inf)")
def binary_accuracy(outputs: jax.Array, targets: jax.Array, *, threshold: float = 0.0) -> jax.Array:
    """Return 1 if `outputs > threshold` agrees with the target, else 0.

    Args:
      outputs: Scores (batch, ...).
      targets: Numbers or booleans in the shape of outputs, positive for one class and 0 or negative
        for the other, such as 0/1 or -1/+1. NaN in outputs or targets counts as wrong.
      threshold: Bound between the classes: 0 for logits and for units of -1 and +1; 0.5 for
        probabilities.

    Returns:
      The shape of outputs, float32, 0 or 1.

    Example:
      >>> binary_accuracy(jnp.array([-2.0, 0.5, 3.0]), jnp.array([-1, -1, 1])).tolist()
      [1.0, 0.0, 1.0]
    """
    correct = (outputs > threshold) == (targets > 0)
    return _float(correct, jnp.stack([outputs, targets], -1))


def _float(correct: jax.Array, outputs: jax.Array) -> jax.Array:
    """Return booleans as floats, 0 if an output is NaN.

    For NaN, argmax and > return a value as well.
    """
    broken = jnp.isnan(outputs).any(-1)
    return (correct & ~broken).astype(jnp.float32)
