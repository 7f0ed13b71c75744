"""Patches: small squares cut from large images, at places drawn at random."""

from collections.abc import Sequence

import numpy as np


def patches(images: Sequence, size: int, count: int, *, seed: int = 0) -> np.ndarray:
    """Squares cut from images: every place of every image is as likely as any other.

    Args:
      images: each (height, width) or (height, width, channels), of sizes that may differ; one
        array with the images along its first axis will do.
      size: side of a square in pixels, at least 1 and at most that of the smallest image.
      count: number of patches, at least 1.
      seed: draws the places; the same seed and images give the same patches.

    Returns:
      (count, size, size) or (count, size, size, channels), of the images' dtype.

    Raises:
      ValueError: for no images, images of several counts of channels, or a size that does not fit.

    Example:
      >>> photos = [np.zeros((40, 50, 3)), np.ones((30, 70, 3))]
      >>> patches(photos, 8, 5).shape
      (5, 8, 8, 3)
    """
    images = [np.asarray(image) for image in images]
    if not images or any(image.ndim not in (2, 3) for image in images):
        raise ValueError(
            "patches: needs images (height, width) or (height, width, channels), at least one, got "
            f"{[image.shape for image in images][:4]}; for one image write [image]"
        )
    if len({image.shape[2:] for image in images}) > 1:
        raise ValueError(
            "patches: all images need as many channels, got "
            f"{sorted({image.shape[2:] for image in images})}"
        )
    smallest = min(min(image.shape[:2]) for image in images)
    if not 1 <= size <= smallest:
        raise ValueError(f"patches: size must be 1 to {smallest}, the smallest side, got {size}")
    if count < 1:
        raise ValueError(f"patches: count must be at least 1, got {count}")
    draw = np.random.default_rng(seed)
    rooms = np.array([[side - size + 1 for side in image.shape[:2]] for image in images])
    places = rooms.prod(1)
    cut = []
    for which in draw.choice(len(images), count, p=places / places.sum()):
        row, column = draw.integers(rooms[which])
        cut.append(images[which][row : row + size, column : column + size])
    return np.stack(cut)
