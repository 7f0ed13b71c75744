"""Synthetic scenes of handwritten digits with exact masks and boxes, which need no network."""

from typing import NamedTuple

import numpy as np

from jaxnet.data import digits
from jaxnet.data.boxes import pad_boxes
from jaxnet.services.checks import all_at_least, at_least, between, check_sizes
from jaxnet.typing import Pair

LEAST = 14  # pixels of a digit's side, including its margin
MOST = 24
PALE = 0.25  # ink below it is paper
CLEAR = 0.5  # ink above it is a digit, and between the two it is void


class Scenes(NamedTuple):
    """The training or the test scenes of `digit_scenes`.

    Fields:
      images: Images (n, height, width, 3), float32 in [0, 1], dark ink on bright paper.
      masks: Class of each pixel (n, height, width), int32: `classes` for paper, `classes` + 1 for
        void, the pale edge of the ink.
      boxes: Dict of "boxes" (n, max_digits, 4) float32, (top, left, bottom, right) relative to the
        image size, 0 for padding, and "classes" (n, max_digits) int32, -1 for padding.
    """

    images: np.ndarray
    masks: np.ndarray
    boxes: dict[str, np.ndarray]


def digit_scenes(
    train: int = 800,
    test: int = 100,
    *,
    classes: int = 10,
    max_digits: int = 4,
    size: tuple[int, int] = (48, 64),
    seed: int = 0,
) -> tuple[Scenes, Scenes]:
    """Generate scenes of one to `max_digits` digits of different sizes.

    The scenes are for segmentation and detection. The digits are from scikit-learn, enlarged to 14
    to 24 pixels, in random colors, without overlap. Training and test scenes have no digit in
    common. A box is the smallest around a digit's ink, without void.

    Args:
      train, test: Numbers of scenes.
      classes: Number of classes, 1 to 10: the digits 0 to classes - 1.
      max_digits: Largest number of digits per scene, 1 to 100; a scene without space has fewer.
      size: Height and width of a scene, at least 24 each.
      seed: Seed of the random draw.

    Returns:
      (train, test), each `Scenes`.

    Raises:
      TypeError: If an option is not an integer.
      ValueError: If an option is out of range.
      ImportError: If scikit-learn is not installed.

    Example:
      >>> train, test = digit_scenes(7, 5, max_digits=3, size=(30, 40))
      >>> train.images.shape, test.masks.shape, train.boxes["boxes"].shape
      ((7, 30, 40, 3), (5, 30, 40), (7, 3, 4))
    """
    all_at_least("digit_scenes", train=train, test=test)
    at_least("digit_scenes", "seed", seed, 0)
    between("digit_scenes", "max_digits", max_digits, 1, 100)
    between("digit_scenes", "classes", classes, 1, 10)
    check_sizes("digit_scenes", "size", size, "(height, width)", MOST)
    rng = np.random.default_rng(seed)
    train_digits, test_digits = digits()
    first = _scenes(rng, train_digits, train, classes, max_digits, size)
    second = _scenes(rng, test_digits, test, classes, max_digits, size)
    return first, second


def _scenes(
    rng, data: Pair, n: int, classes: int, max_digits: int, size: tuple[int, int]
) -> Scenes:
    images, labels = data
    of_classes = labels < classes
    images, labels = images[of_classes], labels[of_classes]
    ink = np.zeros((n, *size), np.float32)
    colors = np.zeros((n, *size, 3), np.float32)
    masks = np.full((n, *size), classes, np.int32)
    boxes = []
    all_labels = []
    for i in range(n):
        places = []
        scene_labels = []
        for _ in range(rng.integers(1, max_digits + 1)):
            side = rng.integers(LEAST, MOST + 1)
            which = rng.integers(len(images))
            corner = _free_corner(rng, ink[i], side)
            if corner is None:
                continue
            row, column = corner
            window = np.s_[row : row + side, column : column + side]
            ink[i][window] = drawn = enlarge(images[which, ..., 0], side)
            colors[i][window] = rng.uniform(0, 0.5, 3)
            masks[i][window] = np.where(drawn > PALE, labels[which], classes)
            places.append(_box(drawn) + np.tile(corner, 2))
            scene_labels.append(labels[which])
        boxes.append(np.reshape(places, (-1, 4)) / np.tile(size, 2))
        all_labels.append(np.array(scene_labels))
    masks[(ink > PALE) & (ink <= CLEAR)] = classes + 1
    paper = rng.uniform(0.75, 1, (n, 1, 1, 3)).astype(np.float32)
    pictures = paper + ink[..., None] * (colors - paper)
    return Scenes(pictures, masks, pad_boxes(boxes, all_labels, max_boxes=max_digits))


def _free_corner(rng, ink: np.ndarray, side: int) -> np.ndarray | None:
    """Return row and column of a square without ink, or None if 20 attempts find none."""
    for _ in range(20):
        row, column = corner = rng.integers(0, np.subtract(ink.shape, side) + 1)
        if not ink[row : row + side, column : column + side].any():
            return corner
    return None


def _box(drawn: np.ndarray) -> np.ndarray:
    """Return top, left, bottom and right of the ink of a digit."""
    rows, columns = np.nonzero(drawn > CLEAR)
    return np.array([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1])


def enlarge(image: np.ndarray, side: int) -> np.ndarray:
    """Interpolate bilinearly from (8, 8) to (side, side), scaled to a largest value of 1."""
    pixels = np.arange(len(image))
    places = (np.arange(side) + 0.5) * len(image) / side - 0.5
    places = np.clip(places, 0, len(image) - 1)
    weights = np.maximum(0, 1 - np.abs(places[:, None] - pixels))  # (side, 8)
    large = weights @ image @ weights.T
    return (large / large.max()).astype(np.float32)
