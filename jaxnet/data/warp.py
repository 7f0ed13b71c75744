"""Geometric augmentations of images, masks and boxes: flip, rotate, shear, scale, crop, elastic.

Each is a function `(key, x) -> x`, pure and jitted with the training step. x is a batch of images
(batch, height, width, channels), or a dict with "image" and any of "mask", the label of each pixel,
(batch, height, width), and "boxes", (batch, n, 4): (top, left, bottom, right) relative to the image
size, as in TensorFlow Datasets. Masks and boxes are transformed with the images; other entries do
not change. Pixels from outside the image are 0. Images are interpolated bilinearly; masks take the
nearest pixel. A box becomes the smallest upright box around its transformed corners, clipped at the
image. A box without area is padding and stays so.

Images may have another number of spatial axes: series (batch, time, channels), volumes (batch,
depth, height, width, channels). Masks then have the same axes but the channels, and boxes the first
ends along all axes before the last ends: (start, end), (front, top, left, back, bottom, right).
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from jaxnet.ops.linalg import small_inverse
from jaxnet.services import checks
from jaxnet.services.meshes import on_auto_axes
from jaxnet.typing import Augmentation


def random_flip(*, vertical: bool = False, axis: int | None = None) -> Augmentation:
    """Return a function that flips each image left to right with probability 1/2.

    Args:
      vertical: Whether to flip images upside down instead.
      axis: Spatial axis to flip instead, among those between batch and channels: in a volume, 0 is
        the depth, 1 the height and 2 the width. It may be negative: -1 is the last, the default.

    Returns:
      A function `(key, x) -> x` of images, or of a dict that has masks or boxes too.

    Raises:
      ValueError: If both `vertical` and `axis` are given.
      ValueError: If the input does not have this spatial axis.

    Example:
      >>> x = jnp.arange(6.0).reshape(1, 2, 3, 1)
      >>> boxes = jnp.array([[[0, 0, 1, 0.25]]])
      >>> y = random_flip()(jax.random.key(1), {"image": x, "boxes": boxes})
      >>> y["image"].shape, y["boxes"].shape
      ((1, 2, 3, 1), (1, 1, 4))
    """
    checks.check_options("random_flip", vertical=vertical)
    if axis is not None:
        checks.at_least("random_flip", "axis", axis, -(2**31))
        if vertical:
            raise ValueError(f"random_flip: pass vertical=True or axis={axis}, not both")
    wanted = axis if axis is not None else -2 if vertical else -1

    @on_auto_axes
    def augment(key, x):
        x, in_form_of_input = _entries("random_flip", x, key)
        place = _spatial_axis(wanted, x["image"].shape)
        flip = jax.random.bernoulli(key, shape=(x["image"].shape[0],))
        for name in ("image", "mask"):
            if name in x:
                is_flipped = flip.reshape(-1, *[1] * (x[name].ndim - 1))
                x[name] = jnp.where(is_flipped, jnp.flip(x[name], 1 + place), x[name])
        if "boxes" in x:
            is_flipped = flip[:, None, None]
            x["boxes"] = jnp.where(is_flipped, _flipped_boxes(x["boxes"], place), x["boxes"])
        return in_form_of_input(x)

    return augment


def _spatial_axis(axis: int, shape: tuple[int, ...]) -> int:
    """Return a spatial axis of images of this shape, counted from the first."""
    axes = len(shape) - 2
    if not -axes <= axis < axes:
        raise ValueError(
            f"random_flip: axis must be {-axes} to {axes - 1}, a spatial axis of inputs {shape}, "
            f"got {axis}"
        )
    return axis % axes


def _flipped_boxes(boxes: jax.Array, axis: int) -> jax.Array:
    low, high = axis, axis + boxes.shape[-1] // 2
    ends = 1 - boxes[..., [high, low]]
    return jnp.where(has_area(boxes), boxes.at[..., [low, high]].set(ends), boxes)


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

    A volume is rotated and sheared in each plane of two axes, one plane after another, by an angle
    for each. A series does not have such a plane, so pass neither `rotation` nor `shear` for it.

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
      ValueError: If the input is a series, and `rotation` or `shear` is above 0.

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
        n, *sides, _ = x["image"].shape
        axes = len(sides)
        if axes == 1 and (rotation or shear):
            raise ValueError(
                "elastic: series (batch, time, channels) cannot be rotated or sheared, got "
                f"rotation={rotation} and shear={shear} for inputs {x['image'].shape}. Pass "
                "rotation=0 and shear=0"
            )
        shift_key, scale_key, rotation_key, shear_key = jax.random.split(key, 4)
        matrix = _scales(scale_key, n, low, high, axes)  # (batch, axes, axes)
        for turn in _rotations(rotation_key, n, rotation, axes):
            matrix = matrix @ turn
        if axes > 1:
            matrix = matrix @ _shears(shear_key, n, shear, axes)
        shifts = shift * jax.random.uniform(shift_key, (n, axes), minval=-1, maxval=1)
        # The shift moves the result. For the image it has the opposite sign, and comes before the
        # matrix.
        center = -(small_inverse(matrix) @ shifts[..., None])[..., 0]
        displacements = 0.0
        if displacement:
            noise_key = jax.random.fold_in(key, 4)
            noise = _smooth_noise(noise_key, n, sides, spacing)
            displacements = displacement * noise
        return in_form_of_input(_warp(x, matrix, center, displacements))

    return augment


def _rotations(key: jax.Array, n: int, degrees: float, axes: int) -> list[jax.Array]:
    """Draw a rotation in each plane of two axes, (n, axes, axes) each."""
    planes = list(itertools.combinations(range(axes), 2))
    angles = _angles(key, n, len(planes), degrees)
    turns = []
    for (i, j), angle in zip(planes, angles, strict=True):
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        turn = jnp.broadcast_to(jnp.eye(axes), (n, axes, axes))
        turn = turn.at[:, i, i].set(cos).at[:, i, j].set(sin)
        turns.append(turn.at[:, j, i].set(-sin).at[:, j, j].set(cos))
    return turns


def _shears(key: jax.Array, n: int, degrees: float, axes: int) -> jax.Array:
    """Draw a shear of each axis along those before it, (n, axes, axes)."""
    planes = list(itertools.combinations(range(axes), 2))
    shears = jnp.broadcast_to(jnp.eye(axes), (n, axes, axes))
    for (i, j), slant in zip(planes, _angles(key, n, len(planes), degrees), strict=True):
        shears = shears.at[:, j, i].set(jnp.tan(slant))
    return shears


def _smooth_noise(key: jax.Array, n: int, sides: list[int], spacing: float) -> jax.Array:
    """Draw a vector for each point of a coarse grid, and interpolate (batch, *sides, axes)."""
    points = [max(2, math.ceil(side / spacing) + 1) for side in sides]
    coarse = jax.random.normal(key, (n, *points, len(sides)))
    return jax.image.resize(coarse, (n, *sides, len(sides)), "cubic")


def random_crop(min_scale: float) -> Augmentation:
    """Return a function that crops a random part of each image and resizes it to full size.

    For a crop of the padded image, as on CIFAR-10, use `random_shift(pixels)`.

    Args:
      min_scale: Smallest size of the part relative to the sides of the image, in (0, 1).

    Returns:
      A function `(key, x) -> x` of images, or of a dict that has masks or boxes too.

    Raises:
      ValueError: If `min_scale` is outside (0, 1).

    Example:
      >>> random_crop(0.7)(jax.random.key(0), jnp.ones((3, 8, 6, 1))).shape
      (3, 8, 6, 1)

    Reference: Szegedy et al. 2014, "Going Deeper with Convolutions".
    """
    meaning = "a part of all sides (in pixels: random_shift)"
    checks.within("random_crop", "min_scale", min_scale, "(0, 1)", meaning)

    @on_auto_axes
    def augment(key, x):
        x, in_form_of_input = _entries("random_crop", x, key)
        n, *sides, _ = x["image"].shape
        axes = len(sides)
        size_key, place_key = jax.random.split(key)
        size = jax.random.uniform(size_key, (n, 1), minval=min_scale, maxval=1)
        # The range of the center of the part.
        room = (jnp.array([sides]) - 1) / 2 * (1 - size)
        center = room * jax.random.uniform(place_key, (n, axes), minval=-1, maxval=1)
        matrix = jnp.eye(axes)[None] / size[..., None]
        return in_form_of_input(_warp(x, matrix, center))

    return augment


def warp(x: Any, matrix: jax.Array, center: jax.Array | None = None) -> Any:
    """Transform each image by a linear map about its center.

    The random augmentations are based on this function.

    Args:
      x: Images, or a dict; see the module.
      matrix: Matrices (batch, 2, 2) that map a pixel's offset (down, right) from the center to its
        new offset; for volumes (batch, 3, 3), with offsets (back, down, right).
      center: Offset in pixels (batch, 2) that is mapped to the center of the result, 0 by default;
        for volumes (batch, 3).

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
    n, *sides, _ = x["image"].shape
    axes, size = len(sides), {"batch": n}
    center = jnp.zeros((n, axes)) if center is None else center
    matrix = checks.as_array("warp", "matrix", matrix, f"(batch, {axes}, {axes})", "reals", size)
    center = checks.as_array("warp", "center", center, f"(batch, {axes})", "reals", size)
    return in_form_of_input(_warp(x, matrix, center))


