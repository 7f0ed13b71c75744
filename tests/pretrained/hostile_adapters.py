"""Adapters that were changed on purpose: their configuration, one array, or the bytes of a file.

`variants` changes the files of an adapter in one place each. Whoever reads the result must raise a
clear error, or return what the unchanged files say.
"""

import itertools
import json
from collections.abc import Iterator

import ml_dtypes
import numpy as np
from safetensors.numpy import load, save

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
VALUES = (
    True, 1, -1, 2.5, 10**400, float("nan"), float("inf"), "pissa", "(a+)+b", "", ["q_proj"], [0],
    {"x": 1}, {"q_proj": 2}, [[0, 1]],
)  # fmt: skip
ENTRIES = (
    "peft_type", "r", "lora_alpha", "bias", "target_modules", "init_lora_weights", "use_rslora",
    "use_dora", "arrow_config", "lora_ga_config", "rank_pattern", "alpha_pattern",
    "exclude_modules", "layers_to_transform", "layer_replication", "modules_to_save",
    "trainable_token_indices", "target_parameters", "lora_bias", "fan_in_fan_out",
)  # fmt: skip
# These are adapters of another scale.
VALID = {("lora_alpha", "1"), ("lora_alpha", "-1"), ("lora_alpha", "2.5"), ("use_rslora", "True")}
STARTS = ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "PISSA", "new")


def _arrays(arrays: dict[str, np.ndarray]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Each kind of change to each of the first arrays."""
    for name, array in itertools.islice(arrays.items(), 6):
        spoiled = array.copy()
        for bad in (np.nan, np.inf, -np.inf):
            spoiled.flat[array.size // 2] = bad
            yield f"{bad} in {name}", arrays | {name: spoiled.copy()}
        other = {key: value for key, value in arrays.items() if key != name}
        yield f"without {name}", other
        yield f"renamed {name}", other | {name + "s": array}
        yield f"of another block {name}", other | {name.replace("0", "7"): array}
        changed = {
            "transposed": np.ascontiguousarray(array.T), "int8": array.astype(np.int8),
            "complex": array.astype(np.complex64), "shorter": array[:-1], "wider": array[:, :-1],
            "flat": array.ravel(), "an axis more": array[None], "one number": np.float32(1),
            "beyond": np.full(array.shape, 1e300),
            "float8": array.astype(ml_dtypes.float8_e4m3fn), "empty": array[:0],
        }  # fmt: skip
        for kind, value in changed.items():
            yield f"{kind} {name}", arrays | {name: np.asarray(value)}
        yield f"more than {name}", arrays | {f"{name}.more": array}


def variants(config: bytes, weights: bytes) -> Iterator[tuple[str, bytes, bytes]]:
    """What was changed, and both files."""
    entries = json.loads(config)
    for name, value in itertools.product(ENTRIES, VALUES):
        if (name, repr(value)) in VALID:
            continue
        yield f"{name} = {value!r:.20}", json.dumps(entries | {name: value}).encode(), weights
    for value in STARTS:
        changed = json.dumps(entries | {"init_lora_weights": value}).encode()
        yield f"init_lora_weights = {value}", changed, weights
    for name in ("peft_type", "r", "lora_alpha"):
        rest = {key: value for key, value in entries.items() if key != name}
        yield f"without {name}", json.dumps(rest).encode(), weights
    for text in (b"", b"{", b"[]", b"[" * 100_000, b"\xff\xfe", b'{"r": ' + b"9" * 5000 + b"}"):
        yield f"a config {text[:9]!r}", text, weights
    for kind, arrays in _arrays(load(weights)):
        yield kind, config, save(arrays)
    for size in (0, 4, 8, 40, len(weights) // 2, len(weights) - 1):
        yield f"{size} bytes", config, weights[:size]
    yield "a huge header", config, (2**62).to_bytes(8, "little") + weights[8:]
    yield "bytes more", config, weights + b"more"
