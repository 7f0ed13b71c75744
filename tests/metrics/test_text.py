"""Edit distances by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import metrics


@pytest.mark.parametrize(("a", "b", "edits"), [
    ("", "", 0), ("", "abc", 3), ("abcdef", "bcdefg", 2),
    (["the", "cat"], ["the", "black", "cat"], 1), (np.array([1, 2, 3]), jnp.array([3, 2, 1]), 2),
], ids=str)  # fmt: skip
def test_edit_distance_by_hand(a, b, edits):
    assert metrics.edit_distance(a, b) == metrics.edit_distance(b, a) == edits


def test_edit_error_rate_weighs_by_length():
    assert metrics.edit_error_rate(["a", "xyz"], ["b", "xyz"]) == 1 / 4  # not (1 + 0) / 2
    assert metrics.edit_error_rate(["aaaa"], ["b"]) == 4


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: metrics.edit_error_rate(["a"], []), ValueError,
     "expected one prediction per true sequence, got 1 and 0"),
    (lambda: metrics.edit_error_rate([[]], [""]), ValueError, "all true sequences are empty"),
    (lambda: metrics.edit_error_rate("sitting", "kitten!"), TypeError,
     r"edit_error_rate: predicted .* write \[x\]"),
    (lambda: metrics.edit_error_rate(["a"], None), TypeError,
     "edit_error_rate: true must be a list of sequences"),
    (lambda: metrics.edit_error_rate([["a"]], [None]), TypeError,
     r"edit_error_rate: true\[0\] must be a string, a l"),
    (lambda: metrics.edit_distance("a", {1}), TypeError,
     "edit_distance: true must be a string, a list or an array"),
    (lambda: metrics.edit_distance(np.ones((2, 2)), "a"), TypeError,
     "edit_distance: predicted must be .* array"),
])  # fmt: skip
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()
