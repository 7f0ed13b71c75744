"""No file of the library needs, by whatever way, the file that needs it."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.texts.form import ROOT

LIBRARY = ROOT / "jaxnet"


def module_name(path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def imported_modules(source: str, modules: set[str]) -> set[str]:
    """The files that a file imports, inside its functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside & modules or {node.module}
    return found & modules


def test_imports_make_no_circle():
    """The top of the library is left out: it hands on all names, and rooms on top use these."""
    sources = {module_name(path): path.read_text() for path in LIBRARY.rglob("*.py")}
    sources.pop("jaxnet")
    modules = set(sources)
    graph = {name: imported_modules(text, modules) - {name} for name, text in sources.items()}
    assert len(graph) > 200
    TopologicalSorter(graph).prepare()


def test_a_circle_is_seen():
    sources = {"a.b": "from a import c", "a.c": "def f():\n    from a.b import x"}
    graph = {name: imported_modules(text, set(sources)) for name, text in sources.items()}
    with pytest.raises(CycleError, match="a.b"):
        TopologicalSorter(graph).prepare()
