"""Beam search with a model of the next token."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, Params, State, as_layer
from jaxnet.decoding.filters import changed, with_inputs
from jaxnet.losses.arrays import wide
from jaxnet.services.checks import a_function, as_array, at_least, check_dict, check_type, within
from jaxnet.services.trees import describe
from jaxnet.transforms.stream import batch_axes

Step = Callable[[State, jax.Array], tuple[State, jax.Array]]  # (state, tokens) -> (state, logits)


def beam_search(
    stream: Layer,
    params: Params,
    state: State,
    first: jax.Array,
    *,
    beams: int,
    length: int,
    end: int,
    length_penalty: float = 1.0,
    logits: Callable | None = None,
    inputs: tuple = (),
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Keep the `beams` most probable sequences at each step and return them, best first.

    A sequence that takes `end` is complete and stays in the beam, so the beam gets narrower, as in
    the paper. With beams=1, it takes the most probable token at each step. The state of the stream
    is repeated `beams` times, and its rows are reordered at each step. The beams of an example
    share its `inputs`, so that work on them alone, such as an encoder, is done once and not `beams`
    times.

    Args:
      stream: Model of the next token, made by `jn.stream`; see `jaxnet.decoding`.
      params: Params of the stream.
      state: State of the stream before the first step, without an axis for beams.
      first: Tokens (batch,) before the first step, such as a start token or the last token of a
        prompt; not part of the result.
      beams: Number of sequences kept per example, at least 1; may exceed the vocabulary.
      length: Number of steps of the result, at least 1.
      end: Token that completes a sequence.
      length_penalty: Number at least 0; a sequence of n tokens, including `end`, has the score log
        p / n^length_penalty. 1 gives the mean log-probability per token, 0 the sum, which favors
        short sequences.
      logits: Function of (values, ids) that changes the logits of a beam, as in `generate`; scores
        are log-probabilities after it.
      inputs: Inputs of the net before the tokens, as in `generate`.

    Returns:
      tokens (batch, beams, length), best sequence first, filled with `end` after the end; lengths
      (batch, beams), the number of tokens before `end`, or `length` for a sequence that is cut off;
      scores (batch, beams). If there are fewer sequences than beams (with a vocabulary of 3 and a
      length of 1, at most 3), the rest have score -inf and length 0. All scores of an example are
      NaN if a kept beam has logits with NaN, or -inf throughout.

    Raises:
      TypeError: If an argument has the wrong type.
      ValueError: If `stream` is not a stream.
      ValueError: If the output of `stream` is not logits (batch, 1, vocabulary).
      ValueError: If an argument is out of range.

    Example:
      Greedy takes 1 (0.6), after which every token is improbable; 2 (0.4), then 1, is better.

      >>> p = jnp.array([[0.0, 0.6, 0.4], [0.3, 0.3, 0.4], [0.1, 0.9, 0.0]])
      >>> model, start = jn.stream(lambda tokens: jnp.log(p)[tokens]), jnp.array([0])
      >>> tokens, lengths, scores = beam_search(model, {}, {}, start, beams=2, length=2, end=0)
      >>> tokens[0].tolist(), np.exp(2 * scores[0]).round(2)
      ([[2, 1], [1, 2]], array([0.36, 0.24], dtype=float32))

    Reference: Sutskever, Vinyals and Le 2014, "Sequence to Sequence Learning", 3.2.
    """
    at_least("beam_search", "beams", beams)
    within("beam_search", "length_penalty", length_penalty, "[0, inf)")
    a_function("beam_search", "logits", logits, "(values, ids)", optional=True)
    step, first, spec = _model("beam_search", stream, params, state, first, length, end, inputs)
    axes = batch_axes(stream, with_inputs(inputs, first[:, None]))
    batch, vocabulary = spec.shape
    dtype = jnp.promote_types(spec.dtype, jnp.float32)
    kept = min(beams, vocabulary)  # number of continuations per beam that can be among the best
    state = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], beams, 0), state)  # (beams, ...)

    def alive(loop):
        t, _, _, _, scores, ended, lost = loop
        return (t < length) & (~ended & (scores > -jnp.inf) & ~lost).any()

    def advance(loop):
        t, state, last, tokens, scores, ended, lost = loop
        # The inputs do not have an axis of beams.
        state, z = jax.vmap(step, out_axes=(0, 1))(state, last.T)
        # Ranks the tokens of a beam by their logits, whose order rounding does not change.
        z = wide(z)  # (batch, beams, vocabulary)
        if logits is not None:
            z = jax.vmap(jax.vmap(partial(changed, logits, written=t)))(z, tokens)
        dead = ~(z.max(-1) > -jnp.inf)  # NaN is not above
        lost |= (dead & ~ended & (scores > -jnp.inf)).any(-1, keepdims=True)
        best, words = jax.lax.top_k(z, kept)  # (batch, beams, kept)
        log_p = best - jax.nn.logsumexp(z, axis=-1, keepdims=True)
        # A complete sequence has one continuation, `end` at an unchanged score, always kept.
        only = ended[..., None] & (jnp.arange(kept) > 0)[None, None]
        total = scores[..., None] + jnp.where(ended[..., None], 0, log_p)
        total = jnp.where(only, -jnp.inf, total)
        words = jnp.where(ended[..., None], end, words)
        rank = jnp.where(ended[..., None] & ~only, jnp.inf, total)

        def flat(a):
            return a.reshape(batch, beams * kept)

        _, place = jax.lax.top_k(flat(rank), beams)  # (batch, beams), the first among equals
        scores, last = (jnp.take_along_axis(flat(a), place, -1) for a in (total, words))
        source = place // kept  # the continued beam
        ended = jnp.take_along_axis(ended, source, -1) | (last == end)
        ended &= scores > -jnp.inf  # an empty beam is not complete
        tokens = jnp.take_along_axis(tokens, source[..., None], 1).at[..., t].set(last)
        state = jax.tree.map(partial(_continued, source), state, axes)
        return t + 1, state, last, tokens, scores, ended, lost

    last = jnp.repeat(first[:, None], beams, axis=1)
    tokens = jnp.full((batch, beams, length), end, jnp.int32)
    # At first there is one empty sequence.
    scores = jnp.full((batch, beams), -jnp.inf, dtype).at[:, 0].set(0)
    ended, lost = jnp.zeros((batch, beams), bool), jnp.zeros((batch, 1), bool)
    start = jnp.int32(0), state, last, tokens, scores, ended, lost
    _, _, _, tokens, scores, _, lost = jax.lax.while_loop(alive, advance, start)
    tokens = jnp.where(scores[..., None] > -jnp.inf, tokens, end)
    lengths = _lengths(tokens, end)
    counted = jnp.minimum(lengths + 1, length).astype(dtype)  # including `end`
    scores = jnp.where(lost, jnp.nan, scores / counted**length_penalty)
    order = jnp.argsort(-scores, axis=-1, stable=True)  # (batch, beams)
    tokens = jnp.take_along_axis(tokens, order[..., None], 1)
    lengths, scores = (jnp.take_along_axis(a, order, -1) for a in (lengths, scores))
    return tokens, lengths, scores


