"""Encoders of text: BERT, RoBERTa, XLM-RoBERTa, DistilBERT.

Their nets take token ids (batch, time), or (ids, mask) with a mask of lengths or of booleans as in
`jn.multi_head_attention`, or (ids, mask, types) with the segment of each token. The entry
`architectures` says which head a net has, and so what it returns: the features of each token
(batch, time, width) for a bare model; logits (batch, time, vocabulary) for masked words; logits
(batch, time, labels) for classes of tokens, (batch, labels) for classes of texts.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jaxnet as jn
from jaxnet.pretrained.config import ACTIVATIONS, Config, Family, Rows, Stored, prefix_in
from jaxnet.pretrained.rows import PARTS, block_rows, dense_rows, norm_rows

HEADS = {"": "", "Model": "", "ForMaskedLM": "words", "ForPreTraining": "words",
         "ForTokenClassification": "tokens", "ForSequenceClassification": "texts"}  # fmt: skip
CLASSES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta",
           "distilbert": "DistilBert"}  # fmt: skip


def encoder(
    vocabulary: int,
    *,
    family: str,
    depth: int,
    width: int,
    heads: int,
    mlp_features: int,
    positions: int,
    types: int,
    padding: int,
    epsilon: float,
    activation: Any,
    dropout_rate: float,
    head: str,
    labels: int,
) -> jn.Layer:
    """Make an encoder with a head, see the head of this file.

    Args:
      vocabulary: Number of tokens.
      family: The model_type.
      depth, width, heads, mlp_features: Sizes of the blocks.
      positions: Number of positions.
      types: Number of segments; 0 has no embedding of them.
      padding: Token of padding, after which RoBERTa counts positions.
      epsilon, activation, dropout_rate: Options of the blocks.
      head: "", "words", "tokens" or "texts".
      labels: Number of classes.
    """
    counted = family in ("roberta", "xlm-roberta")
    norm = partial(jn.layer_norm, epsilon=epsilon)
    drop = jn.dropout(dropout_rate)
    words = jn.embedding(vocabulary, width, tied=head == "words", name="words")

    def encode(m, given):
        parts: Any = given if isinstance(given, tuple | list) else (given,)
        ids, (mask, segments) = parts[0], (*parts[1:], None, None)[:2]
        x = m(words, ids)
        if types:
            at = jnp.zeros_like(ids) if segments is None else segments
            x = x + m(jn.embedding(types, width, name="types"), at)
        if counted:
            there = (ids != padding).astype(ids.dtype)
            at = jnp.cumsum(there, axis=1) * there + padding
        else:
            at = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
        x = x + m(jn.embedding(positions, width, name="positions"), at)
        x = m(drop, m(norm(name="norm"), x))
        for i in range(depth):
            block = jn.transformer_block(
                heads, mlp_features, norm_at="sum", activation=activation, norm=norm,
                dropout_rate=dropout_rate, name=f"block_{i}",
            )  # fmt: skip
            x = m(block, x) if mask is None else m(block, (x, mask))[0]
        return headed(m, x)

    def headed(m, x):
        if head == "words":
            bend = ACTIVATIONS["gelu"] if counted else activation  # RoBERTa's, whatever the blocks'
            x = m(norm(name="head_norm"), bend(m(jn.dense(width, name="head"), x)))
            logits = m(words, x)  # the table, transposed
            return logits + m.param("head_bias", jn.initializers.zeros, (vocabulary,))
        if head == "texts":
            squash = jax.nn.relu if family == "distilbert" else jnp.tanh
            x = squash(m(jn.dense(width, name="pooled"), x[:, 0]))
        return m(jn.dense(labels, name="classes"), m(drop, x)) if head else x

    return jn.compose(encode, name="encoder", kind="encoder")


def options(config: Config) -> dict[str, Any]:
    """Return the options of `encoder`."""
    given = config.entries
    theirs = {ours: given[name] for ours, name in NAMES[config.family].items()}
    config.check_heads(theirs["width"], theirs["heads"])
    return theirs | {
        "activation": ACTIVATIONS[theirs["activation"]],
        "family": config.family,
        "types": given.get("type_vocab_size", 0),
        "head": config.head(CLASSES[config.family], HEADS),
        "labels": config.labels(),
    }


def how_stored(config: Config, weights: Mapping[str, Any] | None) -> Stored:
    """Return how the weights of an encoder are stored: without a prefix if they have no head."""
    found, prefix = options(config), PREFIXES[config.family]
    if weights is None:
        return Stored(found, prefix if found["head"] else "")
    prefix = prefix_in(weights, prefix)
    unused = r"position_ids$|decoder\.(weight|bias)$|\.beta$"
    if found["head"] != "texts" or config.family != "bert":
        unused += r"|\bpooler\.dense\."
    if not found["head"]:
        unused += r"|\b(cls|lm_head|classifier|pre_classifier)\.|\bvocab_"
    return Stored(found, prefix, tuple(name for name in weights if re.search(unused, name)))


def rows(config: Config, stored: Stored) -> Rows:
    """Return the table of the names of an encoder."""
    o, first = stored.options, stored.prefix
    distil = config.family == "distilbert"
    e, block = f"{first}embeddings", first + ("transformer" if distil else "encoder") + ".layer.{i}"
    table: Rows = {
        "words/embedding": f"{e}.word_embeddings.weight",
        "positions/embedding": f"{e}.position_embeddings.weight",
        **({"types/embedding": f"{e}.token_type_embeddings.weight"} if o["types"] else {}),
        **norm_rows("norm", f"{e}.LayerNorm"),
        **block_rows("block_{i}", block, DISTIL if distil else BERT, o["width"], o["heads"]),
    }
    return table | _head_rows(config.family, o["head"], first)


def _head_rows(family: str, head: str, first: str) -> Rows:
    if head == "words":
        dense, norm, bias = {
            "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm",
                     "cls.predictions.bias"),
            "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
        }.get(family, ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"))  # fmt: skip
        return dense_rows("head", dense) | norm_rows("head_norm", norm) | {"head_bias": bias}
    if head == "texts":
        pooled, classes = {
            "bert": (f"{first}pooler.dense", "classifier"),
            "distilbert": ("pre_classifier", "classifier"),
        }.get(family, ("classifier.dense", "classifier.out_proj"))
        return dense_rows("pooled", pooled) | dense_rows("classes", classes)
    return dense_rows("classes", "classifier") if head else {}


PREFIXES = {"bert": "bert.", "roberta": "roberta.", "xlm-roberta": "roberta.",
            "distilbert": "distilbert."}  # fmt: skip
# Our layers of a block -> theirs.
BERT = {**{part: f"attention.self.{part}" for part in PARTS[:3]}, "out": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm", "mlp_norm": "output.LayerNorm",
        "mlp_in": "intermediate.dense", "mlp_out": "output.dense"}  # fmt: skip
DISTIL = {**{part: f"attention.{part[0]}_lin" for part in PARTS[:3]}, "out": "attention.out_lin",
          "attention_norm": "sa_layer_norm", "mlp_norm": "output_layer_norm",
          "mlp_in": "ffn.lin1", "mlp_out": "ffn.lin2"}  # fmt: skip
# Our options -> entries of the configuration.
BERT_NAMES = {
    "vocabulary": "vocab_size", "depth": "num_hidden_layers", "width": "hidden_size",
    "heads": "num_attention_heads", "mlp_features": "intermediate_size",
    "positions": "max_position_embeddings", "padding": "pad_token_id",
    "epsilon": "layer_norm_eps", "activation": "hidden_act", "dropout_rate": "hidden_dropout_prob",
}  # fmt: skip
DISTIL_NAMES = {
    "vocabulary": "vocab_size", "depth": "n_layers", "width": "dim", "heads": "n_heads",
    "mlp_features": "hidden_dim", "positions": "max_position_embeddings",
    "padding": "pad_token_id", "epsilon": "layer_norm_eps", "activation": "activation",
    "dropout_rate": "dropout",
}  # fmt: skip
NAMES = dict.fromkeys(("bert", "roberta", "xlm-roberta"), BERT_NAMES) | {"distilbert": DISTIL_NAMES}
DEFAULTS: dict[str, Any] = {
    "vocab_size": 30_522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}  # fmt: skip
ROBERTA = DEFAULTS | {"vocab_size": 50_265, "pad_token_id": 1}
DISTILBERT: dict[str, Any] = {
    "vocab_size": 30_522, "dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072,
    "activation": "gelu", "dropout": 0.1, "max_position_embeddings": 512, "pad_token_id": 0,
    "layer_norm_eps": 1e-12,
}  # fmt: skip
ONLY = {"position_embedding_type": "absolute", "is_decoder": False, "tie_word_embeddings": True}
IGNORED = ("attention_probs_dropout_prob", "classifier_dropout")
DISTIL_ONLY = {"sinusoidal_pos_embds": False, "tie_weights_": True, "tie_word_embeddings": True}
DISTIL_IGNORED = ("attention_dropout", "qa_dropout", "seq_classif_dropout")


def _family(defaults: dict[str, Any], only: dict[str, Any], ignored: tuple[str, ...]) -> Family:
    return Family(defaults, options, encoder, rows, how_stored, only, ignored)


FAMILIES: dict[str, Family] = {
    "bert": _family(DEFAULTS, ONLY, IGNORED),
    "roberta": _family(ROBERTA, ONLY, IGNORED),
    "xlm-roberta": _family(DEFAULTS | {"pad_token_id": 1}, ONLY, IGNORED),
    "distilbert": _family(DISTILBERT, DISTIL_ONLY, DISTIL_IGNORED),
}
