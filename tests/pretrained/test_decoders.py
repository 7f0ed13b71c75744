"""Options of published models; tests/pretrained/test_recorded.py compares their logits."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.pretrained.decoders import FAMILIES
from tests.pretrained.test_loading import LLAMA, LONGROPE, MODELS, published, stored

# What the makers published, whole: nothing in it may be unknown. Factors of LongRoPE are made up.
PUBLISHED = json.loads(Path(__file__).with_name("configs.json").read_text())


@pytest.mark.slow
def test_published_sizes():
    """Parameter counts of the published models, from their config.json."""
    llama = {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
    }  # fmt: skip
    mistral = llama | {"model_type": "mistral", "vocab_size": 32000, "sliding_window": 4096}
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2}
    sizes = {
        1_235_814_400: PUBLISHED["Llama-3.2-1B"],
        8_030_261_248: llama,  # Llama 3 8B
        494_032_768: PUBLISHED["Qwen2.5-0.5B"],
        596_049_920: {  # Qwen 3 0.6B
            "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024,
            "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
            "intermediate_size": 3072, "head_dim": 128, "tie_word_embeddings": True,
        },
        2_614_341_888: PUBLISHED["gemma-2-2b"],
        124_439_808: PUBLISHED["gpt2"],
        3_836_021_760: PUBLISHED["Phi-4-mini"],
        3_075_098_624: PUBLISHED["SmolLM3-3B"],
        7_298_011_136: PUBLISHED["Olmo-3-7B"],
        30_532_122_624: PUBLISHED["Qwen3-30B-A3B"],
        20_914_757_184: PUBLISHED["gpt-oss-20b"],
        46_702_792_704: llama | experts | {"model_type": "mixtral", "vocab_size": 32000},
        7_241_732_096: mistral,
    }  # fmt: skip
    for count, config in sizes.items():
        net = jn.models.decoder(**jn.pretrained.decoder_config(config))
        params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((1, 2), jnp.int32))
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_hold_nothing_unknown(name):
    options = jn.pretrained.decoder_config(PUBLISHED[name])
    assert options["depth"] in (12, 16, 24, 26, 30, 32, 36, 48)


# What a config without entries means: transformers 5.24's classes of configurations. Vocabulary,
# depth, width, heads, their groups and size, MLP, epsilon, whether tied, window, layers that have
# it, base of the rotation, positions.
DEFAULTS = {
    "llama": (32000, 32, 4096, 32, None, None, 11008, 1e-6, False, None, 0, 1e4, 2048),
    "mistral": (32000, 32, 4096, 32, 8, None, 14336, 1e-6, False, 4096, 0, 1e4, 131072),
    "mixtral": (32000, 32, 4096, 32, 8, None, 14336, 1e-5, False, None, 0, 1e6, 131072),
    "qwen2": (151936, 32, 4096, 32, 32, None, 22016, 1e-6, False, None, 0, 1e4, 32768),
    "qwen3": (151936, 32, 4096, 32, 32, 128, 22016, 1e-6, False, None, 0, 1e4, 32768),
    "gemma2": (256000, 26, 2304, 8, 4, 256, 9216, 1e-6, True, 4096, 13, 1e4, 8192),
    "gemma3_text": (262208, 26, 2304, 8, 4, 256, 9216, 1e-6, True, 4096, 22, 1e6, 131072),
    "olmo2": (50304, 32, 4096, 32, None, None, 11008, 1e-5, False, None, 0, 1e4, 2048),
    "olmo3": (50304, 32, 4096, 32, None, None, 11008, 1e-5, False, 4096, 24, 5e5, 2048),
    "phi3": (32064, 32, 3072, 32, None, None, 8192, 1e-5, False, None, 0, 1e4, 4096),
    "smollm3": (128256, 36, 2048, 16, 4, None, 11008, 1e-6, True, None, 9, 2e6, 32768),
    "granite": (32000, 32, 4096, 32, None, None, 11008, 1e-6, False, None, 0, 1e4, 2048),
    "qwen3_moe": (151936, 24, 2048, 32, 4, None, 768, 1e-6, False, None, 0, 1e4, 32768),
    "gpt_oss": (201088, 36, 2880, 64, 8, 64, 2880, 1e-5, False, 128, 18, 1.5e5, 131072),
    "gpt2": (50257, 12, 768, 12, None, None, 3072, 1e-5, True, None, 0, None, 1024),
}
NUMBERS = (
    "vocabulary", "depth", "width", "heads", "kv_heads", "head_size", "mlp_features", "epsilon",
    "tied",
)  # fmt: skip


# The options that no entry of the config gives a number: how a family differs from Llama.
PROJECTIONS = ("query", "key", "value", "out")
SILU = {"activation": jax.nn.silu, "use_bias": ()}
GELU = {"activation": jax.nn.gelu}
GEMMA = {"use_bias": (), "norm_at": "both", "embedding_scale": 48.0}
FORMS = {
    "llama": SILU, "mistral": SILU, "mixtral": SILU | {"experts": 8, "experts_per_token": 2},
    "qwen2": SILU | {"use_bias": ("query", "key", "value")}, "qwen3": SILU | {"qk_norm": "head"},
    "gemma2": GELU | GEMMA | {"logit_softcap": 30.0},
    "gemma3_text": GELU | GEMMA | {"logit_softcap": None, "qk_norm": "head"},
    "olmo2": SILU | {"norm_at": "output", "qk_norm": "all"},
    "olmo3": SILU | {"norm_at": "output", "qk_norm": "all"}, "phi3": SILU, "smollm3": SILU,
    "granite": SILU | {"embedding_scale": 1.0, "residual_scale": 1.0, "logit_scale": 1.0},
    "qwen3_moe": SILU | {"qk_norm": "head", "experts": 128, "experts_per_token": 8},
    "gpt_oss": {"activation": jax.nn.silu, "use_bias": PROJECTIONS, "sinks": True},
    "gpt2": GELU | {"gated": False, "norm": "layer", "use_bias": True},
}  # fmt: skip
ELSEWHERE = {"softcap", "scale", "window", "windowed", "rotary", "local_rotary", "max_length"}
ELSEWHERE |= {"mlp"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_the_defaults_of_transformers(family):
    *numbers, window, near, base, length = DEFAULTS[family]
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["rope_type"] = "llama3"
    needed = {"model_type": family} | ({"norm_topk_prob": True} if "moe" in family else {})
    options = jn.pretrained.decoder_config(needed | ({"rope_scaling": scaling} if base else {}))
    assert [options.get(name) for name in NUMBERS] == numbers
    assert options.get("window") == (window and (window - 1, 0))
    assert sum(options.get("windowed", [])) == near
    if base:
        turn = options["rotary"].keywords
        assert turn["base"] == base
        assert turn["scaling"].keywords["length"] == length
        halfway = 2 * np.pi * 2.5 / length  # 2.5 turns of the 1 to 4 between which it fades out
        assert np.isclose(turn["scaling"](halfway), halfway * (0.5 / 8 + 0.5))
    else:
        assert options["max_length"] == length
    assert options.get("softcap") == (50.0 if family == "gemma2" else None)
    scale = {"gemma2": 1 / 16, "gemma3_text": 1 / 16, "granite": 1.0}
    assert options.get("scale") == scale.get(family)
    others = jn.pretrained.decoder_config(needed).items()
    assert {k: v for k, v in others if k not in ELSEWHERE | {*NUMBERS}} == FORMS[family]


@pytest.mark.parametrize(("family", "entry", "option", "value"), [
    ("qwen2", {"use_sliding_window": True}, "windowed", [False] * 28 + [True] * 4),
    ("gemma3_text", {"num_hidden_layers": 7}, "windowed", [True] * 5 + [False, True]),
    ("gpt2", {"hidden_size": 24}, "width", 24),
    ("mistral", {"num_key_value_heads": None}, "kv_heads", None),
    ("gpt2", {"tie_word_embeddings": False}, "tied", False),
    ("llama", {"attention_bias": True}, "use_bias", ("query", "key", "value", "out")),
    ("llama", {"mlp_bias": True}, "use_bias", ("mlp",)),
    ("qwen3", {"attention_bias": True}, "use_bias", ("query", "key", "value", "out")),
])  # fmt: skip
def test_what_is_left_out_has_the_default_of_its_family(family, entry, option, value):
    assert jn.pretrained.decoder_config({"model_type": family} | entry)[option] == value


GROWN = {
    "rope_parameters": {"rope_type": "dynamic", "factor": 4.0},
    "max_position_embeddings": 4,
    "num_attention_heads": 2,
}
LONG = LLAMA | {
    "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [9.0]},
    "original_max_position_embeddings": 4,
}


@pytest.mark.long
def test_the_length_that_a_text_reaches_decides_how_longrope_turns(tmp_path):
    """A stream that passes the limit computes again what it keeps, each row for itself."""
    stored(tmp_path, LONG)
    net, params, state = jn.pretrained.load(tmp_path)
    ids = jnp.array([[1, 5, 0, 2, 7, 3, 4], [2, 2, 5, 9, 0, 1, 1]])
    whole = [net.apply(params, state, ids[:, :n])[0][:, -1] for n in range(1, 8)]
    for length in (7, 20):  # what there is room for changes nothing
        text = jn.stream(net, length)
        read = jax.jit(text.apply)
        kept = jn.start_stream(text, ids, state)
        y, kept = read(params, kept, ids[:, :2])
        np.testing.assert_allclose(y[:, -1], whole[1], 1e-4, 1e-5)
        for n in range(2, 7):
            y, kept = read(params, kept, ids[:, n : n + 1])
            np.testing.assert_allclose(y[:, -1], whole[n], 1e-4, 1e-5)


@pytest.mark.slow
def test_each_row_of_a_text_computes_its_keys_again(tmp_path):
    stored(tmp_path, LONG)
    net, params, state = jn.pretrained.load(tmp_path)
    ids = jnp.array([[1, 5, 0, 2, 7], [2, 2, 5, 9, 0]])
    ragged = jn.stream(net, 7, ragged=True)
    kept = jn.start_stream(ragged, (ids, jnp.array([1, 1])), state)
    read = jax.jit(ragged.apply)
    _, kept = read(params, kept, (ids[:, :4], jnp.array([1, 4])))
    others = jnp.stack([ids[0, 1:4], ids[1, [4, 4, 4]]])
    y, _ = read(params, kept, (others, jnp.array([3, 1])))
    np.testing.assert_allclose(y[0, 2], net.apply(params, state, ids[:1, :4])[0][0, 3], 1e-4, 1e-5)
    np.testing.assert_allclose(y[1, 0], net.apply(params, state, ids[1:])[0][0, 4], 1e-4, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_text_does_not_depend_on_the_length_that_is_allowed(tmp_path, dynamic):
    stored(tmp_path, LLAMA | GROWN if dynamic else LONG)
    net, params, state = jn.pretrained.load(tmp_path)
    options = {"temperature": 0, "state": state, "progress": False}
    prompts = [[1, 5, 0], [7], [2, 2, 5, 9]]
    short, long = (
        jn.decoding.generate(net, params, prompts, length=n, **options).tokens for n in (3, 40)
    )
    np.testing.assert_array_equal(short, long[:, :3])
    alone = [
        jn.decoding.generate(net, params, [row], length=40, **options).tokens[0] for row in prompts
    ]
    np.testing.assert_array_equal(long, alone)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rope"), [
    ("phi3-longrope", LONGROPE), ("llama", {"rope_type": "dynamic", "factor": 4.0}),
])  # fmt: skip
def test_a_text_beyond_the_limit_is_that_of_transformers(kind, rope, tmp_path, monkeypatch):
    """The prompt has 10 tokens, and from 16 on the rotations are others."""
    class_, options = MODELS[kind]
    limits = {"original_max_position_embeddings": 16, "max_position_embeddings": 256}
    if kind == "llama":
        limits = {"max_position_embeddings": 16}
    changed = options | {"rope_parameters": {"rope_theta": 500.0, **rope}} | limits
    monkeypatch.setitem(MODELS, kind, (class_, changed))
    torch, model = published(kind, tmp_path)
    net, params, state = jn.pretrained.load(tmp_path)
    ids = np.random.default_rng(0).integers(3, 96, (1, 10))
    theirs = model.generate(torch.tensor(ids), max_new_tokens=60, do_sample=False, eos_token_id=[])
    wanted = theirs[0, 10:].tolist()
    assert len(set(wanted)) > 5
    for length in (14, 60, 200):
        options = {"length": length, "temperature": 0, "state": state, "progress": False}
        found = jn.decoding.generate(net, params, ids, **options).tokens[0].tolist()
        assert found[:60] == wanted[:length]


@pytest.mark.parametrize(("config", "base"), [
    ({"model_type": "llama", "rope_theta": 7, "rope_parameters": {}}, 7),
    ({"model_type": "llama", "rope_theta": 7, "rope_parameters": {"rope_theta": 5}}, 5),
    ({"model_type": "gemma3_text", "rope_theta": 7}, 7),
])  # fmt: skip
def test_the_base_of_the_rotation(config, base):
    assert jn.pretrained.decoder_config(config)["rotary"].keywords["base"] == base


def test_near_layers_keep_their_own_rotation():
    config = {"model_type": "gemma3_text", "rope_parameters": {"full_attention": {"rope_theta": 9}}}
    options = jn.pretrained.decoder_config(config)
    assert options["rotary"].keywords["base"] == 9
    assert options["local_rotary"].keywords["base"] == 1e4
