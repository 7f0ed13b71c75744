"""Losses over the valid positions of padded sequences and partly labelled images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.checks import a_function, as_array, at_least, known
from jaxnet.losses.arrays import (
    Loss,
    at_label,
    by_class,
    check_values,
    read_labels,
    read_mask,
    read_same,
    read_weights,
    split_pair,
    wide,
)
from jaxnet.losses.classification import cross_entropy
from jaxnet.losses.targets import checked


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
      TypeError, ValueError: if the shapes differ, a known mask holds other values, or the values
        have no such axis.

    Example:
      >>> float(masked_mean(jnp.array([1.0, 2.0, jnp.nan]), jnp.array([True, True, False])))
      1.5
    """
    mask = read_mask("masked_mean", mask)
    values, _ = read_same("masked_mean", values, mask, ("values", "mask"))
    for one in () if axis is None else axis if isinstance(axis, tuple) else (axis,):
        at_least("masked_mean", "axis", one, -values.ndim)
        if one >= values.ndim:
            bounds = f"[{-values.ndim}, {values.ndim})"
            raise ValueError(f"masked_mean: axis must be in {bounds} for {values.shape}, got {one}")
    return jnp.where(mask, wide(values), 0).sum(axis) / jnp.maximum(mask.sum(axis), 1)


def masked(loss: Loss = cross_entropy()) -> Loss:
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
      TypeError: if `loss` is not a function; in the loss, if targets are not such a pair.
      ValueError: in the loss, if `loss` does not return one value per entry of the mask.

    Example:
      >>> loss = masked(optax.squared_error)
      >>> y, mask = jnp.zeros((2, 3)), jnp.array([[True, True, False], [False, False, False]])
      >>> loss(jnp.array([[1.0, 2.0, jnp.nan], [5.0, 5.0, 5.0]]), (y, mask)).tolist()
      [2.5, 0.0]
    """
    a_function("masked", "loss", loss, "(outputs, targets)")
    loss = checked(loss)

    def masked_loss(outputs: jax.Array, targets: Any) -> jax.Array:
        labels, mask = split_pair("masked", "targets must be (labels, mask)", targets)
        outputs = as_array("masked", "outputs", outputs)
        values = known(labels)
        labels = as_array("masked", "labels", labels, dtype="booleans or numbers")
        counted, mask = known(mask), read_mask("masked", mask)
        if not outputs.shape[: mask.ndim] == labels.shape[: mask.ndim] == mask.shape:
            raise ValueError(
                "masked: expected outputs and labels (batch, steps, ...) and a mask (batch, steps)"
                f", got {outputs.shape}, {labels.shape} and {mask.shape}"
            )
        # Mask the inputs too: 0 times a NaN slope would still be NaN.
        if values is None or counted is None:
            labels = _zero_outside(labels, mask)
        else:  # known labels stay known, so that the loss can check them
            labels = _zero_outside(values, counted.astype(bool), np)
        values = loss(_zero_outside(outputs, mask), labels)
        check_values("masked", "entry of the mask", values, mask)
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
        The mean is weighted, so only their ratios matter. They need several positions per example:
        the weight of a single one would cancel.

    Returns:
      A loss with the arguments of `loss` that returns (batch,); NaN for an example with a label
      outside [0, classes), if `loss` is NaN there or weights are given.

    Raises:
      TypeError, ValueError: for a label that is not an integer, and weights that are negative or
        not (classes,); in the loss, if targets are not integer labels for these outputs, if `loss`
        does not return one value per label, or for weights with one position per example.

    Example:
      >>> loss = ignore_label(optax.softmax_cross_entropy_with_integer_labels, label=11)
      >>> z = jnp.log(jnp.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]))
      >>> masks = jnp.array([[0, 11, 1], [11, 11, 11]])
      >>> loss(jnp.stack([z, z]), masks).tolist()  # -(log 0.9 + log 0.8) / 2
      [0.164..., 0.0]
    """
    a_function("ignore_label", "loss", loss, "(outputs, targets)")
    loss = checked(loss)
    at_least("ignore_label", "label", label, -(2**31))
    if weights is not None:
        weights = read_weights("ignore_label", "weights", weights)

    def labelled_loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        values = known(targets)
        outputs, targets = read_labels("ignore_label", outputs, targets)
        table = weights
        if weights is not None:
            table = by_class("ignore_label", weights, outputs, "weights")
        if weights is not None and targets.ndim == 1:
            raise ValueError(
                "ignore_label: weights cancel where there is one position per example, got "
                f"outputs {outputs.shape}. For a weighted mean over the batch, use a loss that "
                "returns the pair (totals, weights), such as weighted(loss, class_weights=...)"
            )
        labelled = targets != label
        targets = jnp.where(labelled, targets, 0)
        given = targets if values is None else np.where(values == label, 0, values)
        values = loss(outputs, given)
        check_values("ignore_label", "label", values, targets)
        weight = jnp.where(labelled, 1.0 if table is None else at_label(table, targets), 0)
        axes = tuple(range(1, targets.ndim))
        total = weight.sum(axes)
        values = jnp.where(labelled, wide(values) * weight, 0).sum(axes)
        return values / jnp.where(total > 0, total, 1)

    return labelled_loss


def _zero_outside(x: Any, mask: Any, xp: Any = jnp) -> Any:
    """x with zeros where the mask, which has fewer axes, is false."""
    return xp.where(xp.expand_dims(mask, tuple(range(mask.ndim, x.ndim))), x, 0)
