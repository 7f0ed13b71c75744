"""Boxes: intersection over union, non-maximum suppression, conversions.

A box is [top, left, bottom, right], in pixels or in fractions of the image's height and width. A
box of zero height or width is padding. Boxes may be integers; everything is computed in float32 at
least.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.ops import at_least_float32
from jaxnet.services.checks import as_array, at_least, concrete_values, within
from jaxnet.services.meshes import on_auto_axes


class NMSResult(NamedTuple):
    """The kept boxes of `non_max_suppression`, best first, padded to a fixed number.

    Fields:
      indices: Indices of the kept boxes, (..., max_outputs) int32; 0 for padding.
      valid: Booleans (..., max_outputs), true for kept boxes, which come first, and false for
        padding.
    """

    indices: jax.Array
    valid: jax.Array


@on_auto_axes
def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the intersection over union of every box of `a` with every box of `b`.

    It is 0 for a pair with padding, and its gradient is finite there too.

    Args:
      a: Boxes (..., n, 4), top, left, bottom, right.
      b: Boxes (..., m, 4), with leading axes that broadcast with the leading axes of `a`.

    Returns:
      (..., n, m) in [0, 1].

    Raises:
      TypeError: If `a` or `b` is not an array of numbers.
      ValueError: If `a` or `b` does not have the shape of boxes.
      ValueError: If their leading axes do not broadcast.

    Example:
      >>> a = jnp.array([[0.0, 0.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0]])
      >>> b = jnp.array([[0.0, 1.0, 2.0, 4.0], [0.0, 0.0, 2.0, 3.0], [7.0, 7.0, 8.0, 9.0]])
      >>> iou(a, b).tolist()
      [[0.5, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    a = _boxes("iou", "a", a, "(..., n, 4)")
    b = _boxes("iou", "b", b, "(..., m, 4)")
    try:
        np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ValueError(
            f"iou: the leading axes of a and b must broadcast, got {a.shape} and {b.shape}"
        ) from None
    return _iou(a, b)


@jax.jit  # one program: outside of jit, each operation would be compiled separately
def _iou(a: jax.Array, b: jax.Array) -> jax.Array:
    a_low, a_high = jnp.split(a[..., :, None, :], 2, -1)  # (..., n, 1, 2) each
    b_low, b_high = jnp.split(b[..., None, :, :], 2, -1)  # (..., 1, m, 2) each
    low = jnp.maximum(a_low, b_low)
    high = jnp.minimum(a_high, b_high)
    both = _area(low, high)  # (..., n, m)
    either = _area(a_low, a_high) + _area(b_low, b_high) - both
    return both / jnp.where(either > 0, either, 1)  # 0 / 1 for two boxes without area


@on_auto_axes
def non_max_suppression(
    boxes: jax.Array,
    scores: jax.Array,
    *,
    iou: float = 0.5,
    score: float = -jnp.inf,
    max_outputs: int = 100,
) -> NMSResult:
    """Keep the highest-scoring box of each group of overlapping boxes, with fixed shapes.

    The search is greedy: it keeps the best box, drops all that overlap it by more than `iou`, and
    repeats with the rest. Among equal scores, the first box is the best. The loop stops after the
    last kept box, so its cost grows with their number.

    Args:
      boxes: Boxes (..., n, 4), top, left, bottom, right.
      scores: Scores (..., n); -inf or NaN leaves a box out, for instance padding.
      iou: Overlap above which the box of lower score is dropped, in [0, 1].
      score: Score that kept boxes must exceed.
      max_outputs: Largest number of kept boxes, at least 1.

    Returns:
      An NMSResult of `indices` and `valid`, (..., max_outputs) each: `boxes[indices[valid]]` are
      the kept boxes.

    Raises:
      TypeError: If `boxes` or `scores` is not an array of numbers.
      ValueError: If the shapes of boxes and scores do not match.
      ValueError: If an option is out of range.
      ValueError: If a box that scores above `score` is not finite. Inside `jit` it is left out.

    Example:
      >>> boxes = jnp.array([[0, 0, 2, 3], [0, 0, 2, 3.1], [5, 5, 8, 9]])
      >>> kept = jax.jit(non_max_suppression)(boxes, jnp.array([0.8, 0.9, 0.3]))
      >>> kept.indices[kept.valid].tolist(), kept.indices.shape
      ([1, 2], (100,))

      Per class, with scores (classes, n):

      >>> scores = jnp.array([[0.8, 0.9, 0.3], [0.5, 0.1, 0.2]])
      >>> suppress = partial(non_max_suppression, boxes, score=0.15, max_outputs=5)
      >>> each = jax.vmap(suppress)(scores)
      >>> each.indices.shape, each.valid.sum(1).tolist()
      ((2, 5), [2, 2])
    """
    who = "non_max_suppression"
    boxes = _boxes(who, "boxes", boxes, "(..., n, 4)")
    scores = as_array(who, "scores", scores, "(...)", "reals")
    if scores.shape != boxes.shape[:-1]:
        raise ValueError(
            f"{who}: expected boxes (..., n, 4) and scores (..., n), got "
            f"{boxes.shape} and {scores.shape}. For scores (classes, n), write "
            "jax.vmap(lambda s: non_max_suppression(boxes, s))(scores)"
        )
    at_least(who, "max_outputs", max_outputs)
    within(who, "iou", iou, "[0, 1]")
    within(who, "score", score, "[-inf, inf]")
    left = scores > score
    missing = ~jnp.isfinite(boxes).all(-1)
    wrong = concrete_values(left & missing)
    if wrong is not None and wrong.any():
        place = tuple(np.argwhere(wrong)[0].tolist())
        raise ValueError(
            f"{who}: a box must be finite, got {boxes[place].tolist()} at {place}. To leave a box "
            "out, give it the score -inf"
        )
    if boxes.ndim > 2:
        suppress = partial(non_max_suppression, iou=iou, score=score, max_outputs=max_outputs)
        return jax.vmap(suppress)(boxes, scores)
    if boxes.shape[0] == 0:
        return NMSResult(jnp.zeros(max_outputs, jnp.int32), jnp.zeros(max_outputs, bool))
    left = jnp.where(left & ~missing, scores, -jnp.inf)
    return _suppressed(boxes, left, iou, max_outputs)


def _suppressed(boxes: jax.Array, scores: jax.Array, iou: Any, max_outputs: int) -> NMSResult:
    """Search among boxes (n, 4); those with a score of -inf are left out."""

    def more(carry):
        i, left, _ = carry
        return (i < max_outputs) & (left.max() > -jnp.inf)

    def keep(carry):
        i, left, index = carry
        best = left.argmax()
        dropped = _iou(boxes[best][None], boxes)[0] > iou  # (n,)
        dropped = dropped.at[best].set(True)  # a box without area does not overlap itself
        left = jnp.where(dropped, -jnp.inf, left)
        index = index.at[i].set(best.astype(jnp.int32))
        return i + 1, left, index

    start = 0, scores, jnp.zeros(max_outputs, jnp.int32)
    count, _, index = jax.lax.while_loop(more, keep, start)
    return NMSResult(index, jnp.arange(max_outputs) < count)


def to_corners(boxes: jax.Array) -> jax.Array:
    """Convert boxes [center y, center x, height, width] to [top, left, bottom, right].

    Args:
      boxes: Boxes (..., 4).

    Returns:
      Boxes (..., 4).

    Raises:
      TypeError: If `boxes` has the wrong dtype.
      ValueError: If `boxes` has the wrong shape.

    Example:
      >>> to_corners(jnp.array([2.0, 5.0, 4.0, 6.0])).tolist()
      [0.0, 2.0, 4.0, 8.0]
    """
    center, size = jnp.split(_boxes("to_corners", "boxes", boxes), 2, -1)
    return jnp.concatenate([center - size / 2, center + size / 2], -1)


def to_middle(boxes: jax.Array) -> jax.Array:
    """Convert boxes [top, left, bottom, right] to [center y, center x, height, width].

    Args:
      boxes: Boxes (..., 4).

    Returns:
      Boxes (..., 4).

    Raises:
      TypeError: If `boxes` has the wrong dtype.
      ValueError: If `boxes` has the wrong shape.

    Example:
      >>> to_middle(jnp.array([0.0, 2.0, 4.0, 8.0])).tolist()
      [2.0, 5.0, 4.0, 6.0]
    """
    low, high = jnp.split(_boxes("to_middle", "boxes", boxes), 2, -1)
    return jnp.concatenate([(low + high) / 2, high - low], -1)


def area(boxes: jax.Array) -> jax.Array:
    """Return height times width; 0 for a box whose height or width is not positive.

    Args:
      boxes: Boxes (..., 4), top, left, bottom, right.

    Returns:
      (...,).

    Raises:
      TypeError: If `boxes` has the wrong dtype.
      ValueError: If `boxes` has the wrong shape.

    Example:
      >>> area(jnp.array([[0.0, 2.0, 4.0, 8.0], [3.0, 3.0, 3.0, 4.0]])).tolist()
      [24.0, 0.0]
    """
    boxes = _boxes("area", "boxes", boxes)
    return _area(boxes[..., :2], boxes[..., 2:])


def _area(low: jax.Array, high: jax.Array) -> jax.Array:
    return jnp.maximum(high - low, 0).prod(-1)


def _boxes(who: str, what: str, boxes: Any, form: str = "(..., 4)") -> jax.Array:
    """Return boxes in float32 at least: differences of unsigned integers would wrap."""
    return at_least_float32(as_array(who, what, boxes, form, "reals"))
