"""What a chat template may compute, counted."""

import pytest

from jaxnet.pretrained.budget import MOST_LETTERS, MOST_STEPS, MOST_TURNS, Budget, TooMuch


@pytest.mark.parametrize(("value", "size"), [
    ("abc", 7), ([], 4), (["abc"], 4 + 4 + 7), ({"a": "b"}, 4 + 2 * (4 + 5)), (1, 20),
    (range(5), 40),
])  # fmt: skip
def test_a_value_has_about_the_letters_that_it_is_written_with(value, size):
    assert Budget([]).size(value) == size
    assert size >= len(str(value))


def test_what_is_in_two_places_counts_twice_and_is_looked_at_once():
    value = ["abc"]
    for _ in range(50):
        value = [value, value]
    budget = Budget([])
    assert budget.size(value) > 2**50
    assert budget.steps < 1000


def test_lists_in_each_other_end():
    value: list = []
    value.append(value)
    with pytest.raises(TooMuch, match="more than 100 lists in each other"):
        Budget([]).size(value)


@pytest.mark.parametrize(("name", "most", "words"), [
    ("spend", MOST_STEPS, "takes more than 20000000 steps"),
    ("make", MOST_LETTERS, "makes more than 10000000 letters"),
    ("write", MOST_LETTERS, "writes more than 10000000 letters"),
    ("check_bits", 4096, "an integer of more than 4096 bits"),
])  # fmt: skip
def test_all_is_bounded(name, most, words):
    getattr(Budget([]), name)(most)
    with pytest.raises(TooMuch, match=words):
        getattr(Budget([]), name)(most + 1)


def test_turns_are_bounded():
    budget = Budget([])
    for _ in range(MOST_TURNS):
        budget.turn(1)
    with pytest.raises(TooMuch, match="more than 1000000 turns of its loops"):
        budget.turn(1)


def test_long_messages_have_more_room():
    assert Budget(["a" * 10**6]).most_letters > 2 * 10**7


def test_an_iterator_counts_what_it_gives():
    budget = Budget([])
    assert list(budget.made(iter("abc"))) == ["a", "b", "c"]
    assert budget.steps == 12
