"""Padding, buckets and windows: every token where it belongs, none lost, none twice."""

import math

import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.data.sequences import bucketed, overlapping, packed, pad, windows
from tests.helpers import KEY, refuses
from tests.training.conftest import started


def ragged(n=23, longest=9, seed=0, first=1):
    """Sequences of lengths 1 to longest; every number in them is there once."""
    lengths = np.random.default_rng(seed).integers(1, longest + 1, n)
    numbers = np.arange(first, first + lengths.sum())
    return np.split(numbers, np.cumsum(lengths)[:-1])


def unpadded(tokens, lengths):
    """The sequences of a batch."""
    return [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]


# Padding.


def test_pad_by_hand():
    tokens, lengths = pad([[1, 2], [], [3, 4, 5]], length=4, value=9)
    assert tokens.tolist() == [[1, 2, 9, 9], [9, 9, 9, 9], [3, 4, 5, 9]]
    assert lengths.tolist() == [2, 0, 3]
    assert lengths.dtype == np.int32


def test_pad_keeps_further_axes_and_dtype():
    x, _ = pad([np.ones((n, 2), np.float32) for n in (3, 1)])
    assert x.shape == (2, 3, 2)
    assert x.dtype == np.float32
    assert x.sum((1, 2)).tolist() == [6, 2]
    assert pad([[], []])[0].shape == (2, 1)
    x, _ = pad([[0.5]], length=2, value=-np.inf)
    assert x.tolist() == [[0.5, -np.inf]]
    x, _ = pad([[1]], length=2, value=2.0)
    assert x.tolist() == [[1, 2]]


@pytest.mark.parametrize(("sequences", "expected"), [
    ([np.uint8([1]), [300]], np.int64),
    ([np.float32([1]), np.array([300], np.int16)], np.float32),
    ([np.int32([1]), []], np.int32),
    ([[True], [2]], np.int64),
], ids=str)  # fmt: skip
def test_a_dtype_that_holds_all_sequences(sequences, expected):
    """The first one's would make 300 to 44 and 0.5 to 0."""
    x, _ = pad(sequences)
    assert x.dtype == expected
    for row, sequence in zip(x, sequences, strict=True):
        assert row[: len(sequence)].tolist() == np.asarray(sequence).tolist()
    batches = bucketed(sequences, 1, bounds=[9], seed=None)
    assert all(batch[0].dtype == expected for batch in batches)


# Buckets.


def test_every_sequence_is_in_one_batch_of_a_fitting_shape():
    data = ragged()
    batches = bucketed(data, 4, bounds=3, seed=1)
    passes = []
    for _ in range(2):
        seen = []
        widths = set()
        sizes = []
        for tokens, lengths in batches:
            widths.add(tokens.shape[1])
            sizes.append(len(tokens))
            seen += unpadded(tokens, lengths)
            padding = np.arange(tokens.shape[1]) >= lengths[:, None]
            assert not tokens[padding].any()
        assert sorted(map(tuple, seen)) == sorted(tuple(one.tolist()) for one in data)
        assert len(widths) == 3
        assert widths <= {bound for (bound,) in batches.bounds}
        assert sizes == [4, 4, 4, 4, 4, 3]
        assert len(batches) == 6
        passes.append(seen)
    assert passes[0] != passes[1]  # drawn anew
    again = bucketed(data, 4, bounds=3, seed=1)
    again.epoch = 1
    seen = []
    for tokens, lengths in again:
        seen += unpadded(tokens, lengths)
    assert seen == passes[1]


def test_buckets_keep_padding_small():
    data = ragged(200, longest=40)
    whole = bucketed(data, 8, bounds=1)
    four = bucketed(data, 8, bounds=4)
    assert (whole.shapes, four.shapes) == (1, 4)
    assert 0 < four.padding < whole.padding / 2
    room = sum(tokens.size for tokens, _ in four)  # what went up to the next bucket costs a little
    padding = 1 - sum(map(len, data)) / room
    assert four.padding < padding < four.padding + 0.05
    assert sum(four.counts) == 200
    assert max(four.counts) < 100
    *widths, _ = [tokens.shape[1] for tokens, _ in four]
    assert len(widths) == 24
    assert widths != sorted(widths)  # all lengths come mixed


def test_pairs_stay_pairs():
    sources = ragged(30, 9)
    targets = ragged(30, 7, seed=1, first=1001)
    partner = {source[0]: target[0] for source, target in zip(sources, targets, strict=True)}
    number = {source[0]: i for i, source in enumerate(sources)}
    data = (sources, {"y": targets, "n": np.arange(30)})
    batches = bucketed(data, 8, bounds=[4, (6, 7), 9])
    assert batches.bounds == [(4, 4), (6, 7), (9, 9)]
    count = 0
    for (x, x_lengths), rest in batches:
        y, y_lengths = rest["y"]
        assert (x.shape[1], y.shape[1]) in batches.bounds
        assert [partner[a] for a in x[:, 0]] == y[:, 0].tolist()
        assert [number[a] for a in x[:, 0]] == rest["n"].tolist()
        assert x_lengths.max() <= x.shape[1]
        assert y_lengths.max() <= y.shape[1]
        count += len(x)
    assert count == 30


