"""The transformer for translation: an encoder, and a decoder that attends to it."""

import math
from typing import Any, NamedTuple

from jaxnet.core import Layer, compose
from jaxnet.layers.attention import attention_cache, precompute_kv
from jaxnet.layers.dropout import dropout
from jaxnet.layers.embedding import embedding, sinusoidal_positions
from jaxnet.layers.norm import layer_norm
from jaxnet.layers.transformer import transformer_block
from jaxnet.models.rnnsearch import Start, Step, sentences
from jaxnet.services.checks import at_least, within


def translation_transformer(
    source_vocabulary: int,
    target_vocabulary: int,
    *,
    layers: int = 6,
    features: int = 512,
    heads: int = 8,
    mlp_features: int = 2048,
    dropout_rate: float = 0.1,
    name: str = "translation_transformer",
) -> Layer:
    """Encoder and decoder of transformer blocks, trained with teacher forcing.

    The blocks are `jaxnet.transformer_block`: pre-norm (the paper's are post-norm) with a norm
    after the last one, and GELU instead of ReLU. Positions are sinusoidal, so sentences may have
    any length. The decoder's embedding table also gives the logits.

    Args:
      source_vocabulary, target_vocabulary: numbers of ids.
      layers: number of blocks in the encoder and in the decoder, at least 1.
      features: width of the embeddings, even, and a multiple of heads.
      heads: number of heads of each attention.
      mlp_features: width of the hidden layers.
      dropout_rate: for the embeddings, the weights of the attention, and each residual branch, in
        [0, 1).
      name: of the model.

    Input: (source, lengths, target), and output: logits, as in `rnnsearch`.

    Params:
      encoder: embedding, block_1, ..., norm; decoder: the same.

    Raises:
      ValueError: for layers below 1, sizes that do not divide, and in training with dropout without
        a key.

    Example:
      >>> net = translation_transformer(11, 13, layers=2, features=8, heads=2, mlp_features=16)
      >>> source, lengths = jnp.ones((2, 6), int), jnp.array([6, 4])
      >>> target = jnp.ones((2, 7), int)
      >>> params, state = net.init(jax.random.key(0), (source, lengths, target))
      >>> logits, _ = net.apply(params, state, (source, lengths, target))
      >>> logits.shape
      (2, 7, 13)

    Reference: Vaswani et al. 2017, "Attention Is All You Need".
    """
    parts = _parts(
        source_vocabulary,
        target_vocabulary,
        layers=layers,
        features=features,
        heads=heads,
        mlp_features=mlp_features,
        dropout_rate=dropout_rate,
    )

    def forward(m, given):
        source, lengths, target = sentences(given, name)
        memory = m(parts.encoder, (source, lengths))
        return m(parts.decoder, (target, memory, lengths))

    return compose(forward, name=name, kind="translation_transformer")


def translation_transformer_steps(
    source_vocabulary: int, target_vocabulary: int, *, length: int, **sizes: Any
) -> tuple[Start, Step]:
    """`translation_transformer` step by step with the same params, for `jaxnet.decoding`.

    Args:
      source_vocabulary, target_vocabulary: numbers of ids.
      length: the largest number of steps. Another step gives logits of NaN.
      sizes: the other arguments of `translation_transformer`, with the values used there.

    Returns:
      start: (params, source, lengths) -> carry, which runs the encoder. Its entries have the batch
        axis first: lengths, and per block the cache and the projected memory.
      step: (params, carry, tokens) -> (carry, logits), tokens (batch,), without dropout.

    Example:
      >>> sizes = dict(layers=2, features=8, heads=2, mlp_features=16)
      >>> source, lengths = jnp.ones((2, 6), int), jnp.array([6, 4])
      >>> given = source, lengths, jnp.ones((2, 7), int)
      >>> params, _ = translation_transformer(11, 13, **sizes).init(jax.random.key(0), given)
      >>> start, step = translation_transformer_steps(11, 13, length=9, **sizes)
      >>> carry, logits = step(params, start(params, source, lengths), jnp.ones(2, int))
      >>> logits.shape, carry["caches"]["block_2"]["index"].tolist()
      ((2, 13), [1, 1])
    """
    parts = _parts(source_vocabulary, target_vocabulary, **sizes)

    def start(params, source, lengths):
        memory, _ = parts.encoder.apply(params["encoder"], {}, (source, lengths))
        batch, _, features = memory.shape
        heads = parts.heads
        blocks = {name: p for name, p in params["decoder"].items() if name.startswith("block_")}
        memories = {name: precompute_kv(p["cross_attention"], memory) for name, p in blocks.items()}
        empty = attention_cache(
            batch, length, heads=heads, head_size=features // heads, dtype=memory.dtype
        )
        return {"memories": memories, "lengths": lengths, "caches": dict.fromkeys(blocks, empty)}

    def step(params, carry, tokens):
        return parts.step.apply(params["decoder"], {}, (carry, tokens))[0]

    return start, step


class _Parts(NamedTuple):
    """Layers shared by the model and its steps.

    Fields:
      encoder: (source, lengths) -> memory.
      decoder: (target, memory, lengths) -> logits.
      step: (carry, tokens) -> (carry, logits), with the params of the decoder.
      heads: number of heads of each attention.
    """

    encoder: Layer
    decoder: Layer
    step: Layer
    heads: int


def _parts(
    source_vocabulary: int,
    target_vocabulary: int,
    *,
    layers: int = 6,
    features: int = 512,
    heads: int = 8,
    mlp_features: int = 2048,
    dropout_rate: float = 0.1,
) -> _Parts:
    at_least("translation_transformer", "layers", layers, 1)
    within("translation_transformer", "dropout_rate", dropout_rate, "[0, 1)", "the share to drop")
    drop = dropout(dropout_rate) if dropout_rate else lambda x: x

    def block(i: int, **options: Any) -> Layer:
        return transformer_block(
            heads, mlp_features, dropout_rate=dropout_rate, name=f"block_{i + 1}", **options
        )

    def placed(m, x, positions=None):
        x = x * math.sqrt(features)  # the embeddings have variance 1 / features
        x = x if positions is None else (x, positions)
        return m(drop, m(sinusoidal_positions(), x))

    def encoder(m, given):
        source, lengths = given
        x = placed(m, m(embedding(source_vocabulary, features), source))
        for i in range(layers):
            x, _ = m(block(i), (x, lengths))
        return m(layer_norm(name="norm"), x)  # (batch, source time, features)

    def decoder(m, given):
        target, memory, lengths = given
        words = embedding(target_vocabulary, features, tied=True)
        x = placed(m, m(words, target))
        for i in range(layers):
            x, *_ = m(block(i, causal=True, cross=True), (x, memory, lengths))
        return m(words, m(layer_norm(name="norm"), x))  # (batch, time, target_vocabulary)

    def step(m, given):
        carry, tokens = given
        words = embedding(target_vocabulary, features, tied=True)
        x = placed(m, m(words, tokens), carry["caches"]["block_1"]["index"])  # (batch, features)
        caches = {}
        for i in range(layers):
            one = block(i, cross=True, step=True)
            beside = carry["memories"][one.name], carry["lengths"]
            caches[one.name], (x, *_) = m(one, (carry["caches"][one.name], (x, *beside)))
        logits = m(words, m(layer_norm(name="norm"), x))
        return {**carry, "caches": caches}, logits

    return _Parts(
        compose(encoder, name="encoder"),
        compose(decoder, name="decoder"),
        compose(step, name="decoder"),
        heads,
    )
