"""Cross-entropies on probabilities, with label smoothing, and with focal weights."""

import jax
import jax.numpy as jnp
import optax

from jaxnet.checks import within
from jaxnet.losses.arrays import Loss, at_label, check_unit, log, read_labels, read_same, wide


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
      TypeError, ValueError: if the shapes differ, or NumPy targets are outside [0, 1].

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
      (batch, ...); NaN for a label outside [0, classes), and an error if targets are NumPy's.

    Raises:
      TypeError, ValueError: if targets are not integer labels for these outputs.

    Example:
      >>> p = jnp.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
      >>> categorical_cross_entropy(p, jnp.array([0, 1])).tolist()
      [0.693..., 1.386...]
    """
    outputs, targets = read_labels("categorical_cross_entropy", outputs, targets, classes_only=True)
    return -log(at_label(wide(outputs), targets))


def cross_entropy(*, label_smoothing: float = 0.0) -> Loss:
    """Softmax cross-entropy on logits and integer labels, with label smoothing.

    Args:
      label_smoothing: in [0, 1); share of the target distribution that is spread evenly over all
        classes, including the label's. Commonly 0.1.

    Returns:
      A loss of logits (batch, ..., classes) and integer labels (batch, ...) that returns
      (batch, ...); NaN for a label outside [0, classes), and an error if targets are NumPy's.

    Raises:
      ValueError: if label_smoothing is outside [0, 1).
      TypeError, ValueError: in the loss, if targets are not integer labels for these outputs.

    Example:
      >>> loss = cross_entropy(label_smoothing=0.1)  # 0.9 · 0 + 0.1 · 50, and 0.9 · 50 + 0.1 · 25
      >>> loss(jnp.array([[100.0, 0.0], [0.0, 50.0]]), jnp.array([0, 0])).tolist()
      [5.0..., 47.5...]

    Reference: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7.
    """
    within("cross_entropy", "label_smoothing", label_smoothing, "[0, 1)")

    def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        outputs, targets = read_labels("cross_entropy", outputs, targets, classes_only=True)
        log_p = jax.nn.log_softmax(wide(outputs))
        spread = label_smoothing * log_p.mean(-1)
        return -(1 - label_smoothing) * at_label(log_p, targets) - spread

    return loss


def focal_loss(gamma: float = 2.0) -> Loss:
    """Softmax cross-entropy times (1 - p_y)^gamma, which down-weights easy examples.

    Args:
      gamma: at least 0; 0 gives the cross-entropy.

    Returns:
      A loss of logits (batch, ..., classes) and integer labels (batch, ...) that returns
      (batch, ...); NaN for a label outside [0, classes), and an error if targets are NumPy's.

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
      TypeError, ValueError: in the loss, if the shapes differ, or NumPy targets are outside [0, 1].

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
