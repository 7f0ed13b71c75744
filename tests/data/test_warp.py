"""Pixels, masks and boxes move alike, as scipy moves them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.data import random_crop, random_flip, random_rotation, random_scale, random_skew, warp

RANDOM = {
    "rotation": random_rotation(40),
    "skew": random_skew(30),
    "scale": random_scale(0.6, 1.6),
    "crop": random_crop(0.5),
    "flip": random_flip(),
    "upside down": random_flip(vertical=True),
}


def turned(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, s], [-s, c]], np.float32)


@pytest.mark.parametrize("matrix", [turned(0.5), [[1, 0], [0.4, 1]], [[1.7, 0], [0, 0.6]]])
def test_images_and_masks_are_those_of_scipy(matrix):
    ndimage = pytest.importorskip("scipy.ndimage")
    rng, matrix = np.random.default_rng(0), np.asarray(matrix, np.float32)
    image = rng.uniform(size=(1, 9, 12, 2)).astype(np.float32)
    mask = rng.integers(0, 5, (1, 9, 12))
    middle = np.array([[1.4, -2.27]], np.float32)
    found = warp({"image": image, "mask": mask}, matrix[None], middle)
    back, centre = np.linalg.inv(matrix), np.array([4, 5.5])
    options = dict(matrix=back, offset=centre + middle[0] - back @ centre, mode="grid-constant")
    for channel in range(2):
        wanted = ndimage.affine_transform(image[0, ..., channel], order=1, **options)
        np.testing.assert_allclose(found["image"][0, ..., channel], wanted, atol=4e-3)
    wanted = ndimage.affine_transform(mask[0], order=0, **options)
    assert (np.asarray(found["mask"][0]) == wanted).mean() > 0.97  # all but ties


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


def test_an_image_alone_and_its_dtype():
    x = np.random.default_rng(0).integers(0, 255, (3, 7, 9, 3)).astype(np.uint8)
    for augment in RANDOM.values():
        y = augment(jax.random.key(0), jnp.asarray(x))
        assert y.shape == x.shape and y.dtype == np.uint8
        assert (augment(jax.random.key(0), jnp.asarray(x)) == y).all()
    still = warp(jnp.asarray(x), jnp.tile(jnp.eye(2), (3, 1, 1)))
    np.testing.assert_array_equal(still, x)


def test_angles_are_of_both_signs_and_no_larger():
    """A bar through the middle: its slope tells the angle."""
    x = np.zeros((200, 41, 41, 1), np.float32)
    x[:, 20] = 1
    y = np.asarray(random_rotation(30)(jax.random.key(1), jnp.asarray(x)))[..., 0]
    columns = np.arange(41) - 20.0
    rows = np.arange(41) - 20.0
    spread = (y * rows[:, None] * columns).sum((1, 2)) / (y * columns**2).sum((1, 2))
    angles = np.degrees(np.arctan(spread))
    assert -31 < angles.min() < -25 and 25 < angles.max() < 31
    assert abs(angles.mean()) < 4 * 30 / np.sqrt(3 * 200)


def test_flip_turns_half_of_them():
    x = jnp.arange(2.0).reshape(1, 1, 2, 1).repeat(400, 0)
    share = float((random_flip()(jax.random.key(0), x)[:, 0, 0, 0] == 1).mean())
    assert abs(share - 0.5) < 4 * 0.5 / 20


def test_a_box_that_leaves_the_image_becomes_padding():
    x = {"image": jnp.zeros((1, 8, 8, 1)), "boxes": jnp.array([[[0.0, 0.0, 0.1, 0.1]]])}
    assert (warp(x, 4 * jnp.eye(2)[None])["boxes"] == 0).all()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: random_rotation(0), r"degrees must be in \(0, 180\], got 0"),
        (lambda: random_skew(90), r"degrees must be in \(0, 90\), got 90"),
        (lambda: random_scale(2, 1), "needs 0 < low <= high, got 2 and 1"),
        (lambda: random_crop(1), r"share must be in \(0, 1\), got 1"),
        (lambda: random_flip()(jax.random.key(0), jnp.ones((3, 4))), "random_flip: needs images"),
        (lambda: random_skew(9)(jax.random.key(0), {"image": jnp.ones((1, 4, 5, 1)),
         "mask": jnp.ones((1, 4, 4))}), r"mask must be \(1, 4, 5\), got \(1, 4, 4\)"),
        (lambda: random_skew(9)(jax.random.key(0), {"image": jnp.ones((1, 4, 5, 1)),
         "boxes": jnp.ones((1, 4))}), r"boxes must be \(batch, n, 4\), got \(1, 4\)"),
    ],
)  # fmt: skip
def test_errors(build, words):
    with pytest.raises(ValueError, match=words):
        build()
