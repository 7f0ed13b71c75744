"""Each notebook runs at its smallest size with all its asserts, and then with its solutions.

The cells run in this process, without a kernel; `python -m colab.render` runs them with one.
"""

import ast
import contextlib
import difflib
import importlib
import importlib.machinery
import io
import itertools
import json
import re
import sys
import types
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import jaxnet as jn
from colab.setup import MODULES, first_cells, own_extras
from tests.colab.solutions import exercise_cells, new_cells
from tests.texts.form import ROOT, text_of
from tests.texts.project import ADDRESS, NAME

NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
SHORT = "01", "02", "06"  # lessons of seconds: the others are long
# Of extras that not all lessons install.
PACKAGES = {
    "data": ("array_record", "sklearn", "tensorflow_datasets"),
    "runs": ("grain",),
    "text": ("sacrebleu", "tokenizers"),
    "pretrained": ("gguf", "tokenizers"),
    "speech": ("librosa",),
    "experiments": ("statsmodels", "tyro"),
}
SEVERAL = "24"  # the lesson on several devices
SHOWN_LINES = 60  # of the value that a cell displays, at most

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def marked(path: Path):
    mark = pytest.mark.slow if path.name[:2] in SHORT else pytest.mark.long
    return pytest.param(path, id=path.stem, marks=mark)


most_are_long = pytest.mark.parametrize("path", [marked(path) for path in NOTEBOOKS])


def kept_outputs(path: Path) -> list[str]:
    """What each cell printed when the notebook was rendered."""
    return [
        "".join("".join(output["text"]) for output in cell["outputs"] if "text" in output)
        for cell in text_of(path).cells("code")
    ]


class Run(NamedTuple):
    size: str
    pictures: int
    printed: list[str]  # by each cell
    solved: list[str]  # printed by each solution, if they were asked for


@pytest.fixture
def run(on_devices):
    """Runs a notebook, in a process of its own if it asks for several devices."""

    def run(path: Path, solve: bool = False) -> Run:
        if not path.name.startswith(SEVERAL):
            return run_here(path, solve)
        program = (
            "import json, pathlib; from tests.colab.test_notebooks import run_here; "
            f"print(json.dumps(run_here(pathlib.Path({str(path)!r}), {solve})))"
        )
        return Run(*json.loads(on_devices(program, 8).splitlines()[-1]))

    return run


