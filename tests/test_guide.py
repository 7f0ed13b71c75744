"""The guide's Python runs as it stands, and its links lead somewhere."""

import importlib.util
import os
import re
from functools import cache
from pathlib import Path

import pytest

import jaxnet as jn
from tests.pages import ROOT, blocks, run, sections

GUIDE = ROOT / "guide"
INDEX = GUIDE / "README.md"
PAGES = [GUIDE / name for name in ("building.md", "training.md", "trouble.md", "coming_from.md")]
# What is compared with, or read with, and may not be there.
OPTIONAL = ("equinox", "flax", "flatbuffers", "haiku", "keras", "PIL", "sklearn", "torch")
NEEDS = {"Saving, loading, exporting": ("flatbuffers",)}  # where the code does not name it
SLOW = {"A residual net on images of my own"}


def cases():
    for page in PAGES:
        for heading, found in sections(page).items():
            if heading:
                marks = [pytest.mark.slow] if heading in SLOW else []
                name = f"{page.stem}: {heading}"
                yield pytest.param(page, heading, found, id=name, marks=marks)


def needed(heading, found):
    code = "\n".join(block.code for block in found)
    named = [name for name in OPTIONAL if re.search(rf"^\s*(import|from) {name}\b", code, re.M)]
    return [*named, *NEEDS.get(heading, ())]


@cache
def beginning(page):
    """What every section of a page starts from; run once, so that its step is compiled once."""
    names = {"__name__": "guide"}
    for block in [*blocks(INDEX), *sections(page).get("", [])]:
        run(block, names)
    return names


@pytest.mark.parametrize(("page", "heading", "found"), list(cases()))
def test_section_runs(page, heading, found, tmp_path, monkeypatch):
    missing = [name for name in needed(heading, found) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(os, "environ", os.environ.copy())  # what a block sets ends with it
    names = dict(beginning(page))
    for block in found:
        run(block, names)
    if check := CHECKS.get(heading):
        check(names)


def residual_net_learned(names):
    epoch = names["epoch"]
    assert epoch.number == 12 and 0.85 < epoch.test["accuracy"] <= 1.0
    assert len(names["classes"]) == 3


# What must hold after a section beyond what it shows.
CHECKS = {"A residual net on images of my own": residual_net_learned}


def anchors(page):
    """The headings as GitHub links to them."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [INDEX, *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text())
    assert links
    for path, anchor in links:
        if path.startswith("http"):
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), path
        assert not anchor or anchor in anchors(there), f"{path}#{anchor}"


def test_the_index_names_every_section():
    text = INDEX.read_text()
    for page in PAGES:
        for heading in re.findall(r"^## (.*)$", page.read_text(), re.M):
            anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            assert f"{page.name}#{anchor}" in text, heading


@pytest.mark.parametrize("page", [INDEX, *PAGES], ids=lambda page: page.name)
def test_names_are_there(page):
    for name in set(re.findall(r"\bjn\.([a-zA-Z_]\w*(?:\.[a-zA-Z_]\w*)*)", page.read_text())):
        there = jn
        for part in name.split("."):
            there = getattr(there, part)


def test_what_is_shown_is_compared(tmp_path):
    page = Path(tmp_path, "page.md")
    page.write_text("```python\nprint(1)\n```\n\n```text\n2\n```\n")
    with pytest.raises(AssertionError, match="shows"):
        run(blocks(page)[0], {})
    page.write_text("```python\nprint(1)\nraise KeyError(2)\n```\n\n```text\n1\nKeyError: 2\n```\n")
    run(blocks(page)[0], {})
