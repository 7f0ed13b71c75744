"""Decoders: Llama, SmolLM, Mistral, Mixtral, Qwen, Gemma, OLMo, Phi, Granite, GPT-2 and gpt-oss."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxnet.interop import invertible, reshaped, take_part, transposed
from jaxnet.pretrained import gpt_oss
from jaxnet.pretrained.config import (
    ACTIVATIONS,
    OTHERWISE,
    Config,
    Family,
    Rows,
    Stored,
    without,
)
from jaxnet.pretrained.rotations import SLIDING, rotation, scaled_decoder
from jaxnet.pretrained.rows import norm_rows

# Ends of the names of buffers that older files have in addition to the weights.
BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")

HEAD = "lm_head.weight"
# Names of weights, in most families and in GPT-2: the prefix, the embedding and the layers.
LLAMA_WEIGHTS = "model.", "embed_tokens.weight", "layers"
GPT2_WEIGHTS = "transformer.", "wte.weight", "h"
# The kernels of a block of `jn.models.decoder`, and their names in most families and in GPT-2.
LLAMA_NAMES = {
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.o_proj",
    "mlp_in": "mlp.gate_proj",
    "mlp_gate": "mlp.up_proj",
    "mlp_out": "mlp.down_proj",
}
GPT2_NAMES = {
    "attention/out": "attn.c_proj",
    "mlp_in": "mlp.c_fc",
    "mlp_out": "mlp.c_proj",
}
# Names in Phi, where several kernels are parts of one array.
PHI3_NAMES = {
    "attention/query": "self_attn.qkv_proj",
    "attention/key": "self_attn.qkv_proj",
    "attention/value": "self_attn.qkv_proj",
    "mlp_in": "mlp.gate_up_proj",
    "mlp_gate": "mlp.gate_up_proj",
}
# Our kernels of an expert -> theirs, in Mixtral and in Qwen.
MIXTRAL_EXPERT = {"mlp_in": "w1", "mlp_gate": "w3", "mlp_out": "w2"}
QWEN_EXPERT = {"mlp_in": "gate_proj", "mlp_gate": "up_proj", "mlp_out": "down_proj"}

# Gemma stores what is added to 1.
_plus_one = invertible(lambda a: np.asarray(a, np.float32) + 1, lambda a: a - 1)

# The options of `decoder` that an entry of a config states as it is.
OPTIONS = {
    "vocabulary": "vocab_size", "depth": "num_hidden_layers", "width": "hidden_size",
    "heads": "num_attention_heads", "kv_heads": "num_key_value_heads", "head_size": "head_dim",
    "mlp_features": "intermediate_size", "epsilon": "rms_norm_eps", "tied": "tie_word_embeddings",
}  # fmt: skip
GPT2_OPTIONS = {
    "vocabulary": "vocab_size", "depth": "n_layer", "width": "n_embd", "heads": "n_head",
    "epsilon": "layer_norm_epsilon", "max_length": "n_positions", "tied": "tie_word_embeddings",
}  # fmt: skip


def _llama(config: Config) -> dict[str, Any]:
    """Return the options that most families have."""
    _check_heads(config)
    entries = config.entries
    biased = ("query", "key", "value", "out") if entries.get("attention_bias") else ()
    if entries.get("mlp_bias"):
        biased = (*biased, "mlp")
    activation = entries.get("hidden_act") or entries["hidden_activation"]
    return {
        **{option: entries[entry] for option, entry in OPTIONS.items()},
        "activation": ACTIVATIONS[activation],
        "use_bias": biased,
        "rotary": rotation(config),
    }


def _check_heads(config: Config) -> None:
    """Raise if the sizes of the attention do not fit together."""
    entries = config.entries
    width, heads = entries["hidden_size"], entries["num_attention_heads"]
    groups, size = entries["num_key_value_heads"], entries.get("head_dim")
    if groups and heads % groups:
        raise config.error(
            f"num_key_value_heads must divide num_attention_heads = {heads}, got {groups}"
        )
    if size is None and width % heads:
        raise config.error(f"num_attention_heads must divide hidden_size = {width}, got {heads}")
    if (size or width // heads) % 2:
        raise config.error("the size of a head must be even, since pairs of features are rotated")


def _mistral(config: Config) -> dict[str, Any]:
    return _llama(config) | {"window": _window(config)}


def _mixtral(config: Config) -> dict[str, Any]:
    experts, k = config.entries["num_local_experts"], config.entries["num_experts_per_tok"]
    if k > experts:
        raise config.error(f"num_experts_per_tok must be at most {experts}, got {k}")
    return _mistral(config) | {"experts": experts, "experts_per_token": k}


def _qwen2(config: Config) -> dict[str, Any]:
    window = _window(config) if config.entries["use_sliding_window"] else None
    first, depth = config.entries["max_window_layers"], config.entries["num_hidden_layers"]
    near = [window is not None and i >= first for i in range(depth)]
    overrides = {"use_bias": ("query", "key", "value")}
    return _llama(config) | _windows(config, near, window) | overrides


def _qwen3(config: Config) -> dict[str, Any]:
    use_bias = _llama(config)["use_bias"]
    return _qwen2(config) | {"use_bias": use_bias, "qk_norm": "head"}


def _gemma2(config: Config, every: int = 2) -> dict[str, Any]:
    entries = config.entries
    near = [(i + 1) % every > 0 for i in range(entries["num_hidden_layers"])]
    return {
        **_llama(config),
        "norm_at": "both",
        "scale": entries["query_pre_attn_scalar"] ** -0.5,
        "softcap": entries["attn_logit_softcapping"],
        "logit_softcap": entries["final_logit_softcapping"],
        "embedding_scale": entries["hidden_size"] ** 0.5,
        **_windows(config, near, _window(config)),
    }


def _gemma3(config: Config) -> dict[str, Any]:
    overrides = {"qk_norm": "head", "local_rotary": rotation(config, SLIDING)}
    return _gemma2(config, config.entries["sliding_window_pattern"]) | overrides


def _olmo2(config: Config) -> dict[str, Any]:
    return _llama(config) | {"norm_at": "output", "qk_norm": "all"}


def _olmo3(config: Config) -> dict[str, Any]:
    near = [(i + 1) % 4 > 0 for i in range(config.entries["num_hidden_layers"])]
    overrides = {"local_rotary": rotation(config, SLIDING)}
    return _olmo2(config) | _windows(config, near, _window(config)) | overrides


def _smollm3(config: Config) -> dict[str, Any]:
    still = _unrotated(config)
    window = _window(config) if config.entries["use_sliding_window"] else None
    usual = [one and window is not None for one in still]
    near = _windows(config, usual, window)["windowed"]
    if any(near) and near != still:
        raise config.error(
            "layer_types must be sliding_attention where no_rope_layers is 0, or nowhere; "
            f"{OTHERWISE}"
        )
    return {
        **_llama(config),
        "window": window if any(near) else None,
        "windowed": still,
        "local_rotary": False,
    }


def _unrotated(config: Config) -> list[bool]:
    """Return for each layer of SmolLM3 whether it has no rotation."""
    entries = config.entries
    depth, rotated = entries["num_hidden_layers"], entries["no_rope_layers"]
    if rotated is None:
        every = entries["no_rope_layer_interval"]
        return [(i + 1) % every == 0 for i in range(depth)]
    if len(rotated) < depth:
        raise config.error(f"no_rope_layers must have {depth} entries, got {len(rotated)}")
    return [not one for one in rotated[:depth]]


def _granite(config: Config) -> dict[str, Any]:
    entries = config.entries
    return _llama(config) | {
        "scale": entries["attention_multiplier"],
        "embedding_scale": entries["embedding_multiplier"],
        "residual_scale": entries["residual_multiplier"],
        "logit_scale": 1 / entries["logits_scaling"],
    }


def _qwen3_moe(config: Config) -> dict[str, Any]:
    entries = config.entries
    if not entries["norm_topk_prob"]:
        raise config.error(f"norm_topk_prob must be true; {OTHERWISE}")
    window = _window(config) if entries["use_sliding_window"] else None
    overrides = {
        "mlp_features": entries["moe_intermediate_size"],
        "qk_norm": "head",
        "window": window,
    }
    return _mixtral(config) | overrides


def _gpt_oss(config: Config) -> dict[str, Any]:
    entries = config.entries
    if entries["rope_parameters"] is None:
        config = config._replace(entries=entries | {"rope_parameters": GPT_OSS_ROPE})
    net_options = _mixtral(config)
    near = [i % 2 == 0 for i in range(entries["num_hidden_layers"])]
    experts = gpt_oss.mixture(
        net_options["mlp_features"],
        net_options.pop("experts"),
        net_options.pop("experts_per_token"),
        alpha=entries["swiglu_alpha"],
        limit=entries["swiglu_limit"],
    )
    return (
        net_options
        | _windows(config, near, net_options["window"])
        | {"sinks": True, "mlp": experts}
    )


def _gpt2(config: Config) -> dict[str, Any]:
    entries = config.entries
    width, heads = entries["n_embd"], entries["n_head"]
    if width % heads:
        raise config.error(f"n_head must divide n_embd = {width}, got {heads}")
    return {
        "gated": False,
        "norm": "layer",
        "use_bias": True,
        "rotary": False,
        **{option: entries[entry] for option, entry in GPT2_OPTIONS.items()},
        "mlp_features": entries["n_inner"] or 4 * width,
        "activation": ACTIVATIONS[entries["activation_function"]],
    }


def _window(config: Config) -> tuple[int, int] | None:
    """Return the window without the query's own position, which the published number counts."""
    size = config.entries["sliding_window"]
    return None if size is None else (size - 1, 0)


