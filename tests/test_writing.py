"""The form of what we write: docstrings, spelling, and subjects of commits.

Numbers in prose are compared with their records in test_figures.py and colab/test_numbers.py.
"""

import ast
import inspect
import operator
import re
import subprocess
from collections.abc import Iterator

import pytest

import jaxnet as jn
from tests.helpers import read
from tests.test_api import PARTS, members
from tests.test_architecture import FILES, ROOT, parsed
from tools import words

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
