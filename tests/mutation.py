"""Breaks the library on purpose, in places drawn at random, and counts what the tests catch.

    python -m tests.mutation --count 60 --seed 0

Each mutant runs the tests of its own module, then those of its room and the laws, until one fails:
of the fast suite, then of the slow one. What these miss, other tests may still catch: the score is
a lower bound. The library itself is never touched: mutants live in copies.
"""

import argparse
import ast
import copy
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
LIMIT = 900  # seconds per suite; one that never ends counts as caught

OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip

SYMMETRIC = {"min", "max", "log"}  # minimum, maximum, logaddexp: the same the other way round


class Mutant(NamedTuple):
    file: str
    line: int
    what: str
    source: str  # the whole mutated file


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What can be broken at a node: (what, the node that takes its place)."""
    new = copy.deepcopy(node)
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OPERATORS:
        new.op = OPERATORS[type(node.op)]()  # type: ignore[attr-defined]
        yield "operator", new
        if isinstance(node, ast.BinOp):
            yield "left term alone", copy.deepcopy(node.left)
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        new.ops[0] = OPERATORS[type(node.ops[0])]()  # type: ignore[attr-defined]
        yield "comparison", new
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield "sign or not dropped", copy.deepcopy(node.operand)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        new.value = not node.value if isinstance(node.value, bool) else node.value + 1  # type: ignore[attr-defined]
        yield "constant", new
    elif isinstance(node, ast.If) and isinstance(node.body[0], ast.Raise):
        new.test = ast.Constant(False)  # type: ignore[attr-defined]
        yield "check removed", new
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "call removed", ast.Pass()
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        if name.endswith("where") and len(node.args) == 3:
            new.args[1:] = new.args[:0:-1]  # type: ignore[attr-defined]
            yield "branches swapped", new
        elif len(node.args) == 2 and not node.keywords and name.split(".")[-1][:3] not in SYMMETRIC:
            new.args.reverse()  # type: ignore[attr-defined]
            yield "arguments swapped", new


class Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST):
        self.old, self.new = old, new

    def visit(self, node):
        return self.new if node is self.old else self.generic_visit(node)


def places_of(path: Path) -> list[tuple[int, int, str]]:
    """All places of a file as (index of the node, index of the change, what)."""
    tree = ast.parse(path.read_text())
    # Messages and annotations are not arithmetic.
    aside = {id(below) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Raise)
             for below in ast.walk(node)}  # fmt: skip
    for node in ast.walk(tree):
        for part in ("annotation", "returns"):
            if (found := getattr(node, part, None)) is not None:
                aside |= {id(below) for below in ast.walk(found)}
    return [
        (i, j, what)
        for i, node in enumerate(ast.walk(tree))
        if id(node) not in aside
        for j, (what, _) in enumerate(changes(node))
    ]


def draw(count: int, seed: int) -> list[Mutant]:
    rng = random.Random(seed)
    files = sorted((ROOT / "jaxnet").rglob("*.py"))
    places = [(path, *place) for path in files for place in places_of(path)]
    found = []
    for path, i, j, what in rng.sample(places, count):
        tree = ast.parse(path.read_text())
        node = list(ast.walk(tree))[i]
        _, new = list(changes(node))[j]
        before = ast.unparse(node).splitlines()[0]
        after = ast.unparse(ast.fix_missing_locations(copy.deepcopy(new))).splitlines()[0]
        source = ast.unparse(ast.fix_missing_locations(Replace(node, new).visit(tree)))
        line = node.lineno  # type: ignore[attr-defined]
        text = f"{what}: {before}  ->  {after}"
        found.append(Mutant(str(path.relative_to(ROOT)), line, text, source))
    return found


def chosen(file: str) -> list[str]:
    """Tests for a mutant: of its own test module, its doctests, its room, and the laws."""
    parts = Path(file).parts[1:]
    own = "/".join(["tests", *parts[:-1], f"test_{parts[-1]}"])
    room = str(Path(own).parent)
    # A file on the first level is used everywhere: its neighbours are the rooms nearest to it.
    rooms = [room] if room != "tests" else ["tests/core", "tests/training", "tests/losses"]
    tests = [own, file, *rooms, "tests/test_laws.py"]
    return [test for test in tests if (ROOT / test).exists()]


def caught_by(mutant: Mutant, folder: Path) -> str:
    """ "fast", "slow" or "" for a mutant in a copy of the project."""
    place = folder / mutant.file
    before = place.read_text()
    place.write_text(mutant.source)
    tests = chosen(mutant.file)
    try:
        for suite, tests_of in (("fast", tests[:2]), ("fast", tests), ("slow", tests)):
            mark = {"fast": "not slow and not long"}.get(suite, suite)
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider",
                       "-m", mark, *tests_of]  # fmt: skip
            try:
                ended = subprocess.run(command, cwd=folder, capture_output=True, timeout=LIMIT)
            except subprocess.TimeoutExpired:
                return suite
            if ended.returncode not in (0, 5):  # 5: no tests of this suite
                return suite
        return ""
    finally:
        place.write_text(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    copies: Queue[Path] = Queue()
    with tempfile.TemporaryDirectory() as top, ThreadPoolExecutor(options.jobs) as pool:
        for i in range(options.jobs):
            folder = Path(top) / str(i) / "project"
            skipped = shutil.ignore_patterns(".git", ".venv", ".pytest_cache", "*.egg-info")
            copies.put(Path(shutil.copytree(ROOT, folder, ignore=skipped)))

        def one(mutant: Mutant) -> str:
            folder = copies.get()
            by = caught_by(mutant, folder)
            copies.put(folder)
            print(f"{by or 'MISSED':6} {mutant.file}:{mutant.line}  {mutant.what}", flush=True)
            return by

        results = list(pool.map(one, draw(options.count, options.seed)))
    fast, slow = results.count("fast"), results.count("slow")
    print(f"{len(results)} mutants: {fast} caught by the fast suite, {fast + slow} by both")


if __name__ == "__main__":
    main()
