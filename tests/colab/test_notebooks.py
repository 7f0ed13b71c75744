"""Each notebook runs at its smallest size with all its asserts.

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
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import jaxnet as jn
from colab.setup import MODULES, first_cells, own_extras
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
    for number, source in enumerate(text_of(path).sources("code"), 1):
        tree = ast.parse(source)
        where = f"{path.name}, code cell {number}"
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
    installed = {package for extra in given for package in PACKAGES.get(extra, ())}
    for package in set().union(*PACKAGES.values()) - installed:
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
    kept = words(kept_outputs(path)[2:])
    printed = words(done.printed[2:])
    # Texts that a net writes may part at a number that is rounded in another way.
    assert difflib.SequenceMatcher(None, kept, printed, autojunk=False).ratio() > 0.9


@pytest.mark.fast_cases("True")
@pytest.mark.parametrize("there", [False, True])
def test_faces_and_ratings_of_the_original_files(there, monkeypatch, tmp_path, capsys):
    """Where no set is prepared, the lesson says where they are, and reads them as published."""

    def missing(name, *args, **options):
        raise FileNotFoundError(f"{name} is not prepared")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jn.data.tfds, "load", missing)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    table = np.random.default_rng(0).uniform(-10, 10, (9, 100)).round(2).astype(np.float32)
    table[:, 70:] = 99
    for person, number in itertools.product((1, 2, 10) if there else (), range(1, 11)):
        (tmp_path / f"att_faces/s{person}").mkdir(parents=True, exist_ok=True)
        pixels = bytes([20 * person + number]) * (92 * 112)
        file = tmp_path / f"att_faces/s{person}/{number}.pgm"
        file.write_bytes(b"P5\n92 112\n255\n" + pixels)
    if there:
        rows = "\n".join(",".join(map(str, [70, *row])) for row in table.tolist())
        (tmp_path / "jester-data-1.csv").write_text(rows)
    names: dict[str, Any] = {"jn": jn, "SIZE": "colab", "Path": Path}
    (path,) = (path for path in NOTEBOOKS if path.name.startswith("08"))
    for source in text_of(path).sources("code"):
        if re.search(r"^def \w+_(faces|ratings)\(", source, re.MULTILINE):
            exec(source, names)  # our own text
    printed = capsys.readouterr().out
    for sentence in ("unpack att_faces.zip into", "jester-data-1.xls as jester-data-1.csv"):
        assert (sentence in printed) != there
    if there:
        of = [(20 * person + number) / 255 for person in (1, 2, 10) for number in range(1, 8)]
        np.testing.assert_allclose(names["x"].max((1, 2, 3)), of, rtol=1e-6)
        assert names["y"].tolist() == [0] * 7 + [1] * 7 + [9] * 7
        assert names["test_y"].tolist() == [0] * 3 + [1] * 3 + [9] * 3
        ratings, held_out = names["ratings"], names["held_out"]
        known, asked = names["known"], names["asked"]
        assert not (known & asked).any()
        assert 0.1 < asked.sum() / 630 < 0.3
        both = np.where(known, ratings, np.where(asked, held_out, 99))
        np.testing.assert_array_equal(both, table)


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
