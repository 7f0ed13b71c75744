"""MNIST: 70,000 handwritten digits of 28x28 pixels, from its four files."""

import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxnet.data.builders.remote import Origin, Remote, builder_class, contents
from jaxnet.services.extras import extra

ORIGIN = Origin(
    what="70,000 handwritten digits",
    home="https://storage.googleapis.com/cvdf-datasets/mnist",
    terms="none stated; cite LeCun, Cortes and Burges",
    size=11_594_722,
)
PARTS = {"train": "train", "test": "t10k"}  # split -> files
SHA256 = {  # those of TensorFlow Datasets
    "train-images-idx3": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


def builder() -> type:
    """Return the class of builders, with features image and label.

    Returns:
      A class for TensorFlow Datasets.

    Raises:
      ImportError: If tensorflow-datasets or Pillow is not installed.

    Example:
      >>> mnist = builder()  # doctest: +SKIP
      >>> mnist(data_dir="datasets", file_format="array_record").download_and_prepare()
      ... # doctest: +SKIP

    Reference: LeCun et al. 1998, "Gradient-based learning applied to document recognition".
    """

    def splits(downloads: Path) -> dict[str, Iterator]:
        def read(name: str) -> np.ndarray:
            file = f"{name}-ubyte.gz"
            remote = Remote(f"{ORIGIN.home}/{file}", SHA256[name])
            data = contents("mnist", remote, downloads, None)[file]
            return array(gzip.decompress(data))

        return {
            part: examples(read(f"{file}-images-idx3"), read(f"{file}-labels-idx1"))
            for part, file in PARTS.items()
        }

    def examples(images: np.ndarray, labels: np.ndarray) -> Iterator:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": png("mnist", image), "label": int(label)}

    def features(of):
        return {"image": of.Image(shape=(28, 28, 1)), "label": of.ClassLabel(num_classes=10)}

    return builder_class("mnist", ORIGIN, "MNIST,", features, ("image", "label"), splits, "3.0.1")


def array(data: bytes) -> np.ndarray:
    """Return the array of a file in the format IDX, with entries of one byte.

    Args:
      data: Zero, zero, 8 for bytes, the number of axes, the sizes in 4 bytes each, the entries.

    Example:
      >>> array(bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 7, 8, 9])).tolist()
      [[7, 8, 9]]
    """
    sizes = np.frombuffer(data, ">u4", data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + sizes.nbytes).reshape(sizes)


def png(who: str, image: np.ndarray) -> bytes:
    """Return the PNG file of an image (height, width) or (height, width, 3) of bytes.

    TensorFlow Datasets would need TensorFlow to write it.

    Example:
      >>> png("mnist", np.zeros((28, 28), np.uint8))[1:4]
      b'PNG'
    """
    out = io.BytesIO()
    extra("PIL.Image", "Pillow", who).fromarray(image).save(out, "PNG")
    return out.getvalue()
