"""Adapters of `jn.lora` alone, in the files of the package PEFT."""

import math
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, as_layer
from jaxnet.interop.names import raise_lines
from jaxnet.interop.weights import numbers, write_files
from jaxnet.pretrained.decoders import GPT2_NAMES, LLAMA_NAMES
from jaxnet.services.checks import as_dict
from jaxnet.services.files import file_path, readable
from jaxnet.services.json_text import parse_json
from jaxnet.services.paths import fits
from jaxnet.services.saving import read_tensors
from jaxnet.services.trees import flat
from jaxnet.transforms.adapt import A, B, beside, check_factors, factors_product, options_of
from jaxnet.transforms.kernels import replaced

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

KERNEL = re.compile(r"block_(\d+)/(.+)/kernel")  # the kernels of a block of `jn.models.decoder`

# Entries of a config that change what an adapter computes.
UNKNOWN = (
    "alora_invocation_tokens", "alpha_pattern", "layer_replication", "lora_bias",
    "rank_pattern", "use_bdlora", "use_dora", "use_qalora",
)  # fmt: skip
MOVE_THE_BASE = ("pissa", "olora", "corda", "loftq")  # ways to begin that change the net's kernels


def save_adapter(folder: str | Path, net: Layer, params: Params) -> None:
    """Write the params that `jn.lora` adds to a net, without the net's own params.

    The folder gets adapter_model.safetensors and adapter_config.json. If the net inside is a
    decoder, PEFT can load them for the same model of the package transformers: their names and
    shapes are PEFT's. In other nets, and for joined queries, keys and values of GPT-2, the matrices
    have their paths as names. Entries that fit `trainable` of `jn.lora` are written too. Save the
    state, if there is any, by `jn.save`.

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
    arrays: dict[str, np.ndarray] = {}
    targets: set[str] = set()
    for path, leaf in entries.items():
        if path + A in entries:
            a, b = np.asarray(entries[path + A]), np.asarray(entries[path + B])
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
    target = module.split(".", 5)[-1]  # without "base_model.model.model.layers.0."
    return dict(zip(names, (a, b), strict=True)), target


def load_adapter(folder: str | Path, net: Layer, params: Params) -> Params:
    """Return params with an adapter of `save_adapter`, or of PEFT for a decoder.

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
    scale, rank = _read(who, readable(who, folder / CONFIG))
    path = readable(who, folder / WEIGHTS)
    stored, _ = read_tensors(who, path)
    wrong: list[str] = []
    if options and not _same_options(options, rank, scale):
        wrong.append(f"it needs jn.lora(net, {rank}, scale={scale:.6g})")
    new: dict[str, Any] = {}
    factors: dict[str, tuple[Any, Any]] = {}
    for entry, leaf in flat(params):
        if entry.endswith((A, B)):
            continue
        names = _names_in(stored, entry, params)
        try:
            if names:
                a, b = _factors([stored.pop(name, None) for name in names], names, leaf)
                factors[entry] = a, b
                if options:
                    new |= {entry + A: a, entry + B: b}
                else:
                    new[entry] = leaf + scale * factors_product(leaf, a, b)
            elif entry in stored:
                new[entry] = _stored_as_is(stored.pop(entry), leaf)
            elif options and fits(options.where, entry):
                raise ValueError("has no adapter in the file")
        except ValueError as error:
            wrong.append(f"{entry} {np.shape(leaf)}: {error}")
    wrong += [f'not used: "{name}" {array.shape}' for name, array in stored.items()]
    raise_lines(f"{who}: {path} does not fit {net.name}:", wrong)
    if options:
        params = beside(params, factors)
    return replaced(params, new)


def _same_options(options: Any, rank: int, scale: float) -> bool:
    return options.rank == rank and math.isclose(options.scale, scale, rel_tol=1e-6)


def _is_gpt2(params: Params) -> bool:
    """Return whether these are params of a GPT-2, the decoder with a table of positions."""
    return "positions" in params


def _module(path: str, params: Params) -> str:
    """Return PEFT's name of the module of a kernel; "" if there is none."""
    match = KERNEL.fullmatch(path)
    if match is None:
        return ""
    layers, names = "model.layers", LLAMA_NAMES
    if _is_gpt2(params):
        layers, names = "transformer.h", GPT2_NAMES
    number, ours = match.groups()
    if ours not in names:
        return ""
    return f"base_model.model.{layers}.{number}.{names[ours]}"


def _names(path: str, module: str) -> tuple[str, str]:
    """Return the names of both factors of a kernel: PEFT's, or ours if it has no module."""
    if not module:
        return path + A, path + B
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


def _names_in(stored: dict[str, Any], path: str, params: Params) -> tuple[str, str] | None:
    """Return the names under which a file has one of the factors of a kernel, or both."""
    for module in (_module(path, params), ""):
        names = _names(path, module)
        if stored.keys() & {*names}:
            return names
    return None


def _stored_as_is(array: np.ndarray, leaf: Any) -> Any:
    """Return an entry that is stored as it is."""
    if array.shape != leaf.shape:
        raise ValueError(f"got {array.shape}")
    return numbers(array, leaf.dtype)


def _factors(pair: list, names: tuple[str, str], kernel: Any) -> tuple[Any, Any]:
    """Return a and b of a kernel; PEFT's are (rank, inputs) and (outputs, rank)."""
    if not all(isinstance(array, np.ndarray) for array in pair):
        raise ValueError(f'there is only one of "{names[0]}" and "{names[1]}"')
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise ValueError(f"holds {kernel.dtype}; load into jn.lora(jn.quantized(net), ...)")
    a, b = pair
    if names[0].endswith(".weight") and a.ndim == b.ndim == 2:
        a, b = _from_peft(a, b, kernel.shape)
    if not _fit(a.shape, b.shape, kernel.shape):
        raise ValueError(f'"{names[0]}" {pair[0].shape} and "{names[1]}" {pair[1].shape}')
    return numbers(a, kernel.dtype), numbers(b, kernel.dtype)


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


def _read(who: str, path: Path) -> tuple[float, int]:
    """Return the scale and the rank of an adapter from its configuration."""
    try:
        config = parse_json(path.read_bytes())
        kind, rank, alpha = config["peft_type"], config["r"], config["lora_alpha"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{who}: {path} is not the config of an adapter: {error!r:.200}") from None
    if kind != "LORA" or type(rank) is not int or rank < 1:
        raise ValueError(
            f"{who}: {path}: peft_type must be LORA, and r a whole number of at least 1, got "
            f"{kind!r:.60} and {rank!r:.60}"
        )
    if type(alpha) not in (int, float) or not abs(alpha) < math.inf:
        raise ValueError(f"{who}: {path}: lora_alpha must be a number, got {alpha!r:.60}")
    start = "init_lora_weights"
    odd = [name for name in UNKNOWN if config.get(name)]
    if str(config.get(start)).startswith(MOVE_THE_BASE):
        odd = [start, *odd]
    if odd:
        raise ValueError(f"{who}: {path}: {odd[0]} is not supported, got {config[odd[0]]!r:.60}")
    divisor = math.sqrt(rank) if config.get("use_rslora") else rank
    return alpha / divisor, rank
