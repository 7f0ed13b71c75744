"""Breaks the arithmetic of the library at random places, and counts what the fast suite catches.

    python -m tools.mutation --count 60 --seed 0

A mutant changes a value that someone gets: messages, checks that only raise, texts to look at and
drawings stay as they are. It runs the fast tests of its own module, the oracles and laws that see
its file, the list of public names, and the fast tests of its room, until one fails. What these miss
then runs all other fast tests, where a fault in one room shows in another.

What is slow to import is imported once, then each mutant runs in a fork of this process. There the
mutated text is compiled in place of the file, which is never touched. At the end, the tests that
failed run without a mutant, since a test that fails there too has caught nothing.
"""

import argparse
import ast
import contextlib
import copy
import difflib
import importlib
import inspect
import json
import multiprocessing
import operator
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.machinery import SourceFileLoader
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from tests.quick import flags

ROOT = Path(__file__).parent.parent
LIMIT = 600  # seconds per mutant; one that never ends counts as caught
LIMIT_OF_ALL = 3000  # with all fast tests
ENDED = {0: "MISSED", -signal.SIGALRM: "endless"}  # exit codes of a child; all others: caught
# Imported before the forks; nothing here may import jaxnet or start a backend of JAX.
HEAVY = (
    "jax.numpy", "optax", "pytest", "hypothesis", "safetensors.numpy", "scipy.stats", "tqdm",
    "sklearn", "flax.linen", "matplotlib.pyplot",
)  # fmt: skip

OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip

# What only raises, draws, prints or describes. The rest of the library computes values.
NO_ARITHMETIC = (
    "viz/", "services/checks/", "services/warn.py", "services/progress.py", "services/extras.py",
    "services/table.py", "training/memory.py", "core/errors.py", "transforms/observing.py",
    "transforms/trunk.py", "data/builders/", "data/tfds.py",
)  # fmt: skip
# `supports` chooses between two forms of one value.
NO_ARITHMETIC_IN = ("__repr__", "__str__", "_repr_html_", "check", "_check", "supports")
# Keyword arguments; what is static or not is computed the same.
NO_VALUE = {"strict", "stacklevel", "name", "kind", "progress", "static_argnums"}

# minimum, logaddexp, promote_types, the sum of two values: the same either way
SYMMETRIC = ("min", "max", "log", "pro", "result_type", "plus", "add", "mul", "swapaxes")


class Mutant(NamedTuple):
    """A place to break.

    Fields:
      file: path from the root.
      line: its number in the file.
      what: the kind of change, with the expression before and after.
      source: the whole mutated file, in which all other text is as before.
    """

    file: str
    line: int
    what: str
    source: str

    def diff(self) -> str:
        before = (ROOT / self.file).read_text(encoding="utf-8").splitlines()
        lines = difflib.unified_diff(before, self.source.splitlines(), n=2, lineterm="")
        return "\n".join(list(lines)[2:])


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
        if ast.unparse(node) == "-1":  # of two axes 1 is the last; -2 comes from the constant
            return
        yield "sign or not dropped", copy.deepcopy(node.operand)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        new.value = not node.value if isinstance(node.value, bool) else node.value + 1  # type: ignore[attr-defined]
        yield "constant", new
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        if name.endswith("where") and len(node.args) == 3:
            new.args[1:] = new.args[:0:-1]  # type: ignore[attr-defined]
            yield "branches swapped", new
        elif len(node.args) == 2 and not node.keywords and not is_symmetric(name):
            new.args.reverse()  # type: ignore[attr-defined]
            yield "arguments swapped", new


def is_symmetric(name: str) -> bool:
    return name.split(".")[-1].startswith(SYMMETRIC)


def replaced(source: str, node: ast.AST, new: ast.AST) -> str:
    """Returns the text with an expression in place of another one; all other text stays."""
    text = ast.unparse(ast.fix_missing_locations(copy.deepcopy(new)))
    if not isinstance(new, ast.Constant | ast.Name | ast.Attribute | ast.Call | ast.Subscript):
        text = f"({text})"
    lines = source.encode().splitlines(keepends=True)  # columns count bytes
    first, last = node.lineno - 1, node.end_lineno - 1  # type: ignore[attr-defined]
    after = lines[last][node.end_col_offset :]  # type: ignore[attr-defined]
    lines[first : last + 1] = [lines[first][: node.col_offset] + text.encode() + after]  # type: ignore[attr-defined]
    return b"".join(lines).decode()


