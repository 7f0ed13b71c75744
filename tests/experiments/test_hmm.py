import numpy as np
import pytest

from experiments import hmm


@pytest.mark.slow
def test_vowels_become_state_0_and_nothing_else_changes():
    x = hmm.lines("babe " * 50, 250)
    logits = np.full((2, 27), -9.0)
    logits[0, [1, 26]] = logits[1, [0, 4]] = 0  # state 1 emits the vowels
    params = {
        "start": np.array([0.3, 0.7]),
        "transition": np.array([[0.1, 0.2], [0.3, 0.4]]),
        "emission": {"logits": logits},
    }
    ordered = hmm.vowels_first(params, x)
    assert ordered["start"].tolist() == [0.7, 0.3]
    assert ordered["transition"].tolist() == [[0.4, 0.3], [0.2, 0.1]]
    np.testing.assert_array_equal(ordered["emission"]["logits"], logits[::-1])
    share = hmm.by_symbol(ordered, x)[:, 0]
    assert share[[0, 4]].min() > 0.9 and share[[1, 26]].max() < 0.1
    np.testing.assert_allclose(hmm.by_symbol(params, x), hmm.by_symbol(ordered, x)[:, ::-1], 1e-4)


def test_text_becomes_numbers():
    assert hmm.lines("ab z" * 200, 500).shape == (2, 250)
    assert hmm.lines("ab z" * 200, 500)[0, :4].tolist() == [0, 1, 26, 25]


def test_share_of_letters_in_the_state_of_their_kind():
    vowel = np.array([c in "aeiou" for c in hmm.SYMBOLS], float)
    assert hmm.right(vowel) == 1
    vowel[[0, 24, 26]] = 0, 1, 1  # a wrong; y and the space are not counted
    assert hmm.right(vowel) == 24 / 25
    assert hmm.right(vowel, np.arange(27) + 1) == 1 - 1 / (378 - 25 - 27)
