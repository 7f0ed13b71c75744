"""Search with a model of the next token: greedy, sampling, beam search."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.core.errors import check_pair
from jaxnet.losses.arrays import wide
from jaxnet.services.checks import a_function, as_array, at_least, check_key, within

PyTree = Any
StepFn = Callable[[PyTree, jax.Array], tuple[PyTree, jax.Array]]  # the model, see jaxnet.decoding


def greedy(
    step: StepFn, carry: PyTree, first: jax.Array, *, length: int, end: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """Takes the most probable token at each step; among equals the lowest id.

    Args:
      step: the model, `step(carry, tokens) -> (carry, logits)`; see `jaxnet.decoding`.
      carry: the carry before the first step.
      first: (batch,) integers, usually the start token; not part of the result.
      length: steps of the result, at least 1.
      end: the token that ends a sequence; None if sequences have no end.

    Returns:
      tokens (batch, length), filled with `end` after the end; lengths (batch,), the number of
      tokens before `end`, or `length` for a sequence that is cut off. Where no token is most
      probable (logits with NaN, or -inf throughout), the token is -1 from there on.

    Raises:
      TypeError: for an argument of another type, or a step that does not return a pair.
      ValueError: if the shapes of first, carry and logits do not match, or length or end is out of
        range.

    Example:
      A model that counts, with 4 as the end:

      >>> def count(carry, tokens):
      ...     return carry, jax.nn.one_hot(tokens + 1, 5)
      >>> tokens, lengths = greedy(count, (), jnp.array([0, 2]), length=6, end=4)
      >>> tokens.tolist(), lengths.tolist()
      ([[1, 2, 3, 4, 4, 4], [3, 4, 4, 4, 4, 4]], [3, 1])
    """
    tokens = _generate("greedy", step, carry, first, length, end, lambda t, z: z.argmax(-1))
    return tokens, _lengths(tokens, end)


def sample(
    step: StepFn,
    carry: PyTree,
    first: jax.Array,
    key: jax.Array,
    *,
    length: int,
    temperature: float = 1.0,
    top_p: float | None = None,
    top_k: int | None = None,
    end: int | None = None,
) -> jax.Array:
    """Draws each token from the model's distribution.

    Temperature, top_k and top_p are applied in this order.

    Args:
      step: the model, `step(carry, tokens) -> (carry, logits)`; see `jaxnet.decoding`.
      carry: the carry before the first step.
      first: (batch,) integers, usually the start token; not part of the result.
      key: random key.
      length: steps of the result, at least 1.
      temperature: above 0; the logits are divided by it, so below 1 probable tokens become more
        probable. For temperature 0, use `greedy`.
      top_p: in (0, 1]; draws from the smallest set of most probable tokens whose total probability
        is at least top_p (the nucleus). None means no restriction.
      top_k: 1 to the number of tokens; draws from the k most probable tokens, among equal ones
        those of lower id. None means no restriction.
      end: the token that ends a sequence; None if sequences have no end.

    Returns:
      tokens (batch, length), filled with `end` after the end; -1 as from `greedy`.

    Raises:
      TypeError: for an argument of another type, or a step that does not return a pair.
      ValueError: if an argument is out of range, or the shapes of first, carry and logits do not
        match.

    Example:
      >>> def model(carry, tokens):  # p = 0.5, 0.3, 0.2
      ...     return carry, jnp.log(jnp.array([[0.5, 0.3, 0.2]]))
      >>> draw = jax.jit(lambda key: sample(model, (), jnp.array([0]), key, length=1000, top_p=0.6))
      >>> np.bincount(draw(jax.random.key(0))[0], minlength=3) / 1000  # 5/8, 3/8, 0
      array([0.6..., 0.3..., 0.   ])

    Reference: top_p: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    check_key(key, "sample")
    meaning = "what divides the logits (for 0, write greedy)"
    within("sample", "temperature", temperature, "(0, inf)", meaning)
    if top_p is not None:
        within("sample", "top_p", top_p, "(0, 1]")
    if top_k is not None:
        at_least("sample", "top_k", top_k)

    def draw(t, logits):
        here = jax.random.fold_in(key, t)
        logits = wide(logits) / temperature
        if top_p is None and top_k is None:
            return jax.random.categorical(here, logits)
        if top_k is not None and top_k > logits.shape[-1]:
            most = logits.shape[-1]
            raise ValueError(
                f"sample: top_k must be at most the number of tokens, {most}, got {top_k}"
            )
        order = jnp.argsort(-logits, stable=True)  # (batch, vocabulary), best first
        ranked = jnp.take_along_axis(logits, order, -1)
        if top_k is not None:
            ranked = jnp.where(jnp.arange(ranked.shape[-1]) < top_k, ranked, -jnp.inf)
        if top_p is not None:
            p = jax.nn.softmax(ranked)
            before = jnp.cumsum(p, -1) - p  # 0 for the first, which always stays
            ranked = jnp.where(before < top_p, ranked, -jnp.inf)
        rank = jax.random.categorical(here, ranked)  # (batch,)
        return jnp.take_along_axis(order, rank[:, None], -1)[:, 0]

    return _generate("sample", step, carry, first, length, end, draw)


