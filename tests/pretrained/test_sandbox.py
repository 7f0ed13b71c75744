"""The sandbox of chat templates: what it lets them write, and what it ends."""

from datetime import datetime

import pytest

from jaxnet.pretrained.sandbox import run
from tests.pretrained.hostile_templates import OUTSIDE, TOO_MUCH

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(("template", "text"), [
    ("{{ 2 ** 10 }} {{ 7 // 2 }} {{ -7 % 3 }} {{ 1 / 4 }}", "1024 3 2 0.25"),
    ("{{ 'a' ~ 1 ~ none ~ [2] }}", "a1None[2]"), ("{{ 'abcd'[1:-1] }}{{ 'abc'[::-1] }}", "bccba"),
    ("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
    ("{% for i in [1, 2, 3] if i != 2 %}{{ loop.index }}{{ i }}{{ loop.last }}{% endfor %}",
     "11False23True"),
    ("{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
     "123"),
    ("{% generation %}a{{ 1 }}{% endgeneration %}", "a1"),
    ("{% macro f(x, y=2) %}{{ x }}{{ y }}{{ caller() }}{% endmacro %}"
     "{% call f(1) %}!{% endcall %}", "12!"),
    ("{% set ns = namespace(a=1) %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% endfor %}"
     "{{ ns.a }}", "4"),
    ("{{ {'b': '<ü>', 'a': [1, none]} | tojson }}", '{"b": "<ü>", "a": [1, null]}'),
    ("{{ [1] | tojson(indent=1) }}", "[\n 1\n]"),
    ("{{ '%s-%03d|%%' | format('a', 7) }} {{ '%5.1f' % 2.25 }}", "a-007|%   2.2"),
    ("{{ '{:>4}|{a}'.format(1, a=2) }}", "   1|2"), ("{{ 'a' | center(5) }}|", "  a  |"),
    ("{{ messages | map(attribute='role') | join(', ') }}", "user"),
    ("{{ [3, 1, 2] | sort | join }}{{ [1, 1] | unique | list }}", "123[1]"),
    ("{{ dict(a=1).items() | list }}{{ dict.fromkeys('a') }}", "[('a', 1)]{'a': None}"),
    ("{{ 1 in [1, 2] and 'b' not in 'abc' or 3 > 2 > 1 }}", "True"),
    ("{% filter upper %}a{% endfilter %}{% set x %}b{% endset %}{{ x }}", "Ab"),
    ("{{ 'a,b'.split(',') }}{{ ' a '.strip() }}{{ 'ab'.replace('a', 'x') }}", "['a', 'b']axb"),
    ("{{ missing is defined }}{{ missing }}{{ missing | default('d') }}", "Falsed"),
    ("{{ 'a\nb' | indent(2) }}", "a\n  b"), ("{{ [[1], [2]] | sum(start=[]) }}", "[1, 2]"),
    ("{{ 'a' * 10_000_000 }}", "a" * 10_000_000),
])  # fmt: skip
def test_a_template_writes_what_it_writes_in_jinja2(template, text):
    assert run("chat", template, {"messages": MESSAGES}) == text


def test_the_day_is_known():
    before = datetime.now().strftime("%d %b %Y")
    found = run("chat", "{{ strftime_now('%d %b %Y') }}", {})
    assert found in (before, datetime.now().strftime("%d %b %Y"))


def test_a_million_turns_are_few_enough():
    template = "{% for i in range(1000) %}{% for j in range(999) %}{% endfor %}{% endfor %}done"
    assert run("chat", template, {}) == "done"


def test_long_messages_may_be_changed_often():
    content = "word " * 10**6
    template = "{{ m | trim }}{{ m | replace('w', 'W') }}{{ m.split(' ') | length }}{{ 'x' in m }}"
    assert len(run("chat", template, {"m": content})) > 9 * 10**6


@pytest.mark.slow
@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_template_that_computes_too_much_ends(name):
    with pytest.raises(ValueError, match="chat: the chat template fails: ") as raised:
        run("chat", TOO_MUCH[name], {"messages": MESSAGES})  # without a bound, it runs for days
    expected = (
        "more than", "maximum recursion depth", "special caller argument",
    )  # fmt: skip
    assert any(words in str(raised.value) for words in expected)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_template_reaches_nothing_outside(name):
    with pytest.raises(ValueError, match="chat: the chat template fails: .") as raised:
        run("chat", OUTSIDE[name], {"messages": MESSAGES})
    assert len(str(raised.value)) < 600


def test_a_template_cannot_take_back_what_was_counted():
    template = "{{ [-10 ** 9] | map(' turn') | list }}"
    many = "{% for i in range(100000) %}{% for j in range(11) %}{% endfor %}{% endfor %}"
    with pytest.raises(ValueError, match="more than 1000000 turns"):
        run("chat", template + many, {})


def test_an_old_jinja2_is_told(monkeypatch):
    monkeypatch.setitem(run.__globals__, "_version", lambda: "3.1.5")
    with pytest.raises(ImportError, match="needs jinja2 3.1.6 or later, got 3.1.5; write pip"):
        run("chat", "a", {})