def mutated(module: ModuleType, old: str, new: str) -> ModuleType:
    """A copy of a module with one piece of its text replaced; the module itself stays as it is."""
    source = Path(module.__file__ or "").read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times"
    broken = ModuleType(module.__name__)
    broken.__file__ = module.__file__
    exec(compile(source.replace(old, new), str(module.__file__), "exec"), vars(broken))
    return broken


def places_of(path: Path) -> list[tuple[int, int]]:
    """All places of a file as (index of the node, index of the change)."""
    if path.relative_to(ROOT / "jaxnet").as_posix().startswith(NO_ARITHMETIC):
        return []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    aside = set()
    for node in ast.walk(tree):
        for top in left_out(node):
            aside |= {id(below) for below in ast.walk(top)}
    return [
        (i, j)
        for i, node in enumerate(ast.walk(tree))
        if id(node) not in aside
        for j, _ in enumerate(changes(node))
    ]


def left_out(node: ast.AST) -> Iterator[ast.AST]:
    """What is not broken at a node: messages, annotations, and all that is not arithmetic."""
    if isinstance(node, ast.JoinedStr | ast.Raise):
        yield node
    yield from filter(None, (getattr(node, part, None) for part in ("annotation", "returns")))
    if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise):
        yield from (node.test, *node.body)
    elif isinstance(node, ast.Assert) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield node
    elif isinstance(node, ast.FunctionDef) and node.name.startswith(NO_ARITHMETIC_IN):
        yield node
    elif isinstance(node, ast.keyword) and node.arg in NO_VALUE:
        yield node
    elif isinstance(node, ast.Assign) and is_type(node.targets[0]):
        yield node
    elif isinstance(node, ast.arguments):
        for one, default in zip(node.kwonlyargs, node.kw_defaults, strict=True):
            if one.arg in NO_VALUE and default is not None:
                yield default


def is_type(target: ast.AST) -> bool:
    """Whether a name is written as those of types are: what it stands for is an annotation."""
    return isinstance(target, ast.Name) and target.id[0].isupper() and not target.id.isupper()


def draw(count: int, seed: int, only: str = "") -> list[Mutant]:
    files = sorted((ROOT / "jaxnet").rglob("*.py"))
    places = [
        (path, *place)
        for path in files
        if only in str(path.relative_to(ROOT))
        for place in places_of(path)
    ]
    found = []
    for path, i, j in random.Random(seed).sample(places, min(count, len(places))):
        source = path.read_text(encoding="utf-8")
        node = list(ast.walk(ast.parse(source)))[i]
        what, new = list(changes(node))[j]
        before, after = (ast.unparse(ast.fix_missing_locations(n)) for n in (node, new))
        text = f"{what}: {before}  ->  {after}".replace("\n", " ")
        line = node.lineno  # type: ignore[attr-defined]
        file = str(path.relative_to(ROOT))
        found.append(Mutant(file, line, text, replaced(source, node, new)))
    return found


def install(file: Path, source: str) -> None:
    """Compiles a text in place of a file, for all imports of this process from now on."""
    get_code = SourceFileLoader.get_code

    def other(loader: SourceFileLoader, name: str):
        found = Path(loader.get_filename(name)).resolve() == file.resolve()
        return compile(source, str(file), "exec") if found else get_code(loader, name)

    SourceFileLoader.get_code = other  # type: ignore[method-assign]


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


def write_map(file: Path) -> None:
    """Writes which rows and which oracles see what, for `Chosen`; traced in a fork."""
    rows = {name: sorted(ids) for name, ids in rows_by_file().items()}
    file.write_text(json.dumps([rows, oracles_by_room()]), encoding="utf-8")


class Chosen:
    """A plugin of pytest: of the laws and oracles, those that see a file; tells what failed."""

    def __init__(self, file: str, rows: list[str], oracles: list[str]):
        self.sees = {
            "tests/test_oracles.py": oracles,
            "tests/test_golden.py": rows,
            "tests/test_laws.py": rows,
            "tests/test_api.py": ["test_public_api_is_as_noted"],  # it sees every default
        }
        self.failed: list[str] = []
        parts = Path(file).parts[1:]
        own = Path("tests", *parts[:-1], f"test_{parts[-1]}")
        # A file on the first level is used everywhere: its neighbors are the rooms nearest to it.
        rooms = [str(own.parent)] if parts[1:] else ["tests/core", "tests/training"]
        used = [test for test, names in self.sees.items() if names]
        order = [str(own), file, *used, *rooms]
        self.tests = [test for test in dict.fromkeys(order) if (ROOT / test).exists()]

    def pytest_collection_modifyitems(self, items):
        def seen(item) -> bool:
            names = self.sees.get(item.nodeid.partition("::")[0])
            return names is None or any(name in item.name for name in names)

        items[:] = filter(seen, items)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)

    pytest_collectreport = pytest_runtest_logreport


