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
from jaxnet.pretrained.rows import attention_rows, dense_rows, norm_rows

ACTIVATIONS = {"relu": (jax.nn.relu, False), "gated-gelu": (jax.nn.gelu, True),
               "gated-silu": (jax.nn.silu, True)}  # fmt: skip


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

    def bucket(distance, both):
        half = buckets // 2 if both else buckets
        start = half * (distance > 0) if both else 0
        n = abs(distance) if both else jnp.maximum(-distance, 0)
        exact = half // 2
        grown = jnp.log(jnp.maximum(n, 1) / exact) / math.log(farthest / exact) * (half - exact)
        far = jnp.minimum(exact + grown.astype(jnp.int32), half - 1)
        return start + jnp.where(n < exact, n, far)

    def stack(name, depth, **options):
        causal = "causal" in options

        def forward(m, given):
            x, *beside = given
            table = m.param("table", jn.initializers.normal(1.0), (buckets, heads))

            def bias(at):
                queries, keys = at
                distance = keys[..., None, :] - queries[..., :, None]
                return jnp.moveaxis(table[bucket(distance, not causal)], -1, -3)

            for i in range(depth):
                block = jn.transformer_block(
                    heads, mlp_features, head_size=head_size, scale=1.0, bias=bias, gated=gated,
                    use_bias=False, norm=norm, activation=bend, dropout_rate=dropout_rate,
                    name=f"block_{i}", **options,
                )  # fmt: skip
                x = m(block, (x, *beside))[0] if beside else m(block, x)
            return m(norm(name="norm"), x)

        return jn.compose(forward, name=name)

    encoder = stack("encoder", encoder_depth)
    decoder = stack("decoder", decoder_depth, cross=True, causal=True)

    def forward(m, given):
        source, *mask, tokens = given
        memory = m.whole(encoder, (m.whole(words, source), *mask))
        x = m(decoder, (m(words, tokens), memory, *mask))
        x = x * width**-0.5 if scaled else x
        return m(words if tied else jn.dense(vocabulary, use_bias=False, name="head"), x)

    return jn.compose(forward, name="t5", kind="t5")


def options(config: Config) -> dict[str, Any]:
    """Return the options of `t5`."""
    given = config.entries
    if given["feed_forward_proj"] not in ACTIVATIONS:
        raise config.error(
            f"feed_forward_proj must be one of {', '.join(ACTIVATIONS)}, got "
            f"{given['feed_forward_proj']!r:.60}"
        )
    theirs = {ours: given[name] for ours, name in NAMES.items()}
    kind = theirs["activation"].rpartition("-")[2]
    derived = {"is_gated_act": ACTIVATIONS[theirs["activation"]][1],
               "dense_act_fn": {"gelu": "gelu_new"}.get(kind, kind)}  # fmt: skip
    for name, value in derived.items():
        if config.given.get(name, value) != value:
            raise config.error(f"{name} must be {value}, got {config.given[name]!r:.60}")
    # Version 1.1 does not scale, which older files say by an untied head, and mT5 never does.
    said = "scale_decoder_outputs" in config.given
    scaled = bool(given["scale_decoder_outputs"]) if said else theirs["tied"]
    return theirs | {
        "decoder_depth": given["num_decoder_layers"] or given["num_layers"],
        "scaled": scaled and config.family == "t5",
    }


def how_stored(config: Config, weights: Mapping[str, Any] | None) -> Stored:
    """Return how the weights are stored: some files have the table of the words several times."""
    found, head = options(config), "lm_head.weight"
    if weights is None:
        return Stored(found, "")
    found["tied"] = same = head not in weights or np.array_equal(weights[head], weights[WORDS])
    copies = [f"{part}.embed_tokens.weight" for part in ("encoder", "decoder")]
    return Stored(found, "", tuple(n for n in [*copies, *([head] if same else [])] if n in weights))


def rows(config: Config, stored: Stored) -> Rows:
    """Return the table of the names of T5."""
    o = stored.options
    gated = ACTIVATIONS[o["activation"]][1]
    table: Rows = {"words/embedding": WORDS}
    table |= {} if o["tied"] else dense_rows("head", "lm_head", use_bias=False)

    def attention(ours: str, theirs: str) -> Rows:
        names = {part: f"{theirs}.{part[0]}" for part in ("query", "key", "value", "out")}
        return attention_rows(ours, names, o["width"], o["heads"], (), o["head_size"])

    for part, last in (("encoder", 1), ("decoder", 2)):
        first = f"{part}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        table[f"{part}/table"] = first
        table |= norm_rows(f"{part}/norm", f"{part}.final_layer_norm", use_bias=False)
        ours, theirs = f"{part}/block_{{i}}", f"{part}.block.{{i}}.layer"
        table |= attention(f"{ours}/attention", f"{theirs}.0.SelfAttention")
        norms = {"attention_norm": 0, "mlp_norm": last}
        if part == "decoder":
            table |= attention(f"{ours}/cross_attention", f"{theirs}.1.EncDecAttention")
            norms["cross_norm"] = 1
        for name, place in norms.items():
            table |= norm_rows(f"{ours}/{name}", f"{theirs}.{place}.layer_norm", use_bias=False)
        dense = f"{theirs}.{last}.DenseReluDense"
        kernels = {"mlp_in": "wi_0", "mlp_gate": "wi_1"} if gated else {"mlp_in": "wi"}
        for name, of in (kernels | {"mlp_out": "wo"}).items():
            table |= dense_rows(f"{ours}/{name}", f"{dense}.{of}", use_bias=False)
    return table


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
IGNORED = ("initializer_factor", "classifier_dropout", "dense_act_fn", "is_gated_act",
           "n_positions", "output_past")  # fmt: skip
IDS = jn.spec((1, 1), jnp.int32)
FAMILIES: dict[str, Family] = {
    name: Family(entries, options, t5, rows, how_stored, ONLY, IGNORED, x=(IDS, IDS))
    for name, entries in (("t5", DEFAULTS), ("mt5", MT5))
}
