"""Search in the outputs of a net trained with CTC: greedy and prefix beam search."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.ops.precision import at_least_float32
from jaxnet.services.checks import at_least
from jaxnet.services.checks.steps import read_steps
from jaxnet.services.meshes import on_auto_axes


def ctc_greedy(
    logits: jax.Array, lengths: jax.Array | None = None, *, blank: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Return the labels of the most probable alignment: repeats are merged, then blanks removed.

    Args:
      logits: Logits (batch, steps, classes).
      lengths: Numbers of valid steps, integers (batch,); None means all. Length 0 gives no labels.
      blank: Class that means "no label here", as in `jn.losses.ctc`.

    Returns:
      labels (batch, steps), filled with `blank` after the last label; number of labels (batch,). If
      a valid step does not have a most probable class (NaN, or -inf throughout), or a length is out
      of range inside `jit`, all labels are -1 and their number is `steps`.

    Raises:
      TypeError: If dtypes do not fit.
      ValueError: If shapes do not fit.
      ValueError: If `lengths` or `blank` is out of range.

    Example:
      >>> path = jnp.array([[1, 1, 0, 1, 2, 2], [0, 3, 3, 3, 2, 1]])
      >>> labels, n = ctc_greedy(jax.nn.one_hot(path, 4), jnp.array([6, 4]))
      >>> labels.tolist(), n.tolist()
      ([[1, 1, 2, 0, 0, 0], [3, 0, 0, 0, 0, 0]], [3, 1])

    Reference: Graves et al. 2006, "Connectionist Temporal Classification", 3.2.
    """
    logits, lengths, fine = _read("ctc_greedy", logits, lengths, blank)
    steps = logits.shape[1]
    valid = jnp.arange(steps)[None] < lengths[:, None]
    path = jnp.where(valid, logits.argmax(-1), blank)  # (batch, steps)
    nothing = jnp.full_like(path[:, :1], blank)
    before = jnp.concatenate([nothing, path[:, :-1]], axis=1)
    new = (path != blank) & (path != before)
    order = jnp.argsort(~new, axis=1, stable=True)  # labels first, in their order
    labels = jnp.take_along_axis(jnp.where(new, path, blank), order, axis=1)
    labels = jnp.where(fine[:, None], labels, -1)
    n = jnp.where(fine, new.sum(1), steps)
    return labels, n


