"""Rules for where code may switch off the formatter and the linter."""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator

from tests.texts.form import Text, at, files, rule

DISPLAY = ast.Dict | ast.List | ast.Set | ast.Tuple
# Calls that make a test of each row of a table. `refused` is in tests/helpers.py.
TABLES = ("pytest.mark.parametrize", "pytest.mark.fast_cases", "refused", "helpers.refused")
FOLDERS = "jaxnet tests tools experiments docs".split()


def code() -> list[Text]:
    return files(*(f"{folder}/**/*.py" for folder in FOLDERS), "colab/*.py", "conftest.py")


def comments(text: Text) -> Iterator[tuple[int, str]]:
    """Line and words of each comment."""
    for token in tokenize.generate_tokens(io.StringIO(text.text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def is_display(value: ast.AST | None) -> bool:
    """Whether this is a display in brackets; `f(x), 1` has none."""
    if isinstance(value, ast.Tuple) and value.elts:
        first = value.elts[0]
        return (value.lineno, value.col_offset) != (first.lineno, first.col_offset)
    return isinstance(value, DISPLAY)


def is_table(value: ast.AST | None) -> bool:
    """Whether this is a display of values, an addition of one, or a call that is given one."""
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr | ast.Add):
        left = value.left
        if isinstance(left, ast.Name | ast.Call) and left.lineno == left.end_lineno:
            value = value.right
    if is_display(value):
        return True
    if not isinstance(value, ast.Call) or not value.args:
        return False
    if ast.unparse(value.func) in TABLES:
        return True
    first, *others = value.args
    plain = ast.Constant | ast.Name | ast.Attribute
    are_plain = all(isinstance(other, plain) for other in others)
    return is_display(first) and are_plain and not value.keywords


def may_be_laid_out_by_hand(node: ast.AST) -> bool:
    """Whether a statement or a decorator is a table or a list of imports."""
    match node:
        case ast.Import() | ast.ImportFrom():
            return True
        case ast.Assign(targets=[ast.Tuple()]):
            return False  # values of several names, which deserve lines of their own
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign() | ast.Return() | ast.Expr():
            return is_table(node.value)
        case ast.For():
            return is_table(node.iter)
        case ast.Assert(test=ast.Compare(comparators=[*_, wanted])):
            return is_table(wanted)
    return is_table(node)


def laid_out(text: Text) -> dict[int, ast.AST]:
    """The last line of each statement or decorator -> the innermost that ends there."""
    found = {}
    for node in text.nodes:
        for decorator in getattr(node, "decorator_list", []):
            found[decorator.end_lineno] = decorator
        if isinstance(node, ast.For):
            found[node.iter.end_lineno] = node
        elif isinstance(node, ast.stmt):
            found[node.end_lineno] = node
    return found


TABLE = "X = [\n    1, 2,\n    3, 4,\n]  # fmt: skip"


@rule(
    code,
    "x = f(1,\n      2)  # fmt: skip",
    "a, b = [\n    1], [2]  # fmt: skip",
    "x = [f(y)\n     for y in z]  # fmt: skip",
    "@rule([1,\n       2], 3, f(x))  # fmt: skip\ndef g(): ...",
    "if f([1,\n      2]):  # fmt: skip\n    pass",
    "f('a', key=g(\n    x))  # fmt: skip",
    "f('a',\n  'b')  # fmt: skip",
    "x = f(1,\n      2) + [3]  # fmt: skip",
    "x = f(1,\n      2), 3  # fmt: skip",
    "# fmt: off\nX = [1]",
    "# yapf: disable\nX = [1]",
    "# fmt: skip",
    fine=(
        TABLE,
        f"def f():\n    return {TABLE[4:]}".replace("\n    3", "\n        3"),
        "x = array([\n    1, 2,\n], dtype)  # fmt: skip",
        "X = Y | {\n    1: 2, 3: 4,\n}  # fmt: skip",
        "X = f(Y) | {\n    1: 2, 3: 4,\n}  # fmt: skip",
        "@pytest.mark.fast_cases('a', 'b',\n      'c')  # fmt: skip\ndef f(): ...",
        "assert f(x) == [\n    1, 2,\n    3]  # fmt: skip",
        "for x in (1,\n          2):  # fmt: skip\n    pass",
        "from a import (\n    b, c,\n)  # fmt: skip",
        "@pytest.mark.parametrize('x',\n                         f(2))  # fmt: skip\ndef g(x): ...",
    ),
)
def only_tables_are_laid_out_by_hand(text):
    """`fmt: skip` is allowed only after a table, a call that is given one, or imports."""
    if not re.search("fmt:|yapf:", text.text):
        return
    statements = laid_out(text)
    for line, comment in comments(text):
        if re.search(r"fmt:\s*off|yapf:", comment):
            yield line
        if re.search(r"fmt:\s*skip", comment):
            node = statements.get(line)
            if node is None or not may_be_laid_out_by_hand(node):
                yield line


@rule(
    code,
    "f = lambda x: x  # noqa: E731",
    "x = 1  # noqa: F401, E731",
    "x = 1  # noqa",
    "f = lambda x: x  # NOQA: E731",
    "# ruff: noqa",
    "# ruff: noqa: E7",
    fine=("import a  # noqa: F401", "l = 1  # noqa: E741", "'# noqa'"),
)
def no_file_switches_e731_off(text):
    """A function with a name is written by def: `f = lambda ...` is E731 of the linter."""
    if "noqa" in text.text.lower():
        for line, comment in comments(text):
            if re.search(r"(?i:noqa)(?!: *[A-Z])|(?i:noqa):.*\bE(7(31?)?)?\b", comment):
                yield line


@rule(
    "pyproject.toml",
    ('select = ."E"', 'select = ["W"'),
    ('"B008"', '"B008", "E731"'),
    at(
        "pyproject.toml",
        '[tool.ruff.lint]\nselect = ["E"]\n[tool.ruff.lint.per-file-ignores]\n"tests/*" = ["E7"]',
    ),
)
def the_settings_switch_e731_on_everywhere(text):
    settings = tomllib.loads(text.text)["tool"]["ruff"]["lint"]
    if "E" not in settings["select"]:
        yield "select"
    ignored = [*settings.get("ignore", []), *settings.get("extend-ignore", [])]
    for kind in ("per-file-ignores", "extend-per-file-ignores"):
        for rules in settings.get(kind, {}).values():
            ignored += rules
    yield from (name for name in ignored if "E731".startswith(name))
