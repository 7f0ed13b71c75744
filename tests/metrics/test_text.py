import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import metrics


def test_bits_per_character():
    assert metrics.bits_per_character(math.log(8)) == pytest.approx(3)
    assert metrics.bits_per_character(jnp.float32(math.log(2))) == pytest.approx(1)


@pytest.mark.parametrize(
    "a, b, edits",
    [
        ("kitten", "sitting", 3),
        ("", "", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("abc", "abc", 0),
        ("abcdef", "bcdefg", 2),
        (["the", "cat"], ["the", "black", "cat"], 1),
        (np.array([1, 2, 3]), jnp.array([3, 2, 1]), 2),
    ],
)
def test_edit_distance_by_hand(a, b, edits):
    assert metrics.edit_distance(a, b) == metrics.edit_distance(b, a) == edits


def test_edit_distance_is_the_textbook_recursion():
    def textbook(a, b):
        table = np.zeros((len(a) + 1, len(b) + 1), int)
        table[:, 0], table[0] = range(len(a) + 1), range(len(b) + 1)
        for i in range(1, len(a) + 1):
            for j in range(1, len(b) + 1):
                table[i, j] = min(
                    table[i - 1, j] + 1,
                    table[i, j - 1] + 1,
                    table[i - 1, j - 1] + (a[i - 1] != b[j - 1]),
                )
        return table[-1, -1]

    rng = np.random.default_rng(0)
    for _ in range(100):
        a, b = (rng.integers(0, 3, rng.integers(0, 9)) for _ in range(2))
        assert metrics.edit_distance(a, b) == textbook(a, b)


def test_edit_error_rate_weighs_by_length():
    assert metrics.edit_error_rate(["a", "xyz"], ["b", "xyz"]) == 1 / 4  # not (1 + 0) / 2
    assert metrics.edit_error_rate(["aaaa"], ["b"]) == 4


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            lambda: metrics.edit_error_rate(["a"], []),
            "one prediction per true sequence, got 1 and 0",
        ),
        (lambda: metrics.edit_error_rate([[]], [""]), "all true sequences are empty"),
        (
            lambda: metrics.edit_error_rate("sitting", "kitten!"),
            r"edit_error_rate: predicted .* write \[x\]",
        ),
        (
            lambda: metrics.edit_error_rate(["a"], None),
            "edit_error_rate: true must be a list of sequences",
        ),
        (
            lambda: metrics.edit_error_rate([["a"]], [None]),
            r"edit_error_rate: true\[0\] must be a string, a",
        ),
        (
            lambda: metrics.edit_distance(None, "a"),
            "edit_distance: predicted must be a string, a list or an",
        ),
        (
            lambda: metrics.edit_distance("a", {1}),
            "edit_distance: true must be a string, a list or an array",
        ),
        (
            lambda: metrics.edit_distance(np.ones((2, 2)), "a"),
            "edit_distance: predicted must be .* array",
        ),
        (
            lambda: metrics.bits_per_character("a"),
            "bits_per_character: nats must be a JAX or NumPy array",
        ),
    ],
)
def test_messages(run, message):
    with pytest.raises((ValueError, TypeError), match=message):
        run()
