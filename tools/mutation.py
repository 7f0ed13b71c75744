"""Breaks the library on purpose, in places drawn at random, and counts what the tests catch.

    python -m tools.mutation --count 60 --seed 0
    python -m tools.mutation --count 60 --arithmetic

Each mutant runs the tests of its own module, then those of its room and the laws, until one fails:
of the fast suite, then of the slow one. What these miss, other tests may still catch: the score is
a lower bound. The library itself is never touched: mutants live in copies.

With `--arithmetic` a mutant changes a value that someone gets: messages, checks that only raise,
texts to look at and drawings stay as they are. Only the fast suite runs.
"""

import argparse
import ast
import copy
import inspect
import operator
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from queue import Queue
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
LIMIT = 900  # seconds per command; one that never ends counts as caught

OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip

# What only raises, draws, prints or describes. The rest of the library computes values.
NO_ARITHMETIC = (
    "viz/", "services/checks.py", "services/keywords.py", "services/warn.py",
    "services/progress.py",
    "services/markup.py", "services/extras.py", "services/table.py", "core/errors.py",
    "transforms/observing.py", "transforms/trunk.py",
    "data/builders/", "data/tfds.py",
)  # fmt: skip
NO_ARITHMETIC_IN = ("__repr__", "__str__", "_repr_html_", "check", "_check")
NO_VALUE = {"strict", "stacklevel", "name", "kind", "progress"}  # keyword arguments

SYMMETRIC = {"min", "max", "log", "pro"}  # minimum, logaddexp, promote_types: the same either way


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


def mutated(module: ModuleType, old: str, new: str) -> ModuleType:
    """A copy of a module with one piece of its text replaced; the module itself stays as it is."""
    source = Path(module.__file__ or "").read_text()
    assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times"
    broken = ModuleType(module.__name__)
    broken.__file__ = module.__file__
    exec(compile(source.replace(old, new), str(module.__file__), "exec"), vars(broken))
    return broken


def places_of(path: Path, arithmetic: bool = False) -> list[tuple[int, int, str]]:
    """All places of a file as (index of the node, index of the change, what)."""
    if arithmetic and path.relative_to(ROOT / "jaxnet").as_posix().startswith(NO_ARITHMETIC):
        return []
    tree = ast.parse(path.read_text())
    aside = {id(below) for node in ast.walk(tree) for top in left_out(node, arithmetic)
             for below in ast.walk(top)}  # fmt: skip
    return [
        (i, j, what)
        for i, node in enumerate(ast.walk(tree))
        if id(node) not in aside
        for j, (what, _) in enumerate(changes(node))
        if not (arithmetic and what == "check removed")
    ]


def left_out(node: ast.AST, arithmetic: bool) -> Iterator[ast.AST]:
    """What is not broken at a node: messages and annotations, or all that is not arithmetic."""
    if isinstance(node, ast.JoinedStr | ast.Raise):
        yield node
    yield from filter(None, (getattr(node, part, None) for part in ("annotation", "returns")))
    if not arithmetic:
        return
    if isinstance(node, ast.If) and all(isinstance(line, ast.Raise) for line in node.body):
        yield from (node.test, *node.body)
    elif isinstance(node, ast.Assert) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield node
    elif isinstance(node, ast.FunctionDef) and node.name.startswith(NO_ARITHMETIC_IN):
        yield node
    elif isinstance(node, ast.keyword) and node.arg in NO_VALUE:
        yield node
    elif isinstance(node, ast.arguments):
        for one, default in zip(node.kwonlyargs, node.kw_defaults, strict=True):
            if one.arg in NO_VALUE and default is not None:
                yield default


def draw(count: int, seed: int, arithmetic: bool = False, only: str = "") -> list[Mutant]:
    rng = random.Random(seed)
    files = sorted((ROOT / "jaxnet").rglob("*.py"))
    places = [(path, *place) for path in files if only in str(path.relative_to(ROOT))
              for place in places_of(path, arithmetic)]  # fmt: skip
    found = []
    for path, i, j, what in rng.sample(places, min(count, len(places))):
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


