"""Notebooks: their form, and that each runs at its smallest size with all its asserts.

The cells run in this process, without a kernel; `python -m colab.render` runs them with one.
"""

import ast
import contextlib
import difflib
import importlib
import importlib.machinery
import io
import json
import re
import sys
import tomllib
import types
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest

import jaxnet as jn
from colab.render import sources_hash
from colab.setup import MODULES, first_cells, own_extras
from tests.helpers import each, notebook, read

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
SHORT = "01", "02", "06"  # lessons of seconds: the others are long
README = (ROOT / "colab" / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ADDRESS = PROJECT["urls"]["Repository"]
MAY_IMPORT = {
    "IPython", "jax", "jaxnet", "matplotlib", "numpy", "optax", "sacrebleu", "safetensors",
    "sklearn",
    *sys.stdlib_module_names,
}  # fmt: skip
# Of extras that not all lessons install.
PACKAGES = {
    "data": ("array_record", "sklearn", "tensorflow_datasets"),
    "runs": ("grain",),
    "text": ("sacrebleu", "tokenizers"),
    "speech": ("librosa",),
    "experiments": ("statsmodels", "tyro"),
}
SEVERAL = "24"  # the lesson on several devices
CODE_LINES = 20  # per cell, at most; logic belongs to the library
SHOWN_LINES = 60  # of the value that a cell displays, at most

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
most_are_long = pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            id=path.stem,
            marks=pytest.mark.slow if path.name[:2] in SHORT else pytest.mark.long,
        )
        for path in NOTEBOOKS
    ],
)


def cells_of(path: Path, kind: str) -> list[dict]:
    return [cell for cell in notebook(path)["cells"] if cell["cell_type"] == kind]


def cells(path: Path, kind: str) -> list[str]:
    """The sources of one kind of cell."""
    return ["".join(cell["source"]) for cell in cells_of(path, kind)]


def kept_outputs(path: Path) -> list[str]:
    """What each cell printed when the notebook was rendered."""
    return [
        "".join("".join(output["text"]) for output in cell["outputs"] if "text" in output)
        for cell in cells_of(path, "code")
    ]


def parse(source: str) -> ast.Module:
    """The cell as Python."""
    return ast.parse(source)


class Run(NamedTuple):
    size: str
    pictures: int
    printed: list[str]  # by each cell


@pytest.fixture
def run(on_devices):
    """Runs a notebook, in a process of its own if it asks for several devices."""

    def run(path: Path) -> Run:
        if not path.name.startswith(SEVERAL):
            return run_here(path)
        program = (
            "import json, pathlib; from tests.colab.test_notebooks import run_here; "
            f"print(json.dumps(run_here(pathlib.Path({str(path)!r}))))"
        )
        return Run(*json.loads(on_devices(program, 8).splitlines()[-1]))

    return run


def run_here(path: Path) -> Run:
    """Runs all cells in one namespace, draws the pictures and counts them."""
    names: dict[str, Any] = {"__name__": "__main__"}
    pictures, printed = 0, []
    for number, source in enumerate(cells(path, "code"), 1):
        tree, where = parse(source), f"{path.name}, code cell {number}"
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(tree, where, "exec"), names)  # our own text
            if last is not None:
                shown = eval(compile(ast.Expression(last.value), where, "eval"), names)
        printed.append(out.getvalue())
        if last is not None:
            if hasattr(shown, "_repr_png_"):
                assert shown._repr_png_().startswith(b"\x89PNG")
                pictures += 1
            else:
                assert repr(shown).count("\n") < SHOWN_LINES, f"{where} displays too much"
    return Run(names["SIZE"], pictures, printed)


def words(texts: list[str]) -> list[str]:
    """The words of what cells printed; numbers vary with the machine."""
    return re.sub(r"[-+]?\d[\d.,]*(e[-+]\d+)?", "#", " ".join(texts)).split()


@pytest.fixture
def matmul_precision():
    """A notebook may set it for the whole process."""
    before = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    yield
    jax.config.update("jax_default_matmul_precision", before)


@most_are_long
@pytest.mark.usefixtures("matmul_precision")
def test_runs_with_all_its_asserts(path: Path, run, monkeypatch):
    def no_network(*args, **options):
        raise AssertionError("size tiny must not use a network or prepared data")

    given = own_extras(path)
    for extra in given:  # else the lesson would install it
        pytest.importorskip(MODULES[extra], reason=f"needs the extra jaxnet-toolkit[{extra}]")
    for extra, packages in PACKAGES.items():
        for package in packages if extra not in given else ():
            monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    monkeypatch.setenv("JAXNET_SIZE", "tiny")
    monkeypatch.setattr(jn.data.tfds, "load", no_network)
    done = run(path)
    assert done.size == "tiny"
    assert done.pictures >= 2


