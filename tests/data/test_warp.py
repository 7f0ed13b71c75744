"""Pixels, masks and boxes move alike, as scipy moves them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.data import (
    elastic,
    random_crop,
    random_flip,
    random_rotation,
    random_scale,
    random_shear,
    warp,
)
from jaxnet.data.warp import _real

RANDOM = {
    "rotation": random_rotation(40),
    "skew": random_shear(30),
    "scale": random_scale(0.6, 1.6),
    "affine": elastic(rotation=30, shear=15, scale=(0.7, 1.4), shift=2),
    "crop": random_crop(0.5),
    "flip": random_flip(),
    "upside down": random_flip(vertical=True),
}


def turned(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, s], [-s, c]], np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("matrix", [turned(0.5), [[1, 0], [0.4, 1]], [[1.7, 0], [0, 0.6]]])
def test_images_and_masks_are_those_of_scipy(matrix):
    ndimage = pytest.importorskip("scipy.ndimage")
    rng, matrix = np.random.default_rng(0), np.asarray(matrix, np.float32)
    image = rng.uniform(size=(1, 9, 12, 2)).astype(np.float32)
    mask = rng.integers(0, 5, (1, 9, 12))
    middle = np.array([[1.4, -2.27]], np.float32)
    found = warp({"image": image, "mask": mask}, matrix[None], middle)
    back, center = np.linalg.inv(matrix), np.array([4, 5.5])
    options = dict(matrix=back, offset=center + middle[0] - back @ center, mode="grid-constant")
    for channel in range(2):
        wanted = ndimage.affine_transform(image[0, ..., channel], order=1, **options)
        np.testing.assert_allclose(found["image"][0, ..., channel], wanted, atol=4e-3)
    wanted = ndimage.affine_transform(mask[0], order=0, **options)
    assert (np.asarray(found["mask"][0]) == wanted).mean() > 0.97  # all but ties


@pytest.mark.fast_cases("skew", "flip", "upside down")
@pytest.mark.parametrize("name", RANDOM)
def test_a_box_stays_around_what_is_in_it(name):
    """A filled rectangle, its mask and its box, moved together."""
    n, height, width = 40, 24, 32
    image = np.zeros((n, height, width, 1), np.float32)
    image[:, 8:15, 10:24] = 1.0
    box = np.array([8 / height, 10 / width, 15 / height, 24 / width], np.float32)
    boxes = np.zeros((n, 2, 4), np.float32)  # and one that is padding
    boxes[:, 0] = box
    x = {"image": image, "mask": image[..., 0].astype(np.int32), "boxes": boxes, "id": np.arange(n)}
    y = jax.jit(RANDOM[name])(jax.random.key(3), x)
    assert (np.asarray(y["boxes"])[:, 1] == 0).all() and (y["id"] == x["id"]).all()
    moved = 0
    for mask, picture, (top, left, bottom, right) in zip(
        np.asarray(y["mask"]), np.asarray(y["image"]), np.asarray(y["boxes"])[:, 0], strict=True
    ):
        assert abs(mask - picture[..., 0]).mean() < 0.06  # one pixel around the edge at most
        rows, columns = np.nonzero(mask)
        seen = [rows.min() / height, columns.min() / width,
                (rows.max() + 1) / height, (columns.max() + 1) / width]  # fmt: skip
        np.testing.assert_allclose([top, left, bottom, right], seen, atol=0.07)
        moved += not np.allclose([top, left, bottom, right], box, atol=0.01)
    assert moved > n / 3


@pytest.mark.long
def test_an_image_alone_and_its_dtype():
    x = np.random.default_rng(0).integers(0, 255, (3, 7, 9, 3)).astype(np.uint8)
    for augment in RANDOM.values():
        y = augment(jax.random.key(0), jnp.asarray(x))
        assert y.shape == x.shape and y.dtype == np.uint8
        assert (augment(jax.random.key(0), jnp.asarray(x)) == y).all()
    still = warp(jnp.asarray(x), jnp.tile(jnp.eye(2), (3, 1, 1)))
    np.testing.assert_array_equal(still, x)


@pytest.mark.slow
@pytest.mark.parametrize("turn", [random_rotation(30), elastic(rotation=30)])
def test_angles_are_of_both_signs_and_no_larger(turn):
    """A bar through the middle: its slope tells the angle."""
    x = np.zeros((200, 41, 41, 1), np.float32)
    x[:, 20] = 1
    y = np.asarray(jax.jit(turn)(jax.random.key(1), jnp.asarray(x)))[..., 0]
    columns = np.arange(41) - 20.0
    rows = np.arange(41) - 20.0
    spread = (y * rows[:, None] * columns).sum((1, 2)) / (y * columns**2).sum((1, 2))
    angles = np.degrees(np.arctan(spread))
    assert -31 < angles.min() < -25 and 25 < angles.max() < 31
    assert abs(angles.mean()) < 4 * 30 / np.sqrt(3 * 200)


@pytest.mark.slow
@pytest.mark.parametrize("affine", [elastic(shear=20), elastic(scale=(0.5, 2.0))])
def test_an_affine_map_with_one_strength_is_of_that_kind(affine):
    """A square: leaning keeps its area and its height, scaling keeps it a square."""
    x = np.zeros((100, 41, 41, 1), np.float32)
    x[:, 16:25, 16:25] = 1
    y = np.asarray(jax.jit(affine)(jax.random.key(1), jnp.asarray(x)))[..., 0]
    height, width = y.max(2).sum(1), y.max(1).sum(1)
    if np.ptp(height) < 1e-3:  # leans
        np.testing.assert_allclose(y.sum((1, 2)), 81, rtol=0.02)
        assert width.max() > 11
    else:
        np.testing.assert_allclose(height, width, rtol=1e-4)
        assert 4 < height.min() < 6 and 15.5 < height.max() < 19


@pytest.mark.slow
def test_an_affine_map_moves_by_up_to_the_shift_whatever_else_it_does():
    """The middle of the image is where shear, rotation and scale leave it."""
    x = np.zeros((300, 41, 41, 1), np.float32)
    x[:, 19:22, 19:22] = 1
    affine = elastic(rotation=180, shear=10, scale=(0.8, 1.25), shift=5)
    y = np.asarray(jax.jit(affine)(jax.random.key(2), jnp.asarray(x)))[..., 0]
    place = np.arange(41) - 20.0
    down, right = ((y * p).sum((1, 2)) / y.sum((1, 2)) for p in (place[:, None], place))
    for moved in (down, right):
        assert -5.1 < moved.min() < -4.6 and 4.6 < moved.max() < 5.1
        assert abs(moved.mean()) < 4 * 5 / np.sqrt(3 * 300)
    assert abs(np.corrcoef(down, right)[0, 1]) < 4 / np.sqrt(300)


@pytest.mark.slow
def test_an_affine_map_shears_then_rotates_then_scales():
    """Moves are found again from where two points of each image come to."""
    x = np.zeros((50, 81, 81, 2), np.float32)
    x[:, 39:42, 59:62, 0] = 1  # 20 to the right of the middle
    x[:, 19:22, 39:42, 1] = 1  # 20 above it
    affine = elastic(rotation=40, shear=20, scale=(0.8, 1.25))
    y = np.asarray(jax.jit(affine)(jax.random.key(2), jnp.asarray(x)))
    place = np.arange(81) - 40.0
    down = (y * place[:, None, None]).sum((1, 2)) / y.sum((1, 2)) / 20
    right = (y * place[:, None]).sum((1, 2)) / y.sum((1, 2)) / 20
    # A skew leaves a point to the right where it is: it tells rotation and scale.
    scale, angle = np.hypot(down[:, 0], right[:, 0]), np.arctan2(down[:, 0], right[:, 0])
    assert 0.78 < scale.min() < 0.85 and 1.18 < scale.max() < 1.27
    assert -41 < np.degrees(angle).min() < -32 and 32 < np.degrees(angle).max() < 41
    # Turned back and scaled back, the point above is at (-1, -tan(skew)).
    c, s = np.cos(angle), np.sin(angle)
    np.testing.assert_allclose((c * down[:, 1] - s * right[:, 1]) / scale, -1, atol=0.02)
    lean = np.degrees(np.arctan((s * down[:, 1] + c * right[:, 1]) / scale))
    assert -21 < lean.min() < -15 and 15 < lean.max() < 21


@pytest.mark.slow
def test_bends_are_smooth_moves_of_the_size_that_was_asked_for():
    """An image that holds the place of each pixel shows where its pixels come from."""
    height, width = 30, 24
    place = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1)
    x = {"image": np.repeat(place[None], 300, 0).astype(np.float32) + 100}
    x["mask"] = (x["image"][..., 0] - 100 + 1000).astype(np.int32)
    y = jax.jit(elastic(displacement=0.5, spacing=6))(jax.random.key(0), x)
    inside = np.s_[:, 4:-4, 4:-4]  # nothing comes from outside
    moves = (np.asarray(y["image"]) - x["image"])[inside]  # (300, 22, 16, 2)
    assert 0.3 < moves.std() < 0.5 and abs(moves.mean()) < 0.02
    assert abs(np.corrcoef(moves[..., 0].ravel(), moves[..., 1].ravel())[0, 1]) < 0.03
    near, far = (np.corrcoef(moves[:, :-n].ravel(), moves[:, n:].ravel())[0, 1] for n in (1, 13))
    assert 0.85 < near < 1 and abs(far) < 0.1
    rows = np.asarray(y["mask"])[inside] - 1000
    assert np.abs(rows - (np.asarray(y["image"])[inside][..., 0] - 100)).max() <= 0.51


def test_boxes_are_not_bent():
    x = {"image": jnp.ones((2, 8, 9, 1)), "boxes": jnp.zeros((2, 1, 4))}
    with pytest.raises(ValueError, match="boxes cannot be deformed"):
        elastic(displacement=1)(jax.random.key(0), x)


def test_flip_turns_half_of_them():
    x = jnp.arange(2.0).reshape(1, 1, 2, 1).repeat(400, 0)
    share = float((random_flip()(jax.random.key(0), x)[:, 0, 0, 0] == 1).mean())
    assert abs(share - 0.5) < 4 * 0.5 / 20


@pytest.mark.slow
def test_a_box_that_leaves_the_image_becomes_padding():
    x = {"image": jnp.zeros((1, 8, 8, 1)), "boxes": jnp.array([[[0.0, 0.0, 0.1, 0.1]]])}
    assert (warp(x, 4 * jnp.eye(2)[None])["boxes"] == 0).all()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: random_rotation(0), r"degrees must be in \(0, 180\], got 0"),
        (lambda: random_shear(90), r"degrees must be in \(0, 90\), got 90"),
        (lambda: random_scale(2, 1), "low must be at most high, got 2 and 1"),
        (lambda: elastic(rotation=181), r"rotation must be in \[0, 180\], got 181"),
        (lambda: elastic(shear=90), r"shear must be in \[0, 90\), got 90"),
        (lambda: elastic(scale=(0, 1)), r"scale\[0\] must be in \(0, inf\), got 0"),
        (lambda: elastic(shift=-1), r"shift must be in \[0, inf\), got -1"),
        (lambda: elastic(displacement=1, spacing=0), r"spacing must be in \[1, inf\), got 0"),
        (lambda: random_crop(1),
         r"share is a part of both sides \(in pixels: random_shift\), in \(0, 1\), got 1"),
        (lambda: random_flip()(jax.random.key(0), jnp.ones((3, 4))),
         r"image must have shape \(batch, height, width, channels\), got \(3, 4\)"),
        (lambda: random_shear(9)(jax.random.key(0), {"image": jnp.ones((1, 4, 5, 1)),
         "mask": jnp.ones((1, 4, 4))}), r"mask must have shape .* with width = 5, got \(1, 4, 4\)"),
        (lambda: random_shear(9)(jax.random.key(0), {"image": jnp.ones((1, 4, 5, 1)),
         "boxes": jnp.ones((1, 4))}), r"boxes must have shape \(batch, n, 4\), got \(1, 4\)"),
    ],
)  # fmt: skip
def test_errors(build, words):
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.parametrize("entries", [
    {"image": np.ones((1, 4, 5, 1), bool)}, {"image": [[[[1.0]]]]}, {"image": None},
    {"image": np.ones((1, 4, 5, 1)), "boxes": np.ones((1, 2, 4), int)},
    {"image": np.ones((1, 4, 5, 1)), "mask": "a"},
], ids=str)  # fmt: skip
def test_images_masks_and_boxes_of_another_dtype(entries):
    """Boxes are relative: as integers all but 0 and 1 would be lost."""
    for augment in (random_flip(), random_rotation(5), elastic(shift=1), random_crop(0.5)):
        with pytest.raises(TypeError, match="(image|mask|boxes) must (hold|be) "):
            augment(jax.random.key(0), entries)
    with pytest.raises(ValueError, match='a dict with them as "image", got one with img'):
        random_flip()(jax.random.key(0), {"img": entries["image"]})


def test_matrices_and_centers_of_another_shape():
    x = jnp.ones((2, 4, 5, 1))
    with pytest.raises(ValueError, match=r"warp: matrix must have shape \(batch, 2, 2\)"):
        warp(x, jnp.eye(2))
    with pytest.raises(ValueError, match=r"center must have shape \(batch, 2\) with batch = 2"):
        warp(x, jnp.stack([jnp.eye(2)] * 2), jnp.zeros((3, 2)))


def test_boxes_without_an_area_are_none():
    boxes = np.array([[0.5, 0.5, 0.5, 0.7], [0.2, 0.4, 0.3, 0.4], [0, 0, 0.2, 0.1], [0] * 4])
    assert _real(boxes).tolist() == [[False], [False], [True], [False]]
