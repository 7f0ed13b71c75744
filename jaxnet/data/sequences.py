"""Sequences of many lengths as arrays of few shapes: padded, bucketed, packed, cut in windows.

A sequence is an array with its steps along the first axis: ids of a text (length,), frames of a
sound (length, features).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

PyTree = Any


def pad(
    sequences: Sequence[Any], *, length: int | None = None, value: Any = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences side by side, filled up at the end, and how long each is.

    This is the form (x, lengths) that layers of sequences take.

    Args:
      sequences: arrays (length, ...) that differ in their lengths alone.
      length: of the result; None takes the longest, or 1 where all are empty.
      value: what the padding holds.

    Returns:
      (n, length, ...) with the dtype of the first, and (n,) int32.

    Raises:
      ValueError: for no sequences, one that is too long, or further axes that differ.

    Example:
      >>> tokens, lengths = pad([[5, 6, 7], [8], [9, 4]])
      >>> tokens.tolist(), lengths.tolist()
      ([[5, 6, 7], [8, 0, 0], [9, 4, 0]], [3, 1, 2])
    """
    arrays = [np.asarray(sequence) for sequence in sequences]
    if not arrays:
        raise ValueError("pad: needs at least one sequence, got none")
    shapes = {array.shape[1:] for array in arrays}
    if any(array.ndim == 0 for array in arrays) or len(shapes) > 1:
        raise ValueError(
            "pad: sequences need their steps along the first axis and the same further axes, got "
            f"shapes such as {' and '.join(map(str, [a.shape for a in arrays][:3]))}"
        )
    lengths = np.array([len(array) for array in arrays], np.int32)
    longest = max(1, int(lengths.max()))
    if length is not None and longest > length:
        raise ValueError(f"pad: a sequence has {longest} steps, more than length={length}")
    out = np.full((len(arrays), length or longest, *shapes.pop()), value, arrays[0].dtype)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out, lengths


def length_mask(lengths: Any, steps: int) -> np.ndarray:
    """(n, steps), True where a step lies in its sequence.

    Args:
      lengths: (n,) integers, as `pad` gives.
      steps: of the padded sequences.

    Example:
      >>> length_mask([3, 1], 4).astype(int).tolist()
      [[1, 1, 1, 0], [1, 0, 0, 0]]
    """
    return np.arange(steps) < np.asarray(lengths)[:, None]


def bucketed(
    data: PyTree,
    batch_size: int,
    *,
    bounds: int | Sequence[int | tuple[int, ...]] = 4,
    drop_longer: bool = False,
    value: Any = 0,
    seed: int | None = 0,
) -> "Bucketed":
    """Batches of sequences of about one length, in few shapes; each pass is drawn anew.

    For `jn.fit`, `jn.evaluate` or a loop. Each batch is padded to the smallest bound that all its
    sequences fit in, so that a step compiles for `shapes` shapes alone; tell that to the step:
    `jn.make_step(objective, optimizer, shapes=batches.shapes)`. What does not fill a batch of its
    bucket goes up to the next one, so that one batch alone, the last, is short; `fit` fills it up.

    Args:
      data: a list of sequences, or a pytree (tuple, dict) whose parts are lists of sequences or
        arrays with one entry an example, such as (sources, targets) or (sounds, labels). A list
        comes out as (x, lengths), see `pad`; an array as its rows.
      batch_size: examples a batch.
      bounds: number of buckets, whose bounds are quantiles of the lengths; or the bounds, rising:
        a number for all lists of sequences, or a tuple of one for each. An example is in the first
        bucket that all its sequences fit in.
      drop_longer: leaves out, and counts, what is longer than the last bound.
      value: what the padding holds.
      seed: of the order; None goes through the buckets from short to long, always the same.

    Raises:
      ValueError: for no examples, parts of several lengths, bounds that do not rise, and sequences
        beyond the last bound unless drop_longer.

    Example:
      >>> german = [[4, 5], [4, 5, 6, 7, 8], [9], [6, 6, 6, 6]]
      >>> english = [[1, 2, 3], [1, 2, 3, 4], [2], [3, 3]]
      >>> batches = bucketed((german, english), 2, bounds=[3, (5, 4)], seed=None)
      >>> batches
      Bucketed of 4 examples in batches of 2: up to 3, 3: 2; up to 5, 4: 2; padding 27%
      >>> for (x, x_lengths), (y, y_lengths) in batches:
      ...     print(x.shape, y.shape, sorted(x_lengths.tolist()))
      (2, 3) (2, 3) [1, 2]
      (2, 5) (2, 4) [4, 5]
    """
    if batch_size < 1:
        raise ValueError(f"bucketed: batch_size must be at least 1, got {batch_size}")
    return Bucketed(data, batch_size, bounds, drop_longer, value, seed)


