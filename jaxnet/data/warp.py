"""Geometric augmentations of images, masks and boxes: flip, rotate, shear, scale, crop, elastic.

Each is a function `(key, x) -> x`, pure and jitted with the training step. x is a batch of images
(batch, height, width, channels), or a dict with "image" and any of "mask", the label of each pixel,
(batch, height, width), and "boxes", (batch, n, 4): (top, left, bottom, right) relative to the image
size, as in TensorFlow Datasets. Masks and boxes are transformed with the images; other entries do
not change. Pixels from outside the image are 0. Images are interpolated bilinearly; masks take the
nearest pixel. A box becomes the smallest upright box around its transformed corners, clipped at the
image. A box without area is padding and stays so.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from jaxnet.ops.linalg import inverse_2x2
from jaxnet.services import checks
from jaxnet.services.meshes import on_auto_axes
from jaxnet.typing import Augmentation


def random_flip(*, vertical: bool = False) -> Augmentation:
    """Return a function that flips each image left to right with probability 1/2.

    Args:
      vertical: Whether to flip images upside down instead.

    Returns:
      A function `(key, x) -> x` of images, or of a dict that has masks or boxes too.

    Example:
      >>> x = jnp.arange(6.0).reshape(1, 2, 3, 1)
      >>> boxes = jnp.array([[[0, 0, 1, 0.25]]])
      >>> y = random_flip()(jax.random.key(1), {"image": x, "boxes": boxes})
      >>> y["image"].shape, y["boxes"].shape
      ((1, 2, 3, 1), (1, 1, 4))
    """
    checks.check_options("random_flip", vertical=vertical)
    axis = 1 if vertical else 2
    low, high = (0, 2) if vertical else (1, 3)

    def flipped_boxes(boxes):
        ends = 1 - boxes[..., [high, low]]
        return jnp.where(has_area(boxes), boxes.at[..., [low, high]].set(ends), boxes)

    @on_auto_axes
    def augment(key, x):
        x, in_form_of_input = _entries("random_flip", x, key)
        flip = jax.random.bernoulli(key, shape=(x["image"].shape[0],))
        for name in ("image", "mask"):
            if name in x:
                is_flipped = flip.reshape(-1, *[1] * (x[name].ndim - 1))
                x[name] = jnp.where(is_flipped, jnp.flip(x[name], axis), x[name])
        if "boxes" in x:
            is_flipped = flip[:, None, None]
            x["boxes"] = jnp.where(is_flipped, flipped_boxes(x["boxes"]), x["boxes"])
        return in_form_of_input(x)

    return augment


def elastic(
    *,
    rotation: float = 0.0,
    shear: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shift: float = 0.0,
    displacement: float = 0.0,
    spacing: float = 6.0,
) -> Augmentation:
    """Return a function that deforms each image, with one interpolation.

    It shears, rotates, scales (about the center), shifts and elastically deforms the image. A chain
    of several interpolates once per step, and each interpolation blurs the image.

    The elastic deformation draws a displacement for each point of a coarse grid. The displacements
    of the pixels follow by cubic interpolation.

    Args:
      rotation: Largest angle in degrees, in [0, 180].
      shear: Largest angle in degrees, in [0, 90).
      scale: Smallest and largest factor, 0 < low <= high; the factor is log-uniform.
      shift: Largest shift along each axis in pixels, at least 0; it may be fractional.
      displacement: Standard deviation of the displacements in pixels, at least 0; not for boxes.
      spacing: Distance of the grid's points in pixels, at least 1.

    Returns:
      A function `(key, x) -> x` of images, or of a dict that has masks or boxes too.

    Raises:
      ValueError: If a number is out of range.
      ValueError: If the input has boxes and `displacement` is above 0.

    Example:
      >>> augment = elastic(rotation=10, shear=5, scale=(0.9, 1.1), shift=2, displacement=1)
      >>> augment(jax.random.key(0), jnp.ones((3, 8, 6, 1))).shape
      (3, 8, 6, 1)

    Reference: Simard, Steinkraus and Platt 2003, "Best Practices for Convolutional Neural Networks
    Applied to Visual Document Analysis".
    """
    checks.within("elastic", "rotation", rotation, "[0, 180]")
    checks.within("elastic", "shear", shear, "[0, 90)")
    checks.all_within("elastic", "[0, inf)", shift=shift, displacement=displacement)
    checks.within("elastic", "spacing", spacing, "[1, inf)")
    checks.check_tuple("elastic", "scale", scale, "(low, high)")
    low, high = scale
    for i in (0, 1):
        checks.within("elastic", f"scale[{i}]", scale[i], "(0, inf)")
    if low > high:
        raise ValueError(f"elastic: scale[0] must be at most scale[1], got {low} and {high}")
    shift, displacement = float(shift), float(displacement)

    @on_auto_axes
    def augment(key, x):
        x, in_form_of_input = _entries("elastic", x, key)
        if displacement and "boxes" in x:
            raise ValueError("elastic: boxes cannot be deformed elastically; pass displacement=0")
        n, height, width = x["image"].shape[:3]
        shift_key, scale_key, rotation_key, shear_key = jax.random.split(key, 4)
        angle = _angles(rotation_key, n, rotation)
        slant = _angles(shear_key, n, shear)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        zero, one = jnp.zeros(n), jnp.ones(n)
        rotations = matrices(cos, sin, -sin, cos)
        shears = matrices(one, zero, jnp.tan(slant), one)
        matrix = _scales(scale_key, n, low, high) @ rotations  # (batch, 2, 2)
        matrix = matrix @ shears
        shifts = shift * jax.random.uniform(shift_key, (n, 2), minval=-1, maxval=1)
        # The shift moves the result. For the image it has the opposite sign, and comes before the
        # matrix.
        center = -(inverse_2x2(matrix) @ shifts[..., None])[..., 0]
        displacements = 0.0
        if displacement:
            noise_key = jax.random.fold_in(key, 4)
            noise = _smooth_noise(noise_key, (n, height, width), spacing)
            displacements = displacement * noise
        return in_form_of_input(_warp(x, matrix, center, displacements))

    return augment


def _smooth_noise(key: jax.Array, shape: tuple[int, int, int], spacing: float) -> jax.Array:
    """Draw a vector for each point of a coarse grid, and interpolate (batch, height, width, 2)."""
    batch, height, width = shape
    rows = max(2, math.ceil(height / spacing) + 1)
    columns = max(2, math.ceil(width / spacing) + 1)
    coarse = jax.random.normal(key, (batch, rows, columns, 2))
    return jax.image.resize(coarse, (batch, height, width, 2), "cubic")


def random_crop(min_scale: float) -> Augmentation:
    """Return a function that crops a random part of each image and resizes it to full size.

    For a crop of the padded image, as on CIFAR-10, use `random_shift(pixels)`.

    Args:
      min_scale: Smallest size of the part relative to height and width, in (0, 1).

    Returns:
      A function `(key, x) -> x` of images, or of a dict that has masks or boxes too.

    Raises:
      ValueError: If `min_scale` is outside (0, 1).

    Example:
      >>> random_crop(0.7)(jax.random.key(0), jnp.ones((3, 8, 6, 1))).shape
      (3, 8, 6, 1)

    Reference: Szegedy et al. 2014, "Going Deeper with Convolutions".
    """
    meaning = "a part of both sides (in pixels: random_shift)"
    checks.within("random_crop", "min_scale", min_scale, "(0, 1)", meaning)

    @on_auto_axes
    def augment(key, x):
        x, in_form_of_input = _entries("random_crop", x, key)
        n, height, width = x["image"].shape[:3]
        size_key, place_key = jax.random.split(key)
        size = jax.random.uniform(size_key, (n, 1), minval=min_scale, maxval=1)
        # The range of the center of the part.
        room = jnp.array([[height - 1, width - 1]]) / 2 * (1 - size)
        center = room * jax.random.uniform(place_key, (n, 2), minval=-1, maxval=1)
        matrix = jnp.eye(2)[None] / size[..., None]
        return in_form_of_input(_warp(x, matrix, center))

    return augment


def warp(x: Any, matrix: jax.Array, center: jax.Array | None = None) -> Any:
    """Transform each image by a linear map about its center.

    The random augmentations are based on this function.

    Args:
      x: Images, or a dict; see the module.
      matrix: Matrices (batch, 2, 2) that map a pixel's offset (down, right) from the center to its
        new offset.
      center: Offset in pixels (batch, 2) that is mapped to the center of the result; 0 by default.

    Returns:
      The images, or the dict, transformed; zeros come in from outside.

    Raises:
      TypeError: If an argument is not an array, or if boxes are integers.
      ValueError: If an argument has the wrong shape.

    Example:
      >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)
      >>> quarter = jnp.array([[[0.0, 1.0], [-1.0, 0.0]]])
      >>> warp(x, quarter)[0, :, :, 0].tolist()
      [[6.0, 3.0, 0.0], [7.0, 4.0, 1.0], [8.0, 5.0, 2.0]]
    """
    x, in_form_of_input = _entries("warp", x)
    n = x["image"].shape[0]
    center = jnp.zeros((n, 2)) if center is None else center
    matrix = checks.as_array("warp", "matrix", matrix, "(batch, 2, 2)", "reals", {"batch": n})
    center = checks.as_array("warp", "center", center, "(batch, 2)", "reals", {"batch": n})
    return in_form_of_input(_warp(x, matrix, center))


def matrices(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> jax.Array:
    """Return the matrices [[a, b], [c, d]] of entries (n,), (n, 2, 2)."""
    return jnp.stack([a, b, c, d], -1).reshape(-1, 2, 2)


def _angles(key: jax.Array, n: int, degrees: float) -> jax.Array:
    return math.radians(degrees) * jax.random.uniform(key, (n,), minval=-1, maxval=1)


def _scales(key: jax.Array, n: int, low: float, high: float) -> jax.Array:
    logs = jax.random.uniform(key, (n,), minval=math.log(low), maxval=math.log(high))
    return jnp.exp(logs)[:, None, None] * jnp.eye(2)[None]


def _entries(who: str, x: Any, key: Any = None) -> tuple[dict[str, Any], Callable]:
    """Check the key, and return x as a dict and a function from a dict to the form of x."""
    if who != "warp":
        checks.check_key(key, who)
    entries = dict(x) if isinstance(x, dict) else {"image": x}
    if "image" not in entries:
        raise ValueError(
            f'{who}: expected images, or a dict with them as "image", got one with '
            f"{', '.join(map(str, entries)) or 'nothing'}"
        )
    sizes: dict[str, Any] = {}
    forms = {
        "image": ("(batch, height, width, channels)", "numbers"),
        "mask": ("(batch, height, width)", "booleans or numbers"),
        # Boxes are relative to the image size, so integers would only be 0 or 1.
        "boxes": ("(batch, n, 4)", "floats"),
    }
    for name, (form, dtype) in forms.items():
        if name in entries:
            entries[name] = checks.as_array(who, name, entries[name], form, dtype, sizes)

    def in_form_of_input(out):
        return out if isinstance(x, dict) else out["image"]

    return entries, in_form_of_input


def _warp(
    x: dict[str, Any], matrix: jax.Array, center: jax.Array, displacements: Any = 0.0
) -> dict[str, Any]:
    height, width = x["image"].shape[1:3]
    size = jnp.array([[[height, width]]])
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    grid = jnp.stack([rows, columns], -1)
    offset = grid - (size - 1) / 2  # (height, width, 2), from the center
    # The inverse goes from the result to the image.
    source = jnp.einsum("nij,hwj->nhwi", inverse_2x2(matrix), offset) + center[:, None, None]
    source = source + (size - 1)[None] / 2 + displacements  # (batch, height, width, 2)
    out = x | {"image": jax.vmap(_bilinear)(x["image"], source)}
    if "mask" in x:
        out["mask"] = jax.vmap(_nearest)(x["mask"], source)
    if "boxes" in x:
        out["boxes"] = _warp_boxes(x["boxes"], matrix, center, size[None])
    return out


def _nearest(mask: jax.Array, place: jax.Array) -> jax.Array:
    """Return the values of a mask nearest to positions (height, width, 2), 0 outside."""
    row, column = jnp.moveaxis(jnp.round(place).astype(jnp.int32), -1, 0)
    return mask.at[row, column].get(mode="fill", fill_value=0, wrap_negative_indices=False)


def _bilinear(image: jax.Array, place: jax.Array) -> jax.Array:
    """Interpolate bilinearly at (height, width, 2), in the dtype of the image."""
    place = jnp.round(place * 1024) / 1024  # a rounding error must not move the last pixel outside
    wide = image.astype(jnp.promote_types(image.dtype, place.dtype))
    at = [place[..., 0], place[..., 1]]
    pixels = jax.vmap(lambda a: map_coordinates(a, at, 1, mode="constant"), -1, -1)(wide)
    if jnp.issubdtype(image.dtype, jnp.integer):
        pixels = jnp.round(pixels)
    return pixels.astype(image.dtype)


def _warp_boxes(boxes, matrix, center, size):
    """Return the smallest upright boxes around the transformed corners, clipped at the image."""
    top, left, bottom, right = jnp.moveaxis(boxes, -1, 0)
    corners = [jnp.stack([y, x], -1) for y in (top, bottom) for x in (left, right)]
    corners = (jnp.stack(corners, -2) - 0.5) * size  # (batch, n, 4, 2) pixels from the center
    offsets = corners - center[:, None, None]
    moved = jnp.einsum("nij,nkcj->nkci", matrix, offsets)
    moved = jnp.clip(moved / size + 0.5, 0, 1)
    new = jnp.concatenate([moved.min(-2), moved.max(-2)], -1)  # (batch, n, 4)
    return jnp.where(has_area(boxes) & has_area(new), new, 0).astype(boxes.dtype)


def has_area(boxes: jax.Array) -> jax.Array:
    """Return whether each box has an area, (..., 1)."""
    sizes = boxes[..., 2:] - boxes[..., :2]
    return (sizes > 0).all(-1, keepdims=True)
