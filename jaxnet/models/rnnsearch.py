"""RNNsearch: translation by recurrent networks with attention."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import Layer, bidirectional, compose, dense, dropout, embedding, gru
from jaxnet.initializers import zeros
from jaxnet.layers import additive_attention, gru_cell
from jaxnet.tools import at_least, check_options, stream_positions, within


def rnnsearch(
    source_vocabulary: int,
    target_vocabulary: int,
    *,
    embedding_features: int = 620,
    features: int = 1000,
    readout_features: int = 500,
    attention: bool = True,
    maxout: bool = True,
    dropout_rate: float = 0.0,
    return_weights: bool = False,
    name: str = "rnnsearch",
) -> Layer:
    """Make an encoder, attention and a decoder, trained with teacher forcing.

    A bidirectional GRU computes an annotation h_j of each source token. From its state s_{i-1} the
    decoder scores them, v · tanh(W s_{i-1} + U h_j), takes their mean c_i under the softmax of the
    scores, updates its state, s_i = GRU(s_{i-1}, [y_{i-1}, c_i]), and predicts the next token from
    s_i, y_{i-1} and c_i. It starts from s_0 = tanh(W ←h_1), the backward direction at the first
    token.

    As in equation (4) of the paper the readout depends on s_i (in its appendix on s_{i-1}). The
    GRUs, s_0, the readout and the logits have biases. The reset gate is as in `jaxnet.gru`.

    Args:
      source_vocabulary, target_vocabulary: Numbers of ids.
      embedding_features: Width of the embeddings, source and target.
      features: Width of each direction of the encoder, and of the decoder; 1000 in the paper.
      readout_features: Width of the readout, before the logits.
      attention: Whether the decoder has attention. False gives every step the same context, the
        final states of both directions: the encoder-decoder of Cho et al. 2014, but bidirectional,
        so that the two models differ by the attention alone.
      maxout: Whether the readout is the maximum of pairs of 2 * readout_features linear units, as
        in the paper; False is readout_features tanh units.
      dropout_rate: Rate of dropout for the embeddings, the annotations and the readout, in [0, 1).
      return_weights: Whether the output is (logits, weights), with weights (batch, time, source
        time) for plots.
      name: Name of the model.

    Input:
      A tuple (source, lengths, target).
      source: (batch, source time) ids, padded at the end with any id.
      lengths: (batch,) integers; 0 is an empty sentence, whose context is zero.
      target: (batch, time) ids of the token before each output: start, y_1, y_2, ...

    Output:
      Logits (batch, time, target_vocabulary). They do not depend on the padding of the source, nor
      on later entries of the target.

    Params:
      encoder: embedding; bidirectional: forward, backward; start; and with attention keys, kernel
        (2 * features, features);
      target: embedding;
      decoder: gru, kernel (embedding_features + 2 * features, 3 * features); and with attention
        attention: query, kernel (features, features), and score, kernel (features, 1);
      readout: hidden, output.

    Returns:
      A layer from the tuple to logits of the next token at each place of the target.

    Raises:
      ValueError: If `dropout_rate` is out of range.
      ValueError: If the key is missing in training with dropout.

    Example:
      >>> net = rnnsearch(11, 13, embedding_features=4, features=5, readout_features=3)
      >>> source, lengths = jnp.ones((2, 6), int), jnp.array([6, 4])
      >>> target = jnp.ones((2, 7), int)
      >>> params, state = net.init(jax.random.key(0), (source, lengths, target))
      >>> logits, _ = net.apply(params, state, (source, lengths, target))
      >>> logits.shape
      (2, 7, 13)

      In a stream the source is whole at each call, and the target comes in chunks:

      >>> stream = jn.stream(net)
      >>> kept = jn.start_stream(stream, (source, lengths, target))
      >>> first, kept = stream.apply(params, kept, (source, lengths, target[:, :1]))
      >>> bool(jnp.allclose(first, logits[:, :1], atol=1e-6))
      True

    Reference: Bahdanau, Cho and Bengio 2015, "Neural Machine Translation by Jointly Learning to
    Align and Translate".
    """
    sizes = {
        "source_vocabulary": source_vocabulary,
        "target_vocabulary": target_vocabulary,
        "embedding_features": embedding_features,
        "features": features,
        "readout_features": readout_features,
    }
    for what, size in sizes.items():
        at_least("rnnsearch", what, size)
    check_options("rnnsearch", attention=attention, maxout=maxout, return_weights=return_weights)
    within("rnnsearch", "dropout_rate", dropout_rate, "[0, 1)", "the fraction to drop")
    drop = dropout(dropout_rate) if dropout_rate else lambda x: x
    encoder = _encoder(source_vocabulary, embedding_features, features, attention, drop)
    target_words = _target_words(target_vocabulary, embedding_features, drop)
    decoder = _decoder(features, attention)
    readout = _readout(target_vocabulary, readout_features, maxout, drop)

    def forward(m, inputs):
        if not isinstance(inputs, tuple | list) or len(inputs) != 3:
            raise ValueError(
                f"{name}: expected (source, lengths, target): ids (batch, source time), their "
                "lengths (batch,) and the ids before each output, (batch, time)"
            )
        source, lengths, target = inputs
        if return_weights and not attention:
            raise ValueError(f"{name}: return_weights=True needs attention=True")
        encoded = m.whole(encoder, (source, lengths))
        y = m(target_words, target)  # (batch, time, embedding_features)
        s, context, *weights = m(decoder, (encoded, y))
        logits = m(readout, (s, y, context))
        return (logits, *weights) if return_weights else logits

    return compose(forward, name=name, kind="rnnsearch")


def _encoder(
    vocabulary: int, embedding_features: int, features: int, attention: bool, drop: Any
) -> Layer:
    """Return the layer from source ids and lengths to (first state, memory) of the decoder."""

    def encode(m, inputs):
        source, lengths = inputs
        x = m(embedding(vocabulary, embedding_features), source)
        x = m(drop, x)
        read = m(bidirectional(gru(features)), {"x": x, "lengths": lengths})
        final = read["final"]
        start = m(dense(features, name="start"), final["backward"])
        start = jnp.tanh(start)
        if not attention:
            both = jnp.concatenate([final["forward"], final["backward"]], -1)
            return start, m(drop, both)
        memory = m(drop, read["x"])  # (batch, source time, 2 * features)
        # Computed once, not in each step.
        keys = m(dense(features, use_bias=False, name="keys"), memory)
        return start, ({"key": keys, "value": memory}, lengths)

    return compose(encode, name="encoder")


def _target_words(vocabulary: int, features: int, drop: Any) -> Layer:
    """Return the layer from target ids to vectors."""

    def embed(m, tokens):
        y = m(embedding(vocabulary, features), tokens)
        return m(drop, y)

    return compose(embed, name="target")


def _decoder(features: int, attention: bool) -> Layer:
    """Return the layer of the states, contexts and, with attention, weights of all steps.

    Each is (batch, time, ...). Its input is what the encoder returns, and the vectors of the target
    (batch, time, embedding_features).
    """
    attend = additive_attention(features, return_weights=True, name="attention")
    cell = gru_cell(features)

    def decode(m, inputs):
        (start, memory), y = inputs
        previous_state = counts = None
        if m.stream is not None:
            at = stream_positions(m, *y.shape[:2])
            previous_state = m.state("state", zeros, start.shape)
            start = jnp.where(at[:, :1] == 0, start, previous_state.astype(start.dtype))
            if m.stream.steps is not None:
                times = np.arange(y.shape[1])[:, None]
                counts = (times < m.stream.steps)[..., None]

        def step(s, now):
            y, counts = now
            if attention:
                entries, lengths = memory
                seen = m(attend, s, memory=entries, mask=lengths)
            else:
                seen = (memory,)
            x = jnp.concatenate([y, seen[0]], -1)
            after, _ = m(cell, (s, x))
            s = after if counts is None else jnp.where(counts, after, s)
            return s, (after, *seen)

        # The loop contains only what depends on the state; the readout takes all steps at once.
        final, seen = jax.lax.scan(step, start, (y.swapaxes(0, 1), counts))
        if previous_state is not None:
            m.update("state", final.astype(previous_state.dtype))
        return [part.swapaxes(0, 1) for part in seen]

    return compose(decode, name="decoder")


def _readout(vocabulary: int, features: int, maxout: bool, drop: Any) -> Layer:
    """Return the layer from states, target vectors and contexts to logits."""

    def readout(m, inputs):
        x = jnp.concatenate(inputs, -1)
        if maxout:
            t = m(dense(2 * features, name="hidden"), x)
            t = jnp.maximum(t[..., ::2], t[..., 1::2])
        else:
            t = jnp.tanh(m(dense(features, name="hidden"), x))
        return m(dense(vocabulary, name="output"), m(drop, t))

    return compose(readout, name="readout")
