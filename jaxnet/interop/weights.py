"""Weights of other libraries as arrays by name."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnet.services.files import readable
from jaxnet.training.checkpoint import opened, read_tensors, tensor

Weights = Mapping[str, Any]  # names, as in a state_dict, -> arrays or tensors
Files = str | Path | Sequence[str | Path]  # safetensors: a file, several, or a folder of them


def open_weights(who: str, weights: Any) -> Mapping[str, Any]:
    """Return the arrays by name of a mapping, or of safetensors files, each read when needed.

    Args:
      who: Name of the function that got it, for messages.
      weights: Arrays or tensors by name, or paths.

    Raises:
      OSError, ValueError: If a file is missing or cannot be read, or two have the same name.
      TypeError: If `weights` is anything else.

    Example:
      >>> list(open_weights("by_names", {"bias": np.zeros(3)}))
      ['bias']
    """
    if isinstance(weights, str | Path):
        path = Path(weights)
        if path.is_dir():
            weights = sorted(path.glob("*.safetensors"))
            if not weights:
                raise FileNotFoundError(f"{who}: {path} has no file *.safetensors")
        else:
            weights = [path]
    paths = isinstance(weights, list | tuple) and all(isinstance(w, str | Path) for w in weights)
    if not paths or not weights:
        return read_weights(who, weights)
    return _Stored(who, [readable(who, path) for path in weights])


class _Stored(Mapping):
    """The arrays of safetensors files, mapped into memory and read one by one."""

    def __init__(self, who: str, paths: list[Path]):
        self._who, self._place = who, {}
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
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"{who}: weights must be a state_dict or the path of a safetensors file, got "
            f"{type(weights).__name__}"
        )
    known: dict[tuple, np.ndarray] = {}
    return {
        name: known.setdefault(_memory(given), _array(who, name, given))
        for name, given in weights.items()
    }


def _memory(given: Any) -> tuple:
    """Return a key that is equal for arrays that share all their memory, such as tied weights."""
    if hasattr(given, "data_ptr"):
        start, strides = given.data_ptr(), given.stride()
    elif isinstance(given, np.ndarray):
        start, strides = given.__array_interface__["data"][0], given.strides
    else:
        start, strides = id(given), ()
    return start, tuple(strides), tuple(np.shape(given)), str(getattr(given, "dtype", ""))


def _array(who: str, name: Any, given: Any) -> np.ndarray:
    if not isinstance(name, str):
        raise TypeError(f"{who}: weights must have names, got {name!r:.60}")
    if hasattr(given, "detach"):
        given = given.detach().cpu()
        # NumPy lacks PyTorch's bfloat16 and floats of 8 bits
        given = (
            given.float() if given.is_floating_point() and given.itemsize < 4 else given
        ).numpy()
    if not isinstance(given, np.ndarray | np.generic | jax.Array):
        raise TypeError(
            f"{who}: weights must hold arrays or tensors, got {type(given).__name__} for {name}"
        )
    return np.asarray(given)
