import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxnet import viz

ROOT = Path(__file__).parents[2]

FIGURES = {
    "curves": lambda: viz.curves({"loss": {"train": [2.0, 1.0]}}),
    "confusion": lambda: viz.confusion(np.eye(3)),
    "images": lambda: viz.images(np.zeros((2, 8, 8, 1))),
    "filters": lambda: viz.filters(np.ones((3, 3, 1, 4))),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_saves_what_can_be_read_back(make, tmp_path):
    from PIL import Image

    figure = make()
    path = viz.save(figure, tmp_path / "new" / "folder" / "a.png")
    with Image.open(path) as image:
        wide, high = figure.get_size_inches() * 100
        assert abs(image.width - wide) <= 1 and abs(image.height - high) <= 1
        assert len(set(image.convert("L").tobytes())) > 1  # not one colour


def test_a_figure_replaces_a_file_whole(tmp_path, monkeypatch):
    figure = FIGURES["confusion"]()
    (tmp_path / "a.png").write_bytes(b"old")
    (tmp_path / "a.png").chmod(0o600)
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="viz.save: .*/a.png cannot be written: no space left"):
        viz.save(figure, tmp_path / "link.png")
    assert (tmp_path / "a.png").read_bytes() == b"old"
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert viz.save(figure, "~/link.png") == tmp_path / "link.png"
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o600
    for suffix in ("pdf", "svg"):
        assert viz.save(figure, tmp_path / f"a.{suffix}").stat().st_size > 1000


@pytest.mark.parametrize(("change", "error", "words"), [
    ({"figure": 3}, TypeError, "viz.save: figure must be a figure of jn.viz, got int"),
    ({"path": None}, TypeError, "viz.save: path must be a str or a Path, got NoneType"),
    ({"path": "a"}, ValueError, r"viz.save: path must end in .*\.png.*, got 'a'"),
    ({"path": "a.exe"}, ValueError, "viz.save: path must end in "),
    ({"dpi": 0}, ValueError, r"viz.save: dpi must be in \(0, 10000\], got 0"),
    ({"dpi": "x"}, TypeError, "viz.save: dpi must be a number"),
], ids=str)  # fmt: skip
def test_what_cannot_be_saved(tmp_path, change, error, words):
    arguments = {"figure": FIGURES["images"](), "path": "a.png"} | change
    if isinstance(arguments["path"], str):
        arguments["path"] = str(tmp_path / arguments["path"])
        words = words.replace("got 'a'", "got ''")
    with pytest.raises(error, match=words):
        viz.save(**arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_everything_drawn_lies_inside_the_figure(make):
    figure = make()
    figure.draw_without_rendering()
    box, whole = figure.get_tightbbox(), figure.bbox_inches
    assert box.x0 >= -0.02 and box.y0 >= -0.02
    assert box.x1 <= whole.x1 + 0.02 and box.y1 <= whole.y1 + 0.02


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_a_notebook_shows_it_without_pyplot(make):
    formatters = pytest.importorskip("IPython.core.formatters")
    png = formatters.PNGFormatter()(make())
    assert png is not None and png.startswith(b"\x89PNG")


def test_a_figure_of_your_own_is_laid_out():
    """The labels are inside; the global style is that of the user."""
    import matplotlib

    before = dict(matplotlib.rcParams)
    figure = viz.figure.new_figure(3, 2)
    axes = figure.subplots()
    axes.set_xlabel("time")
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert figure.dpi == 100 and min(box.x0, box.y0) >= 0
    viz.images(np.zeros((2, 8, 8)))
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_left_alone():
    """No window, no figure kept by pyplot, which is not even imported."""
    program = (
        "import sys, numpy as np, jaxnet as jn; jn.viz.images(np.zeros((2, 8, 8)));"
        "jn.viz.confusion(np.eye(2)); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_importing_jaxnet_does_not_import_matplotlib():
    program = "import sys, jaxnet; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib .*jaxnet-toolkit\[viz\]"):
        viz.images(np.zeros((2, 8, 8)))
