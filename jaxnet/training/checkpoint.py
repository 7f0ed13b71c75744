"""Save and load any pytree of arrays in one file.

`jn.Checkpoints` writes the same files: one for each process, with the part of the arrays that the
process has.
"""

import functools
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.checks import check_mask, check_type, is_key, on_device
from jaxnet.services.files import readable
from jaxnet.services.json_text import parse_json
from jaxnet.services.saving import (
    SAFETENSORS_DTYPES,
    Notes,
    check_seal,
    opened,
    read_tensors,
    write_file,
)
from jaxnet.services.trees import as_lines, check_depth, describe, differences

PyTree = Any

_EMPTY = {"none": type(None), "empty": dict, "empty list": list, "empty tuple": tuple}
# Python's numbers, not NumPy's, and the kinds of dtypes in which they are stored; "V" is bfloat16.
_NUMBERS = {bool: "b", int: "iu", float: "fV", complex: "c"}


def save(path: str | os.PathLike, tree: PyTree, *, config: Any = None) -> None:
    """Write a pytree of arrays into one safetensors file, keyed by path: "params/conv/kernel".

    The file is written whole or not at all: it is written next to `path` and moved into place, so a
    program that is stopped does not change the old file. The new file keeps its mode, and a
    symbolic link remains one. Missing parent folders are created. The tree may hold every dtype,
    typed random keys, Python numbers, and the tuples of optax, so you can save a whole `TrainState`
    and resume training from it. A checksum lets `load` detect a file that was changed. For
    arrays that are spread over several hosts, use `jn.Checkpoints`.

    Args:
      path: Path of the file, such as "lenet.safetensors"; "~" is the home folder.
      tree: Arrays and numbers in dicts, lists, tuples and named tuples; names are strings without
        "/", or integers.
      config: Data for JSON, from which you can build the network again.

    Raises:
      TypeError: If a leaf is not an array, is a masked array, or has a dtype that JAX lacks.
      TypeError: If the tree is a bare array, if a name is another one, or if JSON cannot hold the
        config.
      ValueError: If a name has "/", or if two leaves have the same path.
      ValueError: If a donating step used up an array.
      IsADirectoryError: If `path` is a directory.
      OSError: If the file cannot be written, or if it is a device or a pipe.

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
    try:
        _check_json(config, "config")
    except RecursionError:
        raise ValueError(
            "save: config is nested too deeply for JSON, or an entry holds the config itself"
        ) from None
    arrays, notes = packed("save", tree)
    write_file("save", path, arrays, notes, config)


def load(path: str | os.PathLike, like: PyTree = None) -> tuple[PyTree, Any]:
    """Read a file of `save`: the tree, and the config (None by default).

    To read a published model, such as Llama, call `jn.pretrained.load`; to read a dataset,
    `jn.data.tfds.load`. To continue a run of `fit`, call `newest` of `jn.Checkpoints`.

    Without `like` the tree is nested dicts; lists and tuples become dicts too, keyed "0", "1" or by
    the names of their fields, except for empty ones. With `like` it has the structure of `like`,
    and every path, shape and dtype is compared first. Arrays and numbers are JAX arrays. Arrays of
    64 bits, such as Python floats, stay NumPy arrays while `jax_enable_x64` is off, so that they
    keep all digits.

    Args:
      path: Path of a safetensors file, whoever wrote it; the checksum of `save` is checked.
      like: Pytree of arrays or shapes, for example `jax.eval_shape(net.init, key, x)`; arrays
        spread over devices are spread in the same way, and Python numbers are Python numbers.

    Returns:
      The tree and the config, which is None if `save` got none.

    Raises:
      FileNotFoundError: If the file does not exist.
      IsADirectoryError: If `path` is a directory.
      OSError: If the file cannot be read.
      TypeError: If a leaf of `like` lacks a shape or a dtype.
      ValueError: If the file is broken, was changed, or is in a different format.
      ValueError: If it differs from `like`; the message names all entries that differ.

    Example:
      >>> import tempfile
      >>> file = f"{tempfile.mkdtemp()}/net"
      >>> save(file, {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})
      >>> load(file, like={"kernel": jn.spec((2, 4)), "scale": jn.spec((3,))})
      Traceback (most recent call last):
      ...
      ValueError: load: .../net does not fit:
        kernel: expected (2, 4) float32, got (2, 3) float32
        scale: expected (3,) float32, got nothing
        bias: unknown entry
    """
    path = readable("load", path)
    stored, metadata = read_tensors("load", path)
    if "jaxnet" in metadata or "sha256" in metadata:  # not a file of another library
        check_seal("load", path, sorted(stored.items()), metadata)
    try:
        config = parse_json(metadata.get("config", "null"))
        notes = dict(parse_json(metadata.get("jaxnet", "{}")))
        leaves, numbered = {}, {}
        for name, note in notes.items():
            numbered[name] = _places(note.get("numbers", ()), name)
        for name, value in stored.items():
            note = notes.pop(name, {})
            leaves[name] = _loaded(_numbers(value, note), note)
        for name, note in notes.items():  # the others are of empty entries
            leaves[name] = _EMPTY[note["is"]]()
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"load: the metadata of {path} is broken: {error!r:.200}") from error
    if like is None:
        return _nested(path, leaves, numbered), config
    wanted = _without_empty(_named(like, "load"))
    leaves = _without_empty(leaves)
    _compare(path, wanted, leaves)
    placed = iter([_put(leaves[name], leaf) for name, leaf in wanted.items()])
    return jax.tree.map(lambda _: next(placed), like), config


def packed(who: str, tree: PyTree, parts: bool = False) -> tuple[dict[str, np.ndarray], Notes]:
    """Return a tree's arrays by path, as safetensors stores them, and notes on the rest.

    Args:
      who: Name of the function, for messages.
      tree: Tree, as for `save`.
      parts: Whether to pack this process's part of an array that several share.
    """
    arrays: dict[str, np.ndarray] = {}
    notes: Notes = {}
    named = _named(tree, who)
    numbered = _numbered(tree)
    for name, leaf in named.items():
        numbers = {"numbers": numbered[name]} if name in numbered else {}
        empty = _empty(leaf)
        if empty:  # such as the empty state of a network without state
            notes[name] = numbers | {"is": empty}
            continue
        leaf, note = _without_key(who, name, leaf)
        note |= numbers
        if getattr(leaf, "is_fully_addressable", True):
            pieces = {name: (leaf, note)}
        elif not parts:
            raise ValueError(f"{who}: {name} is spread over several hosts; use jn.Checkpoints")
        else:
            pieces = {}
            for shard in leaf.addressable_shards:
                if shard.replica_id == 0:
                    start = [part.start or 0 for part in shard.index]
                    pieces[f"{name}{start}"] = shard.data, note | {"of": name, "start": start}
        for piece, (value, note) in pieces.items():
            arrays[piece], raw = _to_array(who, name, value)
            notes[piece] = note | raw
    return arrays, {name: note for name, note in notes.items() if note}


def unpacked(who: str, paths: Sequence[Path], like: PyTree) -> PyTree:
    """Return the tree whose parts several files hold, put on devices as the arrays of `like` are.

    Each process reads only what its devices need.

    Args:
      who: Name of the function, for messages.
      paths: Files of `write_file`, of one save.
      like: Arrays or shapes.

    Raises:
      ValueError: If the files do not fit each other, or `like`.
    """
    with ExitStack() as stack:
        parts: dict[str, list[tuple[dict, Any]]] = {}
        saves = set()
        for path in paths:
            file = stack.enter_context(opened(who, path))
            metadata = file.metadata()
            notes = parse_json(metadata["jaxnet"])
            config = parse_json(metadata.get("config", "null")) or {}
            saves.add(config.get("id"))
            for name in file.keys():
                note = notes.get(name, {})
                parts.setdefault(note.get("of", name), []).append((note, file.get_slice(name)))
        named = _without_empty(_named(like, who))
        if len(saves) != 1 or parts.keys() != named.keys():
            raise ValueError("its files are of several saves, or have other entries")
        leaves = iter([_assembled(name, parts[name], leaf) for name, leaf in named.items()])
        return jax.tree.map(lambda _: next(leaves), like)


def _assembled(name: str, parts: list[tuple[dict, Any]], like: Any) -> Any:
    """Return an array whose parts are in files, on the devices of `like`."""
    (note, _), *_ = parts
    sharding = getattr(like, "sharding", None)
    wanted = like.dtype
    if note.get("is") == "key":
        like = jax.eval_shape(jax.random.key_data, like)
    fill = functools.partial(_box, name, parts, like)
    if sharding:
        array = jax.make_array_from_callback(like.shape, sharding, fill)
    else:
        array = fill([slice(None)] * len(like.shape))
    loaded = _loaded(array, note)
    if loaded.dtype != wanted:
        raise ValueError(f"{name} has dtype {loaded.dtype}, not {wanted}")
    return loaded


def _box(name: str, parts: list[tuple[dict, Any]], like: Any, index: Any) -> np.ndarray:
    """Return the entries at an index of an array whose parts must cover it."""
    wanted = [range(size)[part] for size, part in zip(like.shape, index, strict=True)]
    box = np.empty([len(span) for span in wanted], like.dtype)
    times = np.zeros(box.shape, np.uint8)
    for note, part in parts:
        starts = note.get("start", [0] * len(wanted))
        sizes = part.get_shape()
        has = [range(s, s + size) for s, size in zip(starts, sizes, strict=False)]
        both = [_overlap(a, b) for a, b in zip(wanted, has, strict=True)]
        if any(b.start < 0 or b.stop > n for b, n in zip(has, like.shape, strict=True)):
            raise ValueError(f"{name} has a part {tuple(sizes)} at {starts}, beyond {like.shape}")
        if all(both):
            numbers = _numbers(part[_slices(both, has)], note)
            if numbers.dtype != like.dtype:
                raise ValueError(f"{name} has dtype {numbers.dtype}, not {like.dtype}")
            box[_slices(both, wanted)] = numbers
            times[_slices(both, wanted)] += 1
    if (times != 1).any():
        raise ValueError(f"the parts of {name} do not make up {like.shape}")
    return box


def _overlap(a: range, b: range) -> range:
    """Return what two ranges of rows have in common, which may be empty."""
    return range(max(a.start, b.start), min(a.stop, b.stop))


def _slices(spans: list[range], inside: list[range]) -> tuple[slice, ...]:
    pairs = zip(spans, inside, strict=True)
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in pairs)


def _empty(leaf: Any) -> str:
    """Return the name of an empty entry of a tree, None or an empty container; "" for any leaf."""
    for word, kind in _EMPTY.items():
        if isinstance(leaf, kind) and not leaf:
            return word
    return ""


def _without_empty(named: dict[str, Any]) -> dict[str, Any]:
    """Return the entries that are leaves."""
    return {name: leaf for name, leaf in named.items() if not _empty(leaf)}


def _named(tree: PyTree, who: str) -> dict[str, Any]:
    """Return the leaves by path, and the empty containers."""
    named: dict[str, Any] = {}
    check_depth(who, tree)
    try:
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree, lambda leaf: bool(_empty(leaf)))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{who}: the names in a dict must be all strings: {error}") from None
    for keys, leaf in leaves:
        _check_names(keys, who)
        words = [jax.tree_util.keystr((key,), simple=True) for key in keys]
        name = "/".join(words)
        if not words and (leaf is None or not _empty(leaf)):
            raise TypeError(
                f'{who}: the tree needs names, such as {{"params": params}}, '
                f"got {type(leaf).__name__}"
            )
        if any("/" in word for word in words):
            raise ValueError(f"{who}: a name in the tree has a '/', which separates names: {words}")
        if "" in words:
            raise ValueError(f"{who}: a name in the tree is empty")
        if name == "__metadata__":
            raise ValueError(f"{who}: the name __metadata__ belongs to the file; choose another")
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ValueError(f"{who}: names in the tree must be valid Unicode, got {name!r}")
        if name in named:
            raise ValueError(f"{who}: two leaves have the path {name}")
        named[name] = leaf
    return named


def _check_names(keys: Sequence[Any], who: str) -> None:
    """Raise for a name of a dict that a file could not give back."""
    for key in keys:
        name = getattr(key, "key", "")
        if isinstance(key, jax.tree_util.DictKey) and not _is_number(name):
            check_type(who, "a name in a dict", name, str, "a str or an int")


def _is_number(name: Any) -> bool:
    return isinstance(name, int) and not isinstance(name, bool)


def _numbered(tree: PyTree) -> dict[str, list[int]]:
    """Return by path of a leaf which parts of its path are integers, the names of a dict."""
    found, _ = jax.tree_util.tree_flatten_with_path(tree, lambda leaf: bool(_empty(leaf)))
    numbered = {}
    for keys, _ in found:
        places = [
            i
            for i, key in enumerate(keys)
            if isinstance(key, jax.tree_util.DictKey) and _is_number(key.key)
        ]
        if places:
            numbered[jax.tree_util.keystr(keys, simple=True, separator="/")] = places
    return numbered


def _without_key(who: str, name: str, leaf: Any) -> tuple[Any, dict[str, str]]:
    """Return a leaf, or the data of a random key with a note on it."""
    kinds = jax.Array | np.ndarray | np.generic | bool | int | float | complex
    check_type(who, name, leaf, kinds, "an array")
    if isinstance(leaf, jax.Array) and leaf.is_deleted():
        raise ValueError(
            f"{who}: {name} was donated to a step and is gone; save what the step returned"
        )
    if isinstance(leaf, jax.Array) and is_key(leaf):
        return jax.random.key_data(leaf), {"is": "key", "impl": str(jax.random.key_impl(leaf))}
    return leaf, {}


def _to_array(who: str, name: str, leaf: Any) -> tuple[np.ndarray, dict[str, str]]:
    """Return the array that safetensors stores for a leaf, and a note if the two differ."""
    check_mask(who, name, leaf)
    if isinstance(leaf, int) and not isinstance(leaf, bool):
        usual = jax.dtypes.canonicalize_dtype(np.int64)  # 64 bits are for numbers that need them
        fits = abs(leaf) <= np.iinfo(usual).max
        try:
            leaf = np.asarray(leaf, usual if fits else np.int64)
        except OverflowError:
            raise TypeError(f"save: {name} must fit 64 bits, got {leaf}") from None
    array = np.asarray(leaf, order="C")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.name in SAFETENSORS_DTYPES:
        return array, {}
    if not jnp.issubdtype(array.dtype, np.number) or array.dtype.kind == "m":  # a duration
        raise TypeError(f"{who}: {name} must hold numbers, got dtype {array.dtype}")
    if array.dtype in (np.longdouble, np.clongdouble):
        raise TypeError(
            f"{who}: {name} has dtype {array.dtype}, which JAX lacks; write x.astype(np.float64)"
        )
    raw = np.frombuffer(array.tobytes(), np.uint8).reshape(*array.shape, array.dtype.itemsize)
    return raw, {"is": "raw", "dtype": array.dtype.name}


def _loaded(array: Any, note: dict[str, Any]) -> Any:
    """Return an array as JAX has it, or as it is if JAX would cut its 64 bits; a key as a key."""
    if jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype:
        array = on_device(array)
    if note.get("is") == "key":
        return jax.random.wrap_key_data(array, impl=note["impl"])
    return array


def _numbers(array: np.ndarray, note: dict[str, Any]) -> np.ndarray:
    """Return the array that was stored, in its own dtype."""
    if note.get("is") != "raw":
        return array
    return np.frombuffer(array.tobytes(), np.dtype(note["dtype"])).reshape(array.shape[:-1])


def _put(value: Any, like: Any) -> Any:
    """Put a value on the devices of `like` if those are several; make it a number if `like` is."""
    if type(like) in _NUMBERS:
        return np.asarray(value).item()
    sharding = getattr(like, "sharding", None)
    if sharding is not None and len(sharding.device_set) > 1:
        return jax.device_put(value, sharding)
    return value


def _compare(path: Path, wanted: dict[str, Any], stored: dict[str, Any]) -> None:
    needed = {name: _describe(name, leaf) for name, leaf in wanted.items()}
    have = {name: describe(value) for name, value in stored.items()}
    have |= {n: needed[n] for n, value in stored.items() if _is_like(value, wanted.get(n))}
    if wrong := differences(needed, have):
        raise ValueError("\n".join([f"load: {path} does not fit:", *as_lines(wrong)]))


def _is_like(value: Any, number: Any) -> bool:
    """Return whether a stored value is a number of the same kind as a Python number."""
    kinds = _NUMBERS.get(type(number), "")
    return value.shape == () and not is_key(value) and value.dtype.kind in kinds


def _describe(name: str, leaf: Any) -> str:
    if type(leaf) in _NUMBERS:
        return f"a Python {type(leaf).__name__}"
    if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
        raise TypeError(
            f"load: like needs arrays or shapes, such as jn.spec((3,)), got {type(leaf).__name__} "
            f"for {name}"
        )
    return describe(leaf)


def _places(value: Any, name: str) -> list[int]:
    """Return the places of a path where a dict has an integer, as `_numbered` noted them."""
    words = name.split("/")
    if not all(isinstance(i, int) and words[i].lstrip("-").isdecimal() for i in value):
        raise ValueError(f"the places {value!r:.60} of {name} hold no integers")
    return list(value)


def _nested(path: Path, leaves: dict[str, Any], numbered: dict[str, list[int]]) -> PyTree:
    if [*leaves] == [""] and _empty(leaves[""]):
        return leaves[""]  # the tree itself is empty
    if odd := [name for name in leaves if "" in name.split("/")]:
        raise ValueError(
            f"load: {path} has an entry with an empty name, {odd[0]!r:.60}. No tree can hold it; "
            "safetensors.numpy.load_file can read its arrays"
        )
    tree: dict[Any, Any] = {}
    for name, leaf in leaves.items():
        words: list[Any] = name.split("/")
        for place in numbered.get(name, []):
            words[place] = int(words[place])
        *parents, last = words
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ValueError(f"load: {path}: {name} is below an array; no tree can have both")
        inner[last] = leaf
    return tree


def _check_json(value: Any, where: str) -> None:
    if isinstance(value, dict | list | tuple):
        named = isinstance(value, dict)
        for key, inner in value.items() if named else enumerate(value):
            if named and not isinstance(key, str):
                raise TypeError(
                    f"save: {where} has the key {key!r}, but keys in JSON must be strings"
                )
            _check_json(inner, f"{where}[{key!r}]")
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError(
            f"save: {where} must be data that JSON can store, got {type(value).__name__}"
        )
