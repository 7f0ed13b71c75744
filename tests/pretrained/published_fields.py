"""Flips and leaves out every field of a configuration, and asks transformers for logits.

    python -m tests.pretrained.published_fields

It prints for each family how many changes gave equal logits, an error that names the entry, and
other logits (there must be none). Needs the extra parity.
"""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.pretrained import load
from tests.pretrained.test_loading import FAMILIES, inputs, outputs, published

IDS = np.random.default_rng(0).integers(3, 97, (2, 12))
IMAGES = np.float32(np.random.default_rng(0).normal(size=(3, 16, 16, 3)))
ROPE = {"rope_type": "default", "rope_theta": 777.0}
YARN = {"rope_type": "yarn", "rope_theta": 777.0, "factor": 4.0, "beta_slow": 0.5}
LONG = {"short_factor": [1.0, 2.0, 3.0], "long_factor": [4.0, 5.0, 6.0], "rope_theta": 777.0,
        "original_max_position_embeddings": 11}  # fmt: skip
OTHER: dict[str, list[Any]] = {  # values to try, where a type has no opposite
    "hidden_act": ["relu", "gelu", "tanh"], "hidden_activation": ["relu", "silu"],
    "activation_function": ["relu", "silu"], "activation": ["relu", "gelu", "tanh"],
    "position_embedding_type": ["relative_key"],
    "feed_forward_proj": ["gated-gelu", "gelu"], "pad_token_id": [0, 1, 96],
    "layer_types": [["full_attention"] * 3],
    "rope_parameters": [None, ROPE, ROPE | {"rope_type": "linear", "factor": 2.0},
                        ROPE | {"rope_type": "dynamic", "factor": 2.0},
                        ROPE | {"partial_rotary_factor": 0.5}, YARN,
                        YARN | {"mscale": 2.0, "mscale_all_dim": 0.5, "beta_fast": 9},
                        YARN | {"attention_factor": 3.0, "truncate": False},
                        LONG | {"type": "su"}, LONG | {"rope_type": "longrope", "factor": 8.0},
                        {"full_attention": YARN}, {"full_attention": YARN | {"truncate": False}}],
    "architectures": [None, ["Other"]], "model_type": [],
}  # fmt: skip
# Entries of older files, and entries that no class knows.
MORE: dict[str, list[Any]] = {
    "rope_theta": [777.0],
    "rope_scaling": [None, {"type": "linear", "factor": 2.0}, YARN, LONG | {"type": "longrope"}],
    "original_max_position_embeddings": [11, 24], "partial_rotary_factor": [0.75],
    "no_rope_layers": [[0, 1], [1, 1, 0, 0]], "norm_topk_prob": [False], "mlp_only_layers": [[1]],
    "rope_local_base_freq": [777.0], "sliding_window_pattern": [2], "max_window_layers": [0, 2],
    "attention_bias": [False], "mlp_bias": [False], "use_sliding_window": [True], "head_dim": [8],
    "quantization_config": [{"quant_method": "gptq"}, {"quant_method": "mxfp4"}],
    "scale_attn_weights": [False], "experts_per_token": [1],
    "use_bidirectional_attention": [True], "invented": [1], "torch_dtype": ["float16"],
    "text_config_dict": [None, {}], "num_channels": [3, 1], "vision_use_head": [False],
}  # fmt: skip


def changed(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Configurations with one entry left out, set to null, or changed."""
    for name, value in config.items():
        if name == "model_type":
            continue
        yield f"{name} left out", {n: v for n, v in config.items() if n != name}
        if name in ("text_config", "vision_config"):
            yield from ((f"{name}: {what}", config | {name: one}) for what, one in changed(value))
        if isinstance(value, bool):
            values = [not value]
        elif isinstance(value, int):
            values = [2 * value, value + 1] if value else [1]
        elif isinstance(value, float):
            values = [value * 4 if value else 0.5]
        else:
            values = [5] if value is None and "layer" not in name else []
        for other in [*OTHER.get(name, values), None]:
            yield f"{name} = {other!r:.50}", config | {name: other}
    for name, values in MORE.items():
        for value in values:
            yield f"{name} = {value!r:.50}", config | {name: value}


def compare(name: str) -> tuple[Counter, list[str]]:
    """Count what came of each change, and say which gave other logits."""
    counts, wrong = Counter(), []
    given, theirs = inputs(name, IDS, IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        torch, model = published(name, folder)
        __import__("transformers").logging.set_verbosity_error()
        file = Path(folder) / "config.json"
        for what, config in changed(json.loads(file.read_text())):
            file.write_text(json.dumps(config))
            try:
                net, params, state = load(folder)
                found = np.asarray(net.apply(params, state, jax.tree.map(jnp.asarray, given))[0])
            except ValueError as error:
                counts["raised"] += 1
                assert re.match("load:|by_names|positions: ids must be", str(error)), error
                continue
            try:
                again = type(model).from_pretrained(folder, attn_implementation="eager").eval()
                with torch.no_grad():
                    wanted = outputs(torch, again, theirs).float().numpy()
            except Exception:
                counts["raised by transformers alone"] += 1
                continue
            if found.shape != wanted.shape and what.startswith("architectures"):
                counts["a net without a head"] += 1
                continue
            off = np.abs(found - wanted).max() / np.abs(wanted).max()
            counts["equal" if off < 2e-3 else "wrong"] += 1
            if off >= 2e-3:
                wrong.append(f"{name}: {what}: off by {off:.3g}")
    return counts, wrong


if __name__ == "__main__":
    for family in FAMILIES:
        counts, wrong = compare(family)
        print(family, dict(counts), *wrong, sep="\n  ", flush=True)
