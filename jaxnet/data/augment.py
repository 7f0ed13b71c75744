"""Augmentation: each time an example is seen, it is seen a little differently.

An augmentation is a function `(key, x) -> x` of a batch of inputs, which keeps its shape. It runs
inside the jitted program of `fit`, which hands it whole batches: where a batch is a pair (inputs,
targets), write `augment=on_inputs(random_shift(2))`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Augmentation = Callable[[jax.Array, Any], Any]


def on_inputs(augmentation: Augmentation) -> Augmentation:
    """The augmentation of a batch (inputs, targets) that leaves the targets as they are.

    Not for targets that have to move with the inputs, such as masks and boxes.

    Args:
      augmentation: `(key, inputs) -> inputs`.

    Returns:
      A function `(key, (inputs, targets)) -> (inputs, targets)`, as `jaxnet.fit` takes.

    Raises:
      TypeError: where a batch is no pair.

    Example:
      >>> augment = on_inputs(random_shift(2))
      >>> images, labels = augment(jax.random.key(0), (jnp.zeros((3, 8, 7, 1)), jnp.arange(3)))
      >>> images.shape, labels.tolist()
      ((3, 8, 7, 1), [0, 1, 2])
    """

    def augment(key, batch):
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            raise TypeError(
                f"on_inputs: a batch is a pair (inputs, targets), got {type(batch).__name__}; "
                "for inputs alone hand over the augmentation itself"
            )
        x, targets = batch
        return augmentation(key, x), targets

    return augment


def random_shift(pixels: int) -> Augmentation:
    """Moves each image by up to so many pixels along each axis; what comes in is 0.

    Args:
      pixels: the largest move up, down, left or right, at least 1; every move is as likely.

    Returns:
      A function (key, images (batch, height, width, channels)) -> images.

    Raises:
      ValueError: for a move below one pixel, or an input without these four axes.

    Example:
      >>> image = jnp.zeros((1, 5, 7, 1)).at[0, 2, 3, 0].set(1.0)
      >>> moved = random_shift(2)(jax.random.key(0), image)
      >>> moved.shape, float(moved.sum())
      ((1, 5, 7, 1), 1.0)
    """
    if pixels < 1:
        raise ValueError(f"random_shift: pixels must be at least 1, got {pixels}")

    def augment(key, x):
        if x.ndim != 4:
            raise ValueError(f"random_shift: needs (batch, height, width, channels), got {x.shape}")
        room = jnp.pad(x, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
        corners = jax.random.randint(key, (x.shape[0], 2), 0, 2 * pixels + 1)

        def cut(image, corner):
            return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), x.shape[1:])

        return jax.vmap(cut)(room, corners)

    return augment
