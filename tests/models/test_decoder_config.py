"""Options of published models; tests/interop/test_decoder.py compares their logits."""

import jax
import jax.numpy as jnp
import pytest

import jaxnet as jn

LLAMA = {
    "model_type": "llama", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 16,
}  # fmt: skip


@pytest.mark.slow
def test_published_sizes():
    """Parameter counts of the published models, from their config.json."""
    llama = {"model_type": "llama", "rope_theta": 500000.0}
    gemma = {"model_type": "gemma2", "query_pre_attn_scalar": 256, "sliding_window": 4096}
    sizes = {
        1_235_814_400: llama | {  # Llama 3.2 1B
            "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 8192,
            "head_dim": 64, "tie_word_embeddings": True,
        },
        8_030_261_248: llama | {  # Llama 3 8B
            "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
        },
        494_032_768: {  # Qwen 2.5 0.5B
            "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896,
            "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
            "intermediate_size": 4864, "tie_word_embeddings": True,
        },
        596_049_920: {  # Qwen 3 0.6B
            "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024,
            "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
            "intermediate_size": 3072, "head_dim": 128, "tie_word_embeddings": True,
        },
        2_614_341_888: gemma | {  # Gemma 2 2B
            "vocab_size": 256000, "hidden_size": 2304, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 9216,
            "head_dim": 256,
        },
        124_439_808: {  # GPT-2
            "model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12,
        },
        46_702_792_704: {  # Mixtral 8x7B
            "model_type": "mixtral", "vocab_size": 32000, "hidden_size": 4096,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "intermediate_size": 14336, "num_local_experts": 8, "num_experts_per_tok": 2,
        },
        7_241_732_096: {  # Mistral 7B
            "model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "intermediate_size": 14336, "sliding_window": 4096,
        },
    }  # fmt: skip
    for count, config in sizes.items():
        net = jn.models.decoder(**jn.models.decoder_config(config))
        params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((1, 2), jnp.int32))
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_what_cannot_be_computed_is_named():
    with pytest.raises(ValueError, match="rope_type must be default, linear or llama3, got 'yarn'"):
        jn.models.decoder_config(LLAMA | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}})
    with pytest.raises(ValueError, match="hidden_act must be one of silu"):
        jn.models.decoder_config(LLAMA | {"hidden_act": "xielu"})
    share = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    with pytest.raises(ValueError, match="partial_rotary_factor is not read"):
        jn.models.decoder_config(LLAMA | {"rope_parameters": share})


def test_windows_by_layer():
    gemma = LLAMA | {"model_type": "gemma3_text", "sliding_window": 4, "num_hidden_layers": 7}
    options = jn.models.decoder_config(gemma)
    assert options["window"] == (3, 0)
    assert options["windowed"] == [True] * 5 + [False, True]
    assert options["embedding_scale"] == 8**0.5
    qwen = LLAMA | {"model_type": "qwen2", "sliding_window": 4, "use_sliding_window": True}
    assert jn.models.decoder_config(qwen | {"max_window_layers": 1})["windowed"] == [False, True]
    assert jn.models.decoder_config(qwen | {"use_sliding_window": False})["window"] is None