def _windows(config: Config, usual: list[bool], window: Any) -> dict[str, Any]:
    """Return the window and, for each layer, whether it has the window.

    Args:
      config: Configuration, whose `layer_types` says which layers have it.
      usual: Which layers have it if the configuration does not say it.
      window: The window.
    """
    kinds, depth = config.entries["layer_types"], config.entries["num_hidden_layers"]
    near = usual if kinds is None else [kind == SLIDING for kind in kinds]
    if len(near) != depth:
        raise config.error(
            f"layer_types must have {depth} entries, as num_hidden_layers says, got {len(near)}"
        )
    if any(near) and window is None:
        raise config.error("sliding_window must be a number, since layers use it, got None")
    return {"window": window, "windowed": near}


def rows(config: Config, stored: Stored) -> Rows:
    """Return the table of the names of a decoder."""
    options, first = stored.options, stored.prefix
    if config.family == "gpt2":
        table = _gpt2_rows(options["width"], options["heads"], first)
    else:
        table = _llama_rows(options, first, config.family)
    if config.family == "gpt_oss":
        table |= gpt_oss.rows(first + "layers.{i}", stored.packed)
    if not options["tied"]:
        table["head/kernel"] = (HEAD, transposed)
    return table


def how_stored(config: Config, weights: Mapping[str, Any] | None) -> Stored:
    """Return how the weights of a decoder are stored; raise if there are fewer layers."""
    options = FAMILIES[config.family].options(config)
    gpt2 = config.family == "gpt2"
    prefix, embedding, layers = GPT2_WEIGHTS if gpt2 else LLAMA_WEIGHTS
    if weights is None:
        return Stored(options, prefix)
    if gpt2 and embedding in weights:  # the first published files have no prefix
        prefix = ""
    last = f"{prefix}{layers}.{options['depth'] - 1}."
    if not any(name.startswith(last) for name in weights):
        raise config.error(
            f"says that there are {options['depth']:,} layers, but the weights have no entry "
            f"{last}…"
        )
    leave = [name for name in weights if name.endswith(BUFFERS)]
    table = prefix + embedding
    if options["tied"] and HEAD in weights and table in weights:
        # Whoever changed one of them, as by adding tokens, did not untie them in the config.
        if np.array_equal(weights[HEAD], weights[table]):
            leave.append(HEAD)
        else:
            options["tied"] = False
    packed = any(name.endswith("_blocks") for name in weights)
    return Stored(options, prefix, tuple(leave), packed=packed)


