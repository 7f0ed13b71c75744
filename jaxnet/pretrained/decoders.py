"""Decoders: Llama, SmolLM, Mistral, Mixtral, Qwen, Gemma, OLMo, Phi, Granite, GPT-2 and gpt-oss."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnet import Layer, compose
from jaxnet import rotary as turn
from jaxnet.interop import invertible, part, shaped, transposed
from jaxnet.models.decoder import decoder
from jaxnet.pretrained import gpt_oss
from jaxnet.pretrained.config import (
    ACTIVATIONS,
    KIND,
    OTHERWISE,
    Config,
    Family,
    Rows,
    Stored,
    is_positive,
    without,
)

ROPE = (
    "rope_theta", "rope_type", "type", "factor", "low_freq_factor", "high_freq_factor",
    "original_max_position_embeddings", "partial_rotary_factor", "attention_factor", "beta_fast",
    "beta_slow", "mscale", "mscale_all_dim", "short_factor", "long_factor",
)  # fmt: skip
SCALINGS = "default", "linear", "dynamic", "yarn", "llama3", "longrope"
BY_KIND = "gemma3_text", "olmo3"  # whose entries of rotations are by kind of layer

# Ends of the names of buffers that older files have in addition to the weights.
BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")

# Beginnings and names of weights, of most families and of GPT-2.
PREFIXES = "model.", "transformer."
EMBEDDING = "embed_tokens.weight", "wte.weight"
HEAD = "lm_head.weight"
# The kernels of a block of `jn.models.decoder`, and their names in most families and in GPT-2.
LLAMA_NAMES = {
    f"attention/{ours}": f"self_attn.{ours[0]}_proj" for ours in ("query", "key", "value")
}
LLAMA_NAMES |= {"attention/out": "self_attn.o_proj", "mlp_in": "mlp.gate_proj"}
LLAMA_NAMES |= {"mlp_gate": "mlp.up_proj", "mlp_out": "mlp.down_proj"}
# Names of rows that are parts of one array in Phi: the queries, keys and values, and the MLP.
PHI3_NAMES = {name: "self_attn.qkv_proj" for name in ("query", "key", "value")}
PHI3_NAMES |= {"mlp_in": "mlp.gate_up_proj", "mlp_gate": "mlp.gate_up_proj"}
GPT2_NAMES = {"attention/out": "attn.c_proj", "mlp_in": "mlp.c_fc", "mlp_out": "mlp.c_proj"}

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


def _olmo3(config: Config) -> dict[str, Any]:
    near = [(i + 1) % 4 > 0 for i in range(config.entries["num_hidden_layers"])]
    own = {"local_rotary": _rotation(config, "sliding_attention")}
    return _olmo2(config) | _windows(config, near, _window(config)) | own


def _smollm3(config: Config) -> dict[str, Any]:
    given = config.entries
    window = _window(config) if given["use_sliding_window"] else None
    depth, every = given["num_hidden_layers"], given["no_rope_layer_interval"]
    turned = given["no_rope_layers"]
    turned = [(i + 1) % every for i in range(depth)] if turned is None else turned[:depth]
    if len(turned) < depth:
        raise config.error(f"no_rope_layers must have {depth} entries, got {len(turned)}")
    still = [not one for one in turned]
    near = _windows(config, [one and window is not None for one in still], window)["windowed"]
    if any(near) and near != still:
        raise config.error(
            "layer_types must be sliding_attention where no_rope_layers is 0, or nowhere; "
            f"{OTHERWISE}"
        )
    own = {"window": window if any(near) else None, "windowed": still, "local_rotary": False}
    return _llama(config) | own


def _granite(config: Config) -> dict[str, Any]:
    given = config.entries
    return _llama(config) | {
        "scale": given["attention_multiplier"],
        "embedding_scale": given["embedding_multiplier"],
        "residual_scale": given["residual_multiplier"],
        "logit_scale": 1 / given["logits_scaling"],
    }


def _qwen3_moe(config: Config) -> dict[str, Any]:
    given = config.entries
    if not given["norm_topk_prob"]:
        raise config.error(f"norm_topk_prob must be true; {OTHERWISE}")
    window = _window(config) if given["use_sliding_window"] else None
    own = {"mlp_features": given["moe_intermediate_size"], "qk_norm": "head", "window": window}
    return _mixtral(config) | own


def _gpt_oss(config: Config) -> dict[str, Any]:
    given = config.entries
    if given["rope_parameters"] is None:
        config = config._replace(entries=given | {"rope_parameters": GPT_OSS_ROPE})
    found, depth = _mixtral(config), given["num_hidden_layers"]
    sizes = found["mlp_features"], found.pop("experts"), found.pop("experts_per_token")
    clamped = {"alpha": given["swiglu_alpha"], "limit": given["swiglu_limit"]}
    near = _windows(config, [i % 2 == 0 for i in range(depth)], found["window"])
    return found | near | {"sinks": True, "mlp": gpt_oss.mixture(*sizes, **clamped)}


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
    most, first = given["max_position_embeddings"], given["original_max_position_embeddings"]
    if config.family not in BY_KIND:
        name, rope = ("rope_scaling", scaling) if scaling else ("rope_parameters", stored)
    else:  # local layers are not scaled
        if odd := [key for key in stored if key not in KIND]:
            raise config.error(f"rope_parameters may hold {' and '.join(KIND)}, got {odd[0]!r:.60}")
        name, rope, first = f"rope_parameters.{kind}", stored.get(kind) or {}, None
        if not isinstance(rope, dict):
            raise config.error(f"{name} must be an object, got {rope!r:.60}")
        rope = rope if near else rope | scaling
    known = ROPE if config.family in BY_KIND else (*ROPE, "truncate")
    if odd := [key for key in rope if key not in known]:
        raise config.error(f"the entry {odd[0]!r:.60} of {name} is unknown; {OTHERWISE}")
    how = rope.get("rope_type", rope.get("type", "default"))
    if config.family == "phi3" and how in ("su", "yarn"):  # its older names
        how = "longrope"
    if how not in SCALINGS:
        raise config.error(
            f"rope_type must be {', '.join(SCALINGS[:-1])} or {SCALINGS[-1]}, got {how!r:.60}; "
            "give jn.models.decoder a rotary= function of your own"
        )

    def number(entry: str, default: Any = None) -> Any:
        found = default if rope.get(entry) is None else rope[entry]
        if not is_positive(found):
            raise config.error(f"{entry} in {name} must be a positive number, got {found!r:.60}")
        return found

    share = number("partial_rotary_factor", given["partial_rotary_factor"] or 1)
    if share != 1 and config.family != "phi3":
        raise config.error(
            f"partial_rotary_factor must be 1, got {share}; write rotary=partial(jn.rotary, "
            "size=...) for jn.models.decoder"
        )
    head = given["head_dim"] or given["hidden_size"] // given["num_attention_heads"]
    if (size := int(head * share)) not in range(2, head + 1, 2):
        raise config.error(f"partial_rotary_factor must give an even size, got {size} of {head}")
    base = given.get("rope_local_base_freq" if near else "rope_theta", 5e5)  # OLMo 3 has one
    base = float(number("rope_theta", base))
    length = first or number("original_max_position_embeddings", most)
    rest: dict[str, Any] = {} if share == 1 else {"size": size}
    scaled = None
    if how == "linear":
        scaled = _divided(number("factor"))
    elif how == "dynamic":
        number("factor")
        rest["limit"] = most
    elif how == "yarn":
        scaled, rest["factor"] = _yarn(number, rope, base=base, size=size, length=length)
    elif how == "longrope":
        factors: list[Any] = [rope.get(entry) for entry in ("short_factor", "long_factor")]
        for found in factors:
            right = isinstance(found, list) and all(is_positive(one) for one in found)
            if not right or len(found) != size // 2:
                raise config.error(
                    f"short_factor and long_factor in {name} must be lists of {size // 2} positive "
                    f"numbers, got {found!r:.60}"
                )
        grown = max(math.log(number("factor", most / length)), 0) / math.log(max(length, 2))
        rest["factor"] = number("attention_factor", math.sqrt(1 + grown))
        scaled, rest["longer"] = map(_divided, factors)
        rest["limit"] = length
    elif how == "llama3":
        options = {
            "factor": number("factor"),
            "low": number("low_freq_factor"),
            "high": number("high_freq_factor"),
            "length": int(length),
        }
        if options["factor"] < 1 or options["high"] <= options["low"]:
            raise config.error(
                f"{name} must have a factor of at least 1 and a high_freq_factor above the "
                f"low_freq_factor, got {rope!r:.200}"
            )
        scaled = partial(_llama3_scaling, **options)
    return partial(_turned if rest else turn, base=base, scaling=scaled, **rest)


def _turned(x, positions, *, factor=1.0, limit=None, longer=None, **options):
    """Rotate queries or keys as `rotary`, and multiply the rotated features by a factor.

    Args:
      x, positions, options: As in `rotary`.
      factor: Factor of the rotated features.
      limit: Number of positions, beyond which it raises, or gives NaN inside a stream.
      longer: Scaling of longer sequences, which `_net` takes.
    """
    y = turn(x, positions, **options)
    if factor != 1:
        turned = np.arange(x.shape[-1]) < options.get("size", x.shape[-1])
        y = y * np.where(turned, factor, 1).astype(x.dtype)
    if limit is None:
        return y
    if not isinstance(positions, np.ndarray):
        return jnp.where((positions < limit)[..., None, None], y, jnp.nan)
    if positions.size > limit:
        count = f"got {positions.size:,}"
        if longer:
            count += " with these options; jn.pretrained.load makes a net for longer ones"
        raise ValueError(f"decoder: the model rotates up to {limit:,} positions, {count}")
    return y


def _net(**options: Any) -> Layer:
    """Return a decoder; with LongRoPE, the length of the sequence or the stream says which one."""
    rotary = options["rotary"]
    how = getattr(rotary, "keywords", {})
    if not how.get("longer"):
        return decoder(**options)

    def made(**own: Any) -> Layer:
        changed: dict[str, Any] = options | {"rotary": partial(rotary, limit=None, **own)}
        return decoder(**changed)

    short, long = made(), made(scaling=how["longer"])

    def forward(m, ids):
        time = (ids[0] if isinstance(ids, tuple) else ids).shape[1]
        length = time if m.stream is None else m.stream.length
        fits = isinstance(length, int) and length <= how["limit"]
        return m.inline(short if fits else long, ids)

    return compose(forward, name=short.name, kind=short.kind)


def _divided(by: Any) -> Callable:
    """Return a scaling that divides the angles by a number or by one for each."""
    return lambda angles: angles / np.asarray(by)


def _yarn(number: Callable, rope: Any, *, base: float, size: int, length: int) -> tuple:
    """Return the scaling of angles and the factor of the rotated features of YaRN.

    Args:
      number: Function that returns an entry of `rope`, or a default.
      rope: Entries of the rotation.
      base, size: Options of `rotary`.
      length: Longest sequence of the training before this scaling.

    Reference: Peng et al. 2023, "YaRN", and the code of transformers.
    """
    factor = number("factor")

    def grown(by: float) -> float:
        return 1 if factor <= 1 else 0.1 * by * math.log(factor) + 1

    usual = grown(1)
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        usual = grown(number("mscale")) / grown(number("mscale_all_dim"))

    turns = np.array([number("beta_fast", 32), number("beta_slow", 1)])
    low, high = size * np.log(length / (2 * np.pi * turns)) / (2 * math.log(base))
    if rope.get("truncate", True):
        low, high = np.floor(low), np.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    slowed = np.clip((np.arange(size // 2) - low) / ((high - low) or 0.001), 0, 1)
    return _divided(1 / (slowed / factor + 1 - slowed)), number("attention_factor", usual)


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


def rows(config: Config, stored: Stored) -> Rows:
    """Return the table of the names of a decoder."""
    options, first = stored.options, stored.prefix
    head: Rows = {} if options["tied"] else {"head/kernel": (HEAD, transposed)}
    if config.family == "gpt2":
        return _gpt2_rows(options["width"], options["heads"], first) | head
    if config.family == "gpt_oss":
        head |= gpt_oss.rows(first + "layers.{i}", stored.packed)
    return _llama_rows(options, first, config.family) | head


def how_stored(config: Config, weights: Mapping[str, Any] | None) -> Stored:
    """Return how the weights of a decoder are stored; raise if there are fewer layers."""
    options, gpt2 = FAMILIES[config.family].options(config), config.family == "gpt2"
    if weights is None:
        return Stored(options, PREFIXES[gpt2])
    # The first published files have no prefix.
    first = "" if gpt2 and EMBEDDING[1] in weights else PREFIXES[gpt2]
    layers = first + ("h" if gpt2 else "layers")
    if not any(name.startswith(f"{layers}.{options['depth'] - 1}.") for name in weights):
        raise config.error(
            f"says that there are {options['depth']:,} layers, but the weights have no entry "
            f"{layers}.{options['depth'] - 1}.…"
        )
    leave = [name for name in weights if name.endswith(BUFFERS)]
    words = first + EMBEDDING[gpt2]
    if HEAD in weights and words in weights and options["tied"]:
        # Whoever changed one of them, as by adding tokens, did not untie them in the config.
        if np.array_equal(weights[HEAD], weights[words]):
            leave.append(HEAD)
        else:
            options["tied"] = False
    packed = any(name.endswith("_blocks") for name in weights)
    return Stored(options, first, tuple(leave), packed=packed)


def _llama_rows(options: dict[str, Any], first: str, family: str) -> Rows:
    """Return the names of all models except GPT-2, limited to the chosen options."""
    heads, groups = options["heads"], options["kv_heads"] or options["heads"]
    size = options["head_size"] or options["width"] // heads
    biased, qk_norm, norm_at = options["use_bias"], options.get("qk_norm"), options.get("norm_at")
    block, gemma = first + "layers.{i}", family.startswith("gemma")
    joined = shaped(heads, size, options["width"], given=(-1, options["width"]))
    counts = {"query": heads, "key": groups, "value": groups}
    table: Rows = {"embedding/embedding": f"{first}embed_tokens.weight"}
    table["norm/scale"] = _scale(f"{first}norm.weight", gemma)
    for ours, theirs in LLAMA_NAMES.items():
        path, kind = f"block_{{i}}/{ours}", ours.rpartition("/")[2]
        fused = PHI3_NAMES.get(kind) if family == "phi3" else None
        name = f"{block}.{fused or theirs}"
        if (options.get("experts") or options.get("mlp")) and kind.startswith("mlp"):
            continue
        bias: Any = f"{name}.bias"
        if count := counts.get(kind):
            changes, bias = (_heads_of(count),), (bias, shaped(count, size, given=(-1,)))
        else:
            changes = (transposed, joined) if kind == "out" else (transposed,)
        if fused:
            changes = (_part_of(kind, heads, groups), *changes)
        table[f"{path}/kernel"] = (f"{name}.weight", *changes)
        if kind.partition("_")[0] in biased:
            table[f"{path}/bias"] = bias
        if qk_norm in ("head", "all") and kind in ("query", "key"):
            table[f"{path}_norm/scale"] = _scale(f"{name.replace('proj', 'norm')}.weight", gemma)
    if options.get("experts"):
        own, names = f"{block}.block_sparse_moe", ("w1", "w3", "w2")
        if family == "qwen3_moe":
            own, names = f"{block}.mlp", ("gate_proj", "up_proj", "down_proj")
        table["block_{i}/moe/router/kernel"] = (f"{own}.gate.weight", transposed)
        for ours, theirs in zip(("mlp_in", "mlp_gate", "mlp_out"), names, strict=True):
            name = own + ".experts.{j}." + theirs + ".weight"
            table[f"block_{{i}}/moe/experts/{ours}/kernel"] = (name, transposed)

    for ours, theirs in NORMS[norm_at or "input"].items():
        table[f"block_{{i}}/{ours}/scale"] = _scale(f"{block}.{theirs}_layernorm.weight", gemma)
    return table


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
        return part(int(kind == "mlp_gate"), 2, axis=0)
    first, count = {"query": (0, heads), "key": (heads, groups)}.get(kind, (heads + groups, groups))
    return part(range(first, first + count), heads + 2 * groups, axis=0)


def _heads_of(count: int) -> Any:
    """Convert from (heads * size, width) to (width, heads, size)."""
    return invertible(
        lambda a: np.reshape(np.transpose(a), (a.shape[1], count, -1)),
        lambda a: np.reshape(a, (len(a), a.size // len(a))).T,
    )


def _gpt2_rows(width: int, heads: int, first: str) -> Rows:
    """Return the names of GPT-2: kernels are (inputs, outputs), with queries, keys and values
    joined."""
    size, block = width // heads, first + "h.{i}"
    table: Rows = {"embedding/embedding": f"{first}wte.weight"}
    table["positions/embedding"] = f"{first}wpe.weight"
    norms = {"norm": f"{first}ln_f", "block_{i}/attention_norm": f"{block}.ln_1"}
    norms |= {"block_{i}/mlp_norm": f"{block}.ln_2"}
    for ours, theirs in norms.items():
        table |= {f"{ours}/scale": f"{theirs}.weight", f"{ours}/bias": f"{theirs}.bias"}
    for i, ours in enumerate(("query", "key", "value")):
        path = f"block_{{i}}/attention/{ours}"
        split = shaped(width, heads, size, given=(width, width))
        flat = shaped(heads, size, given=(width,))
        table[f"{path}/kernel"] = (f"{block}.attn.c_attn.weight", part(i, 3), split)
        table[f"{path}/bias"] = (f"{block}.attn.c_attn.bias", part(i, 3), flat)
    joined = shaped(heads, size, width, given=(width, width))
    for ours, theirs in GPT2_NAMES.items():
        name = f"{block}.{theirs}.weight"
        table[f"block_{{i}}/{ours}/kernel"] = (name, joined) if ours == "attention/out" else name
        table[f"block_{{i}}/{ours}/bias"] = f"{block}.{theirs}.bias"
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
OLMO = LLAMA | {"vocab_size": 50_304, "rms_norm_eps": 1e-5}
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
GRANITE = LLAMA | {"mlp_bias": False} | dict.fromkeys(
    ["embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier"], 1.0
)  # fmt: skip
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
GPT_OSS_ROPE = {"rope_type": "yarn", "factor": 32.0, "truncate": False,
                "original_max_position_embeddings": 4096}  # fmt: skip
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


def _decoder(defaults: dict[str, Any], options: Callable, *rest: Any) -> Family:
    return Family(defaults, options, _net, rows, how_stored, *rest)


FAMILIES: dict[str, Family] = {  # model_type -> family
    "llama": _decoder(
        LLAMA | {"mlp_bias": False}, _llama, {"rope_interleaved": False}, ("is_llama_config",)
    ),
    "mistral": _decoder(MISTRAL, _mistral, BIAS),
    "mixtral": _decoder(
        MISTRAL | {"rms_norm_eps": 1e-5, "sliding_window": None, "rope_theta": 1e6}
        | {"num_local_experts": 8, "num_experts_per_tok": 2},
        _mixtral, BIAS, ROUTER, {"num_experts": "num_local_experts"},
    ),
    "qwen2": _decoder(without(QWEN, "attention_bias"), _qwen2, {"use_mrope": False}),
    "qwen3": _decoder(QWEN | {"head_dim": 128}, _qwen3),
    "gemma2": _decoder(GEMMA, _gemma2, CAUSAL, ("hidden_act",)),
    "gemma3_text": _decoder(
        GEMMA | {"final_logit_softcapping": None, "attn_logit_softcapping": None}
        | {"vocab_size": 262_208, "max_position_embeddings": 131_072, "rope_theta": 1e6}
        | {"rope_local_base_freq": 1e4, "sliding_window_pattern": 6},
        _gemma3, CAUSAL, ("hidden_act", "_sliding_window_pattern"),
    ),
    "olmo2": _decoder(OLMO, _olmo2),
    "olmo3": _decoder(
        without(OLMO, "rope_theta") | {"sliding_window": 4096, "layer_types": None},
        _olmo3, {"rope_theta": 500_000},
    ),
    "phi3": _decoder(
        PHI3, _mistral,
        BIAS | {"lm_head_bias": False, "full_attn_mod": 1, "interpolate_factor": 1},
        ("resid_pdrop", "embd_pdrop", "auto_map"),
    ),
    "smollm3": _decoder(SMOLLM3, _smollm3, {}, ("max_window_layers",)),
    "granite": _decoder(GRANITE, _granite),
    "qwen3_moe": _decoder(
        QWEN3_MOE, _qwen3_moe, {"decoder_sparse_step": 1, "mlp_only_layers": []},
        (*ROUTER, "max_window_layers"), {"num_experts": "num_local_experts"},
    ),
    "gpt_oss": _decoder(
        GPT_OSS, _gpt_oss, {}, (*ROUTER, "experts_per_token", "initial_context_length"),
        {"num_experts": "num_local_experts"},
    ),
    "gpt2": _decoder(
        GPT2, _gpt2, {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
        ("n_ctx", "resid_pdrop", "embd_pdrop", "attn_pdrop", "reorder_and_upcast_attn",
         "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels",
         "summary_first_dropout"),
        GPT2_ALIASES,
    ),
}  # fmt: skip
