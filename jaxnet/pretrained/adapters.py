"""Adapters of `jn.lora` alone, in the files of the package PEFT."""

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, as_layer
from jaxnet.interop.names import raise_lines
from jaxnet.interop.weights import numbers, write_files
from jaxnet.pretrained.adapter_config import AdapterConfig, read_adapter_config
from jaxnet.pretrained.decoders import GPT2_NAMES, LLAMA_NAMES
from jaxnet.pretrained.loading import config_of
from jaxnet.services.checks import as_dict
from jaxnet.services.files import file_path, readable
from jaxnet.services.paths import fits
from jaxnet.services.saving import read_tensors
from jaxnet.services.trees import flat, is_float
from jaxnet.transforms.adapt import A, B, beside, check_factors, factors_product, options_of
from jaxnet.transforms.kernels import replaced

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

PEFT = "base_model.model."
KERNEL = re.compile(r"block_(\d+)/(.+)/kernel")  # the kernels of a block of `jn.models.decoder`

# Layers of PEFT that hold several of our kernels side by side: those of Phi-3, and of GPT-2.
PHI3_JOINED = {
    "attention/query": "self_attn.qkv_proj",
    "attention/key": "self_attn.qkv_proj",
    "attention/value": "self_attn.qkv_proj",
    "mlp_in": "mlp.gate_up_proj",
    "mlp_gate": "mlp.gate_up_proj",
}
GPT2_JOINED = {f"attention/{part}": "attn.c_attn" for part in ("query", "key", "value")}


def save_adapter(folder: str | Path, net: Layer, params: Params) -> None:
    """Write the params that `jn.lora` adds to a net, without the net's own params.

    The folder gets adapter_model.safetensors and adapter_config.json. If the net inside is a
    decoder, PEFT can load them for the same model of the package transformers: their names and
    shapes are PEFT's. Where one layer of that model is several kernels here, as queries, keys and
    values of GPT-2 and Phi-3 are, its factors hold those of the kernels side by side, so their rank
    is a multiple. Phi-3 is known by the configuration that `load` gives its net. In other nets, and
    for experts, the matrices have their paths as names. Entries that fit `trainable` of `jn.lora`
    are written too. Save the state, if there is any, by `jn.save`.

    Args:
      folder: Folder to write to; it is created if needed.
      net: Net made by `jn.lora`.
      params: Params of this net.

    Raises:
      TypeError: If `net` is not made by `jn.lora`.
      ValueError: If the params have no adapters.
      OSError: If a file cannot be written, or is a link.

    Example:
      >>> import tempfile
      >>> net, folder = jn.dense(3), tempfile.mkdtemp()
      >>> adapted = jn.lora(net, 2, where="kernel", scale=4.0)
      >>> params, state = adapted.init(jax.random.key(0), jn.spec((2, 5)))
      >>> params["kernel_lora_b"] += 1.0
      >>> jn.pretrained.save_adapter(folder, adapted, params)

      With the params of the net, load it into the adapted net or add it to the kernels:

      >>> own = {"kernel": params["kernel"], "bias": params["bias"]}
      >>> same = jn.pretrained.load_adapter(folder, adapted, own)
      >>> merged = jn.pretrained.load_adapter(folder, net, own)
      >>> for layer, tree in ((adapted, same), (net, merged)):
      ...     y, _ = layer.apply(tree, state, jnp.ones((1, 5)))
      ...     print(np.asarray(y).round(3), "by", ", ".join(sorted(tree)))
      [[1.028 1.954 3.041]] by bias, kernel, kernel_lora_a, kernel_lora_b
      [[1.028 1.954 3.041]] by bias, kernel
    """
    who = "save_adapter"
    options = options_of(as_layer(net, who, "net"))
    if options is None:
        raise TypeError(f"{who}: net must be made by jn.lora, got a {net.kind}")
    params = as_dict(who, "params", params)
    check_factors(who, params)
    folder = file_path(who, folder, "folder")
    entries = dict(flat(params))
    joined = _joined_layers(net, params)
    arrays: dict[str, np.ndarray] = {}
    targets: set[str] = set()
    ranks: dict[str, int] = {}  # of layers that are several kernels here
    for path, leaf in entries.items():
        if path + A in entries:
            a, b = np.asarray(entries[path + A]), np.asarray(entries[path + B])
            place = _joined_place(path, entries, joined)
            if place is not None and a.ndim + b.ndim == leaf.ndim + 2:
                _add_part(arrays, place, a, b)
                target = place.target
                ranks[target] = place.parts * options.rank
            else:
                factors, target = _stored_factors(path, leaf, a, b, params)
                arrays |= factors
            targets.add(target)
        elif options.trainable is not None and fits(options.trainable, path):
            arrays[path] = np.asarray(leaf)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": options.rank,
        "lora_alpha": float(options.scale) * options.rank,
        "bias": "none",
        "target_modules": sorted(targets),
        "rank_pattern": ranks,
        "alpha_pattern": {target: float(options.scale) * rank for target, rank in ranks.items()},
        "fan_in_fan_out": _is_gpt2(params),
    }
    write_files(who, folder / CONFIG, config, folder / WEIGHTS, arrays)


