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
from jaxnet.pretrained.rows import block_rows, dense_rows, norm_rows

HEADS = {
    "": "",
    "Model": "",
    "ForMaskedLM": "words",
    "ForPreTraining": "words",
    "ForTokenClassification": "tokens",
    "ForSequenceClassification": "texts",
}
CLASSES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "distilbert": "DistilBert",
}


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
    is_roberta = family in ("roberta", "xlm-roberta")
    norm = partial(jn.layer_norm, epsilon=epsilon)
    drop = jn.dropout(dropout_rate)
    words = jn.embedding(vocabulary, width, tied=head == "words", name="words")

    def encode(m, ids, mask=None, types=None):
        x = embedded(m, ids, mask, types)
        for i in range(depth):
            block = jn.transformer_block(
                heads,
                mlp_features,
                norm_at="sum",
                activation=activation,
                norm=norm,
                dropout_rate=dropout_rate,
                name=f"block_{i}",
            )
            x = m(block, x, mask=mask)
        return headed(m, x)

    def embedded(m, ids, mask, kinds):
        x = m(words, ids)
        if types:
            kinds = jnp.zeros_like(ids) if kinds is None else kinds
            x = x + m(jn.embedding(types, width, name="types"), kinds)
        places = _places(ids, mask, padding if is_roberta else None)
        x = x + m(jn.embedding(positions, width, name="positions"), places)
        return m(drop, m(norm(name="norm"), x))

    def headed(m, x):
        if head == "words":
            # RoBERTa has gelu here, whatever its blocks have.
            bend = ACTIVATIONS["gelu"] if is_roberta else activation
            x = bend(m(jn.dense(width, name="head"), x))
            x = m(norm(name="head_norm"), x)
            logits = m(words, x)  # the table, transposed
            return logits + m.param("head_bias", jn.initializers.zeros, (vocabulary,))
        if head == "texts":
            squash = jax.nn.relu if family == "distilbert" else jnp.tanh
            x = squash(m(jn.dense(width, name="pooled"), x[:, 0]))
        if not head:
            return x
        return m(jn.dense(labels, name="classes"), m(drop, x))

    return jn.compose(encode, name="encoder", kind="encoder")


def _places(ids: Any, mask: Any, padding: int | None) -> Any:
    """Return the position of each token in its sequence.

    Args:
      ids: Tokens (batch, time).
      mask: Mask of the attention; in packed rows, `jn.Segments`, positions count anew in each.
      padding: Token of padding; RoBERTa counts the others, from the number after it. None counts
        all, from 0.
    """
    if isinstance(mask, jn.Segments):
        places = mask.positions()
    else:
        places = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    if padding is None:
        return places
    is_word = (ids != padding).astype(ids.dtype)
    words = jnp.cumsum(is_word, axis=1)
    first = jnp.arange(ids.shape[1]) - places  # where the sequence of each token begins
    before = jnp.take_along_axis(words - is_word, first, axis=1)
    return (words - before) * is_word + padding


def options(config: Config) -> dict[str, Any]:
    """Return the options of `encoder`."""
    entries = config.entries
    theirs = {ours: entries[name] for ours, name in NAMES[config.family].items()}
    config.check_heads(theirs["width"], theirs["heads"])
    return theirs | {
        "activation": ACTIVATIONS[theirs["activation"]],
        "family": config.family,
        "types": entries.get("type_vocab_size", 0),
        "head": config.head(CLASSES[config.family], HEADS),
        "labels": config.labels(),
    }


def how_stored(config: Config, weights: Mapping[str, Any] | None) -> Stored:
    """Return how the weights of an encoder are stored: without a prefix if they have no head."""
    net_options, prefix = options(config), PREFIXES[config.family]
    if weights is None:
        return Stored(net_options, prefix if net_options["head"] else "")
    prefix = prefix_in(weights, prefix)
    unused = r"position_ids$|decoder\.(weight|bias)$|\.beta$"
    if net_options["head"] != "texts" or config.family != "bert":
        unused += r"|\bpooler\.dense\."
    if not net_options["head"]:
        unused += r"|\b(cls|lm_head|classifier|pre_classifier)\.|\bvocab_"
    leave = tuple(name for name in weights if re.search(unused, name))
    return Stored(net_options, prefix, leave)


def rows(config: Config, stored: Stored) -> Rows:
    """Return the table of the names of an encoder."""
    options, first = stored.options, stored.prefix
    layers, block = BERT, first + "encoder.layer.{i}"
    if config.family == "distilbert":
        layers, block = DISTIL, first + "transformer.layer.{i}"
    theirs = f"{first}embeddings"
    table: Rows = {
        "words/embedding": f"{theirs}.word_embeddings.weight",
        "positions/embedding": f"{theirs}.position_embeddings.weight",
        **norm_rows("norm", f"{theirs}.LayerNorm"),
        **block_rows("block_{i}", block, layers, options["width"], options["heads"]),
    }
    if options["types"]:
        table["types/embedding"] = f"{theirs}.token_type_embeddings.weight"
    return table | _head_rows(config.family, options["head"], first)


def _head_rows(family: str, head: str, first: str) -> Rows:
    if head == "words":
        dense, norm, bias = WORDS_HEAD[family]
        return dense_rows("head", dense) | norm_rows("head_norm", norm) | {"head_bias": bias}
    if head == "texts":
        pooled, classes = TEXTS_HEAD[family]
        if family == "bert":
            pooled = first + pooled
        return dense_rows("pooled", pooled) | dense_rows("classes", classes)
    return dense_rows("classes", "classifier") if head else {}


PREFIXES = {
    "bert": "bert.",
    "roberta": "roberta.",
    "xlm-roberta": "roberta.",
    "distilbert": "distilbert.",
}
# Names of the dense layer, the norm and the bias before the words.
ROBERTA_WORDS = "lm_head.dense", "lm_head.layer_norm", "lm_head.bias"
WORDS_HEAD = {
    "bert": (
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
    ),
    "roberta": ROBERTA_WORDS,
    "xlm-roberta": ROBERTA_WORDS,
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
}
# Names of the two dense layers for classes of texts.
ROBERTA_TEXTS = "classifier.dense", "classifier.out_proj"
TEXTS_HEAD = {
    "bert": ("pooler.dense", "classifier"),
    "roberta": ROBERTA_TEXTS,
    "xlm-roberta": ROBERTA_TEXTS,
    "distilbert": ("pre_classifier", "classifier"),
}
# Our layers of a block -> theirs.
BERT = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp_norm": "output.LayerNorm",
    "mlp_in": "intermediate.dense",
    "mlp_out": "output.dense",
}
DISTIL = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "out": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "mlp_norm": "output_layer_norm",
    "mlp_in": "ffn.lin1",
    "mlp_out": "ffn.lin2",
}
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
