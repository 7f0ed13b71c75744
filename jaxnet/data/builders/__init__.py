"""Sources of datasets, and builders of datasets that need no TensorFlow.

Each file has `ORIGIN`, and `builder()`, which returns a class of
builders for TensorFlow Datasets; `jaxnet.data.prepare` runs them.
"""

import os
import sys
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jaxnet.data.builders import (
    camvid,
    cifar10,
    free_spoken_digits,
    mnist,
    movielens_100k,
    multi30k,
    olivetti,
)
from jaxnet.data.builders.remote import Origin
from jaxnet.services.extras import extra
from jaxnet.services.files import file_path, is_folder

BUILDERS = {
    "camvid": camvid, "cifar10": cifar10, "free_spoken_digits": free_spoken_digits,
    "mnist": mnist, "movielens_100k": movielens_100k, "multi30k": multi30k, "olivetti": olivetti,
}  # fmt: skip
# Datasets that jaxnet reads where they are prepared, though their files cannot be downloaded ->
# what everybody can download instead.
INSTEAD = {"orl_faces": "olivetti", "jester": "movielens_100k"}

CATALOG = "https://www.tensorflow.org/datasets/catalog"
ORIGINS = {name: module.ORIGIN for name, module in BUILDERS.items()}
ORIGINS["bccd"] = Origin(
    "364 microscope images of blood, with boxes around the cells",
    home=f"{CATALOG}/bccd",
    terms="MIT license",
    size=7_875_205,
)
ORIGINS["tiny_shakespeare"] = Origin(
    "plays of Shakespeare, one long text",
    home=f"{CATALOG}/tiny_shakespeare",
    terms="public domain",
    size=1_115_394,
)


def instead_of(names: list[str]) -> str:
    """Return a sentence for each name that cannot be prepared: what to prepare instead, if known.

    Example:
      >>> instead_of(["orl_faces", "minst", "unheard"])
      ' Instead of orl_faces, prepare olivetti. Instead of minst, prepare mnist.'
    """
    said = ""
    for name in names:
        close = get_close_matches(name, ORIGINS, n=1)
        for other in [INSTEAD[name]] if name in INSTEAD else close:
            said += f" Instead of {name}, prepare {other}."
    return said


def folder(who: str, data_dir: Any) -> Path:
    """Return the folder of the datasets, by default TFDS_DATA_DIR or ~/tensorflow_datasets.

    Example:
      >>> folder("load", "datasets").name
      'datasets'
    """
    if data_dir is None:
        return file_path(who, os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    return file_path(who, data_dir, "data_dir")


def datasets_package(who: str) -> Any:
    """Return the package TensorFlow Datasets, which cannot read its files on Windows.

    Raises:
      ImportError: If it is not installed, or array_record is missing on Windows.

    Example:
      >>> datasets_package("load").__name__
      'tensorflow_datasets'
    """
    if sys.platform == "win32" and find_spec("array_record") is None:
        raise ImportError(
            f"{who}: reads files of array_record, a package that does not exist for Windows. Run "
            "this in WSL, Linux inside Windows, or take data that needs no TensorFlow Datasets, "
            "such as jn.data.digits() or jn.data.image_folder(...)"
        )
    return extra("tensorflow_datasets", "tensorflow-datasets", who)


def base_name(name: str) -> str:
    """Return the name of a dataset without its configuration and version.

    Example:
      >>> base_name("movielens/25m-ratings:0.1.1")
      'movielens'
    """
    return name.split("/")[0].split(":")[0]


def prepared(data_dir: str | Path) -> list[str]:
    """Return the names of the prepared datasets in a folder.

    Example:
      >>> prepared("/nowhere")
      []
    """
    return datasets_in("prepared", file_path("prepared", data_dir, "data_dir"))


def datasets_in(who: str, place: Path) -> list[str]:
    """Return the names of the prepared datasets in a folder, which may not exist.

    Args:
      who: Name of the caller, for messages.
      place: Folder of the datasets.

    Raises:
      OSError: If the folder cannot be read.

    Example:
      >>> datasets_in("load", Path("/nowhere"))
      []
    """
    is_folder(who, place)
    files = place.glob("*/**/dataset_info.json")
    return sorted({file.relative_to(place).parts[0] for file in files})
