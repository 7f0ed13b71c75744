"""Cross-entropies on logits and on probabilities, with label smoothing, and with focal weights."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.losses import arrays
from jaxnet.losses.form import comparison
from jaxnet.ops.precision import at_least_float32


@comparison(arrays.read_classes, label_smoothing="[0, 1)")
def cross_entropy(
    outputs: jax.Array, targets: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
    """Return the softmax cross-entropy of logits and labels, or class probabilities.

    For class weights and labels that do not count, write `weighted(cross_entropy, ...)`. Classes
    whose logit is -inf are left out, as if the net did not have them.

    Args:
      outputs: Logits (batch, ..., classes).
      targets: Integer labels (batch, ...) in [0, classes), or probabilities in the shape of
        outputs, such as those of `jn.data.mixup`.
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
    log_p = jax.nn.log_softmax(at_least_float32(outputs))
    return smoothed(log_p, targets, label_smoothing)


def smoothed(log_p: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Return the cross-entropy of smoothed labels, from the logarithms of the probabilities."""
    values = -arrays.at_target(log_p, labels)
    if isinstance(label_smoothing, int | float) and label_smoothing == 0:
        return values
    is_possible = log_p > -jnp.inf
    total = jnp.where(is_possible, log_p, 0).sum(-1)
    mean = total / jnp.maximum(is_possible.sum(-1), 1)
    return (1 - label_smoothing) * values - label_smoothing * mean


@comparison(arrays.read_unit, pos_weight=arrays.read_weights)
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
    z = at_least_float32(outputs)
    y = targets.astype(z.dtype)
    factor = arrays.read_weights("sigmoid_cross_entropy", "pos_weight", pos_weight)
    factor = jnp.asarray(factor, z.dtype)
    if factor.ndim and factor.shape != z.shape[-1:]:
        raise ValueError(
            "sigmoid_cross_entropy: pos_weight must be a number or one per label, got "
            f"{factor.shape} for outputs {z.shape}"
        )
    # At a logit of -inf or inf, one of the logarithms is infinite; its factor may be 0.
    yes = arrays.times(factor * y, jax.nn.log_sigmoid(z))
    no = arrays.times(1 - y, jax.nn.log_sigmoid(-z))
    return -(yes + no)


@comparison(arrays.read_classes, gamma="[0, inf)")
def focal(outputs: jax.Array, targets: jax.Array, *, gamma: float = 2.0) -> jax.Array:
    """Return the softmax cross-entropy times (1 - p_y)^gamma.

    The factor gives easy examples less weight.

    Args:
      outputs: Logits (batch, ..., classes) of at least two classes.
      targets: Integer labels or probabilities, as in `cross_entropy`.
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
        raise arrays.one_logit("focal", outputs.shape, "optax.sigmoid_focal_loss")
    z = at_least_float32(outputs)
    total = jax.nn.logsumexp(z, axis=-1, keepdims=True)
    each = jnp.expand_dims(z, -2)  # (batch, ..., 1, classes)
    if arrays.are_probabilities(outputs, targets):
        itself = jnp.eye(z.shape[-1], dtype=bool)
        others = jnp.where(itself, -jnp.inf, each)
        return arrays.at_target(_focal(z, total, gamma, others), targets)
    at = arrays.at_target(z, targets)[..., None]  # (batch, ..., 1)
    ones = (1,) * z.ndim
    classes = jnp.arange(z.shape[-1]).reshape(*ones, -1)
    itself = targets[..., None, None] == classes
    others = jnp.where(itself, -jnp.inf, each)
    return _focal(at, total, gamma, others)[..., 0]


def _focal(z: jax.Array, total: jax.Array, gamma: Any, others: jax.Array) -> jax.Array:
    """Return the focal loss of logits z, (batch, ..., n), given the logits of the other classes,
    (batch, ..., n, classes), with -inf for the class itself."""
    # log(1 - p) from the other classes: 1 - p itself would round to 0, where x^gamma may have
    # an infinite slope.
    some = (others > -jnp.inf).any(-1)
    rest = jax.nn.logsumexp(jnp.where(some[..., None], others, 0), axis=-1)
    log_other = jnp.where(some, rest - total, 0)  # log(1 - p)
    # Without other classes, or if they are masked, p is 1.
    factor = jnp.where(some, jnp.exp(gamma * log_other), gamma == 0)
    is_possible = z != -jnp.inf  # NaN, for a label that is not a class, stays NaN
    cost = total - jnp.where(is_possible, z, 0)
    return jnp.where(is_possible, factor * cost, jnp.inf)
