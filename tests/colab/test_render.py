"""Rendering a notebook: a page with its outputs, and its pictures beside it."""

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from colab.render import Config, keep_outputs, keep_pictures, render, run, sources_hash
from docs.lessons import with_pictures

CODE = """import os, sys
import jaxnet as jn
print("size", os.environ["JAXNET_SIZE"])
print(f"{50}%|###  |\\r\\x1b[A{100}%|#####|\\rwarned of {6 * 7}", file=sys.stderr)
jn.viz.images([[[0.0, 1.0], [1.0, 0.0]]])"""
TABLE = """import sys, time
for row in ("head", "first", "second"):
    print(row, flush=True)
    time.sleep(0.3)
print("a warning", file=sys.stderr, flush=True)
print("end")"""


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


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # warnings of Jupyter's packages
def test_page_and_picture(notebook: Path, tmp_path: Path):
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "01_small_07.png").touch()  # from an earlier run
    before = notebook.read_bytes()
    page, picture = render(notebook, folder, "tiny")
    assert page.name == "01_small.html"
    assert picture.name == "01_small_01.png"
    shown = page.read_text().split("<body")[1]
    assert "size tiny" in shown
    assert "warned of 42" in shown
    assert "50%|" not in shown
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(folder.iterdir()) == [page, picture]
    assert notebook.read_bytes() == before


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # warnings of Jupyter's packages
def test_outputs_are_kept(notebook: Path, tmp_path: Path):
    folder = tmp_path / "pages"
    before = json.loads(notebook.read_text())
    picture = render(notebook, folder, "tiny", keep=True)[1]
    after = json.loads(notebook.read_text())
    (cell,) = after["cells"]
    assert cell["source"] == CODE
    assert cell["execution_count"] == 1
    assert cell["metadata"] == {}
    shown = "".join(output.get("text", "") for output in cell["outputs"])
    assert shown.split("\n") == ["size tiny", "warned of 42", ""]
    (image,) = (o["data"]["image/png"] for o in cell["outputs"] if "data" in o)
    kept = Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB")
    whole = Image.open(picture).convert("RGB")
    assert kept.size == whole.size
    assert len(base64.b64decode(image)) <= picture.stat().st_size
    assert np.abs(np.asarray(kept, int) - np.asarray(whole, int)).max() <= 16
    assert after["metadata"] == {"jaxnet": {"sources": sources_hash(before)}}
    before["cells"][0]["source"] += " "
    assert after["metadata"]["jaxnet"]["sources"] != sources_hash(before)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # warnings of Jupyter's packages
def test_rows_printed_one_after_another_are_one_text(notebook: Path, tmp_path: Path):
    book = json.loads(notebook.read_text())
    book["cells"][0]["source"] = TABLE
    notebook.write_text(json.dumps(book))
    render(notebook, tmp_path / "pages", "tiny", keep=True)
    (cell,) = json.loads(notebook.read_text())["cells"]
    kept = [(output["name"], output["text"]) for output in cell["outputs"]]
    texts = "head\nfirst\nsecond\n", "a warning\n", "end\n"
    assert kept == list(zip(("stdout", "stderr", "stdout"), texts, strict=True))


def test_a_folder_of_this_machine_is_not_kept(tmp_path: Path):
    cell = {"cell_type": "code", "source": "", "outputs": [], "execution_count": None}
    path = tmp_path / "01_small.ipynb"
    path.write_text(json.dumps({"cells": [cell], "metadata": {}}))
    before = path.read_bytes()
    output = {"output_type": "stream", "text": f"written to {Path.home()}/runs"}
    ran = SimpleNamespace(cells=[SimpleNamespace(outputs=[output], execution_count=1)])
    with pytest.raises(ValueError, match="01_small.ipynb: an output names .*, a folder of this"):
        keep_outputs(path, ran)
    assert path.read_bytes() == before


def picture(color: tuple[int, int, int]) -> str:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_pictures_of_a_long_run_are_attached_to_the_text(tmp_path: Path):
    outputs = [{"output_type": "stream", "text": "short"}]
    code = {"cell_type": "code", "id": "made", "source": "", "outputs": outputs}
    text = {"cell_type": "markdown", "id": "text", "source": ["![Digits](attachment:made.png)"]}
    path = tmp_path / "01_small.ipynb"
    path.write_text(json.dumps({"cells": [code, text], "metadata": {}}))
    drawn = {"output_type": "display_data", "data": {"image/png": picture((255, 0, 0))}}
    keep_pictures(path, SimpleNamespace(cells=[code | {"outputs": [drawn]}, text]))
    kept = json.loads(path.read_text())["cells"]
    assert kept[0] == code  # with the outputs of the short run
    attached = base64.b64decode(kept[1]["attachments"]["made.png"]["image/png"])
    assert Image.open(io.BytesIO(attached)).convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    page = with_pictures(kept[1], "01_small", tmp_path)
    assert page == "![Digits](01_small_made.png){ loading=lazy }"
    assert (tmp_path / "01_small_made.png").read_bytes() == attached
    with pytest.raises(ValueError, match="text shows made, a cell without a picture"):
        keep_pictures(path, SimpleNamespace(cells=[code, text]))


def test_it_goes_on_after_a_notebook_that_fails(tmp_path: Path, monkeypatch, capsys):
    done = []

    def fake(path, folder, size, keep):
        done.append(path.name[:2])
        if path.name[:2] in ("03", "06"):
            raise RuntimeError(f"\x1b[31mcell\x1b[0m\nAssertionError: of {path.name[:2]}")
        return [folder / f"{path.stem}.html"]

    monkeypatch.setattr("colab.render.render", fake)
    with pytest.raises(RuntimeError, match=r"(?s)^2 of 4 notebooks failed:.*03.*of 03.*06.*of 06$"):
        run(Config(only=("01", "03", "06", "07"), output=tmp_path))
    assert done == ["01", "03", "06", "07"]
    assert "07_" in capsys.readouterr().out


def test_unknown_notebook_raises(tmp_path: Path):
    with pytest.raises(ValueError, match="no notebook in colab/ begins with 99"):
        run(Config(only=("99",), output=tmp_path))
