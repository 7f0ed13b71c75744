"""Loss on the overlap of segmentation masks."""

import jax
import jax.numpy as jnp

from jaxnet.checks import within
from jaxnet.losses.arrays import Loss, read_labels, wide


def dice(smooth: float = 1.0) -> Loss:
    """Soft Dice loss 1 - 2|A∩B| / (|A| + |B|) per class and image, averaged over the classes.

    Unlike `optax.losses.dice_loss`, it takes integer labels and leaves unlabelled pixels out. For
    a class without labelled pixels in an image, n predicted pixels contribute n / (n + smooth), and
    none contribute 0. An image without labelled pixels has loss 0. For a single binary mask, use
    `optax.losses.binary_dice_loss`.

    Args:
      smooth: above 0; added to numerator and denominator.

    Returns:
      A loss of logits (batch, ..., classes) and integer labels (batch, ...) that returns (batch,).
      Pixels whose label is outside [0, classes) are left out.

    Raises:
      ValueError: if smooth is not above 0.
      TypeError, ValueError: in the loss, if targets are not integer labels for these outputs.

    Example:
      >>> sure = 50.0 * jnp.array([[[1, 0], [1, 0], [0, 1]]])  # an image of 3 pixels, 2 classes
      >>> dice(1.0)(sure, jnp.array([[0, 1, 1]])).tolist()  # 1 - (2 · 1 + 1) / (3 + 1), twice
      [0.25]

    Reference: Milletari, Navab and Ahmadi 2016, "V-Net".
    """
    within("dice", "smooth", smooth, "(0, inf)")

    def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        outputs, targets = read_labels("dice", outputs, targets)
        z = wide(outputs)
        true = targets[..., None] == jnp.arange(z.shape[-1])  # (batch, ..., classes)
        p = jax.nn.softmax(z) * true.any(-1, keepdims=True)
        pixels = tuple(range(1, z.ndim - 1))
        both, total = (p * true).sum(pixels), p.sum(pixels) + true.sum(pixels)  # (batch, classes)
        return (1 - (2 * both + smooth) / (total + smooth)).mean(-1)

    return loss
