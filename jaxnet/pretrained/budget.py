"""What a chat template may compute: turns of its loops, letters, and steps, counted as it runs."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MOST_TURNS = 10**6
MOST_LETTERS = 10**7
MOST_STEPS = 2 * 10**7  # of about 50 ns
MOST_BITS = 4096  # of an integer
DEEPEST = 100  # lists in lists
PER_GIVEN = 20  # letters that may be made of each letter of the messages


class TooMuch(Exception):
    """Ends a template that computes more than it may."""


class Budget:
    """Counts what a template computes, and raises `TooMuch`.

    Args:
      given: What the template gets, such as the messages.

    Example:
      >>> budget = Budget([])
      >>> budget.write(10**7)
      >>> budget.write(1)
      Traceback (most recent call last):
      ...
      jaxnet.pretrained.budget.TooMuch: it writes more than 10000000 letters
    """

    def __init__(self, given: Any):
        self.turns = self.made_letters = self.written_letters = self.steps = 0
        self._sizes: dict[int, tuple[int, Any]] = {}
        self.most_letters = MOST_LETTERS
        self.most_letters = max(MOST_LETTERS, PER_GIVEN * self.size(given))
        self.steps = 0

    def turn(self, steps: int) -> None:
        """Count a turn of a loop, or a call of a macro, whose body has some steps."""
        self.turns += 1
        self.steps += max(1, steps)
        if self.turns > MOST_TURNS:
            raise TooMuch(f"it takes more than {MOST_TURNS} turns of its loops")
        if self.steps > MOST_STEPS:
            raise TooMuch(f"it takes more than {MOST_STEPS} steps")

    def spend(self, steps: int) -> None:
        """Count steps."""
        self.steps += steps
        if self.steps > MOST_STEPS:
            raise TooMuch(f"it takes more than {MOST_STEPS} steps")

    def room(self, letters: int) -> None:
        """Raise if there is no room for letters that are going to be made."""
        if self.made_letters + letters > self.most_letters:
            raise TooMuch(f"it makes more than {self.most_letters} letters")

    def make(self, letters: int) -> None:
        """Count letters that were made."""
        self.room(letters)
        self.made_letters += letters
        self.spend(letters >> 4)

    def write(self, letters: int) -> None:
        """Count letters that are written."""
        self.written_letters += letters
        self.spend(letters >> 4)
        if self.written_letters > self.most_letters:
            raise TooMuch(f"it writes more than {self.most_letters} letters")

    def read(self, *values: Any) -> None:
        """Count the steps of looking at whole values."""
        self.spend(sum(self.size(value) for value in values) >> 4)

    def made(self, value: Any) -> Any:
        """Count a value that was made, which is returned."""
        if isinstance(value, str | bytes):
            self.make(len(value))
        elif type(value) is int:
            self.check_bits(value.bit_length())
        elif isinstance(value, list | tuple | Mapping):
            self.spend(len(value))
        elif isinstance(value, Iterator):
            return self.counted(value)
        return value

    def check_bits(self, bits: int) -> None:
        """Raise for an integer that is too large."""
        if bits > MOST_BITS:
            raise TooMuch(f"it makes an integer of more than {MOST_BITS} bits")

    def counted(self, values: Iterable[Any]) -> Iterator[Any]:
        """Yield the values, and count them."""
        for value in values:
            self.spend(4)
            yield value

    def size(self, value: Any, depth: int = 0) -> int:
        """Return about how many letters a value has when it is written.

        A list that is in two places counts twice, but is looked at once.
        """
        if isinstance(value, str | bytes):
            return len(value) + 4
        if not isinstance(value, list | tuple | Mapping):
            return len(value) * 8 if isinstance(value, range) else 20
        known = self._sizes.get(id(value))
        if known is not None:
            return known[0]
        if depth > DEEPEST:
            raise TooMuch(f"it makes more than {DEEPEST} lists in each other")
        self.spend(len(value) + 1)
        inside = [*value, *value.values()] if isinstance(value, Mapping) else value
        total = 4 + sum(self.size(each, depth + 1) + 4 for each in inside)
        self._sizes[id(value)] = total, value  # kept, so that no other value gets its id
        return total
