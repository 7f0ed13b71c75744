"""From a model of the next token to sequences, and from CTC's outputs to labels.

A model is a function `step(carry, tokens) -> (carry, logits)`: tokens (batch,) are what came last,
logits (batch, vocabulary) say what comes next, and the carry is any pytree of arrays with the batch
axis first, such as a recurrent state, the caches of a transformer, or the memory of an encoder.

Everything here has fixed shapes and runs under `jit`, where it belongs: call it inside a jitted
function of the params and the first carry, so that it compiles once. The loop ends as soon as all
sequences have ended. Sequences of a batch do not influence each other.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
StepFn = Callable[[PyTree, jax.Array], tuple[PyTree, jax.Array]]


def greedy(
    step: StepFn, carry: PyTree, first: jax.Array, *, length: int, end: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """The most probable token at each step; among equals the lowest id.

    Args:
      step: the model, see the module.
      carry: before the first step.
      first: (batch,) integers, mostly the start token; it is not part of the result.
      length: of the result, at least 1.
      end: the token after which a sequence is over; None where there is none.

    Returns:
      tokens (batch, length), which hold `end` from the end on; lengths (batch,), the tokens before
      `end`. A sequence that is cut off has the length `length`.

    Raises:
      ValueError, TypeError: for arguments that do not fit together.

    Example:
      A model that counts on, with 4 as the end:

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
    """Tokens drawn from the model, step by step.

    Each restriction is applied to what the ones before it leave: temperature, top_k, top_p.

    Args:
      step: the model, see the module.
      carry: before the first step.
      first: (batch,) integers; not part of the result.
      key: of the draw.
      length: of the result, at least 1.
      temperature: above 0, divides the logits: below 1 the probable becomes more so. For 0, take
        `greedy`.
      top_p: in (0, 1]: draws among the most probable tokens that together have this probability at
        least, and no more of them than needed (the nucleus); None leaves it out.
      top_k: at least 1: draws among so many of the most probable tokens, of equal ones the lowest
        ids; None leaves it out.
      end: the token after which a sequence is over; None where there is none.

    Returns:
      tokens (batch, length), which hold `end` from the end on.

    Raises:
      ValueError, TypeError: for arguments out of their range, or that do not fit together.

    Example:
      >>> def model(carry, tokens):  # p = 0.5, 0.3, 0.2
      ...     return carry, jnp.log(jnp.array([[0.5, 0.3, 0.2]]))
      >>> draw = jax.jit(lambda key: sample(model, (), jnp.array([0]), key, length=1000, top_p=0.6))
      >>> np.bincount(draw(jax.random.key(0))[0], minlength=3) / 1000  # 5/8, 3/8, 0
      array([0.6..., 0.3..., 0.   ])

    Reference: top_p: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    if not temperature > 0:
        raise ValueError(
            f"sample: temperature must be above 0, got {temperature}; for 0 write greedy"
        )
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"sample: top_p must be in (0, 1], got {top_p}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"sample: top_k must be at least 1, got {top_k}")

    def draw(t, logits):
        here = jax.random.fold_in(key, t)
        logits = _wide(logits) / temperature
        if top_p is None and top_k is None:
            return jax.random.categorical(here, logits)
        order = jnp.argsort(-logits, stable=True)  # (batch, vocabulary), the most probable first
        ranked = jnp.take_along_axis(logits, order, -1)
        if top_k is not None:
            ranked = jnp.where(jnp.arange(ranked.shape[-1]) < top_k, ranked, -jnp.inf)
        if top_p is not None:
            p = jax.nn.softmax(ranked)
            before = jnp.cumsum(p, -1) - p  # so that the first always stays
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
    """The best of many sequences: at each step, the most probable `beams` of all continuations.

    A sequence that takes `end` is complete and keeps one of the places to itself, so the beam gets
    narrower with each, as in the papers. With beams=1 it is `greedy`. The carry is repeated `beams`
    times and reordered by indexing at each step.

    Args:
      step: the model, see the module.
      carry: before the first step, of the batch (without beams).
      first: (batch,) integers, mostly the start token; it is not part of the result.
      beams: number of sequences that are followed for each example, at least 1. It may be larger
        than the vocabulary.
      length: of the result, at least 1.
      end: the token after which a sequence is complete.
      length_penalty: the score is log p / n^length_penalty, with n tokens, `end` among them. 1 is
        the mean of the tokens' log-probabilities, 0 their sum, which favours short sequences.

    Returns:
      tokens (batch, beams, length), the best sequence first, which hold `end` from the end on;
      lengths (batch, beams), the tokens before `end`, or `length` for a sequence that is cut off;
      scores (batch, beams). Where there are fewer sequences than beams (a vocabulary of 3 and a
      length of 1 have no more than 3), the rest have score -inf and length 0.

    Raises:
      ValueError, TypeError: for arguments that do not fit together.

    Example:
      Greedy takes 1 (0.6), after which nothing is likely; 2 (0.4) and then 1 is better.

      >>> def model(carry, tokens):
      ...     p = jnp.array([[0.0, 0.6, 0.4], [0.3, 0.3, 0.4], [0.1, 0.9, 0.0]])[tokens]
      ...     return carry, jnp.log(p)
      >>> start = jnp.array([0])
      >>> tokens, lengths, scores = beam_search(model, (), start, beams=2, length=2, end=0)
      >>> tokens[0].tolist(), np.exp(2 * scores[0]).round(2)
      ([[2, 1], [1, 2]], array([0.36, 0.24], dtype=float32))

    Reference: Sutskever, Vinyals and Le 2014, "Sequence to Sequence Learning", 3.2.
    """
    if beams < 1:
        raise ValueError(f"beam_search: beams must be at least 1, got {beams}")
    carry, first, logits = _check("beam_search", step, carry, first, length, end)
    batch, vocabulary = logits.shape
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    kept = min(beams, vocabulary)  # no beam has more continuations that matter
    carry = jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), carry)

    def alive(loop):
        t, _, _, _, scores, ended = loop
        return (t < length) & (~ended & (scores > -jnp.inf)).any()

    def advance(loop):
        t, carry, last, tokens, scores, ended = loop
        carry, logits = step(carry, last.reshape(-1))
        # The best of each beam are found by their logits, whose order rounding does not touch.
        logits = _wide(logits).reshape(batch, beams, vocabulary)
        best, words = jax.lax.top_k(logits, kept)  # (batch, beams, kept)
        log_p = best - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        # A complete sequence goes on in one way, with `end`, at its score, and is always taken.
        only = ended[..., None] & (jnp.arange(kept) > 0)
        total = scores[..., None] + jnp.where(ended[..., None], 0, log_p)
        total = jnp.where(only, -jnp.inf, total)
        words = jnp.where(ended[..., None], end, words)
        rank = jnp.where(ended[..., None] & ~only, jnp.inf, total)

        def flat(a):
            return a.reshape(batch, beams * kept)

        _, place = jax.lax.top_k(flat(rank), beams)  # (batch, beams), of equals the first
        scores = jnp.take_along_axis(flat(total), place, -1)
        last = jnp.take_along_axis(flat(words), place, -1)
        source = place // kept  # the beam that is continued
        ended = jnp.take_along_axis(ended, source, -1) | (last == end)
        ended &= scores > -jnp.inf  # a place without a sequence is none of a complete one
        tokens = jnp.take_along_axis(tokens, source[..., None], 1).at[..., t].set(last)
        rows = (jnp.arange(batch)[:, None] * beams + source).reshape(-1)
        carry = jax.tree.map(lambda leaf: leaf[rows], carry)
        return t + 1, carry, last, tokens, scores, ended

    start = (
        jnp.int32(0),
        carry,
        jnp.repeat(first[:, None], beams, axis=1),
        jnp.full((batch, beams, length), end, jnp.int32),
        jnp.full((batch, beams), -jnp.inf, dtype).at[:, 0].set(0),  # one sequence, the empty one
        jnp.zeros((batch, beams), bool),
    )
    _, _, _, tokens, scores, _ = jax.lax.while_loop(alive, advance, start)
    tokens = jnp.where(scores[..., None] > -jnp.inf, tokens, end)
    lengths = _lengths(tokens, end)
    counted = jnp.minimum(lengths + 1, length).astype(dtype)  # with the end, if there is one
    scores = scores / counted**length_penalty
    order = jnp.argsort(-scores, axis=-1, stable=True)  # (batch, beams)
    return (
        jnp.take_along_axis(tokens, order[..., None], 1),
        jnp.take_along_axis(lengths, order, -1),
        jnp.take_along_axis(scores, order, -1),
    )


def ctc_greedy(
    logits: jax.Array, lengths: jax.Array | None = None, *, blank: int = 0
) -> tuple[jax.Array, jax.Array]:
    """The labels of the most probable alignment: repeats become one, then blanks are left out.

    Args:
      logits: (batch, steps, classes).
      lengths: (batch,) integers, the steps that count; None where all do. 0 gives no labels.
      blank: the class that means "no label here", as in `jaxnet.losses.ctc`.

    Returns:
      labels (batch, steps), which hold `blank` behind the last label; their numbers (batch,).

    Raises:
      ValueError, TypeError: for shapes that do not belong together, or lengths out of range.

    Example:
      >>> path = jnp.array([[1, 1, 0, 1, 2, 2], [0, 3, 3, 3, 2, 1]])
      >>> labels, n = ctc_greedy(jax.nn.one_hot(path, 4), jnp.array([6, 4]))
      >>> labels.tolist(), n.tolist()
      ([[1, 1, 2, 0, 0, 0], [3, 0, 0, 0, 0, 0]], [3, 1])

    Reference: Graves et al. 2006, "Connectionist Temporal Classification", 3.2.
    """
    lengths = _check_ctc("ctc_greedy", logits, lengths, blank)
    steps = jnp.arange(logits.shape[1])
    path = jnp.where(steps < lengths[:, None], logits.argmax(-1), blank)  # (batch, steps)
    before = jnp.concatenate([jnp.full_like(path[:, :1], blank), path[:, :-1]], 1)
    new = (path != blank) & (path != before)
    order = jnp.argsort(~new, axis=1, stable=True)  # labels to the front, in their order
    labels = jnp.take_along_axis(jnp.where(new, path, blank), order, 1)
    return labels, new.sum(1)


def ctc_beam_search(
    logits: jax.Array, lengths: jax.Array | None = None, *, beams: int, blank: int = 0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The most probable labels, each summed over its alignments (prefix beam search).

    After each step, the `beams` most probable beginnings stay. With as many beams as there are
    beginnings, the sums are exact, and a score is minus the value of `jaxnet.losses.ctc`; with
    fewer, they lack the alignments through what was dropped.

    Args:
      logits: (batch, steps, classes).
      lengths: (batch,) integers, the steps that count; None where all do. With 0 the empty
        sequence has probability 1.
      beams: number of beginnings that are followed, at least 1.
      blank: the class that means "no label here", as in `jaxnet.losses.ctc`.

    Returns:
      labels (batch, beams, steps), the most probable first, which hold `blank` behind the last
      label; their numbers (batch, beams); scores (batch, beams), log-probabilities. Places for
      which there is nothing have score -inf and no labels.

    Raises:
      ValueError, TypeError: for shapes that do not belong together, or lengths out of range.

    Example:
      The most probable alignment is two blanks (0.36), but the label 1 has three (0.64 together).

      >>> logits = jnp.log(jnp.array([[[0.6, 0.4], [0.6, 0.4]]]))
      >>> labels, n, scores = ctc_beam_search(logits, beams=2)
      >>> labels[0, 0].tolist(), np.exp(scores[0]).round(2)
      ([1, 0], array([0.64, 0.36], dtype=float32))
      >>> ctc_greedy(logits)[1].tolist()
      [0]

    Reference: Graves 2008, "Supervised Sequence Labelling with Recurrent Neural Networks", 7.5.2;
    Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech Recognition".
    """
    if beams < 1:
        raise ValueError(f"ctc_beam_search: beams must be at least 1, got {beams}")
    lengths = _check_ctc("ctc_beam_search", logits, lengths, blank)
    log_p = jax.nn.log_softmax(_wide(logits))
    return jax.vmap(partial(_prefixes, beams=beams, blank=blank))(log_p, lengths)


