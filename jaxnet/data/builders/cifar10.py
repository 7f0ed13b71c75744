"""CIFAR-10: 60,000 photographs of 32x32 pixels in ten classes, from its binary version."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxnet.data.builders.mnist import png
from jaxnet.data.builders.remote import Origin, Remote, builder_class, contents

ORIGIN = Origin(
    what="60,000 photographs of ten classes",
    home="https://www.cs.toronto.edu/~kriz/cifar.html",
    terms="none stated; cite Krizhevsky 2009",
    size=170_052_171,
)
ARCHIVE = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",  # of the whole file
)
PARTS = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


def builder() -> type:
    """Return the class of builders, with features id, image and label.

    Returns:
      A class for TensorFlow Datasets.

    Raises:
      ImportError: If tensorflow-datasets or Pillow is not installed.

    Example:
      >>> cifar10 = builder()  # doctest: +SKIP
      >>> cifar10(data_dir="datasets", file_format="array_record").download_and_prepare()
      ... # doctest: +SKIP

    Reference: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """

    def splits(downloads: Path) -> dict[str, Iterator]:
        (data,) = contents("cifar10", ARCHIVE, downloads, ORIGIN.size).values()
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = {Path(member.name).stem: member for member in archive if member.isfile()}
            read = {}
            for part, names in PARTS.items():
                files = [archive.extractfile(members[name]).read() for name in names]  # pyright: ignore
                read[part] = np.frombuffer(b"".join(files), np.uint8)
        return {part: examples(part, rows) for part, rows in read.items()}

    def examples(part: str, data: np.ndarray) -> Iterator:
        # A byte for the label, then red, green and blue.
        for i, row in enumerate(data.reshape(-1, 1 + 3 * 32 * 32)):
            image = row[1:].reshape(3, 32, 32).transpose(1, 2, 0)
            name = f"{part}_{i:05d}"
            yield i, {"id": name, "image": png("cifar10", image), "label": int(row[0])}

    def features(of):
        image, label = of.Image(shape=(32, 32, 3)), of.ClassLabel(names=CLASSES)
        return {"id": of.Text(), "image": image, "label": label}

    keys = ("image", "label")
    return builder_class("cifar10", ORIGIN, "CIFAR-10,", features, keys, splits, "3.0.2")
