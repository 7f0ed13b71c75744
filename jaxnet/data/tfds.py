"""TensorFlow Datasets as arrays in memory.

Reading needs no TensorFlow; downloading and preparing a dataset does, once. The folder of the
datasets is `data_dir`, by default the environment variable TFDS_DATA_DIR or ~/tensorflow_datasets.
"""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.checks import check_options
from jaxnet.extras import extra
from jaxnet.files import file_path
from jaxnet.progress import progress_bar

BLOCK = 500  # examples per read: few enough to update the progress bar


def load(
    name: str, split: str, *, data_dir: str | Path | None = None, download: bool = False
) -> dict[str, Any]:
    """One split of a dataset as a dict of its features, each with one entry per example.

    A feature of one shape is one array with its stored dtype (pixels are uint8). A feature whose
    shape varies, such as sounds or boxes, is a list of arrays; text is a list of strings; nested
    features are nested dicts. Everything is in memory: for a large dataset take a part, such as
    `split="train[:1000]"`. A progress bar runs while it loads.

    Args:
      name: in the catalogue of TensorFlow Datasets, such as "mnist" or "movielens/25m-ratings".
      split: such as "train", "test", "train[:80%]" or "train+test".
      data_dir: folder of the datasets; see the module for the default.
      download: whether to download and prepare a missing dataset (needs TensorFlow and a network,
        and for some datasets much time and disk space).

    Raises:
      ImportError: without tensorflow-datasets.
      FileNotFoundError: for a missing dataset; the message lists the available ones.
      OSError: for a download that fails.
      TypeError: for a name, split or folder that is no str or path.
      ValueError: for a missing split; the message lists the available ones.

    Example:
      >>> data = load("mnist", "train[:5]")  # doctest: +SKIP
      >>> data["image"].shape, data["label"].shape  # doctest: +SKIP
      ((5, 28, 28, 1), (5,))
    """
    check_options("tfds.load", download=download)
    data_source, builder = _open("tfds.load", name, split, data_dir, download)
    examples = []
    with progress_bar(len(data_source), f"{name} {split}", unit="example") as bar:
        for start in range(0, len(data_source), BLOCK):
            rows = range(start, min(start + BLOCK, len(data_source)))
            examples += data_source.__getitems__(list(rows))
            bar.update(len(rows))
    return _columns(builder.info.features.get_tensor_info(), examples)


def source(
    name: str, split: str, *, data_dir: str | Path | None = None, download: bool = False
) -> Any:
    """One split of a dataset as a source of single examples, for `grain`; nothing is loaded.

    It has a length, and `source[i]` is a dict of features as TFDS decodes them. What does not fit
    into memory goes from here through grain to `jn.fit`:

        rows = grain.MapDataset.source(jn.data.tfds.source("mnist", "train"))
        rows = rows.seed(0).shuffle().repeat().map(prepare).batch(64).to_iter_dataset()
        for epoch in jn.fit(trainer, train_state, rows, steps=10_000, every=500): ...

    Args:
      name, split, data_dir, download: as for `load`.

    Raises:
      As `load`.

    Example:
      >>> images = source("mnist", "train")  # doctest: +SKIP
      >>> len(images), images[0]["image"].shape  # doctest: +SKIP
      (60000, (28, 28, 1))
    """
    check_options("tfds.source", download=download)
    return _open("tfds.source", name, split, data_dir, download)[0]


def _open(who: str, name: str, split: str, data_dir: Any, download: bool) -> tuple[Any, Any]:
    """The source of a split's examples, and the builder of the dataset."""
    for what, value in (("name", name), ("split", split)):
        if not isinstance(value, str):
            raise TypeError(f"{who}: {what} must be a str, got {type(value).__name__}")
    if data_dir is None:
        data_dir = os.environ.get("TFDS_DATA_DIR")
        place = file_path(who, data_dir or "~/tensorflow_datasets")
    else:
        place = file_path(who, data_dir, "data_dir")
    tfds = extra("tensorflow_datasets", "tensorflow-datasets", who)
    here = prepared(place)
    if name.split("/")[0].split(":")[0] in here:
        builder = tfds.builder(name, data_dir=place)
    elif download:
        builder = _download(tfds, who, name, place)
    else:
        raise FileNotFoundError(_missing(who, name, place, here, data_dir))
    try:
        found: Any = builder.as_data_source(split)
    except ValueError as error:
        parts = ", ".join(f"{part} ({info.num_examples:,})" for part, info in _splits(builder))
        raise ValueError(
            f"{who}: {name} has no split {split!r}; splits: {parts}, and parts, such as "
            f"'train[:80%]' ({str(error).splitlines()[0]})"
        ) from error
    logging.getLogger("absl").setLevel(logging.ERROR)  # silences a recommendation of OpenCV
    return found, builder


def _download(tfds: Any, who: str, name: str, place: Path) -> Any:
    """A dataset that was downloaded and prepared; every failure to get it is an OSError."""
    try:
        builder = tfds.builder(name, data_dir=place, file_format="array_record")
        builder.download_and_prepare()
    except (ImportError, TypeError):
        raise
    except Exception as error:  # HTTP and checksum errors of TFDS are plain Exceptions
        kind = type(error).__name__
        if kind == "DatasetNotFoundError":
            raise FileNotFoundError(
                f"{who}: {name!r} is neither in {place} nor in the catalogue of TensorFlow "
                "Datasets, so it cannot be downloaded; pass data_dir=... of a folder that has it"
            ) from error
        if isinstance(error, ValueError):  # a config or version that the dataset lacks
            raise
        line = next(iter(str(error).strip().splitlines()), "")
        raise OSError(f"{who}: {name!r} could not be downloaded ({kind}: {line:.200})") from error
    return builder


def prepared(data_dir: str | Path) -> list[str]:
    """The names of the prepared datasets in a folder.

    Example:
      >>> prepared("/nowhere")
      []
    """
    place = file_path("prepared", data_dir, "data_dir")
    found = place.glob("*/**/dataset_info.json")
    return sorted({file.relative_to(place).parts[0] for file in found})


def _missing(who: str, name: str, place: Path, here: list[str], data_dir: Any) -> str:
    said = "" if data_dir or "TFDS_DATA_DIR" in os.environ else " (TFDS_DATA_DIR is not set)"
    holds = f"which has {', '.join(here)}" if here else "which has no dataset"
    if not place.is_dir():
        holds = "which does not exist"
    return (
        f"{who}: {name!r} is not in {place}{said}, {holds}; pass data_dir=... or set "
        "TFDS_DATA_DIR to its folder, or pass download=True (needs TensorFlow)"
    )


def _splits(builder: Any) -> list[tuple[str, Any]]:
    return [(part, info) for part, info in builder.info.splits.items() if part != "all"]


def _columns(info: Any, values: list) -> Any:
    """One column per feature; `info` is TFDS's description of a feature, or a dict of them."""
    if isinstance(info, dict):
        return {name: _columns(info[name], [v[name] for v in values]) for name in info}
    if np.dtype(info.np_dtype).kind in "OSU":  # text comes as bytes
        return [_text(value) for value in values]
    if None in info.shape:
        return [np.asarray(value, info.np_dtype) for value in values]
    return np.asarray(values, info.np_dtype).reshape(len(values), *info.shape)


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return value if isinstance(value, str) else [_text(v) for v in value]
