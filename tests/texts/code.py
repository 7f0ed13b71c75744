"""Rules for code: imports that point one way, only public JAX, what SECURITY.md promises."""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.texts.form import ROOT, Text, at, files, forbid, imported, library, rule, text_of

# The parts of the library: each imports only those before it.
ORDER = [
    "services", "core", "nets", "initializers", "ops", "rewriting", "distributed", "composition",
    "transforms", "layers", "losses", "penalties", "metrics", "typing", "tools", "decoding", "data",
    "training", "profile", "inspect", "interop", "detection", "models", "viz", "unsupervised",
    "pretrained", "__init__",
]  # fmt: skip
# Always there; every other module is imported where it is used.
CORE = {"jax", "jaxnet", "numpy", "optax", "safetensors", "tqdm"} | set(sys.stdlib_module_names)
PRIVATE = ("jax._src", "jaxlib", "jax.core", "jax.interpreters", "jax.extend")
OPS = ROOT / "jaxnet/ops"
VERSIONS = ROOT / "jaxnet/services/jax_versions.py"  # knows one trace from another
EXTENDING = OPS / "attention.py", OPS / "convolution.py", OPS / "native/call.py", VERSIONS


def part(text: Text) -> str:
    return text.path.relative_to(ROOT / "jaxnet").parts[0].removesuffix(".py")


def library_but(*names: str):
    return lambda: [text for text in library() if text.path.name not in names]


@rule(library, at("jaxnet/core/a.py", "import jaxnet.layers"), "from . import layers")
def imports_point_one_way(text):
    later = ORDER[ORDER.index(part(text)) + 1 :]
    wrong = (".", *(f"jaxnet.{name}." for name in later))
    return [name for name in text.imports if f"{name}.".startswith(wrong)]


@rule(lambda: [Text(Path("parts"), "\n".join(map(part, library())))], ("core", "new"))
def every_part_has_its_place(parts):
    return set(parts.text.split()) ^ set(ORDER)


@rule(library, "import jaxlib", "from jax import core\njax.core.Tracer", "jax._src")
def only_public_jax_is_used(text):
    yield from re.findall(r"jax\._src|jax\.core\.", text.text)
    if text.path not in EXTENDING:
        yield from (name for name in text.imports if name.startswith(PRIVATE))


