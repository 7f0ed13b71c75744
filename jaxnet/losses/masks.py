"""Transforms of losses: the valid positions of sequences, weights and labels that do not count."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.losses import arrays
from jaxnet.losses.classification import cross_entropy, smoothed
from jaxnet.losses.form import unwrapped
from jaxnet.losses.targets import checked
from jaxnet.ops.precision import at_least_float32
from jaxnet.services.checks import WrongValues, as_array, at_least, concrete_values
from jaxnet.services.checks.keywords import explain_keywords


@explain_keywords
def masked(loss: arrays.Loss = cross_entropy) -> arrays.Loss:
    """Average a loss over the valid positions of each sequence; 0 if none is valid.

    Every sequence has the same weight. To give every token the same weight, pass `jn.supervised` a
    loss that returns the pair (totals, weights), each (batch,). Outputs and targets at masked
    positions, NaN included, affect neither the value nor the gradient by the outputs. If the inputs
    of the net are NaN there, its params still get NaN, because 0 times NaN is NaN: write
    jnp.where(mask[..., None], x, 0) before the net.

    Args:
      loss: Loss or metric that maps outputs (batch, steps, ...) and labels to one value per
        position, (batch, steps).

    Returns:
      A loss of outputs and targets = (labels, mask) that returns (batch,). The mask (batch, steps)
      is true at valid positions; from lengths, it is `jnp.arange(steps) < lengths[:, None]`.

    Example:
      >>> loss = masked(optax.squared_error)
      >>> y, mask = jnp.zeros((2, 3)), jnp.array([[True, True, False], [False, False, False]])
      >>> loss(jnp.array([[1.0, 2.0, jnp.nan], [5.0, 5.0, 5.0]]), (y, mask)).tolist()
      [2.5, 0.0]
    """
    loss = checked(loss, "masked")

    def masked_loss(outputs: jax.Array, targets: Any) -> jax.Array:
        labels, mask = arrays.split_pair("masked", "targets must be (labels, mask)", targets)
        outputs = as_array("masked", "outputs", outputs)
        concrete_labels = concrete_values(labels)
        labels = as_array("masked", "labels", labels, dtype="booleans or numbers")
        concrete_mask = concrete_values(mask)
        mask = _read_mask("masked", mask)
        if not outputs.shape[: mask.ndim] == labels.shape[: mask.ndim] == mask.shape:
            raise ValueError(
                "masked: expected outputs and labels (batch, steps, ...) and a mask (batch, steps)"
                f", got {outputs.shape}, {labels.shape} and {mask.shape}"
            )
        # Mask the inputs too: 0 times a NaN slope would still be NaN.
        if concrete_labels is None or concrete_mask is None:
            labels = _zero_outside(labels, mask)
        else:
            valid = concrete_mask.astype(bool)
            if not valid.any():
                return jnp.zeros(len(valid), at_least_float32(outputs).dtype)
            labels = _filled(concrete_labels, valid)
        values = loss(_zero_outside(outputs, mask), labels)
        _check_values("masked", "entry of the mask", values, mask.shape)
        values = as_array("masked", "values", values, dtype="reals")
        axes = tuple(range(1, values.ndim))
        total = jnp.where(mask, at_least_float32(values), 0).sum(axes)
        return total / jnp.maximum(mask.sum(axes), 1)

    return masked_loss


def _filled(labels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return the labels, with one that counts, which the loss accepts, where the mask is false.

    They stay in NumPy, so that the loss can check known labels.
    """
    ones = [1] * (labels.ndim - valid.ndim)
    first_valid = labels[valid][0]
    return np.where(valid.reshape(*valid.shape, *ones), labels, first_valid)


@explain_keywords
def weighted(
    loss: arrays.Loss = cross_entropy, *, class_weights: Any = None, ignore_label: int | None = None
) -> arrays.Loss:
    """Weight a loss or metric by the label of each entry, and leave out one label.

    The mean over a batch is then weighted too, as in PyTorch: it is the sum of the totals divided
    by the sum of the weights. For class probabilities, the weight of an example is the mean of the
    class weights by these probabilities, so that one-hot rows are labels; PyTorch divides by the
    number of examples there. A metric next to the loss needs the same transform, such as
    `metrics={"accuracy": jn.losses.weighted(jn.metrics.accuracy, ignore_label=-100)}`.

    Args:
      loss: Loss or metric that maps outputs (batch, ..., classes) and integer labels (batch, ...)
        to one value per label. Without `ignore_label`, the targets may be class probabilities.
        With `label_smoothing` of `cross_entropy`, the smoothed fraction of each class has the
        weight of that class, as in PyTorch.
      class_weights: Weights of the classes, (classes,), such as larger ones for rare classes. 1 by
        default.
      ignore_label: Label that does not count, such as -100 or the label of padding.

    Returns:
      A loss with the arguments of `loss` that returns the pair (totals, weights), each (batch,),
      which the trainer and `evaluate` divide after summing over the batch.

    Example:
      >>> loss = weighted(jn.losses.cross_entropy, class_weights=[1.0, 3.0], ignore_label=-1)
      >>> totals, weights = loss(jnp.zeros((3, 2)), jnp.array([0, 1, -1]))  # log 2, 3 · log 2, 0
      >>> totals.tolist(), weights.tolist()
      ([0.693..., 2.079..., 0.0], [1.0, 3.0, 0.0])
    """
    if class_weights is None and ignore_label is None:
        raise ValueError("weighted: expected class_weights or ignore_label, got neither")
    return _by_label("weighted", loss, class_weights, ignore_label)


