"""Search for the most probable sequences after a prompt."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, Params, State
from jaxnet.decoding.filters import changed
from jaxnet.decoding.nets import inputs_of, model_of, with_inputs
from jaxnet.ops.precision import at_least_float32
from jaxnet.services import checks
from jaxnet.services.meshes import on_auto_axes
from jaxnet.services.trees import describe
from jaxnet.transforms.stream import batch_axes, start_stream, stream


@on_auto_axes
def beam_search(
    net: Layer,
    params: Params,
    prompt: jax.Array,
    *,
    beams: int,
    length: int,
    end: int,
    state: State | None = None,
    inputs: tuple = (),
    length_penalty: float = 1.0,
    logits: Callable | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Keep the `beams` most probable sequences at each step and return them, best first.

    A sequence that takes `end` is complete and stays in the beam, so the beam gets narrower, as in
    the paper. With beams=1, it takes the most probable token at each step.

    The net reads the prompt and then one token after another by `jn.stream`. What the stream keeps
    is repeated `beams` times, and its rows are reordered at each step. The beams of an example
    share its `inputs`, so that work on them alone, such as an encoder, is done once and not `beams`
    times. All shapes are fixed: call it inside a jitted function to compile it once.

    Args:
      net: Any causal net from tokens (batch, time) to logits (batch, time, vocabulary), or from
        (*inputs, tokens).
      params: Params of the net.
      prompt: Integers (batch, time), at least one per row, such as a token that begins a sentence.
      beams: Number of sequences kept per example, at least 1; may exceed the vocabulary.
      length: Number of tokens of the result, at least 1.
      end: Token that completes a sequence.
      state, inputs, logits: As in `generate`; scores are log-probabilities after `logits`.
      length_penalty: Number at least 0; a sequence of n tokens, including `end`, has the score log
        p / n^length_penalty. 1 gives the mean log-probability per token, 0 the sum, which favors
        short sequences.

    Returns:
      tokens (batch, beams, length), best sequence first, filled with `end` after the end; lengths
      (batch, beams), the number of tokens before `end`, or `length` for a sequence that is cut off;
      scores (batch, beams). If there are fewer sequences than beams (with a vocabulary of 3 and a
      length of 1, at most 3), the rest have score -inf and length 0. All scores of an example are
      NaN if a kept beam has logits with NaN, or -inf throughout.

    Raises:
      TypeError: If an argument has the wrong type.
      ValueError: If an argument is out of range, or if a known id is not in the vocabulary.
      ValueError: If the net is not causal, or has fewer positions than prompt and length need.
      ValueError: If the output of the net is not logits (batch, time, vocabulary).

    Example:
      Greedy takes 1 (0.6), after which every token is improbable; 2 (0.4), then 1, is better.

      >>> p = jnp.array([[0.0, 0.6, 0.4], [0.3, 0.3, 0.4], [0.1, 0.9, 0.0]])
      >>> net = lambda tokens: jnp.log(p)[tokens]
      >>> prompt = jnp.array([[0]])
      >>> tokens, lengths, scores = beam_search(net, {}, prompt, beams=2, length=2, end=0)
      >>> tokens[0].tolist(), np.exp(2 * scores[0]).round(2)
      ([[2, 1], [1, 2]], array([0.36, 0.24], dtype=float32))

    Reference: Sutskever, Vinyals and Le 2014, "Sequence to Sequence Learning", 3.2.
    """
    who = "beam_search"
    checks.all_at_least(who, beams=beams, length=length)
    checks.within(who, "length_penalty", length_penalty, "[0, inf)")
    checks.a_function(who, "logits", logits, "(values, ids)", optional=True)
    prompt = checks.as_array(who, "prompt", prompt, "(batch, time)", "integers")
    batch, time = prompt.shape
    checks.at_least(who, "the number of tokens of a prompt", time)
    inputs = inputs_of(who, inputs, batch)
    net, params, state = model_of(who, "net", inputs, net, params, state)
    first = prompt[:, -1].astype(jnp.int32)
    streamed = stream(net, time + length - 1)

    def step(state, tokens):
        """Return the next state and the logits (batch, vocabulary)."""
        z, state = streamed.apply(params, state, with_inputs(inputs, tokens[:, None]))
        shape = getattr(z, "shape", ())
        if len(shape) != 3 or shape[:2] != (batch, 1) or not shape[2]:
            raise ValueError(
                f"{who}: the net must give logits ({batch}, 1, vocabulary), got {describe(z)}"
            )
        return state, z[:, 0]

    chunk = with_inputs(inputs, prompt[:, -1:])
    state = start_stream(streamed, chunk, state)
    _, spec = jax.eval_shape(step, state, first)
    vocabulary = spec.shape[1]
    checks.check_range(prompt, vocabulary, f"{who}: ids of the prompt")
    checks.between(who, "end", end, 0, vocabulary - 1, "the last id")
    if time > 1:
        _, state = streamed.apply(params, state, with_inputs(inputs, prompt[:, :-1]))
    axes = batch_axes(streamed, chunk)

    def for_beams(leaf):
        return jnp.repeat(leaf[None], beams, 0)

    def alive(beam_state):
        growing = ~beam_state.ended & (beam_state.scores > -jnp.inf) & ~beam_state.lost
        return (beam_state.written < length) & growing.any()

    def advance(beam_state):
        # The inputs do not have an axis of beams.
        each = jax.vmap(step, out_axes=(0, 1))
        state, z = each(beam_state.state, beam_state.last.T)
        z = at_least_float32(z)  # (batch, beams, vocabulary)
        if logits is not None:
            change = partial(changed, logits, written=beam_state.written)
            z = jax.vmap(jax.vmap(change))(z, beam_state.tokens)
        return _grown(beam_state._replace(state=state), z, end, axes)

    dtype = jnp.promote_types(spec.dtype, jnp.float32)
    last = jnp.repeat(first[:, None], beams, axis=1)
    start = _start(jax.tree.map(for_beams, state), last, length, end, dtype)
    final_state = jax.lax.while_loop(alive, advance, start)
    return _best_first(final_state, end, length_penalty)


