"""The options of published language models, from their config.json.

A family is data: each entry that its published configurations hold is named, with the family's own
default, or as one that must have a certain value, or as one without effect on the logits. An entry
that is on no list raises, since it may say that the model computes something else.
"""

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet import rotary as turn
from jaxnet.services.checks import check_type
from jaxnet.services.files import readable

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
}
DEEPEST = 10_000  # layers


class Config(NamedTuple):
    """A configuration whose entries are checked and complete.

    Fields:
      where: Name of the function and of the file, for messages.
      family: The model_type.
      entries: Entries that the options depend on, with defaults for those left out.
    """

    where: str
    family: str
    entries: dict[str, Any]

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of `decoder`."""
        return FAMILIES[self.family].options(self)

    def error(self, words: str) -> ValueError:
        """Return an error that names the file."""
        return ValueError(f"{self.where}: {words}")


class Family(NamedTuple):
    """What a family's configurations may hold, in addition to `ONLY` and `IGNORED`.

    Fields:
      defaults: Default of each entry that is used.
      options: Function of a complete config that returns the options of `decoder`.
      only: Entries that may have one value; null and leaving it out count as that value.
      ignored: Entries without effect on the logits.
      aliases: Other names of entries.
    """

    defaults: dict[str, Any]
    options: Callable[[Config], dict[str, Any]]
    only: dict[str, Any] = {}
    ignored: tuple[str, ...] = ()
    aliases: dict[str, str] = {}


def decoder_config(config: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `decoder` for a published model, from its config.json.

    It knows Llama, SmolLM2, Mistral, Mixtral, Qwen 2 and 3, Gemma 2 and 3 (text), OLMo 2 and GPT-2.
    An entry that is left out has the family's own default, as in the package transformers.

    Args:
      config: Path of the file, or its contents as a dict.

    Returns:
      Keyword arguments of `decoder`.

    Raises:
      OSError: If the file is missing.
      ValueError: If the file is not a config, or the model_type is not known.
      ValueError: If an entry is unknown, damaged, or has a value that `decoder` cannot compute.

    Example:
      >>> config = {
      ...     "model_type": "llama", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2,
      ...     "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 16,
      ...     "rms_norm_eps": 1e-5, "rope_theta": 5e5, "tie_word_embeddings": True,
      ... }
      >>> options = decoder_config(config)
      >>> options["kv_heads"], options["epsilon"], options["tied"]
      (2, 1e-05, True)
      >>> net = jn.models.decoder(**options)
    """
    return read_config("decoder_config", config).options()


def read_config(who: str, config: str | Path | Mapping[str, Any]) -> Config:
    """Return the contents of a config.json, complete and checked.

    Args:
      who: Name of the function that got it, for messages.
      config: Path of the file or of its folder, or its contents as a dict.

    Raises:
      OSError: If the file is missing.
      TypeError: If it is neither a path nor a mapping.
      ValueError: If the model_type is not known, or as in `decoder_config`.

    Example:
      >>> config = read_config("decoder_config", {"model_type": "gpt2", "n_layer": 2})
      >>> config.family, config.entries["n_layer"], config.entries["n_embd"]
      ('gpt2', 2, 768)
    """
    where = who
    if isinstance(config, str | Path):
        path = Path(config)
        path = readable(who, path / "config.json" if path.is_dir() else path)
        where = f"{who}: {path}"
        try:
            config = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:  # also text that is not UTF-8
            raise ValueError(f"{where} is not JSON: {error}") from None
        if not isinstance(config, dict):
            raise ValueError(f"{where} must hold an object, got {type(config).__name__}")
    check_type(who, "config", config, Mapping, "the path of a config.json or its contents")
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(
            f"{where}: model_type must be one of {', '.join(FAMILIES)}, got {family!r:.60}; write "
            "jn.models.decoder(...) with its options, and a table for jn.interop.by_names"
        )
    return _complete(where, family, config)


def _complete(where: str, family: str, given: Mapping[str, Any]) -> Config:
    defaults, _, only, ignored, aliases = FAMILIES[family]
    complete = Config(where, family, dict(defaults))
    only, seen = ONLY | only, set()
    for name, value in given.items():
        name = aliases.get(name, name)
        if name in seen:
            raise complete.error(f"{name} is given twice, by two names")
        seen.add(name)
        if name in defaults:
            need, fits = KINDS[name]
            if not (value is None and name in MAY_BE_NULL or fits(value)):
                raise complete.error(f"{name} must be {need}, got {value!r:.60}")
            complete.entries[name] = value
        elif name in only:
            if value not in (None, only[name]):
                raise complete.error(f"{name} must be {only[name]}, got {value!r:.60}; {OTHERWISE}")
        elif name not in IGNORED and name not in ignored:
            raise complete.error(
                f"the entry {name!r:.60} is unknown for {family}. If the logits do not depend on "
                f"it, leave it out of the config; otherwise {OTHERWISE}"
            )
    return complete


