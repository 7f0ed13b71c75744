"""No module imports, directly or through others, a module that imports it."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.texts.form import ROOT, library


def module_name(path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def imported_modules(nodes, modules: set[str]) -> set[str]:
    """The modules that a module imports, inside its functions too."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in modules else node.module)
    return found & modules


def test_imports_make_no_circle():
    """The package at the top is left out: it hands on all names, and rooms on top use these."""
    texts = {module_name(text.path): text for text in library()}
    texts.pop("jaxnet")
    graph = {
        name: imported_modules(text.nodes, set(texts)) - {name} for name, text in texts.items()
    }
    assert len(graph) > 200
    TopologicalSorter(graph).prepare()


def test_a_circle_is_seen():
    sources = {"a": "", "a.b": "from a import c, plus", "a.c": "def f():\n    from a.b import x"}
    nodes = {name: list(ast.walk(ast.parse(text))) for name, text in sources.items()}
    graph = {name: imported_modules(each, set(sources)) for name, each in nodes.items()}
    assert graph["a.b"] == {"a", "a.c"}
    with pytest.raises(CycleError, match="a.b"):
        TopologicalSorter(graph).prepare()
