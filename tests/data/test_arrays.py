import itertools

import numpy as np
import pytest

from jaxnet.data import batches, split


def pair(n=7):
    return np.arange(n * 6.0).reshape(n, 2, 3), np.arange(n)


def test_batches_in_order_with_a_short_last_one():
    x, y = pair(7)
    got = list(batches((x, y), 3))
    assert [b[1].tolist() for b in got] == [[0, 1, 2], [3, 4, 5], [6]]
    np.testing.assert_array_equal(np.concatenate([b[0] for b in got]), x)


@pytest.mark.parametrize(
    ("n", "size", "lengths"), [(7, 3, [3, 3]), (6, 3, [3, 3]), (3, 3, [3]), (5, 1, [1] * 5)]
)
def test_drop_last(n, size, lengths):
    assert [len(b[1]) for b in batches(pair(n), size, drop_last=True)] == lengths


def test_a_seed_shuffles_whole_examples_each_once():
    x, y = pair(50)
    got = list(batches((x, y), 8, seed=3))
    order = np.concatenate([b[1] for b in got])
    assert sorted(order) == list(range(50)) and order.tolist() != list(range(50))
    np.testing.assert_array_equal(np.concatenate([b[0] for b in got]), x[order])  # pairs stay pairs
    again = np.concatenate([b[1] for b in batches((x, y), 8, seed=3)])
    other = np.concatenate([b[1] for b in batches((x, y), 8, seed=4)])
    assert (again == order).all() and (other != order).any()


def test_a_shuffled_pass_without_the_last_batch_leaves_out_others_each_time():
    left = set()
    for seed in range(30):
        seen = {i for batch in batches(pair(7), 3, seed=seed, drop_last=True) for i in batch[1]}
        left |= set(range(7)) - seen
    assert len(left) > 3


def test_batches_refuse_at_the_call_and_not_at_the_first_batch():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        batches(pair(), 0)
    with pytest.raises(ValueError, match="7 examples give no full batch of 8"):
        batches(pair(), 8, drop_last=True)
    with pytest.raises(
        ValueError, match="batches: all arrays must have the same leading dimension"
    ):
        batches((np.zeros(3), np.zeros(4)), 2)


def test_split_keeps_pairs_order_and_everything():
    x, y = pair(20)
    (a, b), (c, d) = split((x, y), 0.3)
    assert len(b) == 14 and len(d) == 6
    assert sorted([*b, *d]) == list(range(20))
    assert (np.diff(b) > 0).all() and (np.diff(d) > 0).all()
    np.testing.assert_array_equal(a, x[b])
    np.testing.assert_array_equal(c, x[d])


def test_split_is_a_function_of_its_seed():
    y = np.arange(1000)
    parts = [split(y, 0.2, seed=s)[1] for s in (0, 0, 1)]
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
    labels = np.zeros(30, int)
    seen = set(
        itertools.chain(*(split(np.arange(30), 0.2, seed=s, labels=labels)[1] for s in range(40)))
    )
    assert seen == set(range(30))


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.1])
def test_split_needs_a_share(share):
    with pytest.raises(ValueError, match=rf"in \(0, 1\), got {share}"):
        split(pair(), share)


def test_split_says_where_a_part_would_be_empty_or_labels_do_not_fit():
    with pytest.raises(ValueError, match=r"0.01 of 7 examples leaves a part empty.*at least 0.14"):
        split(pair(7), 0.01)
    with pytest.raises(ValueError, match=r"0.99 of 7 examples leaves a part empty.*at most 0.86"):
        split(pair(7), 0.99)
    with pytest.raises(ValueError, match=r"one class per example, \(7,\), got \(6,\)"):
        split(pair(7), labels=np.zeros(6))


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"share": None}, TypeError, "split: share must be a number"),
    ({"share": np.nan}, ValueError, "split: share is the part to hold out"),
    ({"seed": 2.5}, TypeError, "split: seed must be an integer, got 2.5"),
    ({"seed": -1}, ValueError, "split: seed must be at least 0, got -1"),
    ({"labels": 3}, ValueError, "split: labels must hold one class per example, .* got int"),
    ({"labels": np.array([None] * 7)}, ValueError, "split: labels must hold one class per example"),
], ids=str)  # fmt: skip
def test_options_of_split_of_another_type(options, error, words):
    with pytest.raises(error, match=words):
        split(pair(7), **options)


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"batch_size": 2.5}, TypeError, "batches: batch_size must be an integer, got 2.5"),
    ({"seed": "a"}, TypeError, "batches: seed must be an integer, got 'a'"),
    ({"drop_last": "no"}, TypeError, "batches: drop_last must be True or False, got 'no'"),
], ids=str)  # fmt: skip
def test_options_of_batches_of_another_type(options, error, words):
    with pytest.raises(error, match=words):
        batches(pair(7), **{"batch_size": 3} | options)
