"""Loss on the overlap of segmentation masks."""

import jax
import jax.numpy as jnp

from jaxnet.losses.arrays import are_probabilities, read_targets
from jaxnet.losses.form import comparison
from jaxnet.ops.precision import at_least_float32


@comparison(read_targets, smooth="(0, inf)")
def dice(outputs: jax.Array, targets: jax.Array, *, smooth: float = 1.0) -> jax.Array:
    """Return the soft Dice loss 1 - 2|A∩B| / (|A| + |B|) per image, averaged over the classes.

    Unlike `optax.losses.dice_loss`, it takes integer labels and leaves unlabeled pixels out. For
    a class without labeled pixels in an image, n predicted pixels contribute n / (n + smooth), and
    none contribute 0. An image without labeled pixels has loss 0. For a single binary mask, use
    `optax.losses.binary_dice_loss`.

    Args:
      outputs: Logits (batch, ..., classes).
      targets: Integer labels (batch, ...), or probabilities in the shape of outputs. Pixels whose
        label is outside [0, classes) are left out.
      smooth: Number above 0 that is added to numerator and denominator.

    Returns:
      (batch,).

    Example:
      >>> sure = 50.0 * jnp.array([[[1, 0], [1, 0], [0, 1]]])  # an image of 3 pixels, 2 classes
      >>> dice(sure, jnp.array([[0, 1, 1]])).tolist()  # 1 - (2 · 1 + 1) / (3 + 1), twice
      [0.25]

    Reference: Milletari, Navab and Ahmadi 2016, "V-Net".
    """
    z = at_least_float32(outputs)
    if are_probabilities(outputs, targets):
        true = targets.astype(z.dtype)
        labeled = True
    else:
        ones = (1,) * (z.ndim - 1)
        classes = jnp.arange(z.shape[-1]).reshape(*ones, -1)
        true = targets[..., None] == classes  # (batch, ..., classes)
        labeled = true.any(-1, keepdims=True)
    p = jax.nn.softmax(jnp.where(labeled, z, 0)) * labeled
    pixels = tuple(range(1, z.ndim - 1))
    both = (p * true).sum(pixels)  # (batch, classes)
    total = p.sum(pixels) + true.sum(pixels)
    overlap = (2 * both + smooth) / (total + smooth)
    return (1 - overlap).mean(-1)
