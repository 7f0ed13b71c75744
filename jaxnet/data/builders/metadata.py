"""What the metadata of a dataset may name, since it may come from a stranger."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from typing import Any

from jaxnet.services.files import readable

RECORDS = ".array_record-"  # in the names of files of records
_CLASSES = "pythonClassName", "python_class_name", "type"
_TFDS_CLASS = re.compile(r"tensorflow_datasets(\.\w+)+")
_PATHS = (
    "filepathTemplate", "filepath_template", "name", "fileFormat", "file_format",
    "default_config_name",
)  # fmt: skip


def check_metadata(who: str, place: Path) -> None:
    """Raise unless the metadata of a dataset name classes of TFDS alone, and files in its folder.

    TFDS imports the module of each class that is named there, whatever it is.

    Args:
      who: Name of the caller, for messages.
      place: Folder of the dataset, with a folder for each version or configuration.

    Raises:
      ValueError: If they name anything else, or are damaged.

    Example:
      >>> check_metadata("load", Path("/nowhere"))
    """
    # A configuration may be folders deep. `rglob` does not look behind links.
    for file in sorted({*place.rglob("*"), *place.glob("*/*"), *place.glob("*/*/*")}):
        is_named_as_a_file = file.suffix.lower() == ".json" or RECORDS in file.name
        if file.is_dir() and not is_named_as_a_file:
            continue
        try:
            readable(who, file)  # a pipe would block for ever
            foreign = []
            if file.suffix.lower() == ".json":
                foreign = _foreign(file.name.lower(), json.loads(file.read_bytes()))
        except (OSError, ValueError, RecursionError) as error:
            raise damaged(who, file, error) from None
        for words in foreign:
            raise ValueError(
                f"{who}: {file} names {words!r:.60}, which is not a class of TensorFlow "
                "Datasets or a file in this folder"
            )


def _foreign(file_name: str, data: Any) -> list[str]:
    """Return the names of classes that are not of TFDS, and of files outside of the folder.

    Args:
      file_name: Name of the file in lower case, since some systems ignore the case.
      data: What the file holds.
    """
    described, others = {}, data
    if file_name == "features.json":
        described, others = data, {}
    elif file_name == "dataset_info.json" and isinstance(data, dict):
        described = data.get("features", {})  # TFDS prefers these to features.json
        others = {key: value for key, value in data.items() if key != "features"}
    elif file_name == "metadata.json" and isinstance(data, dict):  # the author's own but for this
        others = {key: value for key, value in data.items() if key == "default_config_name"}
    found = []
    for key, words in _strings(described):
        if key in _CLASSES and not _TFDS_CLASS.fullmatch(words):
            found.append(words)
    for key, words in _strings(others):
        path = PureWindowsPath(words)  # knows the separators of all systems
        if key in _PATHS and (path.anchor or ".." in path.parts):
            found.append(words)
    return found


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the strings of data from JSON with their keys, also from JSON within a string."""
    if isinstance(value, str):
        yield key, value
        with suppress(ValueError):  # TFDS parses some strings; here all that can be parsed are
            yield from _strings(json.loads(value), key)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _strings(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each, key)


def damaged(who: str, place: Any, error: Exception) -> ValueError:
    """Return the error for a dataset that cannot be read.

    Example:
      >>> damaged("load", "mnist/3.0.1", RuntimeError("the file is cut"))
      ValueError('load: mnist/3.0.1 is damaged: the file is cut. Prepare the dataset again')
    """
    said = getattr(error, "strerror", None) or str(error)  # not the number of an error of files
    line = (said.splitlines() or [type(error).__name__])[0]
    return ValueError(f"{who}: {place} is damaged: {line:.200}. Prepare the dataset again")