def beam_search(
    step: StepFn,
    carry: PyTree,
    first: jax.Array,
    *,
    beams: int,
    length: int,
    end: int,
    length_penalty: float = 1.0,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Keeps the `beams` most probable sequences at each step and returns them, best first.

    A sequence that takes `end` is complete and keeps its place, so the beam gets narrower, as in
    the paper. With beams=1, this is `greedy`. The carry is repeated `beams` times and reordered by
    indexing at each step.

    Args:
      step: the model, `step(carry, tokens) -> (carry, logits)`; see `jaxnet.decoding`.
      carry: the carry before the first step, without an axis for beams.
      first: (batch,) integers, usually the start token; not part of the result.
      beams: number of sequences kept per example, at least 1; may exceed the vocabulary.
      length: steps of the result, at least 1.
      end: the token that completes a sequence.
      length_penalty: at least 0; a sequence of n tokens, including `end`, has the score log p /
        n^length_penalty. 1 gives the mean log-probability per token, 0 the sum, which favours short
        sequences.

    Returns:
      tokens (batch, beams, length), best sequence first, filled with `end` after the end; lengths
      (batch, beams), the number of tokens before `end`, or `length` for a sequence that is cut off;
      scores (batch, beams). If there are fewer sequences than beams (with a vocabulary of 3 and a
      length of 1, at most 3), the rest have score -inf and length 0. All scores of an example are
      NaN where a kept beam has logits with NaN, or -inf throughout.

    Raises:
      TypeError: for an argument of another type, or a step that does not return a pair.
      ValueError: if an argument is out of range, or the shapes of first, carry and logits do not
        match.

    Example:
      Greedy takes 1 (0.6), after which every token is improbable; 2 (0.4), then 1, is better.

      >>> def model(carry, tokens):
      ...     p = jnp.array([[0.0, 0.6, 0.4], [0.3, 0.3, 0.4], [0.1, 0.9, 0.0]])[tokens]
      ...     return carry, jnp.log(p)
      >>> start = jnp.array([0])
      >>> tokens, lengths, scores = beam_search(model, (), start, beams=2, length=2, end=0)
      >>> tokens[0].tolist(), np.exp(2 * scores[0]).round(2)
      ([[2, 1], [1, 2]], array([0.36, 0.24], dtype=float32))

    Reference: Sutskever, Vinyals and Le 2014, "Sequence to Sequence Learning", 3.2.
    """
    at_least("beam_search", "beams", beams)
    at_least("beam_search", "end", end, 0)
    within("beam_search", "length_penalty", length_penalty, "[0, inf)")
    carry, first, logits = _check("beam_search", step, carry, first, length, end)
    batch, vocabulary = logits.shape
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    kept = min(beams, vocabulary)  # continuations per beam that can be among the best
    carry = jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), carry)

    def alive(loop):
        t, _, _, _, scores, ended, lost = loop
        return (t < length) & (~ended & (scores > -jnp.inf) & ~lost).any()

    def advance(loop):
        t, carry, last, tokens, scores, ended, lost = loop
        carry, logits = step(carry, last.reshape(-1))
        # Ranks the tokens of a beam by their logits, whose order rounding does not change.
        logits = wide(logits).reshape(batch, beams, vocabulary)
        dead = ~(logits.max(-1) > -jnp.inf)  # NaN is not above
        lost |= (dead & ~ended & (scores > -jnp.inf)).any(-1, keepdims=True)
        best, words = jax.lax.top_k(logits, kept)  # (batch, beams, kept)
        log_p = best - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        # A complete sequence has one continuation, `end` at an unchanged score, always kept.
        only = ended[..., None] & (jnp.arange(kept) > 0)
        total = scores[..., None] + jnp.where(ended[..., None], 0, log_p)
        total = jnp.where(only, -jnp.inf, total)
        words = jnp.where(ended[..., None], end, words)
        rank = jnp.where(ended[..., None] & ~only, jnp.inf, total)

        def flat(a):
            return a.reshape(batch, beams * kept)

        _, place = jax.lax.top_k(flat(rank), beams)  # (batch, beams), among equals the first
        scores = jnp.take_along_axis(flat(total), place, -1)
        last = jnp.take_along_axis(flat(words), place, -1)
        source = place // kept  # the continued beam
        ended = jnp.take_along_axis(ended, source, -1) | (last == end)
        ended &= scores > -jnp.inf  # an empty place is not complete
        tokens = jnp.take_along_axis(tokens, source[..., None], 1).at[..., t].set(last)
        rows = (jnp.arange(batch)[:, None] * beams + source).reshape(-1)
        carry = jax.tree.map(lambda leaf: leaf[rows], carry)
        return t + 1, carry, last, tokens, scores, ended, lost

    start = (
        jnp.int32(0),
        carry,
        jnp.repeat(first[:, None], beams, axis=1),
        jnp.full((batch, beams, length), end, jnp.int32),
        jnp.full((batch, beams), -jnp.inf, dtype).at[:, 0].set(0),  # one empty sequence
        jnp.zeros((batch, beams), bool),
        jnp.zeros((batch, 1), bool),
    )
    _, _, _, tokens, scores, _, lost = jax.lax.while_loop(alive, advance, start)
    tokens = jnp.where(scores[..., None] > -jnp.inf, tokens, end)
    lengths = _lengths(tokens, end)
    counted = jnp.minimum(lengths + 1, length).astype(dtype)  # including `end`
    scores = scores / counted**length_penalty
    scores = jnp.where(lost, jnp.nan, scores)
    order = jnp.argsort(-scores, axis=-1, stable=True)  # (batch, beams)
    return (
        jnp.take_along_axis(tokens, order[..., None], 1),
        jnp.take_along_axis(lengths, order, -1),
        jnp.take_along_axis(scores, order, -1),
    )


def _generate(who: str, step, carry, first, length, end, choose) -> jax.Array:
    """Tokens (batch, length) chosen by `choose(t, logits)`, filled with `end` after the end."""
    carry, first, logits = _check(who, step, carry, first, length, end)
    batch = logits.shape[0]
    fill = 0 if end is None else end

    def going(loop):
        t, _, _, _, ended = loop
        return (t < length) & ~ended.all()

    def advance(loop):
        t, carry, last, tokens, ended = loop
        lost = (last < 0) & (t > 0)
        carry, logits = step(carry, last)
        lost |= ~(logits.max(-1) > -jnp.inf)  # NaN is not above
        last = jnp.where(lost, -1, choose(t, logits))
        last = jnp.where(ended, fill, last).astype(jnp.int32)
        if end is not None:
            ended |= last == end
        return t + 1, carry, last, tokens.at[:, t].set(last), ended

    tokens = jnp.full((batch, length), fill, jnp.int32)
    start = (jnp.int32(0), carry, first, tokens, jnp.zeros(batch, bool))
    return jax.lax.while_loop(going, advance, start)[3]


def _lengths(tokens: jax.Array, end: int | None) -> jax.Array:
    """Number of tokens before the first `end`, along the last axis."""
    if end is None:
        return jnp.full(tokens.shape[:-1], tokens.shape[-1], jnp.int32)
    return (jnp.cumsum(tokens == end, -1) == 0).sum(-1, dtype=jnp.int32)


def _check(who: str, step, carry, first, length, end) -> tuple[PyTree, jax.Array, Any]:
    """The carry as arrays, the first tokens as int32, and the spec of the logits."""
    at_least(who, "length", length)
    a_function(who, "step", step, "(carry, tokens)")
    first = _strong(as_array(who, "first", first, "(batch,)", "integers").astype(jnp.int32))
    batch = first.shape[0]

    def strong(leaf):  # keys, which have no ordinary dtype, remain as they are
        if not isinstance(leaf, jax.Array):
            leaf = as_array(who, "carry", leaf, dtype="booleans or numbers")
        return _strong(leaf)

    carry = jax.tree.map(strong, carry)
    wrong = [leaf.shape for leaf in jax.tree.leaves(carry) if leaf.shape[:1] != (batch,)]
    if wrong:
        raise ValueError(
            f"{who}: expected the batch axis first in every array of the carry, {batch} as in "
            f"first, got {wrong[0]}. Use arrays shared by all sequences inside `step` directly"
        )
    result = jax.eval_shape(step, carry, first)
    check_pair(result, f"{who}: step must return the pair (carry, logits)")
    after, logits = result
    if getattr(logits, "ndim", None) != 2 or logits.shape[0] != batch or not logits.shape[1]:
        raise ValueError(
            f"{who}: step must return (carry, logits) with logits (batch, vocabulary), got logits "
            f"{jax.tree.map(jnp.shape, logits)} for a batch of {batch}"
        )

    def described(tree):
        return jax.tree.map(lambda leaf: f"{leaf.dtype.name}{list(leaf.shape)}", tree)

    if described(after) != described(carry):
        raise ValueError(
            f"{who}: step must return a carry of the shapes and dtypes it is given, "
            f"{described(carry)}, got {described(after)}"
        )
    if end is not None:
        at_least(who, "end", end, 0)
    if end is not None and end >= logits.shape[1]:
        raise ValueError(
            f"{who}: end must be in [0, vocabulary) = [0, {logits.shape[1]}), got {end}"
        )
    return carry, first, logits


def _strong(leaf: jax.Array) -> jax.Array:
    """The leaf without a weak type, which a loop cannot carry."""
    extended = jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    return leaf if extended else jax.lax.convert_element_type(leaf, leaf.dtype)
