"""Chat templates of a stranger who wants time, memory, or what is outside."""

NEST = "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
TUPLES = NEST.replace("[ns.x, ns.x]", "(ns.x, ns.x)").replace("x=[1]", "x=(1,)")
DOUBLE = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = "
BIG = "{% set b = 'ab' * 4000000 %}"
LIST = "{% set b = range(100000) | list %}"
END = "{% endfor %}"
LOOP = "{% for i in range(100000) %}"


def loops(depth: int, body: str = "", times: int = 100_000) -> str:
    return f"{{% for i in range({times}) %}}" * depth + body + END * depth


# Each takes too many turns, steps, letters or bits.
TOO_MUCH = {
    "two loops": loops(2), "four loops": loops(4), "loops of a thousand": loops(3, times=1000),
    "filtered": "{% for i in range(100000) %}{% for j in range(100000) if false %}" + END * 2,
    "recursive": "{% for i in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "caller": "{% macro f(n) %}{% if n %}{% call f(n - 1) %}{% endcall %}"
    "{% call f(n - 1) %}{% endcall %}{% endif %}{% endmacro %}{{ f(60) }}",
    "block": "{% block a %}" + loops(1, "{{ self.a() }}", 2) + "{% endblock %}",
    "letters of a text": BIG + "{% for c in b %}" + LOOP + END * 2,
    "map of map": "{{ range(100000) | map('string') | map('list') | map('join') | list | length }}"
    * 300,
    "times": "{{ 'a' * 10 ** 8 }}", "times left": "{{ 10 ** 8 * 'a' }}",
    "list times": "{{ [1] * 10 ** 9 }}", "times and times": "{{ 'a' * 10 ** 4 * 10 ** 4 }}",
    "power": "{{ 9 ** (9 ** 9) }}", "negative power": "{{ (-9) ** 99999999 }}",
    "product": "{% set ns = namespace(x=3) %}" + LOOP + "{% set ns.x = ns.x * ns.x %}" + END,
    "sum": "{% set ns = namespace(x=3) %}" + LOOP + "{% set ns.x = ns.x + ns.x %}" + END,
    "percent of a number": "{{ 1 % 2 ** 5000 }}",
    "tilde": DOUBLE + "ns.x ~ ns.x %}" + END, "plus": DOUBLE + "ns.x + ns.x %}" + END,
    "format": DOUBLE + "'%s%s' | format(ns.x, ns.x) %}" + END,
    "percent": DOUBLE + "'%s%s' % (ns.x, ns.x) %}" + END,
    "str.format": DOUBLE + "'{0}{0}'.format(ns.x) %}" + END,
    "join": DOUBLE + "[ns.x, ns.x] | join %}" + END,
    "str.join": DOUBLE + "''.join([ns.x, ns.x]) %}" + END,
    "replace": DOUBLE + "ns.x | replace('a', 'aaaa') %}" + END,
    "str.replace": DOUBLE + "ns.x.replace('', 'aaaa') %}" + END,
    "translate": DOUBLE + "ns.x.translate({97: 'aaaa'}) %}" + END,
    "set block": DOUBLE.replace("{% set ns.x = ", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}")
    + "{% set ns.x = y %}" + END,
    "macro text": DOUBLE.replace("{% for", "{% macro d(x) %}{{ x }}{{ x }}{% endmacro %}{% for")
    + "d(ns.x) %}" + END,
    "filter block": DOUBLE.replace("{% set ns.x = ", "")
    + "{% set y %}{% filter upper %}{{ ns.x }}{{ ns.x }}{% endfilter %}{% endset %}"
    "{% set ns.x = y %}" + END,
    "escape": "{% set ns = namespace(x='&') %}" + LOOP + "{% set ns.x = ns.x | escape | string"
    " | replace('&', '&&') %}" + END,
    "output": BIG + LOOP + "{{ b }}" + END, "output of data": LOOP + "a" * 1000 + END,
    "slices": BIG + LOOP + "{% set c = b[1:] %}" + END,
    "list slices": LIST + LOOP + "{% set c = b[1:] %}" + END,
    "center": "{{ 'a' | center(10 ** 9) }}", "str.center": "{{ 'a'.center(10 ** 9) }}",
    "ljust": "{{ 'a'.ljust(10 ** 9) }}", "zfill": "{{ 'a'.zfill(10 ** 9) }}",
    "rjust of bytes": "{{ 'a'.encode().rjust(10 ** 9) }}",
    "expandtabs": "{{ '\\t'.expandtabs(10 ** 9) }}",
    "indent": "{{ ('a\\n' * 1000) | indent(10 ** 6) }}",
    "format width": "{{ '%999999999d' | format(1) }}",
    "format star": "{{ '%*d' | format(10 ** 9, 1) }}", "percent width": "{{ '%.999999999f' % 1 }}",
    "str.format width": "{{ '{:999999999}'.format(1) }}",
    "str.format nested": "{{ '{:{}}'.format(1, 10 ** 9) }}",
    "format_map": "{{ '{a:999999999}'.format_map({'a': 1}) }}",
    "lipsum": "{{ lipsum(n=10 ** 6) }}",
    "lipsum max": "{{ lipsum(n=1, min=10 ** 8, max=10 ** 9) }}",
    "to_bytes": "{{ (1).to_bytes(10 ** 9, 'big') }}", "round": "{{ 1.5 | round(10 ** 9, 'ceil') }}",
    "batch": "{{ [1] | batch(10 ** 9, 'x') | list }}", "slice": "{{ [1] | slice(10 ** 9) | list }}",
    "tojson indent": "{{ [1, 2] | tojson(indent=10 ** 9) }}",
    "tojson nested": NEST + END + "{{ ns.x | tojson }}", "nested": NEST + END + "{{ ns.x }}",
    "nested string": NEST + END + "{{ ns.x | string }}", "nested equal": NEST + END
    + "{% set y = ns.x %}" + NEST + END + "{{ y == ns.x }}",
    "nested key": TUPLES + END + "{{ {ns.x: 1} }}", "nested in": TUPLES + END + "{{ ns.x in {} }}",
    "nested get": TUPLES + END + "{{ {}.get(ns.x) }}",
    "nested item": TUPLES + END + "{{ {}[ns.x] }}",
    "nested unique": TUPLES + END + "{{ [ns.x] | unique | list }}",
    "nested pprint": NEST + END + "{{ ns.x | pprint }}", "nested test": NEST + END
    + "{{ ns.x is eq ns.x }}",
    "sum of lists": "{{ range(100000) | batch(1) | sum(start=[]) | length }}",
    "search": LIST + LOOP + "{{ -1 in b }}" + END,
    "search a text": BIG + LOOP + "{{ 'x' in b }}" + END,
    "test in": LIST + LOOP + "{{ -1 is in b }}" + END,
    "count": LIST + LOOP + "{{ b.count(1) }}" + END,
    "index": LIST + LOOP + "{{ b.index(99999) }}" + END, "sorted": LIST + LOOP
    + "{{ b | sort | length }}" + END,
    "wordwrap": BIG + "{{ b | wordwrap(1) }}", "urlize": "{{ ('http://a.b ' * 500000) | urlize }}",
    "striptags": "{{ ('<!---->' * 500000) | striptags }}",
    "strip tags of markup": "{{ (('<!---->' * 500000) | safe).striptags() }}",
    "body": "{% for i in range(100000) %}" + "{% set a = i %}" * 1000 + END,
    "strftime": LOOP + "{{ strftime_now('%c' * 1000) }}" + END,
    "source": "{{ 1 }}" * 100_000, "split": BIG + LOOP + "{{ b.split('a') | length }}" + END,
    "cycler": LIST + LOOP + "{{ cycler(*b).next() }}" + END,
    "dict of keys": LIST + LOOP + "{{ dict.fromkeys(b) | length }}" + END,
}  # fmt: skip
# Each reaches for what is outside, or is no program that ends well.
OUTSIDE = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__ }}",
    "globals of a function": "{{ raise_exception.__globals__['a'] }}",
    "by attr": "{{ (messages | attr('__class__')).__base__ }}",
    "by format": "{{ ('{0.__class__.__base__}' | string).format(1) }}",
    "by format_map": "{{ '{a.__class__.__base__}'.format_map({'a': 1}) }}",
    "by map": "{{ messages | map(attribute='__class__.__base__') | map(attribute='a') | first }}",
    "by a namespace": "{% set n = namespace(__class__=1) %}",
    "into a namespace": "{% set n = namespace() %}{% set n.__attrs = 1 %}",
    "by format of a filter": "{{ (['{0.__class__.__base__}'] | map('format', 1) | first).x.y }}",
    "changed": "{% set _ = messages.append(1) %}",
    "popped": "{% set _ = messages[0].pop('role') %}",
    "frame": "{{ (messages | map('upper')).gi_frame.f_globals }}",
    "no end": "{% for m in messages %}",
    "own filters": "{{ -10 | turn }}", "unknown": "{{ nothing.of.it }}",
    "include": "{% include 'passwd' %}", "import": "{% import 'os' as os %}",
    "extends": "{% extends 'a' %}", "zero": "{{ 1 / 0 }}", "infinite": "{{ (1e308 * 10) | int }}",
    "deep": "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    "endless": "{% macro f() %}{{ f() }}{% endmacro %}"
    "{{ f() }}", "long number": "{{ " + "9" * 50_000 + " }}", "not a range": "{{ range(10 ** 9) }}",
}  # fmt: skip
