"""Converts sequences of different lengths to arrays of few shapes: padding, buckets, windows.

A sequence is an array with its steps along the first axis: ids of a text (length,), frames of a
sound (length, features).
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.checks import as_rows, at_least, between, check_list, check_options, on_host
from jaxnet.services.trees import PyTree


def pad(
    sequences: Sequence[Any], *, length: int | None = None, value: Any = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Pad sequences at the end to one array, and return their lengths as well.

    The result has the form (x, lengths) of the input of recurrent and other sequence layers.

    Args:
      sequences: Arrays (length, ...) whose further axes are the same.
      length: Length of the result; by default the largest length, at least 1.
      value: Value of the padding.

    Returns:
      x (n, length, ...) with a dtype that holds all sequences, and lengths (n,) int32.

    Raises:
      TypeError: If a sequence is not an array or a list of numbers.
      TypeError: If the dtypes of the sequences do not have a common dtype that holds all values.
      ValueError: If `sequences` is empty, or if a sequence is longer than `length`.
      ValueError: If the further axes differ.
      ValueError: If `value` does not fit the dtype of the sequences.

    Example:
      >>> tokens, lengths = pad([[5, 6, 7], [8], [9, 4]])
      >>> tokens.tolist(), lengths.tolist()
      ([[5, 6, 7], [8, 0, 0], [9, 4, 0]], [3, 1, 2])
    """
    arrays = _sequences("pad", sequences, value)
    longest = max(1, *map(len, arrays))
    at_least("pad", "length", length, optional=True)
    if length is not None and longest > length:
        raise ValueError(
            f"pad: a sequence has {longest} steps, more than length={length}; cut them, as in "
            f"[one[:{length}] for one in sequences]"
        )
    return _padded(arrays, length or longest, value)


class Packed(NamedTuple):
    """Rows of several sequences each.

    Fields:
      x: Sequences one after another and then padding, (rows, length, ...).
      segments: Number of each step's sequence in its row, 1, 2, ..., and 0 for padding,
        (rows, length) int32.
      positions: Position of each step in its sequence, (rows, length) int32.
    """

    x: np.ndarray
    segments: np.ndarray
    positions: np.ndarray


def packed(sequences: Sequence[Any], length: int, *, value: Any = 0) -> Packed:
    """Pack sequences into rows of one length, with little padding.

    Each sequence goes as a whole into the row where it leaves the least room, from the longest
    sequence to the shortest. `jn.segment_mask(segments)` keeps attention within the sequences, and
    layers of positions take (x, positions). With causal attention every sequence gets the outputs
    that it gets alone.

    Args:
      sequences: Arrays (steps, ...) whose further axes are the same.
      length: Number of steps per row, at least the length of the longest sequence.
      value: Value of the padding.

    Returns:
      `Packed` rows x (rows, length, ...), their segments (rows, length), 1, 2, ... and 0 for
      padding, and the positions within each sequence (rows, length).

    Raises:
      TypeError: If `sequences` is not a list of arrays or of lists of numbers.
      ValueError: If a sequence is longer than `length`.
      TypeError, ValueError: As in `pad`.

    Example:
      >>> rows = packed([[5, 6, 7], [8], [9, 4]], 4)
      >>> rows.x.tolist(), rows.segments.tolist()
      ([[5, 6, 7, 8], [9, 4, 0, 0]], [[1, 1, 1, 2], [1, 1, 0, 0]])
      >>> rows.positions.tolist()
      [[0, 1, 2, 0], [0, 1, 0, 0]]

    Reference: Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination".
    """
    at_least("packed", "length", length)
    arrays = _sequences("packed", sequences, value)
    longest = max(len(array) for array in arrays)
    if longest > length:
        raise ValueError(
            f"packed: a sequence has {longest} steps, more than length={length}; cut it into parts"
        )
    rows = _rows_of(arrays, length)
    shape = max(len(rows), 1), length
    x = np.full((*shape, *arrays[0].shape[1:]), value, arrays[0].dtype)
    segments = np.zeros(shape, np.int32)
    positions = np.zeros(shape, np.int32)
    for i, row in enumerate(rows):
        lengths = [len(array) for array in row]
        used = slice(sum(lengths))
        x[i, used] = np.concatenate(row)
        segments[i, used] = np.repeat(np.arange(len(row)) + 1, lengths)
        positions[i, used] = np.concatenate([np.arange(n) for n in lengths])
    return Packed(x, segments, positions)


