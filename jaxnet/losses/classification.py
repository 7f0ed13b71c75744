"""Cross-entropies on logits and on probabilities, with label smoothing, and with focal weights."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.losses.arrays import at_label, log, read_classes, read_unit, read_weights, wide
from jaxnet.losses.form import comparison


@comparison(read_classes, label_smoothing="[0, 1)")
def cross_entropy(
    outputs: jax.Array, targets: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
    """Return the softmax cross-entropy of logits and integer labels.

    For class weights and labels that do not count, write `weighted(cross_entropy, ...)`.

    Args:
      outputs: Logits (batch, ..., classes).
      targets: Integer labels (batch, ...) in [0, classes).
      label_smoothing: Fraction of the target distribution that is spread evenly over all classes,
        in [0, 1). Zero by default, commonly 0.1.

    Returns:
      (batch, ...).

    Example:
      >>> z, y = jnp.array([[100.0, 0.0], [0.0, 50.0]]), jnp.array([1, 0])
      >>> cross_entropy(z, y).tolist()
      [100.0, 50.0]
      >>> cross_entropy(z, y, label_smoothing=0.1).tolist()  # 0.9 · 100 + 0.1 · 50, and half of it
      [95.0..., 47.5...]

    Reference: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7.
    """
    return smoothed(jax.nn.log_softmax(wide(outputs)), targets, label_smoothing)


def smoothed(log_p: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Return the cross-entropy of smoothed labels, from the logarithms of the probabilities."""
    values = -at_label(log_p, labels)
    if isinstance(label_smoothing, int | float) and label_smoothing == 0:
        return values  # avoids 0 times infinity, which would be NaN
    return (1 - label_smoothing) * values - label_smoothing * log_p.mean(-1)


@comparison(read_classes)
def cross_entropy_of_probabilities(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return -log p_y from probabilities and integer labels.

    Prefer `cross_entropy` if the net can output logits: it is exact for logits of any size. Below a
    probability of 1e-7 (2e-16 in float64), the logarithm is replaced by its tangent, so value and
    gradient are finite at p_y = 0.

    Args:
      outputs: Probabilities (batch, ..., classes), such as the outputs of a softmax.
      targets: Integer labels (batch, ...) in [0, classes).

    Returns:
      (batch, ...).

    Example:
      >>> p = jnp.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
      >>> cross_entropy_of_probabilities(p, jnp.array([0, 1])).tolist()
      [0.693..., 1.386...]
    """
    return -log(at_label(wide(outputs), targets))


@comparison(read_unit, pos_weight=read_weights)
def sigmoid_cross_entropy(
    outputs: jax.Array, targets: jax.Array, *, pos_weight: Any = 1.0
) -> jax.Array:
    """Return the sigmoid cross-entropy of each logit, with weighted positive targets.

    With the default weight it equals `optax.sigmoid_binary_cross_entropy`.

    Args:
      outputs: Logits (batch, ..., labels).
      targets: Values in [0, 1], in the shape of outputs.
      pos_weight: Factor of the part of the loss that belongs to positive targets: a number, or one
        per label, (labels,). For a rare label, use about negatives / positives.

    Returns:
      The shape of outputs.

    Example:
      >>> z, y = jnp.zeros(2), jnp.array([1, 0])
      >>> sigmoid_cross_entropy(z, y, pos_weight=3.0).tolist()  # 3 · log 2 and log 2
      [2.079..., 0.693...]
    """
    z = wide(outputs)
    y = targets.astype(z.dtype)
    factor = jnp.asarray(read_weights("sigmoid_cross_entropy", "pos_weight", pos_weight), z.dtype)
    if factor.ndim and factor.shape != z.shape[-1:]:
        raise ValueError(
            "sigmoid_cross_entropy: pos_weight must be a number or one per label, got "
            f"{factor.shape} for outputs {z.shape}"
        )
    return -(factor * y * jax.nn.log_sigmoid(z) + (1 - y) * jax.nn.log_sigmoid(-z))


@comparison(read_unit)
def binary_cross_entropy_of_probabilities(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return -[y log p + (1 - y) log(1 - p)] of each probability.

    Prefer `sigmoid_cross_entropy` if the net can output logits. Close to probabilities of 0 and 1,
    the logarithm is replaced by its tangent, as in `cross_entropy_of_probabilities`.

    Args:
      outputs: Probabilities (batch, ...) in [0, 1], such as the outputs of a sigmoid.
      targets: Values in [0, 1], in the shape of outputs.

    Returns:
      The shape of outputs.

    Example:
      >>> p, y = jnp.array([0.8, 0.8]), jnp.array([1, 0])
      >>> binary_cross_entropy_of_probabilities(p, y).tolist()
      [0.223..., 1.609...]
    """
    p = wide(outputs)
    y = targets.astype(p.dtype)
    return -(y * log(p) + (1 - y) * log(1 - p))


@comparison(read_classes, gamma="[0, inf)")
def focal(outputs: jax.Array, targets: jax.Array, *, gamma: float = 2.0) -> jax.Array:
    """Return the softmax cross-entropy times (1 - p_y)^gamma.

    The factor gives easy examples less weight.

    Args:
      outputs: Logits (batch, ..., classes) of at least two classes.
      targets: Integer labels (batch, ...) in [0, classes).
      gamma: Exponent, at least 0; 0 gives the cross-entropy.

    Returns:
      (batch, ...).

    Example:
      >>> z = jnp.log(jnp.array([[0.9, 0.1], [0.5, 0.5]]))  # (1 - 0.9)² · 0.105, 0.5² · 0.693
      >>> focal(z, jnp.array([0, 0]), gamma=2.0).tolist()
      [0.00105..., 0.173...]

    Reference: Lin et al. 2017, "Focal Loss for Dense Object Detection".
    """
    if outputs.shape[-1] < 2:
        raise ValueError(
            f"focal: expected two classes or more, got outputs {outputs.shape}. For one logit per "
            "example, take optax.sigmoid_focal_loss"
        )
    z = wide(outputs)
    total = jax.nn.logsumexp(z, axis=-1)
    others = jnp.where(targets[..., None] == jnp.arange(z.shape[-1]), -jnp.inf, z)
    # log(1 - p) from the other classes: 1 - p itself would round to 0, where x^gamma may have
    # an infinite slope.
    log_rest = jax.nn.logsumexp(others, axis=-1) - total
    return jnp.exp(gamma * log_rest) * (total - at_label(z, targets))
