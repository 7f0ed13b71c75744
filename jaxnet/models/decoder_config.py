"""The options of published language models, from their config.json."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxnet.layers.embedding import llama3_scaling
from jaxnet.layers.embedding import rotary as turn
from jaxnet.services.files import readable

Config = Mapping[str, Any]
ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
}


def decoder_config(config: str | Path | Config) -> dict[str, Any]:
    """Return the options of `decoder` for a published model, from its config.json.

    It knows Llama, SmolLM2, Mistral, Mixtral, Qwen 2 and 3, Gemma 2 and 3 (text), OLMo 2 and GPT-2.

    Args:
      config: Path of the file, or its contents as a dict.

    Returns:
      Keyword arguments of `decoder`.

    Raises:
      OSError: If the file is missing.
      ValueError: If the file is not a config.
      ValueError: If the model_type is not known.
      ValueError: If an option has a value that `decoder` cannot compute.

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
    given = read_config("decoder_config", config)
    return FAMILIES[given["model_type"]](given)


def read_config(who: str, config: str | Path | Config) -> Config:
    """Return the contents of a config.json.

    Args:
      who: Name of the function that got it, for messages.
      config: Path of the file or of its folder, or its contents as a dict.

    Raises:
      OSError: If the file is missing.
      TypeError: If it is neither a path nor a mapping.
      ValueError: If the model_type is not known.

    Example:
      >>> read_config("decoder_config", {"model_type": "gpt2"})
      {'model_type': 'gpt2'}
    """
    if isinstance(config, str | Path):
        path = Path(config)
        path = readable(who, path / "config.json" if path.is_dir() else path)
        try:
            config = json.loads(path.read_text())
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{who}: {path} is not JSON: {error}") from None
    if not isinstance(config, Mapping):
        raise TypeError(
            f"{who}: config must be the path of a config.json or its contents, got "
            f"{type(config).__name__}"
        )
    if config.get("model_type") not in FAMILIES:
        raise ValueError(
            f"{who}: model_type must be one of {', '.join(FAMILIES)}, got "
            f"{config.get('model_type')!r:.60}; write jn.models.decoder(...) with its options, and "
            "a table for jn.interop.by_names"
        )
    return config


def _llama(config: Config) -> dict[str, Any]:
    """Return the options that most families have."""
    biased = ("query", "key", "value", "out") if config.get("attention_bias") else ()
    return {
        "vocabulary": config["vocab_size"],
        "depth": config["num_hidden_layers"],
        "width": config["hidden_size"],
        "heads": config["num_attention_heads"],
        "kv_heads": config.get("num_key_value_heads"),
        "head_size": config.get("head_dim"),
        "mlp_features": config["intermediate_size"],
        "activation": _activation(config, "hidden_act", "silu"),
        "epsilon": config.get("rms_norm_eps", 1e-6),
        "use_bias": (*biased, "mlp") if config.get("mlp_bias") else biased,
        "rotary": _rotation(_rope(config)),
        "tied": config.get("tie_word_embeddings", False),
    }


def _mistral(config: Config) -> dict[str, Any]:
    return _llama(config) | {"window": _window(config)}


def _mixtral(config: Config) -> dict[str, Any]:
    return _mistral(config) | {
        "experts": config["num_local_experts"],
        "experts_per_token": config["num_experts_per_tok"],
    }


def _qwen2(config: Config) -> dict[str, Any]:
    window = _window(config) if config.get("use_sliding_window") else None
    kinds = _kinds(config)
    if kinds is None and window is not None:
        first = config.get("max_window_layers", 0)
        kinds = [i >= first for i in range(config["num_hidden_layers"])]
    options = {"window": window, "windowed": kinds or (True,)}
    return _llama(config) | options | {"use_bias": ("query", "key", "value")}


def _qwen3(config: Config) -> dict[str, Any]:
    own = {"use_bias": _llama(config)["use_bias"], "qk_norm": "head"}
    return _qwen2(config) | own