def test_without_a_seed_the_order_is_always_the_same_from_short_to_long():
    batches = bucketed(ragged(), 4, bounds=3, seed=None)
    first = [x.tolist() for x, _ in batches]
    second = [x.tolist() for x, _ in batches]
    assert first == second
    widths = [len(x[0]) for x in first]
    assert widths == sorted(widths)


def test_what_is_too_long_is_dropped_and_counted():
    sequences = [[1] * n for n in (2, 3, 9, 4, 8)]
    batches = bucketed(sequences, 2, bounds=[2, 4], drop_longer=True)
    assert batches.dropped == 2
    assert "2 longer ones dropped" in repr(batches)
    assert sum(len(x) for x, _ in batches) == 3
    assert len(batches) == 2
    assert batches.padding == pytest.approx(1 / 10)  # of 2 + 2 * 4 steps, 2 + 3 + 4 are filled


def test_batches_are_filled_up_with_the_value():
    ((tokens, lengths),) = bucketed([[1, 2, 3], [4], [5, 6]], 3, bounds=1, value=-1)
    padding = np.arange(3) >= lengths[:, None]
    assert (tokens[padding] == -1).all()
    assert (tokens == -1).sum() == 3


@pytest.mark.slow
def test_fit_compiles_once_a_shape_and_says_nothing():
    data = ragged(23, 6)
    labels = np.array([len(s) % 2 for s in data])
    batches = bucketed((data, labels), 4, bounds=2, seed=None)  # passes begin alike
    embedding = jn.layers.time_distributed(jn.embedding(200, 3))
    net = jn.serial(embedding, jn.last_step(), jn.dense(2))
    trainer, train_state = started(net, next(iter(batches)), shapes=batches.shapes)
    for epoch in jn.fit(trainer, train_state, batches, epochs=3):  # warnings are errors
        assert len(epoch.losses) == len(batches) == 6
    assert len(trainer._cache.watcher.traces["fit from batches"]) == batches.shapes == 2


# Windows.


@pytest.mark.parametrize("length", [2, 31])
@pytest.mark.parametrize(("streams", "steps"), [(1, 1), (3, 4), (5, 2), (2, 40)])
def test_windows_predict_every_token_but_the_first_once(length, streams, steps):
    streams = min(streams, length - 1)
    tokens = np.arange(100, 100 + length)
    cut = windows(tokens, streams, steps)
    assert sorted(cut.y[cut.counts]) == list(tokens[1:])
    assert (cut.y[cut.counts] == cut.x[cut.counts] + 1).all()
    assert cut.start.sum() == streams
    assert cut.start[:streams].all()
    # Each row goes on where that of the batch before stopped.
    x = cut.x.reshape(-1, streams, steps)
    counts = cut.counts.reshape(-1, streams, steps)
    least = (length - 1) // streams
    most = math.ceil((length - 1) / streams)
    for stream in range(streams):
        read = x[:, stream][counts[:, stream]]
        assert (np.diff(read) == 1).all()
        assert counts[:-1, stream, -1].all()
        assert least <= len(read) <= most


@pytest.mark.parametrize("length", [2, 30])
@pytest.mark.parametrize(("steps", "fresh"), [(5, 1), (5, 3), (5, 5), (1, 1)])
def test_overlapping_windows_predict_every_token_but_the_first_once(length, steps, fresh):
    tokens = np.arange(100, 100 + length)
    cut = overlapping(tokens, steps, fresh)
    assert cut.y[cut.counts].tolist() == list(tokens[1:])
    assert (cut.y[cut.counts] == cut.x[cut.counts] + 1).all()
    for row in cut.counts[1:]:  # at least steps - fresh tokens of context
        assert 1 <= row.sum() <= fresh
        assert not row[: steps - fresh].any()


def test_packed_rows_hold_every_sequence_once():
    sequences = ragged(57, 9)
    rows = packed(sequences, 11, value=-1)
    found = []
    for x, segments, positions in zip(*rows, strict=True):
        padding = segments == 0
        assert (x[padding] == -1).all()
        assert (positions[padding] == 0).all()
        for number in range(1, segments.max() + 1):
            (here,) = np.where(segments == number)
            assert np.ptp(here) + 1 == len(here)
            assert positions[here].tolist() == list(range(len(here)))
            found.append(x[here].tolist())
    assert sorted(found) == sorted(one.tolist() for one in sequences)
    padded, _ = pad(sequences)
    assert (rows.segments == 0).mean() < 0.05
    assert (padded == 0).mean() > 0.4


