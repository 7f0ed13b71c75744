"""Pixels, masks and boxes move alike, as scipy moves them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.data import elastic, random_crop, random_flip, warp
from jaxnet.data.warp import has_area
from tests.helpers import refused

RANDOM = {
    "skew": elastic(shear=30),
    "affine": elastic(rotation=30, shear=15, scale=(0.7, 1.4), shift=2),
    "crop": random_crop(0.5),
    "flip": random_flip(),
    "upside down": random_flip(vertical=True),
}


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
    mask = image[..., 0].astype(np.int32)
    x = {"image": image, "mask": mask, "boxes": boxes, "id": np.arange(n)}
    y = jax.jit(RANDOM[name])(jax.random.key(3), x)
    new_boxes = np.asarray(y["boxes"])
    assert (new_boxes[:, 1] == 0).all()
    assert (y["id"] == x["id"]).all()
    moved = 0
    pictures = zip(np.asarray(y["mask"]), np.asarray(y["image"]), new_boxes[:, 0], strict=True)
    for mask, picture, (top, left, bottom, right) in pictures:
        assert abs(mask - picture[..., 0]).mean() < 0.06  # one pixel around the edge at most
        rows, columns = np.nonzero(mask)
        low = rows.min() / height, columns.min() / width
        high = (rows.max() + 1) / height, (columns.max() + 1) / width
        np.testing.assert_allclose([top, left, bottom, right], [*low, *high], atol=0.07)
        moved += not np.allclose([top, left, bottom, right], box, atol=0.01)
    assert moved > n / 3


@pytest.mark.long
def test_an_image_alone_and_its_dtype():
    x = np.random.default_rng(0).integers(0, 255, (3, 7, 9, 3)).astype(np.uint8)
    for augment in RANDOM.values():
        y = augment(jax.random.key(0), jnp.asarray(x))
        assert y.shape == x.shape
        assert y.dtype == np.uint8
        assert (augment(jax.random.key(0), jnp.asarray(x)) == y).all()
    unchanged = jnp.tile(jnp.eye(2), (3, 1, 1))
    np.testing.assert_array_equal(warp(jnp.asarray(x), unchanged), x)


@pytest.mark.slow
def test_masks_bend_with_their_images():
    """An image that holds the place of each pixel shows where its pixels come from."""
    rows, columns = np.meshgrid(np.arange(30), np.arange(24), indexing="ij")
    place = np.stack([rows, columns], -1).astype(np.float32)
    x = {"image": np.repeat(place[None], 300, 0) + 100}
    x["mask"] = (x["image"][..., 0] - 100 + 1000).astype(np.int32)
    y = jax.jit(elastic(displacement=0.5, spacing=6))(jax.random.key(0), x)
    inside = np.s_[:, 4:-4, 4:-4]  # nothing comes from outside
    image = np.asarray(y["image"])[inside]
    down, right = np.moveaxis(image - x["image"][inside], -1, 0)
    assert abs(np.corrcoef(down.ravel(), right.ravel())[0, 1]) < 0.03
    rows = np.asarray(y["mask"])[inside] - 1000
    assert np.abs(rows - (image[..., 0] - 100)).max() <= 0.51


@pytest.mark.slow
def test_a_box_that_leaves_the_image_becomes_padding():
    x = {"image": jnp.zeros((1, 8, 8, 1)), "boxes": jnp.array([[[0.0, 0.0, 0.1, 0.1]]])}
    assert (warp(x, 4 * jnp.eye(2)[None])["boxes"] == 0).all()


@pytest.mark.parametrize("entries", [
    {"image": np.ones((1, 4, 5, 1), bool)}, {"image": None},
    {"image": np.ones((1, 4, 5, 1)), "boxes": np.ones((1, 2, 4), int)},
    {"image": np.ones((1, 4, 5, 1)), "mask": "a"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize(
    "augment", [random_flip(), elastic(shift=1), random_crop(0.5)], ids=["flip", "elastic", "crop"]
)
def test_images_masks_and_boxes_of_another_dtype(entries, augment):
    """Boxes are relative: as integers all but 0 and 1 would be lost."""
    with pytest.raises(TypeError, match="(image|mask|boxes) must (hold|be) "):
        augment(jax.random.key(0), entries)


def test_a_dict_needs_images():
    with pytest.raises(ValueError, match='a dict with them as "image", got one with img'):
        random_flip()(jax.random.key(0), {"img": np.ones((1, 4, 5, 1))})


def test_boxes_without_an_area_are_none():
    boxes = np.array([[0.5, 0.5, 0.5, 0.7], [0.2, 0.4, 0.3, 0.4], [0, 0, 0.2, 0.1], [0] * 4])
    assert has_area(boxes).tolist() == [[False], [False], [True], [False]]


X = jnp.ones((1, 4, 5, 1))


@refused([
    (lambda key: elastic(scale=(2, 1)), r"scale\[0\] must be at most scale\[1\], got 2 and 1"),
    (lambda key: elastic(rotation=181), r"rotation must be in \[0, 180\], got 181"),
    (lambda key: elastic(shear=90), r"shear must be in \[0, 90\), got 90"),
    (lambda key: elastic(scale=(0, 1)), r"scale\[0\] must be in \(0, inf\), got 0"),
    (lambda key: elastic(shift=-1), r"shift must be in \[0, inf\), got -1"),
    (lambda key: elastic(displacement=1, spacing=0), r"spacing must be in \[1, inf\), got 0"),
    (lambda key: elastic(displacement=1)(key, {"image": X, "boxes": jnp.zeros((1, 1, 4))}),
     "boxes cannot be deformed"),
    (lambda key: random_crop(1),
     r"min_scale is a part of both sides \(in pixels: random_shift\), in \(0, 1\), got 1"),
    (lambda key: random_flip()(key, jnp.ones((3, 4))),
     r"image must have shape \(batch, height, width, channels\), got \(3, 4\)"),
    (lambda key: elastic(shear=9)(key, {"image": X, "mask": jnp.ones((1, 4, 4))}),
     r"mask must have shape .* with width = 5, got \(1, 4, 4\)"),
    (lambda key: elastic(shear=9)(key, {"image": X, "boxes": jnp.ones((1, 4))}),
     r"boxes must have shape \(batch, n, 4\), got \(1, 4\)"),
    (lambda key: warp(X, jnp.eye(2)), r"warp: matrix must have shape \(batch, 2, 2\)"),
    (lambda key: warp(X, jnp.eye(2)[None], jnp.zeros((3, 2))),
     r"center must have shape \(batch, 2\) with batch = 1"),
])  # fmt: skip
def test_refusals(call):
    call(jax.random.key(0))
