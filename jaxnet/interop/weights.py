"""Weights of other libraries as arrays by name."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.checks import check_type, on_device
from jaxnet.services.files import (
    OneByOne,
    exists,
    file_path,
    is_folder,
    readable,
    replace_file,
    replacing,
)
from jaxnet.services.json_text import parse_json
from jaxnet.services.saving import opened, read_tensors, tensor, write_tensors
from jaxnet.services.trees import is_float

Weights = Mapping[str, Any]  # names, as in a state_dict, -> arrays or tensors
Files = str | Path | Sequence[str | Path]  # safetensors: a file, several, or a folder of them


def open_weights(who: str, weights: Any) -> Mapping[str, Any]:
    """Return the arrays by name of a mapping, or of safetensors files, each read when needed.

    Args:
      who: Name of the function that got it, for messages.
      weights: Arrays or tensors by name, or paths. An `OneByOne` is returned as it is.

    Raises:
      OSError, ValueError: If a file is missing or cannot be read, or two have the same name.
      TypeError: If `weights` is anything else.

    Example:
      >>> list(open_weights("by_names", {"bias": np.zeros(3)}))
      ['bias']
    """
    if isinstance(weights, OneByOne):
        return weights
    if isinstance(weights, str | Path):
        path = file_path(who, weights, "weights")
        weights = _files(who, path) if is_folder(who, path) else [path]
    if isinstance(weights, list | tuple) and weights:
        if all(isinstance(path, str | Path) for path in weights):
            return _Stored(who, [readable(who, path) for path in weights])
    return read_weights(who, weights)


def _files(who: str, folder: Path) -> list[Path]:
    """Return the files of a folder that hold the weights of one model.

    Next to these files, a folder may have the same weights in another format, and adapters. An
    index says which files belong together; without one, model.safetensors is the whole model.
    """
    index = folder / "model.safetensors.index.json"
    if exists(who, index):
        try:
            named = parse_json(readable(who, index).read_bytes())["weight_map"]
            names = sorted(set(named.values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{who}: {index} is not an index of weights: {error!r:.200}") from None
        for name in names:
            if not name or Path(str(name)).name != name:
                raise ValueError(
                    f"{who}: {index}: weight_map must map names to files of its folder, got "
                    f"{name!r:.60}"
                )
        return [folder / name for name in names]
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"{who}: {folder} has no file *.safetensors")
    single_file = folder / "model.safetensors"
    return [single_file] if single_file in paths else paths


class _Stored(OneByOne):
    """The arrays of safetensors files, mapped into memory and read one by one."""

    def __init__(self, who: str, paths: list[Path]):
        self._who = who
        self._place: dict[str, Path] = {}
        for path in paths:
            with opened(who, path) as file:
                for name in file.keys():
                    if name in self._place:
                        raise ValueError(f'{who}: "{name}" is in {self._place[name]} and in {path}')
                    self._place[name] = path

    def __getitem__(self, name: str) -> np.ndarray:
        path = self._place[name]
        with opened(self._who, path) as file:
            return tensor(self._who, path, file, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)


def write_files(
    who: str, config: Path, entries: Mapping[str, Any], weights: Path, arrays: Mapping[str, Any]
) -> None:
    """Write a configuration, then the weights that belong to it, as `transformers` reads them.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> config, weights = folder / "config.json", folder / "model.safetensors"
      >>> write_files("save", config, {"r": 8}, weights, {"kernel": np.eye(2)})
      >>> config.read_text(), list(open_weights("load", weights))
      ('{\\n  "r": 8\\n}', ['kernel'])
    """
    replace_file(who, config, json.dumps(entries, indent=2).encode(), must_be_regular=True)
    with replacing(who, weights, must_be_regular=True) as file:
        contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        write_tensors(file, contiguous, {"format": "pt"})


def read_weights(who: str, weights: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a mapping or a safetensors file; arrays that share memory become one.

    16-bit and 8-bit floats that NumPy lacks become float32.

    Args:
      who: Name of the function, for messages.
      weights: Dict of name -> array or tensor of PyTorch, or the path of a safetensors file.

    Raises:
      OSError, ValueError: If a file is missing or cannot be read.
      TypeError: If `weights` are not arrays by name.

    Example:
      >>> tied = np.ones((3, 4), np.float32)
      >>> arrays = read_weights("from_torch", {"embedding.weight": tied, "output.weight": tied})
      >>> arrays["embedding.weight"] is arrays["output.weight"]
      True
    """
    if isinstance(weights, str | Path):
        weights, _ = read_tensors(who, readable(who, weights))
    hint = ""
    if hasattr(weights, "state_dict"):
        hint = "write model.state_dict()"
    elif hasattr(weights, "weights"):
        hint = "for Keras write {w.path: w.numpy() for w in model.weights}"
    wanted = "a state_dict or dict of arrays by name, or the path of a safetensors file"
    check_type(who, "weights", weights, Mapping, wanted, hint)
    # All are held while addresses are compared: a mapping may make its arrays when it is asked,
    # and the address of one that is freed may become that of the next. It may also refill one
    # buffer, so what is not a dict is copied, and shares its memory only if the values are equal.
    is_dict = isinstance(weights, dict)
    if is_dict:
        _check_level(who, weights)
    held: list[Any] = []
    by_memory: dict[tuple, np.ndarray] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, value in weights.items():
        held.append(value)
        array = read_array(who, name, value)
        if not is_dict:
            array = array.copy()
        first = by_memory.setdefault(_memory(value), array)
        shared = is_dict or np.array_equal(first, array)
        arrays[name] = first if shared else array
    return arrays


