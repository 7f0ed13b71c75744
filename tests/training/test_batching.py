"""Batches in order and shuffled: which rows they have, how the last is padded, what counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.training.batching import Batching, batching_of

X = jnp.arange(14.0).reshape(7, 2)


@pytest.mark.parametrize(("size", "steps", "last"), [(7, 1, 7), (3, 3, 1), (2, 4, 1), (1, 7, 1)])
def test_the_masks_count_every_row_once(size, steps, last):
    batching = batching_of("evaluate", X, size)
    assert batching == Batching(size)
    assert batching.steps(X) == steps
    masks = [batching.mask(X, i) for i in range(steps)]
    if batching.needs_padding(X):
        counts = [int(mask.sum()) for mask in masks]
        assert counts == [size] * (steps - 1) + [last]
    else:
        assert masks == [None] * steps


def test_rows_in_order_end_with_copies_of_the_last():
    def step(carry, i, batch):
        return carry, (i, batch)

    _, (numbers, batches) = Batching(3).scan(step, None, X)
    assert numbers.tolist() == [0, 1, 2]
    rows = np.minimum(np.arange(9), 6).reshape(3, 3)
    np.testing.assert_array_equal(batches, X[rows])


def test_a_shuffled_order_begins_again():
    order = Batching(3).order(X, jax.random.key(0))
    assert order.shape == (3, 3)
    rows = order.ravel().tolist()
    assert sorted(rows[:7]) == list(range(7))
    assert rows[7:] == rows[:2]
    np.testing.assert_array_equal(Batching(3).take(X, order[1]), X[order[1]])


def test_few_rows_are_one_batch():
    assert batching_of("fit", X, 64) == Batching(7)
    assert [len(part) for part in Batching(3).full_batches_and_rest(X)] == [6, 1]
