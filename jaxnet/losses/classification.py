"""Cross-entropies on probabilities, with label smoothing, and with focal weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet.checks import a_function, at_least, known, within
from jaxnet.losses.arrays import (
    Loss,
    at_label,
    by_class,
    check_unit,
    check_values,
    log,
    read_labels,
    read_same,
    read_weights,
    wide,
)
from jaxnet.losses.targets import checked


def binary_cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """-[y log p + (1 - y) log(1 - p)] on probabilities, per entry.

    If the net can output logits, prefer `optax.sigmoid_binary_cross_entropy`, which is exact for
    logits of any size. Below a probability of 1e-7 (2e-16 in float64) the logarithm is replaced by
    its tangent, so value and gradient are finite at exactly 0 and 1.

    Args:
      outputs: (batch, ...), probabilities in [0, 1], such as those of a sigmoid.
      targets: same shape as outputs, in [0, 1].

    Returns:
      (batch, ...).

    Raises:
      TypeError, ValueError: if the shapes differ, or known targets are outside [0, 1].

    Example:
      >>> binary_cross_entropy(jnp.array([0.8, 0.8]), jnp.array([1, 0])).tolist()
      [0.223..., 1.609...]
    """
    check = targets
    outputs, targets = read_same("binary_cross_entropy", outputs, targets)
    check_unit("binary_cross_entropy", "targets", check)
    p = wide(outputs)
    y = targets.astype(p.dtype)
    return -(y * log(p) + (1 - y) * log(1 - p))


def categorical_cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """-log p_y on probabilities.

    If the net can output logits, prefer `optax.softmax_cross_entropy_with_integer_labels`, which is
    exact for logits of any size. Below a probability of 1e-7 (2e-16 in float64) the logarithm is
    replaced by its tangent, so value and gradient are finite at p_y = 0.

    Args:
      outputs: (batch, ..., classes), probabilities, such as those of a softmax.
      targets: (batch, ...), integer labels in [0, classes).

    Returns:
      (batch, ...); an error for a known label outside [0, classes), NaN while tracing.

    Raises:
      TypeError, ValueError: if targets are not integer labels for these outputs.

    Example:
      >>> p = jnp.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
      >>> categorical_cross_entropy(p, jnp.array([0, 1])).tolist()
      [0.693..., 1.386...]
    """
    outputs, targets = read_labels("categorical_cross_entropy", outputs, targets, classes_only=True)
    return -log(at_label(wide(outputs), targets))


def cross_entropy(
    *,
    label_smoothing: float = 0.0,
    class_weights: Any = None,
    ignore_index: int | None = None,
) -> Loss:
    """Softmax cross-entropy on logits and integer labels, smoothed, weighted or partly ignored.

    With `class_weights` or `ignore_index` the mean over a batch is weighted, so the loss returns
    the pair (totals, weights) of each example; their sums divided are PyTorch's mean.

    Args:
      label_smoothing: in [0, 1); share of the target distribution that is spread evenly over all
        classes, including the label's. Commonly 0.1.
      class_weights: (classes,), weight of an entry by its label, such as larger ones for rare
        classes; the smoothed share of each class has the weight of that class.
      ignore_index: Label that does not count, such as -100 or that of padding. A metric beside this
        loss counts it unless the metric leaves it out too: write
        `metrics={"accuracy": jn.losses.weighted(jn.metrics.accuracy, ignore_index=-100)}`.

    Returns:
      A loss of logits (batch, ..., classes) and integer labels (batch, ...) that returns
      (batch, ...), or a pair of (batch,) each; an error for a known label outside [0, classes),
      NaN while tracing.

    Raises:
      TypeError, ValueError: for a label_smoothing outside [0, 1), class_weights that are negative
        or not (classes,); in the loss, if targets are not integer labels for these outputs.

    Example:
      >>> loss = cross_entropy(label_smoothing=0.1)  # 0.9 · 0 + 0.1 · 50, and 0.9 · 50 + 0.1 · 25
      >>> loss(jnp.array([[100.0, 0.0], [0.0, 50.0]]), jnp.array([0, 0])).tolist()
      [5.0..., 47.5...]
      >>> loss = cross_entropy(class_weights=np.array([1.0, 3.0]))  # log 2 and 3 · log 2
      >>> totals, weights = loss(jnp.zeros((2, 2)), jnp.array([0, 1]))
      >>> totals.tolist(), weights.tolist()
      ([0.693..., 2.079...], [1.0, 3.0])

    Reference: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7.
    """
    who = "cross_entropy"
    within(who, "label_smoothing", label_smoothing, "[0, 1)")
    table = None if class_weights is None else read_weights(who, "class_weights", class_weights)

    def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        outputs, targets = read_labels(who, outputs, targets, classes_only=True)
        log_p = jax.nn.log_softmax(wide(outputs))
        if table is not None:  # of each class, in the smoothed share and at the label
            log_p = log_p * by_class(who, table, log_p)
        return -(1 - label_smoothing) * at_label(log_p, targets) - label_smoothing * log_p.mean(-1)

    if table is None and ignore_index is None:
        return loss
    return _pair(who, loss, table, ignore_index, multiply=False)


def weighted(
    loss: Loss = cross_entropy(),
    *,
    class_weights: Any = None,
    ignore_index: int | None = None,
) -> Loss:
    """Weights a loss by the label of each entry, and leaves out one label.

    The mean over a batch is then weighted too: the sums of the returned totals and weights,
    divided, are PyTorch's mean. For weights with label smoothing see `cross_entropy`.

    Args:
      loss: maps outputs (batch, ..., classes) and integer labels (batch, ...) to one value per
        label, such as `focal_loss()`.
      class_weights: (classes,), weight of an entry by its label, such as larger ones for rare
        classes.
      ignore_index: a label that does not count, such as -100 or that of padding.

    Returns:
      A loss with the arguments of `loss` that returns the pair (totals, weights), each (batch,),
      which the trainer and `evaluate` divide after summing over the batch.

    Raises:
      TypeError, ValueError: for neither of both, and weights that are negative or not (classes,);
        in the loss, if targets are not integer labels for these outputs, or `loss` does not return
        one value per label.

    Example:
      >>> loss = weighted(jn.losses.focal_loss(0.0), class_weights=[1.0, 3.0], ignore_index=-1)
      >>> totals, weights = loss(jnp.zeros((3, 2)), jnp.array([0, 1, -1]))  # log 2, 3 · log 2, 0
      >>> totals.tolist(), weights.tolist()
      ([0.693..., 2.079..., 0.0], [1.0, 3.0, 0.0])
    """
    who = "weighted"
    a_function(who, "loss", loss, "(outputs, targets)")
    loss = checked(loss)
    if class_weights is None and ignore_index is None:
        raise ValueError(f"{who}: expected class_weights or ignore_index, got neither")
    table = None if class_weights is None else read_weights(who, "class_weights", class_weights)
    return _pair(who, loss, table, ignore_index)


def _pair(
    who: str, loss: Loss, table: Any, ignore_index: int | None, multiply: bool = True
) -> Loss:
    """Totals and weights of the labels that count; `multiply` unless the loss has its weights."""
    if ignore_index is not None:
        at_least(who, "ignore_index", ignore_index, -(2**31))

    def pair(outputs: jax.Array, targets: jax.Array) -> Any:
        counted: Any = True
        if ignore_index is not None:
            values = known(targets)  # known labels stay known, so that the loss can check them
            xp: Any = jnp if values is None else np
            labels = targets if values is None else values
            counted = xp.asarray(labels) != ignore_index
            targets = xp.where(counted, labels, 0)
        values = loss(outputs, targets)
        outputs, targets = read_labels(who, outputs, targets, classes_only=True)
        check_values(who, "label", values, targets)
        inside = (targets >= 0) & (targets < outputs.shape[-1])
        values = jnp.where(inside, wide(values), jnp.nan)
        weight = jnp.ones_like(values)
        if table is not None:
            weight = at_label(by_class(who, table, outputs), targets).astype(values.dtype)
            values = values * weight if multiply else values
        axes = tuple(range(1, values.ndim))
        return tuple(jnp.where(counted, part, 0).sum(axes) for part in (values, weight))

    return pair


def sigmoid_cross_entropy(*, pos_weight: Any = None) -> Loss:
    """Sigmoid cross-entropy on logits, with the positive targets of each entry weighted.

    Without weights it is `optax.sigmoid_binary_cross_entropy`, without broadcasting.

    Args:
      pos_weight: a number, or one per label (labels,), by which the part of the loss that belongs
        to positive targets is multiplied: for a rare label about negatives / positives.

    Returns:
      A loss of logits (batch, ..., labels) and targets in [0, 1] of the same shape that returns
      their shape.

    Raises:
      TypeError, ValueError: for weights that are negative; in the loss, if the shapes differ, or
        known targets are outside [0, 1].

    Example:
      >>> loss = sigmoid_cross_entropy(pos_weight=3.0)
      >>> loss(jnp.zeros(2), jnp.array([1, 0])).tolist()  # 3 · log 2 and log 2
      [2.079..., 0.693...]
    """
    who = "sigmoid_cross_entropy"
    positive = 1.0 if pos_weight is None else read_weights(who, "pos_weight", pos_weight, "(...)")

    def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        check = targets
        outputs, targets = read_same(who, outputs, targets)
        check_unit(who, "targets", check)
        z = wide(outputs)
        y, factor = targets.astype(z.dtype), jnp.asarray(positive, z.dtype)
        if factor.ndim and factor.shape != z.shape[-1:]:
            raise ValueError(
                f"{who}: pos_weight must be a number or one per label, got {factor.shape} for "
                f"outputs {z.shape}"
            )
        return -(factor * y * jax.nn.log_sigmoid(z) + (1 - y) * jax.nn.log_sigmoid(-z))

    return loss


def focal_loss(gamma: float = 2.0) -> Loss:
    """Softmax cross-entropy times (1 - p_y)^gamma, which down-weights easy examples.

    Args:
      gamma: at least 0; 0 gives the cross-entropy.

    Returns:
      A loss of logits (batch, ..., classes) and integer labels (batch, ...) that returns
      (batch, ...); an error for a known label outside [0, classes), NaN while tracing.

    Raises:
      ValueError: if gamma is negative; in the loss, if there are fewer than two classes.
      TypeError, ValueError: in the loss, if targets are not integer labels for these outputs.

    Example:
      >>> z = jnp.log(jnp.array([[0.9, 0.1], [0.5, 0.5]]))  # (1 - 0.9)² · 0.105, 0.5² · 0.693
      >>> focal_loss(2.0)(z, jnp.array([0, 0])).tolist()
      [0.00105..., 0.173...]

    Reference: Lin et al. 2017, "Focal Loss for Dense Object Detection".
    """
    within("focal_loss", "gamma", gamma, "[0, inf)")

    def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        outputs, targets = read_labels("focal_loss", outputs, targets, classes_only=True)
        if outputs.shape[-1] < 2:
            raise ValueError(
                f"focal_loss: expected two classes or more, got outputs {outputs.shape}. "
                "For one logit per example, write sigmoid_focal_loss"
            )
        z = wide(outputs)
        total = jax.nn.logsumexp(z, axis=-1)
        others = jnp.where(targets[..., None] == jnp.arange(z.shape[-1]), -jnp.inf, z)
        # log(1 - p) from the other classes: 1 - p itself would round to 0, where x^gamma may have
        # an infinite slope.
        log_rest = jax.nn.logsumexp(others, axis=-1) - total
        return jnp.exp(gamma * log_rest) * (total - at_label(z, targets))

    return loss


def sigmoid_focal_loss(gamma: float = 2.0, alpha: float | None = None) -> Loss:
    """Sigmoid cross-entropy times (1 - p_t)^gamma, p_t the probability given to the true class.

    `optax.sigmoid_focal_loss` as a loss maker, in float32 at least and without broadcasting.

    Args:
      gamma: at least 0; 0 gives the cross-entropy.
      alpha: in (0, 1), weight of positive targets; negative ones get 1 - alpha. None leaves both
        unweighted.

    Returns:
      A loss of logits (batch, ...) and targets in [0, 1] of the same shape that returns
      (batch, ...).

    Raises:
      ValueError: if gamma is negative or alpha not in (0, 1).
      TypeError, ValueError: in the loss, if the shapes differ, or known targets are outside [0, 1].

    Example:
      >>> sigmoid_focal_loss(2.0)(jnp.array([0.0, 2.0]), jnp.array([1, 1])).tolist()
      [0.173..., 0.0018...]

    Reference: Lin et al. 2017, "Focal Loss for Dense Object Detection".
    """
    within("sigmoid_focal_loss", "gamma", gamma, "[0, inf)")
    if alpha is not None:
        within("sigmoid_focal_loss", "alpha", alpha, "(0, 1)")

    def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        check = targets
        outputs, targets = read_same("sigmoid_focal_loss", outputs, targets)
        check_unit("sigmoid_focal_loss", "targets", check)
        return optax.sigmoid_focal_loss(wide(outputs), targets, alpha=alpha, gamma=gamma)

    return loss
