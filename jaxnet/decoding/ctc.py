"""Search in the outputs of a net trained with CTC: greedy and prefix beam search."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.checks import at_least
from jaxnet.losses.arrays import wide


def ctc_greedy(
    logits: jax.Array, lengths: jax.Array | None = None, *, blank: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Labels of the most probable alignment: repeats are merged, then blanks removed.

    Args:
      logits: (batch, steps, classes).
      lengths: (batch,) integers, valid steps; None means all. Length 0 gives no labels.
      blank: the class that means "no label here", as in `jn.losses.ctc`.

    Returns:
      labels (batch, steps), filled with `blank` after the last label; number of labels (batch,).

    Raises:
      TypeError: if lengths are not integers.
      ValueError: if the shapes do not match, or lengths or blank are out of range.

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
    order = jnp.argsort(~new, axis=1, stable=True)  # labels first, in their order
    labels = jnp.take_along_axis(jnp.where(new, path, blank), order, 1)
    return labels, new.sum(1)


def ctc_beam_search(
    logits: jax.Array, lengths: jax.Array | None = None, *, beams: int, blank: int = 0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Most probable label sequences, summed over their alignments (prefix beam search).

    Keeps the `beams` most probable prefixes at each step. With a beam for every prefix the sums are
    exact, and a score is minus the loss `jn.losses.ctc`; with fewer, alignments through dropped
    prefixes are missing from the sums.

    Args:
      logits: (batch, steps, classes).
      lengths: (batch,) integers, valid steps; None means all. With length 0, the empty sequence has
        probability 1.
      beams: number of prefixes kept, at least 1.
      blank: the class that means "no label here", as in `jn.losses.ctc`.

    Returns:
      labels (batch, beams, steps), most probable first, filled with `blank` after the last label;
      number of labels (batch, beams); scores (batch, beams), log-probabilities. Beams beyond the
      number of possible sequences have score -inf and no labels.

    Raises:
      TypeError: if lengths are not integers.
      ValueError: if the shapes do not match, or beams, lengths or blank are out of range.

    Example:
      The most probable alignment is two blanks (0.36), but label 1 has three (0.64 together).

      >>> logits = jnp.log(jnp.array([[[0.6, 0.4], [0.6, 0.4]]]))
      >>> labels, n, scores = ctc_beam_search(logits, beams=2)
      >>> labels[0, 0].tolist(), np.exp(scores[0]).round(2)
      ([1, 0], array([0.64, 0.36], dtype=float32))
      >>> ctc_greedy(logits)[1].tolist()
      [0]

    Reference: Graves 2008, "Supervised Sequence Labelling with Recurrent Neural Networks", 7.5.2;
    Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech Recognition".
    """
    at_least("ctc_beam_search", "beams", beams)
    lengths = _check_ctc("ctc_beam_search", logits, lengths, blank)
    log_p = jax.nn.log_softmax(wide(logits))
    return jax.vmap(partial(_prefixes, beams=beams, blank=blank))(log_p, lengths)


def _prefixes(log_p: jax.Array, length: jax.Array, beams: int, blank: int):
    """`ctc_beam_search` for one example: log_p (steps, classes)."""
    steps, classes = log_p.shape
    places = jnp.arange(steps)

    def advance(loop, now):
        t, y = now  # y (classes,)
        labels, n, ends_blank, ends_label = loop
        total = jnp.logaddexp(ends_blank, ends_label)  # (beams,)
        last = jnp.where(n > 0, labels[jnp.arange(beams), n - 1], blank)
        # The prefix is unchanged by a blank, or by the last label repeated.
        stay_blank = total + y[blank]
        stay_label = jnp.where(n > 0, ends_label + y[last], -jnp.inf)
        # The prefix grows by a label. A repeated label needs a blank in between.
        again = jnp.arange(classes) == last[:, None]
        more = jnp.where(again, ends_blank[:, None], total[:, None]) + y  # (beams, classes)
        # A grown prefix may exist already: `follows` where prefix j is prefix i plus a label.
        without = jnp.where(places == n[:, None] - 1, blank, labels)
        follows = (without[:, None] == labels).all(-1) & (n[:, None] == n + 1)  # (j, i)
        coming = jnp.where(follows, more[:, last].T, -jnp.inf)  # (j, i)
        stay_label = jnp.logaddexp(stay_label, jax.nn.logsumexp(coming, axis=1))
        there = (follows.T[..., None] & again).any(1)  # (i, classes)
        more = jnp.where(there, -jnp.inf, more)
        # The column of the blank holds the unchanged prefixes.
        scores = more.at[:, blank].set(jnp.logaddexp(stay_blank, stay_label))
        best, place = jax.lax.top_k(scores.reshape(-1), beams)
        source, label = place // classes, place % classes
        stays = label == blank
        fine = best > -jnp.inf  # other places hold no prefix
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
    if steps:  # scan cannot trace `advance` on labels with no steps
        start, _ = jax.lax.scan(advance, start, (places, log_p))
    labels, n, ends_blank, ends_label = start
    return labels, n, jnp.logaddexp(ends_blank, ends_label)


def _check_ctc(who: str, logits: Any, lengths: Any, blank: int) -> jax.Array:
    if getattr(logits, "ndim", None) != 3:
        raise ValueError(
            f"{who}: expected logits (batch, steps, classes), got {jnp.shape(logits)}. "
            "For a single example, write logits[None]"
        )
    batch, steps, classes = logits.shape
    if not 0 <= blank < classes:
        raise ValueError(f"{who}: blank must be in [0, classes) = [0, {classes}), got {blank}")
    if lengths is None:
        return jnp.full(batch, steps, jnp.int32)
    lengths = jnp.asarray(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"{who}: lengths must be integers, got {lengths.dtype}")
    if lengths.shape != (batch,):
        raise ValueError(f"{who}: lengths must be (batch,) = ({batch},), got {lengths.shape}")
    try:
        known = np.asarray(lengths)
    except jax.errors.TracerArrayConversionError:  # values are unknown under jit
        return lengths
    if known.size and not (0 <= known.min() and known.max() <= steps):
        raise ValueError(
            f"{who}: lengths must be in [0, steps] = [0, {steps}], got {known.min()} to "
            f"{known.max()}"
        )
    return lengths
