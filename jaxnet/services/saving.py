"""Files of tensors: safetensors with a checksum, written whole or not at all."""

import hashlib
import json
import struct
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from jaxnet.services.extras import version
from jaxnet.services.files import replacing
from jaxnet.services.json_text import parse_json

# The dtypes that safetensors 0.8 supports for NumPy; other dtypes are stored as bytes.
SAFETENSORS_DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32",
    "int32": "I32", "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16",
    "float32": "F32", "float64": "F64",
}  # fmt: skip
FORMAT = "jaxnet 1"  # change the number if this version cannot read the files of others
Notes = dict[str, dict[str, Any]]  # what safetensors cannot store, by name of an array


class OtherFormat(ValueError):
    """A file that is whole, but was written in another format of jaxnet."""


def write_file(
    who: str,
    path: Any,
    arrays: dict[str, np.ndarray],
    notes: Notes,
    config: Any,
    must_be_regular: bool = False,
) -> None:
    """Write arrays with notes, a config and a checksum, whole or not at all.

    Args:
      who: Name of the function, for messages.
      path, must_be_regular: Arguments of `replacing`.
      arrays, notes: Arrays, and what safetensors cannot store of them.
      config: Data for JSON.
    """
    metadata = {
        "config": json.dumps(config),
        "jaxnet": json.dumps(notes),
        "format": FORMAT,
        "writer": version(),
    }
    metadata["sha256"] = digest(sorted(arrays.items()), metadata)
    with replacing(who, path, must_be_regular) as file:
        write_tensors(file, arrays, metadata)


def config_of(who: str, path: Path, *, verify: bool = True) -> Any:
    """Return the config of a file of `write_file`.

    Args:
      who: Name of the function, for messages.
      path: Path of the file.
      verify: Whether to compare the contents with the checksum.

    Raises:
      OSError: If the file cannot be read.
      ValueError: If it is broken, or was changed.
    """
    with opened(who, path) as file:
        metadata = file.metadata() or {}
        values = ((name, tensor(who, path, file, name)) for name in sorted(file.keys()))
        check_seal(who, path, values if verify else None, metadata)
        try:
            return parse_json(metadata.get("config", "null"))
        except ValueError as error:
            raise ValueError(f"{who}: the config of {path} is broken: {error}") from None


def check_seal(who: str, path: Path, arrays: Iterable | None, metadata: dict[str, str]) -> None:
    """Raise unless a file is as it was written, in the format of this version.

    Args:
      who: Name of the function, for messages.
      path: Path of the file.
      arrays: Its names and arrays, sorted by name; None to look at the format alone.
      metadata: Its metadata.

    Raises:
      OtherFormat: If it is whole, or may be, and was written by another version of jaxnet.
      ValueError: If it was changed.
    """
    names_format = "format" in metadata  # files of the first versions do not
    other_format = metadata.get("format", FORMAT) != FORMAT
    changed = arrays is not None and metadata.get("sha256") != digest(arrays, metadata)
    if changed and (names_format or "sha256" not in metadata):
        raise ValueError(f"{who}: {path} was changed after it was saved")
    if changed or other_format:
        writer = f"version {metadata.get('writer')}" if names_format else "an older version"
        doubt = ", or was changed" if changed else ""
        raise OtherFormat(
            f"{who}: {path} was written by {writer} of jaxnet, in another format than {FORMAT!r}, "
            f"which version {version()} reads{doubt}. Read it with the version that wrote it"
        )


def read_tensors(who: str, path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays and the metadata of a safetensors file.

    Raises:
      ValueError: If the file is broken or in a different format, or has a dtype that NumPy lacks.
    """
    with opened(who, path) as file:
        try:
            return {n: tensor(who, path, file, n) for n in file.keys()}, file.metadata() or {}
        except (OverflowError, MemoryError) as error:
            raise ValueError(f"{who}: {path} is broken: {error}") from None


def tensor(who: str, path: Path, file: Any, name: str) -> np.ndarray:
    """Return one array of an open safetensors file.

    Raises:
      ValueError: If it has a dtype that NumPy lacks.
    """
    try:
        return file.get_tensor(name)
    except (AttributeError, TypeError, KeyError):
        raise ValueError(
            f"{who}: {path}: {name} holds {file.get_slice(name).get_dtype()}, which safetensors "
            "cannot read for NumPy; convert it with the library that wrote it"
        ) from None
    except ValueError as error:  # of NumPy, such as for 65 axes
        raise ValueError(f"{who}: {path}: {name} cannot be read: {error}") from None


@contextmanager
def opened(who: str, path: Path) -> Iterator[Any]:
    """Open a safetensors file, mapped into memory.

    Raises:
      ValueError: If it is broken or in a different format.
    """
    if not path.is_file():  # a pipe would block
        raise OSError(f"{who}: {path} is not a file")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        size, hint = path.stat().st_size, ""
        if zipfile.is_zipfile(path):
            hint = "; weights of PyTorch: pass torch.load(...) itself"
        raise ValueError(
            f"{who}: {path} is not a safetensors file, or is cut short ({size} bytes): "
            f"{error}{hint}"
        ) from None


def write_tensors(file: IO[bytes], arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write the format of safetensors without a copy of all arrays in memory.

    The file has the length of the header, the header as JSON, and the arrays, wide dtypes first.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    end = 0
    for name in order:
        array = arrays[name]
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": SAFETENSORS_DTYPES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [begin, end],
        }
    words = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    words += b" " * (-len(words) % 8)
    file.write(struct.pack("<Q", len(words)) + words)
    for name in order:
        file.write(_bytes(arrays[name]))


def _bytes(array: np.ndarray) -> Any:
    return array.reshape(-1).view(np.uint8).data


def digest(arrays: Iterable[tuple[str, np.ndarray]], metadata: dict[str, str]) -> str:
    """Return a checksum of a file's contents: names, dtypes, shapes, values, config and notes."""
    checksum = hashlib.sha256()
    for name, array in arrays:
        checksum.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        checksum.update(_bytes(array))
    words: list
    if "format" in metadata:  # the same in every format, so that a newer one is not called damaged
        words = sorted((name, text) for name, text in metadata.items() if name != "sha256")
    else:
        words = [metadata.get("config"), metadata.get("jaxnet")]
    checksum.update(json.dumps(words).encode())
    return checksum.hexdigest()
