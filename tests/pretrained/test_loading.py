"""Language models of transformers: their files, their options, and back to their layout."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxnet as jn
from jaxnet.interop import by_names, to_names
from jaxnet.pretrained import decoder_table, load

SIZES = {
    "vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 40, "max_position_embeddings": 64,
    "head_dim": 8, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "beta_fast": 4.0,
        "original_max_position_embeddings": 16}  # fmt: skip
LONGROPE = {"rope_type": "longrope", "rope_theta": 500.0, "partial_rotary_factor": 0.75,
            "short_factor": [1.0, 1.5], "long_factor": [2.0, 5.0]}  # fmt: skip
# Class of transformers, and options of its config that differ from SIZES.
MODELS = {
    "llama": ("Llama", {"rope_parameters": LLAMA3}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "smollm": ("Llama", {"head_dim": 6, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "mistral": ("Mistral", {"sliding_window": 5}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("Qwen2", {"head_dim": 6, "use_sliding_window": True, "sliding_window": 4,
                        "max_window_layers": 1}),
    "qwen3": ("Qwen3", {}),
    "gemma2": ("Gemma2", {"tie_word_embeddings": True, "sliding_window": 4,
                          "query_pre_attn_scalar": 12}),
    "gemma3": ("Gemma3", {"tie_word_embeddings": True, "sliding_window": 4,
                          "layer_types": ["sliding_attention"] * 2 + ["full_attention"]}),
    "olmo2": ("Olmo2", {"head_dim": 6}),
    "olmo3": ("Olmo3", {
        "head_dim": 6, "sliding_window": 5,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {"full_attention": YARN, "sliding_attention": {"rope_theta": 7e3}}}),
    "phi3": ("Phi3", {"head_dim": 6, "sliding_window": 7}),
    "phi3-longrope": ("Phi3", {"head_dim": 6, "tie_word_embeddings": True, "rope_parameters":
                      LONGROPE, "original_max_position_embeddings": 64,
                      "max_position_embeddings": 128}),
    "smollm3": ("SmolLM3", {"head_dim": 6, "no_rope_layers": [1, 0, 1], "rope_parameters": YARN}),
    "granite": ("Granite", {"head_dim": 6, "attention_multiplier": 0.3, "logits_scaling": 8.0,
                            "embedding_multiplier": 12.0, "residual_multiplier": 0.22}),
    "qwen3_moe": ("Qwen3Moe", {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True,
                               "moe_intermediate_size": 20}),
    "gpt_oss": ("GptOss", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4,
                           "intermediate_size": 20, "swiglu_alpha": 1.5, "swiglu_limit": 0.5,
                           "rope_parameters": YARN | {"truncate": False}}),
    "gpt2": ("GPT2", {"n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 32}),
}  # fmt: skip


BERT = {"vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 40, "max_position_embeddings": 48, "num_labels": 5}  # fmt: skip
# The same of encoders.
ENCODERS = {
    "bert": ("Bert", BERT), "roberta": ("Roberta", BERT), "xlm-roberta": ("XLMRoberta", BERT),
    "distilbert": ("DistilBert", {"vocab_size": 97, "dim": 24, "n_layers": 2, "n_heads": 4,
                                  "hidden_dim": 40, "max_position_embeddings": 48,
                                  "num_labels": 5}),
    "modernbert": ("ModernBert", BERT | {"local_attention": 6, "classifier_pooling": "mean",
                                         "num_hidden_layers": 5}),
}  # fmt: skip


T5 = {"vocab_size": 97, "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_heads": 4,
      "decoder_start_token_id": 0}  # fmt: skip
WHISPER = {"vocab_size": 97, "d_model": 24, "num_mel_bins": 8, "max_source_positions": 20,
           "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 40,
           "decoder_layers": 3, "decoder_attention_heads": 3, "decoder_ffn_dim": 36,
           "begin_suppress_tokens": None}  # fmt: skip
PAIRS = {"t5": ("T5", T5), "mt5": ("MT5", T5 | {"feed_forward_proj": "gated-gelu"}),
         "whisper": ("Whisper", WHISPER)}  # fmt: skip
SEEN = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
        "patch_size": 4}  # fmt: skip
VIT = SEEN | {"intermediate_size": 40, "num_labels": 5}
BOTH = {"vision_config": VIT, "text_config": BERT | {"hidden_size": 16, "eos_token_id": 7}}
# Encoders of images.
VISION = {
    "convnext": ("ConvNext", {"num_stages": 3, "hidden_sizes": [8, 12, 20], "depths": [1, 2, 1],
                              "num_labels": 5}),
    "vit": ("ViT", VIT), "deit": ("DeiT", VIT), "dinov2": ("Dinov2", SEEN | {"num_labels": 5}),
    "clip": ("CLIP", BOTH | {"projection_dim": 10}),
    "siglip": ("Siglip", BOTH | {"text_config": BOTH["text_config"] | {"projection_size": 24}}),
}  # fmt: skip
OTHERS = ENCODERS | PAIRS | VISION
FAMILIES = [name for name in MODELS | OTHERS if name not in ("llama-biases", "smollm")]
USUAL = dict.fromkeys(ENCODERS, "ForMaskedLM") | dict.fromkeys(PAIRS, "ForConditionalGeneration")
USUAL |= dict.fromkeys(["convnext", "vit", "dinov2"], "ForImageClassification")
USUAL |= {"deit": "ForImageClassificationWithTeacher", "clip": "Model", "siglip": "Model"}


def published(name, folder, head=None):
    """A model of transformers with random weights, stored in a folder."""
    torch = pytest.importorskip("torch", reason="compares with transformers")
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    kind, more = (MODELS | OTHERS)[name]
    config = getattr(transformers, f"{kind}TextConfig" if kind == "Gemma3" else f"{kind}Config")
    if name in OTHERS:
        sizes = {}
    else:
        sizes = {"vocab_size": 97} if kind == "GPT2" else SIZES
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    head = head or USUAL.get(name, "ForCausalLM")
    model = getattr(transformers, f"{kind}{head}" if kind != "GPT2" else "GPT2LMHeadModel")
    model = model(config(**sizes | tokens | more, attn_implementation="eager")).eval()
    with torch.no_grad():
        for p in model.parameters():  # scales and biases too, which start as 1 and 0
            p += 0.2 * torch.randn_like(p)
    model.save_pretrained(folder, max_shard_size="20KB")
    return torch, model


def inputs(name, ids, images) -> tuple:
    """Inputs of a net of that name, and of its model in transformers."""
    if name == "whisper":
        x = np.random.default_rng(0).normal(size=(len(ids), 40, 8)).astype(np.float32)
        return (x, ids), {"input_features": np.moveaxis(x, -1, 1), "decoder_input_ids": ids}
    pixels = {"pixel_values": np.moveaxis(images, -1, 1)}
    if name in VISION:
        both = name in ("clip", "siglip")
        return ((images, ids), pixels | {"input_ids": ids}) if both else (images, pixels)
    more = {"decoder_input_ids": ids} if name in PAIRS else {}
    return (ids, ids) if more else ids, {"input_ids": ids} | more


def outputs(torch, model, given, **options):
    """What a model of transformers returns; its parameters get gradients."""
    found = model(**{name: torch.tensor(a) for name, a in given.items()}, **options)
    kinds = "logits", "logits_per_image", "last_hidden_state"
    return next(found[kind] for kind in kinds if kind in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_entry_of_a_configuration_counts_or_raises(name):
    from tests.pretrained.published_fields import compare

    counts, wrong = compare(name)
    assert not wrong
    assert counts["equal"] > 30
    assert counts["raised"] > 30


LLAMA = {
    "model_type": "llama", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 16,
}  # fmt: skip


def stored(folder, config=LLAMA):
    """A folder with random weights of the layout, in two files."""
    (folder / "config.json").write_text(json.dumps(config))
    net = jn.models.decoder(**jn.pretrained.decoder_config(config))
    ids = jnp.ones((1, 3), int)
    params, state = net.init(jax.random.key(0), ids)
    names = to_names(net, params, state, ids, decoder_table(config))
    half = len(names) // 2
    save_file(dict([*names.items()][:half]), folder / "model-00001-of-00002.safetensors")
    save_file(dict([*names.items()][half:]), folder / "model-00002-of-00002.safetensors")
    return params, names


@pytest.mark.slow
def test_several_files_are_read_cast_and_placed(tmp_path):
    params, names = stored(tmp_path)
    assert names["model.layers.1.self_attn.k_proj.weight"].shape == (4, 8)
    assert names["model.layers.0.mlp.down_proj.weight"].shape == (8, 16)
    net, found, state = load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    seen = []

    def put(path, array):
        seen.append((path, array.dtype))
        return array

    net, half, _ = load(tmp_path, dtype=jnp.bfloat16, put=put)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half)} == {"bfloat16"}
    assert len(seen) == len(names)
    assert all(dtype == jnp.bfloat16 for _, dtype in seen)
    assert [path for path, _ in seen][:2] == ["block_0/attention/key/kernel",
                                             "block_0/attention/out/kernel"]  # fmt: skip
    jn.pretrained.save(tmp_path / "b", net, half, state, config=LLAMA | {"dtype": "float32"})
    assert '"torch_dtype": "bfloat16"\n}' in (tmp_path / "b/config.json").read_text()


@pytest.mark.parametrize(("change", "words"), [
    ({"num_hidden_layers": 1}, r'not used: "model.layers.1.input_layernorm.weight"'),
    # Before the net is made:
    ({"num_hidden_layers": 9_999}, r"9,999 layers, but the weights have no .*layers.9998"),
    ({"model_type": "mamba"}, "model_type must be one of llama, .*got 'mamba'"),
    (None, "is not JSON"),
])  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, change, words):
    stored(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | change) if change else "{")
    with pytest.raises(ValueError, match=words):
        load(tmp_path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere")


def test_the_way_back_says_what_it_cannot_undo():
    net = jn.serial(jn.dense(4), jn.dense(2))
    x = jn.spec((2, 3))
    params, state = net.init(jax.random.key(0), x)
    table = {
        "dense/kernel": ("a", np.transpose),
        "dense/bias": ("b", "c", np.add),
        "dense_1/kernel": ("d", jn.interop.take_part(0, 2)),
    }
    with pytest.raises(ValueError) as error:
        to_names(net, params, state, x, table)
    words = str(error.value)
    assert "dense/kernel (3, 4): transpose cannot be undone; write invertible(" in words
    assert "dense/bias (4,): its row joins 2 names" in words
    assert "dense_1/bias (2,): no row in the table" in words
    assert '"d": no entry gives its parts 1 of 2' in words


def test_stacked_layers_and_parts_go_back():
    net = jn.repeat(jn.serial(jn.dense(4, use_bias=False), jn.dense(4)), 3)
    x = jn.spec((2, 4))
    params, state = net.init(jax.random.key(0), x)
    table = {
        "dense/kernel": ("l.{i}.both", jn.interop.take_part(1, 2)),
        "dense_1/kernel": ("l.{i}.both", jn.interop.take_part(0, 2)),
        "dense_1/bias": ("l.{i}.bias", jn.interop.reshaped(4, given=(2, 2))),
    }
    names = to_names(net, params, state, x, table)
    assert {name: a.shape for name, a in names.items()} == {
        **{f"l.{i}.both": (4, 8) for i in range(3)}, **{f"l.{i}.bias": (2, 2) for i in range(3)}
    }  # fmt: skip
    again, _ = by_names(net, names, x, table)
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_head_that_differs_from_the_table_is_kept(tmp_path, family):
    """As after merging an adapter, although the config says that they are tied."""
    gpt2 = {"model_type": "gpt2", "vocab_size": 11, "n_embd": 8, "n_layer": 2, "n_head": 4}
    stored(tmp_path, LLAMA | {"tie_word_embeddings": True} if family == "llama" else gpt2)
    table = "model.embed_tokens.weight" if family == "llama" else "transformer.wte.weight"
    weights = {}
    for file in sorted(tmp_path.glob("*.safetensors")):
        weights |= load_file(file)
        file.unlink()
    for change in (0.0, 1.0):
        head = weights[table] + np.float32(change)
        save_file(weights | {"lm_head.weight": head}, tmp_path / "model.safetensors")
        net, params, state = load(tmp_path)
        assert ("head" in params) == bool(change)
        logits, _ = net.apply(params, state, jnp.array([[1, 5, 2]]))
        assert logits.shape == (1, 3, 11)
    np.testing.assert_array_equal(params["head"]["kernel"], head.T)
