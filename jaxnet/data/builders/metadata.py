"""What the metadata of a dataset may name, since it may come from a stranger."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from typing import Any

from jaxnet.services.files import readable

_CLASSES = "pythonClassName", "python_class_name", "type"
_PATHS = "filepathTemplate", "filepath_template", "name", "fileFormat", "file_format"


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
    for file in sorted([*place.glob("*/*"), *place.glob("*/*/*")]):
        if file.is_dir():
            continue
        try:
            readable(who, file)  # a pipe would block for ever
            entries = []
            if file.suffix == ".json":
                entries = list(_strings(json.loads(file.read_bytes())))
        except (OSError, ValueError, RecursionError) as error:
            raise damaged(who, file, error) from None
        for key, words in entries:
            path = PureWindowsPath(words)  # knows the separators of all systems
            if file.name == "features.json":
                foreign = key in _CLASSES and not words.startswith("tensorflow_datasets.")
            else:
                foreign = key in _PATHS and bool(path.anchor or ".." in path.parts)
            if foreign and file.name != "metadata.json":  # which is the author's own
                raise ValueError(
                    f"{who}: {file} names {words!r:.60}, which is not a class of TensorFlow "
                    "Datasets or a file in this folder"
                )


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the strings of data from JSON with their keys, also from JSON within a string."""
    if isinstance(value, str):
        yield key, value
        with suppress(ValueError):
            if value[:1] in ("{", "["):
                yield from _strings(json.loads(value))
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
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(f"{who}: {place} is damaged: {line:.200}. Prepare the dataset again")
