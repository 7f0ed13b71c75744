"""RNNsearch: translation by recurrent networks with attention."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, Params, compose
from jaxnet.layers.additive_attention import additive_attention
from jaxnet.layers.dense import dense
from jaxnet.layers.dropout import dropout
from jaxnet.layers.embedding import embedding
from jaxnet.layers.gru import gru, gru_cell
from jaxnet.layers.sequence import bidirectional
from jaxnet.services.checks import at_least, check_options, within
from jaxnet.services.trees import PyTree

Start = Callable[[Params, jax.Array, jax.Array], PyTree]  # (params, source, lengths) -> carry
Step = Callable[[Params, PyTree, jax.Array], tuple[PyTree, Any]]  # (params, carry, tokens)


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
    """Encoder, attention and decoder, trained with teacher forcing.

    A bidirectional GRU computes an annotation h_j of each source token. From its state s_{i-1} the
    decoder scores them, v · tanh(W s_{i-1} + U h_j), takes their mean c_i under the softmax of the
    scores, updates its state, s_i = GRU(s_{i-1}, [y_{i-1}, c_i]), and predicts the next token from
    s_i, y_{i-1} and c_i. It starts from s_0 = tanh(W ←h_1), the backward direction at the first
    token.

    As in equation (4) of the paper the readout depends on s_i (in its appendix on s_{i-1}). The
    GRUs, s_0, the readout and the logits have biases. The reset gate is that of `jaxnet.gru`.

    Args:
      source_vocabulary, target_vocabulary: numbers of ids.
      embedding_features: width of the embeddings, source and target.
      features: width of each direction of the encoder, and of the decoder; 1000 in the paper.
      readout_features: width of the readout, before the logits.
      attention: False gives every step the same context, the final states of both directions: the
        encoder-decoder of Cho et al. 2014, but bidirectional, so that the two models differ by the
        attention alone.
      maxout: whether the readout is the maximum of pairs of 2 * readout_features linear units, as
        in the paper; False is readout_features tanh units.
      dropout_rate: for the embeddings, the annotations and the readout, in [0, 1).
      return_weights: True returns (logits, weights), weights (batch, time, source time), for plots.
      name: of the model.

    Input: (source, lengths, target).
      source: (batch, source time) ids, padded at the end with any id.
      lengths: (batch,) integers; 0 is an empty sentence, whose context is zero.
      target: (batch, time) ids of the token before each output: start, y_1, y_2, ...
    Output: logits (batch, time, target_vocabulary). They do not depend on the padding of the
    source, nor on later entries of the target.

    Params:
      encoder: embedding; bidirectional: forward, backward; start; and with attention keys, kernel
        (2 * features, features);
      target: embedding;
      decoder: gru, kernel (embedding_features + 2 * features, 3 * features); and with attention
        attention: query, kernel (features, features), and score, kernel (features, 1);
      readout: hidden, output.

    Raises:
      ValueError: for a rate out of range, and in training with dropout without a key.

    Example:
      >>> net = rnnsearch(11, 13, embedding_features=4, features=5, readout_features=3)
      >>> source, lengths = jnp.ones((2, 6), int), jnp.array([6, 4])
      >>> target = jnp.ones((2, 7), int)
      >>> params, state = net.init(jax.random.key(0), (source, lengths, target))
      >>> logits, _ = net.apply(params, state, (source, lengths, target))
      >>> logits.shape
      (2, 7, 13)

    Reference: Bahdanau, Cho and Bengio 2015, "Neural Machine Translation by Jointly Learning to
    Align and Translate".
    """
    check_options("rnnsearch", return_weights=return_weights)
    parts = _parts(
        source_vocabulary,
        target_vocabulary,
        embedding_features=embedding_features,
        features=features,
        readout_features=readout_features,
        attention=attention,
        maxout=maxout,
        dropout_rate=dropout_rate,
    )

    def forward(m, given):
        source, lengths, target = sentences(given, name)
        carry = m(parts.encoder, (source, lengths))
        y = m(parts.words, target)  # (batch, time, embedding_features)

        def step(s, y):
            after, seen = m(parts.cell, ({**carry, "state": s}, y))
            return after["state"], (after["state"], *seen)

        # The loop contains only what depends on the state; the readout takes all steps at once.
        _, seen = jax.lax.scan(step, carry["state"], y.swapaxes(0, 1))
        s, context, *weights = (part.swapaxes(0, 1) for part in seen)  # (batch, time, ...)
        logits = m(parts.readout, (s, y, context))
        if not return_weights:
            return logits
        if not weights:
            raise ValueError(f"{name}: return_weights=True needs attention=True")
        return logits, weights[0]

    return compose(forward, name=name, kind="rnnsearch")


def rnnsearch_steps(
    source_vocabulary: int,
    target_vocabulary: int,
    *,
    return_weights: bool = False,
    name: str = "rnnsearch",
    **sizes: Any,
) -> tuple[Start, Step]:
    """`rnnsearch` step by step with the same params, for `jaxnet.decoding`.

    Args:
      source_vocabulary, target_vocabulary: numbers of ids.
      return_weights: True makes the step return (logits, weights), weights (batch, source time).
      name: of the model, for messages.
      sizes: the other arguments of `rnnsearch`, with the values used there.

    Returns:
      start: (params, source, lengths) -> carry, which runs the encoder. Its entries have the batch
        axis first: state, memory, and with attention keys and lengths.
      step: (params, carry, tokens) -> (carry, logits), tokens (batch,), without dropout.

    Example:
      >>> from functools import partial
      >>> sizes = dict(embedding_features=4, features=5, readout_features=3)
      >>> source, lengths = jnp.ones((2, 6), int), jnp.array([6, 4])
      >>> given = source, lengths, jnp.ones((2, 7), int)
      >>> params, _ = rnnsearch(11, 13, **sizes).init(jax.random.key(0), given)
      >>> start, step = rnnsearch_steps(11, 13, **sizes)
      >>> @jax.jit
      ... def translate(params, source, lengths):
      ...     carry, first = start(params, source, lengths), jnp.ones(2, int)
      ...     return jn.decoding.greedy(partial(step, params), carry, first, length=9, end=0)
      >>> tokens, lengths = translate(params, source, lengths)
      >>> tokens.shape, lengths.shape
      ((2, 9), (2,))
    """
    check_options("rnnsearch_steps", return_weights=return_weights)
    parts = _parts(source_vocabulary, target_vocabulary, **sizes)

    def start(params, source, lengths):
        carry, _ = parts.encoder.apply(params["encoder"], {}, (source, lengths))
        return carry

    def forward(m, given):
        carry, tokens = given
        y = m(parts.words, tokens)
        carry, seen = m(parts.cell, (carry, y))
        logits = m(parts.readout, (carry["state"], y, seen[0]))
        return carry, (logits, seen[1]) if return_weights else logits

    one = compose(forward, name=name)

    def step(params, carry, tokens):
        rest = {part: entry for part, entry in params.items() if part != "encoder"}
        return one.apply(rest, {}, (carry, tokens))[0]

    return start, step


def sentences(given: PyTree, who: str) -> tuple[Any, Any, Any]:
    """Checks that the input of a translation model is (source, lengths, target).

    Args:
      given: the input.
      who: name of the model, for the message.

    Raises:
      ValueError: for anything but three entries.

    Example:
      >>> sentences((1, 2, 3), "rnnsearch")
      (1, 2, 3)
    """
    if not isinstance(given, tuple | list) or len(given) != 3:
        raise ValueError(
            f"{who}: expected (source, lengths, target): ids (batch, source time), their lengths "
            "(batch,) and the ids before each output, (batch, time)"
        )
    source, lengths, target = given
    return source, lengths, target


class _Parts(NamedTuple):
    """Layers shared by the model and its steps.

    Fields:
      encoder: (source, lengths) -> carry.
      words: tokens -> y.
      cell: (carry, y) -> (carry, (context, weights)); without attention (carry, (context,)).
      readout: (state, y, context) -> logits.
    """

    encoder: Layer
    words: Layer
    cell: Layer
    readout: Layer


def _parts(
    source_vocabulary: int,
    target_vocabulary: int,
    *,
    embedding_features: int = 620,
    features: int = 1000,
    readout_features: int = 500,
    attention: bool = True,
    maxout: bool = True,
    dropout_rate: float = 0.0,
) -> _Parts:
    sizes = {"source_vocabulary": source_vocabulary, "target_vocabulary": target_vocabulary}
    sizes |= {"embedding_features": embedding_features, "features": features}
    sizes |= {"readout_features": readout_features}
    for what, size in sizes.items():
        at_least("rnnsearch", what, size)
    check_options("rnnsearch", attention=attention, maxout=maxout)
    within("rnnsearch", "dropout_rate", dropout_rate, "[0, 1)", "the share to drop")
    attend = additive_attention(features, return_weights=True, name="attention")
    drop = dropout(dropout_rate) if dropout_rate else lambda x: x

    def encoder(m, given):
        source, lengths = given
        x = m(embedding(source_vocabulary, embedding_features), source)
        read = m(bidirectional(gru(features)), {"x": m(drop, x), "lengths": lengths})
        final = read["final"]
        state = jnp.tanh(m(dense(features, name="start"), final["backward"]))
        if not attention:
            both = jnp.concatenate([final["forward"], final["backward"]], -1)
            return {"state": state, "memory": m(drop, both)}
        memory = m(drop, read["x"])  # (batch, source time, 2 * features)
        keys = m(dense(features, use_bias=False, name="keys"), memory)  # once, not in each step
        return {"state": state, "memory": memory, "keys": keys, "lengths": lengths}

    def words(m, tokens):
        return m(drop, m(embedding(target_vocabulary, embedding_features), tokens))

    def cell(m, given):
        carry, y = given
        s, seen = carry["state"], (carry["memory"],)
        if attention:
            memory = {"key": carry["keys"], "value": carry["memory"]}
            seen = m(attend, (s, memory, carry["lengths"]))  # (batch, 2 * features), and weights
        s, _ = m(gru_cell(features), (s, jnp.concatenate([y, seen[0]], -1)))
        return {**carry, "state": s}, seen

    def readout(m, given):
        t = jnp.concatenate(given, -1)
        if maxout:
            t = m(dense(2 * readout_features, name="hidden"), t)
            t = t.reshape(*t.shape[:-1], readout_features, 2).max(-1)
        else:
            t = jnp.tanh(m(dense(readout_features, name="hidden"), t))
        return m(dense(target_vocabulary, name="output"), m(drop, t))

    return _Parts(
        compose(encoder, name="encoder"),
        compose(words, name="target"),
        compose(cell, name="decoder"),
        compose(readout, name="readout"),
    )