class Bucketed:
    """What `bucketed` gives: an iterable of batches, to be gone through once an epoch.

    Attributes:
      bounds: of each bucket, one length for each list of sequences.
      shapes: number of shapes that batches may have.
      counts: number of examples in each bucket.
      dropped: number of examples left out.
      padding: share of the steps that is padding, batches of one bucket each.
      epoch: number of passes begun, which with the seed fixes the order of the next one.
    """

    def __init__(
        self,
        data: PyTree,
        batch_size: int,
        bounds: Any,
        drop_longer: bool,
        value: Any,
        seed: int | None,
    ):
        if isinstance(data, list):
            parts, self._tree = [data], None
        else:
            parts, self._tree = jax.tree.flatten(data, is_leaf=lambda d: isinstance(d, list))
        listed = [isinstance(part, list) for part in parts]
        counts = {len(part) for part in parts}
        if not any(listed) or counts == {0} or len(counts) > 1:
            kinds = ", ".join(f"{type(part).__name__} of {len(part)}" for part in parts)
            raise ValueError(
                "bucketed: data must be lists of sequences, and arrays with as many rows beside "
                f"them where there are any, got {kinds or 'nothing'}"
            )
        self._parts = [[np.asarray(s) for s in p] if of else p
                       for p, of in zip(parts, listed, strict=True)]  # fmt: skip
        self._listed, self._batch_size, self._value = listed, batch_size, value
        lengths = np.array(
            [[len(s) for s in p] for p, of in zip(self._parts, listed, strict=True) if of]
        ).T  # (examples, lists)
        self.bounds = _bounds(bounds, lengths)
        fits = np.all(lengths[:, None] <= np.array(self.bounds), axis=-1)  # (examples, buckets)
        longer = ~fits[:, -1]  # bounds rise
        if longer.any() and not drop_longer:
            raise ValueError(
                f"bucketed: {longer.sum()} of {len(longer)} examples are longer than the last "
                f"bound {self.bounds[-1]}, the longest {lengths.max(0).tolist()}; give a larger "
                "one, or leave them out by drop_longer=True, which counts them in .dropped"
            )
        if longer.all():
            raise ValueError(f"bucketed: all examples are longer than {self.bounds[-1]}")
        bucket = fits.argmax(1)
        self._buckets = [np.flatnonzero((bucket == i) & ~longer) for i in range(len(self.bounds))]
        self.counts = [len(rows) for rows in self._buckets]
        self.dropped = int(longer.sum())
        room = sum(n * sum(bound) for n, bound in zip(self.counts, self.bounds, strict=True))
        self.padding = 1 - float(lengths[~longer].sum()) / room
        self.shapes, self.seed, self.epoch = len(self.bounds), seed, 0

    def __len__(self) -> int:
        return -(-sum(self.counts) // self._batch_size)

    def __repr__(self) -> str:
        each = "; ".join(
            f"up to {', '.join(map(str, bound))}: {n}"
            for bound, n in zip(self.bounds, self.counts, strict=True)
        )
        left = f"; {self.dropped} longer ones left out" if self.dropped else ""
        return (
            f"Bucketed of {sum(self.counts)} examples in batches of {self._batch_size}: {each}; "
            f"padding {self.padding:.0%}{left}"
        )

    def __iter__(self) -> Iterator[PyTree]:
        draw = None if self.seed is None else np.random.default_rng((self.seed, self.epoch))
        self.epoch += 1
        chosen: list[tuple[int, np.ndarray]] = []  # bucket, examples
        rest = np.zeros(0, np.int64)
        for i, rows in enumerate(self._buckets):
            rows = np.concatenate([rest, rows if draw is None else draw.permutation(rows)])
            whole = len(rows) - len(rows) % self._batch_size
            chosen += [(i, batch) for batch in rows[:whole].reshape(-1, self._batch_size)]
            rest = rows[whole:]
        if draw is not None:
            chosen = [chosen[i] for i in draw.permutation(len(chosen))]
        if len(rest):  # the last, since fit takes the size of a batch from the first
            chosen.append((len(self.bounds) - 1, rest))
        return (self._batch(i, rows) for i, rows in chosen)

    def _batch(self, bucket: int, rows: np.ndarray) -> PyTree:
        lengths = iter(self.bounds[bucket])
        out = [
            pad([part[row] for row in rows], length=next(lengths), value=self._value)
            if listed
            else np.asarray(part)[rows]
            for part, listed in zip(self._parts, self._listed, strict=True)
        ]
        return out[0] if self._tree is None else self._tree.unflatten(out)


def _bounds(given: Any, lengths: np.ndarray) -> list[tuple[int, ...]]:
    """One length a bucket and list of sequences, from a number of buckets or as given."""
    if isinstance(given, int | np.integer):
        if given < 1:
            raise ValueError(f"bucketed: needs at least one bucket, got bounds={given}")
        shares = np.arange(1, given + 1) / given
        found = np.quantile(lengths, shares, axis=0, method="inverted_cdf")
        # Rows that are alike are one bucket.
        return sorted({tuple(max(1, int(n)) for n in row) for row in found})
    kinds = lengths.shape[1]
    bounds = [(b,) * kinds if isinstance(b, int | np.integer) else tuple(b) for b in given]
    fit = bounds and all(len(b) == kinds and min(b) >= 1 for b in bounds)
    rising = all(
        a != b and all(m <= n for m, n in zip(a, b, strict=True))
        for a, b in zip(bounds, bounds[1:], strict=False)
    )
    if not fit or not rising:
        raise ValueError(
            f"bucketed: bounds must rise from 1 on, each a number or a tuple of {kinds}, one for "
            f"each list of sequences, got {given}"
        )
    return bounds


class Packed(NamedTuple):
    """Several sequences in each row.

    Fields:
      tokens: (rows, length, ...), the sequences one after another, padding at the end.
      segments: (rows, length) int32: 1, 2, ... for the sequences of a row, 0 for padding.
      positions: (rows, length) int32, each step's place in its own sequence; 0 for padding.
      places: (n, 2), row and first step of each sequence, in the order that they were given in.
    """

    tokens: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    places: np.ndarray


def pack(sequences: Sequence[Any], length: int, *, value: Any = 0) -> Packed:
    """Puts several short sequences into each row, so that little is padding.

    Longer ones first, each into the row where it leaves the least room. Give the positions to the
    layer that adds them, and `packed_mask` to attention; then each sequence has the outputs that it
    has alone. Recurrent layers would carry their state from one into the next: bucket for them.

    Args:
      sequences: arrays (steps, ...) of at least one step.
      length: of a row.
      value: what the padding holds.

    Raises:
      ValueError: for no sequences, an empty one, or one longer than a row.

    Example:
      >>> packed = pack([[5, 6], [7, 8, 9], [4]], 5)
      >>> packed.tokens.tolist(), packed.segments.tolist(), packed.positions.tolist()
      ([[7, 8, 9, 5, 6], [4, 0, 0, 0, 0]], [[1, 1, 1, 2, 2], [1, 0, 0, 0, 0]],
       [[0, 1, 2, 0, 1], [0, 0, 0, 0, 0]])
      >>> packed.places.tolist()
      [[0, 3], [0, 0], [1, 0]]
    """
    arrays = [np.asarray(sequence) for sequence in sequences]
    sizes = np.array([len(array) for array in arrays], np.int64)
    if not arrays or sizes.min() < 1 or sizes.max() > length:
        which = f"{sizes.min()} to {sizes.max()} steps" if arrays else "none"
        raise ValueError(f"pack: needs sequences of 1 to {length} steps, got {which}")
    by_room: list[list[int]] = [[] for _ in range(length + 1)]  # rows by the room that is left
    places = np.zeros((len(arrays), 2), np.int64)
    segment = np.zeros(len(arrays), np.int32)
    filled: list[int] = []  # number of sequences in each row
    for i in np.argsort(-sizes, kind="stable"):
        room = next((r for r in range(sizes[i], length + 1) if by_room[r]), length)
        if by_room[room]:
            row = by_room[room].pop()
        else:
            row = len(filled)
            filled.append(0)
        filled[row] += 1
        segment[i], places[i] = filled[row], (row, length - room)
        by_room[room - sizes[i]].append(row)
    tokens = np.full((len(filled), length, *arrays[0].shape[1:]), value, arrays[0].dtype)
    segments, positions = np.zeros((2, len(filled), length), np.int32)
    for array, number, (row, start) in zip(arrays, segment, places, strict=True):
        here = slice(start, start + len(array))
        tokens[row, here], segments[row, here] = array, number
        positions[row, here] = np.arange(len(array))
    return Packed(tokens, segments, positions, places)


def packed_mask(segments: Any) -> Any:
    """(rows, length, length), True where a step may look at another: one of its own sequence.

    The mask of `multi_head_attention` and `transformer_block`, also with causal=True. Padding looks
    nowhere. NumPy arrays in, NumPy out; JAX arrays, also inside jit, likewise.

    Args:
      segments: (rows, length), as `pack` gives.

    Example:
      >>> packed_mask(np.array([[1, 2, 2, 0]])).astype(int)[0].tolist()
      [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    return (segments[:, :, None] == segments[:, None]) & (segments[:, :, None] > 0)


class Windows(NamedTuple):
    """A long sequence cut up, to predict each token from those before.

    Fields:
      x: (windows, steps) tokens.
      y: (windows, steps), the token after each of x.
      counts: (windows, steps) booleans, True where y is to be predicted: every token but the first
        is once.
      start: (windows,) booleans, True where nothing is known of what stands before.
    """

    x: np.ndarray
    y: np.ndarray
    counts: np.ndarray
    start: np.ndarray


def windows(tokens: Any, streams: int, steps: int) -> Windows:
    """Windows that follow each other, for truncated backpropagation with carried state.

    The sequence is cut into as many streams, of one length up to a token. Windows 0 to streams - 1
    are the first of each stream, the next `streams` their second, and so on: batches in this order
    (`jn.fit(..., batch_size=streams, shuffle=False)`) go on in each row where the last one stopped,
    and `start` says where a state must be forgotten. Only the last window of a stream may be
    filled up at its end (with token 0, `counts` False): nothing is left out.

    Args:
      tokens: (length,) integers.
      streams: sequences side by side, at most length - 1.
      steps: of a window.

    Raises:
      ValueError: for a sequence that is too short or has several axes.

    Example:
      >>> cut = windows(np.arange(10, 20), streams=2, steps=3)
      >>> cut.x.tolist(), cut.start.tolist()
      ([[10, 11, 12], [14, 15, 16], [13, 0, 0], [17, 18, 0]], [True, True, False, False])
      >>> cut.y.tolist()
      [[11, 12, 13], [15, 16, 17], [14, 0, 0], [18, 19, 0]]
      >>> int(cut.counts.sum())
      9
    """
    tokens = _long(tokens, "windows")
    pairs = len(tokens) - 1
    if not 1 <= streams <= pairs or steps < 1:
        raise ValueError(
            f"windows: streams must be in [1, {pairs}] for {pairs + 1} tokens and steps at least "
            f"1, got {streams} and {steps}"
        )
    begin = np.arange(streams + 1)[:, None] * pairs // streams  # streams differ by a token at most
    rows = -(-int(np.diff(begin, axis=0).max()) // steps)
    places = begin[:-1] + np.arange(rows * steps)  # (streams, rows * steps)
    counts = places < begin[1:]

    def cut(a):
        return a.reshape(streams, rows, steps).swapaxes(0, 1).reshape(-1, steps)

    x, y = (np.where(counts, tokens[np.minimum(places, pairs - 1) + i], 0) for i in (0, 1))
    start = np.arange(rows * streams) < streams
    return Windows(cut(x), cut(y), cut(counts), start)


def overlapping(tokens: Any, steps: int, fresh: int) -> Windows:
    """Windows that overlap, for a model that sees no further than one window.

    The first predicts all its tokens, each other only its last `fresh` ones, from at least
    steps - fresh tokens before. The last window ends where the sequence does, and predicts what is
    left. So every token but the first is predicted once.

    Args:
      tokens: (length,) integers; fewer than steps + 1 are filled up.
      steps: of a window.
      fresh: tokens by which windows are apart, in [1, steps].

    Raises:
      ValueError: for fewer than two tokens, or fresh out of range.

    Example:
      >>> cut = overlapping(np.arange(10, 20), steps=4, fresh=2)
      >>> cut.x.tolist()
      [[10, 11, 12, 13], [12, 13, 14, 15], [14, 15, 16, 17], [15, 16, 17, 18]]
      >>> np.where(cut.counts, cut.y, 0).tolist()
      [[11, 12, 13, 14], [0, 0, 15, 16], [0, 0, 17, 18], [0, 0, 0, 19]]
    """
    tokens = _long(tokens, "overlapping")
    if not 1 <= fresh <= steps:
        raise ValueError(f"overlapping: fresh must be in [1, {steps}], got {fresh}")
    pairs = len(tokens) - 1
    last = max(0, pairs - steps)  # where the last window begins
    begin = np.minimum(np.arange(0, last + fresh, fresh), last)  # (windows,)
    places = begin[:, None] + np.arange(steps)
    done = np.concatenate([[0], begin[:-1] + steps])  # targets that windows before predict
    counts = (places >= done[:, None]) & (places < pairs)
    x, y = (tokens[np.minimum(places, pairs - 1) + i] for i in (0, 1))
    return Windows(x, y, counts, np.ones(len(begin), bool))


def _long(tokens: Any, who: str) -> np.ndarray:
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or len(tokens) < 2:
        raise ValueError(
            f"{who}: needs one sequence of at least two tokens, (length,), got {tokens.shape}"
        )
    return tokens
