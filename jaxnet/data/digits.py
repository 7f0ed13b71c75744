"""The handwritten digits of scikit-learn, which need no network."""

import numpy as np

from jaxnet.data.arrays import split
from jaxnet.services.extras import extra
from jaxnet.typing import Pair


def digits(*, test_fraction: float = 0.2, seed: int = 0) -> tuple[Pair, Pair]:
    """Load 1,797 handwritten digits of 8x8 pixels, split into training and test digits.

    The split is stratified and fixed by its seed: by default 1,438 digits for training and 359 for
    testing. Compare results only for the same `test_fraction` and `seed`. Choose hyperparameters on
    a split of the training digits (`jn.data.split`), not on the test digits.

    Args:
      test_fraction: Fraction of digits in the test split.
      seed: Seed of the split.

    Returns:
      ((x_train, y_train), (x_test, y_test)): images (n, 8, 8, 1) float32 in [0, 1], 0 for paper and
      1 for ink; labels (n,) int32 in 0..9.

    Raises:
      ImportError: If scikit-learn is not installed.

    Example:
      >>> (x_train, y_train), (x_test, y_test) = digits()
      >>> x_train.shape, y_test.shape, x_train.dtype, y_test.dtype
      ((1438, 8, 8, 1), (359,), dtype('float32'), dtype('int32'))

    Reference: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI;
    scikit-learn has the test split of that dataset.
    """
    sklearn = extra("sklearn.datasets", "scikit-learn", "digits")
    images, labels = sklearn.load_digits(return_X_y=True)
    x = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)  # (1797, 64) counts in 0..16
    y = labels.astype(np.int32)
    return split((x, y), test_fraction, seed=seed, labels=y)
