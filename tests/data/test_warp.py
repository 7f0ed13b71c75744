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


SPACES = {"series": (11,), "pictures": (9, 8), "volumes": (7, 8, 6), "films": (4, 5, 6, 5)}


@pytest.mark.slow
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_warp_is_scipys_affine_transform(space):
    ndimage = pytest.importorskip("scipy.ndimage")
    rng, axes = np.random.default_rng(0), len(space)
    x = rng.normal(size=(3, *space, 2)).astype(np.float32)
    labels = rng.integers(1, 9, (3, *space)).astype(np.int32)
    matrix = (np.eye(axes) + 0.25 * rng.normal(size=(3, axes, axes))).astype(np.float32)
    center = rng.normal(size=(3, axes)).astype(np.float32)
    moved = jax.jit(warp)({"image": x, "mask": labels}, matrix, center)
    middle = (np.array(space) - 1) / 2
    for i in range(3):
        back = np.linalg.inv(matrix[i])
        place = {"matrix": back, "offset": middle + center[i] - back @ middle}
        for channel in range(2):
            image = x[i, ..., channel]
            wanted = ndimage.affine_transform(image, **place, order=1, mode="grid-constant")
            # Places are rounded to 1/1024 of a pixel.
            np.testing.assert_allclose(moved["image"][i, ..., channel], wanted, atol=0.01)
        near = ndimage.affine_transform(labels[i], **place, order=0, mode="grid-constant")
        assert (moved["mask"][i] != near).mean() < 0.01  # halves are rounded in either direction


@pytest.mark.slow
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_flips_of_volumes(axis):
    rng = np.random.default_rng(0)
    x = {"image": rng.normal(size=(30, 3, 4, 5, 2)), "mask": rng.integers(0, 9, (30, 3, 4, 5))}
    box = np.array([0.1, 0.2, 0.3, 0.4, 0.7, 0.9])
    x["boxes"] = np.tile(box, (30, 1, 1))
    x = {name: a.astype(np.int32 if name == "mask" else np.float32) for name, a in x.items()}
    y = jax.device_get(jax.jit(random_flip(axis=axis))(jax.random.key(0), x))
    turned = (y["image"] != x["image"]).any((1, 2, 3, 4))
    assert 7 < turned.sum() < 23
    for name in ("image", "mask"):
        np.testing.assert_array_equal(y[name][turned], np.flip(x[name][turned], 1 + axis % 3))
        np.testing.assert_array_equal(y[name][~turned], x[name][~turned])
    flipped = box.copy()
    flipped[[axis % 3, axis % 3 + 3]] = 1 - box[[axis % 3 + 3, axis % 3]]
    np.testing.assert_allclose(y["boxes"][turned, 0], np.tile(flipped, (turned.sum(), 1)), 1e-6)


def maps_of(augment, side=9, n=60):
    """The linear map of each volume, told by voxels that hold their own place, and an inside."""
    sides = np.arange(side) - (side - 1) / 2
    place = np.stack([*np.meshgrid(sides, sides, sides, indexing="ij"), np.ones((side,) * 3)], -1)
    y = jax.jit(augment)(jax.random.key(0), np.repeat(place[None], n, 0).astype(np.float32))
    found = []
    for volume in np.asarray(y):
        inside = volume[..., 3] > 1 - 1e-5
        source, *_ = np.linalg.lstsq(place[inside], volume[inside][:, :3], rcond=None)
        found.append(np.linalg.inv(source[:3].T))
    return np.array(found)


@pytest.mark.slow
def test_volumes_turn_in_every_plane():
    turns = maps_of(elastic(rotation=20))
    np.testing.assert_allclose(turns @ turns.mT, np.tile(np.eye(3), (60, 1, 1)), atol=5e-3)
    np.testing.assert_allclose(np.linalg.det(turns), 1, atol=5e-3)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        angles = np.degrees(np.arcsin(turns[:, i, j]))
        assert angles.min() < -12
        assert angles.max() > 12