def _llama_rows(options: dict[str, Any], first: str, family: str) -> Rows:
    """Return the names of all models except GPT-2, limited to the chosen options."""
    gemma = family.startswith("gemma")
    block = first + "layers.{i}"
    table: Rows = {
        "embedding/embedding": f"{first}embed_tokens.weight",
        "norm/scale": _scale(f"{first}norm.weight", gemma),
    }
    names = LLAMA_NAMES | PHI3_NAMES if family == "phi3" else LLAMA_NAMES
    has_mlp = not (options.get("experts") or options.get("mlp"))
    for ours, theirs in names.items():
        if has_mlp or not ours.startswith("mlp"):
            table |= _kernel_rows(ours, f"{block}.{theirs}", options, family)
    if options.get("qk_norm"):
        for kind in ("query", "key"):
            name = f"{block}.self_attn.{kind[0]}_norm.weight"
            table[f"block_{{i}}/attention/{kind}_norm/scale"] = _scale(name, gemma)
    if options.get("experts"):
        table |= _expert_rows(block, family)
    for ours, theirs in NORMS[options.get("norm_at") or "input"].items():
        table[f"block_{{i}}/{ours}/scale"] = _scale(f"{block}.{theirs}_layernorm.weight", gemma)
    return table


def _kernel_rows(ours: str, theirs: str, options: dict[str, Any], family: str) -> Rows:
    """Return the rows of one kernel of a block, and of its bias if it has one."""
    heads, width = options["heads"], options["width"]
    groups = options["kv_heads"] or heads
    size = options["head_size"] or width // heads
    kind = ours.rpartition("/")[2]
    weight: tuple[Any, ...] = (f"{theirs}.weight",)
    bias: Any = f"{theirs}.bias"
    if family == "phi3" and ours in PHI3_NAMES:
        weight = (*weight, _part_of(kind, heads, groups))
    if kind in ("query", "key", "value"):
        count = heads if kind == "query" else groups
        weight = (*weight, _heads_of(count))
        bias = (bias, reshaped(count, size, given=(-1,)))
    elif kind == "out":
        weight = (*weight, transposed, reshaped(heads, size, width, given=(-1, width)))
    else:
        weight = (*weight, transposed)
    rows: Rows = {f"block_{{i}}/{ours}/kernel": weight}
    layer = "mlp" if kind.startswith("mlp") else kind
    if layer in options["use_bias"]:
        rows[f"block_{{i}}/{ours}/bias"] = bias
    return rows


