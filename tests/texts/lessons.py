"""Rules for the notebooks of `colab`, with the sources of the numbers in their prose."""

import ast
import json
import re
import sys
from functools import cache

import pytest

from colab.render import joined, sources_hash
from colab.setup import first_cells, own_extras
from colab.topics import Slip, Topic, lesson, slips, topics, with_tables
from experiments.records import unknown as not_in
from tests.colab.solutions import MARK
from tests.texts.form import ROOT, Text, at, different, files, rule, text_of
from tests.texts.pages import findings
from tests.texts.project import ADDRESS, EXTRAS

NAMED = "IPython jax jaxnet matplotlib numpy optax sacrebleu safetensors sklearn".split()
MAY_IMPORT = {*NAMED, *sys.stdlib_module_names}
CODE_LINES = 20  # per cell, at most; logic belongs to the library
FOLDED_LINES = 45  # of a folded cell, which makes data and nothing that the lesson teaches
# Numbers that a lesson does not compute, by lesson.
ELSEWHERE = {
    "02": "7.29 0.3721",  # the seventh rate; the lowest risk, in an exercise
    "03": "1,797",  # size of a dataset
    "05": "90%",  # digits that the nearest neighbor reads
    "06": "1,797 1.175 49 99.05%",  # size of a dataset; the ink and the record of 1998; positions
    "07": "700 92% 0.63",  # digits at size tiny; arithmetic of the convolutions; a 30th root
    "08": "70",  # a joke of the picture
    "09": "200 200 36 701 0.04",  # 5 * 5 * 8; 6 * 6; size of a dataset; a difference
    "10": "364 72 7.5 7.6 8.5 8.5",  # sizes of a dataset; the ends of curves
    "11": "44% 0.25 0.39",  # groups that never occurred; differences
    "13": "26% 20.7% 18.4% 17.7% 3,000 20 2,500",  # published; datasets and their features
    "16": "0.29",  # differences
    "17": "1,438 75% 896 896",  # size of a dataset; of a paper; an exercise
    "18": "90 1,925 96.25%",  # degrees; the digits behind two roundings
    "22": "135 98 98 0.35 0.71",  # millions; megabytes of a file; of a picture
    "23": "255",  # candidates
}
# Lesson -> the experiment whose records it cites, and the numbers.
MEASURED = {
    "05": ("greedy", "75.8% 79.9%"),
    "06": ("mnist", "99.08 0.07%"),
    "07": ("finetune", "85.1% 90.7%"),
    "09": ("camvid", "0.42"),
    "10": ("bccd", "0.775"),
    "11": ("shakespeare", "2.30"),
    "12": ("translate", "38.46 26.10"),
    "16": ("shakespeare", "2.30"),
}
CITED = {"16": "11"}  # a lesson that compares its results with those of another one
COUNTING = 12  # integers up to this are words of a sentence, such as "the first 5 layers"
NOT_PROSE = re.compile(
    r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)|<[^>]*>"  # code, formulas, addresses
    r"|^\s*\d+\. |^#.*?$|[Ll]essons? [\d, ]+(?:and \d+)?|[Ee]xercise \d+|: \[\d+"  # of items
    r"|\*Time:\*[^*]*|\b(?:1[89]|20)\d\d(?!,\d)s?\b|\w*[A-Za-z]-?\d+\S*",  # years; ResNet-20
    re.DOTALL | re.MULTILINE,
)


@cache
def lessons() -> list[Text]:
    return files("colab/*.ipynb")


def colab_link(text: Text) -> str:
    address = ADDRESS.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{address}/blob/main/colab/{text.path.name}"


