"""Losses that optax lacks, or has with other edges.

Every loss is `loss(outputs, targets)` and gives one value an example, or one an entry for outputs
of more axes; `supervised` averages them, with a mask where a batch is padded. Sums and logarithms
are taken in float32 at least. Outputs (batch, 1) against targets (batch,) raise an error here,
where broadcasting would make them (batch, batch) in silence.

Use optax for what it has: `optax.softmax_cross_entropy_with_integer_labels` (classes, logits),
`optax.softmax_cross_entropy` (soft targets), `optax.squared_error` (its mean is the mean squared
error), `optax.l2_loss` (half of it, entry by entry), `optax.log_cosh`, `optax.cosine_distance`,
`optax.kl_divergence`, `optax.ntxent`, `optax.triplet_margin_loss`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Loss = Callable[[Any, Any], jax.Array]


def half_squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """½‖h - y‖², summed over all axes but the batch's: its gradient is h - y.

    Args:
      outputs: (batch, ...).
      targets: of the same shape.

    Returns:
      (batch,).

    Raises:
      ValueError: where the shapes differ.

    Example:
      >>> h, y = jnp.array([[1.0, 2.0, 5.0]]), jnp.array([[0.0, 4.0, 5.0]])
      >>> half_squared_error(h, y).tolist()
      [2.5]
    """
    _check_same("half_squared_error", outputs, targets)
    return jnp.square(_wide(outputs) - targets).sum(tuple(range(1, outputs.ndim))) / 2


def huber(delta: float = 1.0) -> Loss:
    """The loss ½e² for |e| <= delta, else delta (|e| - delta / 2), entry by entry.

    Args:
      delta: above 0; where the parabola becomes a line.

    Returns:
      A loss of outputs (batch, ...) and targets of the same shape.

    Raises:
      ValueError: for delta not above 0, and where the shapes differ.

    Example:
      >>> huber(1.0)(jnp.array([0.5, 3.0]), jnp.zeros(2)).tolist()
      [0.125, 2.5]

    Reference: Huber 1964, "Robust Estimation of a Location Parameter".
    """
    if delta <= 0:
        raise ValueError(f"huber: delta must be above 0, got {delta}")

    def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        _check_same("huber", outputs, targets)
        return optax.huber_loss(_wide(outputs), targets, delta=delta)

    return loss


def binary_cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """-[y log p + (1 - y) log(1 - p)] on probabilities, entry by entry.

    Where a net can give logits, `binary_cross_entropy_with_logits` is exact at any size. Here a
    probability within 1e-7 of the wrong end (2e-16 in float64) gets the tangent of the logarithm
    in its place: value and gradient stay finite at exactly 0 and 1, and the gradient points back.

    Args:
      outputs: (batch, ...), probabilities in [0, 1], such as those of a sigmoid.
      targets: of the same shape, in [0, 1].

    Returns:
      (batch, ...).

    Raises:
      ValueError: where the shapes differ.

    Example:
      >>> binary_cross_entropy(jnp.array([0.8, 0.8]), jnp.array([1, 0])).tolist()
      [0.223..., 1.609...]
    """
    _check_same("binary_cross_entropy", outputs, targets)
    p = _wide(outputs)
    y = targets.astype(p.dtype)
    return -(y * _log(p) + (1 - y) * _log(1 - p))


def binary_cross_entropy_with_logits(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """-[y log σ(z) + (1 - y) log(1 - σ(z))], entry by entry: the gradient is σ(z) - y.

    Args:
      outputs: (batch, ...), logits.
      targets: of the same shape, in [0, 1].

    Returns:
      (batch, ...).

    Raises:
      ValueError: where the shapes differ.

    Example:
      >>> binary_cross_entropy_with_logits(jnp.array([0.0, -200.0]), jnp.array([1, 1])).tolist()
      [0.693..., 200.0]
    """
    _check_same("binary_cross_entropy_with_logits", outputs, targets)
    return optax.sigmoid_binary_cross_entropy(_wide(outputs), targets)


def categorical_cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """-log p_y on probabilities.

    Where a net can give logits, `optax.softmax_cross_entropy_with_integer_labels` is exact at any
    size. Here a probability below 1e-7 (2e-16 in float64) gets the tangent of the logarithm in its
    place, so value and gradient stay finite at p_y = 0.

    Args:
      outputs: (batch, ..., classes), probabilities, such as those of a softmax.
      targets: (batch, ...), integer labels in [0, classes).

    Returns:
      (batch, ...); NaN for a label outside [0, classes).

    Raises:
      TypeError, ValueError: for targets that are no such labels.

    Example:
      >>> p = jnp.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
      >>> categorical_cross_entropy(p, jnp.array([0, 1])).tolist()
      [0.693..., 1.386...]
    """
    _check_labels("categorical_cross_entropy", outputs, targets)
    return -_log(_of_label(_wide(outputs), targets))


def smoothed_cross_entropy(smoothing: float) -> Loss:
    """The softmax cross-entropy against (1 - smoothing) of the label and smoothing of all alike.

    Args:
      smoothing: in [0, 1); the share of the target that is spread evenly over all classes, the
        label's among them. 0.1 is usual.

    Returns:
      A loss of logits (batch, ..., classes) and integer labels (batch, ...).

    Raises:
      ValueError: for smoothing outside [0, 1).
      TypeError, ValueError: in the loss, for targets that are no labels for these outputs.

    Example:
      >>> loss = smoothed_cross_entropy(0.1)  # 0.9 · 0 + 0.1 · 50, and 0.9 · 50 + 0.1 · 50
      >>> loss(jnp.array([[100.0, 0.0], [0.0, 50.0]]), jnp.array([0, 0])).tolist()
      [5.0..., 47.5...]

    Reference: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothed_cross_entropy: smoothing must be in [0, 1), got {smoothing}")

    def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        _check_labels("smoothed_cross_entropy", outputs, targets)
        log_p = jax.nn.log_softmax(_wide(outputs))
        return -(1 - smoothing) * _of_label(log_p, targets) - smoothing * log_p.mean(-1)

    return loss