def _stored_factors(
    path: str, kernel: Any, a: np.ndarray, b: np.ndarray, params: Params
) -> tuple[dict[str, np.ndarray], str]:
    """Return the factors of a kernel as arrays by name, and the name of their layer for PEFT."""
    copies = a.ndim + b.ndim - 2 - kernel.ndim  # axes of `repeat`, which PEFT lacks
    module = "" if copies else _module(path, params)
    names = _names(path, module)
    if not module:
        layer = path.rpartition("/")[0]
        return dict(zip(names, (a, b), strict=True)), layer
    a = a.reshape(-1, a.shape[-1]).T
    b = b.reshape(b.shape[0], -1).T
    return dict(zip(names, (a, b), strict=True)), _target(module.removeprefix(PEFT))


def _target(module: str) -> str:
    """Return the name of a module within its block, without such as "model.layers.0."."""
    return module.split(".", 3)[-1]


def _joined_layers(net: Layer, params: Params) -> Mapping[str, str]:
    """Return the layers of PEFT that are several kernels here, by our names of those."""
    if _is_gpt2(params):
        return GPT2_JOINED
    config = config_of(net)
    return PHI3_JOINED if config and config.get("model_type") == "phi3" else {}


def _add_part(arrays: dict[str, np.ndarray], place: "_Place", a: np.ndarray, b: np.ndarray) -> None:
    """Add the factors of a kernel to those of the layer of PEFT that it is a part of.

    The parts have columns of their own, so the second factor is 0 between different parts.
    """
    rank = a.shape[-1]
    name_of_a, name_of_b = place.names
    a = a.reshape(-1, rank).T
    arrays.setdefault(name_of_a, np.zeros((place.parts * rank, a.shape[1]), a.dtype))
    arrays.setdefault(name_of_b, np.zeros((place.joined, place.parts * rank), b.dtype))
    columns = place.columns(rank)
    arrays[name_of_a][columns] = a
    arrays[name_of_b][place.outputs, columns] = b.reshape(rank, -1).T


