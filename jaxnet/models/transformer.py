"""The transformer for translation: an encoder, and a decoder that attends to it."""

import math

from jaxnet import Layer, compose, dropout, embedding, layer_norm, transformer_block
from jaxnet.layers import sinusoidal_positions
from jaxnet.models.rnnsearch import sentences
from jaxnet.tools import at_least, within


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
    """Make an encoder and a decoder of transformer blocks, trained with teacher forcing.

    The blocks are `jaxnet.transformer_block`: pre-norm (the paper's are post-norm) with a norm
    after the last one, and GELU instead of ReLU. Positions are sinusoidal, so sentences may have
    any length. The decoder's embedding table also gives the logits. `jn.stream` takes the target
    in chunks, as in `rnnsearch`.

    Args:
      source_vocabulary, target_vocabulary: Numbers of ids.
      layers: Number of blocks in the encoder and in the decoder, at least 1.
      features: Width of the embeddings, even, and a multiple of `heads`.
      heads: Number of heads of each attention.
      mlp_features: Width of the hidden layers.
      dropout_rate: Rate of dropout for the embeddings, the weights of the attention, and each
        residual branch, in [0, 1).
      name: Name of the model.

    Input: (source, lengths, target), and output: logits, as in `rnnsearch`.

    Params:
      encoder: embedding, block_1, ..., norm; decoder: the same.

    Raises:
      ValueError: If `layers` is below 1.
      ValueError: If `features` is odd or not a multiple of `heads`.
      ValueError: If the key is missing in training with dropout.

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
    at_least("translation_transformer", "layers", layers, 1)
    within(
        "translation_transformer", "dropout_rate", dropout_rate, "[0, 1)", "the fraction to drop"
    )
    drop = dropout(dropout_rate) if dropout_rate else lambda x: x
    options = {"mlp_features": mlp_features, "dropout_rate": dropout_rate}
    names = [f"block_{i + 1}" for i in range(layers)]

    def placed(m, words, ids):
        x = m(words, ids) * math.sqrt(features)  # the embeddings have variance 1 / features
        return m(drop, m(sinusoidal_positions(), x))

    def encode(m, given):
        source, lengths = given
        x = placed(m, embedding(source_vocabulary, features), source)
        for name in names:
            x, _ = m(transformer_block(heads, **options, name=name), (x, lengths))
        return m(layer_norm(name="norm"), x)  # (batch, source time, features)

    def decode(m, given):
        target, *memory = given
        words = embedding(target_vocabulary, features, tied=True)
        x = placed(m, words, target)
        for name in names:
            block = transformer_block(heads, causal=True, cross=True, **options, name=name)
            x, *_ = m(block, (x, *memory))
        return m(words, m(layer_norm(name="norm"), x))  # (batch, time, target_vocabulary)

    encoder, decoder = compose(encode, name="encoder"), compose(decode, name="decoder")

    def forward(m, given):
        source, lengths, target = sentences(given, name)
        memory = m.whole(encoder, (source, lengths))
        return m(decoder, (target, memory, lengths))

    return compose(forward, name=name, kind="translation_transformer")
