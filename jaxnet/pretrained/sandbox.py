"""The sandbox in which a chat template runs: jinja2's, in which all work is counted.

A template of a stranger could run for hours. So its tree is changed before it is compiled: each
turn of a loop, each joined text, slice and comparison is counted; and what it calls is counted by
what `costs` says of it. There is no clock, no thread and no signal.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, wraps
from importlib import metadata
from typing import Any

from jaxnet.pretrained import costs
from jaxnet.pretrained.budget import Budget

MOST_SOURCE = 10**5  # letters of a template; the largest that are published have 40,000
LEAST_JINJA2 = (3, 1, 6)  # before it, a template could read what is outside
CALL = 60  # steps
OPERATORS = frozenset(["+", "-", "*", "/", "//", "%", "**"])
# What the changed tree of a template calls, under names that no template can write.
OURS = {name: f" {name}" for name in ("turn", "joined", "sliced", "read")}
_budget: ContextVar[Budget] = ContextVar("budget")


def run(who: str, template: str, given: Mapping[str, Any]) -> str:
    """Return what a template writes.

    Args:
      who: Name of the function, for messages.
      template: Program in jinja2.
      given: Values by name.

    Raises:
      ImportError: If jinja2 is too old.
      ValueError: If the template fails, or computes too much.

    Example:
      >>> run("chat", "{{ 3 * word }}", {"word": "ab"})
      'ababab'
    """
    check_version(who)
    try:
        if len(template) > MOST_SOURCE:
            raise ValueError(f"it has more than {MOST_SOURCE} letters")
        budget = Budget([*given.values()])
        before = _budget.set(budget)
        try:
            return "".join(_written(budget, compiled(template).generate(**given)))
        finally:
            _budget.reset(before)
    except Exception as error:  # of a program of strangers
        words = str(error) or type(error).__name__
        raise ValueError(f"{who}: the chat template fails: {words:.500}") from None


def check_version(who: str) -> None:
    """Raise if jinja2 is older than the first version whose sandbox holds."""
    found = _version()
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if numbers < LEAST_JINJA2:
        least = ".".join(map(str, LEAST_JINJA2))
        raise ImportError(
            f"{who}: a chat template needs jinja2 {least} or later, got {found}; write "
            'pip install -U "jinja2>=3.1.6"'
        )


@lru_cache(maxsize=1)
def _version() -> str:
    return metadata.version("jinja2")


def _written(budget: Budget, pieces: Iterable[str]) -> Iterator[str]:
    for piece in pieces:
        budget.write(len(piece))
        yield piece


@lru_cache(maxsize=16)
def compiled(template: str) -> Any:
    """Return a template that can be rendered."""
    world = _sandbox()
    return world.from_string(_counting().visit(world.parse(template)))


@lru_cache(maxsize=1)
def _sandbox() -> Any:
    """Return jinja2's sandbox with the functions that templates expect, which count."""
    from jinja2 import pass_context
    from jinja2.ext import loopcontrols

    @pass_context
    def finalize(context, value):
        return value if isinstance(value, str) else _as_text(value)

    options = {"finalize": finalize, "optimized": False, "cache_size": 0}
    extensions = [_generation(), loopcontrols]
    world = _counting_sandbox()(
        trim_blocks=True, lstrip_blocks=True, extensions=extensions, **options
    )
    world.filters["tojson"] = to_json
    for name, function in world.filters.items():
        world.filters[name] = _counting_function(function, costs.FILTERS.get(name, costs.whole))
    world.filters |= {
        OURS["turn"]: _turn, OURS["joined"]: _joined, OURS["sliced"]: _sliced, OURS["read"]: _read
    }  # fmt: skip
    for name, function in world.tests.items():
        cost = costs.nothing if name in UNCOUNTED_TESTS else costs.whole
        world.tests[name] = _counting_function(function, cost)
    world.globals |= {
        "raise_exception": refuse, "strftime_now": _counting_function(now, costs.in_time),
        "lipsum": _counting_function(world.globals["lipsum"], costs.lipsum), "dict": Dicts(),
        "namespace": _namespace(),
    }  # fmt: skip
    return world


