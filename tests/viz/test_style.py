import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

import jaxnet as jn
from jaxnet import viz
from tests.pages import ROOT

FIGURES = {
    "curves": lambda: viz.curves({"loss": {"train": [2.0, 1.0]}}),
    "confusion": lambda: viz.confusion(np.eye(3)),
    "images": lambda: viz.images(np.zeros((2, 8, 8, 1))),
    "filters": lambda: viz.filters(np.ones((3, 3, 1, 4))),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_saves_what_can_be_read_back_and_lies_inside_the_figure(make, tmp_path):
    from PIL import Image

    figure = make()
    path = viz.save(figure, tmp_path / "new" / "folder" / "a.png", metadata={"Title": "A"})
    with Image.open(path) as image:
        wide, high = figure.get_size_inches() * 100
        assert abs(image.width - wide) <= 1
        assert abs(image.height - high) <= 1
        assert len(set(image.convert("L").tobytes())) > 1  # not one color
        assert image.info["Title"] == "A"
    figure.draw_without_rendering()
    box, whole = figure.get_tightbbox(), figure.bbox_inches
    assert box.x0 >= -0.02
    assert box.y0 >= -0.02
    assert box.x1 <= whole.x1 + 0.02
    assert box.y1 <= whole.y1 + 0.02


def full_disk(file):
    raise OSError("no space left")


@pytest.mark.slow
def test_a_figure_replaces_a_file_whole(tmp_path, monkeypatch):
    figure = FIGURES["confusion"]()
    (tmp_path / "a.png").write_bytes(b"old")
    (tmp_path / "a.png").chmod(0o600)
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    monkeypatch.setattr(os, "fsync", full_disk)
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
    ({"path": "a"}, ValueError, "viz.save: the suffix of path must be .*'png'.*, got ''"),
    ({"path": "a.exe"}, ValueError, "viz.save: the suffix of path must be "),
    ({"dpi": 0}, ValueError, r"viz.save: dpi must be in \(0, 10000\], got 0"),
], ids=str)  # fmt: skip
def test_what_cannot_be_saved(tmp_path, monkeypatch, change, error, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        arguments = {"figure": FIGURES["images"](), "path": "a.png"}
        viz.save(**arguments | change)
    assert not list(tmp_path.iterdir())


def one(value):
    return np.full((1, 3, 4, 3), value)


BOXES = {"boxes": np.ones((1, 2, 4)), "classes": np.ones((1, 2), int)}
NET = jn.serial(jn.conv(2, 3))
FIELDS = jn.inspect.receptive_fields(NET, jn.spec((1, 3, 4, 1)))
# A function, arguments of which it draws a figure, and for each what is wrong.
GOOD = {
    "attention": {"weights": [[1.0]], "source": ["a"], "target": ["b"], "title": "t"},
    "boxes": {"x": one(0.5), "found": BOXES, "truth": BOXES, "names": ["a", "b"], "columns": 1},
    "confusion": {"matrix": [[1, 2], [3, 4]], "names": ["a", "b"]},
    "curves": {"panels": {"loss": {"train": [1.0]}}, "xlabel": "x"},
    "decision": {"predict": lambda x: x[:, 0] > 0, "x": np.eye(2), "y": [0, 1],
                 "names": ["a", "b"], "columns": 1, "resolution": 5},
    "embedding": {"panels": {"a": np.ones((2, 2))}, "labels": [0, 1], "names": ["a", "b"]},
    "feature_maps": {"maps": np.ones((3, 4, 2)), "image": one(1)[0], "most_active": 1,
                     "columns": 1},
    "filters": {"kernel": np.ones((12, 3)), "shape": (3, 4), "columns": 1},
    "graph": {"computed": jn.inspect.graph(lambda x: x * 2, 2.0), "digits": 3},
    "heatmap": {"images": one(1), "maps": {"a": one(1)}, "titles": ["t"], "unsigned": ["a"],
                "side": 1.0},
    "images": {"x": one(1), "titles": ["t"], "columns": 1},
    "masks": {"x": one(1), "labels": {"a": np.zeros((1, 3, 4), int)}, "names": ["c"],
              "colors": [[1, 0, 0]], "titles": ["t"], "alpha": 0.5},
    "posteriors": {"posterior": [[1.0, 0.0]], "path": [0], "names": ["a", "b"], "steps": "a"},
    "receptive": {"image": np.ones((3, 4, 1)), "fields": FIELDS, "paths": ["conv"]},
    "spectrogram": {"features": np.ones((5, 2)), "segments": {"t": [("a", 0, 3)]},
                    "posterior": [[0.5, 0.5]], "names": ["a", "b"], "blank": 0, "stride": 1,
                    "hop": 0.01},
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_arguments_of_another_type_are_named(name):
    function, good = getattr(viz, name), GOOD[name]
    assert function(**good).axes
    texts = ("names", "source", "target", "steps", "paths", "titles", "unsigned")
    wrongs = (object(), 2.5j, [None], {"a": None}, float("nan"), np.array(["a"]))
    for what, wrong in itertools.product(good, wrongs):
        if what in texts and hasattr(wrong, "dtype"):
            continue  # an array of words is a list of words
        with pytest.raises((TypeError, ValueError), match=f"^{name}: ") as error:
            function(**good | {what: wrong})
        assert type(error.value) in (TypeError, ValueError), what


@pytest.mark.parametrize("name", GOOD)
def test_names_with_dollars_are_no_formulas(name):
    def odd(value):
        if isinstance(value, dict):
            return {odd(key): odd(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(odd, value))
        named = isinstance(value, str) and value not in ("boxes", "classes", "conv")
        return rf"$\in_${value} costs $5$" if named else value

    options = {what: odd(value) for what, value in GOOD[name].items() if what != "steps"}
    getattr(viz, name)(**options).draw_without_rendering()


@pytest.mark.parametrize(("given", "error"), [
    ("ab", TypeError), ([3], TypeError), ([], ValueError),
], ids=str)  # fmt: skip
def test_runs_of_another_type(given, error):
    with pytest.raises(error, match="history: "):
        viz.history(given)


@pytest.mark.parametrize(("name", "change", "words"), [
    ("confusion", {"matrix": [[np.nan, 1], [0, 1]]}, r"counts must be in \[0, inf\)"),
    ("boxes", {"found": BOXES | {"boxes": np.full((1, 2, 4), np.nan)}}, "boxes must be finite"),
    ("boxes", {"found": BOXES | {"score": np.ones((1, 2))}}, 'found must have "boxes", "classes"'),
    ("boxes", {"found": {"boxes": BOXES["boxes"]}}, 'found must have "boxes", "classes"'),
    ("decision", {"y": [0.5, 1]}, r"x must be finite and y classes 0, 1, \.\.\."),
    ("decision", {"x": [[np.nan, 0], [0, 1]]}, "x must be finite"),
    ("images", {"x": one(200.0)}, "drawn from 0 to 1, got 200. For pixels of 0 .* write x / 255"),
    ("images", {"columns": 0}, "columns must be at least 1, got 0"),
    ("heatmap", {"side": np.nan}, r"side must be in \(0, 100\], got nan"),
    ("masks", {"alpha": np.nan}, r"alpha must be in \[0, 1\], got nan"),
    ("spectrogram", {"hop": np.nan}, r"hop must be in \(0, inf\), got nan"),
    ("spectrogram", {"segments": {"t": [("a", "b", 3)]}}, r"segments\['t'\] must be a list of"),
    ("graph", {"digits": 0}, "digits must be at least 1"),
], ids=str)  # fmt: skip
def test_values_that_cannot_be_drawn(name, change, words):
    with pytest.raises((TypeError, ValueError), match=f"^{name}: .*{words}"):
        getattr(viz, name)(**GOOD[name] | change)


def test_a_notebook_shows_it_without_pyplot():
    formatters = pytest.importorskip("IPython.core.formatters")
    png = formatters.PNGFormatter()(FIGURES["images"]())
    assert png is not None
    assert png.startswith(b"\x89PNG")


def test_a_figure_of_your_own_is_laid_out():
    """The labels are inside; the global style is that of the user."""
    import matplotlib

    before = dict(matplotlib.rcParams)
    figure = viz.style.new_figure(3, 2)
    figure.subplots().set_xlabel("time")
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert figure.dpi == 100
    assert min(box.x0, box.y0) >= 0
    viz.images(np.zeros((2, 8, 8)))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
def test_pyplot_is_left_alone():
    """No window, no figure kept by pyplot, which is not even imported."""
    program = (
        "import sys, numpy as np, jaxnet as jn; jn.viz.images(np.zeros((2, 8, 8)));"
        "jn.viz.confusion(np.eye(2)); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib .*\[viz\]"):
        viz.images(np.zeros((2, 8, 8)))