def run_here(path: Path, solve: bool = False) -> Run:
    """Runs all cells in one namespace, draws the pictures and counts them.

    With `solve`, each solution then runs in a new cell at the end.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [
        run_cell(source, f"{path.name}, code cell {number}", names)
        for number, source in enumerate(text_of(path).sources("code"), 1)
    ]
    solved = [
        run_cell(source, f"{path.name}, solution in new cell {number}", names)
        for number, source in enumerate(new_cells(text_of(path)) if solve else [], 1)
    ]
    pictures = sum(drawn for _, drawn in cells)
    return Run(names["SIZE"], pictures, [text for text, _ in cells], [text for text, _ in solved])


def run_cell(source: str, where: str, names: dict[str, Any]) -> tuple[str, bool]:
    """Runs a cell and returns what it printed, and whether it showed a picture."""
    tree = ast.parse(source)
    last, shown = tree.body[-1], None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(tree, where, "exec"), names)  # our own text
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), where, "eval"), names)
    draw = getattr(shown, "_repr_png_", None)
    if draw is not None:
        assert draw().startswith(b"\x89PNG")
    else:
        assert repr(shown).count("\n") < SHOWN_LINES, f"{where} displays too much"
    return out.getvalue(), draw is not None


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
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")  # a solution, on few digits
def test_runs_with_all_its_asserts_and_solutions(path: Path, run, monkeypatch):
    def no_network(*args, **options):
        raise AssertionError("size tiny must not use a network or prepared data")

    given = own_extras(path)
    for extra in given:  # else the lesson would install it
        pytest.importorskip(MODULES[extra], reason=f"needs the extra jaxnet-toolkit[{extra}]")
    installed = {package for extra in given for package in PACKAGES.get(extra, ())}
    for package in set().union(*PACKAGES.values()) - installed:
        monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    monkeypatch.setenv("JAXNET_SIZE", "tiny")
    monkeypatch.setattr(jn.data.tfds, "load", no_network)
    done = run(path, solve=True)
    assert done.size == "tiny"
    assert len(done.solved) == len(new_cells(text_of(path)))
    assert done.solved.count("Right.\n") == len(exercise_cells(text_of(path)))
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
def test_prints_at_size_colab_what_is_kept_and_runs_the_solutions(path: Path, run, monkeypatch):
    monkeypatch.setenv("JAXNET_SIZE", "colab")
    done = run(path, solve=True)
    assert len(done.solved) == len(new_cells(text_of(path)))
    assert done.solved.count("Right.\n") == len(exercise_cells(text_of(path)))
    # The second cell names the machine.
    kept = words(kept_outputs(path)[2:])
    printed = words(done.printed[2:])
    # Texts that a net writes may part at a number that is rounded in another way.
    assert difflib.SequenceMatcher(None, kept, printed, autojunk=False).ratio() > 0.9


@pytest.mark.slow
def test_faces_and_movies_of_a_reader(tmp_path, monkeypatch, capsys):
    """Where nothing is prepared, the lesson downloads 40 people and the stars of movies."""
    from jaxnet.data.builders import movielens_100k, olivetti

    rng, stars = np.random.default_rng(0), ""
    for person, movie in itertools.product(range(1, 944), range(1, 31)):
        stars += f"{person}\t{movie}\t{rng.integers(1, 6)}\t874965758\n"
    first = "1\t1682\t5\t1\n"  # too few people rated this movie, so the lesson leaves it out
    held_out = "".join(f"{person}\t31\t4\t1\n" for person in range(1, 944))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("ml-100k/ua.base", first + stars)
        file.writestr("ml-100k/ua.test", held_out)
    files = {"movielens_100k": archive.getvalue(), "olivetti": b""}
    for module in (movielens_100k, olivetti):
        monkeypatch.setattr(module, "contents", lambda who, *given: {who: files[who]})
    pictures = np.repeat(np.arange(40, dtype=np.uint8), 10)[:, None, None] + np.zeros((64, 64))
    monkeypatch.setattr(olivetti, "faces", lambda data: pictures.astype(np.uint8))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    names: dict[str, Any] = {"jn": jn, "SIZE": "colab"}
    (path,) = (path for path in NOTEBOOKS if path.name.startswith("08"))
    exec(text_of(path).sources("code")[2], names)  # our own text
    assert "faces: olivetti, ratings: movielens_100k" in capsys.readouterr().out
    (x, y), (test_x, test_y) = names["faces"]
    np.testing.assert_allclose(x.mean((1, 2, 3)), y / 255, rtol=1e-5)
    assert np.bincount(y).tolist() == [7] * 40 and np.bincount(test_y).tolist() == [3] * 40
    assert names["ratings"].shape == (943, 30)
    assert set(np.unique(names["ratings"])) == {-10, -5, 0, 5, 10}


def test_a_reader_without_a_network_is_told(tmp_path, monkeypatch, capsys):
    """Then the lesson draws faces and makes up ratings, and says so."""

    def missing(name, *args, **options):
        raise OSError(f"cannot reach {name}")

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(jn.data.tfds, "load", missing)
    names: dict[str, Any] = {"jn": jn, "SIZE": "colab"}
    (path,) = (path for path in NOTEBOOKS if path.name.startswith("08"))
    exec(text_of(path).sources("code")[2], names)  # our own text
    printed = capsys.readouterr().out
    for line in (
        "faces is not available (cannot",
        "real_ratings is not",
        "faces: drawn, ratings: made",
    ):
        assert line in printed
    assert names["faces"][0][0].shape == (266, 64, 64, 1)


@pytest.mark.parametrize("has_jax", [True, False])
@pytest.mark.parametrize(("command", "file", "device"), [
    ("nvidia-smi", "", ",cuda12"), ("", "/dev/accel0", ",tpu"), ("", "/dev/vfio/0", ",tpu"),
    ("", "", ""),
])  # fmt: skip
@pytest.mark.parametrize("source", ["", "a/jaxnet.whl"])
def test_what_the_set_up_installs(command, file, device, has_jax, source, monkeypatch, tmp_path):
    """Its own extra and a device's JAX, but what is there; from an address or from a path."""
    asked, there = [], ("matplotlib", "jax")[: 1 + has_jax]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXNET_SOURCE", source) if source else None
    monkeypatch.setattr("shutil.which", lambda name: name == command)
    monkeypatch.setattr("os.path.exists", lambda name: name == file)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in there)
    failed = types.SimpleNamespace(returncode=1)
    monkeypatch.setattr("subprocess.run", lambda pip, **_: asked.append(pip) or failed)
    path = next(path for path in NOTEBOOKS if path.name.startswith("13"))
    with pytest.raises(SystemExit, match="could not install .* Clone jaxnet or upload its wheel"):
        exec("\n".join(first_cells(path, own_extras(path))), {})
    extras = "data,speech" + ("" if has_jax else device)
    place = (tmp_path / source).as_uri() if source else f"git+{ADDRESS}"
    assert asked[0][-2:] == ["-q", f"{NAME}[{extras}] @ {place}"]


def test_another_jaxnet_is_told(monkeypatch):
    other = types.ModuleType("jaxnet")
    monkeypatch.setitem(sys.modules, "jaxnet", other)
    other.__spec__ = importlib.machinery.ModuleSpec("jaxnet", None)
    with pytest.raises(SystemExit, match="PyPI's jaxnet is another project: run pip uninstall"):
        exec("\n".join(first_cells(NOTEBOOKS[0], ["viz"])), {})
