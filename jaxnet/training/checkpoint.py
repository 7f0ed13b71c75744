"""Saving and loading: any pytree of arrays, in one file."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

PyTree = Any


def save(path: str | os.PathLike, tree: PyTree, *, config: Any = None) -> None:
    """Writes a pytree of arrays into one safetensors file, keyed by path: "params/conv/kernel".

    The file appears whole or not at all: it is written beside `path` and moved into place, so a
    program that is stopped leaves the old file as it was. Folders above it are made. The tree may
    hold every dtype, typed random keys, and the tuples of optax, so a whole `TrainState` is saved
    and training goes on from it. For many hosts, or arrays larger than one machine holds, use
    orbax-checkpoint.

    Args:
      path: of the file, such as "lenet.safetensors".
      tree: arrays in dicts, lists, tuples and named tuples; the names have no "/".
      config: anything that JSON holds, to build the network again.

    Raises:
      TypeError: for a leaf that is no array, a tree that is a bare array, a config beyond JSON.
      ValueError: for a name with "/", two leaves of one path, or an array that a donating step used
        up.
      IsADirectoryError: where path is a folder.
      OSError: where it cannot be written.

    Example:
      >>> import tempfile
      >>> file = f"{tempfile.mkdtemp()}/net"
      >>> net = jn.dense(3)
      >>> params, state = net.init(jax.random.key(0), jn.spec((4, 2)))
      >>> save(file, {"params": params, "state": state}, config={"features": 3})
      >>> tree, config = load(file)
      >>> tree["params"]["kernel"].shape, tree["state"], config
      ((2, 3), {}, {'features': 3})
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    if path.is_dir():
        raise IsADirectoryError(f"save: {path} is a folder; name a file in it")
    _check_json(config, "config")
    arrays: dict[str, np.ndarray] = {}
    notes: dict[str, dict[str, str]] = {}  # what safetensors does not know, by path
    for name, leaf in _named(tree, "save").items():
        if isinstance(leaf, dict):  # an empty one, such as the state of a network without any
            notes[name] = {"is": "empty"}
            continue
        arrays[name], note = _to_array(name, leaf)
        if note:
            notes[name] = note
    metadata = {"config": json.dumps(config), "jaxnet": json.dumps(notes)}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        beside.touch()
        mode = beside.stat().st_mode  # as any new file here; save_file would keep others out
        try:
            save_file(arrays, beside, metadata)
        except SafetensorError as error:
            raise OSError(f"save: {path} cannot be written: {error}") from None
        beside.chmod(mode)
        with open(beside, "rb+") as file:  # on the disk before it takes the old one's place
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load(path: str | os.PathLike, like: PyTree = None) -> tuple[PyTree, Any]:
    """Reads a file of `save`: the tree, and the config (None by default).

    Without `like` the tree is nested dicts; lists and tuples become dicts too, keyed "0", "1" or by
    the names of their fields. With `like` it has the structure of `like`, and every path, shape and
    dtype is compared first. Arrays are JAX arrays; those of 64 bits stay NumPy
    arrays while `jax_enable_x64` is off, so that no digit is lost.

    Args:
      path: of a safetensors file, whoever wrote it.
      like: a pytree of arrays or shapes, for example `jax.eval_shape(net.init, key, x)`; arrays
        spread over devices are spread in the same way.

    Raises:
      FileNotFoundError, IsADirectoryError: where there is no such file.
      ValueError: for a file that is broken or of another format, or that differs from `like`; names
        all entries that differ.

    Example:
      >>> import tempfile
      >>> file = f"{tempfile.mkdtemp()}/net"
      >>> save(file, {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})
      >>> load(file, like={"kernel": jn.spec((2, 4)), "scale": jn.spec((3,))})
      Traceback (most recent call last):
      ...
      ValueError: load: .../net does not fit:
        kernel: needs (2, 4) float32, got (2, 3) float32
        scale: needs (3,) float32, is missing
        bias: is not known
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"load: there is no file {path}")
    if path.is_dir():
        raise IsADirectoryError(f"load: {path} is a folder; name a file in it")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"load: {path} is not a safetensors file, or is cut short ({path.stat().st_size} "
            f"bytes): {error}"
        ) from None
    config = _from_json(metadata.get("config", "null"), f"the config in {path}")
    notes = _from_json(metadata.get("jaxnet", "{}"), f"the notes in {path}")
    leaves = {name: _from_array(value, notes.get(name)) for name, value in stored.items()}
    if like is None:
        empty = {name: {} for name, note in notes.items() if note["is"] == "empty"}
        return _nested(leaves | empty), config
    wanted = {name: leaf for name, leaf in _named(like, "load").items() if not _empty(leaf)}
    _compare(path, wanted, leaves)
    placed = iter([_place(leaves[name], leaf) for name, leaf in wanted.items()])
    return jax.tree.map(lambda _: next(placed), like), config


def _empty(leaf: Any) -> bool:
    return isinstance(leaf, dict) and not leaf


def _named(tree: PyTree, who: str) -> dict[str, Any]:
    """The leaves by path, and the empty dicts."""
    named: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_empty)[0]:
        words = [jax.tree_util.keystr((key,), simple=True) for key in keys]
        name = "/".join(words)
        if not words and _empty(leaf):
            continue
        if not words:
            raise TypeError(
                f'{who}: the tree needs names, such as {{"params": params}}, '
                f"got {type(leaf).__name__}"
            )
        if any("/" in word for word in words):
            raise ValueError(f"{who}: a name in the tree has a '/', which separates names: {words}")
        if name in named:
            raise ValueError(f"{who}: two leaves have the path {name}")
        named[name] = leaf
    return named


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_array(name: str, leaf: Any) -> tuple[np.ndarray, dict[str, str] | None]:
    """The array that safetensors stores for a leaf, and a note where it differs from the leaf."""
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
        raise TypeError(f"save: {name} must be an array, got {type(leaf).__name__}")
    if isinstance(leaf, jax.Array):
        if leaf.is_deleted():
            raise ValueError(
                f"save: {name} was donated to a step and is gone; save what the step returned"
            )
        if not leaf.is_fully_addressable:
            raise ValueError(f"save: {name} is spread over several hosts; use orbax-checkpoint")
        if _is_key(leaf):
            implementation = str(jax.random.key_impl(leaf))
            return np.asarray(jax.random.key_data(leaf)), {"is": "key", "impl": implementation}
    elif isinstance(leaf, bool | int | float | complex):
        leaf = jnp.asarray(leaf)
    array = np.asarray(leaf, order="C")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.name in _KNOWN:
        return array, None
    if not jnp.issubdtype(array.dtype, np.number):
        raise TypeError(f"save: {name} must hold numbers, got dtype {array.dtype}")
    raw = np.frombuffer(array.tobytes(), np.uint8).reshape(*array.shape, array.dtype.itemsize)
    return raw, {"is": "raw", "dtype": array.dtype.name}


# The dtypes that safetensors 0.8 has for NumPy; others are stored as their bytes.
_KNOWN = {
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float16", "bfloat16", "float32", "float64",
}  # fmt: skip


def _from_array(array: np.ndarray, note: dict[str, str] | None) -> Any:
    if note and note["is"] == "key":
        return jax.random.wrap_key_data(jnp.asarray(array), impl=note["impl"])
    if note and note["is"] == "raw":
        dtype = np.dtype(note["dtype"])
        array = np.frombuffer(array.tobytes(), dtype).reshape(array.shape[:-1])
    narrow = jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype
    return array if narrow else jnp.asarray(array)


def _place(value: Any, like: Any) -> Any:
    """On the devices of `like`, where it is spread over several."""
    sharding = getattr(like, "sharding", None)
    if sharding is not None and len(sharding.device_set) > 1:
        return jax.device_put(value, sharding)
    return value


def _compare(path: Path, wanted: dict[str, Any], stored: dict[str, Any]) -> None:
    want, have = ({k: _describe(v) for k, v in tree.items()} for tree in (wanted, stored))
    wrong = [
        f"  {name}: needs {words}, " + (f"got {have[name]}" if name in have else "is missing")
        for name, words in want.items()
        if have.get(name) != words
    ]
    wrong += [f"  {name}: is not known" for name in have if name not in want]
    if wrong:
        raise ValueError(f"load: {path} does not fit:\n" + "\n".join(wrong))


def _describe(leaf: Any) -> str:
    leaf = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
    return f"{tuple(leaf.shape)} {leaf.dtype}"


def _nested(leaves: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ValueError(f"load: {name} lies below an array; no tree has both")
        inner[last] = leaf
    return tree


def _check_json(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"save: {where} has the key {key!r}; JSON has only strings as keys")
            _check_json(inner, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            _check_json(inner, f"{where}[{i}]")
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError(f"save: {where} must be something JSON holds, got {type(value).__name__}")


def _from_json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"load: {what} is not JSON: {error}") from None
