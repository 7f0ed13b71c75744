"""Image classification datasets: MNIST and CIFAR-10."""

from pathlib import Path

import numpy as np

from jaxnet.data import tfds
from jaxnet.typing import Pair


def mnist(*, data_dir: str | Path | None = None, download: bool = False) -> tuple[Pair, Pair]:
    """Load 70,000 handwritten digits of 28x28 pixels: 60,000 for training, 10,000 for test.

    Args:
      data_dir: Folder of the datasets, see `tfds.load`.
      download: Whether to download missing data, see `tfds.load`.

    Returns:
      ((x_train, y_train), (x_test, y_test)): images (n, 28, 28, 1) float32 in [0, 1], 0 for paper
      and 1 for ink; labels (n,) int32 in 0..9.

    Raises:
      ImportError, FileNotFoundError: As in `tfds.load`.

    Example:
      >>> (x_train, y_train), test = mnist()  # doctest: +SKIP

    Reference: LeCun et al. 1998, "Gradient-based learning applied to document recognition".
    """
    return _train_and_test("mnist", data_dir, download)


def cifar10(*, data_dir: str | Path | None = None, download: bool = False) -> tuple[Pair, Pair]:
    """Load 60,000 photographs of 32x32 pixels, ten classes: 50,000 for training, 10,000 for test.

    Args:
      data_dir: Folder of the datasets, see `tfds.load`.
      download: Whether to download missing data, see `tfds.load`.

    Returns:
      ((x_train, y_train), (x_test, y_test)): images (n, 32, 32, 3) float32 in [0, 1], red, green
      and blue; labels (n,) int32: airplane, automobile, bird, cat, deer, dog, frog, horse, ship,
      truck.

    Raises:
      ImportError, FileNotFoundError: As in `tfds.load`.

    Example:
      >>> (x_train, y_train), test = cifar10()  # doctest: +SKIP

    Reference: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """
    return _train_and_test("cifar10", data_dir, download)


def _train_and_test(name: str, data_dir: str | Path | None, download: bool) -> tuple[Pair, Pair]:
    def part(split: str) -> Pair:
        data = tfds.load(name, split, data_dir=data_dir, download=download)
        images = data["image"].astype(np.float32)
        images /= 255
        return images, data["label"].astype(np.int32)

    return part("train"), part("test")
