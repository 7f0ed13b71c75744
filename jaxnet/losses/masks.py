"""Losses over the valid positions of padded sequences and partly labelled images."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnet.losses.arrays import Loss, check_labels, check_same_shape


def masked_mean(
    values: jax.Array, mask: jax.Array, axis: int | tuple[int, ...] | None = None
) -> jax.Array:
    """Mean of the values where the mask is true; 0, not NaN, if it is true nowhere.

    Args:
      values: any shape.
      mask: same shape as values, booleans or 0 and 1.
      axis: axis or axes of the mean; None means all.

    Returns:
      The values without `axis`.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> float(masked_mean(jnp.array([1.0, 2.0, jnp.nan]), jnp.array([True, True, False])))
      1.5
    """
    check_same_shape("masked_mean", values, mask)
    mask = mask.astype(bool)
    return jnp.where(mask, values, 0).sum(axis) / jnp.maximum(mask.sum(axis), 1)


def masked(loss: Loss = optax.softmax_cross_entropy_with_integer_labels) -> Loss:
    """Averages a loss over the valid positions of each sequence; 0 if none is valid.

    Every sequence has the same weight. For the same weight per token, give `jn.supervised` a loss
    that returns the pair (totals, weights), each (batch,). Outputs and targets at masked positions,
    NaN included, affect neither value nor gradient.

    Args:
      loss: maps outputs (batch, steps, ...) and labels to one value per position, (batch, steps).

    Returns:
      A loss of outputs and targets = (labels, mask) that returns (batch,). The mask (batch, steps)
      is true at valid positions; from lengths, it is `jnp.arange(steps) < lengths[:, None]`.

    Raises:
      ValueError: in the loss, if `loss` does not return one value per entry of the mask.

    Example:
      >>> loss = masked(optax.squared_error)
      >>> y, mask = jnp.zeros((2, 3)), jnp.array([[True, True, False], [False, False, False]])
      >>> loss(jnp.array([[1.0, 2.0, jnp.nan], [5.0, 5.0, 5.0]]), (y, mask)).tolist()
      [2.5, 0.0]
    """

    def masked_loss(outputs: jax.Array, targets: Any) -> jax.Array:
        labels, mask = targets
        # Mask the inputs too: 0 times a NaN slope would still be NaN.
        values = loss(_zero_outside(outputs, mask), _zero_outside(labels, mask))
        if values.shape != mask.shape:
            raise ValueError(
                "masked: expected a loss with one value per entry of the mask (batch, steps), got "
                f"{values.shape} for a mask of shape {mask.shape}"
            )
        return masked_mean(values, mask, tuple(range(1, values.ndim)))

    return masked_loss


def ignore_label(loss: Loss, label: int, *, weights: Any = None) -> Loss:
    """Averages a loss over the positions of each example whose label is not `label`.

    For images with unlabelled pixels and for sentences padded with a token. A metric such as
    `jn.metrics.accuracy` can take the place of the loss. Every example has the same weight,
    however few of its positions are labelled; one without labelled positions has loss 0.

    Args:
      loss: maps outputs (batch, ..., classes) and integer labels (batch, ...) to one value per
        position, such as `optax.softmax_cross_entropy_with_integer_labels`.
      label: the label of positions to leave out.
      weights: (classes,), weight of a position by its class, for instance larger for rare classes.
        The mean is weighted, so only their ratios matter.

    Returns:
      A loss with the arguments of `loss` that returns (batch,).

    Raises:
      TypeError, ValueError: in the loss, if targets are not integer labels for these outputs, or
        if `loss` does not return one value per label.

    Example:
      >>> loss = ignore_label(optax.softmax_cross_entropy_with_integer_labels, label=11)
      >>> z = jnp.log(jnp.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]))
      >>> masks = jnp.array([[0, 11, 1], [11, 11, 11]])
      >>> loss(jnp.stack([z, z]), masks).tolist()  # -(log 0.9 + log 0.8) / 2
      [0.164..., 0.0]
    """
    weights = None if weights is None else jnp.asarray(weights)

    def labelled_loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        check_labels("ignore_label", outputs, targets)
        labelled = targets != label
        targets = jnp.where(labelled, targets, 0)
        values = loss(outputs, targets)
        if values.shape != targets.shape:
            raise ValueError(
                f"ignore_label: expected a loss with one value per label {targets.shape}, got "
                f"{values.shape}"
            )
        weight = jnp.where(labelled, 1.0 if weights is None else weights[targets], 0)
        axes = tuple(range(1, targets.ndim))
        total = weight.sum(axes)
        return jnp.where(labelled, values * weight, 0).sum(axes) / jnp.where(total > 0, total, 1)

    return labelled_loss


def _zero_outside(x: jax.Array, mask: jax.Array) -> jax.Array:
    """x with zeros where the mask, which has fewer axes, is false."""
    return jnp.where(jnp.expand_dims(mask, tuple(range(mask.ndim, x.ndim))), x, 0)
