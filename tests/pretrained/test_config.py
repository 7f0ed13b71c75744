"""Configurations of published models that are wrong or damaged."""

import copy
import json
import random

import jax
import pytest

import jaxnet as jn
from tests.pretrained.test_decoders import PUBLISHED


@pytest.mark.parametrize(
    ("family", "entry", "words"),
    [
        ("llama", {"invented": 1}, "the entry 'invented' is unknown for llama. If the outputs do"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights must be True, got False"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention must"),
        ("llama", {"quantization_config": {}}, "quantization_config must be None, got {}"),
        ("llama", {"num_hidden_layers": True}, "num_hidden_layers must be a whole number"),
        ("llama", {"num_hidden_layers": 2**40}, "num_hidden_layers must be a whole number from 1"),
        ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps must be a positive number"),
        ("llama", {"num_key_value_heads": 3}, "num_key_value_heads must divide"),
        ("llama", {"hidden_size": 33}, "num_attention_heads must divide hidden_size = 33, got 32"),
        ("gpt2", {"n_inner": 2.5}, "n_inner must be a whole number of at least 1, got 2.5"),
        ("gpt2", {"n_head": 5}, "n_head must divide n_embd = 768, got 5"),
        ("gpt2", {"n_embd": 24, "hidden_size": 24}, "n_embd is given twice, as n_embd and h"),
        ("gemma2", {"sliding_window": None}, "sliding_window must be a number"),
        ("gemma2", {"layer_types": ["full_attention"]}, "layer_types must have 26 entries"),
        ("gemma3_text", {"rope_parameters": {"rope_theta": 5}}, "rope_parameters may hold full"),
        ("llama", {"rope_parameters": {"mrope_section": [1]}}, "the entry 'mrope_section' of rope"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "factor in rope_scaling must be a pos"),
        ("llama", {"rope_scaling": {"rope_type": "proportional"}},
         "rope_type must be default, linear, dynamic, yarn, llama3 or longrope, got 'prop"),
        ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": []}},
         "short_factor and long_factor in rope_scaling must be lists of 48 positive numbers"),
        ("phi3", {"partial_rotary_factor": 0.01}, "partial_rotary_factor must give an even size"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers must have 36 entries, got 2"),
        ("qwen3_moe", {}, "norm_topk_prob must be true"),
        ("qwen3_moe", {"mlp_only_layers": [1]}, "mlp_only_layers must be [], got [1]"),
        ("llama", {"hidden_act": "xielu"}, "hidden_act must be one of silu, "),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}},
         "partial_rotary_factor must be 1, got 0.5"),
        ("mixtral", {"num_experts_per_tok": 9}, "num_experts_per_tok must be at most 8, got 9"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named(family, entry, words):
    with pytest.raises(ValueError) as error:
        jn.pretrained.decoder_config({"model_type": family} | entry)
    assert str(error.value).startswith(f"decoder_config: {words}")


@pytest.mark.parametrize(("family", "entries", "words"), [
    ("bert", {"architectures": ["BertForCausalLM"]}, "architectures must be one of BertModel, Be"),
    ("t5", {"feed_forward_proj": "gated-relu"}, "feed_forward_proj must be one of relu, gated-"),
    ("t5", {"feed_forward_proj": 3}, "feed_forward_proj must be a word, got 3"),
    ("vit", {"patch_size": 300}, "patch_size must be at most image_size = 224, got 300"),
    ("vit", {"architectures": 5}, "architectures must be one of ViTModel, ViTForImageC.*, got 5"),
    ("deit", {"num_attention_heads": 5}, "the number of heads must divide the width 768, got 5"),
    ("clip", {"text_config": {"hidden_act": "x"}}, "text_config: hidden_act must be one of silu"),
    ("whisper", {"num_hidden_layers": 5}, "num_hidden_layers must be 4, as encoder_layers, got 5"),
    ("siglip", {"text_config": {"projection_size": 5}}, "projection_size must be 768, the hidden"),
])  # fmt: skip
def test_a_wrong_entry_of_another_family_is_named(family, entries, words):
    net, config = jn.dense(1), entries | {"model_type": family}
    params = net.init(jax.random.key(0), jn.spec((1, 1)))
    with pytest.raises(ValueError, match=f"^save: {words}"):
        jn.pretrained.save("nowhere", net, *params, config=config)


DAMAGE = [None, -1, 0, 1.5, 2**70, float("nan"), float("inf"), "", "x", [], [1], {}, {"a": 1}, True]


def test_damaged_files_are_errors_that_name_them(tmp_path):
    """400 configurations with entries of another type, and files that are not JSON objects."""
    rng, file = random.Random(5), tmp_path / "config.json"
    texts = ["", "{", "[]", "null", "[" * 100_000, '"x"', "\ud800", "1" * 5000, "{}", "nan"]
    for _ in range(400):
        config = copy.deepcopy(rng.choice(list(PUBLISHED.values())))
        for name in rng.sample(list(config), rng.randint(1, 3)):
            if isinstance(config[name], dict) and rng.random() < 0.7:
                config[name][rng.choice(list(config[name]))] = rng.choice(DAMAGE)
            else:
                config[name] = rng.choice(DAMAGE)
        texts.append(json.dumps(config))
    right = 0
    for text in texts:
        file.write_bytes(text.encode(errors="surrogatepass"))
        try:
            options = jn.pretrained.decoder_config(file)
        except ValueError as error:
            assert str(file) in str(error), error
        else:
            right += 1
            assert options["depth"] < 100
    assert 40 < right < 300  # entries without effect may hold anything
