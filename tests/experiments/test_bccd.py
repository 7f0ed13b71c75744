import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import bccd


@pytest.mark.slow
def test_boxes_move_with_the_image_and_are_dropped_where_little_is_left():
    """Bright rectangles on black: the boxes are where the light is."""
    rng = np.random.default_rng(0)
    x, boxes = np.zeros((40, 60, 80, 3), np.float32), np.zeros((40, 3, 4), np.float32)
    for i in range(40):
        top, left = rng.integers(0, [40, 50])
        x[i, top : top + 20, left : left + 30] = 1
        boxes[i, 0] = [top / 60, left / 80, (top + 20) / 60, (left + 30) / 80]
    boxes[:, 1] = [0, 0, 0.06, 0.06]  # a corner; the last is padding
    classes = np.tile([1, 0, -1], (40, 1))
    batch = jnp.asarray(x), {"boxes": jnp.asarray(boxes), "classes": jnp.asarray(classes)}
    y, targets = jax.jit(bccd.augment)(jax.random.key(0), batch)
    y, boxes, classes = np.asarray(y), np.asarray(targets["boxes"]), np.asarray(targets["classes"])
    assert y.shape == x.shape and (classes[:, 2] == -1).all()
    assert ((boxes[..., 2:] > boxes[..., :2]).all(-1) == (classes >= 0)).all()
    assert not boxes[classes < 0].any()
    kept = np.flatnonzero(classes[:, 0] == 1)
    assert 30 < len(kept)
    for i in kept:
        bright = y[i].mean(-1) > 0.5 * y[i].max()
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        found = [rows[0] / 60, columns[0] / 80, (rows[-1] + 1) / 60, (columns[-1] + 1) / 80]
        np.testing.assert_allclose(found, boxes[i, 0], atol=1.01 / 60)
    corners = boxes[classes[:, 1] == 0, 1]
    assert 5 < len(corners) < 35  # others are cut off, wholly or all but a rim
    seen = (corners[:, 2:] - corners[:, :2]).prod(-1)
    assert seen.min() > bccd.VISIBLE * 0.06**2 * np.exp(-2 * 0.25)
