"""Numbers in prose are those of the records that the prose links to.

A paragraph, list item or table that links to a page of results, to the page on performance or to an
experiment states results. Each decimal number and percentage in it must occur in these records,
and so must each number in the cells of a table. On a page, a table without links has those of its
section. This holds for pages, docstrings and lessons.
"""

import ast
import re
from pathlib import Path

import pytest

from experiments.__main__ import findings
from experiments.benchmarks import figures
from experiments.pages import anchor
from experiments.records import CELL, Record, unknown
from tests.helpers import each, notebook, read
from tests.test_architecture import parsed

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "experiments" / "performance.md", *ROOT.glob("guide/**/*.md")]
LESSONS = sorted((ROOT / "colab").glob("*.ipynb"))
SOURCES = sorted((ROOT / "jaxnet").rglob("*.py"))
RESULTS = re.compile(r"\bresults/(\w+)\.md(?:#([\w-]+))?")
PERFORMANCE = re.compile(r"\bperformance\.md(?:#([\w-]+))?|\bexperiments[./]benchmarks\b")
EXPERIMENT = re.compile(r"\bexperiments[./](\w+)")
BLOCK = re.compile(r"\n\s*\n|\n(?= *(?:[-*]|\d+\.) )")
FENCE = re.compile(r"^( *)(```+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)


def linked(text: str) -> list[Record]:
    """The records that a text links to."""
    found = []
    for topic, place in RESULTS.findall(text):
        found += [r for _, r in findings() if r.topic == topic and place in ("", anchor(r.title))]
    for match in PERFORMANCE.finditer(text):
        place = match[1] or ""
        found += [r for _, r in figures.findings() if place in ("", anchor(r.title))]
    names = set(EXPERIMENT.findall(text))
    return found + [record for name, record in findings() if name in names]


def wrong(text: str, *, page: bool = True) -> list[str]:
    """What is wrong in a text: numbers that its records lack, and deviations without a record.

    Args:
      text: Markdown or a docstring.
      page: Whether it is a page, where each deviation must have a link.
    """
    problems = []
    for section in re.split(r"^(?=#+ )", FENCE.sub("", text), flags=re.MULTILINE):
        for block in BLOCK.split(section):
            table = block.lstrip().startswith("|")
            records = linked(block) or (linked(section) if table and page else [])
            sources = [record.text for record in records]
            prose = re.sub(r"\]\([^)]*\)|`[^`]*`", " ", block)
            if sources:
                problems += unknown(prose, sources)
                cells = [c.strip(" *") for c in prose.split("|")] if table else []
                numbers = "\n".join(cell for cell in cells if CELL.fullmatch(cell))
                problems += unknown(numbers, sources, whole=True)
            elif page and "±" in prose:
                problems.append(f"no link to records: {' '.join(prose.split())}")
    return problems


@each(PAGES)
def test_pages_state_the_figures_of_the_records(path):
    assert wrong(read(path)) == []


@each(LESSONS)
def test_lessons_state_the_figures_of_the_records(path):
    for cell in notebook(path)["cells"]:
        if cell["cell_type"] == "markdown":
            assert wrong("".join(cell["source"]), page=False) == []


def test_pictures_were_made_by_the_versions_of_their_records():
    image = pytest.importorskip("PIL.Image", reason="needs the extra jaxnet-toolkit[data]")
    for _, record in findings():
        for picture in record.pictures:
            with image.open(ROOT / "experiments" / "pictures" / picture.file) as png:
                made = png.info.get("Software", "")
            if picture.file.endswith(".png"):  # a GIF has no such text
                first = re.match(r"jax [\d.]*\d", record.versions)
                assert first and first[0] in made, picture.file


def test_docstrings_state_the_figures_of_the_records():
    for path in SOURCES:
        text = read(path)
        for node in ast.walk(parsed(path)) if "experiments" in text else ():
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                assert wrong(ast.get_docstring(node) or "", page=False) == [], path


def test_docstrings_of_experiments_leave_the_figures_to_the_records():
    for name in {name for name, _ in findings()}:
        path = ROOT / "experiments" / f"{name}.py"
        path = path if path.exists() else path.with_suffix("") / "__init__.py"
        doc = ast.get_docstring(parsed(path)) or ""
        assert not re.search(r"\d ?± ?\d|\+-", doc), path
        own = [record.text for other, record in findings() if other == name]
        prose = re.sub(r"^    .*[=(].*$", "", doc, flags=re.MULTILINE)  # without its code
        assert unknown(prose, own) == [], path


SPEED = "[Speed](experiments/performance.md): "
CAMVID = "[FCN](experiments/results/segmentation.md) "


@pytest.mark.parametrize(("text", "problems"), [
    (f"{CAMVID}has 0.417 ± 0.002, or 0.42, and 76.6%.", []),
    (f"{CAMVID}has 0.417 ± 0.012 and 76.1%.", ["0.417 ± 0.012", "76.1%"]),
    (f"{SPEED}below.\n\n| LeNet | **4.79** | 110 |", []),
    (f"{SPEED}below.\n\n| LeNet | **4.06** | 189 |", ["4.06", "4.06", "189"]),
    ("`python -m experiments.forecast` gives 0.70 and 0.74 ppm.", ["0.74"]),
    (f"- {CAMVID}has 0.42.\n- A rate of 0.7.\n1. {CAMVID}has 0.492.", ["0.492"]),
    ("It has 0.1 ± 0.2.", ["no link to records: It has 0.1 ± 0.2."]),
    ("```\nloss 0.1 ± 0.2\n```\nA rate of 0.1.", []),
])  # fmt: skip
def test_wrong_numbers_are_found(text, problems):
    assert wrong(text) == problems