OTHERWISE = "write jn.models.decoder(...) with options of your own"


# What an entry must be, and whether it is. JSON has no other types, but a dict of a user may.
def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31


def _positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < math.inf


COUNT = "a whole number of at least 1", _count
NUMBER = "a positive number", _positive
FLAG = "true or false", lambda value: isinstance(value, bool)
KIND = ("full_attention", "sliding_attention")
OBJECT = "an object", lambda value: isinstance(value, dict)
ACTIVATION = (
    f"one of {', '.join(ACTIVATIONS)}",
    lambda value: isinstance(value, str) and value in ACTIVATIONS,
)
LAYERS = f"a whole number from 1 to {DEEPEST:,}", lambda value: _count(value) and value <= DEEPEST
# The other entries are of the kind of their defaults.
BY_TYPE = {int: COUNT, float: NUMBER, bool: FLAG, str: ACTIVATION}
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(["num_hidden_layers", "n_layer"], LAYERS),
    **dict.fromkeys(["n_inner", "original_max_position_embeddings"], COUNT),
    **dict.fromkeys(["query_pre_attn_scalar", "partial_rotary_factor"], NUMBER),
    **dict.fromkeys(["rope_parameters", "rope_scaling"], OBJECT),
    "max_window_layers": (
        "a whole number of at least 0",
        lambda value: value == 0 and not isinstance(value, bool) or _count(value),
    ),
    "layer_types": (
        f"a list of {' and '.join(KIND)}",
        lambda value: isinstance(value, list) and all(one in KIND for one in value),
    ),
}  # fmt: skip


