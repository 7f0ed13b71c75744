"""What we write: docstrings, spelling, subjects of commits, budgets of words, numbers of records.

A paragraph, list item or table that links to a page of results, to the page on performance or to an
experiment states results. Each decimal number and percentage in it must occur in these records,
and so must each number in the cells of a table. On a page, a table without links has those of its
section. This holds for pages, docstrings and lessons.
"""

import ast
import inspect
import operator
import re
import subprocess
from collections.abc import Iterator

import pytest

import jaxnet as jn
from experiments.__main__ import findings
from experiments.benchmarks import figures
from experiments.pages import anchor
from experiments.records import CELL, Record, unknown
from tests.helpers import each, notebook, read
from tests.test_api import PARTS, members
from tests.texts.form import ROOT, library, text_of
from tools import words

FILES = [text.path for text in library()]


def parsed(path):
    return text_of(path).nodes[0]


PAGES = sorted(
    path
    for folder in ("jaxnet", "guide", "colab", "experiments", "docs", "tools")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".md", ".ipynb"} and "runs" not in path.parts
) + [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
# What the beginning of a docstring may not be: it says what to do, as in "Return the mean".
NOT_IMPERATIVE = re.compile(
    r"(?:(?:The|A|An|This|One|Its|As)\b|[a-z-]|\w+s\b(?<!ss)|\w+(?:ed|ing)\b)"
)
SECTION = re.compile(r"( *)(Args|Fields|Raises|[A-Z][\w ;,]*):$")
ENTRY = re.compile(r"( *)(\*{0,2}\w[\w.]*(?:, \*{0,2}\w[\w.]*)*): (.*)")
RAISED = re.compile(r"(?:If|As|In|When|With|At) ")
BRITISH = re.compile(
    r"\w*(?:neighbour|colour|behaviour|favour|centre|cheque|(?<!Sequence )labell)\w*"
    r"|\b(?:modell|travell)(?:ing|ed)\b"
    r"|\b(?:grey|(?:optim|normal|initial|general|regular|recogn|minim|maxim)is(?:e|es|ed|ing))\b",
    re.IGNORECASE,
)
FIRST = "49adf34"  # the commit after which subjects are tested


def entries(docstring: str) -> Iterator[tuple[str, str, str]]:
    """The section, name and text of each entry; a text is its first line."""
    section, depth = "", 0
    for line in docstring.splitlines():
        if head := SECTION.fullmatch(line):
            section, depth = head[2], len(head[1]) + 2
        elif (entry := ENTRY.match(line)) and len(entry[1]) == depth:
            yield section, entry[2], entry[3]
        elif line.strip() and len(line) - len(line.lstrip()) < depth:
            section, depth = "", -1


def wrong_entries(docstring: str) -> list[str]:
    wrong = []
    for section, name, text in entries(docstring):
        if section == "Raises" and not RAISED.match(text):
            wrong.append(f"Raises {name}: {text}")
        elif section in ("Args", "Fields") and re.match(r"[a-z]\w+\b(?! [=@<>])[^_(]", text):
            wrong.append(f"{name}: {text}")
    return wrong


def wrong_beginning(docstring: str) -> bool:
    return bool(NOT_IMPERATIVE.match(docstring))


def wrong_subject(subject: str) -> bool:
    """Whether a subject cannot follow "If applied, this commit will", maybe after an area."""
    return len(subject) > 72 or not re.match(
        r"(?:[A-Z]|[a-z_]+: [a-z])[a-z-]*(?:[a-rt-z]|ss) (?!.*\.$)", subject
    )


def public_functions() -> dict[str, object]:
    return {
        f"{part}.{name}".lstrip("."): value
        for part in PARTS
        for name, value in members(part).items()
        if callable(value) and not isinstance(value, type)
    }


def test_first_line_is_an_imperative():
    for name in public_functions():
        first = inspect.getdoc(operator.attrgetter(name)(jn)).splitlines()[0]
        assert not wrong_beginning(first) and first.endswith((".", ":")), f"{name}: {first}"


def test_docstrings_say_what_is_returned():
    """Plots return a figure, and what makes a layer says so in its first lines."""
    told = {"None", "Layer", "Figure", "Initializer"}
    for name, function in public_functions().items():
        found = inspect.signature(function).return_annotation
        if getattr(found, "__name__", str(found)).rpartition(".")[2] not in told | {"_empty"}:
            doc = inspect.getdoc(function)
            assert re.search(r"^(Returns|Yields):$", doc, re.M), name


def test_entries_of_docstrings():
    for path in FILES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                wrong = wrong_entries(ast.get_docstring(node) or "")
                assert wrong == [], f"{path}: {node.name}"


def test_spelling_is_american():
    for path in PAGES:
        text = re.sub(r'"image/png": "[^"]*"', "", read(path))
        assert BRITISH.findall(text) == [], path


def test_subjects_of_commits():
    command = ["git", "log", "--no-merges", "--format=%s", f"{FIRST}..HEAD"]
    log = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if log.returncode:
        pytest.skip("this is not a clone with the history of the project")
    assert [subject for subject in log.stdout.splitlines() if wrong_subject(subject)] == []


def test_what_is_wrong_is_found():
    doc = "Return x.\n\nArgs:\n  x: the input.\n  y: Of it.\n\nRaises:\n  ValueError: for x.\n"
    assert wrong_entries(doc) == ["x: the input.", "Raises ValueError: for x."]
    fine = "Sum.\n\nArgs:\n  x: x @ y.\n  f: `jn.fit`.\n\nThen\n  z: z.\n"
    assert wrong_entries(fine) == []
    beginnings = ["Returns x.", "The mean.", "log p.", "Given x.", "Pass x.", "Compute x."]
    assert list(map(wrong_beginning, beginnings)) == [True, True, True, False, False, False]
    right = ["Add a layer", "data: add a layer", "Pass a layer"]
    wrong = ["Adds a layer", "add a layer", "data: adds a layer", "Add a layer.", f"Add {'a' * 70}"]
    assert list(map(wrong_subject, right + wrong)) == [False] * 3 + [True] * 5
    assert BRITISH.findall("a gray colour and its neighbours, optimised") == [
        "colour", "neighbours", "optimised"]  # fmt: skip


def test_pages_keep_to_their_budgets():
    """If this fails, cut: `python -m tools.words` prints all pages."""
    found = {name: words.counted(name) for name in words.BUDGETS}
    assert {name: n for name, n in found.items() if n > words.BUDGETS[name]} == {}
    assert 30_000 < sum(found.values()) <= words.ALL
    assert words.unlisted() == []


def test_words_have_letters_or_digits():
    text = '| A **bold** word | --- | `code()` | <img src="a.png" alt="Two words"> | 1.5 |'
    assert words.count(text) == 5


WITH_FIGURES = [
    ROOT / "README.md", ROOT / "experiments" / "performance.md", *ROOT.glob("guide/**/*.md")
]  # fmt: skip
LESSONS = sorted((ROOT / "colab").glob("*.ipynb"))
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


@each(WITH_FIGURES)
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
    for path in FILES:
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