def _gemma2(config: Config) -> dict[str, Any]:
    kinds = _kinds(config) or [i % 2 == 0 for i in range(config["num_hidden_layers"])]
    return _llama(config) | {
        "activation": _activation(config, "hidden_activation", "gelu_pytorch_tanh"),
        "norm_at": "both",
        "head_size": config.get("head_dim", 256),
        "scale": config.get("query_pre_attn_scalar", 256) ** -0.5,
        "softcap": config.get("attn_logit_softcapping"),
        "logit_softcap": config.get("final_logit_softcapping"),
        "window": _window(config),
        "windowed": kinds,
        "embedding_scale": config["hidden_size"] ** 0.5,
        "tied": config.get("tie_word_embeddings", True),
    }


def _gemma3(config: Config) -> dict[str, Any]:
    every = config.get("sliding_window_pattern", 6)
    kinds = _kinds(config) or [(i + 1) % every > 0 for i in range(config["num_hidden_layers"])]
    near = _rope(config, "sliding_attention", config.get("rope_local_base_freq", 1e4))
    own = {"windowed": kinds, "qk_norm": "head", "local_rotary": _rotation(near)}
    return _gemma2(config) | own


def _olmo2(config: Config) -> dict[str, Any]:
    return _llama(config) | {"norm_at": "output", "qk_norm": "all"}


def _gpt2(config: Config) -> dict[str, Any]:
    width = config["n_embd"]
    return {
        "vocabulary": config["vocab_size"],
        "depth": config["n_layer"],
        "width": width,
        "heads": config["n_head"],
        "mlp_features": config.get("n_inner") or 4 * width,
        "activation": _activation(config, "activation_function", "gelu_new"),
        "gated": False,
        "norm": "layer",
        "epsilon": config.get("layer_norm_epsilon", 1e-5),
        "use_bias": True,
        "rotary": False,
        "max_length": config.get("n_positions", 1024),
        "tied": True,
    }


FAMILIES: dict[str, Callable[[Config], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "olmo2": _olmo2,
    "gpt2": _gpt2,
}


def _activation(config: Config, entry: str, default: str) -> Callable:
    name = config.get(entry) or default
    if name not in ACTIVATIONS:
        raise ValueError(
            f"decoder_config: {entry} must be one of {', '.join(ACTIVATIONS)}, got {name!r:.60}"
        )
    return ACTIVATIONS[name]


def _window(config: Config) -> tuple[int, int] | None:
    """Return the window without the query's own position, which the published number counts."""
    size = config.get("sliding_window")
    return None if size is None else (size - 1, 0)


def _kinds(config: Config) -> list[bool] | None:
    kinds = config.get("layer_types")
    return None if kinds is None else [kind == "sliding_attention" for kind in kinds]


def _rope(config: Config, kind: str = "full_attention", base: float | None = None) -> Config:
    """Return the options of the rotation; newer files store them in one entry, or one per layer
    kind."""
    found = config.get("rope_parameters")
    if found is not None:
        return found.get(kind, found)
    if base is not None:  # local layers are not scaled
        return {"rope_theta": base}
    return {"rope_theta": config.get("rope_theta", 1e4)} | (config.get("rope_scaling") or {})


def _rotation(rope: Config) -> Callable:
    kind = rope.get("rope_type", rope.get("type", "default"))
    factor = rope.get("factor", 1.0)
    if kind == "default":
        scaling = None
    elif kind == "linear":
        scaling = lambda angles: angles / factor  # noqa: E731
    elif kind == "llama3":
        scaling = partial(
            llama3_scaling,
            factor=factor,
            low=rope["low_freq_factor"],
            high=rope["high_freq_factor"],
            length=rope["original_max_position_embeddings"],
        )
    else:
        raise ValueError(
            f"decoder_config: rope_type must be default, linear or llama3, got {kind!r:.60}; give "
            "jn.models.decoder a rotary= function of your own"
        )
    share = rope.get("partial_rotary_factor")
    if share not in (None, 1.0):
        raise ValueError(
            "decoder_config: partial_rotary_factor is not read; write "
            "rotary=partial(jn.rotary, size=...) for jn.models.decoder"
        )
    return partial(turn, base=float(rope.get("rope_theta", 1e4)), scaling=scaling)
