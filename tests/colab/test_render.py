"""Rendering a notebook: a page with its outputs, and its pictures beside it."""

import json
from pathlib import Path

import pytest

from colab.render import Config, render, run

CODE = """import os, sys
import jaxnet as jn
print("size", os.environ["JAXNET_SIZE"])
print(f"{50}%|###  |\\r{100}%|#####|\\rwarned of {6 * 7}", file=sys.stderr)
jn.viz.images([[[0.0, 1.0], [1.0, 0.0]]])"""


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    pytest.importorskip("nbclient", reason="runs notebooks")
    pytest.importorskip("nbconvert", reason="writes pages")
    pytest.importorskip("ipykernel", reason="the kernel")
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None}
    book = {"cells": [cell | {"source": CODE}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path = tmp_path / "01_small.ipynb"
    path.write_text(json.dumps(book))
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # warnings of Jupyter's packages
def test_page_and_picture(notebook: Path, tmp_path: Path):
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "01_small_07.png").touch()  # from an earlier run
    before = notebook.read_bytes()
    page, picture = render(notebook, folder, "tiny")
    assert page.name == "01_small.html" and picture.name == "01_small_01.png"
    shown = page.read_text().split("<body")[1]
    assert "size tiny" in shown and "warned of 42" in shown and "50%|" not in shown
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(folder.iterdir()) == [page, picture]
    assert notebook.read_bytes() == before


def test_it_goes_on_after_a_notebook_that_fails(tmp_path: Path, monkeypatch, capsys):
    done = []

    def fake(path, folder, size):
        done.append(path.name[:2])
        if path.name[:2] in ("02", "05"):
            raise RuntimeError(f"\x1b[31mcell\x1b[0m\nAssertionError: of {path.name[:2]}")
        return [folder / f"{path.stem}.html"]

    monkeypatch.setattr("colab.render.render", fake)
    config = Config(only=("01", "02", "05", "06"), output=tmp_path)
    with pytest.raises(RuntimeError, match=r"(?s)^2 of 4 notebooks failed:.*02.*of 02.*05.*of 05$"):
        run(config)
    assert done == ["01", "02", "05", "06"]
    assert "06_" in capsys.readouterr().out


def test_unknown_notebook_raises(tmp_path: Path):
    with pytest.raises(ValueError, match="no notebook in colab/ begins with 99"):
        run(Config(only=("99",), output=tmp_path))