class Others(Chosen):
    """All tests that `Chosen` leaves out."""

    def pytest_collection_modifyitems(self, items):
        nearest = list(items)
        super().pytest_collection_modifyitems(nearest)
        seen = {id(item) for item in nearest if item.nodeid.startswith(tuple(self.tests))}
        items[:] = [item for item in items if id(item) not in seen]


def run_tests(tests: list[str], plugin: Chosen | None = None) -> int:
    """The exit code of pytest for some fast tests: 0 if none failed."""
    import pytest

    options = ["-n0", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not long"]
    # Not rewritten: pytest would compile the files that are named here itself, without the mutant.
    options.append("--assert=plain")
    code = pytest.main([*options, *tests], plugins=[plugin] if plugin else [])
    return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else int(code)


def try_mutant(
    mutant: Mutant, seen_by: list[dict[str, list[str]]], note: Path, others: bool = False
) -> int:
    """Runs the tests of a mutant in this process, and notes the first that fails."""
    rows, oracles = seen_by
    room = str(Path(mutant.file).parent)
    kind = Others if others else Chosen
    plugin = kind(mutant.file, rows.get(mutant.file, []), oracles.get(room, []))
    install(ROOT / mutant.file, mutant.source)
    # Before pytest does: it would put the module in place of the function that has its name.
    importlib.import_module(".".join(Path(mutant.file).with_suffix("").parts))
    code = run_tests(["tests", "jaxnet"] if others else plugin.tests, plugin)
    note.write_text("\n".join(plugin.failed), encoding="utf-8")
    return code


def forked(
    runs: Iterable[Callable[[], int | None]], log: Path, jobs: int, limit: int = LIMIT
) -> Iterator[tuple[int, int]]:
    """Runs each function in a fork, some at once, and yields its index and exit code as it ends."""
    fork = multiprocessing.get_context("fork")
    running: dict[int, tuple[int, multiprocessing.process.BaseProcess]] = {}

    def child(run):
        os.setsid()  # what it starts ends with it
        signal.alarm(limit)
        with log.open("a", encoding="utf-8") as out:
            os.dup2(out.fileno(), 1), os.dup2(out.fileno(), 2)
            sys.exit(run() or 0)

    waiting = list(enumerate(runs))[::-1]
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                i, run = waiting.pop()
                process = fork.Process(target=child, args=(run,))
                process.start()
                running[process.sentinel] = i, process
            for sentinel in wait(running):
                i, process = running.pop(sentinel)  # type: ignore[arg-type]
                process.join()
                _end(process)
                yield i, process.exitcode or 0
    finally:
        for _, process in running.values():
            _end(process)


def _end(process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="part of the path of the files to draw from")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top)
        prepare(folder)
        seen_by, log = folder / "map.json", folder / "log"
        for _, code in forked([partial(write_map, seen_by)], log, 1):
            if code:
                raise SystemExit(log.read_text(encoding="utf-8"))
        missed = mutants = draw(options.count, options.seed, options.only)
        known = json.loads(seen_by.read_text(encoding="utf-8"))
        killers = set()
        for others, limit in ((False, LIMIT), (True, LIMIT_OF_ALL)):
            tried, missed = missed, []
            notes = [folder / f"{others} {i}" for i in range(len(tried))]
            pairs = zip(tried, notes, strict=True)
            runs = [partial(try_mutant, mutant, known, note, others) for mutant, note in pairs]
            for i, code in forked(runs, log, options.jobs, limit):
                failed = (
                    notes[i].read_text(encoding="utf-8").splitlines() if notes[i].exists() else []
                )
                killers.update(failed)
                by = ENDED.get(code, failed[0] if failed else f"an error, exit code {code}")
                print(f"{tried[i].file}:{tried[i].line}  {tried[i].what}\n    {by}", flush=True)
                if not code:
                    missed.append(tried[i])
        for mutant in missed:
            print(f"\nMISSED {mutant.file}\n{mutant.diff()}")
        print(f"{len(mutants)} mutants of seed {options.seed}: {len(mutants) - len(missed)} caught")
        check, run = folder / "check", partial(run_tests, sorted(killers))
        if killers and any(code for _, code in forked([run], check, 1)):
            said = check.read_text(encoding="utf-8")
            raise SystemExit(f"some of these tests fail without a mutant too:\n{said}")


def prepare(folder: Path) -> None:
    """Sets what a fork inherits: options of JAX, and what is slow to import."""
    os.environ.setdefault("XLA_FLAGS", flags())
    os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "programs")
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


if __name__ == "__main__":
    main()
