import numpy as np
import pytest

from jaxnet.data import batches, split
from tests.helpers import refuses


def pair(n=7):
    return np.arange(n * 6.0).reshape(n, 2, 3), np.arange(n)


def test_batches_in_order_with_a_short_last_one():
    x, y = pair(7)
    got = list(batches((x, y), 3))
    assert [b[1].tolist() for b in got] == [[0, 1, 2], [3, 4, 5], [6]]
    np.testing.assert_array_equal(np.concatenate([b[0] for b in got]), x)


@pytest.mark.parametrize(("n", "size", "lengths"), [(7, 3, [3, 3]), (6, 3, [3, 3]), (3, 3, [3])])
def test_drop_last(n, size, lengths):
    assert [len(b[1]) for b in batches(pair(n), size, drop_last=True)] == lengths


def test_a_seed_gives_its_order():
    orders = [np.concatenate([b[1] for b in batches(pair(50), 8, seed=s)]) for s in (3, 3, 4)]
    assert (orders[0] == orders[1]).all() and (orders[0] != orders[2]).any()


def test_a_shuffled_pass_without_the_last_batch_leaves_out_others_each_time():
    left = set()
    for seed in range(30):
        seen = {i for batch in batches(pair(7), 3, seed=seed, drop_last=True) for i in batch[1]}
        left |= set(range(7)) - seen
    assert len(left) > 3


def test_split_keeps_the_order():
    (_, b), (_, d) = split(pair(20), 0.3)
    assert (np.diff(b) > 0).all() and (np.diff(d) > 0).all()


def test_split_is_a_function_of_its_seed():
    parts = [split(np.arange(1000), 0.2, seed=s)[1] for s in (0, 0, 1)]
    assert (parts[0] == parts[1]).all() and (parts[0] != parts[2]).any()
    assert split(np.arange(12), 0.25)[1].tolist() == [2, 7, 9]  # numpy 2.4.6, PCG64


def test_split_gives_every_class_its_share():
    labels = np.repeat([0, 1, 2], [100, 40, 10])
    for seed in range(5):
        _, held = split(labels, 0.2, seed=seed, labels=labels)
        assert np.bincount(held).tolist() == [20, 8, 2]
    by_chance = {tuple(np.bincount(split(labels, 0.2, seed=s)[1], minlength=3)) for s in range(9)}
    assert len(by_chance) > 1


def test_split_draws_within_a_class_at_random():
    held = [split(np.arange(30), 0.2, seed=s, labels=np.zeros(30, int))[1] for s in range(40)]
    assert set(np.concatenate(held)) == set(range(30))


test_refusals = refuses([
    # not at the first batch
    (lambda: batches(pair(), 0), "batch_size must be at least 1, got 0"),
    (lambda: batches(pair(), 8, drop_last=True), "7 examples give no full batch of 8"),
    (lambda: batches((np.zeros(3), np.zeros(4)), 2),
     "batches: all arrays must have the same leading dimension"),
    (lambda: split(pair(), 0), r"in \(0, 1\), got 0"),
    (lambda: split(pair(), 1), r"in \(0, 1\), got 1"),
    (lambda: split(pair(), np.nan), "split: share is the part to hold out"),
    (lambda: split(pair(), 0.01), "0.01 of 7 examples leaves a part empty.*at least 0.14"),
    (lambda: split(pair(), 0.1, labels=np.arange(7) // 2), "leaves a part empty.*at least 0.5"),
    (lambda: split(pair(), 0.99), "0.99 of 7 examples leaves a part empty.*at most 0.86"),
    (lambda: split(pair(), labels=np.zeros(6)), r"one class per example, \(7,\), got \(6,\)"),
    (lambda: split(pair(), labels=3), "split: labels must hold one class per example, .* got int"),
    (lambda: split(pair(), labels=np.array([None] * 7)), "labels must hold one class per example"),
])  # fmt: skip


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_split_keeps_rare_classes_in_both_parts(share):
    labels = np.array(["a"] * 20 + ["b"] * 2 + ["c"])
    rest, held = split(labels, share, labels=labels)
    assert sorted(set(rest)) == ["a", "b", "c"] and sorted(set(held)) == ["a", "b"]


def test_values_are_not_looked_at():
    assert all(np.isnan(part).all() for part in split(np.full(9, np.nan)))
    assert len(list(batches(np.full((9, 2), np.inf), 2))) == 5