def load_adapter(folder: str | Path, net: Layer, params: Params) -> Params:
    """Return params with an adapter of `save_adapter`, or of PEFT for a decoder.

    Factors of PEFT for GPT-2's c_attn, or for Phi-3's qkv_proj and gate_up_proj, are divided among
    the kernels that these layers hold. Those of `save_adapter` become the factors of each kernel
    again. Entries of adapter_config.json that PEFT would compute with,
    but `jn.lora` does not, raise an error.

    Args:
      folder: Folder with adapter_model.safetensors and adapter_config.json.
      net: Net made by `jn.lora`, which gets the matrices; or the net without adapters, to whose
        kernels the products are added.
      params: Params of the net; adapters in them are replaced, and may be missing.

    Returns:
      Params of `net`, with the matrices or with their products added.

    Raises:
      OSError: If a file is missing or cannot be read.
      ValueError: If a file is damaged, or does not fit the net; the message lists the entries.
      ValueError: If PEFT computes something else, as with DoRA.

    Example:
      See `save_adapter`.
    """
    who = "load_adapter"
    net = as_layer(net, who, "net")
    options = options_of(net)
    params = as_dict(who, "params", params)
    folder = file_path(who, folder, "folder")
    config = read_adapter_config(who, readable(who, folder / CONFIG))
    path = readable(who, folder / WEIGHTS)
    stored, _ = read_tensors(who, path)
    wrong: list[str] = []
    if options and not _same_options(options, config.rank, config.scale):
        wrong.append(f"it needs jn.lora(net, {config.rank}, scale={config.scale:.6g})")
    where = options.where if options else None
    found, used = _found(stored, config, params, where, wrong)
    new: dict[str, Any] = {}
    for entry, leaf in flat(params):
        try:
            if entry in found and options:
                _check_rank(found[entry][0], options.rank)
                new |= dict(zip((entry + A, entry + B), found[entry], strict=True))
            elif entry in found:
                new[entry] = _finite(leaf + config.scale * factors_product(leaf, *found[entry]))
            elif entry in stored and not entry.endswith((A, B)):
                new[entry] = _stored_as_is(stored[entry], leaf)
                used.add(entry)
        except ValueError as error:
            wrong.append(f"{entry} {np.shape(leaf)}: {error}")
    unused = stored.keys() - used
    wrong += [f'not used: "{name}" {stored[name].shape}' for name in stored if name in unused]
    if not new and not wrong:
        wrong.append("it holds no adapter")
    raise_lines(f"{who}: {path} does not fit {net.name}:", wrong)
    if options:
        params = beside(params, found)
    return replaced(params, new)


def _same_options(options: Any, rank: int, scale: float) -> bool:
    return options.rank == rank and math.isclose(options.scale, scale, rel_tol=1e-6)


def _is_gpt2(params: Mapping[str, Any]) -> bool:
    """Return whether these are params of a GPT-2, the decoder with a table of positions."""
    return not params.keys().isdisjoint({"positions", "positions/embedding"})


def _module(path: str, params: Mapping[str, Any]) -> str:
    """Return PEFT's name of the module of a kernel; "" if there is none."""
    match = KERNEL.fullmatch(path)
    if match is None:
        return ""
    names = GPT2_NAMES if _is_gpt2(params) else LLAMA_NAMES
    number, ours = match.groups()
    return f"{PEFT}{_layers(params)}.{number}.{names[ours]}" if ours in names else ""


def _layers(params: Mapping[str, Any]) -> str:
    """Return PEFT's name of the blocks."""
    return "transformer.h" if _is_gpt2(params) else "model.layers"


def _names(path: str, module: str) -> tuple[str, str]:
    """Return the names of both factors of a kernel: PEFT's, or ours if it has no module."""
    if not module:
        return path + A, path + B
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


class _Place(NamedTuple):
    """Where a file may have the factors of a kernel.

    Fields:
      names: Names of both arrays.
      module: Name of the module in PEFT, or the path of our layer.
      block: Number of its block, if the module is PEFT's.
      outputs: Which outputs of the second factor are the kernel's, if others are in it too.
      joined: How many outputs it has then.
      part, parts: Number of the kernel among the kernels of the module, and how many these are.
    """

    names: tuple[str, str]
    module: str
    block: int | None = None
    outputs: slice = slice(None)
    joined: int = 0
    part: int = 0
    parts: int = 1

    @property
    def target(self) -> str:
        """Name of the module within its block."""
        return _target(self.module)

    def columns(self, rank: int) -> slice:
        """Return which columns are the kernel's if each kernel of the module has its own."""
        return slice(self.part * rank, (self.part + 1) * rank)