@explain_keywords
def ignore_label(
    loss: arrays.Loss = cross_entropy, *, label: int, class_weights: Any = None
) -> arrays.Loss:
    """Average a loss or metric over the positions of each example whose label is not `label`.

    For images with unlabeled pixels and for sentences padded with a token. Every example has the
    same weight, however few of its positions are labeled. An example without labeled positions
    has loss 0. For the same weight per position, write `weighted(loss, ignore_label=label)`.

    Args:
      loss, class_weights: As in `weighted`. Class weights need several positions per example: the
        weight of a single position would cancel.
      label: Label of positions to leave out.

    Returns:
      A loss with the arguments of `loss` that returns (batch,).

    Example:
      >>> loss = ignore_label(jn.losses.cross_entropy, label=11)
      >>> z = jnp.log(jnp.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]))
      >>> masks = jnp.array([[0, 11, 1], [11, 11, 11]])
      >>> loss(jnp.stack([z, z]), masks).tolist()  # -(log 0.9 + log 0.8) / 2
      [0.164..., 0.0]
    """
    pair = _by_label("ignore_label", loss, class_weights, label)

    def labeled_loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        totals, weights = pair(outputs, targets)
        if class_weights is not None and targets.ndim == 1:
            raise ValueError(
                "ignore_label: class_weights cancel if there is one position per example, got "
                f"targets {targets.shape}. For a mean over the batch, write "
                "weighted(loss, class_weights=..., ignore_label=...)"
            )
        return totals / jnp.where(weights > 0, weights, 1)

    return labeled_loss


def _by_label(who: str, loss: Any, table: Any, label: int | None) -> Callable[..., Any]:
    """Return a loss that returns totals and weights, each (batch,), of the labels that count."""
    loss = checked(loss, who)
    if who == "ignore_label":
        at_least(who, "label", label, -(2**31))
    else:
        at_least(who, "ignore_label", label, -(2**31), optional=True)
    if table is not None:
        table = arrays.read_weights(who, "class_weights", table, "(classes,)")
    inner, _, options = unwrapped(loss)

    def weigh(outputs: jax.Array, targets: jax.Array, checkable: Any) -> tuple[jax.Array, Any]:
        """Return the weighted losses and the weights; each class of a row has its own weight."""
        by_entry = weight = None
        if table is not None:
            by_entry = _by_class(who, table, outputs)
            weight = arrays.at_target(by_entry, targets)
        if by_entry is not None and inner is cross_entropy:
            log_p = jax.nn.log_softmax(at_least_float32(outputs)) * by_entry
            return smoothed(log_p, targets, **options), weight
        values = loss(outputs, checkable)
        _check_values(who, "label", values, outputs.shape[:-1])
        weight = 1.0 if weight is None else weight
        return at_least_float32(values) * weight, weight

    def of_labels(outputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, Any, Any]:
        """Return the weighted losses, the weights, and which of the labels count."""
        checkable = concrete_values(targets)
        outputs, targets = arrays.read_labels(who, outputs, targets)
        counted: Any = True
        if label is not None:
            counted = targets != label
            # Else 0 times a NaN slope would still be NaN.
            outputs = _zero_outside(outputs, counted)
            targets = jnp.where(counted, targets, 0)
        # In NumPy, so that known labels can be checked.
        checkable = targets if checkable is None else np.where(checkable == label, 0, checkable)
        classes = outputs.shape[-1]
        arrays.check_labels(who, checkable, classes)
        values, weight = weigh(outputs, targets, checkable)
        inside = (targets >= 0) & (targets < classes)  # the weights may be traced
        return jnp.where(inside, values, jnp.nan), weight, counted

    def pair(outputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, ...]:
        if arrays.are_probabilities(outputs, targets) and label is None:
            values, weight = weigh(outputs, targets, targets)
            counted: Any = True
        else:
            values, weight, counted = of_labels(outputs, targets)
        axes = tuple(range(1, values.ndim))
        total = jnp.where(counted, values, 0).sum(axes)
        weights = jnp.where(counted, jnp.full_like(values, weight), 0).sum(axes)
        return total, weights

    return pair


def _read_mask(who: str, mask: Any) -> jax.Array:
    """Return a checked mask, as booleans."""
    values = concrete_values(mask)
    mask = as_array(who, "mask", mask, dtype="booleans or numbers")
    if values is not None:
        wrong = values[(values != 0) & (values != 1)]
        if wrong.size:
            raise WrongValues(
                f"{who}: mask must hold booleans or 0 and 1, got {wrong.flat[0]}. For a mask that "
                "is added to scores, write mask == 0"
            )
    return mask.astype(bool)


def _by_class(who: str, table: Any, outputs: jax.Array) -> jax.Array:
    """Return the class weights in the shape of outputs (batch, ..., classes), as wide floats."""
    classes = outputs.shape[-1]
    if len(table) != classes:
        raise ValueError(
            f"{who}: class_weights must hold one weight per class, {classes}, got {len(table)}"
        )
    dtype = jax.dtypes.canonicalize_dtype(at_least_float32(outputs).dtype)
    return jnp.broadcast_to(jnp.asarray(table, dtype), outputs.shape)


def _check_values(who: str, per: str, values: Any, shape: tuple[int, ...]) -> None:
    """Raise unless a loss returned one value per position."""
    got = getattr(values, "shape", type(values).__name__)
    if got != shape:
        raise ValueError(f"{who}: expected a loss with one value per {per} {shape}, got {got}")


def _zero_outside(x: Any, mask: Any) -> Any:
    """Return x with zeros where the mask, which has fewer axes, is false."""
    new_axes = tuple(range(mask.ndim, x.ndim))
    return jnp.where(jnp.expand_dims(mask, new_axes), x, 0)
