"""Augmentations that move pixels: flips, rotations, skews, scales and crops, with masks and boxes.

Each is a function `(key, x) -> x`, pure and jitted with the training step. x is a batch of images
(batch, height, width, channels), or a dict with "image" and with what moves along: "mask", a label
for each pixel, (batch, height, width), and "boxes", (batch, n, 4): top, left, bottom, right as
shares of height and width, as TensorFlow Datasets has them. Entries of other names stay as they
are. A box without height and width is padding and stays so; one that leaves the image is cut at its
edge, and becomes padding where nothing is left.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.data.augment import Augmentation

Draw = Callable[[jax.Array, int], jax.Array]  # (key, n) -> (n, 2, 2)


def random_flip(*, vertical: bool = False) -> Augmentation:
    """Mirrors every second image, left to right.

    Args:
      vertical: upside down instead.

    Example:
      >>> x = jnp.arange(6.0).reshape(1, 2, 3, 1)
      >>> boxes = jnp.array([[[0, 0, 1, 0.25]]])
      >>> y = random_flip()(jax.random.key(1), {"image": x, "boxes": boxes})
      >>> y["image"].shape, y["boxes"].shape
      ((1, 2, 3, 1), (1, 1, 4))
    """
    axis = 1 if vertical else 2
    low, high = (0, 2) if vertical else (1, 3)

    def augment(key, x):
        x, whole = _entries(x, "random_flip")
        turn = jax.random.bernoulli(key, shape=(x["image"].shape[0],))
        out = dict(x)
        for name in ("image", "mask"):
            if name in x:
                there = turn.reshape(-1, *[1] * (x[name].ndim - 1))
                out[name] = jnp.where(there, jnp.flip(x[name], axis), x[name])
        if "boxes" in x:
            boxes = x["boxes"]
            flipped = (
                boxes.at[..., low].set(1 - boxes[..., high]).at[..., high].set(1 - boxes[..., low])
            )
            flipped = jnp.where(_real(boxes), flipped, boxes)
            out["boxes"] = jnp.where(turn[:, None, None], flipped, boxes)
        return whole(out)

    return augment


def random_rotation(degrees: float) -> Augmentation:
    """Turns each image about its middle by an angle between -degrees and degrees.

    What comes in from outside is 0. Images are interpolated between pixels, masks take the nearest,
    and a box becomes the smallest upright one around the turned one.

    Args:
      degrees: the largest angle, in (0, 180].

    Example:
      >>> x = jnp.ones((3, 8, 6, 1))
      >>> random_rotation(30)(jax.random.key(0), x).shape
      (3, 8, 6, 1)
    """
    if not 0 < degrees <= 180:
        raise ValueError(f"random_rotation: degrees must be in (0, 180], got {degrees}")

    return _linear(_rotations(degrees), "random_rotation")


def random_shear(degrees: float) -> Augmentation:
    """Leans each image to the side, upright lines by an angle between -degrees and degrees.

    Args:
      degrees: the largest angle, in (0, 90).

    Example:
      >>> random_shear(20)(jax.random.key(0), jnp.ones((3, 8, 6, 1))).shape
      (3, 8, 6, 1)
    """
    if not 0 < degrees < 90:
        raise ValueError(f"random_shear: degrees must be in (0, 90), got {degrees}")

    return _linear(_skews(degrees), "random_shear")


def random_scale(low: float, high: float) -> Augmentation:
    """Makes each image larger or smaller about its middle, by a factor between low and high.

    Args:
      low, high: 0 < low <= high; 1 keeps the size. The factor is as likely to lie between 1/2 and 1
        as between 1 and 2.

    Example:
      >>> random_scale(0.8, 1.25)(jax.random.key(0), jnp.ones((3, 8, 6, 1))).shape
      (3, 8, 6, 1)
    """
    if not 0 < low <= high:
        raise ValueError(f"random_scale: needs 0 < low <= high, got {low} and {high}")

    return _linear(_scales(low, high), "random_scale")


def elastic(
    *,
    rotation: float = 0.0,
    skew: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shift: float = 0.0,
    bend: float = 0.0,
    spacing: float = 6.0,
) -> Augmentation:
    """Skews, turns, scales, moves and bends each image, in this order, all in one step.

    A chain of `random_shear`, `random_rotation`, `random_scale` and a shift looks each pixel up once
    for each of them, and each blurs the image a little; here they are one map, and one look-up.

    An image is bent smoothly, as ink is with every hand: a grid of points is laid over it, each is
    moved at random, and what lies between follows by cubic interpolation.

    Args:
      rotation: the largest angle in degrees, in [0, 180].
      skew: the largest angle in degrees, in [0, 90).
      scale: the smallest and the largest factor, as in `random_scale`.
      shift: the largest move along each axis in pixels, at least 0, whole or not.
      bend: standard deviation of the moves of points in pixels, at least 0; for images and masks,
        not for boxes.
      spacing: pixels between those points, at least 1: how wide a bend is.

    Raises:
      ValueError: for numbers out of range, and for boxes that would be bent.

    Example:
      >>> augment = elastic(rotation=10, skew=5, scale=(0.9, 1.1), shift=2, bend=1)
      >>> augment(jax.random.key(0), jnp.ones((3, 8, 6, 1))).shape
      (3, 8, 6, 1)

    Reference: Simard, Steinkraus and Platt 2003, "Best Practices for Convolutional Neural Networks
    Applied to Visual Document Analysis".
    """
    low, high = scale
    if not 0 <= rotation <= 180:
        raise ValueError(f"elastic: rotation must be in [0, 180], got {rotation}")
    if not 0 <= skew < 90:
        raise ValueError(f"elastic: skew must be in [0, 90), got {skew}")
    if not 0 < low <= high:
        raise ValueError(f"elastic: scale needs 0 < low <= high, got {low} and {high}")
    if not shift >= 0 or not bend >= 0:
        raise ValueError(f"elastic: shift and bend must be at least 0, got {shift} and {bend}")
    if not spacing >= 1:
        raise ValueError(f"elastic: spacing must be at least 1, got {spacing}")
    draws = _scales(low, high), _rotations(rotation), _skews(skew)

    def augment(key, x):
        x, whole = _entries(x, "elastic")
        if bend and "boxes" in x:
            raise ValueError("elastic: what is bent has no upright boxes; set bend to 0")
        n, height, width = x["image"].shape[:3]
        shift_key, *keys = jax.random.split(key, 4)
        scaled, turned, leaned = (draw(key, n) for draw, key in zip(draws, keys, strict=True))
        matrix = scaled @ turned @ leaned  # (batch, 2, 2)
        moved = shift * jax.random.uniform(shift_key, (n, 2), minval=-1, maxval=1)
        # What comes to the middle lies as far on the other side as the image moves.
        middle = -jnp.linalg.solve(matrix, moved[..., None])[..., 0]
        bends = 0.0
        if bend:
            points = [max(2, math.ceil(size / spacing) + 1) for size in (height, width)]
            moves = jax.random.normal(jax.random.fold_in(key, 4), (n, *points, 2))
            bends = bend * jax.image.resize(moves, (n, height, width, 2), "cubic")
        return whole(_warp(x, matrix, middle, bends))

    return augment


def random_crop(share: float) -> Augmentation:
    """Cuts out a part of each image, at random, and enlarges it to the whole size.

    Args:
      share: of the height and width, the smallest; in (0, 1).

    Example:
      >>> random_crop(0.7)(jax.random.key(0), jnp.ones((3, 8, 6, 1))).shape
      (3, 8, 6, 1)

    Reference: Szegedy et al. 2014, "Going Deeper with Convolutions".
    """
    if not 0 < share < 1:
        raise ValueError(f"random_crop: share must be in (0, 1), got {share}")

    def augment(key, x):
        x, whole = _entries(x, "random_crop")
        n, height, width = x["image"].shape[:3]
        size_key, place_key = jax.random.split(key)
        size = jax.random.uniform(size_key, (n, 1), minval=share, maxval=1)
        room = jnp.array([height - 1, width - 1]) / 2 * (1 - size)  # of the middle of the part
        middle = room * jax.random.uniform(place_key, (n, 2), minval=-1, maxval=1)
        matrix = jnp.eye(2) / size[..., None]
        return whole(_warp(x, matrix, middle))

    return augment


def warp(x: Any, matrix: jax.Array, middle: jax.Array | None = None) -> Any:
    """Moves each image by a linear map about its middle; what the random ones are made of.

    Args:
      x: images, or a dict; see the module.
      matrix: (batch, 2, 2), where a pixel at (down, right) of the middle goes to.
      middle: (batch, 2), the place in pixels from the middle of the image that comes to the middle
        of the result; the middle itself by default.

    Example:
      >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)
      >>> quarter = jnp.array([[[0.0, 1.0], [-1.0, 0.0]]])
      >>> warp(x, quarter)[0, :, :, 0].tolist()
      [[6.0, 3.0, 0.0], [7.0, 4.0, 1.0], [8.0, 5.0, 2.0]]
    """
    x, whole = _entries(x, "warp")
    middle = jnp.zeros((x["image"].shape[0], 2)) if middle is None else middle
    return whole(_warp(x, jnp.asarray(matrix), jnp.asarray(middle)))


def _rotations(degrees: float) -> Draw:
    def draw(key, n):
        angle = math.radians(degrees) * jax.random.uniform(key, (n,), minval=-1, maxval=1)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return jnp.stack([jnp.stack([cos, sin], -1), jnp.stack([-sin, cos], -1)], -2)

    return draw


def _skews(degrees: float) -> Draw:
    def draw(key, n):
        angle = math.radians(degrees) * jax.random.uniform(key, (n,), minval=-1, maxval=1)
        one, zero = jnp.ones(n), jnp.zeros(n)
        rows = jnp.stack([one, zero], -1), jnp.stack([jnp.tan(angle), one], -1)
        return jnp.stack(rows, -2)

    return draw


def _scales(low: float, high: float) -> Draw:
    def draw(key, n):
        logs = jax.random.uniform(key, (n,), minval=math.log(low), maxval=math.log(high))
        return jnp.exp(logs)[:, None, None] * jnp.eye(2)

    return draw


def _linear(draw: Draw, who: str) -> Augmentation:
    def augment(key, x):
        x, whole = _entries(x, who)
        n = x["image"].shape[0]
        return whole(_warp(x, draw(key, n), jnp.zeros((n, 2))))

    return augment


def _entries(x: Any, who: str) -> tuple[dict[str, Any], Callable]:
    """x as a dict, and what brings a dict back to the form of x."""
    entries = x if isinstance(x, dict) else {"image": x}
    shape = jnp.shape(entries.get("image", 0.0))
    if len(shape) != 4:
        raise ValueError(
            f"{who}: needs images (batch, height, width, channels), or a dict with such under "
            f'"image", got {jax.tree.map(jnp.shape, x)}'
        )
    if "mask" in entries and jnp.shape(entries["mask"]) != shape[:3]:
        raise ValueError(f"{who}: mask must be {shape[:3]}, got {jnp.shape(entries['mask'])}")
    boxes = jnp.shape(entries.get("boxes", jnp.zeros((shape[0], 0, 4))))
    if len(boxes) != 3 or boxes[0] != shape[0] or boxes[2] != 4:
        raise ValueError(f"{who}: boxes must be (batch, n, 4), got {boxes}")
    return entries, (lambda out: out if isinstance(x, dict) else out["image"])


def _warp(
    x: dict[str, Any], matrix: jax.Array, middle: jax.Array, bends: Any = 0.0
) -> dict[str, Any]:
    height, width = x["image"].shape[1:3]
    size = jnp.array([height, width])
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1)
    here = grid - (size - 1) / 2  # (height, width, 2), from the middle
    back = jnp.linalg.inv(matrix)  # where a pixel of the result comes from
    there = jnp.einsum("nij,hwj->nhwi", back, here) + middle[:, None, None] + (size - 1) / 2
    there = there + bends  # (batch, height, width, 2)
    out = dict(x)
    out["image"] = jax.vmap(_between)(x["image"], there)
    if "mask" in x:
        out["mask"] = jax.vmap(_nearest)(x["mask"], there)
    if "boxes" in x:
        out["boxes"] = _moved_boxes(x["boxes"], matrix, middle, size)
    return out


def _pick(image: jax.Array, place: jax.Array) -> jax.Array:
    """Entries at whole places (height, width, 2), 0 outside."""
    height, width = image.shape[:2]
    inside = ((place >= 0) & (place < jnp.array([height, width]))).all(-1)
    row, column = jnp.clip(place[..., 0], 0, height - 1), jnp.clip(place[..., 1], 0, width - 1)
    found = image[row, column]
    return jnp.where(inside.reshape(inside.shape + (1,) * (found.ndim - 2)), found, 0)


def _between(image: jax.Array, place: jax.Array) -> jax.Array:
    """Bilinear interpolation at (height, width, 2), in the dtype of the image."""
    place = jnp.round(place * 1024) / 1024  # rounding must not push the last pixel outside
    low = jnp.floor(place).astype(jnp.int32)
    part = place - low
    total = 0.0
    for down in (0, 1):
        for right in (0, 1):
            share = jnp.abs(jnp.array([1 - down, 1 - right]) - part).prod(-1)
            total = total + share[..., None] * _pick(image, low + jnp.array([down, right]))
    if jnp.issubdtype(image.dtype, jnp.integer):
        total = jnp.round(total)
    return jnp.asarray(total).astype(image.dtype)


def _nearest(mask: jax.Array, place: jax.Array) -> jax.Array:
    return _pick(mask, jnp.round(place).astype(jnp.int32))


def _moved_boxes(boxes, matrix, middle, size):
    """The smallest upright boxes around the corners, cut at the edge of the image."""
    top, left, bottom, right = jnp.moveaxis(boxes, -1, 0)
    corners = [jnp.stack([y, x], -1) for y in (top, bottom) for x in (left, right)]
    corners = (jnp.stack(corners, -2) - 0.5) * size  # (batch, n, 4, 2) pixels from the middle
    moved = jnp.einsum("nij,nkcj->nkci", matrix, corners - middle[:, None, None])
    moved = jnp.clip(moved / size + 0.5, 0, 1)
    new = jnp.concatenate([moved.min(-2), moved.max(-2)], -1)  # (batch, n, 4)
    return jnp.where(_real(boxes) & _real(new), new, 0).astype(boxes.dtype)


def _real(boxes: jax.Array) -> jax.Array:
    """(..., 1), whether a box has height and width."""
    return ((boxes[..., 2:] - boxes[..., :2]) > 0).all(-1, keepdims=True)