def _rows_of(arrays: list[np.ndarray], length: int) -> list[list[np.ndarray]]:
    """Return the sequences of each row, from the longest to the shortest."""
    rows: list[list[np.ndarray]] = []
    by_room: list[list[int]] = [[] for _ in range(length + 1)]  # rows with that much room
    for array in sorted(filter(len, arrays), key=len, reverse=True):
        room = next((n for n in range(len(array), length) if by_room[n]), length)
        if room == length:
            rows.append([])
            by_room[length].append(len(rows) - 1)
        row = by_room[room].pop()
        rows[row].append(array)
        by_room[room - len(array)].append(row)
    return rows


def _padded(arrays: list[np.ndarray], length: int, value: Any) -> tuple[np.ndarray, np.ndarray]:
    out = np.full((len(arrays), length, *arrays[0].shape[1:]), value, arrays[0].dtype)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out, np.array([len(array) for array in arrays], np.int32)


def _sequences(who: str, sequences: Any, value: Any) -> list[np.ndarray]:
    """Return the sequences as arrays of one dtype, which holds the values of all, and `value`."""
    listed = check_list(who, "sequences", sequences, "sequences")
    arrays = []
    for i, one in enumerate(listed):
        arrays.append(on_host(who, f"sequence {i}", one, dtype="booleans or numbers"))
    if not arrays:
        raise ValueError(f"{who}: expected at least one sequence, got none")
    if any(array.ndim == 0 for array in arrays) or len({array.shape[1:] for array in arrays}) > 1:
        shapes = " and ".join(str(array.shape) for array in arrays[:3])
        raise ValueError(
            f"{who}: sequences must have their steps along the first axis and the same further "
            f"axes, got shapes such as {shapes}"
        )
    # An empty list does not change the common dtype.
    dtypes = {array.dtype for array in arrays if array.size} or {arrays[0].dtype}
    common = np.result_type(*dtypes)
    if not all(_holds(common, array) for array in arrays):
        raise TypeError(
            f"{who}: the sequences hold {' and '.join(sorted(map(str, dtypes)))}, which no dtype "
            "holds without loss; write np.asarray(sequence, dtype) for each"
        )
    _check_value(who, value, common)
    return [array.astype(common, copy=False) for array in arrays]


def _holds(dtype: np.dtype, array: np.ndarray) -> bool:
    """Return whether integers keep their values in a dtype; floats may be rounded."""
    if array.dtype.kind not in "iu" or array.dtype == dtype:
        return True
    back = array.astype(dtype).astype(array.dtype)
    return bool((back == array).all())


def _check_value(who: str, value: Any, dtype: np.dtype) -> None:
    """Raise if the sequences' dtype would change the padding, such as 0.5 to 0 or 300 to 44."""
    try:
        padding = np.asarray(value)
    except (TypeError, ValueError):  # a random key, or lists of different lengths
        padding = np.array(None)
    kinds = np.bool_, jnp.integer, jnp.floating
    if padding.ndim or not any(jnp.issubdtype(padding.dtype, kind) for kind in kinds):
        raise TypeError(f"{who}: value must be a number, got {value!r:.60}")
    with np.errstate(all="ignore"):
        cast = padding.astype(dtype)
    if dtype.kind in "biu":
        same = cast == padding
    else:  # floats are rounded, but not to infinity
        same = np.isfinite(cast.astype(float)) == np.isfinite(padding)
    if not same.all():
        raise ValueError(f"{who}: value must fit the sequences of {dtype}, got {value}")


