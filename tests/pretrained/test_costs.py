"""What the functions of chat templates cost."""

import pytest

from jaxnet.pretrained import costs
from jaxnet.pretrained.budget import Budget, TooMuch

MUCH = 10**9


@pytest.mark.parametrize(("cost", "args"), [
    (costs.padded, ("a", MUCH)), (costs.indented, ("a\nb", MUCH)), (costs.tabs, ("\t", MUCH)),
    (costs.tabs, (b"\t", MUCH)), (costs.replaced, ("a" * 10**5, "", "b" * 10**5)),
    (costs.replaced, (b"a" * 10**5, b"a", b"b" * 10**5)), (costs.joined, (["a" * 10**7],)),
    (costs.joined, ([1] * 10**4, "a" * 10**4)), (costs.joins, ("a" * 10**4, ["b"] * 10**4)),
    (costs.translated, ("a" * 10**5, {97: "b" * 10**5})), (costs.in_json, ([1], False, MUCH)),
    (costs.in_json, ([1] * 10**4, False, None, ("a" * 10**4, ":"))), (costs.pretty, ([1] * 10**5,)),
    (costs.rounded, (1.5, MUCH)), (costs.rounded, (1.5, -MUCH)), (costs.in_parts, ([], MUCH)),
    (costs.added, ([[1]] * 10**5, None, [])), (costs.percent, ("%999999999d", 1)),
    (costs.percent, ("%-*.*f", MUCH, 1, 2)), (costs.percent, ("%s" * 2000, "a" * 10**4)),
    (costs.formatted, ("{:<999999999}", 1)), (costs.formatted, ("{:{}}", 1, MUCH)),
    (costs.formatted, ("{a}" * 2000, "a" * 10**4)), (costs.lipsum, (MUCH,)),
    (costs.lipsum, (1, True, 1, MUCH)), (costs.in_time, ("%c" * 10**5,)),
    (costs.bytes_of, (1, MUCH)), (costs.stripped_of_tags, ("<!---->" * 10**5,)),
    (costs.slow, ("a" * 10**7,)), (costs.slow, ("a " * 10**4, 40, False, "b" * 10**4)),
    (costs.sorts, ([1] * 10**6 * 2,)),
])  # fmt: skip
def test_much_is_too_much(cost, args):
    with pytest.raises(TooMuch):
        cost(Budget([]), *args)


@pytest.mark.parametrize(("cost", "args"), [
    (costs.padded, ("a", 80)), (costs.indented, ("a\nb", "  ", True)), (costs.tabs, ("\t",)),
    (costs.replaced, ("abc", "b", "x", 1)), (costs.joined, (iter("ab"), ", ")),
    (costs.translated, ("ab", {97: None})), (costs.in_json, ({"a": 1}, False, 2)),
    (costs.rounded, (1.5, 2, "ceil")), (costs.in_parts, ([1, 2], 3, None)),
    (costs.added, ([1, 2],)), (costs.percent, ("%5.2f%%", 1.5)),
    (costs.formatted, ("{:>10} {a}", 1)), (costs.lipsum, ()),
    (costs.in_time, ("%d %b %Y",)), (costs.padded, ("a", "wide")), (costs.replaced, (3, "3", "4")),
])  # fmt: skip
def test_little_is_fine(cost, args):
    budget = Budget([])
    cost(budget, *args)
    assert budget.steps < 30_000


def test_filters_that_are_named_are_those_of_jinja2():
    jinja2 = pytest.importorskip("jinja2")
    assert costs.FILTERS.keys() < jinja2.Environment().filters.keys()