def _prefixes(log_p: jax.Array, length: jax.Array, beams: int, blank: int):
    """`ctc_beam_search` of one example: log_p (steps, classes)."""
    steps, classes = log_p.shape
    places = jnp.arange(steps)

    def advance(loop, now):
        t, y = now  # y (classes,)
        labels, n, ends_blank, ends_label = loop
        total = jnp.logaddexp(ends_blank, ends_label)  # (beams,)
        last = jnp.where(n > 0, labels[jnp.arange(beams), n - 1], blank)
        # As it is: a blank, or the last label once more.
        stay_blank = total + y[blank]
        stay_label = jnp.where(n > 0, ends_label + y[last], -jnp.inf)
        # One label more. The same label again needs a blank between.
        again = jnp.arange(classes) == last[:, None]
        more = jnp.where(again, ends_blank[:, None], total[:, None]) + y  # (beams, classes)
        # A beginning with one label more may be there already: j is i with a label behind it.
        without = jnp.where(places == n[:, None] - 1, blank, labels)
        follows = (without[:, None] == labels).all(-1) & (n[:, None] == n + 1)  # (j, i)
        coming = jnp.where(follows, more[:, last].T, -jnp.inf)  # (j, i)
        stay_label = jnp.logaddexp(stay_label, jax.nn.logsumexp(coming, axis=1))
        there = (follows.T[..., None] & again).any(1)  # (i, classes)
        more = jnp.where(there, -jnp.inf, more)
        # The column of the blank is what stays as it is.
        scores = more.at[:, blank].set(jnp.logaddexp(stay_blank, stay_label))
        best, place = jax.lax.top_k(scores.reshape(-1), min(beams, beams * classes))
        source, label = place // classes, place % classes
        stays = label == blank
        fine = best > -jnp.inf  # else it would stand for a beginning that it is not
        n_new = jnp.where(fine, n[source] + ~stays, 0)
        added = (places == n_new[:, None] - 1) & ~stays[:, None]
        grown = jnp.where(added, label[:, None], labels[source])
        new = (
            jnp.where(fine[:, None], grown, blank),
            n_new,
            jnp.where(stays, stay_blank[source], -jnp.inf),
            jnp.where(stays, stay_label[source], best),
        )
        counts = t < length
        return jax.tree.map(lambda a, b: jnp.where(counts, a, b), new, loop), None

    nothing = jnp.full(beams, -jnp.inf, log_p.dtype)
    start = (
        jnp.full((beams, steps), blank, jnp.int32),
        jnp.zeros(beams, jnp.int32),
        nothing.at[0].set(0),
        nothing,
    )
    if steps:  # without one, not even the shapes of a step are possible
        start, _ = jax.lax.scan(advance, start, (places, log_p))
    labels, n, ends_blank, ends_label = start
    return labels, n, jnp.logaddexp(ends_blank, ends_label)