def bucketed(
    data: PyTree,
    batch_size: int,
    *,
    bounds: int | Sequence[int | tuple[int, ...]] = 4,
    drop_longer: bool = False,
    value: Any = 0,
    seed: int | None = 0,
) -> "Bucketed":
    """Return batches of sequences of similar lengths, in few shapes, shuffled for each pass.

    Pass them to `jn.fit`, `jn.evaluate` or a loop. Each batch is padded to the bound of its bucket,
    so a step compiles for `shapes` shapes only; pass their number to the trainer:
    `jn.trainer(objective, optimizer, shapes=batches.shapes)`. Examples that do not fill a batch of
    their bucket move up to the next one, so only the last batch is smaller; `fit` pads it.

    Args:
      data: List of sequences, or a pytree (tuple, dict) whose parts are lists of sequences or
        arrays with one row per example, such as (sources, targets) or (sounds, labels). A list
        becomes (x, lengths), see `pad`; a batch of an array has the rows of its examples.
      batch_size: Number of examples per batch.
      bounds: Number of buckets, with quantiles of the lengths as bounds; or the increasing bounds:
        a number for all lists of sequences, or a tuple with one per list. An example belongs to the
        first bucket that is long enough for all its sequences.
      drop_longer: Whether to drop, and count, examples longer than the last bound.
      value: Value of the padding.
      seed: Seed of the order; None gives the same order at each pass, from short to long.

    Returns:
      A `Bucketed` iterable, which starts again for each pass and prints its buckets. Its `shapes`
      is the number of shapes.

    Raises:
      TypeError, ValueError: As in `pad`.
      ValueError: If `data` has zero examples, or if its parts have different lengths.
      ValueError: If `bounds` do not increase.
      ValueError: If a sequence is longer than the last bound, without `drop_longer`.

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
    at_least("bucketed", "batch_size", batch_size)
    check_options("bucketed", drop_longer=drop_longer)
    at_least("bucketed", "seed", seed, 0, optional=True)
    return Bucketed(data, batch_size, bounds, drop_longer, value, seed)


class Bucketed:
    """An iterable of batches, one pass per epoch, see `bucketed`.

    Attributes:
      bounds: Bounds of each bucket, one length per list of sequences.
      shapes: Number of shapes of batches.
      counts: Number of examples in each bucket.
      dropped: Number of examples dropped.
      padding: Fraction of the steps that is padding, for batches of one bucket each.
      epoch: Number of passes begun, which determines the next order together with the seed.
    """

    def __init__(self, data: PyTree, batch_size: int, bounds: Any, drop_longer, value, seed):
        parts, self._tree = jax.tree.flatten(data, is_leaf=_is_list)
        _check_parts(parts)
        self._batch_size = batch_size
        self._value = value
        self._parts = []
        for part in parts:
            if _is_list(part):
                self._parts.append(_sequences("bucketed", part, value))
            else:
                self._parts.append(as_rows(part, "bucketed", finite=False))
        lists = [part for part in self._parts if _is_list(part)]
        lengths = np.array([[len(one) for one in part] for part in lists]).T  # (examples, lists)
        self.bounds = _bounds(bounds, lengths)
        fits = np.all(lengths[:, None] <= np.array(self.bounds), axis=-1)  # (examples, buckets)
        longer = ~fits[:, -1]  # bounds increase
        if longer.any() and not drop_longer:
            raise ValueError(
                f"bucketed: {longer.sum()} of {len(longer)} examples are longer than the last "
                f"bound {self.bounds[-1]}, the longest {lengths.max(0).tolist()}; pass a larger "
                "bound, or drop them with drop_longer=True, which counts them in .dropped"
            )
        if longer.all():
            raise ValueError(f"bucketed: all examples are longer than {self.bounds[-1]}")
        bucket = fits.argmax(1)
        self._buckets = [np.flatnonzero((bucket == i) & ~longer) for i in range(len(self.bounds))]
        self.counts = [len(rows) for rows in self._buckets]
        self.dropped = int(longer.sum())
        room = sum(n * sum(bound) for n, bound in zip(self.counts, self.bounds, strict=True))
        self.padding = 1 - float(lengths[~longer].sum()) / room
        self.shapes = len(self.bounds)
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(sum(self.counts) / self._batch_size)

    def __repr__(self) -> str:
        buckets = []
        for bound, count in zip(self.bounds, self.counts, strict=True):
            buckets.append(f"up to {', '.join(map(str, bound))}: {count}")
        left = f"; {self.dropped} longer ones dropped" if self.dropped else ""
        return (
            f"Bucketed of {sum(self.counts)} examples in batches of {self._batch_size}: "
            f"{'; '.join(buckets)}; padding {self.padding:.0%}{left}"
        )

    def __iter__(self) -> "_Pass":
        self.epoch += 1
        return _Pass(self, self.epoch - 1)

    def chosen(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """Return the bucket and the examples of each batch of a pass."""
        draw = None if self.seed is None else np.random.default_rng((self.seed, epoch))
        chosen: list[tuple[int, np.ndarray]] = []  # bucket, examples
        rest = np.zeros(0, np.int64)
        for i, rows in enumerate(self._buckets):
            if draw is not None:
                rows = draw.permutation(rows)
            rows = np.concatenate([rest, rows])
            full = len(rows) - len(rows) % self._batch_size
            chosen += [(i, batch) for batch in rows[:full].reshape(-1, self._batch_size)]
            rest = rows[full:]
        if draw is not None:
            chosen = [chosen[i] for i in draw.permutation(len(chosen))]
        # The smaller batch is last, since fit takes the batch size from the first batch.
        if len(rest):
            chosen.append((len(self.bounds) - 1, rest))
        return chosen

    def batch(self, bucket: int, rows: np.ndarray) -> PyTree:
        lengths = iter(self.bounds[bucket])

        def chosen(part):
            if not _is_list(part):
                return part[rows]
            return _padded([part[row] for row in rows], next(lengths), self._value)

        return self._tree.unflatten(map(chosen, self._parts))


class _Pass(Iterator):
    """One pass over a `Bucketed`, which `fit` resumes by its state, also between two passes."""

    counts_passes = True

    def __init__(self, of: Bucketed, epoch: int):
        self._of = of
        self._epoch = epoch
        self._chosen = of.chosen(epoch)
        self._done = 0

    def __next__(self) -> PyTree:
        if self._done == len(self._chosen):
            raise StopIteration
        bucket, rows = self._chosen[self._done]
        self._done += 1
        return self._of.batch(bucket, rows)

    def get_state(self) -> dict[str, int]:
        return {"epoch": self._epoch, "done": self._done}

    def set_state(self, state: dict[str, int]) -> None:
        self.__init__(self._of, state["epoch"])  # type: ignore[misc]
        self._done = state["done"]
        self._of.epoch = state["epoch"] + 1


def _check_parts(parts: list[Any]) -> None:
    counts = {len(part) if _is_list(part) or np.ndim(part) else -1 for part in parts}
    if not any(map(_is_list, parts)) or counts & {0, -1} or len(counts) > 1:
        kinds = []
        for part in parts:
            size = len(part) if _is_list(part) else np.shape(part)
            kinds.append(f"{type(part).__name__} of {size}")
        raise ValueError(
            "bucketed: data must be lists of sequences, and arrays with the same number of "
            f"rows, got {', '.join(kinds) or 'nothing'}"
        )


def _is_list(part: Any) -> bool:
    return isinstance(part, list)


def _bounds(wanted: Any, lengths: np.ndarray) -> list[tuple[int, ...]]:
    """Return one length per bucket and list, from a number of buckets or as given."""
    if not isinstance(wanted, list | tuple):
        at_least("bucketed", "bounds", wanted)
        fractions = np.arange(1, wanted + 1) / wanted
        quantiles = np.quantile(lengths, fractions, axis=0, method="inverted_cdf")
        # Buckets with equal bounds are merged.
        return sorted({tuple(max(1, int(n)) for n in row) for row in quantiles})
    kinds = lengths.shape[1]
    bounds = [tuple(b) if isinstance(b, list | tuple) else (b,) * kinds for b in wanted]
    are_integers = all(isinstance(n, int | np.integer) for bound in bounds for n in bound)
    fit = bounds and are_integers and all(len(b) == kinds and min(b) >= 1 for b in bounds)
    if not fit or not all(_increases(low, high) for low, high in itertools.pairwise(bounds)):
        raise ValueError(
            f"bucketed: bounds must be at least 1 and increase, each a number or a tuple of "
            f"{kinds}, one per list of sequences, got {wanted}"
        )
    return bounds


def _increases(low: tuple[int, ...], high: tuple[int, ...]) -> bool:
    return low != high and not np.greater(low, high).any()


class Windows(NamedTuple):
    """A long sequence cut into windows, to predict each token from the previous ones.

    Fields:
      x: Tokens (windows, steps).
      y: Token after each token of x, (windows, steps).
      counts: Booleans (windows, steps), True where y is to be predicted: every token but the first
        exactly once.
      start: Booleans (windows,), True for a window without context.
    """

    x: np.ndarray
    y: np.ndarray
    counts: np.ndarray
    start: np.ndarray


def windows(tokens: Any, streams: int, steps: int) -> Windows:
    """Cut a long sequence into consecutive windows.

    Use them for truncated backpropagation through time (`jn.training.truncated_bptt`). The sequence
    is cut into streams whose lengths differ by at most one token. Windows 0 to streams - 1 are the
    first of each stream, the next `streams` windows the second, and so on. In this order
    (`jn.fit(..., batch_size=streams, shuffle=False)`) each row of a batch continues the same row of
    the previous batch, and `start` marks the rows whose state must be reset. Every token is kept;
    the last window of a stream may be padded (with token 0, `counts` False).

    Args:
      tokens: Integers (length,).
      streams: Number of streams, at most length - 1.
      steps: Number of steps per window.

    Returns:
      `Windows` of inputs x and next tokens y (windows, steps), whether each token counts (windows,
      steps), and whether each window starts a stream (windows,).

    Raises:
      TypeError: If `tokens` are not numbers.
      ValueError: If `tokens` is too short or not one-dimensional.

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
    between("windows", "streams", streams, 1, pairs, "one less than the tokens")
    at_least("windows", "steps", steps)
    begin = np.arange(streams + 1)[:, None] * pairs // streams  # lengths differ by at most 1
    longest = int(np.diff(begin, axis=0).max())
    rows = math.ceil(longest / steps)
    places = begin[:-1] + np.arange(rows * steps)  # (streams, rows * steps)
    counts = places < begin[1:]

    def cut(a):
        return a.reshape(streams, rows, steps).swapaxes(0, 1).reshape(-1, steps)

    within = np.minimum(places, pairs - 1)
    x = np.where(counts, tokens[within], 0)
    y = np.where(counts, tokens[within + 1], 0)
    is_first = np.arange(rows * streams) < streams
    return Windows(cut(x), cut(y), cut(counts), is_first)


