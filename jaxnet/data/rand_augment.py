"""RandAugment: a few random operations on each image, all of one strength."""

import math

import jax
import jax.numpy as jnp

from jaxnet.data.augment import images, in_gray, in_other_units
from jaxnet.data.warp import matrices, warp
from jaxnet.services.checks import at_least, within
from jaxnet.services.meshes import on_auto_axes
from jaxnet.typing import Augmentation

CHANGES = (
    "identity", "autocontrast", "equalize", "rotate", "solarize", "color", "posterize", "contrast",
    "brightness", "sharpness", "shear_rows", "shear_columns", "shift_down", "shift_right",
)  # fmt: skip


def rand_augment(changes: int = 2, strength: float = 0.3) -> Augmentation:
    """Return a function that makes a few random changes to each image, in a random order.

    Each change is one of 14, drawn with equal probability: identity, autocontrast, equalize,
    rotate, solarize, color, posterize, contrast, brightness, sharpness, and shears and shifts along
    both axes. Strength 1 rotates by 30 degrees, shears by 0.3 and shifts by 45% of the side, with a
    random sign. It also multiplies color, contrast, brightness and sharpness by 0.1 or 1.9, inverts
    all pixels and keeps 4 bits of each value. The defaults are the same as in torchvision's
    RandAugment. Pixels from outside the image are 0.

    Args:
      changes: Number of changes, at least 1.
      strength: Strength of all changes, in [0, 1].

    Returns:
      A function `(key, images (batch, height, width, 1 or 3)) -> images`, for floats in [0, 1].

    Raises:
      TypeError: If the images are not floats.
      ValueError: If an option is out of range.
      ValueError: If the images have the wrong shape; series and volumes have no such changes.
      ValueError: If the images have values outside [-1, 2]. Inside `jit`, where values are not
        known, the whole output is then NaN.

    Example:
      >>> augment = rand_augment(2, 0.3)
      >>> augment(jax.random.key(0), jnp.full((3, 8, 6, 3), 0.5)).shape
      (3, 8, 6, 3)

    Reference: Cubuk et al. 2019, "RandAugment: Practical Automated Data Augmentation with a Reduced
    Search Space".
    """
    at_least("rand_augment", "changes", changes)
    within("rand_augment", "strength", strength, "[0, 1]")

    @on_auto_axes
    def augment(key, x):
        x = images("rand_augment", key, x, "floats")
        if x.ndim != 4 or x.shape[-1] not in (1, 3):
            raise ValueError(
                "rand_augment: expected pictures (batch, height, width, 1 or 3 channels), got "
                f"{x.shape}. For series and volumes, chain random_flip(axis=...), elastic(...) and "
                "color_jitter(...)"
            )
        foreign = in_other_units("rand_augment", x)
        y = jnp.clip(x, 0, 1)
        for i in range(changes):
            which_key, sign_key = jax.random.split(jax.random.fold_in(key, i))
            which = jax.random.randint(which_key, (len(x),), 0, len(CHANGES))
            signs = jax.random.rademacher(sign_key, (len(x),), y.dtype)
            y = changed(y, which, strength * signs)
        return jnp.where(foreign, jnp.nan, y).astype(x.dtype)

    return augment


def changed(x: jax.Array, which: jax.Array, strength: jax.Array) -> jax.Array:
    """Make one change to each image.

    Args:
      x: Images in [0, 1].
      which: Number of the change in CHANGES, (batch,).
      strength: Strength of each change in [-1, 1], (batch,).
    """
    size = jnp.abs(strength)[:, None, None, None]
    factor = 1 + 0.9 * strength[:, None, None, None]
    moved = _moved(x, which, strength)
    gray = in_gray(x)
    step = 2 ** jnp.round(4 * size)  # how many of the 256 levels become one
    by_change = {
        "identity": x,
        "autocontrast": autocontrast(x),
        "equalize": _equalize(x),
        "solarize": jnp.where(x >= 1 - size, 1 - x, x),
        "color": _blend(gray, x, factor),
        "posterize": jnp.floor(jnp.round(255 * x) / step) * step / 255,
        "contrast": _blend(gray.mean((1, 2, 3), keepdims=True), x, factor),
        "brightness": _blend(jnp.zeros_like(x), x, factor),
        "sharpness": _blend(_smooth(x), x, factor),
    }
    every = jnp.stack([by_change.get(name, moved) for name in CHANGES])
    return every[which, jnp.arange(len(x))]


def _moved(x: jax.Array, which: jax.Array, strength: jax.Array) -> jax.Array:
    """Rotate, shear or shift the images by one linear map and one interpolation."""
    height, width = x.shape[1:3]

    def by(name: str) -> jax.Array:
        return jnp.where(which == CHANGES.index(name), strength, 0)

    angle = math.radians(30) * by("rotate")
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rotation = matrices(cos, -sin, sin, cos)
    one = jnp.ones(len(x))
    down = 0.3 * by("shear_columns")
    right = 0.3 * by("shear_rows")
    shear = matrices(one, down, right, one)
    shift = jnp.stack([height * by("shift_down"), width * by("shift_right")], -1)
    return warp(x, rotation @ shear, -jnp.round(0.45 * shift))


def _blend(still: jax.Array, x: jax.Array, factor: jax.Array) -> jax.Array:
    return jnp.clip(still + factor * (x - still), 0, 1)


def autocontrast(x: jax.Array) -> jax.Array:
    """Stretch the values of each channel to [0, 1], unless they are all equal."""
    low = x.min((1, 2), keepdims=True)
    high = x.max((1, 2), keepdims=True)
    span = high - low
    stretched = (x - low) / jnp.where(span > 0, span, 1)
    return jnp.where(span > 0, stretched, x)


def _smooth(x: jax.Array) -> jax.Array:
    """Return a weighted mean of each pixel and its neighbors; the frame stays."""
    inner = x[:, 1:-1, 1:-1] * 4 / 13
    height, width = x.shape[1:3]
    if height < 3 or width < 3:
        return x
    for i in range(3):
        for j in range(3):
            inner += x[:, i : height - 2 + i, j : width - 2 + j] / 13
    return x.at[:, 1:-1, 1:-1].set(inner)


def _equalize(x: jax.Array) -> jax.Array:
    """Flatten the histogram of 256 levels of each channel."""
    levels = jnp.round(255 * x).astype(jnp.int32)

    def channel(levels: jax.Array) -> jax.Array:  # (height, width)
        counts = jnp.zeros(256, jnp.int32).at[levels].add(1)
        step = (levels.size - counts[levels.max()]) // 255
        table = (jnp.cumsum(counts) - counts + step // 2) // jnp.maximum(step, 1)
        equalized = jnp.clip(table, 0, 255)[levels]
        return jnp.where(step == 0, levels, equalized)

    images = jax.vmap(jax.vmap(channel, 2, 2))
    return images(levels).astype(x.dtype) / 255
