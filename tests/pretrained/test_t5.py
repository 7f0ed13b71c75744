"""T5 against transformers: logits, gradients, padding, generated tokens, the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.pretrained import load, save

SIZES = {"vocab_size": 31, "d_model": 12, "d_kv": 8, "d_ff": 20, "num_layers": 2, "num_heads": 3,
         "num_decoder_layers": 3, "relative_attention_num_buckets": 8,
         "relative_attention_max_distance": 16, "decoder_start_token_id": 0,
         "initializer_factor": 1.0}  # fmt: skip
KINDS = {
    "t5": {}, "untied": {"tie_word_embeddings": False},
    "v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}  # fmt: skip
RNG = np.random.default_rng(0)
SOURCE = RNG.integers(2, 31, (2, 30))
TOKENS = RNG.integers(2, 31, (2, 25))
LENGTHS = np.array([30, 17])
THERE = np.arange(30) < LENGTHS[:, None]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_t5_is_that_of_transformers(kind, tmp_path):
    reason = "compares with transformers"
    torch, transformers = (pytest.importorskip(n, reason=reason) for n in ("torch", "transformers"))
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration
    theirs = model(transformers.T5Config(**SIZES | KINDS[kind])).eval()
    theirs.save_pretrained(tmp_path)
    net, params, state = load(tmp_path)
    given = {"input_ids": torch.tensor(SOURCE), "attention_mask": torch.tensor(THERE).long()}

    def loss(params):
        logits, _ = net.apply(params, state, (SOURCE, LENGTHS, TOKENS))
        return jnp.sin(logits).sum(), logits

    slopes, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    wanted = theirs(**given, decoder_input_ids=torch.tensor(TOKENS)).logits
    assert np.abs(logits - wanted.detach().numpy()).max() < 1e-3 * np.abs(logits).max()
    wanted.sin().sum().backward()
    for part in ("encoder", "decoder"):
        layer = getattr(theirs, part).block[0].layer[0].SelfAttention
        table = layer.relative_attention_bias.weight.grad
        assert np.abs(slopes[part]["table"] - table.numpy()).max() < 0.02 * table.abs().max()
    made = jn.decoding.generate(
        net, params, [[0], [0]], inputs=(SOURCE, LENGTHS), length=20, temperature=0, progress=False
    )
    ids = torch.tensor(np.pad(made.tokens, ((0, 0), (1, 0))))
    with torch.no_grad():
        after = theirs(**given, decoder_input_ids=ids).logits
    np.testing.assert_array_equal(made.tokens, after.argmax(-1)[:, :-1])
    save(tmp_path / "back", net, params, state)
    again = model.from_pretrained(tmp_path / "back").eval()
    with torch.no_grad():
        back = again(**given, decoder_input_ids=torch.tensor(TOKENS)).logits
    np.testing.assert_allclose(back, wanted.detach(), rtol=1e-5, atol=1e-5)
