"""Loss for label sequences without a known alignment."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnet.losses.arrays import Loss, wide


def ctc(blank: int = 0) -> Loss:
    """Connectionist temporal classification: -log p(labels), summed over all alignments.

    Takes lengths where `optax.ctc_loss` takes padding masks; entries beyond a length are ignored.
    Labels without an alignment (fewer steps than labels plus a blank between equal neighbours) have
    infinite loss in theory and about 100,000 here: remove such examples from the data.

    Args:
      blank: the class that means "no label here".

    Returns:
      A loss of outputs = (logits, lengths) and targets = (labels, label_lengths) that returns
      (batch,): logits (batch, steps, classes), lengths (batch,), labels (batch, n) padded on the
      right, label_lengths (batch,). Outputs may be the logits alone if all steps are valid.

    Raises:
      ValueError: in the loss, if the shapes do not match.

    Example:
      Two steps, three classes of equal probability: label 1 has the alignments 11, 1- and -1.

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
                "ctc: expected logits (batch, steps, classes), lengths (batch,), labels (batch, n) "
                f"and label_lengths (batch,), got {logits.shape}, {lengths.shape}, {labels.shape} "
                f"and {label_lengths.shape}"
            )
        z = wide(logits)
        padding = jnp.arange(steps) >= lengths[:, None]  # (batch, steps)
        label_padding = jnp.arange(labels.shape[1]) >= label_lengths[:, None]  # (batch, n)
        return optax.ctc_loss(
            z,
            padding.astype(z.dtype),
            jnp.where(label_padding, 0, labels),
            label_padding.astype(z.dtype),
            blank_id=blank,
        )

    return loss
