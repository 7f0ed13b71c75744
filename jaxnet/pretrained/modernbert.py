"""ModernBERT: an encoder of text with rotary positions, most of whose layers see near tokens alone.

Its nets take token ids (batch, time), or (ids, mask) with a mask of lengths or of booleans as in
`jn.multi_head_attention`, and return what the other encoders of text return; see encoders.py.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp

import jaxnet as jn
from jaxnet.pretrained.config import (
    ACTIVATIONS,
    KIND,
    Config,
    Family,
    Rows,
    Stored,
    is_positive,
    prefix_in,
)
from jaxnet.pretrained.rows import (
    PARTS,
    QUERY_KEY_VALUE,
    attention_rows,
    dense_rows,
    norm_rows,
    packed_rows,
)

FULL, SLIDING = KIND
HEADS = {
    "": "",
    "Model": "",
    "ForMaskedLM": "words",
    "ForTokenClassification": "tokens",
    "ForSequenceClassification": "texts",
}


def modernbert(
    vocabulary: int,
    *,
    width: int,
    heads: int,
    mlp_features: int,
    windows: Sequence[int | None],
    bases: Sequence[float],
    epsilon: float,
    activation: Any,
    biased: Collection[str],
    head: str,
    labels: int,
    pooling: str,
    bend: Any,
) -> jn.Layer:
    """Make a ModernBERT with a head.

    Args:
      vocabulary: Number of tokens.
      width, heads, mlp_features: Sizes of the blocks.
      windows: Of each block, how far to each side a token sees; None is any distance.
      bases: Of each block, the base of its rotations.
      epsilon, activation: Options of the blocks.
      biased: What has biases, among "norm", "attention", "mlp", "head" and "words".
      head: "", "words", "tokens" or "texts".
      labels: Number of classes.
      pooling: Whether the head for texts gets the first token, "cls", or the "mean" of all.
      bend: Activation of the head.
    """
    norm = partial(jn.layer_norm, epsilon=epsilon, use_bias="norm" in biased)
    words = jn.embedding(vocabulary, width, tied=head == "words", name="words")
    use_bias = [*PARTS] if "attention" in biased else []
    if "mlp" in biased:
        use_bias.append("mlp")

    def norm_of_first(name: str) -> Any:
        """Make the norms of the first block, which has none before the attention."""
        return (lambda x: x) if name == "attention_norm" else norm(name=name)

    def encode(m, ids, mask=None):
        x = m(norm(name="norm"), m(words, ids))
        for i, (window, base) in enumerate(zip(windows, bases, strict=True)):
            block = jn.transformer_block(
                heads,
                mlp_features,
                window=None if window is None else (window, window),
                rotary=partial(jn.rotary, base=base),
                gated=True,
                activation=activation,
                norm=norm if i else norm_of_first,
                use_bias=use_bias,
                name=f"block_{i}",
            )
            x = m(block, x, mask=mask)
        return headed(m, m(norm(name="last_norm"), x), mask)

    def headed(m, x, mask):
        if not head:
            return x
        if head == "texts":
            x = x[:, 0] if pooling == "cls" else mean(x, mask)
        x = bend(m(jn.dense(width, use_bias="head" in biased, name="head"), x))
        x = m(norm(name="head_norm"), x)
        if head != "words":
            return m(jn.dense(labels, name="classes"), x)
        logits = m(words, x)  # the table, transposed
        if "words" not in biased:
            return logits
        return logits + m.param("head_bias", jn.initializers.zeros, (vocabulary,))

    return jn.compose(encode, name="encoder", kind="encoder")


def mean(x, mask):
    """Return the mean of the tokens that count by a mask of lengths or of padding."""
    if mask is None:
        return x.mean(1)
    inside = mask != 0
    if mask.ndim == 1:  # lengths
        inside = jnp.arange(x.shape[1]) < mask[:, None]
    return x.mean(1, where=inside[..., None])


def options(config: Config) -> dict[str, Any]:
    """Return the options of `modernbert`."""
    entries = config.entries
    theirs = {ours: entries[name] for ours, name in NAMES.items()}
    config.check_heads(theirs["width"], theirs["heads"])
    if theirs["width"] // theirs["heads"] % 2:
        raise config.error("the rotations need heads of an even size, hidden_size / heads")
    depth, every = entries["num_hidden_layers"], entries["global_attn_every_n_layers"]
    kinds = entries["layer_types"]
    if kinds is None:
        kinds = [SLIDING if i % every else FULL for i in range(depth)]
    if len(kinds) != depth:
        raise config.error(f"layer_types must have {depth} entries, got {len(kinds)}")
    near, bases = entries["local_attention"] // 2, _bases(config)
    return {
        **theirs,
        "windows": [near if kind == SLIDING else None for kind in kinds],
        "bases": [bases[kind] for kind in kinds],
        "activation": ACTIVATIONS[entries["hidden_activation"]],
        "bend": ACTIVATIONS[entries["classifier_activation"]],
        "biased": [ours for ours, name in BIASES.items() if entries[name]],
        "head": config.head("ModernBert", HEADS),
        "labels": config.labels(),
    }


def _bases(config: Config) -> dict[str, float]:
    """Return the base of the rotations of each kind of layer."""
    rope_parameters = config.entries["rope_parameters"] or {}
    older = {FULL: "global_rope_theta", SLIDING: "local_rope_theta"}
    bases = {}
    for kind in KIND:
        rope = rope_parameters.get(kind) or {}
        if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
            raise config.error(f"rope_parameters must be of the type default, got {rope!r:.60}")
        bases[kind] = rope.get("rope_theta", config.entries[older[kind]])
        if not is_positive(bases[kind]) or set(rope) - {"rope_theta", "rope_type"}:
            raise config.error(f"rope_parameters must have a rope_theta alone, got {rope!r:.60}")
    if more := set(rope_parameters) - set(KIND):
        raise config.error(f"rope_parameters must be of {' and '.join(KIND)}, got {sorted(more)}")
    return bases


def how_stored(config: Config, weights: Mapping[str, Any] | None) -> Stored:
    """Return how the weights are stored: without a prefix if they have no head."""
    net_options = options(config)
    if weights is None:
        return Stored(net_options, "model." if net_options["head"] else "")
    unused = r"^decoder\.weight$"
    if not net_options["head"]:
        unused += r"|^(head|decoder|classifier)\."
    leave = tuple(name for name in weights if re.search(unused, name))
    return Stored(net_options, prefix_in(weights, "model."), leave)


def rows(config: Config, stored: Stored) -> Rows:
    """Return the table of the names."""
    options, first = stored.options, stored.prefix
    biased, head = options["biased"], options["head"]
    norm_with_bias = partial(norm_rows, use_bias="norm" in biased)
    table: Rows = {
        "words/embedding": f"{first}embeddings.tok_embeddings.weight",
        **norm_with_bias("norm", f"{first}embeddings.norm"),
        **norm_with_bias("last_norm", f"{first}final_norm"),
        **norm_with_bias("block_{i}/attention_norm", first + "layers.{i}.attn_norm"),
        **norm_with_bias("block_{i}/mlp_norm", first + "layers.{i}.mlp_norm"),
        **_attention_rows("block_{i}/attention", first + "layers.{i}.attn", options),
        **_mlp_rows("block_{i}", first + "layers.{i}.mlp", use_bias="mlp" in biased),
    }
    if head:
        table |= dense_rows("head", "head.dense", use_bias="head" in biased)
        table |= norm_with_bias("head_norm", "head.norm")
    if head in ("tokens", "texts"):
        table |= dense_rows("classes", "classifier")
    if head == "words" and "words" in biased:
        table["head_bias"] = "decoder.bias"
    return table


def _attention_rows(ours: str, theirs: str, options: Mapping[str, Any]) -> Rows:
    """Return the rows of attention, whose queries, keys and values are one array."""
    width, heads = options["width"], options["heads"]
    biased = PARTS if "attention" in options["biased"] else ()
    joined = [
        attention_rows(ours, {kind: f"{theirs}.Wqkv"}, width, heads, biased)
        for kind in QUERY_KEY_VALUE
    ]
    out = attention_rows(ours, {"out": f"{theirs}.Wo"}, width, heads, biased)
    return packed_rows(*joined) | out


def _mlp_rows(ours: str, theirs: str, use_bias: bool) -> Rows:
    """Return the rows of a gated MLP, whose first two layers are one array."""
    joined = packed_rows(
        dense_rows(f"{ours}/mlp_in", f"{theirs}.Wi", use_bias),
        dense_rows(f"{ours}/mlp_gate", f"{theirs}.Wi", use_bias),
    )
    return joined | dense_rows(f"{ours}/mlp_out", f"{theirs}.Wo", use_bias)


# Our options -> entries of the configuration.
NAMES = {
    "vocabulary": "vocab_size", "width": "hidden_size", "heads": "num_attention_heads",
    "mlp_features": "intermediate_size", "epsilon": "norm_eps", "pooling": "classifier_pooling",
}  # fmt: skip
BIASES = {
    "norm": "norm_bias",
    "attention": "attention_bias",
    "mlp": "mlp_bias",
    "head": "classifier_bias",
    "words": "decoder_bias",
}
DEFAULTS: dict[str, Any] = {
    "vocab_size": 50_368, "hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22,
    "num_attention_heads": 12, "hidden_activation": "gelu", "norm_eps": 1e-5, "norm_bias": False,
    "attention_bias": False, "layer_types": None, "rope_parameters": None, "local_attention": 128,
    "global_attn_every_n_layers": 3, "global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0,
    "mlp_bias": False, "decoder_bias": True, "classifier_pooling": "cls", "classifier_bias": False,
    "classifier_activation": "gelu",
}  # fmt: skip
IGNORED = (
    "embedding_dropout", "mlp_dropout", "classifier_dropout", "sparse_prediction",
    "sparse_pred_ignore_index", "deterministic_flash_attn", "initializer_cutoff_factor",
    "max_position_embeddings", "reference_compile", "repad_logits_with_grad", "cls_token_id",
    "layer_norm_eps", "position_embedding_type",
)  # fmt: skip
FAMILIES: dict[str, Family] = {
    "modernbert": Family(
        DEFAULTS, options, modernbert, rows, how_stored, {"tie_word_embeddings": True}, IGNORED
    )
}