def _continued(source: jax.Array, leaf: jax.Array, axis: int) -> jax.Array:
    """Return an entry (beams, ...) of the state, reordered to continue the beams `source`."""
    if axis < 0:
        return leaf
    take = lambda row, source: row[source]  # noqa: E731
    return jax.vmap(take, in_axes=(axis + 1, 0), out_axes=axis + 1)(leaf, source)


def _lengths(tokens: jax.Array, end: int) -> jax.Array:
    """Return the number of tokens before the first `end`, along the last axis."""
    return (jnp.cumsum(tokens == end, -1) == 0).sum(-1, dtype=jnp.int32)


def _model(who, stream, params, state, first, length, end, inputs) -> tuple[Step, jax.Array, Any]:
    """Return one step of the model, the first tokens as int32, and the spec of the logits."""
    at_least(who, "length", length)
    stream = as_layer(stream, who, "stream")
    if stream.kind != "stream":
        raise ValueError(f"{who}: expected a stream, got {stream}. Write jn.stream(net, length)")
    check_dict(who, "state", state)
    first = as_array(who, "first", first, "(batch,)", "integers").astype(jnp.int32)
    check_type(who, "inputs", inputs, tuple, "a tuple, such as (source, lengths)")

    def step(state, tokens):
        logits, state = stream.apply(params, state, with_inputs(inputs, tokens[:, None]))
        return state, logits

    _, logits = jax.eval_shape(step, state, first)
    batch, shape = first.shape[0], getattr(logits, "shape", ())
    if len(shape) != 3 or shape[:2] != (batch, 1) or not shape[2]:
        raise ValueError(
            f"{who}: the net must give logits (batch, time, vocabulary), here ({batch}, 1, ...), "
            f"got {describe(logits)}"
        )
    at_least(who, "end", end, 0)
    if end >= shape[2]:
        raise ValueError(f"{who}: end must be in [0, vocabulary) = [0, {shape[2]}), got {end}")

    def one(state, tokens):
        state, logits = step(state, tokens)
        return state, logits[:, 0]

    return one, first, jax.ShapeDtypeStruct((batch, shape[2]), logits.dtype)
