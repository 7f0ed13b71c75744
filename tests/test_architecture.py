"""Imports that point one way, only public JAX, five dependencies, a quick import."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.helpers import read

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "jaxnet").rglob("*.py"))

# The parts of the library: each imports only those before it.
ORDER = [
    "services", "core", "nets", "initializers", "ops", "distributed", "composition",
    "transforms", "layers", "losses", "penalties", "metrics", "typing", "tools", "decoding", "data",
    "training", "profile", "inspect", "interop", "detection", "models", "viz", "unsupervised",
    "__init__",
]  # fmt: skip
# Always there; every other module is imported where it is used.
CORE = {"jax", "numpy", "optax", "safetensors", "tqdm"} | set(sys.stdlib_module_names)
PRIVATE = ("jax._src", "jaxlib", "jax.core", "jax.interpreters", "jax.extend")
EXTENDING = [
    ROOT / "jaxnet/ops" / name for name in ("attention.py", "convolution.py", "native/call.py")
]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(read(path))


def part(path: Path) -> str:
    return path.relative_to(ROOT / "jaxnet").parts[0].removesuffix(".py")


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"


def imports(path: Path, top: bool = False) -> set[str]:
    """Modules that a file imports; with `top`, those outside of functions."""
    tree = parsed(path)
    later = [f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) or _for_types(f)]
    skip = {id(n) for f in later for n in ast.walk(f)}
    found = set()
    for node in ast.walk(tree):
        if top and id(node) in skip:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def test_imports_point_one_way():
    for path in FILES:
        builds_a_model = path.name in ("published.py", "adapter.py")
        here = "models" if builds_a_model else part(path)
        used = {name.split(".")[1] for name in imports(path) if name.startswith("jaxnet.")}
        late = {name for name in used & set(ORDER) if ORDER.index(name) > ORDER.index(here)}
        assert not late, path


def test_every_part_has_its_place():
    assert {part(path) for path in FILES} == set(ORDER)


def test_only_public_jax():
    for path in FILES:
        words = read(path)
        private = {name for name in imports(path) if name.startswith(PRIVATE)}
        assert not private or path in EXTENDING, path
        assert "jax._src" not in words and "jax.core." not in words, path


def test_heavy_modules_are_imported_where_used():
    for path in FILES:
        outside = {name.split(".")[0] for name in imports(path, top=True)} - {"jaxnet"}
        # interop/flax.py is imported by whoever has Flax, never by the library.
        assert outside <= CORE or path == ROOT / "jaxnet/interop/flax.py", path


@pytest.mark.slow
def test_import_brings_no_heavy_module():
    import jaxnet

    code = (
        "import sys, jax, optax; before = set(sys.modules); import jaxnet;"
        "print(sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    loaded = set(ast.literal_eval(run.stdout.strip()))
    heavy = {
        "jax.extend", "matplotlib", "sklearn", "flax", "tensorflow_datasets", "torch", "scipy",
        "PIL",
    }  # fmt: skip
    lazy = {f"jaxnet.{name}" for name in jaxnet._LATER}
    assert "jaxnet" in loaded
    assert not (heavy | lazy) & loaded


def test_lazy_modules_complete_and_load():
    import jaxnet

    lazy = {"viz", "unsupervised", "inspect", "interop", "decoding", "summary"}
    assert lazy <= set(dir(jaxnet))
    assert all(getattr(jaxnet, name) for name in lazy)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        jaxnet.nothing  # noqa: B018


def test_jax_export_is_imported_where_it_is_used():
    """With JAX 0.7, `import jax` is not enough, unless something else has imported it."""
    for room in ("jaxnet", "experiments", "tests", "tools"):
        for path in (ROOT / room).rglob("*.py"):
            used = "jax.export" in read(path) and any(
                isinstance(node, ast.Attribute) and ast.unparse(node) == "jax.export"
                for node in ast.walk(parsed(path))
            )
            assert not used or "jax.export" in imports(path), path


def test_no_function_is_asked_what_it_is():
    words = r"__self__|__qualname__|isinstance\([^)]*\b(apply|init)\b"
    for path in FILES:
        if path.stem != "foreign":  # it looks for what a user's function holds
            assert not re.search(words, read(path)), path


def test_no_size_beside_the_batch_is_left_to_reshape():
    """A -1 beside the size of a batch divides by 0 if the batch is empty."""
    beside = re.compile(r"\bbatch\b|shape\[:|shape\[0\]|len\(")
    for path in FILES:
        if part(path) not in {"layers", "losses", "models", "ops"}:
            continue
        for call in ast.walk(parsed(path)):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("reshape"):
                inside = [getattr(size, "elts", [size]) for size in call.args]
                sizes = [ast.unparse(size) for size in sum(inside, [])]
                found = "-1" in sizes and any(map(beside.search, sizes))
                assert not found, f"{path}:{call.lineno}: {ast.unparse(call)}"


def lines_of_code(path: Path) -> int:
    """The lines of a file on which something begins that is no text."""
    nodes = [node for node in ast.walk(parsed(path)) if hasattr(node, "lineno")]
    return len({node.lineno for node in nodes if not isinstance(node, ast.Expr | ast.Constant)})


def test_tests_mirror_the_library():
    """A file of fewer than 40 lines of code may be tested with its neighbors."""
    tests = {f.relative_to(ROOT / "tests") for f in (ROOT / "tests").rglob("test_*.py")}
    for path in FILES:
        inside = path.relative_to(ROOT / "jaxnet")
        if path.name != "__init__.py" and lines_of_code(path) >= 40:
            assert inside.with_name(f"test_{path.name}") in tests, f"no test for {inside}"


# What is built with the library as a user builds; of `data`, the data sets. Inside the package,
# these files check their arguments and open files by `services`, as every module does.
WALL = [
    *(f for f in FILES if part(f) in ("models", "unsupervised", "detection", "viz")),
    *(ROOT / "jaxnet/data" / f"{name}.py" for name in (
        "bccd", "camvid", "digits", "images", "photos", "scenes", "tfds", "available", "prepare")),
    *sorted((ROOT / "experiments").rglob("*.py")),
]  # fmt: skip
# Modules that users import, or that hold constants beside a function of their name.
PUBLIC = {
    "jaxnet.interop.onnx", "jaxnet.interop.torch", "jaxnet.interop.flax", "jaxnet.interop.export",
    "jaxnet.viz.style", "jaxnet.data.camvid", "jaxnet.data.tfds",
}  # fmt: skip


def private_names(path: Path) -> list[str]:
    """What a file imports from jaxnet that is neither public nor of its own folder."""
    import importlib

    own = ".".join(path.relative_to(ROOT).parts[:2]) + "."
    found = []
    for node in ast.walk(parsed(path)):
        if not isinstance(node, ast.ImportFrom) or not f"{node.module}.".startswith("jaxnet."):
            continue
        if node.module in PUBLIC or f"{node.module}.".startswith(own):
            continue
        if own.startswith("jaxnet.") and f"{node.module}.".startswith("jaxnet.services."):
            continue
        module = importlib.import_module(node.module)
        package = node.module.count(".") < 2 and node.module != "jaxnet.services"
        for alias in node.names:
            if not package or not hasattr(module, alias.name):
                found.append(f"{node.module}.{alias.name}")
    return found


def test_only_public_names_are_used_behind_the_wall():
    assert {str(path): found for path in WALL if (found := private_names(path))} == {}


@pytest.mark.parametrize("room", ["core", "layers", "training"])
def test_the_page_at_the_head_of_a_room_names_what_is_there(room):
    """At most 30 lines; each file of the room that it names exists, and so does each call."""
    folder = ROOT / "jaxnet" / room
    page = ast.get_docstring(parsed(folder / "__init__.py")) or ""
    assert 10 < len(page.splitlines()) <= 30
    files = set(re.findall(r"\b\w+\.py\b", page))
    assert len(files) >= 3 and all((folder / name).exists() for name in files)
    code = "\n".join(read(path) for path in (ROOT / "jaxnet").rglob("*.py"))
    named = set(re.findall(r"`(?:\w+\.)*(\w+)[`(]", page)) - {"py", "net", "held_out", "forward"}
    for name in named:
        assert re.search(rf"\b(def|class) {name}\b|\b{name}\b\s*[:=]", code), name
