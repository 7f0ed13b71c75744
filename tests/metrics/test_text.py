import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import metrics
from tests.helpers import refuses


@pytest.mark.parametrize(("a", "b", "edits"), [
    ("", "", 0), ("", "abc", 3), ("abcdef", "bcdefg", 2),
    (["the", "cat"], ["the", "black", "cat"], 1), (np.array([1, 2, 3]), jnp.array([3, 2, 1]), 2),
], ids=str)  # fmt: skip
def test_edit_distance_by_hand(a, b, edits):
    assert metrics.edit_distance(a, b) == metrics.edit_distance(b, a) == edits


def test_edit_distance_is_the_textbook_recursion():
    def textbook(a, b):
        table = np.zeros((len(a) + 1, len(b) + 1), int)
        table[:, 0], table[0] = range(len(a) + 1), range(len(b) + 1)
        for i in range(1, len(a) + 1):
            for j in range(1, len(b) + 1):
                changed = table[i - 1, j - 1] + (a[i - 1] != b[j - 1])
                table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, changed)
        return table[-1, -1]

    rng = np.random.default_rng(0)
    for _ in range(100):
        a, b = (rng.integers(0, 3, rng.integers(0, 9)) for _ in range(2))
        assert metrics.edit_distance(a, b) == textbook(a, b)


def test_edit_error_rate_weighs_by_length():
    assert metrics.edit_error_rate(["a", "xyz"], ["b", "xyz"]) == 1 / 4  # not (1 + 0) / 2
    assert metrics.edit_error_rate(["aaaa"], ["b"]) == 4


test_refusals = refuses([
    (lambda: metrics.edit_error_rate(["a"], []), "expected pairs of sequences, got 1 and 0"),
    (lambda: metrics.edit_error_rate([[]], [""]), "all true sequences are empty"),
    (lambda: metrics.edit_error_rate("sitting", "kitten!"), TypeError,
     r"edit_error_rate: predicted .* write \[x\]"),
    (lambda: metrics.edit_error_rate(["a"], None), TypeError,
     "edit_error_rate: true must be a list of sequences"),
    (lambda: metrics.edit_error_rate([["a"]], [None]), TypeError,
     r"edit_error_rate: true\[0\] must be a string, l"),
    (lambda: metrics.edit_distance("a", {1}), TypeError,
     "edit_distance: true must be a string, list or array"),
    (lambda: metrics.edit_distance(np.ones((2, 2)), "a"), TypeError,
     "edit_distance: predicted must be .* array"),
])  # fmt: skip
