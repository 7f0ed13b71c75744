import numpy as np
import pytest

from jaxnet.data import batches, split
from tests.helpers import refuses


def pair(n=7):
    x = np.arange(n * 6.0).reshape(n, 2, 3)
    return x, np.arange(n)


def test_batches_in_order_with_a_short_last_one():
    x, y = pair(7)
    got = list(batches((x, y), 3))
    assert [y.tolist() for _, y in got] == [[0, 1, 2], [3, 4, 5], [6]]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in got]), x)


@pytest.mark.parametrize(("n", "size", "lengths"), [(7, 3, [3, 3]), (6, 3, [3, 3]), (3, 3, [3])])
def test_drop_last(n, size, lengths):
    got = batches(pair(n), size, drop_last=True)
    assert [len(y) for _, y in got] == lengths


def test_a_seed_gives_its_order():

    def order(seed):
        return np.concatenate([y for _, y in batches(pair(50), 8, seed=seed)])

    assert (order(3) == order(3)).all()
    assert (order(3) != order(4)).any()


def test_a_shuffled_pass_without_the_last_batch_leaves_out_others_each_time():
    left = set()
    for seed in range(30):
        seen = {i for batch in batches(pair(7), 3, seed=seed, drop_last=True) for i in batch[1]}
        left |= set(range(7)) - seen
    assert len(left) > 3


def test_split_keeps_the_order():
    (_, b), (_, d) = split(pair(20), 0.3)
    assert (np.diff(b) > 0).all()
    assert (np.diff(d) > 0).all()


def test_split_is_a_function_of_its_seed():

    def held(seed):
        return split(np.arange(1000), 0.2, seed=seed)[1]

    assert (held(0) == held(0)).all()
    assert (held(0) != held(1)).any()
    _, few = split(np.arange(12), 0.25)
    assert few.tolist() == [2, 7, 9]  # numpy 2.4.6, PCG64


def test_split_gives_every_class_its_share():
    labels = np.repeat([0, 1, 2], [100, 40, 10])
    for seed in range(5):
        _, held = split(labels, 0.2, seed=seed, labels=labels)
        assert np.bincount(held).tolist() == [20, 8, 2]
    by_chance = set()
    for seed in range(9):
        _, held = split(labels, 0.2, seed=seed)
        by_chance.add(tuple(np.bincount(held, minlength=3)))
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
    (lambda: split(pair(), np.nan), "split: test_fraction is the part to hold out"),
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
    assert sorted(set(rest)) == ["a", "b", "c"]
    assert sorted(set(held)) == ["a", "b"]


def test_values_are_not_looked_at():
    for part in split(np.full(9, np.nan)):
        assert np.isnan(part).all()
    assert len(list(batches(np.full((9, 2), np.inf), 2))) == 5
