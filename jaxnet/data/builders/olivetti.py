"""The Olivetti faces: 400 pictures of 40 people, 64x64, from the file that scikit-learn reads."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxnet.data.builders.mnist import png
from jaxnet.data.builders.remote import Origin, Remote, builder_class, contents

ORIGIN = Origin(
    what="400 gray faces of 40 people, of 64x64 pixels",
    home="https://cs.nyu.edu/~roweis/data.html",
    terms="none stated; credit AT&T Laboratories Cambridge, and cite Samaria and Harter 1994",
    size=4_000_000,  # about: the server does not say it before the download
)
ARCHIVE = Remote(  # address and checksum as in scikit-learn's fetch_olivetti_faces
    "https://ndownloader.figshare.com/files/5976027",
    sha256="b612fb967f2dc77c9c62d3e1266e0c73d5fca46a4b8906c18e454d41af987794",
)
PICTURES, SIDE = 10, 64  # pictures of each person; pixels
PARTS = {"train": range(1, 8), "test": range(8, 11)}  # split -> numbers of the pictures


def builder() -> type:
    """Return the class of builders, with features image, label and picture.

    Returns:
      A class for TensorFlow Datasets.

    Raises:
      ImportError: If tensorflow-datasets or Pillow is not installed.

    Example:
      >>> olivetti = builder()  # doctest: +SKIP
      >>> olivetti(data_dir="datasets", file_format="array_record").download_and_prepare()
      ... # doctest: +SKIP

    Reference: Samaria and Harter 1994, "Parameterisation of a stochastic model for human face
    identification".
    """

    def splits(downloads: Path) -> dict[str, Iterator]:
        (data,) = contents("olivetti", ARCHIVE, downloads, ORIGIN.size).values()
        images = faces(data)
        return {part: examples(images, numbers) for part, numbers in PARTS.items()}

    def examples(images: np.ndarray, numbers: range) -> Iterator:
        for i, image in enumerate(images):
            person, picture = i // PICTURES, i % PICTURES + 1
            if picture in numbers:
                row = {"image": png("olivetti", image), "label": person, "picture": picture}
                yield i, row

    def features(of):
        image, label = of.Image(shape=(SIDE, SIDE, 1)), of.ClassLabel(num_classes=40)
        return {"image": image, "label": label, "picture": of.Scalar(np.int32)}

    keys = ("image", "label")
    return builder_class("olivetti", ORIGIN, "The Olivetti faces,", features, keys, splits)


def faces(data: bytes) -> np.ndarray:
    """Return the pictures (n, 64, 64) uint8 of a MATLAB file with a column for each.

    Args:
      data: Bytes of a file with a matrix `faces` (64 * 64, n) from 0 to 255, whose columns have
        the pixels of one picture, downwards first.

    Raises:
      ValueError: If the file is not such a file.

    Example:
      >>> faces(b"words")
      Traceback (most recent call last):
      ...
      ValueError: olivetti: expected a MATLAB file with a matrix "faces" of 4,096 rows (...)
    """
    from scipy.io import loadmat  # slow to import, and JAX depends on scipy

    try:
        columns = np.asarray(loadmat(io.BytesIO(data), variable_names=["faces"])["faces"])
        images = columns.T.reshape(-1, SIDE, SIDE).transpose(0, 2, 1)
    except Exception as error:  # scipy raises errors of many types
        raise ValueError(
            f'olivetti: expected a MATLAB file with a matrix "faces" of {SIDE * SIDE:,} rows '
            f"({type(error).__name__}: {error})"
        ) from error
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)
