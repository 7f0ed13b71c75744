"""A lint of all texts of the project: files, docstrings, subjects of commits.

A rule is a function from a text to the faults that it finds. Next to its texts, it names planted
faults, which show that it can fail.
"""

import ast
import json
import re
from collections.abc import Callable, Iterable
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


class Text:
    """A text that is read and parsed once, for all rules.

    Args:
      path: Its file, or a name for messages.
      made: The text, if it is not that of the file, or a function that makes it.
    """

    def __init__(self, path: Path, made: str | Callable[[], str] | None = None):
        self.path, self.made = path, made

    def __repr__(self) -> str:
        return str(self.path).removeprefix(f"{ROOT}/")

    @cached_property
    def text(self) -> str:
        made = self.path.read_text if self.made is None else self.made
        text = made() if callable(made) else made
        return re.sub(r'("image/png": ")[^"]*', r"\1", text)  # the data of a notebook's picture

    @cached_property
    def nodes(self) -> list[Any]:
        """The nodes of a Python file, the module first."""
        return list(ast.walk(ast.parse(self.text)))

    @cached_property
    def imports(self) -> set[str]:
        """The modules that a Python file imports, and what it takes from them."""
        return imported(self.nodes)

    @cached_property
    def docstrings(self) -> list[str]:
        """The docstring of a Python file, and those of its classes and functions."""
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef
        return [ast.get_docstring(node) or "" for node in self.nodes if isinstance(node, kinds)]

    @cached_property
    def prose(self) -> str:
        """A page without its blocks of code."""
        return re.sub(r"```.*?```", "", self.text, flags=re.DOTALL)

    @cached_property
    def book(self) -> dict:
        """A notebook."""
        return json.loads(self.text)

    def cells(self, kind: str) -> list[dict]:
        return [cell for cell in self.book["cells"] if cell["cell_type"] == kind]

    def sources(self, kind: str) -> list[str]:
        return ["".join(cell["source"]) for cell in self.cells(kind)]

    @cached_property
    def code(self) -> list[Any]:
        """The nodes of all code cells of a notebook."""
        return [node for cell in self.sources("code") for node in ast.walk(ast.parse(cell))]


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


text_of = cache(Text)


def files(*patterns: str) -> list[Text]:
    paths = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return [text_of(path) for path in paths if path.is_file() and "runs" not in path.parts]


@cache
def library() -> list[Text]:
    return files("jaxnet/**/*.py")


def at(path: str, made: str) -> Text:
    return Text(ROOT / path, made)


class Rule(NamedTuple):
    """A rule for texts.

    Fields:
      texts: Returns the texts that it holds for.
      faults: Returns what is wrong in a text, nothing if it is right.
      planted: Texts with a fault. A string is in the place of the first text; of a pair, the second
        pattern replaces the first one there.
      fine: Texts without a fault that look like one.
    """

    texts: Callable[[], list[Text]]
    faults: Callable[[Text], Iterable]
    planted: tuple[Any, ...]
    fine: tuple[Any, ...]

    def plant(self, fault: Any) -> Text:
        if isinstance(fault, Text):
            return fault
        first = self.texts()[0]
        if isinstance(fault, tuple):
            fault = re.sub(*fault, first.text, count=1)
            assert fault != first.text
        return Text(first.path, fault)


RULES: dict[str, Rule] = {}


def rule(texts: Callable[[], list[Text]] | str, *planted: Any, fine: tuple = ()) -> Callable:
    """Makes a rule of the function below it; a string has the patterns of the files."""
    given = texts if callable(texts) else lambda: files(*texts.split())

    def of(faults):
        RULES[faults.__name__] = Rule(given, faults, planted, fine)

    return of


def forbid(name: str, pattern: str, texts: Any, *planted: Any, fine: tuple = ()) -> None:
    """Makes a rule by which no text has this pattern."""

    def faults(text):
        return re.findall(pattern, text.text, re.MULTILINE)

    faults.__name__ = name
    rule(texts, *planted, fine=fine)(faults)


def different(*pairs: tuple) -> list[tuple]:
    """The pairs of what was found and what is wanted that differ."""
    return [pair for pair in pairs if pair[0] != pair[1]]