def _expert_rows(block: str, family: str) -> Rows:
    """Return the rows of the experts and their router."""
    theirs, kernels = f"{block}.block_sparse_moe", MIXTRAL_EXPERT
    if family == "qwen3_moe":
        theirs, kernels = f"{block}.mlp", QWEN_EXPERT
    ours = "block_{i}/moe"
    rows: Rows = {f"{ours}/router/kernel": (f"{theirs}.gate.weight", transposed)}
    for kernel, name in kernels.items():
        weight = theirs + ".experts.{j}." + name + ".weight"
        rows[f"{ours}/experts/{kernel}/kernel"] = (weight, transposed)
    return rows


# Our norms -> theirs without "_layernorm", by `norm_at`.
NORMS = {
    "input": {"attention_norm": "input", "mlp_norm": "post_attention"},
    "output": {"attention_norm": "post_attention", "mlp_norm": "post_feedforward"},
    "both": {
        "attention_norm": "input",
        "attention_out_norm": "post_attention",
        "mlp_norm": "pre_feedforward",
        "mlp_out_norm": "post_feedforward",
    },
}


def _scale(name: str, gemma: bool) -> Any:
    return (name, _plus_one) if gemma else name


def _part_of(kind: str, heads: int, groups: int) -> Any:
    """Return a function that takes the rows of a kernel from the array that Phi has for several."""
    if kind.startswith("mlp"):
        return take_part(int(kind == "mlp_gate"), 2, axis=0)
    places = {
        "query": range(heads),
        "key": range(heads, heads + groups),
        "value": range(heads + groups, heads + 2 * groups),
    }
    return take_part(places[kind], heads + 2 * groups, axis=0)