def _places(path: str, kernels: Mapping[str, Any]) -> list[_Place]:
    """Return where a file may have the factors of a kernel, by PEFT's names and by ours.

    Args:
      path: Path of the kernel.
      kernels: The net's params by their paths.
    """
    found = [_Place(_names(path, ""), path.rpartition("/")[0])]
    module = _module(path, kernels)
    if module:
        number = int(KERNEL.fullmatch(path)[1])  # type: ignore[index]
        found.append(_Place(_names(path, module), module.removeprefix(PEFT), number))
    joined = _joined_place(path, kernels, GPT2_JOINED if _is_gpt2(kernels) else PHI3_JOINED)
    return found if joined is None else [*found, joined]


def _joined_place(
    path: str, kernels: Mapping[str, Any], joined: Mapping[str, str]
) -> _Place | None:
    """Return where a file has the factors of a kernel that is a part of a layer of PEFT.

    Args:
      path, kernels: As in `_places`.
      joined: Layers of PEFT, by our names of their parts.
    """
    match = KERNEL.fullmatch(path)
    if match is None or match[2] not in joined:
        return None
    number, ours = match.groups()
    parts = [layer for layer, name in joined.items() if name == joined[ours]]
    beside_it = [kernels.get(f"block_{number}/{part}/kernel") for part in parts]
    shapes = [getattr(kernel, "shape", ()) for kernel in beside_it]
    if not all(shapes):
        return None
    sizes = [math.prod(shape[1:]) for shape in shapes]
    ends = [0, *itertools.accumulate(sizes)]
    at = parts.index(ours)
    module = f"{_layers(kernels)}.{number}.{joined[ours]}"
    outputs = slice(ends[at], ends[at + 1])
    names = _names(path, f"{PEFT}{module}")
    return _Place(names, module, int(number), outputs, ends[-1], at, len(parts))


def _found(
    stored: Mapping[str, Any],
    config: AdapterConfig,
    params: Params,
    where: str | None,
    wrong: list[str],
) -> tuple[dict[str, tuple[Any, Any]], set[str]]:
    """Return the factors of kernels by their paths, and the names of the arrays that they are from.

    Kernels that fit `where` must have some. What does not fit is added to `wrong`.
    """
    kernels = dict(flat(params))
    found: dict[str, tuple[Any, Any]] = {}
    used: set[str] = set()
    for path, kernel in kernels.items():
        if path.endswith((A, B)):
            continue
        places = _places(path, kernels)
        there = [place for place in places if stored.keys() & {*place.names}]
        used |= {name for place in there for name in place.names} & stored.keys()
        left_out = [place for place in there if _is_left_out(stored, place, config.rank)]
        there = [place for place in there if place not in left_out]
        try:
            for place in there:
                if not config.targets(place.module, place.block):
                    raise ValueError(f'"{place.names[0]}" is not among the target_modules')
                found[path] = _factors(stored, place, kernel, config)
            if len(there) > 1:
                raise ValueError("has several adapters in the file")
            of_peft = [place for place in places if place.block is not None]
            targeted = any(config.targets(place.module, place.block) for place in of_peft)
            complete = config.complete and targeted and not left_out
            if not there and (complete or (where is not None and fits(where, path))):
                raise ValueError("has no adapter in the file")
        except ValueError as error:
            wrong.append(f"{path} {np.shape(kernel)}: {error}")
    return found, used


def _is_left_out(stored: Mapping[str, Any], place: _Place, rank: int) -> bool:
    """Return whether factors are those of other parts of a layer alone, as `save_adapter` writes.

    Args:
      stored: Arrays of the file.
      place: Where they are.
      rank: Rank of each part.
    """
    if not _has_parts(stored, place, rank):
        return False
    a, b = (stored[name] for name in place.names)
    columns = place.columns(rank)
    return not a[columns].any() and not b[place.outputs, columns].any()


