"""Handwritten digits that come with scikit-learn: small, and there without a network."""

import numpy as np

from jaxnet.data.arrays import split

Pair = tuple[np.ndarray, np.ndarray]


def digits(*, share: float = 0.2, seed: int = 0) -> tuple[Pair, Pair]:
    """1,797 handwritten digits of 8x8 pixels, in a training part and a held-out one.

    The split is stratified and fixed by its seed: by default 1,438 digits to train on and 359 to
    test with, the same ones always. Compare figures only where share and seed are equal. Choose a
    recipe on a part of the training digits (`jn.data.split`), not on the held-out ones.

    Args:
      share: of the digits that are held out.
      seed: of the split.

    Returns:
      ((x_train, y_train), (x_test, y_test)): images (n, 8, 8, 1) float32 in [0, 1], 0 the paper and
      1 the ink; labels (n,) int32 in 0..9.

    Raises:
      ImportError: where scikit-learn is not installed.

    Example:
      >>> (x_train, y_train), (x_test, y_test) = digits()
      >>> x_train.shape, y_test.shape, x_train.dtype, y_test.dtype
      ((1438, 8, 8, 1), (359,), dtype('float32'), dtype('int32'))

    Reference: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI; the part
    that scikit-learn holds is the test part of that set.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "digits: needs scikit-learn, which holds the images; "
            'install the extra jaxnet-toolkit[data]: in a checkout, pip install -e ".[data]"'
        ) from error
    images, labels = load_digits(return_X_y=True)
    x = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)  # (1797, 64) counts in 0..16
    y = labels.astype(np.int32)
    return split((x, y), share, seed=seed, labels=y)