def _generate(who: str, step, carry, first, length, end, choose) -> jax.Array:
    """Tokens (batch, length) by `choose(t, logits)`, which hold `end` from the end on."""
    carry, first, logits = _check(who, step, carry, first, length, end)
    batch = logits.shape[0]
    fill = 0 if end is None else end

    def going(loop):
        t, _, _, _, ended = loop
        return (t < length) & ~ended.all()

    def advance(loop):
        t, carry, last, tokens, ended = loop
        carry, logits = step(carry, last)
        last = jnp.where(ended, fill, choose(t, logits)).astype(jnp.int32)
        if end is not None:
            ended |= last == end
        return t + 1, carry, last, tokens.at[:, t].set(last), ended

    tokens = jnp.full((batch, length), fill, jnp.int32)
    start = (jnp.int32(0), carry, first, tokens, jnp.zeros(batch, bool))
    return jax.lax.while_loop(going, advance, start)[3]


def _lengths(tokens: jax.Array, end: int | None) -> jax.Array:
    """The tokens before the first `end`, along the last axis."""
    if end is None:
        return jnp.full(tokens.shape[:-1], tokens.shape[-1], jnp.int32)
    return (jnp.cumsum(tokens == end, -1) == 0).sum(-1, dtype=jnp.int32)


def _check(who: str, step, carry, first, length, end) -> tuple[PyTree, jax.Array, Any]:
    """The carry as arrays, the first tokens as int32, and the spec of the logits."""
    if length < 1:
        raise ValueError(f"{who}: length must be at least 1, got {length}")
    if not hasattr(first, "dtype") or not jnp.issubdtype(first.dtype, jnp.integer):
        kind = getattr(first, "dtype", type(first).__name__)
        raise TypeError(
            f"{who}: first must be an array of integers (batch,), got {kind}; write "
            "jnp.full(batch, start_token)"
        )
    if first.ndim != 1:
        raise ValueError(f"{who}: first must be (batch,), one token a sequence, got {first.shape}")
    carry = jax.tree.map(lambda leaf: _strong(jnp.asarray(leaf)), carry)
    first = _strong(jnp.asarray(first, jnp.int32))
    batch = first.shape[0]
    wrong = [leaf.shape for leaf in jax.tree.leaves(carry) if leaf.shape[:1] != (batch,)]
    if wrong:
        raise ValueError(
            f"{who}: every array of the carry needs the batch axis first, {batch} as in first, "
            f"got {wrong[0]}; what all sequences share belongs into the function step itself"
        )
    after, logits = jax.eval_shape(step, carry, first)
    if getattr(logits, "ndim", None) != 2 or logits.shape[0] != batch:
        raise ValueError(
            f"{who}: step must give (carry, logits) with logits (batch, vocabulary), got "
            f"{jax.tree.map(jnp.shape, logits)} for a batch of {batch}"
        )

    def described(tree):
        return jax.tree.map(lambda leaf: f"{leaf.dtype.name}{list(leaf.shape)}", tree)

    if described(after) != described(carry):
        raise ValueError(
            f"{who}: step must give back a carry of the form it was given, {described(carry)}, "
            f"got {described(after)}"
        )
    if end is not None and not 0 <= end < logits.shape[1]:
        raise ValueError(f"{who}: end must be in [0, {logits.shape[1]}), the vocabulary, got {end}")
    return carry, first, logits