def focal_loss(gamma: float = 2.0) -> Loss:
    """The softmax cross-entropy times (1 - p_y)^gamma, which turns from what is easy.

    Args:
      gamma: at least 0; 0 is the plain cross-entropy.

    Returns:
      A loss of logits (batch, ..., classes) and integer labels (batch, ...).

    Raises:
      ValueError: for a negative gamma.
      TypeError, ValueError: in the loss, for targets that are no labels for these outputs.

    Example:
      >>> z = jnp.log(jnp.array([[0.9, 0.1], [0.5, 0.5]]))  # (1 - 0.9)² · 0.105, 0.5² · 0.693
      >>> focal_loss(2.0)(z, jnp.array([0, 0])).tolist()
      [0.00105..., 0.173...]

    Reference: Lin et al. 2017, "Focal Loss for Dense Object Detection".
    """
    if gamma < 0:
        raise ValueError(f"focal_loss: gamma must be at least 0, got {gamma}")

    def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        _check_labels("focal_loss", outputs, targets)
        if outputs.shape[-1] < 2:
            raise ValueError("focal_loss: needs two classes or more; for one logit see sigmoid_focal_loss")
        z = _wide(outputs)
        total = jax.nn.logsumexp(z, axis=-1)
        others = jnp.where(targets[..., None] == jnp.arange(z.shape[-1]), -jnp.inf, z)
        # log(1 - p) from the other classes: 1 - p itself would round to 0, where x^gamma may have
        # an infinite slope.
        log_rest = jax.nn.logsumexp(others, axis=-1) - total
        return jnp.exp(gamma * log_rest) * (total - _of_label(z, targets))

    return loss


def sigmoid_focal_loss(gamma: float = 2.0, alpha: float | None = None) -> Loss:
    """The sigmoid cross-entropy times (1 - p_t)^gamma, p_t the probability of what is true.

    Args:
      gamma: at least 0; 0 is the plain cross-entropy.
      alpha: weight of the positive entries in (0, 1), the negative get 1 - alpha; None is no
        weights.

    Returns:
      A loss of logits (batch, ...) and targets in [0, 1] of the same shape, entry by entry.

    Raises:
      ValueError: for a negative gamma, and where the shapes differ.

    Example:
      >>> sigmoid_focal_loss(2.0)(jnp.array([0.0, 2.0]), jnp.array([1, 1])).tolist()
      [0.173..., 0.0018...]

    Reference: Lin et al. 2017, "Focal Loss for Dense Object Detection".
    """
    if gamma < 0:
        raise ValueError(f"sigmoid_focal_loss: gamma must be at least 0, got {gamma}")

    def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        _check_same("sigmoid_focal_loss", outputs, targets)
        return optax.sigmoid_focal_loss(_wide(outputs), targets, alpha=alpha, gamma=gamma)

    return loss


