"""Faces of the ORL database, by the person."""

from pathlib import Path

import numpy as np

from jaxnet.data import tfds
from jaxnet.data.builders import datasets_in, folder
from jaxnet.services.checks import check_options
from jaxnet.services.extras import extra
from jaxnet.typing import Pair

SIDE = 64  # pixels
VERSION = "2.0.0"  # of orl_faces; 1.0.0 has private pictures of two people, and is never read


class Faces(tuple[Pair, Pair]):
    """A training and a test part of faces, each (images, people).

    Attributes:
      name: Name of the dataset: "olivetti" or "orl_faces".

    Example:
      >>> part = np.zeros((7, 64, 64, 1), np.float32), np.zeros(7, np.int32)
      >>> Faces(part, part, "olivetti").name
      'olivetti'
    """

    name: str

    def __new__(cls, train: Pair, test: Pair, name: str) -> "Faces":
        """Return the pair (train, test), which remembers its name."""
        parts = super().__new__(cls, (train, test))
        parts.name = name
        return parts


def faces(*, data_dir: str | Path | None = None, download: bool = False) -> Faces:
    """Load gray faces of 64x64 pixels, seven of each person for training and three for test.

    The pictures are those of the ORL database, which the Olivetti Research Laboratory took between
    1992 and 1994. All people look at the camera. There are two versions, which give different
    accuracies, and the attribute `name` of the result says which one you have:

    - "olivetti": 40 people, as scikit-learn's `fetch_olivetti_faces` has them. `download=True`
      downloads it (4 MB) if neither version is in the folder.
    - "orl_faces": 38 of these people, in the pictures of 112x92 pixels, averaged to 64x64. It is
      used if it was prepared in version 2.0.0 and "olivetti" was not. It cannot be downloaded.

    Args:
      data_dir: Folder of the datasets, see `tfds.load`.
      download: Whether to download missing data, see `tfds.load`.

    Returns:
      (train, test), each (images, people), with the attribute `name`: images (n, 64, 64, 1)
      float32 in [0, 1], 0 for black; people (n,) int32, the number of each image's person. The
      people are in order, and the pictures of a person too.

    Raises:
      ImportError, FileNotFoundError: As in `tfds.load`.

    Example:
      >>> data = faces(download=True)  # doctest: +SKIP
      >>> (x, y), (test_x, test_y) = data  # doctest: +SKIP
      >>> data.name, x.shape, test_x.shape  # doctest: +SKIP
      ('olivetti', (280, 64, 64, 1), (120, 64, 64, 1))

    Reference: Samaria and Harter 1994, "Parameterisation of a stochastic model for human face
    identification". Credit AT&T Laboratories Cambridge if you show the pictures.
    """
    check_options("faces", download=download)
    place = folder("faces", data_dir)
    is_prepared = "olivetti" in datasets_in("faces", place)
    name = "olivetti"
    if not is_prepared and (place / "orl_faces" / VERSION).is_dir():
        name = "orl_faces"

    def part(split: str) -> Pair:
        version = f"{name}:{VERSION}" if name == "orl_faces" else name
        data = tfds.load(version, split, data_dir=data_dir, download=download)
        order = np.lexsort((data["picture"], data["label"]))
        return _scaled(data["image"][order]), data["label"][order].astype(np.int32)

    return Faces(part("train"), part("test"), name)


def _scaled(images: np.ndarray) -> np.ndarray:
    """Return images (n, height, width, 1) of bytes as floats in [0, 1] of 64x64 pixels."""
    if images.shape[1:3] != (SIDE, SIDE):
        pillow = extra("PIL.Image", "Pillow", "faces")
        box = pillow.Resampling.BOX
        small = [pillow.fromarray(image[..., 0]).resize((SIDE, SIDE), box) for image in images]
        images = np.stack([np.asarray(image) for image in small])[..., None]
    return images.astype(np.float32) / 255
