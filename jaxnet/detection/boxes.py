"""Boxes: how much two overlap, and which of many that mean the same thing to keep.

A box is [top, left, bottom, right], as shares of the image's height and width or in pixels: any
unit will do, as long as it is one. A box without height or without width is padding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class NMSResult(NamedTuple):
    """What non-maximum suppression keeps, best first, in a fixed number of places.

    Fields:
      indices: (..., most) int32, which of the boxes; 0 in places that are not filled.
      valid: (..., most) bool, which places are filled: the first ones.
    """

    indices: jax.Array
    valid: jax.Array


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of every box of `a` with every box of `b`.

    0 for a pair with padding; the gradient is finite there too.

    Args:
      a: (..., n, 4), top, left, bottom, right.
      b: (..., m, 4), with the same leading axes, or some that broadcast.

    Returns:
      (..., n, m) in [0, 1].

    Example:
      >>> a = jnp.array([[0.0, 0.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0]])
      >>> b = jnp.array([[0.0, 1.0, 2.0, 4.0], [0.0, 0.0, 2.0, 3.0], [7.0, 7.0, 8.0, 9.0]])
      >>> iou(a, b).tolist()
      [[0.5, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    _check_boxes("iou", a)
    _check_boxes("iou", b)
    a, b = a[..., :, None, :], b[..., None, :, :]  # (..., n, 1, 4), (..., 1, m, 4)
    low = jnp.maximum(a[..., :2], b[..., :2])
    high = jnp.minimum(a[..., 2:], b[..., 2:])
    both = _area(low, high)  # (..., n, m)
    either = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - both
    return both / jnp.where(either > 0, either, 1)  # no area at all: 0 / 1


def non_max_suppression(
    boxes: jax.Array,
    scores: jax.Array,
    *,
    iou: float = 0.5,
    score: float = -jnp.inf,
    most: int = 100,
) -> NMSResult:
    """Of boxes that overlap, keeps the one of the best score; all shapes are fixed, for `jit`.

    Greedy: the best box is kept, all that overlap it by more than `iou` are dropped, and so on with
    the best of the rest. Among equal scores the first box counts as the best. The loop ends with
    the last box that is kept, so it costs little where there are few.

    Args:
      boxes: (..., n, 4), top, left, bottom, right.
      scores: (..., n). Boxes that take no part (padding, say) have -inf.
      iou: two boxes that overlap by more are taken for one, in [0, 1].
      score: boxes must score more than this.
      most: how many are kept at most.

    Returns:
      `indices` and `valid`, (..., most) each. `boxes[indices]` are the kept ones where `valid`.

    Raises:
      ValueError: where boxes and scores do not belong together.

    Example:
      >>> boxes = jnp.array([[0, 0, 2, 3], [0, 0, 2, 3.1], [5, 5, 8, 9]])
      >>> kept = jax.jit(non_max_suppression)(boxes, jnp.array([0.8, 0.9, 0.3]))
      >>> kept.indices[kept.valid].tolist(), kept.indices.shape
      ([1, 2], (100,))

      Of each class by itself, with scores (classes, n):

      >>> scores = jnp.array([[0.8, 0.9, 0.3], [0.5, 0.1, 0.2]])
      >>> each = jax.vmap(lambda s: non_max_suppression(boxes, s, score=0.15, most=5))(scores)
      >>> each.indices.shape, each.valid.sum(1).tolist()
      ((2, 5), [2, 2])
    """
    _check_boxes("non_max_suppression", boxes)
    if jnp.shape(scores) != jnp.shape(boxes)[:-1]:
        raise ValueError(
            "non_max_suppression: needs boxes (..., n, 4) and scores (..., n), got "
            f"{jnp.shape(boxes)} and {jnp.shape(scores)}; for scores of several classes see the "
            "example"
        )
    if most < 1:
        raise ValueError(f"non_max_suppression: most must be at least 1, got {most}")
    if boxes.ndim > 2:
        return jax.vmap(
            lambda b, s: non_max_suppression(b, s, iou=iou, score=score, most=most)
        )(boxes, scores)  # fmt: skip
    if boxes.shape[0] == 0:
        return NMSResult(jnp.zeros(most, jnp.int32), jnp.zeros(most, bool))

    def more(carry):
        i, left, _ = carry
        return (i < most) & (left.max() > -jnp.inf)

    def keep(carry):
        i, left, index = carry
        best = left.argmax()
        overlaps = _overlap(boxes[best], boxes) > iou  # (n,)
        left = jnp.where(overlaps.at[best].set(True), -jnp.inf, left)  # itself: it may have no area
        return i + 1, left, index.at[i].set(best.astype(jnp.int32))

    left = jnp.where(scores > score, scores, -jnp.inf)
    count, _, index = jax.lax.while_loop(more, keep, (0, left, jnp.zeros(most, jnp.int32)))
    return NMSResult(index, jnp.arange(most) < count)


def to_corners(boxes: jax.Array) -> jax.Array:
    """Boxes [middle down, middle right, height, width] as [top, left, bottom, right].

    Example:
      >>> to_corners(jnp.array([2.0, 5.0, 4.0, 6.0])).tolist()
      [0.0, 2.0, 4.0, 8.0]
    """
    middle, size = jnp.split(boxes, 2, -1)
    return jnp.concatenate([middle - size / 2, middle + size / 2], -1)


def to_middle(boxes: jax.Array) -> jax.Array:
    """Boxes [top, left, bottom, right] as [middle down, middle right, height, width].

    Example:
      >>> to_middle(jnp.array([0.0, 2.0, 4.0, 8.0])).tolist()
      [2.0, 5.0, 4.0, 6.0]
    """
    low, high = jnp.split(boxes, 2, -1)
    return jnp.concatenate([(low + high) / 2, high - low], -1)


def area(boxes: jax.Array) -> jax.Array:
    """Height times width, (...,) for boxes (..., 4); 0 where one of them is not positive.

    Example:
      >>> area(jnp.array([[0.0, 2.0, 4.0, 8.0], [3.0, 3.0, 3.0, 4.0]])).tolist()
      [24.0, 0.0]
    """
    return _area(boxes[..., :2], boxes[..., 2:])


def _overlap(box: jax.Array, boxes: jax.Array) -> jax.Array:
    return iou(box[None], boxes)[0]


def _area(low: jax.Array, high: jax.Array) -> jax.Array:
    return jnp.maximum(high - low, 0).prod(-1)


def _check_boxes(who: str, boxes: jax.Array) -> None:
    shape = jnp.shape(boxes)
    if len(shape) < 2 or shape[-1] != 4:
        raise ValueError(
            f"{who}: needs boxes (..., n, 4), top, left, bottom and right, got {shape}; "
            "for a single box write box[None]"
        )
