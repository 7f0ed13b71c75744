"""Random patches of images and volumes."""

from collections.abc import Sequence

import numpy as np

from jaxnet.services.checks import at_least, between, check_list, on_host


def patches(images: Sequence, size: int, count: int, *, seed: int = 0) -> np.ndarray:
    """Draw square patches uniformly over all positions of all images.

    Volumes give cubes. For the masks of images, call it again with the same seed: the positions
    depend on the sizes alone. Masks of volumes need an axis of channels too, `masks[..., None]`.

    Args:
      images: Images (height, width) or (height, width, channels), or volumes (depth, height, width,
        channels), whose sizes may differ; or one array of images.
      size: Side of a patch in pixels, at least 1 and at most the smallest side.
      count: Number of patches, at least 1.
      seed: Seed of the positions; the same seed and images give the same patches.

    Returns:
      (count, size, size) or (count, size, size, channels), for volumes (count, size, size, size,
      channels), with the images' dtype.

    Raises:
      TypeError: If `images` is not a list of images, or if an option is not an integer.
      ValueError: If `images` is empty, or if the numbers of axes or channels differ.
      ValueError: If `size` is out of range.

    Example:
      >>> photos = [np.zeros((40, 50, 3)), np.ones((30, 70, 3))]
      >>> patches(photos, 8, 5).shape
      (5, 8, 8, 3)
    """
    listed = check_list("patches", "images", images, "images")
    images = []
    for i, image in enumerate(listed):
        images.append(on_host("patches", f"image {i}", image, dtype="booleans or numbers"))
    axes = {max(2, image.ndim - 1) for image in images}
    if len(axes) != 1 or min(image.ndim for image in images) < 2:
        raise ValueError(
            "patches: expected images (height, width) or (height, width, channels), or volumes "
            "(depth, height, width, channels), at least one, "
            f"got {[image.shape for image in images][:4]}; for one image pass [image]"
        )
    spatial = axes.pop()
    channels = {image.shape[spatial:] for image in images}
    if len(channels) > 1:
        raise ValueError(
            f"patches: all images must have the same number of channels, got {sorted(channels)}"
        )
    smallest = min(min(image.shape[:spatial]) for image in images)
    between("patches", "size", size, 1, smallest, "the smallest side")
    at_least("patches", "count", count)
    at_least("patches", "seed", seed, 0)
    draw = np.random.default_rng(seed)
    rooms = np.array([np.subtract(image.shape[:spatial], size - 1) for image in images])
    places = rooms.prod(1)
    cut = []
    for which in draw.choice(len(images), count, p=places / places.sum()):
        corner = draw.integers(rooms[which])
        cut.append(images[which][tuple(slice(first, first + size) for first in corner)])
    return np.stack(cut)
