"""Loss for label sequences without a known alignment."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet.losses.arrays import split_pair
from jaxnet.losses.form import comparison
from jaxnet.ops.precision import at_least_float32
from jaxnet.services.checks import WrongValues, as_array, at_least, check_range, concrete_values
from jaxnet.services.checks.steps import read_steps
from jaxnet.services.meshes import on_auto_axes


@comparison(blank=partial(at_least, minimum=0))
@on_auto_axes
def ctc(outputs: Any, targets: Any, *, blank: int = 0) -> jax.Array:
    """Return the connectionist temporal classification loss, -log p(labels) over all alignments.

    In contrast to `optax.ctc_loss`, it takes lengths instead of padding masks, and ignores entries
    beyond a length. Classes whose logit is -inf are left out, as in `cross_entropy`.

    If an example has too few steps for its labels and a blank between equal neighbors, it has no
    alignment. Its loss is infinite in theory and about 100,000 here, so remove such examples from
    the data. Labels that are the blank or not a class raise an error, and so do lengths beyond the
    arrays. Inside `jit`, where they cannot raise, the loss is NaN.

    Args:
      outputs: Pair (logits, lengths) of logits (batch, steps, classes) and lengths (batch,), or the
        logits alone if all steps are valid.
      targets: Pair (labels, label_lengths) of labels (batch, n) padded on the right and
        label_lengths (batch,).
      blank: Class that means "no label at this step", 0 by default.

    Returns:
      (batch,).

    Example:
      Two steps, three classes of equal probability: label 1 has the alignments 11, 1- and -1.

      >>> loss = ctc(jnp.zeros((1, 2, 3)), (jnp.array([[1, 0]]), jnp.array([1])))
      >>> jnp.exp(-loss).tolist()
      [0.333...]

    Reference: Graves et al. 2006, "Connectionist Temporal Classification".
    """
    logits: Any = outputs
    lengths: Any = ...
    if isinstance(outputs, tuple | list):
        logits, lengths = split_pair("ctc", "outputs must be logits or (logits, lengths)", outputs)
    labels, label_lengths = split_pair("ctc", "targets must be (labels, label_lengths)", targets)
    sizes: dict[str, Any] = {}
    z, size = read_steps("ctc", logits, lengths, blank, sizes)
    y = as_array("ctc", "labels", labels, "(batch, n)", "integers", sizes)
    n = as_array("ctc", "label_lengths", label_lengths, "(batch,)", "integers", sizes)
    _, steps, classes = z.shape
    _check_concrete(labels, label_lengths, classes, blank)
    padding = jnp.arange(steps)[None] >= size[:, None]  # (batch, steps)
    label_padding = jnp.arange(y.shape[1])[None] >= n[:, None]  # (batch, n)
    z = jnp.where(padding[..., None], 0, at_least_float32(z))
    # A class that is left out costs as much as optax's zero, since 0 times infinity would be NaN.
    least = jax.lax.stop_gradient(z.max(-1, keepdims=True)) - 1e5
    values = optax.ctc_loss(
        jnp.where(z == -jnp.inf, least, z),
        padding.astype(z.dtype),
        jnp.where(label_padding, 0, y),
        label_padding.astype(z.dtype),
        blank_id=blank,
    )
    are_labels = (y >= 0) & (y < classes) & (y != blank)
    labels_fit = (are_labels | label_padding).all(1)
    steps_fit = (size >= 0) & (size <= steps)
    counts_fit = (n >= 0) & (n <= y.shape[1])
    return jnp.where(labels_fit & steps_fit & counts_fit, values, jnp.nan)


def _check_concrete(labels: Any, label_lengths: Any, classes: int, blank: int) -> None:
    """Raise if known values do not have a probability."""
    check_range(label_lengths, labels.shape[1] + 1, "ctc: label_lengths")
    counts = concrete_values(label_lengths)
    values = concrete_values(labels)
    if counts is None or values is None:
        return
    is_label = np.arange(values.shape[1]) < counts[:, None]
    real = values[is_label]
    check_range(real, classes, "ctc: labels")
    if (real == blank).any():
        raise WrongValues(f"ctc: labels must differ from blank, {blank}")
