"""Writes what transformers computed for each published decoder, to compare without it.

    pip install -e ".[parity,full]" && python -m tools.decoders

The file holds the weights of small random models in bfloat16, by their published names, prompts,
and the logits and the greedy text of transformers. The configs are in its header. It is read by
`tests/interop/test_recorded_decoders.py`.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

import jaxnet as jn
from tests.interop.test_published import MODELS, published

FILE = Path(__file__).parent.parent / "tests" / "decoders.safetensors"
WRITTEN = 8  # tokens


def record(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays and the config of one model."""
    with tempfile.TemporaryDirectory() as folder:
        torch, model = published(name, folder)
        config = json.loads((Path(folder) / "config.json").read_text())
        stored = [load_file(file) for file in sorted(Path(folder).glob("*.safetensors"))]
    ids = np.random.default_rng(0).integers(3, 97, (2, 12))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16())
        logits = model(torch.tensor(ids)).logits.numpy()
        text = torch.tensor(ids)
        for _ in range(WRITTEN):
            text = torch.cat([text, model(text).logits[:, -1].argmax(-1, keepdim=True)], 1)
    narrow = {key: jnp.asarray(a, jnp.bfloat16) for file in stored for key, a in file.items()}
    arrays = {"ids": ids.astype(np.int32), "logits": logits, "text": text[:, 12:].numpy()}
    return arrays | {"weights": narrow}, config


def main() -> None:
    rows = {name: record(name) for name in MODELS}
    configs = {name: config for name, (_, config) in rows.items()}
    jn.save(FILE, {name: arrays for name, (arrays, _) in rows.items()}, config=configs)


if __name__ == "__main__":
    main()
