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


def on_masks(augmentation: Augmentation, *, void: int = 0) -> Augmentation:
    """The augmentation of a batch (images, masks) in which the masks move with the images.

    Args:
      augmentation: of a dict with "image" and "mask", such as those of `jaxnet.data.warp`.
      void: the label that pixels get which come in from outside; with the default they would be of
        class 0.

    Returns:
      A function `(key, (images, masks)) -> (images, masks)`, as `jaxnet.fit` takes; masks are
      (batch, height, width) integers.

    Raises:
      TypeError: where a batch is no pair.

    Example:
      >>> small = on_masks(lambda key, x: jn.data.warp(x, jnp.eye(2)[None] / 3), void=11)
      >>> x, mask = small(jax.random.key(0), (jnp.ones((1, 3, 4, 3)), jnp.full((1, 3, 4), 7)))
      >>> mask[0].tolist()
      [[11, 11, 11, 11], [11, 7, 7, 11], [11, 11, 11, 11]]
    """

    def augment(key, batch):
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            raise TypeError(
                f"on_masks: a batch is a pair (images, masks), got {type(batch).__name__}"
            )
        x, mask = batch
        moved = augmentation(key, {"image": x, "mask": mask - void})  # what comes in is 0
        return moved["image"], moved["mask"] + void

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


def chain(*augmentations: Augmentation) -> Augmentation:
    """One augmentation after another, each with a key of its own.

    Example:
      >>> augment = chain(random_shift(1), cutout(2))
      >>> augment(jax.random.key(0), jnp.ones((3, 8, 7, 1))).shape
      (3, 8, 7, 1)
    """

    def augment(key, x):
        for i, augmentation in enumerate(augmentations):
            x = augmentation(jax.random.fold_in(key, i), x)
        return x

    return augment


def color_jitter(
    *, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0
) -> Augmentation:
    """Changes brightness, contrast and saturation of each image, which has values in [0, 1].

    Each strength s draws a factor from [1 - s, 1 + s]: of all values, of their distance from the
    image's mean grey, and of their distance from the pixel's own grey. Values are cut at 0 and 1.

    Args:
      brightness, contrast, saturation: strengths in [0, 1]; saturation needs three channels.

    Example:
      >>> x = jnp.full((2, 4, 5, 3), 0.5)
      >>> color_jitter(brightness=0.2, saturation=0.5)(jax.random.key(0), x).shape
      (2, 4, 5, 3)
    """
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    for name, strength in strengths.items():
        if not 0 <= strength <= 1:
            raise ValueError(f"color_jitter: {name} must be in [0, 1], got {strength}")

    def augment(key, x):
        if x.ndim != 4 or (saturation and x.shape[-1] != 3):
            raise ValueError(
                "color_jitter: needs (batch, height, width, channels), with 3 channels for "
                f"saturation, got {x.shape}"
            )
        n = x.shape[0]
        strong = jnp.array(list(strengths.values()))[:, None]
        factors = 1 + strong * jax.random.uniform(key, (3, n), minval=-1, maxval=1)
        bright, contrast_, saturated = factors[..., None, None, None]
        y = x * bright
        if x.shape[-1] == 3:
            grey = (y * jnp.array([0.299, 0.587, 0.114])).sum(-1, keepdims=True)  # ITU-R BT.601
            y = grey + saturated * (y - grey)
        else:
            grey = y.mean(-1, keepdims=True)
        mean = grey.mean((1, 2), keepdims=True)
        return jnp.clip(mean + contrast_ * (y - mean), 0, 1).astype(x.dtype)

    return augment


def cutout(size: int) -> Augmentation:
    """Covers a square of each image with 0, its middle anywhere in the image.

    Args:
      size: of the square in pixels, at least 1; less of it is in the image near the edges.

    Example:
      >>> y = cutout(3)(jax.random.key(0), jnp.ones((2, 8, 7, 1)))
      >>> bool(((y == 0).sum((1, 2, 3)) <= 9).all())
      True

    Reference: DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks
    with Cutout".
    """
    if size < 1:
        raise ValueError(f"cutout: size must be at least 1, got {size}")

    def augment(key, x):
        if x.ndim != 4:
            raise ValueError(f"cutout: needs (batch, height, width, channels), got {x.shape}")
        n, height, width = x.shape[:3]
        middle = jax.random.randint(key, (n, 2), 0, jnp.array([height, width]))
        first = middle - size // 2

        def inside(pixels, axis):
            offset = jnp.arange(pixels) - first[:, axis, None]
            return (offset >= 0) & (offset < size)  # (batch, pixels)

        covered = inside(height, 0)[:, :, None] & inside(width, 1)[:, None]
        return jnp.where(covered[..., None], 0, x)

    return augment


def mixup(alpha: float, classes: int) -> Augmentation:
    """Blends each example with another of the batch, and their targets alike.

    It takes and gives batches (inputs, targets), not inputs alone: labels become shares of the
    classes, (batch, classes), for a loss such as `optax.softmax_cross_entropy`.

    Args:
      alpha: the share is drawn from Beta(alpha, alpha): 0.2 blends most a little, 1 any as likely.
      classes: number of classes.

    Example:
      >>> x, y = jnp.eye(4), jnp.array([0, 1, 2, 2])
      >>> blended, shares = mixup(0.2, classes=3)(jax.random.key(0), (x, y))
      >>> blended.shape, shares.shape, shares.sum(-1).round(5).tolist()
      ((4, 4), (4, 3), [1.0, 1.0, 1.0, 1.0])

    Reference: Zhang et al. 2017, "mixup: Beyond Empirical Risk Minimization".
    """
    if not alpha > 0 or classes < 1:
        raise ValueError(
            f"mixup: alpha must be positive and classes at least 1, got {alpha}, {classes}"
        )

    def augment(key, batch):
        x, labels = batch
        share_key, order_key = jax.random.split(key)
        share = jax.random.beta(share_key, alpha, alpha, (len(labels),)).astype(x.dtype)
        order = jax.random.permutation(order_key, len(labels))
        targets = jax.nn.one_hot(labels, classes, dtype=x.dtype)

        def blend(a):
            part = share.reshape(-1, *[1] * (a.ndim - 1))
            return part * a + (1 - part) * a[order]

        return blend(x), blend(targets)

    return augment
