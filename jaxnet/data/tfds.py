"""Loads TensorFlow Datasets as arrays in memory.

Reading needs no TensorFlow; preparing a dataset of the catalog does, once. The folder of the
datasets is `data_dir`, by default the environment variable TFDS_DATA_DIR or ~/tensorflow_datasets.
Some datasets, such as MNIST, are downloaded from their own files and prepared without TensorFlow,
see `jaxnet.data.prepare`.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.data.builders import (
    INSTEAD,
    ORIGINS,
    base_name,
    datasets_in,
    datasets_package,
    folder,
)
from jaxnet.data.builders import prepared as prepared
from jaxnet.data.builders.metadata import check_metadata, damaged
from jaxnet.data.builders.records import decode_only_images
from jaxnet.services.checks import check_options, check_type
from jaxnet.services.progress import progress_bar

BLOCK = 500  # examples per read: few enough to update the progress bar


def load(
    name: str, split: str, *, data_dir: str | Path | None = None, download: bool = False
) -> dict[str, Any]:
    """Load one split of a dataset as a dict of its features, each with one entry per example.

    To read params that `jn.save` wrote, call `jn.load`; to read a published model,
    `jn.pretrained.load`.

    A feature of one shape is one array with its stored dtype (pixels are uint8). A feature whose
    shape varies, such as sounds or boxes, is a list of arrays; text is a list of strings; nested
    features are nested dicts. Everything is in memory: for a large dataset take a part, such as
    `split="train[:1000]"`. A progress bar runs while it loads.

    Args:
      name: Name in the catalog of TensorFlow Datasets, such as "mnist" or
        "glue/cola", or of `python -m jaxnet.data.prepare --help`, such as "camvid".
      split: Name of the split, such as "train", "test", "train[:80%]" or "train+test".
      data_dir: Folder of the datasets; by default the environment variable TFDS_DATA_DIR, or
        ~/tensorflow_datasets if it is not set.
      download: Whether to download and prepare a missing dataset, and print its size and terms. A
        dataset of the catalog needs TensorFlow for that; some take much time and disk space.

    Returns:
      A dict of features: name -> values, such as {"image": ..., "label": ...}.

    Raises:
      ImportError: If tensorflow-datasets, or what preparing needs, is not installed.
      FileNotFoundError: If the dataset is missing; the message lists the available datasets.
      OSError: If the dataset cannot be downloaded.
      TypeError: If `name` or `split` is not a str, or if `data_dir` is not a path.
      ValueError: If the split is missing; the message lists the available splits.

    Example:
      >>> data = load("mnist", "train[:5]")  # doctest: +SKIP
      >>> data["image"].shape, data["label"].shape  # doctest: +SKIP
      ((5, 28, 28, 1), (5,))
    """
    data_source, builder = _open("tfds.load", name, split, data_dir, download)
    examples = []
    with progress_bar(len(data_source), f"{name} {split}", unit="example") as bar:
        for start in range(0, len(data_source), BLOCK):
            rows = range(start, min(start + BLOCK, len(data_source)))
            try:
                examples += data_source.__getitems__(list(rows))
            except Exception as error:  # of array_record, or of what decodes the examples
                raise damaged("tfds.load", builder.data_dir, error) from error
            bar.update(len(rows))
    try:
        return _columns(builder.info.features.get_tensor_info(), examples)
    except Exception as error:  # of examples that are not what features.json says
        raise damaged("tfds.load", builder.data_dir, error) from error


def source(
    name: str, split: str, *, data_dir: str | Path | None = None, download: bool = False
) -> Any:
    """Return one split of a dataset as a source of single examples, for `grain`.

    Nothing is loaded. The source has a length, and `source[i]` is a dict of features as TFDS
    decodes them. Use it with grain to pass a dataset that does not fit into memory to `jn.fit`:

        rows = grain.MapDataset.source(jn.data.tfds.source("mnist", "train"))
        rows = rows.seed(0).shuffle().repeat().map(prepare).batch(64).to_iter_dataset()
        for epoch in jn.fit(trainer, train_state, rows, steps=10_000, every=500): ...

    Args:
      name, split, data_dir, download: As in `load`.

    Raises:
      ImportError, OSError, TypeError, ValueError: As in `load`.

    Example:
      >>> images = source("mnist", "train")  # doctest: +SKIP
      >>> len(images), images[0]["image"].shape  # doctest: +SKIP
      (60000, (28, 28, 1))
    """
    data_source, _ = _open("tfds.source", name, split, data_dir, download)
    return data_source


def _open(who: str, name: str, split: str, data_dir: Any, download: bool) -> tuple[Any, Any]:
    """Return the source of a split's examples, and the builder of the dataset."""
    check_options(who, download=download)
    check_type(who, "name", name, str, "a str")
    check_type(who, "split", split, str, "a str")
    place = folder(who, data_dir)
    tfds = datasets_package(who)
    present = datasets_in(who, place)
    if base_name(name) not in present:
        if not download:
            raise FileNotFoundError(_missing(who, name, place, present, data_dir))
        from jaxnet.data.prepare import prepare

        prepare(who, name, place)

    check_metadata(who, place / base_name(name))
    try:
        builder = tfds.builder(name, data_dir=place)
    except Exception as error:  # an unknown version or configuration has errors of many types
        if name == base_name(name):
            raise damaged(who, place / name, error) from error
        raise _unknown_version(who, name, place) from error
    try:
        source: Any = builder.as_data_source(split)
    except NotImplementedError as error:  # of another version or format of files
        raise _unknown_version(who, name, place) from error
    except ValueError as error:
        splits = {part: info for part, info in builder.info.splits.items() if part != "all"}
        parts = ", ".join(f"{part} ({info.num_examples:,})" for part, info in splits.items())
        raise ValueError(
            f"{who}: {name} has no split {split!r}; splits: {parts}, and parts, such as "
            f"'train[:80%]' ({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # of files that are missing, or cut short
        raise damaged(who, builder.data_dir, error) from error
    decode_only_images(builder.info.features)
    return source, builder


def _unknown_version(who: str, name: str, place: Path) -> FileNotFoundError:
    infos = (place / base_name(name)).glob("**/dataset_info.json")
    have = ", ".join(sorted(file.parent.relative_to(place).as_posix() for file in infos))
    base, others = base_name(name), ""
    if base in ORIGINS or base in INSTEAD:
        what = "it as array_record files" if base in ORIGINS else "another dataset"
        command = f"python -m jaxnet.data.prepare {INSTEAD.get(base, base)}"
        others = f", or prepare {what}: {command}"
    return FileNotFoundError(
        f"{who}: {name!r} is not in {place}, which has {have}. Name one of these{others}"
    )


def _missing(who: str, name: str, place: Path, present: list[str], data_dir: Any) -> str:
    is_named = data_dir or "TFDS_DATA_DIR" in os.environ
    said = "" if is_named else " (TFDS_DATA_DIR is not set)"
    if present:
        holds = f"which has {', '.join(present)}"
    elif place.is_dir():
        holds = "which has no dataset"
    elif os.path.lexists(place):
        holds = "which is not a folder"
    else:
        holds = "which does not exist"
    base = base_name(name)
    if base in INSTEAD:
        get = f"or prepare another dataset: python -m jaxnet.data.prepare {INSTEAD[base]}"
    elif base in ORIGINS:
        get = f"run python -m jaxnet.data.prepare {base}, or pass download=True"
    else:
        get = "or pass download=True for one of TensorFlow Datasets' catalog (needs TensorFlow)"
    return (
        f"{who}: {name!r} is not in {place}{said}, {holds}; pass data_dir=... or set "
        f"TFDS_DATA_DIR to its folder, {get}"
    )


def _columns(info: Any, values: list) -> Any:
    """Return one column per feature; `info` describes a feature, or is a dict of descriptions."""
    if isinstance(info, dict):
        return {name: _columns(info[name], [v[name] for v in values]) for name in info}
    if np.dtype(info.np_dtype).kind in "OSU":  # text comes as bytes
        return [_text(value) for value in values]
    if None in info.shape:
        return [np.asarray(value, info.np_dtype) for value in values]
    array = np.asarray(values, info.np_dtype)
    if values and array.shape[1:] != info.shape:
        raise ValueError(f"features.json says {info.shape}, the examples have {array.shape[1:]}")
    return array.reshape(len(values), *info.shape)


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, str):
        return value
    return [_text(each) for each in value]