@rule(
    lessons,
    ('"GPU"', '"TPU"'),
    ('_minor": 5', '_minor": 4'),
    ('"form"', '"table"'),
    ('": {},\n   "outputs": \\[\n', '": {},\n   "outputs": [],\n   "was": [\n'),
    ('"id": "setup"', '"id": "size"'),
    (r'\s*"# ."tiny[^]]*', ""),
)
def notebooks_have_one_form(text):
    """The set-up is folded, and each cell that shows nothing, but the one that sets the size."""
    about, cells = text.book["metadata"], text.book["cells"]
    folded = {"cellView": "form", "jupyter": {"source_hidden": True}}  # in Colab, in Jupyter
    return different(
        ((text.book["nbformat"], text.book["nbformat_minor"]), (4, 5)),
        (set(about), {"accelerator", "colab", "jaxnet", "kernelspec", "language_info"}),
        (about["accelerator"], "GPU"),  # Colab then starts with one of the free ones
        (about["colab"], {"gpuType": "T4", "provenance": []}),
        (about["kernelspec"]["name"], "python3"),
        (len({cell["id"] for cell in cells}), len(cells)),
        *((cell["metadata"], folded) for cell in cells if is_silent(cell)),
        *((cell["metadata"] in ({}, folded), True) for cell in text.cells("code")),
        *((cell["metadata"], {}) for cell in text.cells("markdown")),
        *((bool("".join(cell["source"]).strip()), True) for cell in cells),
    )


def is_silent(cell: dict) -> bool:
    return cell["id"] == "setup" or (cell["id"] != "size" and cell.get("outputs") == [])


@rule(lessons, ('"cell_type": "markdown"', '"cell_type": "words"'))
def notebooks_are_valid(text):
    nbformat = pytest.importorskip("nbformat")
    try:
        nbformat.validate(nbformat.reads(text.text, as_version=4))
    except nbformat.ValidationError as error:
        yield error


@rule(
    lessons,
    ("import optax", "import optax "),
    ('"execution_count": 2', '"execution_count": 1'),
    ("; size colab", "; size tiny"),
    ('_type": "stream"', '_type": "error"'),
)
def outputs_are_those_of_the_code(text):
    """Else run `python -m colab.render --keep --only` with the notebook's number."""
    code = text.cells("code")
    outputs = [output for cell in code for output in cell["outputs"]]
    return different(
        (text.book["metadata"]["jaxnet"]["sources"], sources_hash(text.book)),
        ([cell["execution_count"] for cell in code], list(range(1, len(code) + 1))),
        ("error" in {output["output_type"] for output in outputs}, False),
        (sum("image/png" in output.get("data", {}) for output in outputs) >= 2, True),
        ("; size colab" in "".join(code[1]["outputs"][0].get("text", "")), True),
        (text.path.stat().st_size < 1_000_000, True),
    )


@rule(lessons, ('"cover": "cell-29"', '"cover": "cell-24"'), ('"cover": ', '"first": '))
def the_cover_is_a_cell_with_a_picture(text):
    named = text.book["metadata"]["jaxnet"].get("cover")
    shown = [o for cell in text.cells("code") if cell["id"] == named for o in cell["outputs"]]
    found = any("image/png" in output.get("data", {}) for output in shown)
    return [] if found else [named]


TWO_BLOCKS = [{"output_type": "stream", "name": "stdout", "text": row} for row in ("head", "row")]


@rule(lessons, json.dumps({"cells": [{"cell_type": "code", "outputs": TWO_BLOCKS}]}))
def texts_that_follow_each_other_are_one(text):
    """Else a page shows a table as several blocks."""
    outputs = [cell["outputs"] for cell in text.cells("code")]
    return [o for o in outputs if joined(o) != o]


@rule(lessons, ("SIZE = ", "SIZE: str = "), ('"# ', '"'), (r"\*Time:", ""), ("main/guide/", ""))
def lessons_begin_like_all_others(text):
    """Else run `python -m colab.setup`."""
    extras = own_extras(text.path)
    title = text.sources("markdown")[0]
    words = ("# ", "*Prerequisites:* ", "*Time:* ", f"{ADDRESS}/blob/main/guide/")
    yield from different((tuple(text.sources("code")[:2]), first_cells(text.path, extras)))
    yield from {*extras, "cuda12", "tpu"} - EXTRAS.keys()
    yield from (word for word in words if word not in title)
    yield from [title] if title[0] != "#" else []