def at_top(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes outside of functions, and not only for types."""
    yield node
    for child in ast.iter_child_nodes(node):
        for_types = getattr(getattr(child, "test", None), "id", "") == "TYPE_CHECKING"
        if not for_types and not isinstance(child, ast.FunctionDef):
            yield from at_top(child)


# interop/flax.py is imported by whoever has Flax, never by the library.
@rule(library_but("flax.py"), "import torch", fine=("def f():\n  import torch",))
def heavy_modules_are_imported_where_used(text):
    return {name.split(".")[0] for name in imported(at_top(text.nodes[0]))} - CORE


@rule(
    "jaxnet/**/*.py experiments/**/*.py tests/**/*.py tools/**/*.py",
    "import jax\njax.export.export(f)",
    fine=("import jax.export\njax.export.export(f)",),
)
def jax_export_is_imported_where_it_is_used(text):
    """With JAX 0.7, `import jax` is not enough, unless something else has imported it."""
    if "jax.export" not in text.text or "jax.export" in text.imports:
        return []
    return [
        n.lineno
        for n in text.nodes
        if getattr(n, "attr", "") == "export" and ast.unparse(n) == "jax.export"
    ]


# These look for what a user's function holds.
forbid(
    "no_function_is_asked_what_it_is",
    r"__self__|__qualname__|isinstance\([^)]*\b(?:apply|init)\b",
    library_but("foreign.py", "functions.py"),
    "isinstance(layer.apply, partial)",
)


@rule(library, at("jaxnet/ops/a.py", "x.reshape(x.shape[0], -1)"))
def no_size_next_to_the_batch_is_left_to_reshape(text):
    """A -1 next to the size of a batch divides by 0 if the batch is empty."""
    if part(text) not in {"layers", "losses", "models", "ops"}:
        return
    for call in text.nodes:
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("reshape"):
            sizes = [ast.unparse(s) for size in call.args for s in getattr(size, "elts", [size])]
            batch = re.search(r"\bbatch\b|shape\[:|shape\[0\]|len\(", " ".join(sizes))
            if "-1" in sizes and batch:
                yield ast.unparse(call)


@rule(library, at("jaxnet/core/new.py", "x = 1\n" * 40))
def tests_mirror_the_library(text):
    """A file of fewer than 40 lines of code may be tested with its neighbors.

    `test_checks.py` tests all of `services/checks`.
    """
    nodes = [node for node in text.nodes if hasattr(node, "lineno")]
    lines = {n.lineno for n in nodes if not isinstance(n, ast.Expr | ast.Constant)}
    inside = text.path.relative_to(ROOT / "jaxnet")
    test = ROOT / "tests" / inside.with_name(f"test_{inside.name}")
    if inside.parent.name == "checks":
        test = ROOT / "tests/services/test_checks.py"
    return [test] if len(lines) >= 40 and inside.stem != "__init__" and not test.exists() else []


# What is built with the library as a user builds; of `data`, the data sets. Inside the package,
# these files check their arguments and open files by `services`, as every module does.
DATASETS = "bccd camvid digits faces images photos scenes tfds available prepare".split()
# Modules of `pretrained` that read and write files. The others use public names alone, as a
# user's code does.
READ_OR_WRITE = "adapters families loading source words".split()
# Modules that users import, or that hold constants beside a function of their name.
PUBLIC = {
    "jaxnet.interop.onnx", "jaxnet.interop.torch", "jaxnet.interop.flax", "jaxnet.interop.export",
    "jaxnet.viz.style", "jaxnet.data.camvid", "jaxnet.data.tfds",
}  # fmt: skip


def wall() -> list[Text]:
    built = [t for t in library() if part(t) in ("models", "unsupervised", "detection", "viz")]
    built += [t for t in library() if part(t) == "pretrained" and t.path.stem not in READ_OR_WRITE]
    datasets = (f"jaxnet/data/{name}.py" for name in DATASETS)
    return [*built, *files(*datasets, "experiments/**/*.py")]


@rule(
    wall,
    at("experiments/a.py", "from jaxnet.core.compose import compose"),
    at("experiments/a.py", "from jaxnet.layers import hidden"),
    fine=(at("experiments/a.py", "from jaxnet import dense"),),
)
def only_public_names_are_used_behind_the_wall(text):
    """What a file imports from jaxnet is public or of its own folder."""
    own = ".".join(text.path.relative_to(ROOT).parts[:2]) + "."
    inside = [own]
    if own.startswith("jaxnet."):
        inside.append("jaxnet.services.")
    if own == "jaxnet.pretrained.":  # a family is made of the parts of a model
        inside.append("jaxnet.models.")
    for node in text.nodes:
        name = f"{getattr(node, 'module', '')}."
        if not name.startswith("jaxnet.") or name[:-1] in PUBLIC or name.startswith(tuple(inside)):
            continue
        module = importlib.import_module(node.module)
        package = node.module.count(".") < 2 and node.module != "jaxnet.services"
        for alias in node.names:
            if not package or not hasattr(module, alias.name):
                yield name + alias.name


@cache
def defined() -> set[str]:
    """The names that the library gives to something."""
    found = re.compile(r"\b(?:def|class) (\w+)|\b(\w+)\b\s*[:=]")
    return {name for text in library() for names in found.findall(text.text) for name in names}


@rule(
    "jaxnet/core/__init__.py jaxnet/layers/__init__.py jaxnet/training/__init__.py",
    '"""A page."""',
    (r"\w+\.py\b", "nothing.py"),
    (r"`(?=\w+[`(])", "`un"),
)
def the_page_at_the_head_of_a_room_names_what_is_there(text):
    """It names at least three files; each of them and each call that it names exists."""
    page = text.docstrings[0]
    named = set(re.findall(r"\b\w+\.py\b", page))
    if len(named) < 3:
        yield "fewer than three files"
    yield from named - {path.name for path in text.path.parent.iterdir()}
    calls = set(re.findall(r"`(?:\w+\.)*(\w+)[`(]", page)) - {"py", "net", "held_out", "forward"}
    yield from calls - defined()


# What SECURITY.md says that jaxnet never does.
NEVER_IMPORTED = {"cloudpickle", "dill", "marshal", "pickle", "shelve", "subprocess"}
NEVER_IMPORTED |= {"ftplib", "httpx", "requests", "smtplib"}
NEVER_CALLED = {"__import__", "compile", "eval", "exec", "system", "popen"}


@rule(
    library,
    "from pickle import load",
    "from urllib.request import urlopen",
    "exec(text)",
    "os.system(text)",
    "np.load(file, allow_pickle=True)",
    fine=("m.eval()", at("jaxnet/data/builders/remote.py", "import a.urlopen")),
)
def code_keeps_the_promises_of_security(text):
    never = NEVER_IMPORTED if text.path.name == "remote.py" else NEVER_IMPORTED | {"urlopen"}
    yield from never & {part for name in text.imports for part in name.split(".")}
    for node in text.nodes:
        if isinstance(node, ast.Call):
            of_os = getattr(getattr(node.func, "value", None), "id", "") == "os"
            called = node.func.attr if of_os else getattr(node.func, "id", "")
            named = {word.arg for word in node.keywords}
            yield from {called} & NEVER_CALLED | named & {"allow_pickle"}


# What changes the whole process, so that threads undo or keep each other's changes.
CHANGES_THE_PROCESS = {
    "addHandler", "basicConfig", "catch_warnings", "chdir", "filterwarnings", "putenv",
    "redirect_stderr", "redirect_stdout", "resetwarnings", "set_printoptions", "setLevel",
    "seterr", "setrecursionlimit", "simplefilter",
}  # fmt: skip
CHANGERS = {"jax.config.update", "np.random.seed", "random.seed", "signal.signal"}
# `jn.reuse_memory` and an open `Checkpoints` say so in their docstrings.
MAY_CHANGE = {"memory.py": "jax.config.update", "preemption.py": "signal.signal"}


@rule(
    library,
    "with warnings.catch_warnings(): pass",
    "os.chdir(folder)",
    "logging.getLogger().setLevel(0)",
    "jax.config.update('jax_enable_x64', True)",
    "np.random.seed(0)",
    "os.environ['A'] = 'b'",
    fine=("jax.random.key(3)", at("jaxnet/training/memory.py", "jax.config.update(a, b)")),
)
def the_process_is_left_as_it_is(text):
    """`tests/test_process.py` looks at the process itself."""
    for node in text.nodes:
        if isinstance(node, ast.Assign):
            yield from (t for t in map(ast.unparse, node.targets) if t.startswith("os.environ"))
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        forbidden = called.split(".")[-1] in CHANGES_THE_PROCESS
        if forbidden or called in CHANGERS:
            if called != MAY_CHANGE.get(text.path.name):
                yield called


@rule(
    "jaxnet/**/*.py experiments/**/*.py tools/**/*.py colab/**/*.py",
    "from PIL import Image\nImage.open(file)",
    "pillow.open(file).resize(size)",
    fine=('Image.open(file, formats=["PNG"])', "path.open()"),
)
def pillow_is_told_which_formats_to_open(text):
    """Without formats it may start another program, as Ghostscript for a file of PostScript."""
    for node in text.nodes:
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "open":
            named = {keyword.arg for keyword in node.keywords}
            of_pillow = ast.unparse(node.func.value) in ("Image", "PIL.Image", "pil", "pillow")
            if of_pillow and "formats" not in named:
                yield ast.unparse(node)


@rule("SECURITY.md", ("eval", "evil"), (r"(to download\s+)\(\[test\]\(\S+\)", r"\1"))
def security_names_the_tests_of_its_promises(text):
    yield from (word for word in ("pickle", "eval", "exec") if f"`{word}`" not in text.text)
    *_, promises = text.text.partition("## Be careful")[0].partition("Rely on these promises")
    yield from (p for p in promises.split("\n- ")[1:] if "[test](tests/" not in p)


# A long has 32 bits on Windows, and other names on macOS.
forbid(
    "kernels_have_types_of_one_width",
    r"\b(?:long|unsigned|short|atomic_long|wchar_t)\b",
    "jaxnet/**/*.[ch]",
    "long n;",
)


@cache
def includes(name: str) -> frozenset[str]:
    """The files next to the kernels that a file of C includes."""
    text = text_of(ROOT / "jaxnet/ops/native" / name).text
    return frozenset(re.findall(r'^#include "([\w.]+)"', text, re.M))


@rule(
    "jaxnet/ops/native/*.[ch]",
    at("jaxnet/ops/native/outer.h", '#include "conv.h"'),
    at("jaxnet/ops/native/shared.h", '#include "attention.h"'),
    fine=(at("jaxnet/ops/native/conv.h", '#include "rows.h"'),),
)
def includes_have_no_circle(text):
    found, left = set(), {*re.findall(r'^#include "([\w.]+)"', text.text, re.M)}
    while left:
        found |= left
        left = {name for file in left for name in includes(file)} - found
    return found & {text.path.name}


@rule(
    "jaxnet/ops/native/kernels.c",
    (r'#include "conv.h"\n', ""),
    ("#include", '#include "conv.h"\n#include'),
)
def kernels_are_included_once_by_one_file(text):
    named = re.findall(r'^#include "([\w.]+)"', text.text, re.M)
    handlers = files("jaxnet/ops/native/*.h")
    wanted = {t.path.name for t in handlers if re.search(r"^FfiError \*jaxnet_", t.text, re.M)}
    yield from (name for name in named if named.count(name) > 1)
    yield from wanted - {*named}


READS_OR_WRITES = {"read_text": 1, "write_text": 2, "open": 4, "fdopen": 4}


# Windows, and a terminal of ASCII, have another encoding by default.
@rule(
    "jaxnet/**/*.py experiments/**/*.py tools/**/*.py colab/**/*.py docs/**/*.py setup.py",
    "path.read_text()",
    "path.write_text(text)",
    "open(path)",
    "open(path, 'a')",
    "os.fdopen(number, mode='w')",
    fine=(
        "path.read_text('utf-8')",
        "open(path, 'rb')",
        "open(path, mode='xb')",
        "path.write_text(text, encoding='ascii')",
        at("jaxnet/services/extras.py", "installed.read_text('direct_url.json')"),
    ),
)
def files_are_read_as_utf8(text):
    for node in text.nodes:
        if not isinstance(node, ast.Call):
            continue
        of_a_path = getattr(node.func, "attr", "")
        name = of_a_path if of_a_path != "open" else ""  # of Pillow, of archives
        name = name or getattr(node.func, "id", "")
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        if name not in READS_OR_WRITES or "encoding" in named:
            continue
        if len(node.args) >= READS_OR_WRITES[name]:
            continue
        mode = named.get("mode") or (node.args[1] if node.args[1:] else None)
        if "open" not in name or "b" not in getattr(mode, "value", ""):
            yield ast.unparse(node)


WRITES = r"""open\([^)\n]*["'][wax]\+?b?["']|write_(?:text|bytes)\(|O_CREAT|savefig\("""
# The others go through `replacing` or `open_regular_file`, which look at what is there.
forbid(
    "only_one_module_opens_files_to_write",
    rf"^(?!.*(?:>>>|\.\.\.)).*(?:{WRITES})",
    library_but("files.py", "lock.py", "log.py", "style.py"),
    'open(path, "wb")',
    "path.write_bytes(x)",
    fine=(">>> open(path, 'w')",),
)


@rule("jaxnet/**/lock.py jaxnet/**/log.py", 'open(path, "w")')
def logs_and_locks_are_files_of_their_own(text):
    return [] if "open_regular_file" in text.text else ["open_regular_file"]


@rule("tests/**/test_*.py", "import flax", fine=('importorskip("flax")\nimport flax',))
def tests_of_full_can_be_collected_without_it(text):
    """An import at the top of a file would be an error of the README's `pytest`."""
    (names,) = re.findall(r"^OPTIONAL = (\{.*?\})", text_of(ROOT / "conftest.py").text, re.M | re.S)
    for name in ast.literal_eval(names):
        if re.search(rf"^(import|from) {name}\b", text.text, re.M):
            yield from [] if f'importorskip("{name}"' in text.text else [name]
