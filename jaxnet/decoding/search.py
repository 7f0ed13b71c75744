"""Search for the most probable sequences after a prompt."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, Params, State
from jaxnet.decoding.filters import changed
from jaxnet.decoding.nets import inputs_of, model_of, with_inputs
from jaxnet.ops.precision import wide
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
    beam, first = stream(net, time + length - 1), prompt[:, -1].astype(jnp.int32)

    def step(state, tokens):
        """Return the next state and the logits (batch, vocabulary)."""
        z, state = beam.apply(params, state, with_inputs(inputs, tokens[:, None]))
        shape = getattr(z, "shape", ())
        if len(shape) != 3 or shape[:2] != (batch, 1) or not shape[2]:
            raise ValueError(
                f"{who}: the net must give logits ({batch}, 1, vocabulary), got {describe(z)}"
            )
        return state, z[:, 0]

    chunk = with_inputs(inputs, prompt[:, -1:])
    state = start_stream(beam, chunk, state)
    spec = jax.eval_shape(step, state, first)[1]
    vocabulary = spec.shape[1]
    checks.check_range(prompt, vocabulary, f"{who}: ids of the prompt")
    checks.between(who, "end", end, 0, vocabulary - 1, "the last id")
    if time > 1:
        _, state = beam.apply(params, state, with_inputs(inputs, prompt[:, :-1]))
    axes = batch_axes(beam, chunk)
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
        empty = ~(scores[..., None] > -jnp.inf)  # whose logits may be NaN
        total = jnp.where(only | empty, -jnp.inf, total)
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
    lengths = (jnp.cumsum(tokens == end, -1) == 0).sum(-1, dtype=jnp.int32)  # up to the first end
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