@rule(lessons, (r"Open in Colab", "Open"), (r"next: \[2\. ", "next: ["))
def titles_link_to_colab_and_to_the_neighbors(text):
    place = [other.path for other in lessons()].index(text.path)
    links = [f"[Open in Colab]({colab_link(text)})"]
    for word, i in (("previous", place - 1), ("next", place + 1)):
        if 0 <= i < len(lessons()):
            heading = lessons()[i].sources("markdown")[0].partition("\n")[0].removeprefix("# ")
            links.append(f"{word}: [{heading}]({lessons()[i].path.name})")
    title = text.sources("markdown")[0]
    return [] if title.endswith("\n\n" + " ·\n".join(links)) else [links]


@rule(lessons, ("## Exercises", "## A"), ("## Solutions", "## A"), (r'"4\. Remove', '"Remove'))
def lessons_end_with_exercises_and_their_solutions(text):
    *_, exercises, solutions = text.sources("markdown")
    asked, answered = (re.findall(r"^(\d)\. ", end, re.M) for end in (exercises, solutions))
    return different(
        ("## Exercises\n" in exercises, True),
        (solutions.startswith("## Solutions\n\n<details>"), True),
        *((numbers, [str(n + 1) for n in range(len(asked))]) for numbers in (asked, answered)),
    )


ONE_CELL = '{"cells": [{"cell_type": "code", "metadata": {}, "source": "assert 1 < 2"}]}'


@rule(lessons, ("import optax", "import torch"), ('"import optax', r'"x\\n",' * 21 + '"'), ONE_CELL)
def lessons_are_thin(text):
    code = text.sources("code")
    yield from different((len(text.sources("markdown")) >= len(code) / 2, True))
    cells = text.cells("code")
    for source, cell in ((code[i], cells[i]) for i in range(len(code)) if i != 1):  # the set-up
        lines = [line for line in source.splitlines() if line.strip() and line.strip()[0] != "#"]
        yield from lines[FOLDED_LINES if cell["metadata"] else CODE_LINES :]
    modules = [name for node in text.code if isinstance(node, ast.Import) for name in node.names]
    names = [module.name for module in modules]
    names += [node.module or "" for node in text.code if isinstance(node, ast.ImportFrom)]
    yield from {name.split(".")[0] for name in names} - MAY_IMPORT


@rule(lessons, ONE_CELL)
def asserts_are_bounded_on_both_sides(text):
    tests = [node.test for node in text.code if isinstance(node, ast.Assert)]
    return [] if any(len(getattr(test, "ops", [])) == 2 for test in tests) else ["no such assert"]


@rule("colab/README.md", (r"https://colab\S*", ""), (r"$", colab_link(Text(ROOT / "x"))))
def the_readme_opens_each_lesson_once(readme):
    opened = re.findall(r"https://colab\.research\.google\.com/[^\s)]*", readme.text)
    return different((sorted(opened), [colab_link(text) for text in lessons()]))


@rule(
    lambda: [Text(ROOT / "colab", "\n".join(text.path.name for text in lessons()))], ("02_", "0_")
)
def numbers_of_lessons_have_no_gap(folder):
    names = folder.text.splitlines()
    return different(*((name[:3], f"{i:02d}_") for i, name in enumerate(names, 1)))


def numbers(text: str) -> list[tuple[str, float, int]]:
    """The numbers of a text: as written, their values and their decimals."""
    return [
        (match.group(), float(match[1].replace(",", "")), len(match[2] or ""))
        for match in re.finditer(r"(\d+(?:,\d{3})*(?:\.(\d+))?)%?", text)
    ]