def _check_level(who: str, weights: dict) -> None:
    """Raise if an entry holds the weights, as in a checkpoint of PyTorch Lightning."""
    for name, value in weights.items():
        if isinstance(value, Mapping):
            raise TypeError(
                f"{who}: weights must hold arrays or tensors, got {type(value).__name__} for "
                f"{name}; write weights[{name!r:.60}]"
            )


def _memory(array: Any) -> tuple:
    """Return a key that is equal for arrays that share all their memory, such as tied weights."""
    start, strides = id(array), ()
    has_memory = math.prod(np.shape(array)) > 0
    if has_memory and hasattr(array, "data_ptr"):
        start, strides = array.data_ptr(), array.stride()
    elif has_memory and isinstance(array, np.ndarray):
        start, strides = array.__array_interface__["data"][0], array.strides
    return start, tuple(strides), tuple(np.shape(array)), str(getattr(array, "dtype", ""))


def numbers(array: Any, dtype: Any) -> jax.Array:
    """Return a copy of weights in a dtype of the net, which must not lose their values.

    Raises:
      ValueError: If floats are wanted and the weights are integers, or beyond the range.

    Example:
      >>> numbers(np.ones(3), np.float32)
      Array([1., 1., 1.], dtype=float32)
      >>> numbers(np.full(3, 127, np.int8), np.float32)
      Traceback (most recent call last):
      ...
      ValueError: holds int8 where floats are needed: quantized weights are multiplied by their ...
    """
    array, dtype = np.asarray(array), jax.dtypes.canonicalize_dtype(dtype)
    has_floats, needs_floats = is_float(array), jnp.issubdtype(dtype, jnp.inexact)
    if needs_floats and not has_floats:
        raise ValueError(
            f"holds {array.dtype} where floats are needed: quantized weights are multiplied by "
            "their scales first, by a function in the table or before"
        )
    is_complex = jnp.issubdtype(array.dtype, jnp.complexfloating)
    if is_complex and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"holds {array.dtype} where {dtype} is needed")
    if has_floats and needs_floats:
        _check_largest(array, dtype)
    elif array.size and not np.can_cast(array.dtype, dtype):
        _check_limits(array, dtype)
    return on_device(np.array(array, dtype))


def _check_largest(array: np.ndarray, dtype: Any) -> None:
    """Raise if finite floats would become infinite."""
    largest = float(jnp.finfo(dtype).max)
    if float(jnp.finfo(array.dtype).max) <= largest:
        return
    finite = array[np.isfinite(array)]
    if (np.abs(finite) > largest).any():
        raise ValueError(f"holds values beyond {largest:.3g}, the largest {dtype}")


def _check_limits(array: np.ndarray, dtype: Any) -> None:
    """Raise if integers would become others."""
    if not jnp.issubdtype(dtype, jnp.integer):
        return
    limits = np.iinfo(dtype)
    if not limits.min <= array.min() <= array.max() <= limits.max:
        raise ValueError(f"holds integers that {dtype} cannot hold")


def read_array(who: str, name: Any, value: Any) -> np.ndarray:
    """Return one array or tensor as a NumPy array; narrow floats of PyTorch become float32.

    Example:
      >>> read_array("from_torch", "bias", np.zeros(3)).shape
      (3,)
    """
    if not isinstance(name, str):
        raise TypeError(f"{who}: weights must have names, got {name!r:.60}")
    if hasattr(value, "detach"):
        try:
            value = value.detach().cpu()
            # NumPy lacks PyTorch's bfloat16 and floats of 8 bits
            if value.is_floating_point() and value.itemsize < 4:
                value = value.float()
            value = value.numpy()
        except Exception as error:  # without values, or sparse, or quantized
            raise TypeError(
                f"{who}: {name} must be a dense tensor with values, got one on {value.device} "
                f"with layout {value.layout}: {str(error)[:100]}"
            ) from error
    check_type(who, name, value, np.ndarray | np.generic | jax.Array, "an array or tensor")
    return np.asarray(value)