@pytest.mark.parametrize("stop", [2, 6, 8])
def test_a_run_resumes_with_the_same_object_or_a_new_one(stop):
    """Passes of six batches, of which the object counts more than the run has used."""

    def forward(m, batch):
        (_, lengths), y = batch
        error = m.param("w", jn.initializers.zeros, ()) - y
        return error**2 + 0 * lengths, {}

    def make():
        targets = np.arange(23.0, dtype=np.float32)
        return bucketed((ragged(), targets), 4, bounds=1, seed=0)

    trainer = jn.trainer(jn.compose(forward, name="mean"), optax.sgd(0.01))

    def run(data, train_state, **options):
        epochs = [*jn.fit(trainer, train_state, data, every=2, progress=False, **options)]
        return {epoch.step: epoch for epoch in epochs}

    data = make()
    start = trainer.init(KEY, next(iter(data)))
    whole = run(data, start, steps=12)
    used = make()
    next(iter(used))
    half = run(used, start, steps=stop)[stop]
    for again in (used, make()):
        end = run(again, half.train_state, steps=12, position=half.position)[12]
        assert end.train_state.params == whole[12].train_state.params


test_refusals = refuses([
    (lambda: pad([[2**60 + 1], [0.5]]), TypeError,
     "^pad: .*float64 and int64, which no dtype holds"),
    (lambda: pad([[1], None]), TypeError, "sequence 1 must be an array of shape .*, got NoneType"),
    (lambda: pad([[[1], [2, 3]]]), TypeError, "sequence 0 must be an array of shape .*, got list"),
    (lambda: pad([[1, 2]], value=0.5), "value must fit the sequences of int64, got 0.5"),
    (lambda: pad([np.uint8([1])], value=-1), "fit the sequences of uint8, got -1"),
    (lambda: pad([np.int8([1])], value=np.nan), "fit the sequences of int8, got nan"),
    (lambda: pad([np.float16([1])], value=1e9), "the sequences of float16, got 1000000000"),
    (lambda: pad([[1]], value=[[1], [1, 2]]), TypeError,
     r"value must be a number, got \[\[1\], \[1, 2\]\]"),
    (lambda: pad([[1]], value="a"), TypeError, "value must be a number, got 'a'"),
    (lambda: pad([]), "at least one sequence"),
    (lambda: pad([[1, 2, 3]], length=2), "3 steps, more than length=2"),
    (lambda: pad([np.ones((2, 3)), np.ones((2, 4))]), "same further axes"),
    (lambda: pad([1, 2]), "steps along the first axis"),
    (lambda: bucketed([[1]], 1, value="a"), TypeError, "^bucketed: "),
    (lambda: bucketed(([[1]], [[1], [2]]), 2), "got list of 1, list of 2"),
    (lambda: bucketed([], 2), "got list of 0"),
    (lambda: bucketed(np.ones((3, 2)), 2), "must be lists of sequences"),
    (lambda: bucketed([[1]], 2, bounds=[4, 2]), "bounds must be at least 1 and increase"),
    (lambda: bucketed([[1]], 2, bounds=[(4, 4)]), "a tuple of 1"),
    (lambda: bucketed(([[1]], [[1]]), 2, bounds=[(5, 4), (6,)]), "a tuple of 2"),
    (lambda: bucketed(([[1]], [[1]]), 2, bounds=[(5, 4), ("a", 3)]), "a tuple of 2"),
    (lambda: bucketed([[1]], 2, bounds=0), "bounds must be at least 1, got 0"),
    (lambda: bucketed([[1] * n for n in (2, 3, 9, 4, 8)], 2, bounds=[2, 4]),
     r"2 of 5 examples are longer than .*\(4,\), the longest"),
    (lambda: bucketed([[1, 1]], 2, bounds=[1], drop_longer=True), "all examples are longer than"),
    (lambda: windows(np.arange(4), 4, 2), "streams must be 1 to 3, one less than the tokens"),
    (lambda: windows(np.ones((4, 2), int), 1, 2), "one sequence of at least two tokens"),
    (lambda: overlapping(np.arange(9), 5, 6), "fresh must be 1 to 5"),
    (lambda: packed(ragged(57), 8), "packed: a sequence has 9 steps, more than length=8"),
])  # fmt: skip


MASKED = np.ma.masked_array([1, 2], [True, False])
MASKED_IMAGE = np.ma.masked_array(np.ones((4, 4, 1)))
MASKED_WAVE = np.ma.masked_array(np.ones(9))


@pytest.mark.parametrize("call", [
    pytest.param(lambda: jn.data.pad([MASKED]), id="pad"),
    pytest.param(lambda: jn.data.split(np.arange(2), 0.5, labels=MASKED), id="split"),
    pytest.param(lambda: jn.data.packed([MASKED], 4), id="packed"),
    pytest.param(lambda: jn.data.bucketed(([[1, 2]], MASKED[:1]), 1), id="bucketed"),
    pytest.param(lambda: jn.data.windows(MASKED, 1, 1), id="windows"),
    pytest.param(lambda: jn.data.patches([MASKED_IMAGE], 2, 1), id="patches"),
    pytest.param(lambda: jn.data.log_mel([MASKED_WAVE], rate=8000), id="log_mel"),
])  # fmt: skip
def test_masked_arrays_would_lose_their_mask(call):
    with pytest.raises(TypeError, match="masked one, whose mask would be lost"):
        call()
