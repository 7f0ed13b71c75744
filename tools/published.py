"""Writes what transformers computed for each family of published models, to compare without it.

    pip install -e ".[parity,full]" && python -m tools.published

The file holds the weights of small random models in bfloat16, by their published names, inputs,
and what transformers computes from them: outputs, NaN where padding leaves them open, and the
greedy text of decoders. In its header are the configs, and what each family's config means where it
says nothing. It is read by `tests/pretrained/test_recorded.py`.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

import jaxnet as jn
from jaxnet.pretrained.families import FAMILIES as OURS
from jaxnet.pretrained.pairs import TOWERS
from tests.pretrained.test_loading import ENCODERS, MODELS, OTHERS, inputs, outputs, published

FILE = Path(__file__).parent.parent / "tests" / "published.safetensors"
WRITTEN = 8  # tokens
CLASSES = "ForSequenceClassification"
FAMILIES = OURS | TOWERS
# Name of the model and its head, by name of the row; None for the usual head.
ROWS = {name: (name, None) for name in MODELS | OTHERS}
ROWS |= {f"{name} {CLASSES}": (name, CLASSES) for name in ENCODERS}


ROTATED = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 4096}
SLOWED = {"rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 1024}
YARN = SLOWED | {"rope_type": "yarn"}
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {"short_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5], "long_factor": [9.0] * 8}
ROTATIONS: list[dict[str, Any]] = [
    YARN, YARN | {"truncate": False, "beta_fast": 8.0, "beta_slow": 2.0}, SLOWED | LLAMA3,
    YARN | {"mscale": 2.0, "mscale_all_dim": 0.5}, YARN | {"attention_factor": 1.5},
    YARN | {"factor": 0.5, "original_max_position_embeddings": 65},
    SLOWED | {"rope_type": "linear"}, SLOWED | LONG | {"rope_type": "longrope"},
]  # fmt: skip


RNG = np.random.default_rng(0)
IDS = RNG.integers(3, 97, (2, 12)).astype(np.int32)
IMAGES = np.float32(RNG.normal(size=(2, 16, 16, 3)))
THERE = np.arange(12) < np.array([[12], [7]])


def questions(name: str) -> tuple[Any, dict[str, Any]]:
    """Inputs of a net, and those of its model in transformers."""
    x, theirs = inputs(name, IDS, IMAGES)
    if name in ENCODERS:
        return (IDS, THERE), theirs | {"attention_mask": THERE.astype(int)}
    return x, theirs


def record(name: str, head: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays and the config of one model."""
    with tempfile.TemporaryDirectory() as folder:
        torch, model = published(name, folder, head)
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        stored = [load_file(file) for file in sorted(Path(folder).glob("*.safetensors"))]
    x, theirs = questions(name)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16())
        found = outputs(torch, model, theirs).numpy()
        text = torch.tensor(IDS)
        for _ in range(WRITTEN if name in MODELS else 0):
            text = torch.cat([text, model(text).logits[:, -1].argmax(-1, keepdim=True)], 1)
    if name in ENCODERS and head != CLASSES:
        found[~THERE] = np.nan
    narrow = {key: jnp.asarray(a, jnp.bfloat16) for file in stored for key, a in file.items()}
    given = x if isinstance(x, tuple) else (x,)
    arrays = {"given": {str(i): a for i, a in enumerate(given)}, "outputs": found}
    arrays |= {"text": text[:, 12:].numpy()} if name in MODELS else {}
    return arrays | {"weights": narrow}, config


def defaults(family: str) -> dict[str, Any]:
    """The entries of an empty config, of those that this library reads."""
    from transformers import CONFIG_MAPPING

    theirs = CONFIG_MAPPING[family]().to_dict()
    used = [name for name, value in FAMILIES[family].defaults.items() if value is not None]
    return {name: theirs[name] for name in used if name in theirs}


def rotation(rope: dict[str, Any]) -> tuple[list[float], float]:
    """The speeds of a head's rotations, and the factor of what they turn."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    speeds, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](
        LlamaConfig(**ROTATED, rope_parameters=rope), device="cpu"
    )
    return speeds.tolist(), factor


def main() -> None:
    rows = {row: record(*which) for row, which in ROWS.items()}
    configs = {row: config for row, (_, config) in rows.items()}
    header = {"configs": configs, "defaults": {family: defaults(family) for family in FAMILIES}}
    header["rotations"] = [(rope, *rotation(rope)) for rope in ROTATIONS]
    jn.save(FILE, {row: arrays for row, (arrays, _) in rows.items()}, config=header)


if __name__ == "__main__":
    main()
