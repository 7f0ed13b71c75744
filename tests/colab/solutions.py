"""The printed solutions of lessons, as cells that a student adds at the end of a notebook."""

import ast
import re
import symtable

from tests.texts.form import Text

MARK = "# your line"


def exercise_cells(text: Text) -> dict[str, str]:
    """The cells with lines to fill in, by the number of their exercise."""
    marked = [source for source in text.sources("code") if MARK in source]
    return {source.partition("\n")[0].removeprefix("# Exercise "): source for source in marked}


def blocks(text: Text) -> list[tuple[str, str]]:
    """The blocks of code in the solutions, each with the number of its exercise."""
    items = re.split(r"^(\d)\. ", text.sources("markdown")[-1], flags=re.MULTILINE)
    found = []
    for number, item in zip(items[1::2], items[2::2], strict=True):
        for code in re.findall(r"```python\n(.*?)```", item, re.DOTALL):
            found.append((number, re.sub(r"^   ", "", code, flags=re.MULTILINE)))
    return found


def filled(cell: str, solution: str) -> str:
    """A cell with its marked lines replaced by those of the solution, in their order."""
    lines = [line for line in solution.splitlines() if line.endswith(MARK)]
    assert len(lines) == cell.count(MARK), f"{len(lines)} marked lines in\n{solution}"
    parts = re.split(rf"^.*{MARK}$", cell, flags=re.MULTILINE)
    return "".join(a + b for a, b in zip(parts, [*lines, ""], strict=True))


def new_cells(text: Text) -> list[str]:
    """The sources of all solutions, as a student runs them after the last cell."""
    cells = exercise_cells(text)
    return [filled(cells[n], code) if MARK in code else code for n, code in blocks(text)]


def bound(code: str) -> set[str]:
    """The names that a cell sets outside functions and comprehensions."""
    table = symtable.symtable(code, "cell", "exec")
    return {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}


def read(code: str) -> set[str]:
    """The names that a cell reads from earlier ones, in its functions too."""

    def walk(table: symtable.SymbolTable) -> set[str]:
        here = {s.get_name() for s in table.get_symbols() if s.is_referenced() and s.is_global()}
        return here.union(*map(walk, table.get_children()))

    table = symtable.symtable(code, "cell", "exec")
    here = {s.get_name() for s in table.get_symbols() if s.is_referenced()}
    return here.union(*map(walk, table.get_children())) - bound(code)


def set_twice(text: Text) -> list[str]:
    """The names that a solution reads, and that more than one cell of the lesson sets.

    The functions that it calls read names of the lesson too.
    """
    cells = text.sources("code")[2:]  # without the size and the set-up
    trees = [node for cell in cells for node in ast.parse(cell).body]
    functions = {node.name: node for node in trees if isinstance(node, ast.FunctionDef)}
    asked, seen = [name for code in new_cells(text) for name in read(code)], set()
    while asked:
        name = asked.pop()
        if name not in seen and name in functions:
            asked += read(ast.unparse(functions[name]))
        seen.add(name)
    setting = [bound(cell) for cell in cells]
    return sorted(name for name in seen if sum(name in names for names in setting) > 1)