def _heads_of(count: int) -> Any:
    """Convert from (heads * size, width) to (width, heads, size)."""

    def split(a):
        width = a.shape[1]
        return np.reshape(np.transpose(a), (width, count, -1))

    def join(a):
        width = len(a)
        return np.reshape(a, (width, a.size // width)).T

    return invertible(split, join)


def _gpt2_rows(width: int, heads: int, first: str) -> Rows:
    """Return the names of GPT-2: kernels are (inputs, outputs), with queries, keys and values
    joined."""
    size = width // heads
    ours, theirs = "block_{i}", first + "h.{i}"
    table: Rows = {
        "embedding/embedding": f"{first}wte.weight",
        "positions/embedding": f"{first}wpe.weight",
        **norm_rows("norm", f"{first}ln_f"),
        **norm_rows(f"{ours}/attention_norm", f"{theirs}.ln_1"),
        **norm_rows(f"{ours}/mlp_norm", f"{theirs}.ln_2"),
    }
    split = reshaped(width, heads, size, given=(width, width))
    flat = reshaped(heads, size, given=(width,))
    for i, kind in enumerate(("query", "key", "value")):
        path = f"{ours}/attention/{kind}"
        table[f"{path}/kernel"] = (f"{theirs}.attn.c_attn.weight", take_part(i, 3), split)
        table[f"{path}/bias"] = (f"{theirs}.attn.c_attn.bias", take_part(i, 3), flat)
    joined = reshaped(heads, size, width, given=(width, width))
    for layer, name in GPT2_NAMES.items():
        weight = f"{theirs}.{name}.weight"
        table[f"{ours}/{layer}/kernel"] = (weight, joined) if layer == "attention/out" else weight
        table[f"{ours}/{layer}/bias"] = f"{theirs}.{name}.bias"
    return table


ROTATION = {
    "rope_theta": 1e4, "rope_parameters": None, "rope_scaling": None,
    "partial_rotary_factor": None, "original_max_position_embeddings": None,
}  # fmt: skip
LLAMA: dict[str, Any] = ROTATION | {
    "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": None,
    "head_dim": None, "hidden_act": "silu", "rms_norm_eps": 1e-6, "attention_bias": False,
    "tie_word_embeddings": False, "max_position_embeddings": 2048,
}  # fmt: skip


MISTRAL = without(LLAMA, "attention_bias") | {
    "intermediate_size": 14_336, "num_key_value_heads": 8, "max_position_embeddings": 131_072,
    "sliding_window": 4096,
}  # fmt: skip
MIXTRAL = MISTRAL | {
    "rms_norm_eps": 1e-5, "sliding_window": None, "rope_theta": 1e6, "num_local_experts": 8,
    "num_experts_per_tok": 2,
}  # fmt: skip
QWEN = LLAMA | {
    "vocab_size": 151_936, "intermediate_size": 22_016, "num_key_value_heads": 32,
    "max_position_embeddings": 32_768, "use_sliding_window": False, "sliding_window": 4096,
    "max_window_layers": 28, "layer_types": None,
}  # fmt: skip
GEMMA = without(LLAMA, "hidden_act") | {
    "vocab_size": 256_000, "hidden_size": 2304, "intermediate_size": 9216,
    "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 8192,
    "tie_word_embeddings": True, "query_pre_attn_scalar": 256, "sliding_window": 4096,
    "layer_types": None, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0,
}  # fmt: skip
GEMMA3 = GEMMA | {
    "vocab_size": 262_208, "max_position_embeddings": 131_072, "rope_theta": 1e6,
    "rope_local_base_freq": 1e4, "sliding_window_pattern": 6, "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
}  # fmt: skip
OLMO = LLAMA | {"vocab_size": 50_304, "rms_norm_eps": 1e-5}
OLMO3 = without(OLMO, "rope_theta") | {"sliding_window": 4096, "layer_types": None}
QWEN3_MOE = without(QWEN, "max_window_layers", "layer_types") | {
    "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24,
    "num_key_value_heads": 4, "moe_intermediate_size": 768, "num_local_experts": 128,
    "num_experts_per_tok": 8, "norm_topk_prob": False,
}  # fmt: skip
SMOLLM3 = LLAMA | {
    "vocab_size": 128_256, "hidden_size": 2048, "num_hidden_layers": 36,
    "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 32_768,
    "tie_word_embeddings": True, "rope_theta": 2e6, "mlp_bias": False, "layer_types": None,
    "use_sliding_window": False, "sliding_window": None, "no_rope_layers": None,
    "no_rope_layer_interval": 4,
}  # fmt: skip
GRANITE = LLAMA | {
    "mlp_bias": False, "embedding_multiplier": 1.0, "logits_scaling": 1.0,
    "residual_multiplier": 1.0, "attention_multiplier": 1.0,
}  # fmt: skip
PHI3 = without(LLAMA, "attention_bias") | {
    "vocab_size": 32_064, "hidden_size": 3072, "intermediate_size": 8192, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096, "original_max_position_embeddings": 4096,
    "sliding_window": None,
}  # fmt: skip
GPT_OSS = MISTRAL | {
    "vocab_size": 201_088, "hidden_size": 2880, "intermediate_size": 2880,
    "num_hidden_layers": 36, "num_attention_heads": 64, "head_dim": 64, "rms_norm_eps": 1e-5,
    "rope_theta": 1.5e5, "sliding_window": 128, "layer_types": None, "attention_bias": True,
    "num_local_experts": 128, "num_experts_per_tok": 4, "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0, "quantization_config": None,
}  # fmt: skip
GPT_OSS_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
GPT2 = {
    "vocab_size": 50_257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12,
    "n_inner": None, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}  # fmt: skip
GPT2_ALIASES = {
    "hidden_size": "n_embd", "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head", "num_hidden_layers": "n_layer",
}  # fmt: skip
BIAS = {"attention_bias": False, "mlp_bias": False}
CAUSAL = {"use_bidirectional_attention": False}
ROUTER = "output_router_logits", "router_aux_loss_coef", "router_jitter_noise"
EXPERTS = {"num_experts": "num_local_experts"}
GPT2_IGNORED = (
    "n_ctx", "resid_pdrop", "embd_pdrop", "attn_pdrop", "reorder_and_upcast_attn", "summary_type",
    "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout",
)  # fmt: skip


def _decoder(defaults: dict[str, Any], options: Callable, **rest: Any) -> Family:
    return Family(defaults, options, scaled_decoder, rows, how_stored, **rest)


FAMILIES: dict[str, Family] = {  # model_type -> family
    "llama": _decoder(
        LLAMA | {"mlp_bias": False},
        _llama,
        only={"rope_interleaved": False},
        ignored=("is_llama_config",),
    ),
    "mistral": _decoder(MISTRAL, _mistral, only=BIAS),
    "mixtral": _decoder(MIXTRAL, _mixtral, only=BIAS, ignored=ROUTER, aliases=EXPERTS),
    "qwen2": _decoder(without(QWEN, "attention_bias"), _qwen2, only={"use_mrope": False}),
    "qwen3": _decoder(QWEN | {"head_dim": 128}, _qwen3),
    "gemma2": _decoder(GEMMA, _gemma2, only=CAUSAL, ignored=("hidden_act",)),
    "gemma3_text": _decoder(
        GEMMA3, _gemma3, only=CAUSAL, ignored=("hidden_act", "_sliding_window_pattern")
    ),
    "olmo2": _decoder(OLMO, _olmo2),
    "olmo3": _decoder(OLMO3, _olmo3, only={"rope_theta": 500_000}),
    "phi3": _decoder(
        PHI3,
        _mistral,
        only=BIAS | {"lm_head_bias": False, "full_attn_mod": 1, "interpolate_factor": 1},
        ignored=("resid_pdrop", "embd_pdrop", "auto_map"),
    ),
    "smollm3": _decoder(SMOLLM3, _smollm3, ignored=("max_window_layers",)),
    "granite": _decoder(GRANITE, _granite),
    "qwen3_moe": _decoder(
        QWEN3_MOE,
        _qwen3_moe,
        only={"decoder_sparse_step": 1, "mlp_only_layers": []},
        ignored=(*ROUTER, "max_window_layers"),
        aliases=EXPERTS,
    ),
    "gpt_oss": _decoder(
        GPT_OSS,
        _gpt_oss,
        ignored=(*ROUTER, "experts_per_token", "initial_context_length"),
        aliases=EXPERTS,
    ),
    "gpt2": _decoder(
        GPT2,
        _gpt2,
        only={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
        ignored=GPT2_IGNORED,
        aliases=GPT2_ALIASES,
    ),
}