def hinge(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """max(0, 1 - t z) with t = +1 or -1, entry by entry.

    Args:
      outputs: (batch, ...), scores.
      targets: of the same shape; what is above 0 is the class +1, all else (0, -1, False) is -1.

    Returns:
      (batch, ...).

    Raises:
      ValueError: where the shapes differ.

    Example:
      >>> hinge(jnp.array([0.5, 3.0, 0.5]), jnp.array([1, 1, -1])).tolist()
      [0.5, 0.0, 1.5]
    """
    _check_same("hinge", outputs, targets)
    z = _wide(outputs)
    return jnp.maximum(0, 1 - _signs(targets, z.dtype) * z)


def multiclass_hinge(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """max(0, 1 + the largest other score - the label's score).

    This is Crammer and Singer's, as in optax and scikit-learn; PyTorch's MultiMarginLoss sums over
    the other classes.

    Args:
      outputs: (batch, ..., classes), scores.
      targets: (batch, ...), integer labels in [0, classes).

    Returns:
      (batch, ...).

    Raises:
      TypeError, ValueError: for targets that are no such labels.

    Example:
      >>> z = jnp.array([[2.0, 1.5, 0.0], [2.0, 1.5, 0.0]])
      >>> multiclass_hinge(z, jnp.array([0, 1])).tolist()
      [0.5, 1.5]

    Reference: Crammer and Singer 2001, "On the Algorithmic Implementation of Multiclass
    Kernel-based Vector Machines".
    """
    _check_labels("multiclass_hinge", outputs, targets)
    return optax.losses.multiclass_hinge_loss(_wide(outputs), targets)


def perceptron(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """-t z where the unit is wrong, else 0: gradient descent on it is the perceptron's rule.

    The unit says +1 where z > 0, else -1. At z = 0 the gradient is that of the rule: -1 where the
    target is +1 (a mistake, as all are at the start with weights 0), and 0 where it is -1. (optax's
    `perceptron_loss` gives half at 0.)

    Args:
      outputs: (batch, ...), scores before the threshold.
      targets: of the same shape; what is above 0 is the class +1, all else (0, -1, False) is -1.

    Returns:
      (batch, ...).

    Raises:
      ValueError: where the shapes differ.

    Example:
      >>> perceptron(jnp.array([0.5, -3.0, 0.5]), jnp.array([1, 1, -1])).tolist()
      [0.0, 3.0, 0.5]

    Reference: Rosenblatt 1958, "The Perceptron".
    """
    _check_same("perceptron", outputs, targets)
    z = _wide(outputs)
    wrong = (z > 0) != (targets > 0)
    return jnp.where(wrong, -_signs(targets, z.dtype) * z, 0)


def multiclass_perceptron(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The largest score less the label's: gradient descent on it is the multiclass perceptron.

    Among equal scores the first counts, so the gradient touches two classes or none. (optax's
    `multiclass_perceptron_loss` spreads it over all that are equal.)

    Args:
      outputs: (batch, ..., classes), scores.
      targets: (batch, ...), integer labels in [0, classes).

    Returns:
      (batch, ...).

    Raises:
      TypeError, ValueError: for targets that are no such labels.

    Example:
      >>> multiclass_perceptron(jnp.array([[2.0, 1.5, 0.0]]), jnp.array([1])).tolist()
      [0.5]

    Reference: Collins 2002, "Discriminative Training Methods for Hidden Markov Models".
    """
    _check_labels("multiclass_perceptron", outputs, targets)
    z = _wide(outputs)
    return _of_label(z, z.argmax(-1)) - _of_label(z, targets)


def dice(smooth: float = 1.0) -> Loss:
    """1 - 2|A∩B| / (|A| + |B|), soft, of each class in each image, averaged over the classes.

    A class that is not in the mask costs n / (n + smooth) for n pixels predicted; nothing where
    none is, and nothing for an image without a labelled pixel.

    Args:
      smooth: above 0; added to both sides of the fraction.

    Returns:
      A loss of logits (batch, ..., classes) and integer labels (batch, ...), which gives (batch,).
      A pixel whose label lies outside [0, classes) is left out.

    Raises:
      ValueError: for smooth not above 0.
      TypeError, ValueError: in the loss, for targets that are no labels for these outputs.

    Example:
      >>> sure = 50.0 * jnp.array([[[1, 0], [1, 0], [0, 1]]])  # an image of 3 pixels, 2 classes
      >>> dice(1.0)(sure, jnp.array([[0, 1, 1]])).tolist()  # 1 - (2 · 1 + 1) / (3 + 1), twice
      [0.25]

    Reference: Milletari, Navab and Ahmadi 2016, "V-Net".
    """
    if smooth <= 0:
        raise ValueError(f"dice: smooth must be above 0, got {smooth}")

    def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        _check_labels("dice", outputs, targets)
        z = _wide(outputs)
        true = targets[..., None] == jnp.arange(z.shape[-1])  # (batch, ..., classes)
        labelled = true.any(-1, keepdims=True)
        p = jax.nn.softmax(z) * labelled
        each = _dice(p, true, tuple(range(1, z.ndim - 1)), smooth)  # (batch, classes)
        return each.mean(-1)

    return loss


def binary_dice(smooth: float = 1.0) -> Loss:
    """1 - 2|A∩B| / (|A| + |B|), soft, of one mask in each image.

    An empty mask costs n / (n + smooth) for n pixels predicted, so nothing where none is.

    Args:
      smooth: above 0; added to both sides of the fraction.

    Returns:
      A loss of logits (batch, ...) and targets 0 or 1 of the same shape, which gives (batch,).

    Raises:
      ValueError: for smooth not above 0, and where the shapes differ.

    Example:
      >>> sure = 50.0 * jnp.array([[1, 1, -1], [-1, -1, -1]])
      >>> binary_dice(1.0)(sure, jnp.array([[1, 0, 0], [0, 0, 0]])).tolist()
      [0.25, 0.0]

    Reference: Milletari, Navab and Ahmadi 2016, "V-Net".
    """
    if smooth <= 0:
        raise ValueError(f"binary_dice: smooth must be above 0, got {smooth}")

    def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        _check_same("binary_dice", outputs, targets)
        p = jax.nn.sigmoid(_wide(outputs))
        return _dice(p, targets, tuple(range(1, p.ndim)), smooth)

    return loss


def kl_sparsity(rho: float) -> Callable[..., jax.Array]:
    """Σ_j KL(ρ ‖ ρ̂_j), ρ̂_j the mean activation of unit j over the batch: 0 at ρ̂ = ρ.

    It is no loss of single examples but a penalty on a layer's activations, added to the loss with
    a weight. At ρ̂ = 0 and 1, where KL is infinite, it is finite and its gradient points back.

    Args:
      rho: wanted mean activation, in (0, 1).

    Returns:
      A function of activations (batch, ..., units) in [0, 1], such as those of a sigmoid, and
      optionally a mask (batch, ...) of those that count; it gives a scalar.

    Raises:
      ValueError: for rho outside (0, 1), and for a mask of another shape.

    Example:
      >>> activations = jnp.array([[0.1, 0.5], [0.3, 0.7]])  # means 0.2 and 0.6
      >>> float(kl_sparsity(0.2)(activations))  # 0 + 0.2 log(0.2/0.6) + 0.8 log(0.8/0.4)
      0.334...

    Reference: Lee, Ekanadham and Ng 2008, "Sparse deep belief net model for visual area V2"; the
    KL form is that of Ng 2011, "Sparse autoencoder" (lecture notes).
    """
    if not 0 < rho < 1:
        raise ValueError(f"kl_sparsity: rho must be in (0, 1), got {rho}")

    def penalty(activations: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        a = _wide(activations)
        axes = tuple(range(a.ndim - 1))
        if mask is None:
            mean = a.mean(axes)  # (units,)
        else:
            if mask.shape != a.shape[:-1]:
                raise ValueError(
                    f"kl_sparsity: activations {a.shape} need a mask {a.shape[:-1]}, "
                    f"got {mask.shape}"
                )
            mean = masked_mean(a, jnp.broadcast_to(mask[..., None], a.shape), axes)
        r = jnp.asarray(rho, a.dtype)
        kl = r * (jnp.log(r) - _log(mean)) + (1 - r) * (jnp.log(1 - r) - _log(1 - mean))
        return kl.sum()

    return penalty


def masked(loss: Loss = optax.softmax_cross_entropy_with_integer_labels) -> Loss:
    """The loss, averaged over the valid positions of each sequence; 0 where none is valid.

    Each sequence weighs the same; to weigh each token the same, write an objective with
    `masked_mean`. What outputs and targets hold at masked positions, NaN included, changes neither
    value nor gradient.

    Args:
      loss: gives one value a position: outputs (batch, steps, ...) to (batch, steps).

    Returns:
      A loss of outputs and targets = (labels, mask), mask (batch, steps) true where valid. From
      lengths: `mask = jnp.arange(steps) < lengths[:, None]`. It gives (batch,).

    Raises:
      ValueError: where the loss does not give one value for each entry of the mask.

    Example:
      >>> loss = masked(optax.squared_error)
      >>> y, mask = jnp.zeros((2, 3)), jnp.array([[True, True, False], [False, False, False]])
      >>> loss(jnp.array([[1.0, 2.0, jnp.nan], [5.0, 5.0, 5.0]]), (y, mask)).tolist()
      [2.5, 0.0]
    """

    def masked_loss(outputs: jax.Array, targets: Any) -> jax.Array:
        labels, mask = targets
        # Before the loss as well as after it: 0 times a NaN slope would still be NaN.
        values = loss(_keep(outputs, mask), _keep(labels, mask))
        if values.shape != mask.shape:
            raise ValueError(
                f"masked: the loss gives {values.shape} and the mask is {mask.shape}; needs "
                "one value for each entry of the mask, which is (batch, steps)"
            )
        return masked_mean(values, mask, tuple(range(1, values.ndim)))

    return masked_loss


def masked_mean(
    values: jax.Array, mask: jax.Array, axis: int | tuple[int, ...] | None = None
) -> jax.Array:
    """The mean of the values where the mask is true; 0, not NaN, where it is true nowhere.

    Args:
      values: of any shape.
      mask: of the same shape, booleans or 0 and 1.
      axis: axis or axes of the mean; None is all.

    Raises:
      ValueError: where the shapes differ.

    Example:
      >>> float(masked_mean(jnp.array([1.0, 2.0, jnp.nan]), jnp.array([True, True, False])))
      1.5
    """
    _check_same("masked_mean", values, mask)
    mask = mask.astype(bool)
    return jnp.where(mask, values, 0).sum(axis) / jnp.maximum(mask.sum(axis), 1)


def ctc(blank: int = 0) -> Loss:
    """Connectionist temporal classification: -log p(labels), summed over all alignments.

    Labels that fit into no alignment (more of them, with a blank between equal neighbours, than
    there are steps) would cost infinity; here they cost about 100,000: leave them out of the data.

    Args:
      blank: the class that means "no label here".

    Returns:
      A loss of outputs = (logits, lengths) and targets = (labels, label_lengths), with logits
      (batch, steps, classes), lengths (batch,), labels (batch, n) padded on the right with
      anything, label_lengths (batch,). Outputs that are logits alone have all steps valid. It
      gives (batch,).

    Raises:
      ValueError: where the shapes do not belong together.

    Example:
      Two steps, three classes of equal probability: the label 1 comes from 11, 1-, -1.

      >>> loss = ctc()(jnp.zeros((1, 2, 3)), (jnp.array([[1, 0]]), jnp.array([1])))
      >>> jnp.exp(-loss).tolist()
      [0.333...]

    Reference: Graves et al. 2006, "Connectionist Temporal Classification".
    """

    def loss(outputs: Any, targets: Any) -> jax.Array:
        logits, lengths = outputs if isinstance(outputs, tuple | list) else (outputs, None)
        labels, label_lengths = targets
        batch, steps = logits.shape[:2]
        if lengths is None:
            lengths = jnp.full(batch, steps)
        shapes = (logits.ndim, labels.shape[:-1], lengths.shape, label_lengths.shape)
        if shapes != (3, (batch,), (batch,), (batch,)):
            raise ValueError(
                "ctc: needs logits (batch, steps, classes), lengths (batch,), labels (batch, n), "
                f"label_lengths (batch,), got {logits.shape}, {lengths.shape}, {labels.shape}, "
                f"{label_lengths.shape}"
            )
        z = _wide(logits)
        padded = jnp.arange(steps) >= lengths[:, None]  # (batch, steps)
        past = jnp.arange(labels.shape[1]) >= label_lengths[:, None]  # (batch, n)
        return optax.ctc_loss(
            z,
            padded.astype(z.dtype),
            jnp.where(past, 0, labels),
            past.astype(z.dtype),
            blank_id=blank,
        )

    return loss


def ignore_label(loss: Loss, label: int, *, weights: Any = None) -> Loss:
    """The mean of a loss over the places of each example that have a label.

    For images in which some pixels are of no class, and as well for sentences filled up with a
    padding token, and for a metric in place of the loss, such as `jaxnet.metrics.accuracy`. Each
    example counts alike, however few of its places have a label; one without any gives 0.

    Args:
      loss: of outputs (batch, ..., classes) and integer labels (batch, ...), a value each place,
        such as `optax.softmax_cross_entropy_with_integer_labels`.
      label: the label of places that do not count.
      weights: (classes,), how much a place counts by its class, for classes that are rare; the mean
        is weighted, so only their ratios matter.

    Returns:
      A loss of the same arguments, which gives (batch,).

    Raises:
      TypeError, ValueError: in the loss, for targets that are no labels for these outputs, and
        where `loss` does not give one value for each.

    Example:
      >>> loss = ignore_label(optax.softmax_cross_entropy_with_integer_labels, label=11)
      >>> z = jnp.log(jnp.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]))
      >>> masks = jnp.array([[0, 11, 1], [11, 11, 11]])
      >>> loss(jnp.stack([z, z]), masks).tolist()  # -(log 0.9 + log 0.8) / 2
      [0.164..., 0.0]
    """
    weights = None if weights is None else jnp.asarray(weights)

    def of_labelled(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        _check_labels("ignore_label", outputs, targets)
        counted = targets != label
        targets = jnp.where(counted, targets, 0)
        values = loss(outputs, targets)
        if values.shape != targets.shape:
            raise ValueError(
                f"ignore_label: the loss must give a value for each of the labels {targets.shape}, "
                f"got {values.shape}"
            )
        weight = jnp.where(counted, 1.0 if weights is None else weights[targets], 0)
        axes = tuple(range(1, targets.ndim))
        total = weight.sum(axes)
        sums = jnp.where(counted, values * weight, 0).sum(axes)
        return sums / jnp.where(total > 0, total, 1)

    return of_labelled


def _dice(p: jax.Array, true: jax.Array, axes: tuple[int, ...], smooth: float) -> jax.Array:
    both = (p * true).sum(axes)
    return 1 - (2 * both + smooth) / (p.sum(axes) + true.sum(axes) + smooth)


def _wide(x: jax.Array) -> jax.Array:
    """As float32 at least: bfloat16 has too few digits for sums and logarithms."""
    return jnp.asarray(x).astype(jnp.promote_types(jnp.result_type(x), jnp.float32))


def _log(p: jax.Array) -> jax.Array:
    """log p, and below the dtype's epsilon its tangent there: finite at 0, with a steep slope."""
    least = jnp.finfo(p.dtype).eps
    return jnp.log(jnp.maximum(p, least)) + jnp.minimum(p - least, 0) / least


def _signs(targets: jax.Array, dtype: Any) -> jax.Array:
    return jnp.where(targets > 0, 1, -1).astype(dtype)


def _of_label(values: jax.Array, labels: jax.Array) -> jax.Array:
    """The entry of the label: (batch, ..., classes) and (batch, ...) -> (batch, ...)."""
    return jnp.take_along_axis(values, labels[..., None], axis=-1)[..., 0]


def _keep(x: jax.Array, mask: jax.Array) -> jax.Array:
    """x with zeros where the mask, of fewer axes, is false."""
    return jnp.where(jnp.expand_dims(mask, tuple(range(mask.ndim, x.ndim))), x, 0)


def _check_same(who: str, outputs: jax.Array, targets: jax.Array) -> None:
    if outputs.shape != targets.shape:
        raise ValueError(
            f"{who}: needs two arrays of one shape, got {outputs.shape} and {targets.shape}; "
            "a last axis of size 1 is dropped by outputs[..., 0]"
        )


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
