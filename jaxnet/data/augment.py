"""Data augmentation: random changes of a batch that keep its shape.

An augmentation is a function `(key, x) -> x` of a batch of inputs. For batches of pairs (inputs,
targets) wrap it in `on_inputs`, and pass it to the objective:
`jn.augmented(objective, on_inputs(random_shift(2)))`.

The inputs have any number of spatial axes between batch and channels: pictures (batch, height,
width, channels), series (batch, time, channels), volumes (batch, depth, height, width, channels).
"Images" below are any of these, and "pixels" are their entries.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.ops.precision import output_dtype
from jaxnet.services import checks
from jaxnet.services.meshes import on_auto_axes
from jaxnet.typing import Augmentation

GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601
SIDE = "the largest side of the images"


def on_inputs(augmentation: Augmentation) -> Augmentation:
    """Return a function that augments the inputs of a batch (inputs, targets).

    The targets do not change. For masks use `on_masks`; for boxes use a dict, see
    `jaxnet.data.warp`.

    Args:
      augmentation: Function `(key, inputs) -> inputs`.

    Returns:
      A function `(key, (inputs, targets)) -> (inputs, targets)`, for `jn.augmented`.

    Raises:
      TypeError: If `augmentation` is not a function.
      TypeError: If a batch is not a pair.

    Example:
      >>> augment = on_inputs(random_shift(2))
      >>> images, labels = augment(jax.random.key(0), (jnp.zeros((3, 8, 7, 1)), jnp.arange(3)))
      >>> images.shape, labels.tolist()
      ((3, 8, 7, 1), [0, 1, 2])
    """

    checks.a_function("on_inputs", "augmentation", augmentation, "(key, inputs)")

    def augment(key, batch):
        hint = "; for inputs alone use the augmentation itself"
        x, targets = _pair("on_inputs", batch, "targets", hint)
        return augmentation(key, x), targets

    return augment


def on_masks(augmentation: Augmentation, *, void: int = 0) -> Augmentation:
    """Return a function that augments the images and masks of a batch alike.

    Args:
      augmentation: Augmentation of a dict with "image" and "mask", such as any in
        `jaxnet.data.warp`.
      void: Label of pixels from outside the image.

    Returns:
      A function `(key, (images, masks)) -> (images, masks)`, for `jn.augmented`. Masks are
      integers with the axes of the images but the channels: (batch, height, width) for pictures,
      (batch, depth, height, width) for volumes.

    Raises:
      TypeError: If `augmentation` is not a function.
      TypeError: If a batch is not a pair, or if its masks are not integers.
      ValueError: If the dtype of the masks cannot hold `void`.

    Example:
      >>> small = on_masks(lambda key, x: jn.data.warp(x, jnp.eye(2)[None] / 3), void=11)
      >>> x, mask = small(jax.random.key(0), (jnp.ones((1, 3, 4, 3)), jnp.full((1, 3, 4), 7)))
      >>> mask[0].tolist()
      [[11, 11, 11, 11], [11, 7, 7, 11], [11, 11, 11, 11]]
    """

    checks.a_function("on_masks", "augmentation", augmentation, "(key, x)")
    checks.at_least("on_masks", "void", void, -(2**31))

    @on_auto_axes
    def augment(key, batch):
        x, mask = _pair("on_masks", batch, "masks")
        mask = checks.as_array("on_masks", "masks", mask, "(batch, ...)", "integers")
        bounds = jnp.iinfo(mask.dtype)
        meaning = f"the range of {mask.dtype} masks"
        checks.between("on_masks", "void", void, bounds.min, bounds.max, meaning)
        shifted = {"image": x, "mask": mask - void}  # pixels from outside are 0, then void
        moved = augmentation(key, shifted)
        return moved["image"], moved["mask"] + void

    return augment


def random_shift(pixels: int) -> Augmentation:
    """Return a function that shifts each image at random, padding with zeros.

    Args:
      pixels: Largest shift along each axis, at least 1 and at most the largest side of the images.
        Shifts are drawn uniformly.

    Returns:
      A function `(key, images (batch, *space, channels)) -> images`.

    Raises:
      TypeError, ValueError: If `pixels` is below 1, or if the input has the wrong rank.

    Example:
      >>> image = jnp.zeros((1, 5, 7, 1)).at[0, 2, 3, 0].set(1.0)
      >>> moved = random_shift(2)(jax.random.key(0), image)
      >>> moved.shape, float(moved.sum())
      ((1, 5, 7, 1), 1.0)
    """
    checks.at_least("random_shift", "pixels", pixels)

    @on_auto_axes
    def augment(key, x):
        x = images("random_shift", key, x)
        n, *sides, _ = x.shape
        checks.between("random_shift", "pixels", pixels, 1, max(sides), SIDE)
        room = jnp.pad(x, ((0, 0), *[(pixels, pixels)] * len(sides), (0, 0)))
        corners = jax.random.randint(key, (n, len(sides)), 0, 2 * pixels + 1)

        def cut(image, corner):
            return jax.lax.dynamic_slice(image, (*corner, 0), x.shape[1:])

        return jax.vmap(cut)(room, corners)

    return augment


def chain(*augmentations: Augmentation) -> Augmentation:
    """Return a function that applies augmentations in turn, each with its own key.

    Args:
      augmentations: Augmentations in the order of their application.

    Returns:
      An augmentation `(key, batch) -> batch` that applies them in order.

    Raises:
      TypeError: If an augmentation is not a function.

    Example:
      >>> augment = chain(random_shift(1), cutout(2))
      >>> augment(jax.random.key(0), jnp.ones((3, 8, 7, 1))).shape
      (3, 8, 7, 1)
    """

    for i, augmentation in enumerate(augmentations):
        checks.a_function("chain", f"augmentation {i}", augmentation, "(key, x)")

    def augment(key, x):
        for i, augmentation in enumerate(augmentations):
            x = augmentation(jax.random.fold_in(key, i), x)
        return x

    return augment


def color_jitter(
    *, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0
) -> Augmentation:
    """Return a function that changes brightness, contrast and saturation at random.

    Each strength s draws a factor from [1 - s, 1 + s] for each image. Brightness multiplies all
    values, contrast the differences from the image's mean gray, and saturation the differences from
    each pixel's gray. The result is clipped to
    [0, 1], the range of the images, so standardize images after this augmentation. A little more
    than this range, as after a cubic interpolation, is fine.

    Args:
      brightness, contrast, saturation: Strengths in [0, 1]; saturation needs three channels.

    Returns:
      A function `(key, images (batch, *space, channels)) -> images`.

    Raises:
      TypeError: If the input holds integers.
      ValueError: If a strength is outside [0, 1].
      ValueError: If the input has the wrong shape.
      ValueError: If the input has values outside [-1, 2], such as 0 to 255. Inside `jit`, where
        values are not known, the whole output is then NaN.

    Example:
      >>> x = jnp.full((2, 4, 5, 3), 0.5)
      >>> color_jitter(brightness=0.2, saturation=0.5)(jax.random.key(0), x).shape
      (2, 4, 5, 3)
    """
    strengths: Any = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    checks.all_within("color_jitter", "[0, 1]", **strengths)

    @on_auto_axes
    def augment(key, x):
        x = images("color_jitter", key, x, "floats")
        if saturation and x.shape[-1] != 3:
            raise ValueError(
                "color_jitter: expected images (batch, *space, channels), with 3 channels for "
                f"saturation, got {x.shape}. Pass saturation=0"
            )
        foreign = in_other_units("color_jitter", x)
        strong = jnp.array(list(strengths.values()))[:, None]
        factors = 1 + strong * jax.random.uniform(key, (3, len(x)), minval=-1, maxval=1)
        per_image = factors.reshape(3, -1, *[1] * (x.ndim - 1))
        for_brightness, for_contrast, for_saturation = per_image
        y = x * for_brightness
        gray = in_gray(y)
        if x.shape[-1] == 3:
            y = gray + for_saturation * (y - gray)
        mean = gray.mean(tuple(range(1, x.ndim - 1)), keepdims=True)
        y = jnp.clip(mean + for_contrast * (y - mean), 0, 1)
        return jnp.where(foreign, jnp.nan, y).astype(x.dtype)

    return augment


def cutout(size: int) -> Augmentation:
    """Return a function that sets a random square of each image to 0: in a volume, a cube.

    Args:
      size: Side of the square in pixels, at least 1 and at most the largest side of the images. Its
        center is anywhere in the image, so near the border a part of it is outside.

    Returns:
      A function `(key, images (batch, *space, channels)) -> images`.

    Raises:
      TypeError, ValueError: If `size` is below 1, or if the input has the wrong rank.

    Example:
      >>> y = cutout(2)(jax.random.key(0), jnp.ones((1, 4, 6, 1)))
      >>> y[0, :, :, 0]  # half of this square is outside
      Array([[0., 1., 1., 1., 1., 1.],
             [0., 1., 1., 1., 1., 1.],
             [1., 1., 1., 1., 1., 1.],
             [1., 1., 1., 1., 1., 1.]], dtype=float32)

    Reference: DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks
    with Cutout".
    """
    checks.at_least("cutout", "size", size)

    @on_auto_axes
    def augment(key, x):
        x = images("cutout", key, x)
        n, *sides, _ = x.shape
        checks.between("cutout", "size", size, 1, max(sides), SIDE)
        first = jax.random.randint(key, (n, len(sides)), 0, jnp.array([sides])) - size // 2
        inside = _rectangles(first, first + size, sides)[..., None]
        return jnp.where(inside, jnp.zeros((), x.dtype), x)

    return augment


def mixup(alpha: float, classes: int) -> Augmentation:
    """Return a function that mixes each example with another of the batch, labels included.

    It maps batches (inputs, labels) to (inputs, targets), where targets (batch, classes) are class
    probabilities, for a loss such as `optax.softmax_cross_entropy`.

    Args:
      alpha: Parameter of the distribution Beta(alpha, alpha) of the weights, above 0; 0.2 mixes
        most pairs a little, 1 gives uniform weights.
      classes: Number of classes, at least 1.

    Returns:
      A function `(key, (inputs, labels)) -> (inputs, targets (batch, classes))`.

    Raises:
      TypeError: If the inputs are not floats, or if the labels are not integers.
      ValueError: If `alpha` or `classes` is out of range.
      ValueError: If a label is outside [0, classes). Inside `jit`, where labels are not known, its
        target is NaN.

    Example:
      >>> x, y = jnp.eye(4), jnp.array([0, 1, 2, 2])
      >>> blended, shares = mixup(0.2, classes=3)(jax.random.key(0), (x, y))
      >>> blended.shape, shares.shape, shares.sum(-1).round(5).tolist()
      ((4, 4), (4, 3), [1.0, 1.0, 1.0, 1.0])

    Reference: Zhang et al. 2017, "mixup: Beyond Empirical Risk Minimization".
    """
    checks.within("mixup", "alpha", alpha, "(0, inf)")
    checks.at_least("mixup", "classes", classes)

    @on_auto_axes
    def augment(key, batch):
        x, targets = _labeled("mixup", key, batch, "(batch, ...)", "floats", classes)
        weight_key, order_key = jax.random.split(key)
        weights = jax.random.beta(weight_key, alpha, alpha, (len(x),)).astype(x.dtype)
        order = jax.random.permutation(order_key, len(x))

        def blend(a):
            weight = weights.reshape(-1, *[1] * (a.ndim - 1))
            return weight * a + (1 - weight) * a[order]

        return blend(x), blend(targets)

    return augment


def cutmix(alpha: float, classes: int) -> Augmentation:
    """Return a function that replaces a rectangle of each image by one of another image.

    In a volume, it is a box. Both images are of the same batch. The function maps batches (images,
    labels) to (images, targets), where targets (batch, classes) are class probabilities: each label
    has the fraction of the pixels that come from its image.

    Args:
      alpha: Parameter of the distribution Beta(alpha, alpha) of the fraction of the pixels that
        stay, above 0; 1 gives uniform fractions. The rectangle has the proportions of the image and
        its center is anywhere, so near the border a part of it is outside.
      classes: Number of classes, at least 1.

    Returns:
      A function `(key, (images, labels)) -> (images, targets (batch, classes))`.

    Raises:
      TypeError: If the inputs are not images, or if the labels are not integers.
      ValueError: If `alpha` or `classes` is out of range.
      ValueError: If a label is outside [0, classes). Inside `jit`, where labels are not known, its
        target is NaN.

    Example:
      >>> x, y = jnp.arange(3.0).reshape(3, 1, 1, 1).repeat(8, 1).repeat(6, 2), jnp.arange(3)
      >>> mixed, shares = cutmix(1.0, classes=3)(jax.random.key(0), (x, y))
      >>> mixed.shape, shares.sum(-1).round(5).tolist()
      ((3, 8, 6, 1), [1.0, 1.0, 1.0])

    Reference: Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features".
    """
    checks.within("cutmix", "alpha", alpha, "(0, inf)")
    checks.at_least("cutmix", "classes", classes)

    @on_auto_axes
    def augment(key, batch):
        x, _ = _pair("cutmix", batch, "labels")
        checks.as_spatial("cutmix", "inputs", x)
        x, targets = _labeled("cutmix", key, batch, "(batch, ...)", "booleans or numbers", classes)
        share_key, order_key, place_key = jax.random.split(key, 3)
        n, *size, _ = x.shape
        axes = len(size)
        stays = jax.random.beta(share_key, alpha, alpha, (n, 1))
        part_of_side = jnp.sqrt(1 - stays) if axes == 2 else (1 - stays) ** (1 / axes)
        half = part_of_side * jnp.array([size]) / 2  # of the sides
        middle = jax.random.uniform(place_key, (n, axes)) * jnp.array([size])
        other = _rectangles(jnp.round(middle - half), jnp.round(middle + half), size)
        order = jax.random.permutation(order_key, n)
        part = other.mean(tuple(range(1, 1 + axes)))[:, None].astype(targets.dtype)
        mixed = jnp.where(other[..., None], x[order], x)
        return mixed, (1 - part) * targets + part * targets[order]

    return augment


def _rectangles(low: jax.Array, high: jax.Array, sides: Any) -> jax.Array:
    """Return which pixels are from `low` to `high`, both (batch, axes), as (batch, *sides)."""
    inside: Any = True
    for axis, side in enumerate(sides):
        ones = [1] * len(sides)
        place = jnp.arange(side).reshape(1, *ones[:axis], side, *ones[axis + 1 :])
        first, end = (ends[:, axis].reshape(-1, *ones) for ends in (low, high))
        inside &= (place >= first) & (place < end)
    return inside


def _labeled(
    who: str, key: Any, batch: Any, form: str, dtype: str, classes: int
) -> tuple[jax.Array, jax.Array]:
    """Return the inputs of a batch and one-hot targets, NaN if a label is not a class."""
    x, labels = _pair(who, batch, "labels")
    x = checks.as_array(who, "inputs", x, form, dtype)
    labels = checks.as_array(who, "labels", labels, "(batch,)", "integers", {"batch": len(x)})
    checks.check_range(labels, classes, f"{who}: labels")
    checks.check_key(key, who)
    in_range = ((labels >= 0) & (labels < classes))[:, None]
    one_hot = jax.nn.one_hot(labels, classes, dtype=output_dtype(x))
    return x, jnp.where(in_range, one_hot, jnp.nan)


def _pair(who: str, batch: Any, second: str, hint: str = "") -> Any:
    """Return the batch; raise unless it is a pair of inputs and something else."""
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        got = type(batch).__name__
        raise TypeError(f"{who}: expected a batch (inputs, {second}), got {got}{hint}")
    return batch


def images(who: str, key: Any, x: Any, dtype: str = "booleans or numbers") -> jax.Array:
    """Return a checked batch of images, and check the key."""
    checks.check_key(key, who)
    if isinstance(x, dict):
        raise TypeError(
            f"{who}: changes images alone, got a dict of {', '.join(x)}. For images together with "
            "masks or boxes, take jn.data.elastic(shift=...), random_flip() or random_crop(...)"
        )
    return checks.as_spatial(who, "inputs", x, dtype)


def in_gray(x: jax.Array) -> jax.Array:
    """Return the gray of each pixel, of one channel; the mean unless there are three channels."""
    if x.shape[-1] != 3:
        return x.mean(-1, keepdims=True)
    return (x @ jnp.array(GRAY, x.dtype))[..., None]


def in_other_units(who: str, x: jax.Array) -> jax.Array:
    """Return whether images are not in [0, 1]; raise if they are known.

    Values that overshoot a little pass, as after a cubic interpolation.
    """
    foreign = ((x < -1) | (x > 2)).any()
    if not checks.is_traced(foreign) and foreign:
        raise ValueError(
            f"{who}: images must be in [0, 1], got values from {x.min():.3g} to {x.max():.3g}. For "
            "images from 0 to 255, write x / 255; standardize images after this augmentation"
        )
    return foreign