def matrices(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> jax.Array:
    """Return the matrices [[a, b], [c, d]] of entries (n,), (n, 2, 2)."""
    return jnp.stack([a, b, c, d], -1).reshape(-1, 2, 2)


def _angles(key: jax.Array, n: int, planes: int, degrees: float) -> jax.Array:
    """Draw the angles of each plane, (planes, n), in radians."""
    return math.radians(degrees) * jax.random.uniform(key, (planes, n), minval=-1, maxval=1)


def _scales(key: jax.Array, n: int, low: float, high: float, axes: int) -> jax.Array:
    logs = jax.random.uniform(key, (n,), minval=math.log(low), maxval=math.log(high))
    return jnp.exp(logs)[:, None, None] * jnp.eye(axes)[None]


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
    entries["image"] = checks.as_spatial(who, "image", entries["image"], "numbers", sizes)
    axes = entries["image"].ndim - 2
    forms = {
        "mask": (checks.form_of(axes).replace(", channels", ""), "booleans or numbers"),
        # Boxes are relative to the image size, so integers would only be 0 or 1.
        "boxes": (f"(batch, n, {2 * axes})", "floats"),
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
    n, *sides, _ = x["image"].shape
    space = "xyzuvw"[: len(sides)]
    size = jnp.array(sides).reshape(*[1] * len(sides), -1)
    grid = jnp.stack(jnp.meshgrid(*map(jnp.arange, sides), indexing="ij"), -1)
    offset = grid - (size - 1) / 2  # (*sides, axes), from the center
    # The inverse goes from the result to the image.
    source = jnp.einsum(f"nij,{space}j->n{space}i", small_inverse(matrix), offset)
    source = source + center.reshape(n, *[1] * len(sides), -1)
    source = source + (size - 1)[None] / 2 + displacements  # (batch, *sides, axes)
    out = x | {"image": jax.vmap(_bilinear)(x["image"], source)}
    if "mask" in x:
        out["mask"] = jax.vmap(_nearest)(x["mask"], source)
    if "boxes" in x:
        out["boxes"] = _warp_boxes(x["boxes"], matrix, center, size.reshape(1, 1, 1, -1))
    return out


def _nearest(mask: jax.Array, place: jax.Array) -> jax.Array:
    """Return the values of a mask nearest to positions (*sides, axes), 0 outside."""
    at = tuple(jnp.moveaxis(jnp.round(place).astype(jnp.int32), -1, 0))
    return mask.at[at].get(mode="fill", fill_value=0, wrap_negative_indices=False)


def _bilinear(image: jax.Array, place: jax.Array) -> jax.Array:
    """Interpolate linearly along each axis at (*sides, axes), in the dtype of the image."""
    place = jnp.round(place * 1024) / 1024  # a rounding error must not move the last pixel outside
    wide = image.astype(jnp.promote_types(image.dtype, place.dtype))
    at = [place[..., axis] for axis in range(place.shape[-1])]
    pixels = jax.vmap(lambda a: map_coordinates(a, at, 1, mode="constant"), -1, -1)(wide)
    if jnp.issubdtype(image.dtype, jnp.integer):
        pixels = jnp.round(pixels)
    return pixels.astype(image.dtype)


def _warp_boxes(boxes, matrix, center, size):
    """Return the smallest upright boxes around the transformed corners, clipped at the image."""
    ends = jnp.split(jnp.moveaxis(boxes, -1, 0), 2)
    corners = [jnp.stack(corner, -1) for corner in itertools.product(*zip(*ends, strict=True))]
    corners = (jnp.stack(corners, -2) - 0.5) * size  # (batch, n, 4, 2) pixels from the center
    offsets = corners - center[:, None, None]
    moved = jnp.einsum("nij,nkcj->nkci", matrix, offsets)
    moved = jnp.clip(moved / size + 0.5, 0, 1)
    new = jnp.concatenate([moved.min(-2), moved.max(-2)], -1)  # (batch, n, 4)
    return jnp.where(has_area(boxes) & has_area(new), new, 0).astype(boxes.dtype)


def has_area(boxes: jax.Array) -> jax.Array:
    """Return whether each box has an area, (..., 1)."""
    axes = boxes.shape[-1] // 2
    sizes = boxes[..., axes:] - boxes[..., :axes]
    return (sizes > 0).all(-1, keepdims=True)
