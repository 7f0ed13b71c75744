"""Masks and packed rows of published language models and encoders, against transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.pretrained import load

KEYS_MAY_REPEAT = True
SIZES = {
    "vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32,
}  # fmt: skip
GROUPED = SIZES | {"num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
KINDS = {
    "Llama": ("ForCausalLM", GROUPED),
    "Mistral": ("ForCausalLM", GROUPED | {"sliding_window": 4}),
    "Qwen2": ("ForCausalLM", SIZES | {"num_key_value_heads": 1}),
    "Qwen3": ("ForCausalLM", GROUPED),
    "Gemma2": ("ForCausalLM", GROUPED),
    "Gemma3Text": ("ForCausalLM", GROUPED),
    "Phi3": ("ForCausalLM", GROUPED),
    "Olmo2": ("ForCausalLM", GROUPED),
    "Granite": ("ForCausalLM", GROUPED),
    "GPT2": ("LMHeadModel", {"vocab_size": 99, "n_embd": 16, "n_layer": 2, "n_head": 2}),
    "Bert": ("Model", SIZES),
    "Roberta": ("Model", SIZES | {"pad_token_id": 1}),
    "DistilBert": (
        "Model", {"vocab_size": 99, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    ),
    "ModernBert": ("Model", SIZES | {"pad_token_id": 0}),
}  # fmt: skip


def made(name, folder):
    """The model of transformers, and ours of its file."""
    torch = pytest.importorskip("torch", reason="compares with transformers")
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    kind, entries = KINDS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**entries)
    model = getattr(transformers, f"{name.removesuffix('Text')}{kind}")(config).eval()
    model.save_pretrained(folder)
    return torch, model, load(folder)


def close(found, wanted, there=...):
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(np.asarray(found)[there], wanted[there], rtol=0, atol=1e-5 * scale)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of transformers
@pytest.mark.parametrize("name", KINDS)
def test_a_mask_of_two_axes_is_padding_whatever_its_shape_and_dtype(name, tmp_path):
    """With as many rows as places it was refused, and integers with a hole were segments."""
    torch, model, (net, params, state) = made(name, tmp_path)
    rng = np.random.default_rng(0)
    for shape in ((2, 7), (7, 7), (3, 5)):
        ids = rng.integers(3, 99, shape)
        padding = np.arange(shape[1]) < rng.integers(2, shape[1], (shape[0], 1))
        hole = padding & (np.arange(shape[1]) != 1)
        for mask in (padding, hole):
            with torch.no_grad():
                given = {"attention_mask": torch.tensor(mask).long()}
                out = model(input_ids=torch.tensor(ids), **given)
            wanted = getattr(out, "logits", out[0]).numpy()
            for dtype in (bool, np.int32, np.int64):
                found, _ = net.apply(params, state, (ids, mask.astype(dtype)))
                close(found, wanted, mask)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of transformers
@pytest.mark.parametrize("name", KINDS)
def test_packed_rows_are_as_if_alone_and_the_net_is_open(name, tmp_path):
    """Positions of BERT counted on through a row, and no path but the net's own was known."""
    _, _, (net, params, state) = made(name, tmp_path)
    ids = np.random.default_rng(0).integers(3, 99, (1, 8))
    numbers = jnp.array([[1, 1, 1, 1, 2, 2, 2, 0]])
    packed, _ = net.apply(params, state, (ids, jn.Segments(numbers)))
    for part in (slice(4), slice(4, 7)):
        alone, _ = net.apply(params, state, ids[:, part])
        close(packed[:, part], np.asarray(alone))
    seen = jn.inspect.activations(net, params, state, ids)
    (path,) = (name for name in seen if name.endswith("1/attention"))
    tapped, _ = jn.tap(net, path).apply(params, state, ids)
    np.testing.assert_array_equal(jax.tree.leaves(tapped)[-1], seen[path])


def test_positions_of_roberta_count_words_of_each_sequence():
    from jaxnet.pretrained.encoders import _places

    ids = jnp.array([[5, 6, 1, 7, 8, 1, 1]])
    assert _places(ids, None, 1).tolist() == [[2, 3, 1, 4, 5, 1, 1]]
    numbers = jn.Segments(jnp.array([[1, 1, 1, 2, 2, 2, 0]]))
    assert _places(ids, numbers, 1).tolist()[0][:5] == [2, 3, 1, 2, 3]
    assert _places(ids, numbers, None).tolist()[0][:6] == [0, 1, 2, 0, 1, 2]