@pytest.mark.slow
def test_volumes_are_sheared_along_the_axes_before():
    shears = maps_of(elastic(shear=20))
    np.testing.assert_allclose(np.triu(shears), np.tile(np.eye(3), (60, 1, 1)), atol=5e-3)
    for i, j in ((1, 0), (2, 0), (2, 1)):
        angles = np.degrees(np.arctan(shears[:, i, j]))
        assert -20.5 < angles.min() < -15
        assert 15 < angles.max() < 20.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "augment",
    [elastic(rotation=20, scale=(0.8, 1.2), shift=1), random_crop(0.6)],
    ids=["elastic", "crop"],
)
def test_a_box_of_a_volume_stays_around_what_is_in_it(augment):
    space, low, high = np.array([16, 20, 18]), np.array([5, 7, 6]), np.array([11, 13, 14])
    image = np.zeros((12, *space, 1), np.float32)
    image[:, 5:11, 7:13, 6:14] = 1
    box = np.concatenate([low / space, high / space])
    x = {"image": image, "boxes": np.tile(box, (12, 1, 1)).astype(np.float32)}
    y = jax.device_get(jax.jit(augment)(jax.random.key(1), x))
    for volume, found in zip(y["image"][..., 0], y["boxes"][:, 0], strict=True):
        places = np.argwhere(volume > 0.5)
        seen = np.concatenate([places.min(0) / space, (places.max(0) + 1) / space])
        np.testing.assert_allclose(found, seen, atol=0.12)


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
     r"min_scale is a part of all sides \(in pixels: random_shift\), in \(0, 1\), got 1"),
    (lambda key: random_flip()(key, jnp.ones((3, 4))),
     r"image must have shape \(batch, height, width, channels\), or .*, got \(3, 4\)"),
    (lambda key: random_flip(vertical=True, axis=0), "pass vertical=True or axis=0, not both"),
    (lambda key: random_flip(vertical=True)(key, jnp.ones((2, 9, 3))),
     r"axis must be -1 to 0, a spatial axis of inputs \(2, 9, 3\), got -2"),
    (lambda key: random_flip(axis=2)(key, X), "axis must be -2 to 1, a spatial axis .*, got 2"),
    (lambda key: elastic(rotation=9)(key, jnp.ones((2, 9, 3))),
     r"series .* cannot be rotated or sheared, got rotation=9 .*\(2, 9, 3\). Pass rotation=0"),
    (lambda key: elastic(shift=1)(key, {"image": jnp.ones((1, 4, 5, 6, 1)), "mask": X[..., 0]}),
     r"mask must have shape \(batch, depth, height, width\), got \(1, 4, 5\)"),
    (lambda key: random_crop(0.5)(
        key, {"image": jnp.ones((1, 4, 5, 6, 1)), "boxes": jnp.ones((1, 2, 4))}),
     r"boxes must have shape \(batch, n, 6\), got \(1, 2, 4\)"),
    (lambda key: elastic(shear=9)(key, {"image": X, "mask": jnp.ones((1, 4, 4))}),
     r"mask must have shape .* with width = 5, got \(1, 4, 4\)"),
    (lambda key: elastic(shear=9)(key, {"image": X, "boxes": jnp.ones((1, 4))}),
     r"boxes must have shape \(batch, n, 4\), got \(1, 4\)"),
    (lambda key: warp(X, jnp.eye(2)), r"warp: matrix must have shape \(batch, 2, 2\)"),
    (lambda key: warp(X[..., None], jnp.eye(2)[None]), r"matrix must have shape \(batch, 3, 3\)"),
    (lambda key: warp(X, jnp.eye(2)[None], jnp.zeros((3, 2))),
     r"center must have shape \(batch, 2\) with batch = 1"),
])  # fmt: skip
def test_refusals(call):
    call(jax.random.key(0))
