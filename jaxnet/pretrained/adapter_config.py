"""The adapter_config.json of PEFT, checked.

Each entry is used, or must have a certain value, or is known to have no effect on what a trained
adapter computes. An entry that is on no list raises, unless it is off: null, false or empty.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxnet.services.json_text import parse_json

LARGEST_RANK = 2**20
ALL = "all-linear"


class AdapterConfig(NamedTuple):
    """What an adapter_config.json says.

    Fields:
      rank: Number of columns of a, unless a module has another one.
      scale: Factor of the product.
      targets: Function of the name of a module in PEFT, and the number of its block or None, that
        returns whether the module has an adapter.
      complete: Whether each of these modules must have one.
      form_of: Function of the name of a module that returns its own rank and scale.
    """

    rank: int
    scale: float
    targets: Callable[[str, int | None], bool]
    complete: bool
    form_of: Callable[[str], tuple[int, float]]


def read_adapter_config(who: str, path: Path) -> AdapterConfig:
    """Return what the configuration of an adapter says.

    Raises:
      ValueError: If it is damaged, or PEFT would compute something else than a product of two
        matrices on top of the kernels.
    """
    where = f"{who}: {path}"
    try:
        entries = parse_json(path.read_bytes())
        kind, rank, alpha = entries["peft_type"], entries["r"], entries["lora_alpha"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{where} is not the config of an adapter: {error!r:.200}") from None
    if kind != "LORA" or not _is_rank(rank):
        raise ValueError(
            f"{where}: peft_type must be LORA, and r a whole number of at least 1 and at most "
            f"{LARGEST_RANK:,}, got {kind!r:.60} and {rank!r:.60}"
        )
    if not _is_alpha(alpha):
        raise ValueError(
            f"{where}: lora_alpha must be a number up to {LARGEST_ALPHA:.0e}, got {alpha!r:.60}"
        )
    for name, value in entries.items():
        _check(where, name, value)
    divisor = math.sqrt if entries.get("use_rslora") else float
    complete = entries.get("target_modules", ALL) != ALL
    return AdapterConfig(
        rank,
        alpha / divisor(rank),
        _targets(where, entries),
        complete,
        _forms(where, entries, divisor),
    )


def _check(where: str, name: str, value: Any) -> None:
    """Raise unless an entry is used, or is known to change nothing."""
    if name in USED or name in IGNORED or value is None:
        return
    if name in ALLOWED:
        if not any(type(value) is type(one) and value == one for one in ALLOWED[name]):
            raise ValueError(
                f"{where}: {name} is not supported, got {value!r:.60}; it may be "
                f"{', '.join(map(repr, ALLOWED[name]))}"
            )
    elif value is not False and value not in ({}, []):
        known = "not supported" if name in REFUSED else "unknown"
        raise ValueError(f"{where}: {name} is {known}, got {value!r:.60}")


def _targets(where: str, entries: dict[str, Any]) -> Callable[[str, int | None], bool]:
    """Return the function of `AdapterConfig.targets`."""
    is_target = _matcher(where, "target_modules", entries.get("target_modules", ALL))
    is_left_out = _matcher(where, "exclude_modules", entries.get("exclude_modules") or [])
    blocks = entries.get("layers_to_transform")
    if type(blocks) is int:
        blocks = [blocks]
    if blocks is not None and not _is_list_of(blocks, int):
        raise ValueError(f"{where}: layers_to_transform must be whole numbers, got {blocks!r:.60}")

    def targets(module: str, block: int | None) -> bool:
        chosen = not blocks or block is None or block in blocks
        return chosen and is_target(module) and not is_left_out(module)

    return targets


def _forms(
    where: str, entries: dict[str, Any], divisor: Callable[[int], float]
) -> Callable[[str], tuple[int, float]]:
    """Return the function `form_of` of `AdapterConfig`."""
    ranks = _by_module(where, "rank_pattern", entries, _is_rank)
    alphas = _by_module(where, "alpha_pattern", entries, _is_alpha)

    def form_of(module: str) -> tuple[int, float]:
        rank = _of_module(ranks, module, entries["r"])
        return rank, _of_module(alphas, module, entries["lora_alpha"]) / divisor(rank)

    return form_of


def _of_module(values: dict[str, Any], module: str, otherwise: Any) -> Any:
    """Return the first value whose name ends the name of a module."""
    fitting = (value for name, value in values.items() if f".{module}".endswith(f".{name}"))
    return next(fitting, otherwise)


def _is_rank(value: Any) -> bool:
    return type(value) is int and 1 <= value <= LARGEST_RANK


def _is_alpha(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST_ALPHA


def _by_module(
    where: str, name: str, entries: dict[str, Any], is_right: Callable[[Any], bool]
) -> dict[str, Any]:
    """Return an entry that holds numbers by the ends of the names of modules."""
    value = entries.get(name) or {}
    named = isinstance(value, dict) and all(PLAIN_NAME.fullmatch(key) for key in value)
    if not named or not all(map(is_right, value.values())):
        numbers = "ranks" if is_right is _is_rank else "numbers"
        raise ValueError(
            f"{where}: {name} must hold {numbers} by names of modules, got {value!r:.60}"
        )
    return value


def _matcher(where: str, name: str, value: Any) -> Callable[[str], bool]:
    """Return a function of the name of a module: whether an entry fits it, as in PEFT."""
    if isinstance(value, str):
        if value == ALL:
            return lambda module: True
        return _pattern(where, name, value)
    if not _is_list_of(value, str):
        raise ValueError(f"{where}: {name} must be names of modules, got {value!r:.60}")
    names = set(value)

    def is_named(module: str) -> bool:
        parts = module.split(".")
        return any(".".join(parts[i:]) in names for i in range(len(parts)))

    return is_named


def _pattern(where: str, name: str, pattern: str) -> Callable[[str], bool]:
    """Return a function of the name of a module: whether a pattern fits it.

    Patterns that may take a time exponential in the name's length raise.
    """
    repeats = len(re.findall(r"[*+]", pattern))
    try:
        if not PLAIN.fullmatch(pattern) or repeats > MOST_REPEATS:
            raise ValueError("it may hold words, (a|b), and up to four of .* and \\d+")
        fits = re.compile(pattern)
    except (ValueError, re.error) as error:
        raise ValueError(
            f"{where}: {name} is a pattern that is not supported, got {pattern!r:.60} ({error}); "
            "list the names of the modules"
        ) from None
    return lambda module: fits.fullmatch(module) is not None


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(one) is kind for one in value)


LARGEST_ALPHA = 1e9
MOST_REPEATS = 4
PLAIN_NAME = re.compile(r"\w+(\.\w+)*")
PLAIN = re.compile(r"\^?(?:[\w-]|\\\.|(?:\.|\\d)[*+]?|[|()]|\(\?:)*\$?")
USED = {
    "peft_type", "r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform",
    "rank_pattern", "alpha_pattern",
}  # fmt: skip
# The values with which an adapter is the product of two matrices that was trained.
ALLOWED: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    # Others change the kernels of the net when they begin.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", "mica"),
    "use_rslora": (True, False),
    "fan_in_fan_out": (True, False),
}
# They change what is computed, or say that the net's own weights are others.
REFUSED = {
    "alora_invocation_tokens", "arrow_config", "corda_config",
    "ensure_weight_tying", "kasa_config", "layer_replication", "layers_pattern", "loftq_config",
    "lora_bias", "lora_ga_config", "megatron_config", "modules_to_save", "monteclora_config",
    "target_parameters", "trainable_token_indices", "use_bdlora", "use_dora",
    "use_qalora", "velora_config",
}  # fmt: skip
# Of training, or of where the net comes from.
IGNORED = {
    "auto_mapping", "base_model_name_or_path", "eva_config", "inference_mode", "lora_dropout",
    "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config",
    "task_type",
}  # fmt: skip