def _has_parts(stored: Mapping[str, Any], place: _Place, rank: int) -> bool:
    """Return whether the kernels of a layer have columns of their own in both factors."""
    if place.parts == 1 or not stored.keys() >= {*place.names}:
        return False
    a, b = (stored[name] for name in place.names)
    if a.ndim != 2 or b.shape != (place.joined, len(a)) or len(a) != place.parts * rank:
        return False
    others = np.array(b[place.outputs])
    others[:, place.columns(rank)] = 0
    return not others.any()


def _stored_as_is(array: np.ndarray, leaf: Any) -> Any:
    """Return an entry that is stored as it is."""
    if array.shape != leaf.shape:
        raise ValueError(f"got {array.shape}")
    return numbers(_sound("the file", array), leaf.dtype)


def _finite(array: Any) -> Any:
    """Return an array, whose numbers must be finite."""
    if not np.isfinite(np.asarray(array, np.float64)).all():
        raise ValueError("is not finite with the adapter")
    return array


def _factors(
    stored: Mapping[str, Any], place: _Place, kernel: Any, config: AdapterConfig
) -> tuple[Any, Any]:
    """Return a and b of a kernel; PEFT's are (rank, inputs) and (outputs, rank)."""
    names = place.names
    if not all(name in stored for name in names):
        raise ValueError(f'there is only one of "{names[0]}" and "{names[1]}"')
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise ValueError(f"holds {kernel.dtype}; load into jn.lora(jn.quantized(net), ...)")
    a, b = (_sound(name, stored[name]) for name in names)
    given = " and ".join(f'"{name}" {stored[name].shape}' for name in names)
    rank, scale = config.form_of(place.module)
    if not math.isclose(scale, config.scale, rel_tol=1e-6):
        raise ValueError(f'"{names[0]}" has the scale {scale:.6g}, and others {config.scale:.6g}')
    if place.block is not None and a.ndim == b.ndim == 2:
        if len(a) == rank and _has_parts(stored, place, config.rank):
            rank = config.rank
            columns = place.columns(rank)
            a, b = _from_peft(a[columns], b[place.outputs, columns], kernel.shape)
        elif place.joined in (0, len(b)):
            a, b = _from_peft(a, b[place.outputs], kernel.shape)
    if not _fit(a.shape, b.shape, kernel.shape):
        raise ValueError(given)
    if a.shape[-1] != rank:
        raise ValueError(f"{given} have rank {a.shape[-1]}, but r is {rank}")
    return numbers(a, kernel.dtype), numbers(b, kernel.dtype)


def _check_rank(a: Any, rank: int) -> None:
    """Raise if the rank of a kernel is not that of an adapted net."""
    if a.shape[-1] != rank:
        raise ValueError(f"has rank {a.shape[-1]}, and jn.lora gives all kernels {rank}")


def _sound(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array of a file, whose floats must be finite."""
    if is_float(array) and not np.isfinite(array).all():
        raise ValueError(f'"{name}" holds NaN or infinite numbers')
    return array


def _from_peft(a: Any, b: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Return factors of PEFT in our layout, (*inputs, rank) and (rank, *outputs), if they fit."""
    for k in range(1, len(shape)):
        inputs, outputs = shape[:k], shape[k:]
        if math.prod(inputs) == a.shape[1]:
            if math.prod(outputs) == b.shape[0]:
                return a.T.reshape(*inputs, -1), b.T.reshape(-1, *outputs)
            break
    return a, b


def _fit(a: tuple[int, ...], b: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
    """Return whether factors of these shapes have a product of the kernel's shape."""
    n = len(a) + len(b) - 2 - len(kernel)  # axes of copies, below `repeat`
    if not 0 <= n < min(len(a), len(b)):
        return False
    same_product = a[:-1] + b[n + 1 :] == kernel
    same_rank = a[:n] + a[-1:] == b[: n + 1]
    return same_product and same_rank
