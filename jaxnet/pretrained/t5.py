"""T5: version 1.1, Flan-T5 and mT5 as well.

The net takes (source, tokens), or (source, mask, tokens) with a mask of lengths or of booleans, and
returns the logits of the next tokens; `jn.decoding.generate` takes the source as `inputs`. The
tables of distances are params of the encoder and of the decoder, which all their blocks share.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from jaxnet.pretrained.config import Config, Family, Rows, Stored
from jaxnet.pretrained.rows import PARTS, attention_rows, dense_rows, norm_rows

# The activation, and whether the MLP is gated.
ACTIVATIONS = {
    "relu": (jax.nn.relu, False),
    "gated-gelu": (jax.nn.gelu, True),
    "gated-silu": (jax.nn.silu, True),
}


def t5(
    vocabulary: int,
    *,
    width: int,
    head_size: int,
    mlp_features: int,
    encoder_depth: int,
    decoder_depth: int,
    heads: int,
    buckets: int,
    farthest: int,
    epsilon: float,
    dropout_rate: float,
    activation: str,
    tied: bool,
    scaled: bool,
) -> jn.Layer:
    """Make an encoder and a decoder, see the head of this file.

    Args:
      vocabulary: Number of tokens.
      width, head_size, mlp_features, encoder_depth, decoder_depth, heads: Sizes.
      buckets: Number of ranges of distances, each with a bias per head.
      farthest: Distance from which all are in the last range.
      epsilon, dropout_rate: Options of the blocks.
      activation: "relu", "gated-gelu" or "gated-silu".
      tied: Whether the logits use the table of the words.
      scaled: Whether the outputs are divided by sqrt(width) before.
    """
    bend, gated = ACTIVATIONS[activation]
    norm = partial(jn.rms_norm, epsilon=epsilon)
    words = jn.embedding(vocabulary, width, tied=tied, name="words")

    def stack(name, depth, causal):
        def forward(m, x, mask=None, memory=None, memory_mask=None):
            table = m.param("table", jn.initializers.normal(1.0), (buckets, heads))

            def bias(places):
                queries, keys = places
                distances = keys[..., None, :] - queries[..., :, None]
                ranges = _buckets(distances, buckets, farthest, causal)
                return jnp.moveaxis(table[ranges], -1, -3)

            for i in range(depth):
                block = jn.transformer_block(
                    heads,
                    mlp_features,
                    head_size=head_size,
                    scale=1.0,
                    bias=bias,
                    cross=causal,
                    causal=causal,
                    gated=gated,
                    use_bias=False,
                    norm=norm,
                    activation=bend,
                    dropout_rate=dropout_rate,
                    name=f"block_{i}",
                )
                x = m(block, x, mask=mask, memory=memory, memory_mask=memory_mask)
            return m(norm(name="norm"), x)

        return jn.compose(forward, name=name)

    encoder = stack("encoder", encoder_depth, causal=False)
    decoder = stack("decoder", decoder_depth, causal=True)

    def forward(m, inputs):
        source, *masks, tokens = inputs
        mask = masks[0] if masks else None
        memory = m.whole(encoder, (m.whole(words, source), mask))
        x = m(decoder, m(words, tokens), memory=memory, memory_mask=mask)
        if scaled:
            x = x * width**-0.5
        return m(words if tied else jn.dense(vocabulary, use_bias=False, name="head"), x)

    return jn.compose(forward, name="t5", kind="t5")


def _buckets(distances: Any, buckets: int, farthest: int, causal: bool) -> Any:
    """Return the range of each distance; ranges are of one position first, then wider and wider.

    Args:
      distances: Positions of keys minus positions of queries.
      buckets, farthest: Options of `t5`.
      causal: Whether keys after a query are not seen; else half of the ranges are theirs.
    """
    if causal:
        count, start = buckets, 0
        n = jnp.maximum(-distances, 0)
    else:
        count = buckets // 2
        start = count * (distances > 0)
        n = abs(distances)
    exact = count // 2
    scale = math.log(farthest / exact)
    grown = jnp.log(jnp.maximum(n, 1) / exact) / scale * (count - exact)
    far = jnp.minimum(exact + grown.astype(jnp.int32), count - 1)
    return start + jnp.where(n < exact, n, far)


def options(config: Config) -> dict[str, Any]:
    """Return the options of `t5`."""
    entries = config.entries
    if entries["feed_forward_proj"] not in ACTIVATIONS:
        raise config.error(
            f"feed_forward_proj must be one of {', '.join(ACTIVATIONS)}, got "
            f"{entries['feed_forward_proj']!r:.60}"
        )
    theirs = {ours: entries[name] for ours, name in NAMES.items()}
    _, gated = ACTIVATIONS[theirs["activation"]]
    kind = theirs["activation"].removeprefix("gated-")
    derived = {"is_gated_act": gated, "dense_act_fn": "gelu_new" if kind == "gelu" else kind}
    for name, value in derived.items():
        if config.raw.get(name, value) != value:
            raise config.error(f"{name} must be {value}, got {config.raw[name]!r:.60}")
    # Version 1.1 does not scale, which older files say by an untied head, and mT5 never does.
    scaled = theirs["tied"]
    if "scale_decoder_outputs" in config.raw:
        scaled = bool(entries["scale_decoder_outputs"])
    return theirs | {
        "decoder_depth": entries["num_decoder_layers"] or entries["num_layers"],
        "scaled": scaled and config.family == "t5",
    }


def how_stored(config: Config, weights: Mapping[str, Any] | None) -> Stored:
    """Return how the weights are stored: some files have the table of the words several times."""
    net_options, head = options(config), "lm_head.weight"
    if weights is None:
        return Stored(net_options, "")
    net_options["tied"] = head not in weights or np.array_equal(weights[head], weights[WORDS])
    copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    if net_options["tied"]:
        copies.append(head)
    leave = tuple(name for name in copies if name in weights)
    return Stored(net_options, "", leave)


def rows(config: Config, stored: Stored) -> Rows:
    """Return the table of the names of T5."""
    options = stored.options
    table: Rows = {"words/embedding": WORDS}
    if not options["tied"]:
        table |= dense_rows("head", "lm_head", use_bias=False)
    for part in ("encoder", "decoder"):
        first = f"{part}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        table[f"{part}/table"] = first
        table |= norm_rows(f"{part}/norm", f"{part}.final_layer_norm", use_bias=False)
        table |= _block_rows(part, options)
    return table


def _block_rows(part: str, options: Mapping[str, Any]) -> Rows:
    """Return the rows of a block of the encoder or the decoder."""
    ours, theirs = f"{part}/block_{{i}}", f"{part}.block.{{i}}.layer"
    table = _attention_rows(f"{ours}/attention", f"{theirs}.0.SelfAttention", options)
    norms = {"attention_norm": 0, "mlp_norm": 1}  # places among their layers
    if part == "decoder":
        table |= _attention_rows(f"{ours}/cross_attention", f"{theirs}.1.EncDecAttention", options)
        norms = {"attention_norm": 0, "cross_norm": 1, "mlp_norm": 2}
    for name, place in norms.items():
        table |= norm_rows(f"{ours}/{name}", f"{theirs}.{place}.layer_norm", use_bias=False)
    _, gated = ACTIVATIONS[options["activation"]]
    kernels = {"mlp_in": "wi", "mlp_out": "wo"}
    if gated:
        kernels = {"mlp_in": "wi_0", "mlp_gate": "wi_1", "mlp_out": "wo"}
    mlp = f"{theirs}.{norms['mlp_norm']}.DenseReluDense"
    for name, kernel in kernels.items():
        table |= dense_rows(f"{ours}/{name}", f"{mlp}.{kernel}", use_bias=False)
    return table


def _attention_rows(ours: str, theirs: str, options: Mapping[str, Any]) -> Rows:
    names = {part: f"{theirs}.{part[0]}" for part in PARTS}
    width, heads, size = options["width"], options["heads"], options["head_size"]
    return attention_rows(ours, names, width, heads, biased=(), size=size)


WORDS = "shared.weight"
# Our options -> entries of the configuration.
NAMES = {
    "vocabulary": "vocab_size", "width": "d_model", "head_size": "d_kv", "mlp_features": "d_ff",
    "encoder_depth": "num_layers", "heads": "num_heads",
    "buckets": "relative_attention_num_buckets", "farthest": "relative_attention_max_distance",
    "epsilon": "layer_norm_epsilon", "dropout_rate": "dropout_rate",
    "activation": "feed_forward_proj", "tied": "tie_word_embeddings",
}  # fmt: skip
DEFAULTS: dict[str, Any] = {
    "vocab_size": 32_128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6,
    "num_decoder_layers": None, "num_heads": 8, "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6, "dropout_rate": 0.1,
    "feed_forward_proj": "relu", "tie_word_embeddings": True, "scale_decoder_outputs": None,
}  # fmt: skip
MT5 = DEFAULTS | {
    "vocab_size": 250_112, "num_heads": 6, "d_ff": 1024, "num_layers": 8,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
}  # fmt: skip
ONLY = {"is_encoder_decoder": True}
IGNORED = (
    "initializer_factor", "classifier_dropout", "dense_act_fn", "is_gated_act", "n_positions",
    "output_past",
)  # fmt: skip
IDS = jn.spec((1, 1), jnp.int32)
FAMILIES: dict[str, Family] = {
    name: Family(entries, options, t5, rows, how_stored, ONLY, IGNORED, x=(IDS, IDS))
    for name, entries in (("t5", DEFAULTS), ("mt5", MT5))
}
