"""MovieLens 100k: 943 people rate 1,682 movies with one to five stars."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxnet.data.builders.remote import Origin, Remote, builder_class, contents

ORIGIN = Origin(
    what="100,000 ratings of 1,682 movies by 943 people",
    home="https://grouplens.org/datasets/movielens/100k",
    terms="not for commercial use, not to be distributed; cite Harper and Konstan 2015",
    size=4_924_029,
)
ARCHIVE = Remote(
    "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
    sha256="50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",  # as in TFDS
)
# The division that its authors publish: ten ratings of each person are held out.
PARTS = {"ratings": "ml-100k/ua.base", "held_out": "ml-100k/ua.test"}  # feature -> file
PEOPLE, MOVIES = 943, 1682


def builder() -> type:
    """Return the class of builders, with a row of ratings and one of held-out ratings per person.

    The features `ratings` and `held_out` have a number per movie: its stars, or NaN if the person
    did not rate it, or if the rating is in the other feature. The only split is "train".

    Returns:
      A class for TensorFlow Datasets.

    Raises:
      ImportError: If tensorflow-datasets is not installed.

    Example:
      >>> movielens = builder()  # doctest: +SKIP
      >>> movielens(data_dir="datasets", file_format="array_record").download_and_prepare()
      ... # doctest: +SKIP

    Reference: Harper and Konstan 2015, "The MovieLens datasets: history and context".
    """

    def splits(downloads: Path) -> dict[str, Iterator]:
        (data,) = contents("movielens_100k", ARCHIVE, downloads, ORIGIN.size).values()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            tables = {name: stars(archive.read(file)) for name, file in PARTS.items()}
        return {"train": examples(tables)}

    def examples(tables: dict[str, np.ndarray]) -> Iterator:
        for person in range(PEOPLE):
            yield person, {name: table[person] for name, table in tables.items()}

    def features(of):
        return {name: of.Tensor(shape=(MOVIES,), dtype=np.float32) for name in PARTS}

    keys = ("ratings", "held_out")
    return builder_class("movielens_100k", ORIGIN, "MovieLens 100k,", features, keys, splits)


def stars(data: bytes) -> np.ndarray:
    """Return the table (people, movies) float32 of a file of ratings, NaN where there is none.

    Args:
      data: Lines of the number of a person and of a movie, both from 1, the stars, and the time.

    Example:
      >>> table = stars(b"1\\t3\\t5\\t874965758\\n2\\t1\\t4\\t874965758\\n")
      >>> table[:2, :3].tolist()
      [[nan, nan, 5.0], [4.0, nan, nan]]
    """
    rows = np.loadtxt(io.BytesIO(data), np.int64, delimiter="\t", ndmin=2)
    table = np.full((PEOPLE, MOVIES), np.nan, np.float32)
    table[rows[:, 0] - 1, rows[:, 1] - 1] = rows[:, 2]
    return table