def _generation() -> Any:
    """Return what reads the block {% generation %}, which other libraries use in training."""
    from jinja2.ext import Extension
    from jinja2.nodes import CallBlock

    class Generation(Extension):
        """The block {% generation %}, which marks what is learned, and writes its content."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return CallBlock(self.call_method("content"), [], [], body).set_lineno(line)

        def content(self, caller):
            return caller()

    return Generation


def _counting_sandbox() -> Any:
    """Return the class of a sandbox that counts operations and calls."""
    from jinja2.runtime import Macro
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = OPERATORS

        def call_binop(self, context, operator, left, right):
            budget = _budget.get()
            _check_operands(budget, operator, left, right)
            return budget.made(super().call_binop(context, operator, left, right))

        def call(__self, __context, __obj, *args, **named):  # noqa: N805
            budget = _budget.get()
            budget.spend(CALL)
            if isinstance(__obj, Macro):
                return super().call(__context, __obj, *args, **named)
            budget.spend(8 * len(args))
            budget.read(*args, *(named[name] for name in named if name not in FOR_CONTEXTS))
            return budget.made(super().call(__context, __obj, *args, **named))

        def getattr(self, obj, attribute):
            return _counting_method(obj, attribute, super().getattr(obj, attribute))

        def getitem(self, obj, argument):
            if isinstance(argument, tuple):
                _budget.get().read(argument)
            found = super().getitem(obj, argument)
            return _counting_method(obj, argument, found) if isinstance(argument, str) else found

        concat = staticmethod(_concat)

    return Sandbox


FOR_CONTEXTS = {"_loop_vars", "_block_vars"}  # what jinja2 passes along with each call
# Tests that take as long for any value.
UNCOUNTED_TESTS = {
    "boolean", "callable", "defined", "divisibleby", "escaped", "even", "false", "filter", "float",
    "integer", "iterable", "mapping", "none", "number", "odd", "sameas", "sequence", "string",
    "test", "true", "undefined",
}  # fmt: skip


@lru_cache(maxsize=1)
def _counting() -> Any:
    """Return what changes the tree of a template, so that it counts what it does."""
    from jinja2 import nodes
    from jinja2.visitor import NodeTransformer

    def call(name: str, first: Any, *args: Any) -> Any:
        return nodes.Filter(first, OURS[name], [*args], [], None, None)

    def steps(node: Any) -> int:
        return 1 + sum(1 for _ in node.find_all(nodes.Node))

    class Counting(NodeTransformer):
        def visit_For(self, node):
            body = steps(node)
            self.generic_visit(node)
            node.body.insert(0, nodes.ExprStmt(call("turn", nodes.Const(body))))
            if node.test is not None:
                node.test = nodes.And(call("turn", nodes.Const(body)), node.test)
            return node

        def visit_Macro(self, node):
            body = steps(node)
            self.generic_visit(node)
            node.body.insert(0, nodes.ExprStmt(call("turn", nodes.Const(body))))
            return node

        visit_CallBlock = visit_Block = visit_Macro

        def visit_Concat(self, node):
            self.generic_visit(node)
            return call("joined", nodes.List(node.nodes))

        def visit_Getitem(self, node):
            self.generic_visit(node)
            if not isinstance(node.arg, nodes.Slice):
                return node
            ends = (node.arg.start, node.arg.stop, node.arg.step)
            return call("sliced", node.node, *(end or nodes.Const(None) for end in ends))

        def visit_Compare(self, node):
            self.generic_visit(node)
            operands = [operand.expr for operand in node.ops]
            if not all(isinstance(each, nodes.Const) for each in operands):
                node.expr = call("read", node.expr)
                for operand in node.ops:
                    operand.expr = call("read", operand.expr)
            return node

        def visit_Pair(self, node):
            self.generic_visit(node)
            if not isinstance(node.key, nodes.Const):
                node.key = call("read", node.key)
            return node

    return Counting()


def _turn(steps: int) -> bool:
    _budget.get().turn(steps)
    return True


def _joined(values: Iterable[Any]) -> str:
    texts = [each if isinstance(each, str) else _as_text(each) for each in values]
    _budget.get().make(sum(map(len, texts)))
    return "".join(texts)


def _sliced(value: Any, start: Any, stop: Any, step: Any) -> Any:
    return _budget.get().made(value[start:stop:step])


def _read(value: Any) -> Any:
    budget = _budget.get()
    if isinstance(value, Iterator):
        return budget.counted(value)
    if isinstance(value, str | bytes | list | tuple | Mapping | range):
        budget.read(value)
    return value


def _concat(texts: Iterable[str]) -> str:
    """Join what a macro or a block has written."""
    texts = list(texts)
    _budget.get().write(sum(map(len, texts)))
    return "".join(texts)


def _as_text(value: Any) -> str:
    budget = _budget.get()
    if isinstance(value, list | tuple | Mapping):
        budget.make(budget.size(value))
    elif type(value) is int:
        budget.check_bits(value.bit_length())
    return str(value)


def _check_operands(budget: Budget, operator: str, left: Any, right: Any) -> None:
    """Count what an operator is going to make."""
    if operator == "%" and isinstance(left, str | bytes):
        costs.percent(budget, left, right)
    if operator == "*":
        for many, times in ((left, right), (right, left)):
            if isinstance(many, str | bytes | list | tuple) and isinstance(times, int):
                budget.room(len(many) * max(0, times))
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(0, right) if operator == "**" else 0
        budget.check_bits(max(bits if abs(left) > 1 else 0, right.bit_length()))
    if operator == "+" and isinstance(left, list | tuple | str | bytes):
        budget.spend(len(left) >> 4)


def _counting_method(owner: Any, name: str, method: Any) -> Any:
    """Return a method of a text, a number or a list, which counts; anything else as it is."""
    from jinja2 import Undefined

    owned = isinstance(owner, str | bytes | int | list | tuple)
    if not owned or not callable(method) or isinstance(method, Undefined):
        return method
    cost = costs.METHODS.get(name, costs.whole)

    @wraps(method)
    def counting(*args: Any, **named: Any) -> Any:
        budget = _budget.get()
        args = tuple(list(budget.counted(a)) if isinstance(a, Iterator) else a for a in args)
        cost(budget, owner, *args, **named)
        return method(*args, **named)

    return counting


def _counting_function(function: Callable, cost: costs.Cost) -> Callable:
    """Return a filter, a test or a global that counts, with what jinja2 passes to it first."""
    passed = 1 if getattr(function, "jinja_pass_arg", None) else 0
    lazy = cost is costs.nothing

    @wraps(function)
    def counting(*args: Any, **named: Any) -> Any:
        budget = _budget.get()
        budget.spend(CALL)
        first, rest = args[:passed], args[passed:]
        if not lazy:
            rest = tuple(list(budget.counted(a)) if isinstance(a, Iterator) else a for a in rest)
        cost(budget, *rest, **named)
        return budget.made(function(*first, *rest, **named))

    return counting


class Dicts:
    """The function `dict` of templates."""

    def __call__(self, *args: Any, **named: Any) -> dict:
        return dict(*args, **named)

    def fromkeys(self, *args: Any) -> dict:
        """Return a dict of the same value for all names."""
        return dict.fromkeys(*args)


@lru_cache(maxsize=1)
def _namespace() -> Any:
    from jinja2.exceptions import SecurityError
    from jinja2.utils import Namespace

    def check_name(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace holds no name such as {name!r:.60}")

    class Names(Namespace):
        """The function `namespace` of templates, whose names do not begin with an underscore."""

        def __init__(*args, **named):
            self, args = args[0], args[1:]
            entries = dict(*args, **named)
            for name in entries:
                check_name(name)
            Namespace.__init__(self, entries)

        def __setitem__(self, name, value):
            check_name(name)
            Namespace.__setitem__(self, name, value)

    return Names


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Return a value as JSON, its names in their order.

    Example:
      >>> to_json({"b": "<ü>", "a": 1})
      '{"b": "<ü>", "a": 1}'
    """
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def now(form: str) -> str:
    """Return the local time, such as the day."""
    return datetime.now().strftime(form)


def refuse(words: str) -> None:
    """Raise what a template says of the messages."""
    raise ValueError(words)