@cache
def numbers_of(text: Text) -> set[float]:
    """The numbers that a lesson prints, displays or has in its code, but for its exercises."""
    cells = [cell for cell in text.cells("code") if MARK not in "".join(cell["source"])]
    outputs = [output for cell in cells for output in cell["outputs"]]
    shown = ["".join(out.get("text") or out["data"]["text/plain"]) for out in outputs]
    code = [node for cell in cells for node in ast.walk(ast.parse("".join(cell["source"])))]
    values = [node.value for node in code if isinstance(node, ast.Constant)]
    shown += [value for value in values if isinstance(value, str)]
    found = {float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)}
    return found | {value for text in shown for _, value, _ in numbers(text)}


def unknown(prose: str, known: set[float]) -> list[str]:
    """The numbers of a text that are none of the known ones, rounded or as a percentage."""
    missing = []
    for word, value, decimals in numbers(NOT_PROSE.sub(" ", prose)):
        percent = word.endswith("%")
        small = not percent and decimals == 0 and value <= COUNTING
        factors = (1, 100) if percent else (1,)
        if not small and not any(round(k * f, decimals) == value for k in known for f in factors):
            missing.append(word)
    return missing


def saying(prose: str) -> Text:
    """A lesson with this text, the number 10,000 in its code and two numbers in its output."""
    code = {"source": "x = 10_000", "outputs": [{"text": "0.9503 and 1.972"}]}
    cells = [{"cell_type": "markdown", "source": text} for text in (prose, "Solutions")]
    return at("colab/00.ipynb", json.dumps({"cells": [{"cell_type": "code", **code}, *cells]}))


@rule(
    lessons,
    *map(saying, ("94%", "1.98 bits", "3%", "20,000 digits")),
    fine=(saying("In lesson 14, 3 of 10,000; 95% or 95.0%; 1.97 bits (Li 2017)."),),
)
def numbers_in_prose_have_a_source(text):
    """Solutions are left out: no cell of the lesson runs them."""
    number = text.path.name[:2]
    own = numbers_of(text).union(
        *(numbers_of(t) for t in lessons() if t.path.name[:2] == CITED.get(number))
    )
    missing = unknown("\n\n".join(text.sources("markdown")[:-1]), own)
    listed = f"{ELSEWHERE.get(number, '')} {MEASURED.get(number, ('', ''))[1]}".split()
    return different((sorted(missing), sorted(listed)))


@rule(lambda: [at(name, numbers) for name, numbers in MEASURED.values()], "99.99%")
def numbers_of_experiments_are_those_of_the_records(cited):
    return not_in(cited.text, [record.text for name, record in findings() if name == str(cited)])


def topics_and_slips(cells: str) -> str:
    """A file of one topic and one slip, whose cells are these."""
    return f'{{"topics": [["1", "a", {cells}]], "slips": [["1 + 1 = 3", "2", {cells}]]}}'


@rule(
    "colab/topics.json",
    *map(topics_and_slips, ('[["01", "no such code"]]', "[]", '[["01", "import os"]]')),
)
def each_topic_and_slip_of_the_lectures_is_a_cell_with_an_output(text):
    book = json.loads(text.text)
    rows = [Topic(*row) for row in book["topics"]] + [Slip(*row) for row in book["slips"]]
    yield from different((len({row[1] for row in rows}), len(rows)), (len(rows) >= 59, True))
    for row in rows:
        yield from [row[1]] if not row.cells else []
        for number, code in row.cells:
            cells = text_of(lesson(number)).cells("code")
            found = [cell["outputs"] for cell in cells if code in "".join(cell["source"])]
            yield from [code] if len(found) != 1 or not found[0] else []


@rule("colab/topics.md", (r"\n\|.*", ""), ("34,944 \\|", "134,944 |"))
def the_page_has_all_topics_and_slips(page):
    """If this fails: python -m colab.topics."""
    return different((with_tables(page.text, topics(), slips()), page.text))
