import numpy as np

from experiments.ngrams import count, probabilities


def test_counts_are_mixed_with_those_of_shorter_contexts():
    """By hand: after ab, ab the letter b follows a 2 times of 2, and nothing followed bb."""
    one, two = probabilities(count(np.array([0, 1, 0, 1]), 2, 2), np.array([0, 1, 1]), 2)
    np.testing.assert_allclose(one, [0.5, 0.5, 0.5])
    np.testing.assert_allclose(two, [0.5, (2 + 0.5) / 3, (0 + 0.5) / 2])


def test_probabilities_of_all_letters_sum_to_1():
    tables = count(np.random.default_rng(0).integers(0, 4, 60), 3, 4)
    for context in ([0, 1], [3, 3], [2, 0]):
        each = [probabilities(tables, np.array([*context, c]), 4) for c in range(4)]
        np.testing.assert_allclose([sum(p[n][-1] for p in each) for n in range(3)], 1)
