"""What the functions of a chat template cost, counted before they run."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from jaxnet.pretrained.budget import Budget, TooMuch

LARGEST_DIGITS = 400  # to which a number is rounded
FIELD = re.compile(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(\*|\d+)?(?:\.(\*|\d+))?")


def whole(budget: Budget, value: Any = "", *args: Any, **named: Any) -> None:
    """Count a function that looks at all of its arguments, and may write each letter anew."""
    budget.read(value, *args, *named.values())


def nothing(budget: Budget, *args: Any, **named: Any) -> None:
    """Count a function that takes as long for any arguments."""


def sorts(budget: Budget, value: Any = "", *args: Any, **named: Any) -> None:
    """Count comparisons of all pairs that a sort may look at."""
    budget.spend(budget.size(value))
    budget.read(*args, *named.values())


def slow(budget: Budget, value: Any = "", *args: Any, **named: Any) -> None:
    """Count a function in Python, which takes many steps for each letter."""
    budget.spend(10 * budget.size(value))
    extra = sum(budget.size(each) for each in (*args, *named.values()))
    pieces = budget.size(value) if extra > 100 else 0
    budget.room(pieces * extra)


def stripped_of_tags(budget: Budget, value: Any = "") -> None:
    """Count what copies a text for each of its tags."""
    size = budget.size(value)
    tags = value.count("<") if isinstance(value, str) else 1
    budget.spend(size + (tags * size >> 6))


def padded(budget: Budget, value: Any = "", width: Any = 80, *args: Any) -> None:
    """Count a text that is padded to a width."""
    budget.read(value)
    _check_letters(budget, width)


def indented(
    budget: Budget, value: Any = "", width: Any = 4, first: Any = False, blank: Any = False
) -> None:
    """Count spaces before each line."""
    budget.read(value)
    lines = str(value).count("\n") + 1
    each = len(width) if isinstance(width, str) else _number(width)
    budget.room(lines * each)


def tabs(budget: Budget, value: Any = "", tabsize: Any = 8) -> None:
    """Count spaces for each tab."""
    tabs = value.count(b"\t") if isinstance(value, bytes) else value.count("\t")
    budget.room(len(value) + tabs * _number(tabsize))


def replaced(budget: Budget, value: Any, old: Any = "", new: Any = "", count: Any = -1) -> None:
    """Count letters that take the place of others."""
    budget.read(value, new)
    value = value if isinstance(value, str | bytes) else str(value)
    old = old if isinstance(old, str | bytes) else str(old)
    times = value.count(old) if type(old) is type(value) or isinstance(value, str) else 0
    budget.room(times * len(new if isinstance(new, str | bytes) else str(new)))


def joined(budget: Budget, value: Any = (), between: Any = "", attribute: Any = None) -> None:
    """Count the texts that are joined, with what is between them."""
    budget.room(budget.size(value))
    budget.room(len(value) * budget.size(between) if hasattr(value, "__len__") else 0)


def joins(budget: Budget, between: Any, values: Any = ()) -> None:
    """Count what the method of a text joins."""
    joined(budget, values, between)


def translated(budget: Budget, value: Any, table: Any = "", delete: Any = b"") -> None:
    """Count letters that take the place of single ones."""
    texts = table.values() if isinstance(table, dict) else ()
    longest = max((len(text) for text in texts if isinstance(text, str)), default=1)
    budget.room(len(value) * max(1, longest))


def in_json(budget: Budget, value: Any = "", *args: Any, **named: Any) -> None:
    """Count a value as JSON, with its spaces and separators."""
    size = budget.size(value)
    budget.room(size)
    most = max((_length(each) for each in (*args, *named.values())), default=0)
    budget.room(size * max(0, most - 4))


def pretty(budget: Budget, value: Any = "") -> None:
    """Count a value on several lines, which takes long."""
    budget.spend(100 * budget.size(value))


def rounded(budget: Budget, value: Any = 0, precision: Any = 0, *args: Any) -> None:
    """Raise for more digits than a number has."""
    if _number(precision) > LARGEST_DIGITS:
        raise TooMuch(f"it rounds to more than {LARGEST_DIGITS} digits")


def in_parts(budget: Budget, value: Any = (), parts: Any = 1, *args: Any) -> None:
    """Count parts of a list, some of which are filled."""
    budget.spend(_number(parts) + budget.size(value) // 4)


def added(budget: Budget, value: Any = (), attribute: Any = None, start: Any = 0) -> None:
    """Count a sum; a sum of lists copies them again and again."""
    size = budget.size(value)
    lists = hasattr(start, "__len__")
    budget.spend(size * (len(value) if lists and hasattr(value, "__len__") else 1))


def percent(budget: Budget, text: Any = "", *args: Any, **named: Any) -> None:
    """Count what is written by `text % args`."""
    text = text if isinstance(text, str) else str(text)
    size = sum(budget.size(each) for each in (*args, *named.values()))
    widths = PERCENT.findall(text)
    budget.room(len(text) + len(widths) * size)
    numbers = [_number(each) for each in _flat(args) if isinstance(each, int)]
    for width in (each for pair in widths for each in pair if each):
        _check_letters(budget, max(numbers, default=0) if width == "*" else int(width[:9]))


def formatted(budget: Budget, text: str, *args: Any, **named: Any) -> None:
    """Count what is written by `text.format(*args, **named)`."""
    size = sum(budget.size(each) for each in (*args, *named.values()))
    fields = FIELD.findall(text)
    budget.room(len(text) + (len(fields) + text.count("{")) * size)
    given = [*args, *named.values()]
    numbers = [_number(each) for each in _flat(given) if isinstance(each, int | str)]
    for field in fields:
        for digits in re.findall(r"\d+", field.partition(":")[2]):
            _check_letters(budget, int(digits[:9]))
        if "{" in field[1:]:
            _check_letters(budget, max(numbers, default=0))


def lipsum(budget: Budget, n: Any = 5, html: Any = True, min: Any = 20, max: Any = 100) -> None:
    """Count words of a text that means nothing."""
    words = _number(n) * (_number(max) + 1)
    budget.spend(40 * words)
    budget.room(10 * words)


def in_time(budget: Budget, form: Any = "") -> None:
    """Count the letters of a time."""
    budget.room(256 * _length(form))


def bytes_of(budget: Budget, value: Any, length: Any = 1, *args: Any, **named: Any) -> None:
    """Count the bytes of an integer."""
    _check_letters(budget, length)


def _check_letters(budget: Budget, count: Any) -> None:
    budget.room(_number(count))


def _number(value: Any) -> int:
    """Return the size of a number, or of a text that says one."""
    try:
        return min(abs(int(value)), 10**12)
    except (TypeError, ValueError, OverflowError):
        return 0


def _length(value: Any) -> int:
    """Return a number, or how many letters a text or a pair of texts has."""
    if isinstance(value, tuple | list):
        return sum(map(_length, value))
    return len(value) if isinstance(value, str) else _number(value)


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from value
        elif isinstance(value, dict):
            yield from value.values()
        else:
            yield value


Cost = Callable[..., None]
# Filters of jinja2; those that are not named look at all of their arguments.
FILTERS: dict[str, Cost] = {
    "abs": nothing, "attr": nothing, "count": nothing, "default": nothing, "d": nothing,
    "first": nothing, "last": nothing, "length": nothing, "items": nothing, "map": nothing,
    "select": nothing, "selectattr": nothing, "reject": nothing, "rejectattr": nothing,
    "random": nothing, "list": nothing, "reverse": nothing, "float": nothing,
    "sort": sorts, "dictsort": sorts, "groupby": sorts, "unique": sorts, "min": sorts,
    "max": sorts, "title": slow, "wordcount": slow, "urlencode": slow, "urlize": slow,
    "wordwrap": slow, "xmlattr": slow, "striptags": stripped_of_tags, "center": padded,
    "indent": indented, "replace": replaced, "join": joined, "tojson": in_json, "pprint": pretty,
    "round": rounded, "batch": in_parts, "slice": in_parts, "sum": added, "format": percent,
}  # fmt: skip
# Methods of texts, bytes and integers; all others look at their owner and arguments.
METHODS: dict[str, Cost] = {
    "center": padded, "ljust": padded, "rjust": padded, "zfill": padded, "expandtabs": tabs,
    "join": joins, "replace": replaced, "translate": translated, "to_bytes": bytes_of,
    "striptags": stripped_of_tags, "unescape": slow, "title": slow, "format": formatted,
    "format_map": formatted,
}  # fmt: skip