@pytest.fixture
def other_seeds(monkeypatch):
    """All keys of a notebook are of other seeds: what it asserts holds for them too."""
    key = jax.random.key
    monkeypatch.setattr(jax.random, "key", lambda seed, **options: key(seed + 1000, **options))


@notebooks
@pytest.mark.long
@pytest.mark.usefixtures("matmul_precision", "tfds_data_dir", "other_seeds")
def test_runs_at_size_colab_with_other_seeds(path: Path, run, monkeypatch):
    if path.name.startswith(SEVERAL):
        pytest.skip("runs in a process of its own, with its own keys")
    monkeypatch.setenv("JAXNET_SIZE", "colab")
    assert run(path).size == "colab"


@notebooks
@pytest.mark.long
@pytest.mark.usefixtures("matmul_precision", "tfds_data_dir")
def test_prints_at_size_colab_what_is_kept(path: Path, run, monkeypatch):
    monkeypatch.setenv("JAXNET_SIZE", "colab")
    done = run(path)
    # The second cell names the machine.
    kept, printed = words(kept_outputs(path)[2:]), words(done.printed[2:])
    # Texts that a net writes may part at a number that is rounded in another way.
    assert difflib.SequenceMatcher(None, kept, printed, autojunk=False).ratio() > 0.9


def test_numbers_have_no_gap():
    numbers = [path.name[:3] for path in NOTEBOOKS]
    assert numbers == [f"{i:02d}_" for i in range(1, len(NOTEBOOKS) + 1)]


@each(NOTEBOOKS)
def test_form(path: Path):
    book = notebook(path)
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    usual = {"accelerator", "colab", "jaxnet", "kernelspec", "language_info"}
    assert set(book["metadata"]) == usual
    assert book["metadata"]["accelerator"] == "GPU"  # Colab then starts with one of the free ones
    assert book["metadata"]["colab"] == {"gpuType": "T4", "provenance": []}
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in book["cells"]:
        folded = {"cellView": "form", "jupyter": {"source_hidden": True}}  # in Colab, in Jupyter
        assert cell["metadata"] == (folded if cell["id"] == "setup" else {})
        assert "".join(cell["source"]).strip()


def test_notebooks_are_valid():
    import nbformat

    for path in NOTEBOOKS:
        nbformat.validate(nbformat.read(path, as_version=4))


@each(NOTEBOOKS)
def test_outputs_are_those_of_the_code(path: Path):
    """Else run `python -m colab.render --keep --only` with the notebook's number."""
    book = notebook(path)
    assert book["metadata"]["jaxnet"]["sources"] == sources_hash(book), "the code was changed"
    code = cells_of(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert "; size colab" in "".join(code[1]["outputs"][0]["text"])
    assert path.stat().st_size < 1_000_000


@pytest.mark.parametrize("jax_is_there", [True, False])
@pytest.mark.parametrize(("command", "file", "device"), [
    ("nvidia-smi", "", ",cuda12"), ("", "/dev/accel0", ",tpu"), ("", "/dev/vfio/0", ",tpu"),
    ("", "", ""),
])  # fmt: skip
@pytest.mark.parametrize("source", ["", "a/jaxnet.whl"])
def test_what_the_set_up_installs(
    command, file, device, jax_is_there, source, monkeypatch, tmp_path
):
    """Its own extra and a device's JAX, but what is there; from an address or from a path."""
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXNET_SOURCE", source) if source else None
    monkeypatch.setattr("shutil.which", lambda name: name == command)
    monkeypatch.setattr("os.path.exists", lambda name: name == file)
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: name in ("matplotlib", "jax")[: 1 + jax_is_there]
    )
    monkeypatch.setattr("subprocess.run", lambda pip, **_: asked.append(pip) or Failed)
    path = next(path for path in NOTEBOOKS if path.name.startswith("13"))
    with pytest.raises(SystemExit, match="could not install .* Clone jaxnet or upload its wheel"):
        exec("\n".join(first_cells(path, own_extras(path))), {})
    extras = "data,speech" + ("" if jax_is_there else device)
    place = (tmp_path / source).as_uri() if source else f"git+{ADDRESS}"
    assert asked[0][-2:] == ["-q", f"{PROJECT['name']}[{extras}] @ {place}"]


