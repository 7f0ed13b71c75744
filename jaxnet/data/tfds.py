"""Any dataset of TensorFlow Datasets, as arrays in memory.

Reading needs no TensorFlow; downloading and preparing a dataset does, once. Datasets lie in
`data_dir`, or where the environment variable TFDS_DATA_DIR says, or in ~/tensorflow_datasets.
"""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.progress import progress_bar

BLOCK = 500  # examples decoded at a time: large enough to be quick, small enough to show progress


def load(
    name: str, split: str, *, data_dir: str | Path | None = None, download: bool = False
) -> dict[str, Any]:
    """One split of a dataset as a dict of its features, each with one entry an example.

    What has one shape for all examples is one array, with the dtype it is stored in (pixels stay
    uint8). What has not, such as sounds or boxes, is a list of arrays; text is a list of strings.
    Nested features are nested dicts. All of it is in memory: take a part by `split="train[:1000]"`
    where that is too much. A progress bar runs while it loads.

    Args:
      name: in the catalogue of TensorFlow Datasets, such as "mnist" or "movielens/25m-ratings".
      split: such as "train", "test", "train[:80%]" or "train+test".
      data_dir: where datasets lie; by default as the module says.
      download: downloads and prepares the dataset where it is not there (needs TensorFlow and a
        network, and for some datasets much time and space).

    Raises:
      ImportError: where tensorflow-datasets is not installed.
      FileNotFoundError: where the dataset is not there; the message lists those that are.
      ValueError: where the split is not; the message lists those that are.

    Example:
      >>> data = load("mnist", "train[:5]")  # doctest: +SKIP
      >>> data["image"].shape, data["label"].shape  # doctest: +SKIP
      ((5, 28, 28, 1), (5,))
    """
    tfds = _import_tfds()
    place = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    place = place.expanduser()
    here = prepared(place)
    if name.split("/")[0].split(":")[0] in here:
        builder = tfds.builder(name, data_dir=place)
    elif download:
        builder = tfds.builder(name, data_dir=place, file_format="array_record")
        builder.download_and_prepare()
    else:
        raise FileNotFoundError(_missing(name, place, here, data_dir))
    try:
        source: Any = builder.as_data_source(split)
    except ValueError as error:
        parts = ", ".join(f"{part} ({info.num_examples:,})" for part, info in _splits(builder))
        raise ValueError(
            f"tfds.load: {name} has no split {split!r}; it has {parts}, and parts of them, such as "
            f"'train[:80%]' ({str(error).splitlines()[0]})"
        ) from error
    examples = []
    logging.getLogger("absl").setLevel(logging.ERROR)  # it recommends OpenCV, which is not needed
    with progress_bar(len(source), f"{name} {split}", unit="example") as bar:
        for start in range(0, len(source), BLOCK):
            rows = range(start, min(start + BLOCK, len(source)))
            examples += source.__getitems__(list(rows))
            bar.update(len(rows))
    return _columns(builder.info.features.get_tensor_info(), examples)


def prepared(data_dir: str | Path) -> list[str]:
    """The names of the datasets that lie ready in a folder.

    Example:
      >>> prepared("/nowhere")
      []
    """
    found = Path(data_dir).expanduser().glob("*/**/dataset_info.json")
    return sorted({file.relative_to(Path(data_dir).expanduser()).parts[0] for file in found})


def _import_tfds() -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            f"tfds.load: needs tensorflow-datasets ({error}); "
            'install the extra jaxnet-toolkit[data]: in a checkout, pip install -e ".[data]"'
        ) from error
    return tensorflow_datasets


def _missing(name: str, place: Path, here: list[str], data_dir: Any) -> str:
    said = "" if data_dir or "TFDS_DATA_DIR" in os.environ else " (TFDS_DATA_DIR is not set)"
    holds = f"which holds {', '.join(here)}" if here else "which holds no dataset"
    if not place.is_dir():
        holds = "which does not exist"
    return (
        f"tfds.load: {name!r} is not in {place}{said}, {holds}; write data_dir=... or set "
        "TFDS_DATA_DIR to the folder that has it, or download=True to fetch it (needs TensorFlow)"
    )


def _splits(builder: Any) -> list[tuple[str, Any]]:
    return [(part, info) for part, info in builder.info.splits.items() if part != "all"]


def _columns(info: Any, values: list) -> Any:
    """One column for each feature; `info` is TFDS's description of a feature, or a dict of them."""
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