@cache
def rows_by_file() -> dict[str, set[str]]:
    """The rows of the catalogue whose layer runs code of a file: the laws of others cannot see it.

    Each row is traced once, and every function that is entered tells its file.
    """
    import jax

    from tests.catalogue import ROWS

    found: dict[str, set[str]] = {}
    for row in ROWS:
        entered: set[str] = set()

        def see(frame, event, _, entered=entered):
            if frame.f_code.co_name != "<module>":
                entered.add(frame.f_code.co_filename)

        def run(row=row):
            layer = row.make()
            params, state = layer.init(jax.random.key(0), row.x)
            keys = {"key": jax.random.key(0), "train": True}
            jax.eval_shape(lambda p, s, x: layer.apply(p, s, x, **keys), params, state, row.x)

        sys.setprofile(see)
        try:
            run()
        finally:
            sys.setprofile(None)
        for file in entered:
            if Path(file).is_relative_to(ROOT / "jaxnet"):
                found.setdefault(str(Path(file).relative_to(ROOT)), set()).add(row.id.split()[0])
    return found


@cache
def oracles_by_room() -> dict[str, list[str]]:
    """The functions with an oracle, by the folder that they are defined in."""
    import jaxnet
    from tests.identities import IDENTITIES
    from tests.oracles import REFERENCES

    found: dict[str, list[str]] = {}
    for name in REFERENCES.keys() | IDENTITIES.keys():
        module = inspect.getmodule(operator.attrgetter(name)(jaxnet))
        assert module is not None
        found.setdefault("/".join(module.__name__.split(".")[:-1]), []).append(name)
    return found


def chosen(file: str) -> list[list[str]]:
    """Tests for a mutant, in turn: its own module's, its room's with the oracles, the laws."""
    parts = Path(file).parts[1:]
    own = "/".join(["tests", *parts[:-1], f"test_{parts[-1]}"])
    room = str(Path(own).parent)
    # A file on the first level is used everywhere: its neighbors are the rooms nearest to it.
    rooms = [room] if room != "tests" else ["tests/core", "tests/training", "tests/losses"]
    rows = " or ".join(sorted(rows_by_file().get(file, ())))
    laws = ["tests/test_laws.py", "-k", rows] if rows else []
    names = " or ".join(sorted(oracles_by_room().get(str(Path(file).parent), ())))
    oracles = ["tests/test_oracles.py", "-k", names] if names else []
    own_and_examples = [test for test in (own, file) if (ROOT / test).exists()]
    return [own_and_examples, oracles, [t for t in rooms if (ROOT / t).exists()], laws]


def caught_by(mutant: Mutant, folder: Path, suites: tuple[str, ...] = ("fast", "slow")) -> str:
    """ "fast", "slow" or "" for a mutant in a copy of the project."""
    place = folder / mutant.file
    before = place.read_text()
    place.write_text(mutant.source)
    # What is compiled as before is found here again.
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder.parent / "programs")}
    try:
        for suite in suites:
            mark = {"fast": "not slow and not long"}.get(suite, suite)
            for tests in filter(None, chosen(mutant.file)):
                command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0",
                           "-p", "no:cacheprovider", "-m", mark, *tests]  # fmt: skip
                try:
                    ended = subprocess.run(
                        command, cwd=folder, env=environment, capture_output=True, timeout=LIMIT
                    )
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
    parser.add_argument("--arithmetic", action="store_true", help="only values, the fast suite")
    parser.add_argument("--only", default="", help="part of the path of the files to draw from")
    options = parser.parse_args()
    suites = ("fast",) if options.arithmetic else ("fast", "slow")
    rows_by_file(), oracles_by_room()  # once, before there are threads
    copies: Queue[Path] = Queue()
    with tempfile.TemporaryDirectory() as top, ThreadPoolExecutor(options.jobs) as pool:
        for i in range(options.jobs):
            folder = Path(top) / str(i) / "project"
            skipped = shutil.ignore_patterns(".git", ".venv", ".pytest_cache", "*.egg-info")
            copies.put(Path(shutil.copytree(ROOT, folder, ignore=skipped)))

        def one(mutant: Mutant) -> str:
            folder = copies.get()
            by = caught_by(mutant, folder, suites)
            copies.put(folder)
            print(f"{by or 'MISSED':6} {mutant.file}:{mutant.line}  {mutant.what}", flush=True)
            return by

        drawn = draw(options.count, options.seed, options.arithmetic, options.only)
        results = list(pool.map(one, drawn))
    fast, slow = results.count("fast"), results.count("slow")
    told = f", {fast + slow} by both" if "slow" in suites else ""
    print(f"{len(results)} mutants: {fast} caught by the fast suite{told}")


if __name__ == "__main__":
    main()