@on_auto_axes
def ctc_beam_search(
    logits: jax.Array, lengths: jax.Array | None = None, *, beams: int, blank: int = 0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the most probable label sequences, summed over their alignments (prefix beam search).

    It keeps the `beams` most probable prefixes at each step. With a beam for every prefix the sums
    are exact, and a score is minus the loss `jn.losses.ctc`; with fewer, alignments through dropped
    prefixes are missing from the sums.

    Args:
      logits: Logits (batch, steps, classes).
      lengths: Numbers of valid steps, integers (batch,); None means all. With length 0, the empty
        sequence has probability 1.
      beams: Number of prefixes kept, at least 1.
      blank: Class that means "no label here", as in `jn.losses.ctc`.

    Returns:
      labels (batch, beams, steps), most probable first, filled with `blank` after the last label;
      number of labels (batch, beams); scores (batch, beams), log-probabilities. Beams beyond the
      number of possible sequences have score -inf and zero labels. The scores are NaN for examples
      whose labels from `ctc_greedy` are -1.

    Raises:
      TypeError: If dtypes do not fit.
      ValueError: If shapes do not fit.
      ValueError: If `beams`, `lengths` or `blank` is out of range.

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
    logits, lengths, fine = _read("ctc_beam_search", logits, lengths, blank)
    log_p = jax.nn.log_softmax(at_least_float32(logits))
    search = partial(_search, beams=beams, blank=blank)
    labels, n, scores = jax.vmap(search)(log_p, lengths)
    return labels, n, jnp.where(fine[:, None], scores, jnp.nan)


class _Prefixes(NamedTuple):
    """The prefixes kept at a step.

    Fields:
      labels: Labels of each prefix, (beams, steps), filled with the blank.
      n: Number of labels, (beams,).
      ends_blank: Log-probability of its alignments that end with a blank, (beams,).
      ends_label: Log-probability of its alignments that end with its last label, (beams,).
    """

    labels: jax.Array
    n: jax.Array
    ends_blank: jax.Array
    ends_label: jax.Array

    def total(self) -> jax.Array:
        return jnp.logaddexp(self.ends_blank, self.ends_label)


def _search(log_p: jax.Array, length: jax.Array, beams: int, blank: int):
    """Run `ctc_beam_search` for one example: log_p (steps, classes)."""
    steps = len(log_p)

    def advance(old, now):
        t, y = now
        new = _next_prefixes(old, y, blank)
        unless_padding = jax.tree.map(partial(jnp.where, t < length), new, old)
        return unless_padding, None

    impossible = jnp.full(beams, -jnp.inf, log_p.dtype)
    prefixes = _Prefixes(
        labels=jnp.full((beams, steps), blank, jnp.int32),
        n=jnp.zeros(beams, jnp.int32),
        ends_blank=impossible.at[0].set(0),
        ends_label=impossible,
    )
    if steps:  # scan cannot trace `advance` on labels with no steps
        times = jnp.arange(steps)
        prefixes, _ = jax.lax.scan(advance, prefixes, (times, log_p))
    return prefixes.labels, prefixes.n, prefixes.total()


def _next_prefixes(old: _Prefixes, y: jax.Array, blank: int) -> _Prefixes:
    """Return the best prefixes after a step of log-probabilities y (classes,)."""
    labels, n, ends_blank, ends_label = old
    beams, steps = labels.shape
    classes = len(y)
    places = jnp.arange(steps)[None]
    total = old.total()  # (beams,)
    latest = labels[jnp.arange(beams), n - 1]
    last = jnp.where(n > 0, latest, blank)
    # The prefix is unchanged by a blank, or by the last label repeated.
    stay_blank = total + y[blank]
    stay_label = jnp.where(n > 0, ends_label + y[last], -jnp.inf)
    # The prefix grows by a label. A repeated label needs a blank in between.
    repeats = jnp.arange(classes)[None] == last[:, None]  # (beams, classes)
    before = jnp.where(repeats, ends_blank[:, None], total[:, None])
    more = before + y[None]

    # A grown prefix may exist already: `follows` is True if prefix j is prefix i plus a label.
    without = jnp.where(places == n[:, None] - 1, blank, labels)
    same = (without[:, None] == labels[None]).all(-1)  # (j, i)
    longer = n[:, None] == n[None] + 1
    follows = same & longer
    coming = jnp.where(follows, more[:, last].T, -jnp.inf)  # (j, i)
    stay_label = jnp.logaddexp(stay_label, jax.nn.logsumexp(coming, axis=1))
    there = (follows.T[..., None] & repeats[None]).any(1)  # (i, classes)
    more = jnp.where(there, -jnp.inf, more)

    # The column of the blank holds the unchanged prefixes.
    scores = more.at[:, blank].set(jnp.logaddexp(stay_blank, stay_label))
    best, place = jax.lax.top_k(scores.reshape(-1), beams)
    source = place // classes
    label = place % classes
    stays = label == blank
    fine = best > -jnp.inf  # the other beams are empty
    n = jnp.where(fine, n[source] + ~stays, 0)
    added = (places == n[:, None] - 1) & ~stays[:, None]
    grown = jnp.where(added, label[:, None], labels[source])
    return _Prefixes(
        labels=jnp.where(fine[:, None], grown, blank),
        n=n,
        ends_blank=jnp.where(stays, stay_blank[source], -jnp.inf),
        ends_label=jnp.where(stays, stay_label[source], best),
    )


def _read(who: str, logits: Any, lengths: Any, blank: int) -> tuple[jax.Array, ...]:
    """Return checked logits and lengths, and whether each example has a most probable path
    (batch,)."""
    lengths_or_default = ... if lengths is None else lengths
    logits, lengths = read_steps(who, logits, lengths_or_default, blank, {})
    steps = logits.shape[1]
    has_best = logits.max(-1) > -jnp.inf  # (batch, steps)
    padding = jnp.arange(steps)[None] >= lengths[:, None]
    in_range = (lengths >= 0) & (lengths <= steps)
    fine = (has_best | padding).all(1) & in_range
    return logits, lengths, fine
