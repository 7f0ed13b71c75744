"""The budgets of words of the pages."""

from tools import words


def test_pages_keep_to_their_budgets():
    """If this fails, cut: `python -m tools.words` prints all pages."""
    found = {name: words.counted(name) for name in words.BUDGETS}
    assert {name: n for name, n in found.items() if n > words.BUDGETS[name]} == {}
    assert 30_000 < sum(found.values()) <= words.ALL
    assert words.unlisted() == []


def test_words_have_letters_or_digits():
    text = '| A **bold** word | --- | `code()` | <img src="a.png" alt="Two words"> | 1.5 |'
    assert words.count(text) == 5