class Failed:
    returncode = 1


def test_another_jaxnet_is_told(monkeypatch):
    other = types.ModuleType("jaxnet")
    monkeypatch.setitem(sys.modules, "jaxnet", other)
    other.__spec__ = importlib.machinery.ModuleSpec("jaxnet", None)
    with pytest.raises(SystemExit, match="PyPI's jaxnet is another project: run pip uninstall"):
        exec("\n".join(first_cells(NOTEBOOKS[0], ["viz"])), {})


@each(NOTEBOOKS)
def test_begins_like_all_others(path: Path):
    """Else run `python -m colab.setup`."""
    assert tuple(cells(path, "code")[:2]) == first_cells(path, own_extras(path))
    assert set(own_extras(path)) | {"cuda12", "tpu"} <= set(PROJECT["optional-dependencies"])
    (title,) = cells(path, "markdown")[:1]
    assert title.startswith("# ") and "*Prerequisites:* " in title and "*Time:* " in title
    assert f"{ADDRESS}/blob/main/guide/" in title


def colab_link(path: Path) -> str:
    address = ADDRESS.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{address}/blob/main/colab/{path.name}"


def test_titles_link_to_colab_and_to_the_neighbors():
    titles = [cells(path, "markdown")[0] for path in NOTEBOOKS]
    headings = [title.partition("\n")[0].removeprefix("# ") for title in titles]
    for i, path in enumerate(NOTEBOOKS):
        links = [f"[Open in Colab]({colab_link(path)})"]
        for word, j in (("previous", i - 1), ("next", i + 1)):
            if 0 <= j < len(NOTEBOOKS):
                links.append(f"{word}: [{headings[j]}]({NOTEBOOKS[j].name})")
        assert titles[i].endswith("\n\n" + " ·\n".join(links)), path.name


@each(NOTEBOOKS)
def test_ends_with_exercises_and_their_solutions(path: Path):
    *_, exercises, solutions = cells(path, "markdown")
    assert "## Exercises\n" in exercises and solutions.startswith("## Solutions\n\n<details>")
    asked, answered = (
        re.findall(r"^(\d)\. ", text, re.MULTILINE) for text in (exercises, solutions)
    )
    assert asked == answered == [str(n + 1) for n in range(len(asked))]


@each(NOTEBOOKS)
def test_one_address(path: Path):
    text = read(path)
    found = re.findall(r"https://github\.com/[\w.-]+/[\w.-]+", text)
    assert len(found) >= 2 and set(found) == {ADDRESS}  # the address to install from, and links
    for file in re.findall(rf"{re.escape(ADDRESS)}/blob/main/([\w./-]+)", text):
        assert (ROOT / file).is_file(), file


@each(NOTEBOOKS)
def test_is_thin(path: Path):
    code = cells(path, "code")
    assert len(cells(path, "markdown")) >= len(code) / 2
    for source in (code[0], *code[2:]):  # all but the set-up
        lines = [line.strip() for line in source.splitlines()]
        assert len([line for line in lines if line and line[0] != "#"]) <= CODE_LINES, source
        for node in ast.walk(parse(source)):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= MAY_IMPORT
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] in MAY_IMPORT


@each(NOTEBOOKS)
def test_each_name_of_jaxnet_exists(path: Path):
    """In the text and in the solutions too, which no cell runs."""
    text = "\n".join(cells(path, "code") + cells(path, "markdown"))
    for module, names in re.findall(r"from (jaxnet[\w.]*) import ([\w, ]+)", text):
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name.split(" as ")[0]), name
    for dotted in set(re.findall(r"\bjn(?:\.[a-zA-Z]\w*)+", text)):
        part: Any = jn
        for name in dotted.split(".")[1:]:
            assert hasattr(part, name), dotted
            part = getattr(part, name)


@each(NOTEBOOKS)
def test_asserts_are_bounded_on_both_sides(path: Path):
    asserts = [
        node.test
        for source in cells(path, "code")
        for node in ast.walk(parse(source))
        if isinstance(node, ast.Assert)
    ]
    assert any(isinstance(test, ast.Compare) and len(test.ops) == 2 for test in asserts)


@each(NOTEBOOKS)
def test_the_readme_opens_it(path: Path):
    assert README.count(colab_link(path)) == 1


def test_the_readme_opens_nothing_else():
    assert README.count("https://colab.research.google.com/") == len(NOTEBOOKS)