def _check_ctc(who: str, logits: Any, lengths: Any, blank: int) -> jax.Array:
    if getattr(logits, "ndim", None) != 3:
        raise ValueError(
            f"{who}: needs logits (batch, steps, classes), got {jnp.shape(logits)}; one example "
            "alone is logits[None]"
        )
    batch, steps, classes = logits.shape
    if not 0 <= blank < classes:
        raise ValueError(f"{who}: blank must be in [0, {classes}), the classes, got {blank}")
    if lengths is None:
        return jnp.full(batch, steps, jnp.int32)
    lengths = jnp.asarray(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"{who}: lengths must be integers, got {lengths.dtype}")
    if lengths.shape != (batch,):
        raise ValueError(f"{who}: lengths must be (batch,) = ({batch},), got {lengths.shape}")
    try:
        known = np.asarray(lengths)
    except jax.errors.TracerArrayConversionError:  # under jit values are not known
        return lengths
    if known.size and not (0 <= known.min() and known.max() <= steps):
        raise ValueError(
            f"{who}: lengths must be in [0, {steps}], the steps of logits, "
            f"got {known.min()} to {known.max()}"
        )
    return lengths


def _strong(leaf: jax.Array) -> jax.Array:
    """Without a weak type, which a loop could not carry."""
    extended = jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    return leaf if extended else jax.lax.convert_element_type(leaf, leaf.dtype)


def _wide(x: jax.Array) -> jax.Array:
    """As float32 at least: bfloat16 has too few digits for sums and logarithms."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
