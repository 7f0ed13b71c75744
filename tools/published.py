"""Writes what transformers computed for each family of published models, to compare without it.

    pip install -e ".[parity,full]" && python -m tools.published

The file holds the weights of small random models in bfloat16, by their published names, inputs,
and what transformers computes from them: outputs, NaN where padding leaves them open, and the
greedy text of decoders. The configs are in its header. It is read by
`tests/models/published/test_recorded.py`.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

import jaxnet as jn
from tests.interop.test_published import ENCODERS, MODELS, OTHERS, inputs, outputs, published

FILE = Path(__file__).parent.parent / "tests" / "published.safetensors"
WRITTEN = 8  # tokens
CLASSES = "ForSequenceClassification"
# Name of the model and its head, by name of the row; None for the usual head.
ROWS = {name: (name, None) for name in MODELS | OTHERS}
ROWS |= {f"{name} {CLASSES}": (name, CLASSES) for name in ENCODERS}


def record(name: str, head: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays and the config of one model."""
    with tempfile.TemporaryDirectory() as folder:
        torch, model = published(name, folder, head)
        config = json.loads((Path(folder) / "config.json").read_text())
        stored = [load_file(file) for file in sorted(Path(folder).glob("*.safetensors"))]
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 97, (2, 12)).astype(np.int32)
    ours, theirs = inputs(name, ids, np.float32(rng.normal(size=(2, 16, 16, 3))))
    there = np.arange(12) < np.array([[12], [7]])
    if name in ENCODERS:
        ours, theirs = (ids, there), theirs | {"attention_mask": there.astype(int)}
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16())
        found = outputs(torch, model, theirs).numpy()
        text = torch.tensor(ids)
        for _ in range(WRITTEN if name in MODELS else 0):
            text = torch.cat([text, model(text).logits[:, -1].argmax(-1, keepdim=True)], 1)
    if name in ENCODERS and head != CLASSES:
        found[~there] = np.nan
    narrow = {key: jnp.asarray(a, jnp.bfloat16) for file in stored for key, a in file.items()}
    given = ours if isinstance(ours, tuple) else (ours,)
    arrays = {"given": {str(i): a for i, a in enumerate(given)}, "outputs": found}
    arrays |= {"text": text[:, 12:].numpy()} if name in MODELS else {}
    return arrays | {"weights": narrow}, config


def main() -> None:
    rows = {row: record(*which) for row, which in ROWS.items()}
    configs = {row: config for row, (_, config) in rows.items()}
    jn.save(FILE, {row: arrays for row, (arrays, _) in rows.items()}, config=configs)


if __name__ == "__main__":
    main()