class _Beams(NamedTuple):
    """The search between two tokens.

    Fields:
      written: Number of tokens of each sequence.
      state: State of the stream, with an axis of beams in front.
      last: Last token of each sequence, (batch, beams).
      tokens: Tokens so far, (batch, beams, length), filled with `end`.
      scores: Log-probabilities (batch, beams), -inf for an empty beam.
      ended: Whether each sequence is complete, (batch, beams).
      lost: Whether an example had logits without a largest, (batch, 1).
    """

    written: jax.Array
    state: State
    last: jax.Array
    tokens: jax.Array
    scores: jax.Array
    ended: jax.Array
    lost: jax.Array


def _start(state: Any, last: jax.Array, length: int, end: int, dtype: Any) -> _Beams:
    """Return the search after the prompt, whose last token each of the beams reads first."""
    batch, beams = last.shape
    impossible = jnp.full((batch, beams), -jnp.inf, dtype)
    return _Beams(
        written=jnp.int32(0),
        state=state,
        last=last,
        tokens=jnp.full((batch, beams, length), end, jnp.int32),
        scores=impossible.at[:, 0].set(0),  # one empty sequence
        ended=jnp.zeros((batch, beams), bool),
        lost=jnp.zeros((batch, 1), bool),
    )


def _grown(beam_state: _Beams, z: jax.Array, end: int, axes: State) -> _Beams:
    """Return the beams with one more token, by the logits z (batch, beams, vocabulary)."""
    filled = beam_state.scores > -jnp.inf
    broken = ~(z.max(-1) > -jnp.inf)  # NaN is not above
    newly_lost = broken & ~beam_state.ended & filled
    scores, last, source = _best_continuations(beam_state, z, end)
    ended = jnp.take_along_axis(beam_state.ended, source, -1) | (last == end)
    ended &= scores > -jnp.inf  # an empty beam is not complete
    tokens = jnp.take_along_axis(beam_state.tokens, source[..., None], 1)
    return _Beams(
        written=beam_state.written + 1,
        state=jax.tree.map(partial(_continued, source), beam_state.state, axes),
        last=last,
        tokens=tokens.at[..., beam_state.written].set(last),
        scores=scores,
        ended=ended,
        lost=beam_state.lost | newly_lost.any(-1, keepdims=True),
    )


def _best_continuations(beam_state: _Beams, z: jax.Array, end: int) -> tuple[jax.Array, ...]:
    """Return the scores, tokens and beams of the best continuations, each (batch, beams)."""
    batch, beams, vocabulary = z.shape
    per_beam = min(beams, vocabulary)  # number of continuations per beam that can be among the best
    # Ranks the tokens of a beam by their logits, whose order rounding does not change.
    best, words = jax.lax.top_k(z, per_beam)  # (batch, beams, per_beam)
    log_p = best - jax.nn.logsumexp(z, axis=-1, keepdims=True)
    # A complete sequence has one continuation, `end` at an unchanged score, always kept.
    ended = beam_state.ended[..., None]
    extra = ended & (jnp.arange(per_beam) > 0)[None, None]
    scores = beam_state.scores[..., None]
    total = scores + jnp.where(ended, 0, log_p)
    empty = ~(scores > -jnp.inf)  # whose logits may be NaN
    total = jnp.where(extra | empty, -jnp.inf, total)
    words = jnp.where(ended, end, words)
    rank = jnp.where(ended & ~extra, jnp.inf, total)

    def flat(a):
        return a.reshape(batch, beams * per_beam)

    _, place = jax.lax.top_k(flat(rank), beams)  # (batch, beams), the first among equals
    scores = jnp.take_along_axis(flat(total), place, -1)
    last = jnp.take_along_axis(flat(words), place, -1)
    return scores, last, place // per_beam


def _continued(source: jax.Array, leaf: jax.Array, axis: int) -> jax.Array:
    """Return an entry (beams, ...) of the state, reordered to continue the beams `source`."""
    if axis < 0:
        return leaf

    def take(row, source):
        return row[source]

    take = jax.vmap(take, in_axes=(axis + 1, 0), out_axes=axis + 1)
    return take(leaf, source)


def _best_first(beam_state: _Beams, end: int, length_penalty: float) -> Any:
    """Return tokens, lengths and scores, best sequence first."""
    length = beam_state.tokens.shape[-1]
    filled = beam_state.scores > -jnp.inf
    tokens = jnp.where(filled[..., None], beam_state.tokens, end)
    before_end = jnp.cumsum(tokens == end, -1) == 0
    lengths = before_end.sum(-1, dtype=jnp.int32)
    counted = jnp.minimum(lengths + 1, length).astype(beam_state.scores.dtype)  # including `end`
    scores = jnp.where(beam_state.lost, jnp.nan, beam_state.scores / counted**length_penalty)
    order = jnp.argsort(-scores, axis=-1, stable=True)  # (batch, beams)
    tokens = jnp.take_along_axis(tokens, order[..., None], 1)
    lengths = jnp.take_along_axis(lengths, order, -1)
    scores = jnp.take_along_axis(scores, order, -1)
    return tokens, lengths, scores