# Entries of every family. These must have one value, if they are given.
ONLY = {
    "is_encoder_decoder": False, "add_cross_attention": False,
    "quantization_config": None, "auto_map": None, "pruned_heads": {},
}  # fmt: skip
# These have no effect on the logits: names, tokens, training, generation, how it is computed.
IGNORED = {
    "model_type", "_name_or_path", "name_or_path", "transformers_version", "architectures",
    "transformers.js_config", "tokenizer_class", "prefix", "finetuning_task", "problem_type",
    "task_specific_params", "id2label", "label2id", "_num_labels", "num_labels",
    "pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id",
    "initializer_range", "attention_dropout", "gradient_checkpointing", "use_cache",
    "cache_implementation", "output_hidden_states", "output_attentions", "return_dict",
    "use_return_dict", "return_dict_in_generate", "output_scores", "dtype", "torch_dtype",
    "use_bfloat16", "tf_legacy_loss", "torchscript", "chunk_size_feed_forward", "is_decoder",
    "tie_encoder_decoder", "cross_attention_hidden_size", "pretraining_tp",
    "_attn_implementation", "attn_implementation", "_attn_implementation_autoset",
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
    "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty",
    "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
    "num_return_sequences", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
}  # fmt: skip
ROPE = (
    "rope_theta", "rope_type", "type", "factor", "low_freq_factor", "high_freq_factor",
    "original_max_position_embeddings", "partial_rotary_factor",
)  # fmt: skip


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
    given = config.entries
    heads, groups = given["num_attention_heads"], given["num_key_value_heads"]
    size = given.get("head_dim")
    if groups and heads % groups:
        raise config.error(
            f"num_key_value_heads must divide num_attention_heads = {heads}, got {groups}"
        )
    if size is None and given["hidden_size"] % heads:
        raise config.error(
            f"num_attention_heads must divide hidden_size = {given['hidden_size']}, got {heads}"
        )
    if (size or given["hidden_size"] // heads) % 2:
        raise config.error("the size of a head must be even, since pairs of features are rotated")
    biased = ("query", "key", "value", "out") if given.get("attention_bias") else ()
    return {option: given[entry] for option, entry in OPTIONS.items()} | {
        "activation": ACTIVATIONS[given.get("hidden_act") or given["hidden_activation"]],
        "use_bias": (*biased, "mlp") if given.get("mlp_bias") else biased,
        "rotary": _rotation(config),
    }


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
    return _llama(config) | _windows(config, near, window) | {"use_bias": ("query", "key", "value")}


def _qwen3(config: Config) -> dict[str, Any]:
    return _qwen2(config) | {"use_bias": _llama(config)["use_bias"], "qk_norm": "head"}


def _gemma2(config: Config, every: int = 2) -> dict[str, Any]:
    given, window = config.entries, _window(config)
    near = [(i + 1) % every > 0 for i in range(given["num_hidden_layers"])]
    return _llama(config) | {
        "norm_at": "both",
        "scale": given["query_pre_attn_scalar"] ** -0.5,
        "softcap": given["attn_logit_softcapping"],
        "logit_softcap": given["final_logit_softcapping"],
        "embedding_scale": given["hidden_size"] ** 0.5,
        **_windows(config, near, window),
    }


def _gemma3(config: Config) -> dict[str, Any]:
    own = {"qk_norm": "head", "local_rotary": _rotation(config, "sliding_attention")}
    return _gemma2(config, config.entries["sliding_window_pattern"]) | own


def _olmo2(config: Config) -> dict[str, Any]:
    return _llama(config) | {"norm_at": "output", "qk_norm": "all"}


def _gpt2(config: Config) -> dict[str, Any]:
    given = config.entries
    width, heads = given["n_embd"], given["n_head"]
    if width % heads:
        raise config.error(f"n_head must divide n_embd = {width}, got {heads}")
    fixed = {"gated": False, "norm": "layer", "use_bias": True, "rotary": False}
    return (
        fixed
        | {option: given[entry] for option, entry in GPT2_OPTIONS.items()}
        | {
            "mlp_features": given["n_inner"] or 4 * width,
            "activation": ACTIVATIONS[given["activation_function"]],
        }
    )


def _window(config: Config) -> tuple[int, int] | None:
    """Return the window without the query's own position, which the published number counts."""
    size = config.entries["sliding_window"]
    return None if size is None else (size - 1, 0)


def _windows(config: Config, usual: list[bool], window: Any) -> dict[str, Any]:
    """Return the window and, for each layer, whether it has the window."""
    kinds, depth = config.entries["layer_types"], config.entries["num_hidden_layers"]
    near = usual if kinds is None else [kind == "sliding_attention" for kind in kinds]
    if len(near) != depth:
        raise config.error(
            f"layer_types must have {depth} entries, as num_hidden_layers says, got {len(near)}"
        )
    if any(near) and window is None:
        raise config.error("sliding_window must be a number, since layers use it, got None")
    return {"window": window, "windowed": near}


def _rotation(config: Config, kind: str = "full_attention") -> Callable:
    """Return the rotation of a kind of layers. Older files have it in other entries."""
    given, near = config.entries, kind == "sliding_attention"
    stored, scaling = given["rope_parameters"] or {}, given["rope_scaling"] or {}
    if "rope_local_base_freq" not in given:
        name, rope = ("rope_scaling", scaling) if scaling else ("rope_parameters", stored)
    else:  # by kind of layer; local layers are not scaled
        if odd := [key for key in stored if key not in KIND]:
            raise config.error(f"rope_parameters may hold {' and '.join(KIND)}, got {odd[0]!r:.60}")
        name, rope = f"rope_parameters.{kind}", stored.get(kind) or {}
        if not isinstance(rope, dict):
            raise config.error(f"{name} must be an object, got {rope!r:.60}")
        rope = rope if near else rope | scaling
    if odd := [key for key in rope if key not in ROPE]:
        raise config.error(f"the entry {odd[0]!r:.60} of {name} is unknown; {OTHERWISE}")
    how = rope.get("rope_type", rope.get("type", "default"))
    if how not in ("default", "linear", "llama3"):
        raise config.error(
            f"rope_type must be default, linear or llama3, got {how!r:.60}; give "
            "jn.models.decoder a rotary= function of your own"
        )
    base = given["rope_local_base_freq"] if near else given["rope_theta"]
    length = given["original_max_position_embeddings"] or given["max_position_embeddings"]

    def number(entry: str, default: Any = None) -> Any:
        found = rope.get(entry, default)
        if not _positive(found):
            raise config.error(f"{entry} in {name} must be a positive number, got {found!r:.60}")
        return found

    share = number("partial_rotary_factor", given["partial_rotary_factor"] or 1)
    if share != 1:
        raise config.error(
            f"partial_rotary_factor must be 1, got {share}; write rotary=partial(jn.rotary, "
            "size=...) for jn.models.decoder"
        )
    scaled = None
    if how == "linear":
        factor = number("factor")
        scaled = lambda angles: angles / factor  # noqa: E731
    elif how == "llama3":
        options = {
            "factor": number("factor"),
            "low": number("low_freq_factor"),
            "high": number("high_freq_factor"),
            "length": int(number("original_max_position_embeddings", length)),
        }
        if options["factor"] < 1 or options["high"] <= options["low"]:
            raise config.error(
                f"{name} must have a factor of at least 1 and a high_freq_factor above the "
                f"low_freq_factor, got {rope!r:.200}"
            )
        scaled = partial(_llama3_scaling, **options)
    return partial(turn, base=float(number("rope_theta", base)), scaling=scaled)


def _llama3_scaling(angles, *, factor, low, high, length):
    """Slow down the slow rotations of `rotary`, as Llama 3.1 does for long sequences.

    Args:
      angles: Angles per position, in radians.
      factor: Factor by which rotations are slowed if they turn fewer than `low` times in `length`.
      low, high: Numbers of turns. Between them the factor decreases to 1, which it is from `high`
        on.
      length: Longest sequence of the training before this scaling.

    Reference: Llama Team 2024, "The Llama 3 Herd of Models", and its reference code.
    """
    turns = length * np.asarray(angles) / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(angles) * ((1 - kept) / factor + kept)


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


def _without(entries: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if name not in names}


MISTRAL = _without(LLAMA, "attention_bias") | {
    "intermediate_size": 14_336, "num_key_value_heads": 8, "max_position_embeddings": 131_072,
    "sliding_window": 4096,
}  # fmt: skip
QWEN = LLAMA | {
    "vocab_size": 151_936, "intermediate_size": 22_016, "num_key_value_heads": 32,
    "max_position_embeddings": 32_768, "use_sliding_window": False, "sliding_window": 4096,
    "max_window_layers": 28, "layer_types": None,
}  # fmt: skip
GEMMA = _without(LLAMA, "hidden_act") | {
    "vocab_size": 256_000, "hidden_size": 2304, "intermediate_size": 9216,
    "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 8192,
    "tie_word_embeddings": True, "query_pre_attn_scalar": 256, "sliding_window": 4096,
    "layer_types": None, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0,
}  # fmt: skip
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
FAMILIES: dict[str, Family] = {
    "llama": Family(
        LLAMA | {"mlp_bias": False}, _llama, {"rope_interleaved": False}, ("is_llama_config",)
    ),
    "mistral": Family(MISTRAL, _mistral, BIAS),
    "mixtral": Family(
        MISTRAL | {"rms_norm_eps": 1e-5, "sliding_window": None, "rope_theta": 1e6}
        | {"num_local_experts": 8, "num_experts_per_tok": 2},
        _mixtral, BIAS, ROUTER, {"num_experts": "num_local_experts"},
    ),
    "qwen2": Family(_without(QWEN, "attention_bias"), _qwen2, {"use_mrope": False}),
    "qwen3": Family(QWEN | {"head_dim": 128}, _qwen3),
    "gemma2": Family(GEMMA, _gemma2, CAUSAL, ("hidden_act",)),
    "gemma3_text": Family(
        GEMMA | {"final_logit_softcapping": None, "attn_logit_softcapping": None}
        | {"vocab_size": 262_208, "max_position_embeddings": 131_072, "rope_theta": 1e6}
        | {"rope_local_base_freq": 1e4, "sliding_window_pattern": 6},
        _gemma3, CAUSAL, ("hidden_act", "_sliding_window_pattern"),
    ),
    "olmo2": Family(LLAMA | {"vocab_size": 50_304, "rms_norm_eps": 1e-5}, _olmo2),
    "gpt2": Family(
        GPT2, _gpt2, {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
        ("n_ctx", "resid_pdrop", "embd_pdrop", "attn_pdrop", "reorder_and_upcast_attn",
         "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels",
         "summary_first_dropout"),
        GPT2_ALIASES,
    ),
}  # fmt: skip
DEFAULTS = [entry for family in FAMILIES.values() for entry in family.defaults.items()]
MAY_BE_NULL = {name for name, value in DEFAULTS if value is None}
KINDS |= {n: BY_TYPE[type(v)] for n, v in DEFAULTS if v is not None and n not in KINDS}