def overlapping(tokens: Any, steps: int, fresh: int) -> Windows:
    """Cut a long sequence into overlapping windows, for a model whose context is one window.

    The first window predicts all its tokens. Every other window predicts only its last `fresh`
    tokens, each from at least steps - fresh previous tokens. The last window ends at the end of the
    sequence and predicts the rest. So every token but the first is predicted once.

    Args:
      tokens: Integers (length,); fewer than steps + 1 are padded.
      steps: Number of steps per window.
      fresh: Distance between windows in tokens, in [1, steps].

    Returns:
      `Windows`, as `windows` returns them; only the tokens with `counts` are predicted.

    Raises:
      TypeError: If `tokens` are not numbers.
      ValueError: If `tokens` has fewer than two entries.
      ValueError: If `fresh` is outside [1, steps].

    Example:
      >>> cut = overlapping(np.arange(10, 20), steps=4, fresh=2)
      >>> cut.x.tolist()
      [[10, 11, 12, 13], [12, 13, 14, 15], [14, 15, 16, 17], [15, 16, 17, 18]]
      >>> np.where(cut.counts, cut.y, 0).tolist()
      [[11, 12, 13, 14], [0, 0, 15, 16], [0, 0, 17, 18], [0, 0, 0, 19]]
    """
    tokens = _long(tokens, "overlapping")
    at_least("overlapping", "steps", steps)
    between("overlapping", "fresh", fresh, 1, steps, "the number of steps")
    pairs = len(tokens) - 1
    last = max(0, pairs - steps)  # the beginning of the last window
    begin = np.minimum(np.arange(0, last + fresh, fresh), last)  # (windows,)
    places = begin[:, None] + np.arange(steps)
    done = np.concatenate([[0], begin[:-1] + steps])  # targets that earlier windows predict
    counts = (places >= done[:, None]) & (places < pairs)
    within = np.minimum(places, pairs - 1)
    no_context = np.ones(len(begin), bool)
    return Windows(tokens[within], tokens[within + 1], counts, no_context)


def _long(tokens: Any, who: str) -> np.ndarray:
    tokens = on_host(who, "tokens", tokens, dtype="numbers")
    if tokens.ndim != 1 or len(tokens) < 2:
        raise ValueError(
            f"{who}: expected one sequence of at least two tokens, (length,), got {tokens.shape}"
        )
    return tokens
